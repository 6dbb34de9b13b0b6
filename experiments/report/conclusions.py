"""Verdicts on the paper's observations, from the findings of finished runs.

A finding is one observation measured in one setting, as a run's results.json holds it
(`bspec_jax.analysis.observations.findings`); `verdict` sums up those of an observation.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bspec_jax.analysis.verdicts import OBSERVATIONS, ONE, UNTESTED, VERDICTS
from bspec_jax.analysis.verdicts import verdict as in_words
from experiments.report.finished import FinishedRun

LEVELS = ("toy", "classifier", "generator")
EVERY_LEVEL = 8  # the observation that 1 to 7 hold at every level
CLAIMS = {
    **{number: observation.claim for number, observation in OBSERVATIONS.items()},
    EVERY_LEVEL: "all of this at every level of complexity",
}
ORDER = (*range(1, 9), "section8")
HOLDS, FAILS, UNDECIDED = (VERDICTS[holds] for holds in (True, False, None))
KINDS = (HOLDS, FAILS, UNDECIDED, UNTESTED, ONE)  # of a verdict in one setting
UNDER_CONDITIONS = "holds under conditions"
NO_VERDICT = "no verdict"
NOT_MEASURED = "not measured"
# Of a level at which several of these apply, the first; see `verdict_at`.
RANKS = (FAILS, UNDECIDED, HOLDS, UNTESTED, NO_VERDICT, NOT_MEASURED)


class Finding(NamedTuple):
    """An observation measured in one setting.

    run: name of the run.
    record: of `observations.evaluate` as JSON; null where undefined.
    """

    observation: int | str
    level: str
    setting: str
    run: str
    record: Mapping

    @property
    def kind(self) -> str:
        """The verdict of this setting alone, one of `KINDS`."""
        return in_words(self.record)


def findings(run: FinishedRun) -> list[Finding]:
    """The findings of a run; some experiments have none."""
    return [_finding(run.name, **saved) for saved in run.results.get("findings", ())]


def _finding(run, observation, level, setting, **record):
    return Finding(observation, level, setting, run, record)


class Verdict(NamedTuple):
    """A verdict on an observation.

    why: the settings that it rests on.
    """

    text: str
    why: str


def verdict(number: int | str, found: Sequence[Finding]) -> Verdict:
    """`holds`, `holds under conditions`, `does not hold`, `undecided`, `not measured`.

    An observation holds if it does in every setting, and holds under conditions if it
    does in some. It is undecided if no setting decides it. Single networks, and those
    outside the paper's regime, decide nothing: they are named, and do not count.

    Args:
      number: of an observation that is measured in a setting, so not of `EVERY_LEVEL`.
      found: findings of any observations; only those of `number` count.
    """
    found = [f for f in found if f.observation == number]
    if not found:
        return Verdict(NOT_MEASURED, "no run measures it")
    by_kind = {kind: [f for f in found if f.kind == kind] for kind in KINDS}
    present = {kind: _listed(these) for kind, these in by_kind.items() if these}
    text = next(iter(present))
    if text == HOLDS and present.keys() & {FAILS, UNDECIDED}:
        text = UNDER_CONDITIONS
    if list(present) == [text] and text != ONE:
        return Verdict(text, f"in {present[text]}")
    why = (f"{kind}: {where}" for kind, where in present.items())
    return Verdict(NO_VERDICT if text == ONE else text, "; ".join(why))


def conclusions(found: Sequence[Finding]) -> dict[int | str, dict]:
    """Claim, verdict, its reason and the findings by level, for each observation.

    Observation 8 has a verdict for each level, `levels`, and none of its own.
    """
    found = sorted(found, key=lambda f: LEVELS.index(f.level))
    concluded = {}
    for key in ORDER:
        if key == EVERY_LEVEL:
            levels = {level: _as_json(verdict_at(level, found)) for level in LEVELS}
            concluded[key] = {"claim": CLAIMS[key], "levels": levels, "findings": []}
            continue
        concluded[key] = {
            "claim": CLAIMS[key],
            **_as_json(verdict(key, found)),
            "findings": [f for f in found if f.observation == key],
        }
    return concluded


def _as_json(verdict: Verdict) -> dict[str, str]:
    return {"verdict": verdict.text, "why": verdict.why}


def verdict_at(level: str, found: Sequence[Finding]) -> Verdict:
    """Observation 8 at one level: whether 1 to 7 hold there.

    It does not hold if one of them fails in a setting, and holds if all do in every. It
    is undecided if some hold.
    """
    found = [f for f in found if f.level == level]
    numbers = {}
    for number in range(1, EVERY_LEVEL):
        kinds = {f.kind for f in found if f.observation == number}
        text = FAILS if FAILS in kinds else verdict(number, found).text
        numbers.setdefault(text, []).append(str(number))
    why = "; ".join(f"{text}: {', '.join(these)}" for text, these in numbers.items())
    partly = UNDER_CONDITIONS in numbers or (HOLDS in numbers and len(numbers) > 1)
    reached = {*numbers, UNDECIDED} if partly else numbers
    return Verdict(next(rank for rank in RANKS if rank in reached), why)


def verdicts(
    concluded: Mapping[int | str, Mapping],
) -> Iterator[tuple[int | str, str, Mapping]]:
    """Observation, level and verdict: one without a level, or one for each level."""
    for key, conclusion in concluded.items():
        for level, found in conclusion.get("levels", {"": conclusion}).items():
            yield key, level, found


def _listed(found):
    settings = {}
    for finding in found:
        settings.setdefault(finding.level, []).append(finding.setting)
    return _grouped(settings, " and ")  # a setting contains commas


def _grouped(by_level, between=", "):
    return "; ".join(
        f"{level} ({between.join(items)})" for level, items in by_level.items()
    )
