"""A classifier without its silent branches."""

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Bool, UInt8

from bspec_jax.classifier.network import CALIBRATION_EXAMPLES, Classifier, build
from bspec_jax.storage.errors import ArgumentError


def prune(
    trained: Classifier,
    active: Bool[np.ndarray, " M"],
    images: UInt8[np.ndarray, "N H W channels"],
) -> Classifier:
    """The classifier without its silent branches, whose mean outputs become a bias.

    f(x) = sum over active k of v_k(x) + sum over silent k of the mean of v_k. What is
    left of a branch that is silent by the centred rule is its constant output: all
    silent branches together move the sum by more than nothing, but need no network. The
    constant goes to the head of the first active branch; without biases it is left out.

    Args:
      active: which branches stay; by the centred rule.
      images: for the means; of the first `CALIBRATION_EXAMPLES`.

    Raises:
      ArgumentError: if no branch is active, and for images as `Classifier.responses`.
    """
    if not active.any():
        raise ArgumentError("`active` names no branch: nothing would be left")
    kept = {"params": trained.params, "batch_stats": trained.batch_stats}
    kept = jax.tree.map(lambda leaf: leaf[active], kept)
    if trained.spec.biases and not active.all():
        v = trained.responses(images[:CALIBRATION_EXAMPLES])
        head = dict(kept["params"]["head"])
        head["bias"] = head["bias"].at[0].add(v[~active].mean(1).sum(0))
        kept["params"] = {**kept["params"], "head": head}
    spec = replace(trained.spec, branches=int(active.sum()))
    return Classifier(build(spec), spec=spec, step=trained.step, **kept)
