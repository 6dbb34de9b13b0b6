"""What finished runs say of the paper's observations.

A finding is one measure in one setting; `verdict` sums up those of an observation.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bspec_jax.analysis import specialization as sp
from bspec_jax.analysis.observations import (
    OBSERVATIONS,
    average,
    evaluate,
    evaluate_hessian,
)
from bspec_jax.figures import TASK_TITLES
from bspec_jax.storage.files import to_json
from experiments.report_runs import Run

LEVELS = ("toy", "classifier", "generator")
EVERY_LEVEL = 8  # the observation that the others hold at every level
CLAIMS = {
    **{number: one.claim for number, one in OBSERVATIONS.items()},
    EVERY_LEVEL: "all of this at every level of complexity",
}
ORDER = (*range(1, 9), "section8")
VANISHED = 1e-2  # of the gradient's factors, relative to the start


class Finding(NamedTuple):
    """An observation as measured in one setting.

    record: of `observations.evaluate`, from results.json: `value`, `interval`,
        `initial`, `control`, `threshold`, `holds`; null where undefined.
    """

    observation: int | str
    level: str
    setting: str
    run: str
    record: Mapping


def findings(run: Run) -> list[Finding]:
    """All that a run says of the observations."""
    return [
        Finding(_number(key), level, setting, run.name, to_json(record))
        for level, setting, observations in SAID_BY.get(run.experiment, _nothing)(run)
        for key, record in observations.items()
        if not _of_one_size(record)
    ]


def _of_one_size(record):
    """Whether this is growth with M in a run that has one M only."""
    branches = record.get("branches")
    return isinstance(branches, list) and len(set(branches)) == 1


def _nothing(run):
    return ()


def _number(key):
    return key if key == "section8" else int(key)


def _toys(run):
    for task, found in run.results["tasks"].items():
        if "observations" in found:  # a phase diagram has none
            yield "toy", _toy(run, task, found), found["observations"]


def _toy(run, task, found):
    """The setting of a toy: what the toys' phase diagram varies, and the trials."""
    c = run.results["config"]
    return (
        f"{TASK_TITLES[task]}, step {c['learning_rate']:g}, slope "
        f"{c['negative_slope']:g}, {c['init']} init of scale {c['init_scale']:g}, "
        f"x {found['trials']}"
    )


def _hessians(run):
    if run.results["config"]["checkpoint"]:
        yield from _hessian_of_classifier(run)
        return
    for task, found in run.results["tasks"].items():
        yield "toy", _toy(run, task, found), found["observations"]


def _hessian_of_classifier(run):
    """Of one network, so that no interval is finite."""
    results = run.results
    for found in results["tasks"].values():
        stages = [_stage_means(stage) for stage in found["stages"]]
        if stages and found["stages"][0]["step"] == 0:
            observations = evaluate_hessian(
                [results["branches"]], stages[-1], stages[0]
            )
            clamp = found["clamp"].replace("none", "no")
            setting = f"M = {results['branches']}, {clamp} clamp, x 1"
            yield "classifier", setting, observations


def _stage_means(stage):
    values = {
        name: stage[name]
        for name in ("offdiagonal_ratio", "control_ratio", "ratio_to_control")
    }
    factors = stage["factors"]
    index = factors["thresholds"].index(VANISHED)
    values["vanishing_difference"] = (
        factors["distributive"][index] - factors["collaborative"][index]
    )
    unbounded = [[-math.inf, math.inf]]
    return {
        name: {"mean": [math.nan if v is None else v], "interval": unbounded}
        for name, v in values.items()
    }


def _classifier(run):
    sweep, config = run.results["sweep"], run.results["config"]
    size = f"{config['image_size']} px" if config["image_size"] else "full size"
    setting = (
        f"{config['dataset']}, {size}, "
        f"{config['train_examples'] or 'all'} images, {config['epochs']} epochs, "
        f"M = {sweep['branches'][-1]}, x {sweep['repeats']}"
    )
    yield "classifier", setting, run.results["observations"]


