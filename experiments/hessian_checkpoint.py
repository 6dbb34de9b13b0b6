"""The Hessian of a trained classifier: Figure 5, panels 3 and 4.

    python -m experiments.hessian --checkpoint runs/classify/RUN

Takes the exact Hessian of the summed loss with respect to the chosen leaves of all
branches (by default their first layer), over training examples without augmentation, at
initialisation and at the checkpoint, with the clamp the network was trained with and
without any: saturated outputs have no curvature under the hard clamp.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import classifier, data, figures, runs
from bspec_jax.analysis import gradients
from bspec_jax.analysis.hessian import choose_leaves, hessian_blocks
from bspec_jax.analysis.hessian_measures import block_measures, branch_spectra, spectrum
from bspec_jax.data.augmentation import normalise
from bspec_jax.losses import classification_loss
from bspec_jax.storage import checkpoints, files
from bspec_jax.trees import select_leaves
from experiments.tables import number

FIRST_LAYER = ("stem/kernel",)
EXAMPLES = 128
CHUNK = 32  # examples at a time
MOST_PARAMETERS = 8192  # of all branches: 0.25 GiB, and minutes for its eigenvalues


class Stage(NamedTuple):
    """A network at one step of its training."""

    step: int
    params: dict
    batch_stats: dict


class Case(NamedTuple):
    """A checkpoint, and what its Hessian is taken of."""

    path: Path
    last: classifier.Classifier
    leaves: tuple[str, ...]
    parameters: int  # of all branches
    dataset: data.Dataset


def prepare(path: Path, leaves: tuple[str, ...] | None) -> Case:
    """Reads the checkpoint and the data that it was trained on.

    Raises:
      UserError: without such a checkpoint, its data, or a leaf of that name, and where
        the leaves are too large.
    """
    last = classifier.load(path)
    leaves = tuple(leaves or FIRST_LAYER)
    try:
        chosen, _ = select_leaves(last.params, leaves)
    except ValueError as error:
        raise runs.FlagError(f"--leaves: {error}") from None
    size = sum(leaf.size for leaf in jax.tree.leaves(chosen))
    if size > MOST_PARAMETERS:
        raise runs.FlagError(
            f"--leaves chooses {size:,} parameters in all branches, and the Hessian is "
            f"taken of at most {MOST_PARAMETERS:,}: choose fewer"
        )
    dataset = data.load(**last.description["data"])
    return Case(path, last, leaves, size, dataset)


def measure(workdir: Path, case: Case, num_examples: int | None) -> dict:
    """What results.json holds of a classifier's checkpoint.

    Hessians that are done stay in the run's folder until the run is finished; all of
    them are kept in hessians.npz.
    """
    _, last, leaves, size, dataset = case
    count = min(num_examples or EXAMPLES, len(dataset.train.labels))
    images = normalise(jnp.asarray(dataset.train.images[:count]), *last.pixels)
    labels = jnp.asarray(dataset.train.labels[:count])
    stages = stages_of(case)
    trained_with = last.description["clamp"]
    clamps = tuple(dict.fromkeys((trained_with, "none")))
    hessians, records, scales = {}, {clamp: [] for clamp in clamps}, {}
    for stage in stages:
        respond = gradients.frozen_responses(
            last.network, stage.batch_stats, train=False
        )
        shares = section8(respond, clamps, stage, images, labels, leaves, scales)
        for clamp in clamps:
            loss = partial(classification_loss, clamp=clamp)
            name = f"{clamp}_{stage.step}"  # in hessians.npz
            h = hessian(workdir, name, respond, loss, stage, images, labels, leaves)
            hessians[name] = h
            spectra = {"whole": spectrum(h), "branches": branch_spectra(h)}
            measured = {**block_measures(h), "spectra": spectra}
            named = {"step": stage.step, "hessian": name}
            records[clamp].append({**named, **measured, "factors": shares[clamp]})
    tasks = {
        "classify" if clamp == trained_with else "classify_unclamped": {
            "clamp": clamp,
            "stages": records[clamp],
        }
        for clamp in clamps
    }
    files.save_arrays(workdir / "hessians.npz", hessians)
    return {
        "branches": last.network.num_branches,
        "parameters": size,
        "leaves": leaves,
        "examples": count,
        "tasks": tasks,
    }


def stages_of(case: Case) -> list[Stage]:
    """The network at initialisation, if that was kept, and as it is.

    BatchNorm's running statistics mean nothing before training: there they are those
    of the untrained network over training images.
    """
    last = case.last
    folder, _ = checkpoints.find(case.path, classifier.MAIN)
    stages = []
    if 0 in checkpoints.steps(folder):
        first = classifier.load(folder / "0")
        images = case.dataset.train.images
        stats = classifier.calibrate(*first[:3], images, first.pixels)
        stages.append(Stage(0, first.params, stats))
    if last.step:
        stages.append(Stage(last.step, last.params, last.batch_stats))
    return stages


def hessian(workdir, name, respond, loss, stage, images, labels, leaves) -> np.ndarray:
    """The exact Hessian `[M, P, M, P]`, from the disk if it is there."""
    path = workdir / runs.UNFINISHED / f"{name}.npz"
    if path.exists():
        return files.load_arrays(path, {"hessian": None})["hessian"]
    what = f"Hessian at step {stage.step}, clamp {name.split('_')[0]}"
    with runs.progress_bar(len(labels), what, "image") as advance:
        blocks = hessian_blocks(
            respond,
            loss,
            stage.params,
            images,
            labels,
            leaves=leaves,
            chunk_size=CHUNK,
            progress=advance,
        )
    path.parent.mkdir(exist_ok=True)
    h = np.asarray(blocks.full())
    files.save_arrays(path, {"hessian": h})
    return h


def section8(respond, clamps, stage, images, labels, leaves, scales: dict) -> dict:
    """Shares of vanishing factors of the gradient for each clamp; None without a start.

    The shares are relative to `scales`, which the stage at initialisation fills.
    """
    if stage.step and not scales:
        return dict.fromkeys(clamps)
    scale = scales.get("distributive")
    f, distributive, scales["distributive"] = distributive_shares(
        respond, leaves, stage.params, images, scale
    )
    found = {}
    for clamp in clamps:
        loss = partial(classification_loss, clamp=clamp)
        collaborative = gradients.collaborative_factor(
            lambda f, loss=loss: jax.vmap(loss)(f, labels).sum(), f
        )
        if clamp not in scales:
            scales[clamp] = gradients.collaborative_scale(collaborative)
        found[clamp] = {
            "thresholds": gradients.THRESHOLDS,
            "distributive": distributive,
            "collaborative": gradients.collaborative_shares(
                collaborative, scales[clamp]
            ),
        }
    return found


@partial(jax.jit, static_argnums=(0, 1))
def distributive_shares(respond, leaves, params, images, scale):
    """The network's output, its `distributive_shares` and their scale."""
    f = jax.vmap(respond, (None, 0))(params, images).sum(1)
    respond, chosen = choose_leaves(respond, params, leaves)
    if scale is None:
        scale = gradients.distributive_scale(respond, chosen, images)
    return f, gradients.distributive_shares(respond, chosen, images, scale), scale


