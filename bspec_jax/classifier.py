"""Branched image classifiers: building, evaluating, describing and loading them.

    trained = classifier.load(Path("runs/classify/..."))
    v = trained.responses(images)                           # bytes to [M, N, C]

`classifier_training` trains them.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from bspec_jax import checkpoints
from bspec_jax.adapters import from_linen
from bspec_jax.batching import batches_of_one_shape
from bspec_jax.branching import BranchedNetwork, Tree, sum_of_branches
from bspec_jax.data.augmentation import normalise
from bspec_jax.errors import UserError
from bspec_jax.models.resnet import BATCH_NORM_MOMENTUM, ResNet

EVALUATION_BATCH = 250
CALIBRATION_EXAMPLES = 2000
MAIN = "main"  # the network of a run that `load` takes by default


def build(
    widths: Sequence[int], num_branches: int, num_classes: int, last_scale: float = 1.0
) -> BranchedNetwork:
    """The sum of M slim ResNets; for the arguments see `models.resnet.ResNet`."""
    module = ResNet(tuple(widths), num_classes, last_scale)
    return sum_of_branches(from_linen(module), num_branches)


class Pixels(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in 0..1."""

    mean: Float[np.ndarray, " channels"]
    std: Float[np.ndarray, " channels"]


def predict(
    network: BranchedNetwork,
    params: Tree,
    batch_stats: Tree,
    images: UInt8[np.ndarray, "N H W channels"],
    pixels: Pixels,
    *,
    features: bool = False,
) -> Float[np.ndarray, "M N C"]:
    """Responses of all branches, in evaluation mode, in batches of one shape.

    With `features` what the last layers read, `[M, N, D]`.
    """
    size = min(EVALUATION_BATCH, len(images))
    parts = []
    for index, kept in batches_of_one_shape(len(images), size):
        v = _responses(network, params, batch_stats, images[index], pixels, features)
        parts.append(np.asarray(v)[:, :kept])
    return np.concatenate(parts, 1)


@partial(jax.jit, static_argnums=(0, 5))
def _responses(network, params, batch_stats, images, pixels, features):
    images = normalise(images, *pixels)
    options = {"features": True} if features else {}
    return network.responses(params, batch_stats, images, train=False, **options)[0]


def calibrate(
    network: BranchedNetwork,
    params: Tree,
    batch_stats: Tree,
    images: UInt8[np.ndarray, "N H W channels"],
    pixels: Pixels,
) -> Tree:
    """BatchNorm statistics of these parameters: means over batches of `images`.

    At initialisation the running ones are 0 and 1 whatever the network does, so that
    evaluation there needs these. Takes the first `CALIBRATION_EXAMPLES`; the last
    incomplete batch is left.
    """
    images = images[:CALIBRATION_EXAMPLES]
    size = min(EVALUATION_BATCH, len(images))
    total, count = None, 0
    for start in range(0, len(images) - size + 1, size):
        batch = images[start : start + size]
        new = _batch_statistics(network, params, batch_stats, batch, pixels)
        total = new if total is None else jax.tree.map(jnp.add, total, new)
        count += 1
    return jax.tree.map(lambda leaf: leaf / count, total)


@partial(jax.jit, static_argnums=0)
def _batch_statistics(network, params, batch_stats, images, pixels):
    images = normalise(images, *pixels)
    _, new = network.responses(params, batch_stats, images, train=True)
    kept = BATCH_NORM_MOMENTUM  # new = kept * old + (1 - kept) * the batch's

    def of_batch(new, old):
        return (new - kept * old) / (1 - kept)

    return jax.tree.map(of_batch, new, batch_stats)


class Classifier(NamedTuple):
    """A trained network, as `load` finds it."""

    network: BranchedNetwork
    params: Tree
    batch_stats: Tree
    pixels: Pixels
    description: dict  # branches, widths, classes, image_shape, clamp, dataset ...
    step: int

    def responses(
        self, images: UInt8[np.ndarray, "N H W channels"]
    ) -> Float[np.ndarray, "M N C"]:
        """Of its branches, in evaluation mode; their sum over M is f."""
        model = self.params, self.batch_stats
        return predict(self.network, *model, images, self.pixels)


def describe(
    widths: Sequence[int],
    num_branches: int,
    class_names: Sequence[str],
    image_shape: Sequence[int],
    pixels: Pixels,
    **more: object,
) -> dict:
    """What `load` needs to build a network again, and `more` about it."""
    return {
        "kind": "classifier",
        "widths": list(widths),
        "branches": num_branches,
        "classes": list(class_names),
        "image_shape": list(image_shape),
        "mean": pixels.mean,
        "std": pixels.std,
        **more,
    }


def load(path: Path, network: str = MAIN) -> Classifier:
    """A classifier from a run's folder, a network's folder in it, or one step.

    Raises:
      UserError: if there is no checkpoint, or a damaged one, or one of another kind.
    """
    folder, step = checkpoints.find(path, network)
    about = checkpoints.description(folder)
    if about.get("kind") != "classifier":
        raise UserError(f"{folder} holds no classifier")
    net = build(about["widths"], about["branches"], len(about["classes"]))
    pixels = Pixels(*(np.array(about[name], np.float32) for name in ("mean", "std")))
    (params, stats), _ = _shapes(net, about)
    (model,) = checkpoints.restore(
        folder, step, model={"params": params, "batch_stats": stats}
    )
    return Classifier(net, model["params"], model["batch_stats"], pixels, about, step)


def _shapes(network: BranchedNetwork, about: dict):
    """Shapes of its parameters and state, and of a batch of one image."""
    image = jax.ShapeDtypeStruct((1, *about["image_shape"]), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image), image


def forward_flops(about: dict) -> float:
    """Floating-point operations of one branch on one image, as XLA counts them.

    Args:
      about: what `describe` made.
    """
    one = build(about["widths"], 1, len(about["classes"]))
    variables, image = _shapes(one, about)
    apply = jax.jit(partial(one.apply, train=False))
    return apply.lower(*variables, image).cost_analysis()["flops"]