def _generator(run):
    if not run.results["part_scores"]:
        return  # observations need regions, which are the parts of the faces
    config = run.results["config"]
    kind = f"{config['dataset']} with {config['residual']} R"
    setting = f"{kind}, M = {config['branches']}, x 1"
    yield "generator", setting, of_generator(run.results)


SAID_BY = {
    "toy": _toys,
    "hessian": _hessians,
    "classify": _classifier,
    "class_transfer": _generator,
}


def of_generator(results: Mapping) -> dict[int, dict]:
    """Observations 1 to 6 of one class-transfer generator; a region is a part.

    From what results.json holds: the covariance of the components, and how the energy
    of each is spread over the parts. There is no control, and a single network has no
    interval, so that no verdict is decided by it.
    """
    undefined = sp.Specialization(*[math.nan] * len(sp.Specialization._fields))
    measured = {
        "converged": _measured(results),
        "initial": _measured(results["initial"]),
        "control": undefined,
    }
    stages = {
        stage: average(sp.Specialization(*(np.array([[leaf]]) for leaf in one)))
        for stage, one in measured.items()  # of one M, one network
    }
    return evaluate([len(results["norms"])], **stages, success_interval=[[0, 1]])


def _measured(found) -> sp.Specialization:
    covariance = np.asarray(found["covariance"])
    # Responses of the same covariance, one number for each branch and direction.
    values, vectors = np.linalg.eigh(covariance)
    responses = vectors * np.sqrt(np.maximum(values, 0))
    spread = np.array([part["mean"] for part in found["part_scores"].values()]).T
    energy = np.asarray(found["norms"])[:, None] ** 2 * spread
    return sp.measure(responses.astype(np.float32), energy=energy.astype(np.float32))


class Verdict(NamedTuple):
    """Of an observation: what to say, and the settings it is said of."""

    text: str
    why: str


def verdict(number: int | str, found: Sequence[Finding]) -> Verdict:
    """`holds`, `holds under conditions`, `does not hold`, `undecided`, `not measured`.

    It holds where it does in every setting; under conditions where in some. It is
    undecided where no setting decides it.
    """
    if number == EVERY_LEVEL:
        return _at_every_level(found)
    mine = [one for one in found if one.observation == number]
    if not mine:
        return Verdict("not measured", "no run measures it")
    where = {
        holds: [one for one in mine if one.record["holds"] is holds]
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
    """What is said of each observation, and the findings behind it, by level."""
    found = sorted(found, key=lambda one: LEVELS.index(one.level))
    said = {}
    for key in ORDER:
        text, why = verdict(key, found)
        mine = [one for one in found if one.observation == key]
        said[key] = {
            "claim": CLAIMS[key],
            "verdict": text,
            "why": why,
            "findings": mine,
        }
    return said


def _at_every_level(found):
    """Observation 8: 1 to 7 at each of the three levels."""
    failing, missing = {}, {}
    for level in LEVELS:
        for number in range(1, EVERY_LEVEL):
            holds = [
                one.record["holds"]
                for one in found
                if (one.level, one.observation) == (level, number)
            ]
            if False in holds:
                failing.setdefault(level, []).append(str(number))
            elif not holds or None in holds:
                missing.setdefault(level, []).append(str(number))
    undecided = f"; undecided or not measured: {_grouped(missing)}" if missing else ""
    if failing:
        return Verdict("does not hold", f"fails: {_grouped(failing)}{undecided}")
    if not any(one.observation in range(1, EVERY_LEVEL) for one in found):
        return Verdict("not measured", "no run measures it")
    if missing:
        return Verdict("undecided", undecided.removeprefix("; "))
    return Verdict("holds", "at all three levels")


def _listed(found):
    settings = {}
    for one in found:
        settings.setdefault(one.level, []).append(one.setting)
    return _grouped(settings, " and ")  # commas are within


def _grouped(by_level, between=", "):
    return "; ".join(f"{level} ({between.join(of)})" for level, of in by_level.items())