def draw(workdir: Path, results: dict) -> dict:
    """Figure 5, panels 3 and 4, with the clamp and without."""
    names = [
        stage["hessian"]
        for task in results["tasks"].values()
        for stage in task["stages"]
    ]
    hessians = files.load_arrays(workdir / "hessians.npz", dict.fromkeys(names))
    drawn = {}
    for name, task in results["tasks"].items():
        examples = [
            {
                "step": stage["step"],
                "branches": results["branches"],
                "offdiagonal_ratio": stage["offdiagonal_ratio"],
                "hessian": np.reshape(
                    hessians[stage["hessian"]],
                    (results["parameters"], results["parameters"]),
                ),
            }
            for stage in task["stages"]
        ]
        clamp = "no clamp" if task["clamp"] == "none" else f"{task['clamp']} clamp"
        title = f"{', '.join(results['leaves'])}, {clamp}"
        suffix = "" if name == "classify" else "_unclamped"
        drawn[f"fig05_hessian{suffix}"] = figures.hessian_heat_maps(title, examples)
    return drawn


def summary(results: dict) -> str:
    """The table that ends a run."""
    lines = [
        f"M = {results['branches']}, {results['parameters']} parameters of "
        f"{', '.join(results['leaves'])}, {results['examples']} examples",
        "clamp             step  off-diagonal ratio  control  ratio / control  "
        "small blocks",
    ]
    for task in results["tasks"].values():
        for stage in task["stages"]:
            ratio, control, relative, small = (
                number(stage[name])
                for name in (
                    "offdiagonal_ratio",
                    "control_ratio",
                    "ratio_to_control",
                    "small_blocks",
                )
            )
            lines.append(
                f"{task['clamp']:17}{stage['step']:5}  {ratio:>18}  {control:>7}  "
                f"{relative:>15}  {small:>12}"
            )
    return "\n".join(lines)
