"""The Hessian of a trained classifier: Figure 5, panels 3 and 4.

The exact Hessian of the summed loss with respect to the chosen leaves of all branches
(by default their first layer), over training examples without augmentation, at
initialisation and at the checkpoint. Each is taken with the clamp of the training and
without any, because saturated outputs have no curvature under the hard clamp.
"""

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
    """

    path: Path
    trained: classifier.Classifier
    leaves: tuple[str, ...]
    num_parameters: int
    dataset: data.Dataset


def prepare(path: Path, leaves: tuple[str, ...] | None) -> Case:
    """Reads the checkpoint and the data that it was trained on.

    Raises:
      UserError: if there is no such checkpoint, its data are missing, no leaf has that
        name, or the leaves are too large.
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
    return Case(path, trained, leaves, size, data.load(**trained.spec.data))


def measure(workdir: Path, case: Case, num_examples: int | None) -> dict[str, Any]:
    """What results.json holds of a classifier's checkpoint.

    Finished Hessians stay in the run's folder until the run ends; hessians.npz keeps
    all of them.
    """
    train, spec = case.dataset.train, case.trained.spec
    count = min(num_examples or EXAMPLES, len(train.labels))
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
            path = workdir / runs.UNFINISHED / f"{name}.npz"
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
