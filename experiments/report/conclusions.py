"""Verdicts on the paper's observations, from the findings of finished runs.

A finding is one observation measured in one setting, as a run's results.json holds it
(`bspec_jax.analysis.observations.findings`); `verdict` sums up those of an observation.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bspec_jax.analysis.observations import OBSERVATIONS
from experiments.report.finished import FinishedRun

LEVELS = ("toy", "classifier", "generator")
EVERY_LEVEL = 8  # the observation that 1 to 7 hold at every level
CLAIMS = {
    **{number: observation.claim for number, observation in OBSERVATIONS.items()},
    EVERY_LEVEL: "all of this at every level of complexity",
}
ORDER = (*range(1, 9), "section8")


class Finding(NamedTuple):
    """An observation measured in one setting.

    run: name of the run.
    record: of `observations.evaluate` as JSON, with `branches`, `value`, `interval`,
        `initial`, `control` and `holds`; null where undefined.
    """

    observation: int | str
    level: str
    setting: str
    run: str
    record: Mapping

    @property
    def of_one(self) -> bool:
        """Whether it is of a single network, and no share: without any interval."""
        bounds = self.record.get("interval") or (None,)
        return self.record["holds"] is None and set(bounds) == {None}


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
    does in some. It is undecided if no setting decides it. Single networks decide
    nothing: they are named, and do not count.

    Args:
      found: findings of any observations; only those of `number` count.
    """
    if number == EVERY_LEVEL:
        return _verdict_on_every_level(found)
    everything = [f for f in found if f.observation == number]
    if not everything:
        return Verdict("not measured", "no run measures it")
    single = [f for f in everything if f.of_one]
    measured = [f for f in everything if not f.of_one]
    if not measured:
        return Verdict("no verdict", f"single networks: {_listed(single)}")
    if single:
        text, why = verdict(number, measured)
        return Verdict(text, f"{why}; single networks: {_listed(single)}")
    where = {
        holds: [f for f in measured if f.record["holds"] is holds]
        for holds in (True, False, None)
    }
    undecided = f"; undecided: {_listed(where[None])}" if where[None] else ""
    if where[True] and not where[False] and not where[None]:
        return Verdict("holds", f"in {_listed(where[True])}")
    if where[True]:
        but = f"; not: {_listed(where[False])}" if where[False] else ""
        return Verdict(
            "holds under conditions", f"in {_listed(where[True])}{but}{undecided}"
        )
    if where[False]:
        return Verdict("does not hold", f"in {_listed(where[False])}{undecided}")
    return Verdict("undecided", f"in {_listed(where[None])}")


def conclusions(found: Sequence[Finding]) -> dict[int | str, dict]:
    """Claim, verdict, its reason and the findings by level, for each observation."""
    found = sorted(found, key=lambda f: LEVELS.index(f.level))
    concluded = {}
    for key in ORDER:
        text, why = verdict(key, found)
        concluded[key] = {
            "claim": CLAIMS[key],
            "verdict": text,
            "why": why,
            "findings": [f for f in found if f.observation == key],
        }
    return concluded


def _verdict_on_every_level(found):
    """Observation 8: 1 to 7 at each of the three levels."""
    failing, missing = {}, {}
    for level in LEVELS:
        for number in range(1, EVERY_LEVEL):
            holds = [
                f.record["holds"]
                for f in found
                if (f.level, f.observation) == (level, number)
            ]
            if False in holds:
                failing.setdefault(level, []).append(str(number))
            elif not holds or None in holds:
                missing.setdefault(level, []).append(str(number))
    undecided = f"; undecided or not measured: {_grouped(missing)}" if missing else ""
    if failing:
        return Verdict("does not hold", f"fails: {_grouped(failing)}{undecided}")
    if not any(f.observation in range(1, EVERY_LEVEL) for f in found):
        return Verdict("not measured", "no run measures it")
    if missing:
        return Verdict("undecided", undecided.removeprefix("; "))
    return Verdict("holds", "at all three levels")


def _listed(found):
    settings = {}
    for finding in found:
        settings.setdefault(finding.level, []).append(finding.setting)
    return _grouped(settings, " and ")  # a setting contains commas


def _grouped(by_level, between=", "):
    return "; ".join(
        f"{level} ({between.join(items)})" for level, items in by_level.items()
    )
