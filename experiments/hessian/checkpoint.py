"""The Hessian of a trained classifier: Figure 5, panels 3 and 4.

The exact Hessian of the summed loss with respect to the chosen leaves of all branches
(by default their first layer), over training examples without augmentation, at
initialisation, half-way and at the checkpoint. Each is taken with the clamp of the
training and without any, because saturated outputs have no curvature under the hard
clamp. The control has the Jacobians of the run's separately trained branches. Of each
branch, besides, the extreme eigenvalues of its own block over all its parameters.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bspec_jax import classifier, data, runs
from bspec_jax.analysis import hessian, observations
from bspec_jax.analysis.hessian_measures import (
    block_measures,
    step_effect,
)
from bspec_jax.analysis.objective import Objective
from bspec_jax.analysis.specialization import activity
from bspec_jax.analysis.vanishing import THRESHOLDS, VANISHED, FactorScales
from bspec_jax.analysis.verdicts import missing_regime
from bspec_jax.classifier import branches, curvature, stability
from bspec_jax.data.identity import hash_array
from bspec_jax.storage import checkpoints, files
from bspec_jax.storage.errors import UserError
from bspec_jax.trees import select_leaves
from experiments.tables import branch_in_words

EXAMPLES = 128
CHUNK = 32  # examples at a time
MOST_PARAMETERS = 8192  # of all branches: 0.25 GiB
HESSIANS = "hessians.npz"


class Case(NamedTuple):
    """A trained classifier, and the parameters of its Hessian.

    path: of its checkpoint.
    leaves: paths or patterns.
    num_parameters: in all branches.
    num_examples: of the training data, in the loss.
    """

    path: Path
    trained: classifier.Classifier
    leaves: tuple[str, ...]
    num_parameters: int
    dataset: data.Dataset
    num_examples: int


def prepare(
    path: Path,
    leaves: tuple[str, ...] | None = None,
    num_examples: int | None = None,
) -> Case:
    """Reads the checkpoint and the data that it was trained on.

    Args:
      leaves: paths or patterns. Default: the first layer.
      num_examples: in the loss. Default: `EXAMPLES`, or all if there are fewer.

    Raises:
      UserError: if there is no such checkpoint, its data are missing or have changed,
        no leaf has that name, or the leaves or the examples are too many.
    """
    trained = classifier.load(path)
    leaves = tuple(leaves or curvature.FIRST_LAYER)
    try:
        chosen, _ = select_leaves(trained.params, leaves)
    except ValueError as error:
        raise runs.FlagError(f"--leaves: {error}") from None
    size = sum(leaf.size for leaf in jax.tree.leaves(chosen))
    if size > MOST_PARAMETERS:
        raise runs.FlagError(
            f"--leaves chooses {size:,} parameters in all branches, and the Hessian "
            f"takes at most {MOST_PARAMETERS:,}: choose fewer"
        )
    if trained.spec.data is None:
        raise UserError(f"{path} does not name the data that it was trained on")
    _check_memory(trained, size, num_examples or EXAMPLES)
    dataset = data.load(**trained.spec.data)
    runs.check_trained_on(path, classifier.MAIN, dataset.identity)
    available = len(dataset.train.labels)
    if num_examples is not None and num_examples > available:
        raise runs.FlagError(
            f"--examples must be at most {available:,}, the number of training "
            f"examples, got {num_examples:,}"
        )
    count = num_examples or min(EXAMPLES, available)
    return Case(path, trained, leaves, size, dataset, count)


def _check_memory(trained: classifier.Classifier, size: int, num_examples: int):
    """Raises FlagError if the Hessians, or the examples as floats, do not fit."""
    hessians = 4 * 2 * 4 * size**2  # three stages, a control, two clamps, float32
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    lanczos = 4 * stability.PRODUCTS * parameters
    images = 3 * 4 * num_examples * math.prod(trained.spec.image_shape)
    runs.check_memory(
        hessians + lanczos + images,
        f"Hessians of {size:,} parameters over {num_examples:,} examples",
        "use fewer --leaves or --examples",
    )


def measure(workdir: Path, case: Case) -> dict[str, Any]:
    """What results.json holds of a classifier's checkpoint.

    Finished Hessians stay in the run's folder until the run ends; hessians.npz keeps
    all of them.
    """
    train, spec = case.dataset.train, case.trained.spec
    images, labels = (x[: case.num_examples] for x in (train.images, train.labels))
    clamps = tuple(dict.fromkeys((spec.clamp, "none")))

    def objectives(stage):
        return curvature.objectives(case.trained, stage, images, labels, clamps)

    stages = curvature.stages(case.path, case.trained, train.images)
    control = curvature.control_stage(case.path, case.trained)
    hessians, tasks = {}, {}
    for clamp in clamps:
        store = Store(workdir, clamp, case.leaves, hessians)
        of_stages = [objectives(stage)[clamp] for stage in stages]
        records, scales = [], None
        for stage, objective in zip(stages, of_stages, strict=True):
            record, scales = measure_stage(store, objective, stage, scales)
            records.append(record)
        task = {"clamp": clamp, "stages": records, "control": None}
        if control and stages[-1].step:
            last, apart = of_stages[-1], objectives(control)[clamp]
            objective = curvature.control_objective(
                last, stages[-1].params, apart, control.params
            )
            task["control"] = measure_control(store, objective, control)
        name = "classify" if clamp == spec.clamp else "classify_unclamped"
        tasks[name] = task
    files.save_arrays(workdir / HESSIANS, hessians)
    budget = saved_budget(case.path)
    return {
        "branches": spec.branches,
        "decay_budget": budget,
        "parameters": case.num_parameters,
        "leaves": case.leaves,
        "examples": case.num_examples,
        "tasks": tasks,
        "findings": findings(spec, budget, tasks),
    }


class Store(NamedTuple):
    """Exact Hessians of one clamp: where they are kept, and of which parameters.

    hessians: all so far, by their name in hessians.npz.
    """

    workdir: Path
    clamp: str
    leaves: tuple[str, ...]
    hessians: dict[str, np.ndarray]


def measure_stage(
    store: Store,
    objective: Objective,
    stage: curvature.Stage,
    scales: FactorScales | None,
) -> tuple[dict[str, Any], FactorScales | None]:
    """The record of a stage, and the scales of the factors at the start, if known."""
    step, params = stage.step, stage.params
    name, h = exact_hessian(store, f"{step}", f"at step {step}", objective, stage)
    active = activity(curvature.responses(objective, params), rule="centred")
    factors = None
    if scales or not step:  # shares are relative to the start
        factors = curvature.factors(objective, params, store.leaves, scales)
        scales = factors.scales
    record = {
        "step": step,
        "hessian": name,
        "active_centred": active.sum(),
        **block_measures(h, active),
        "step_effect": step_effect(
            h, curvature.gradient(objective, params, store.leaves), active
        ),
        "branches": stability.branch_stability(
            objective, params, jax.random.key(0)
        )._asdict(),
        "factors": factors
        and {
            "thresholds": THRESHOLDS,
            **factors.shares._asdict(),
            "collaborative": factors.collaborative,
        },
    }
    return record, scales


def measure_control(
    store: Store, objective: Objective, stage: curvature.Stage
) -> dict[str, Any]:
    """The record of the separately trained branches."""
    name, h = exact_hessian(store, "control", "of the control", objective, stage)
    active = activity(curvature.responses(objective, stage.params), rule="centred")
    return {
        "hessian": name,
        "active_centred": active.sum(),
        **block_measures(h, active),
    }


def exact_hessian(
    store: Store, name: str, what: str, objective: Objective, stage: curvature.Stage
) -> tuple[str, np.ndarray]:
    """The name and the exact Hessian `[M, P, M, P]`, read if it was computed before."""
    name = f"{store.clamp}_{name}"
    # Never that of another network, which has taken the checkpoint's place.
    path = store.workdir / runs.UNFINISHED / f"{name}_{_digest(objective, stage)}.npz"
    if path.exists():
        h = files.load_arrays(path, {"hessian": None})["hessian"]
    else:
        what = f"Hessian {what}, clamp {store.clamp}"
        with runs.progress_bar(objective.num_examples, what, "image") as advance:
            blocks = hessian.blocks(
                objective,
                stage.params,
                leaves=store.leaves,
                chunk_size=CHUNK,
                progress=advance,
            )
        path.parent.mkdir(exist_ok=True)
        h = np.asarray(blocks.full())
        files.save_arrays(path, {"hessian": h})
    store.hessians[name] = h
    return name, h


def _digest(objective: Objective, stage: curvature.Stage) -> str:
    """Of parameters, statistics, and targets, which a control has from the network."""
    leaves = (stage.params, stage.batch_stats, objective.targets)
    flat = [np.ravel(leaf).astype(np.float32) for leaf in jax.tree.leaves(leaves)]
    return hash_array(np.concatenate(flat))


def saved_budget(path: Path) -> float | None:
    """The decay budget of a checkpoint's run; None if its results are not there."""
    folder, _ = checkpoints.find(path, classifier.MAIN)
    path = folder.parent.parent / "results.json"
    if not path.exists():
        return None
    return files.read_json(path, "results").get("decay_budget")


