"""Hessian and gradient factors of a trained classifier, from its start to its end.

    trained = classifier.load(path)
    for stage in stages(path, trained, training_images):
        by_clamp = objectives(trained, stage, images, labels, ("hard", "none"))
        h = hessian.blocks(by_clamp["hard"], stage.params, leaves=FIRST_LAYER)

Source: section 5 and Figure 5, panels 3 and 4.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from bspec_jax.analysis import gradients
from bspec_jax.analysis.hessian_products import compiled
from bspec_jax.analysis.objective import Objective, frozen_responses
from bspec_jax.analysis.observations import evaluate_hessian
from bspec_jax.classifier.network import MAIN, Classifier, calibrate, load
from bspec_jax.data.augmentation import normalise
from bspec_jax.losses import Clamp, classification_loss
from bspec_jax.storage import checkpoints
from bspec_jax.trees import Tree

FIRST_LAYER = ("stem/kernel",)
CHUNK = 32  # examples at a time
VANISHED = gradients.THRESHOLDS.index(1e-2)  # see `observations.evaluate_hessian`


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
    """The classifier at initialisation, if that was kept, and as trained.

    BatchNorm's running statistics mean nothing before training, so at initialisation
    they are replaced by statistics over `images`.

    Args:
      path: of the checkpoint that `trained` was loaded from.
      images: that the network was trained on.
    """
    folder, _ = checkpoints.find(path, MAIN)
    found = []
    if 0 in checkpoints.steps(folder):
        start = load(folder / "0")
        batch_stats = calibrate(
            start.network, start.params, start.batch_stats, images, start.spec.pixels
        )
        found.append(Stage(0, start.params, batch_stats))
    if trained.step:
        found.append(Stage(trained.step, trained.params, trained.batch_stats))
    return found


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


class FactorScales(NamedTuple):
    """Root mean squares of the gradient's factors; the collaborative one by clamp."""

    distributive: Float[Array, ""]
    collaborative: dict[Clamp, Float[Array, ""]]


class FactorShares(NamedTuple):
    """Shares of vanishing factors at `gradients.THRESHOLDS`; the latter by clamp."""

    distributive: Float[Array, " thresholds"]
    collaborative: dict[Clamp, Float[Array, " thresholds"]]


def factor_shares(
    by_clamp: Mapping[Clamp, Objective],
    params: Tree,
    leaves: tuple[str, ...],
    initial: FactorScales | None = None,
) -> tuple[FactorShares, FactorScales]:
    """Shares of vanishing factors of the gradient (section 8), and their scales.

    Args:
      by_clamp: from `objectives`.
      leaves: paths or patterns of the parameters of the distributive factor.
      initial: scales at initialisation; None if this is it.

    Cost: C backward passes per example.
    """
    objective = next(iter(by_clamp.values()))  # responses do not depend on the clamp
    scale = None if initial is None else initial.distributive
    of_objective = compiled(partial(_distributive, leaves), objective)
    f, distributive, scale = of_objective(objective, params, scale)
    factors = {
        clamp: gradients.collaborative_factor(
            lambda f, o=objective: jax.vmap(o.loss)(f, o.targets).sum(), f
        )
        for clamp, objective in by_clamp.items()
    }
    scales = initial or FactorScales(
        scale, {c: gradients.collaborative_scale(d) for c, d in factors.items()}
    )
    collaborative = {
        clamp: gradients.collaborative_shares(factor, scales.collaborative[clamp])
        for clamp, factor in factors.items()
    }
    return FactorShares(distributive, collaborative), scales


def _distributive(leaves, objective, params, scale):
    """The output f, the shares of vanishing distributive factors, and their scale."""
    f = jax.lax.map(
        lambda example: objective.respond(params, example).sum(0),
        objective.examples,
        batch_size=CHUNK,
    )
    chosen_objective, chosen = objective.of_leaves(params, leaves)
    arguments = chosen_objective.respond, chosen, objective.examples
    if scale is None:
        scale = gradients.distributive_scale(*arguments)
    return f, gradients.distributive_shares(*arguments, scale), scale


def observe(
    num_branches: int, first: Mapping[str, Any], last: Mapping[str, Any]
) -> dict[int | str, dict]:
    """Observation 7 and the conjecture of section 8 for one network.

    One network has no interval, so neither is ever decided.

    Args:
      first, last: records of the stages at initialisation and after training:
        "offdiagonal_ratio", "control_ratio" and "ratio_to_control", and "factors" with
        the shares "distributive" and "collaborative" at `gradients.THRESHOLDS`.
    """
    return evaluate_hessian([num_branches], _single(last), _single(first))


def _single(record: Mapping[str, Any]) -> dict[str, dict]:
    """Measures of one network as means whose intervals are unbounded."""
    values = {
        name: record[name]
        for name in ("offdiagonal_ratio", "control_ratio", "ratio_to_control")
    }
    shares = record["factors"]
    distributive, collaborative = (
        float(shares[name][VANISHED]) for name in ("distributive", "collaborative")
    )
    values["vanishing_difference"] = distributive - collaborative
    return {
        name: {"mean": [float(value)], "interval": [[-math.inf, math.inf]]}
        for name, value in values.items()
    }
