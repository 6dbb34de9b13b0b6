"""Hessian and gradient factors of a trained classifier, from its start to its end.

    trained = classifier.load(path)
    for stage in stages(path, trained, training_images):
        by_clamp = objectives(trained, stage, images, labels, ("hard", "none"))
        h = hessian.blocks(by_clamp["hard"], stage.params, leaves=FIRST_LAYER)

Source: section 5 and Figure 5, panels 3 and 4.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from bspec_jax.analysis.gradients import collaborative_factor, collaborative_shares
from bspec_jax.analysis.hessian_products import compiled
from bspec_jax.analysis.objective import Objective, frozen_responses
from bspec_jax.analysis.observations import evaluate_hessian
from bspec_jax.analysis.vanishing import (
    THRESHOLDS,
    FactorScales,
    VanishingShares,
    factor_scales,
    vanishing_shares,
)
from bspec_jax.classifier.evaluation import CONTROL
from bspec_jax.classifier.network import MAIN, Classifier, calibrate, load
from bspec_jax.classifier.recipe import kept_steps
from bspec_jax.data.augmentation import normalise
from bspec_jax.losses import Clamp, classification_loss
from bspec_jax.storage import checkpoints
from bspec_jax.trees import Tree, ravel_branches

FIRST_LAYER = ("stem/kernel",)
CHUNK = 32  # examples at a time


class Stage(NamedTuple):
    """A classifier at one step of its training.

    params, batch_stats: leaves `[M, ...]`.
    """

    step: int
    params: Tree
    batch_stats: Tree


def stages(
    path: Path, trained: Classifier, images: UInt8[np.ndarray, "N H W channels"]
) -> list[Stage]:
    """The classifier at the start, half-way and as trained, as far as these were kept.

    BatchNorm's running statistics mean nothing before training, so at initialisation
    they are replaced by statistics over `images`.

    Args:
      path: of the checkpoint that `trained` was loaded from.
      images: that the network was trained on.
    """
    folder, _ = checkpoints.find(path, MAIN)
    wanted = {*kept_steps(trained.spec.steps or trained.step).values()} & {
        *checkpoints.steps(folder)
    }
    found = []
    for step in sorted(wanted | {trained.step}):
        kept = trained if step == trained.step else load(folder / str(step))
        batch_stats = kept.batch_stats
        if step == 0:
            batch_stats = calibrate(
                kept.network, kept.params, batch_stats, images, kept.spec.pixels
            )
        found.append(Stage(step, kept.params, batch_stats))
    return found


def control_stage(path: Path, trained: Classifier) -> Stage | None:
    """As many separately trained branches, from the run that `path` is in; or None.

    Those of the same repeat, which has the same data in the same order.
    """
    folder, _ = checkpoints.find(path, MAIN)
    _, *repeat = folder.name.partition("_repeat_")
    control = folder.parent / "".join([CONTROL, *repeat])
    if not control.is_dir() or folder == control:
        return None
    separate = load(control)
    first = slice(trained.spec.branches)
    params, batch_stats = jax.tree.map(
        lambda leaf: leaf[first], (separate.params, separate.batch_stats)
    )
    return Stage(separate.step, params, batch_stats)


def objectives(
    trained: Classifier,
    stage: Stage,
    images: UInt8[np.ndarray, "N H W channels"],
    labels: Int[np.ndarray, " N"],
    clamps: Sequence[Clamp],
) -> dict[Clamp, Objective]:
    """The summed loss at a stage, with frozen BatchNorm statistics, for each clamp.

    The hard clamp has no curvature where outputs are saturated; "none" does.
    """
    respond = frozen_responses(trained.network, stage.batch_stats, train=False)
    x = normalise(jnp.asarray(images), *trained.spec.pixels)
    return {
        clamp: Objective(
            respond, partial(classification_loss, clamp=clamp), x, jnp.asarray(labels)
        )
        for clamp in clamps
    }


def control_objective(
    objective: Objective, params: Tree, separate: Objective, separate_params: Tree
) -> Objective:
    """The loss whose Hessian is the control of observation 7.

    What comes from the sum stays, dL/df and d2L/df2 of the network trained as a whole;
    what comes from the branches, J_k and their second derivatives, is that of
    separately trained ones. Blocks of different branches are J_k^T B J_l, and those of
    one branch the exact ones: B J_k and the residual part, which is as small as dL/df.
    The separately trained sum itself would be of no use: it is the answer M times, far
    beyond the clamp, where nothing is curved.

    Args:
      objective, params: of the network trained as a whole.
      separate, separate_params: of the separately trained branches, on the same
        examples.
    """
    f = outputs(objective, params)
    at = outputs(separate, separate_params)
    factor = jax.vmap(jax.grad(objective.loss))(f, objective.targets)
    curvature = jax.vmap(jax.hessian(objective.loss))(f, objective.targets)
    return replace(separate, loss=_quadratic, targets=(at, factor, curvature))


def _quadratic(f, target):
    """Of a gradient and a Hessian that are given, at the output `at`."""
    at, factor, curvature = target
    change = f - at
    half = jnp.einsum("ab,b->a", curvature, change, precision="highest") / 2
    return jnp.vdot(change, factor + half, precision="highest")


def outputs(objective: Objective, params: Tree) -> Float[Array, "N C"]:
    """The output f at each example."""
    return responses(objective, params).sum(0)


def responses(objective: Objective, params: Tree) -> Float[Array, "M N C"]:
    """The response of each branch to each example."""

    def all_examples(objective, params):
        respond = partial(objective.respond, params)
        return jax.lax.map(respond, objective.examples, batch_size=CHUNK)

    v = compiled(all_examples, objective)(objective, params)
    return jnp.moveaxis(v, 0, 1)


def gradient(
    objective: Objective, params: Tree, leaves: tuple[str, ...]
) -> Float[Array, "M P"]:
    """The gradient with respect to some leaves, in the order of their Hessian."""

    def of_leaves(objective, params):
        of_chosen, chosen = objective.of_leaves(params, leaves)
        return ravel_branches(jax.grad(of_chosen.total)(chosen))[0]

    of_chunk = compiled(of_leaves, objective)
    starts = range(0, objective.num_examples, CHUNK)
    return sum(of_chunk(objective.slice(slice(i, i + CHUNK)), params) for i in starts)


class Factors(NamedTuple):
    """The gradient's factors at a stage, relative to `scales`; see `vanishing`."""

    shares: VanishingShares
    collaborative: Float[Array, " thresholds"]
    scales: FactorScales