def findings(
    spec: classifier.ClassifierSpec,
    decay_budget: float | None,
    tasks: Mapping[str, Mapping],
) -> list[dict]:
    """Observation 7 and section 8 for each clamp; none without the initial stage."""
    found = []
    layers = branches.depth(spec.branch, spec.widths)
    regime = missing_regime(decay_budget, layers)
    for task in tasks.values():
        if task["stages"][0]["step"] != 0:
            continue
        clamp = task["clamp"].replace("none", "no")
        setting = f"{_network(spec, decay_budget)}, {clamp} clamp, x 1"
        records = curvature.observe(spec.branches, _numbers(task), regime)
        found += observations.findings("classifier", setting, records)
    return found


def _network(spec: classifier.ClassifierSpec, decay_budget: float | None) -> str:
    """Data, branch, training and M, in words."""
    branch = branch_in_words(spec.branch, spec.widths, spec.normalisation)
    budget = "unknown" if decay_budget is None else f"{decay_budget:.3g}"
    return (
        f"{spec.data['dataset']}, {spec.image_shape[0]} px, {branch}, "
        f"decay budget {budget}, M = {spec.branches}"
    )


def _numbers(task: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What `curvature.observe` takes."""
    first, last = (task["stages"][i] for i in (0, -1))
    at = THRESHOLDS.index(VANISHED)
    share, gradient, orthogonal = (
        last["factors"][name][at] for name in ("distributive", "gradient", "orthogonal")
    )
    index = "block_index"
    return {
        "converged": {
            index: last[index],
            "step_effect": last["step_effect"],
            "vanishing_distributive": share - first["factors"]["distributive"][at],
            "vanishing_share": share,
            "vanishing_gradient": gradient,
            "orthogonal": orthogonal,
        },
        "initial": {index: first[index], "vanishing_distributive": 0.0},
        "control": {index: task["control"] and task["control"][index]},
    }
