"""The Hessian of a trained classifier: Figure 5, panels 3 and 4.

The exact Hessian of the summed loss with respect to the chosen leaves of all branches
(by default their first layer), over training examples without augmentation, at
initialisation and at the checkpoint. Each is taken with the clamp of the training and
without any, because saturated outputs have no curvature under the hard clamp.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bspec_jax import classifier, data, runs
from bspec_jax.analysis import gradients, hessian, observations
from bspec_jax.analysis.hessian_measures import block_measures, branch_spectra, spectrum
from bspec_jax.analysis.objective import Objective
from bspec_jax.classifier import curvature
from bspec_jax.data.identity import hash_array
from bspec_jax.storage import files
from bspec_jax.storage.errors import UserError
from bspec_jax.trees import Tree, select_leaves

EXAMPLES = 128
CHUNK = 32  # examples at a time
MOST_PARAMETERS = 8192  # of all branches: 0.25 GiB, and minutes for its eigenvalues
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
    hessians = 2 * 2 * 4 * size**2  # two stages, two clamps, float32
    eigenvalues = 3 * 8 * size**2
    images = 3 * 4 * num_examples * math.prod(trained.spec.image_shape)
    runs.check_memory(
        hessians + eigenvalues + images,
        f"Hessians of {size:,} parameters over {num_examples:,} examples",
        "use fewer --leaves or --examples",
    )


def measure(workdir: Path, case: Case) -> dict[str, Any]:
    """What results.json holds of a classifier's checkpoint.

    Finished Hessians stay in the run's folder until the run ends; hessians.npz keeps
    all of them.
    """
    train, spec = case.dataset.train, case.trained.spec
    count = case.num_examples
    images, labels = train.images[:count], train.labels[:count]
    clamps = tuple(dict.fromkeys((spec.clamp, "none")))
    hessians, records, scales = {}, {clamp: [] for clamp in clamps}, None
    for stage in curvature.stages(case.path, case.trained, train.images):
        by_clamp = curvature.objectives(case.trained, stage, images, labels, clamps)
        shares = None
        if scales or not stage.step:  # shares are relative to the start
            shares, scales = curvature.factor_shares(
                by_clamp, stage.params, case.leaves, scales
            )
        for clamp, objective in by_clamp.items():
            name = f"{clamp}_{stage.step}"  # in hessians.npz
            what = f"Hessian at step {stage.step}, clamp {clamp}"
            # Never that of another network, which has taken the checkpoint's place.
            file = f"{name}_{_digest(stage)}.npz"
            path = workdir / runs.UNFINISHED / file
            h = exact_hessian(path, what, objective, stage.params, case.leaves)
            hessians[name] = h
            records[clamp].append(
                {
                    "step": stage.step,
                    "hessian": name,
                    **block_measures(h),
                    "spectra": {"whole": spectrum(h), "branches": branch_spectra(h)},
                    "factors": shares and factors(shares, clamp),
                }
            )
    files.save_arrays(workdir / HESSIANS, hessians)
    tasks = {
        "classify" if clamp == spec.clamp else "classify_unclamped": {
            "clamp": clamp,
            "stages": records[clamp],
        }
        for clamp in clamps
    }
    return {
        "branches": spec.branches,
        "parameters": case.num_parameters,
        "leaves": case.leaves,
        "examples": count,
        "tasks": tasks,
        "findings": findings(spec.branches, tasks),
    }


def _digest(stage: curvature.Stage) -> str:
    leaves = jax.tree.leaves((stage.params, stage.batch_stats))
    return hash_array(np.concatenate([np.ravel(leaf) for leaf in leaves]))


def exact_hessian(
    path: Path, what: str, objective: Objective, params: Tree, leaves: tuple[str, ...]
) -> np.ndarray:
    """The exact Hessian `[M, P, M, P]`, read from `path` if it is there."""
    if path.exists():
        return files.load_arrays(path, {"hessian": None})["hessian"]
    with runs.progress_bar(objective.num_examples, what, "image") as advance:
        blocks = hessian.blocks(
            objective, params, leaves=leaves, chunk_size=CHUNK, progress=advance
        )
    path.parent.mkdir(exist_ok=True)
    h = np.asarray(blocks.full())
    files.save_arrays(path, {"hessian": h})
    return h


def factors(shares: curvature.FactorShares, clamp: str) -> dict[str, Any]:
    """What results.json holds of the factors at a stage."""
    return {
        "thresholds": gradients.THRESHOLDS,
        "distributive": shares.distributive,
        "collaborative": shares.collaborative[clamp],
    }


def findings(num_branches: int, tasks: Mapping[str, Mapping]) -> list[dict]:
    """Observation 7 and section 8 for each clamp; none without the initial stage."""
    found = []
    for task in tasks.values():
        stages = task["stages"]
        if not stages or stages[0]["step"] != 0:
            continue
        clamp = task["clamp"].replace("none", "no")
        setting = f"M = {num_branches}, {clamp} clamp, x 1"
        records = curvature.observe(num_branches, stages[0], stages[-1])
        found += observations.findings("classifier", setting, records)
    return found