def factors(
    objective: Objective,
    params: Tree,
    leaves: tuple[str, ...],
    scales: FactorScales | None = None,
) -> Factors:
    """Shares of vanishing factors of the gradient (section 8).

    All (parameter, example) pairs count: no weight of a network on normalised images
    only ever meets zeros.

    Args:
      leaves: paths or patterns of the parameters of the distributive factor.
      scales: at initialisation; None if this is it.

    Cost: C backward passes per example.
    """
    f = outputs(objective, params)
    factor = collaborative_factor(
        lambda f: jax.vmap(objective.loss)(f, objective.targets).sum(), f
    )

    def of_leaves(objective, params, factor, scales):
        of_chosen, chosen = objective.of_leaves(params, leaves)
        pairs = of_chosen.respond, chosen, objective.examples, factor
        scales = factor_scales(*pairs) if scales is None else scales
        return vanishing_shares(*pairs, scales), scales

    of_arrays = compiled(of_leaves, objective)
    shares, scales = of_arrays(objective, params, factor, scales)
    collaborative = collaborative_shares(
        factor, scales.collaborative, thresholds=THRESHOLDS
    )
    return Factors(shares, collaborative, scales)


def observe(
    num_branches: int,
    stages: Mapping[str, Mapping[str, Any]],
    regime: str | None = None,
) -> dict[int | str, dict]:
    """Observation 7 and the conjecture of section 8 for one network.

    One network has no interval, so neither is ever decided.

    Args:
      stages: "converged", "initial" and "control", each with "block_index", and the
        first with the other numbers that `observations.evaluate_hessian` takes. An
        undefined one is None.
      regime: as in `observations.evaluate`.
    """
    return evaluate_hessian(
        [num_branches],
        {
            stage: {name: _single(value) for name, value in numbers.items()}
            for stage, numbers in stages.items()
        },
        regime=regime,
    )


def _single(value: Any) -> dict[str, list]:
    """The mean over one network, of which there is no interval."""
    value = math.nan if value is None else float(value)
    return {
        "mean": [value],
        "interval": [[-math.inf, math.inf]],
        "networks": [1],
    }
