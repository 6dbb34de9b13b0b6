"""Branched image classifiers: specification, construction, evaluation and loading.

    trained = classifier.load(Path("runs/classify/..."))
    v = trained.responses(images)                      # uint8 images to [M, N, C]

`classifier.training` trains them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from bspec_jax.adapters import from_linen
from bspec_jax.batching import batches_of_one_shape
from bspec_jax.branching import BranchedNetwork, sum_of_branches
from bspec_jax.classifier import branches
from bspec_jax.classifier.checks import check_images
from bspec_jax.data.augmentation import normalise
from bspec_jax.losses import Clamp
from bspec_jax.storage import checkpoints
from bspec_jax.trees import Tree

EVALUATION_BATCH = 250
CALIBRATION_EXAMPLES = 2000
MAIN = "main"  # the network of a run that `load` reads by default


class Pixels(NamedTuple):
    """Mean and standard deviation of each channel, of pixels scaled to 0..1."""

    mean: Float[np.ndarray, " channels"]
    std: Float[np.ndarray, " channels"]


@dataclass(frozen=True)
class ClassifierSpec:
    """Everything that rebuilds a classifier, and the data it was trained on.

    widths: channels of a resnet's four stages; of each hidden layer of an mlp or cnn.
    branches: M.
    classes: names, by label.
    image_shape: (H, W, channels).
    mean, std: of each channel, of pixels scaled to 0..1.
    clamp: of the loss.
    data: arguments of `data.load`; None if the images came from elsewhere.
    steps: length of the whole training, if known.
    branch, normalisation, biases: as of `branches.make`.
    """

    KIND: ClassVar[str] = "classifier"

    widths: tuple[int, ...]
    branches: int
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clamp: Clamp = "hard"
    data: Mapping[str, Any] | None = None
    steps: int | None = None
    branch: branches.BranchKind = "resnet"
    normalisation: branches.Normalisation = "batch"
    biases: bool = True

    @property
    def pixels(self) -> Pixels:
        """Statistics for normalising pixels."""
        return Pixels(np.float32(self.mean), np.float32(self.std))


def build(spec: ClassifierSpec, last_scale: float = 1.0) -> BranchedNetwork:
    """The sum of M branches; see `branches.make`.

    Raises:
      ArgumentError: as `branches.make`.
    """
    module = branches.make(
        spec.branch,
        spec.widths,
        len(spec.classes),
        normalisation=spec.normalisation,
        last_scale=last_scale,
        biases=spec.biases,
    )
    return sum_of_branches(from_linen(module), spec.branches)


def predict(
    network: BranchedNetwork,
    params: Tree,
    batch_stats: Tree,
    images: UInt8[np.ndarray, "N H W channels"],
    pixels: Pixels,
    *,
    features: bool = False,
) -> Float[np.ndarray, "M N C"]:
    """Responses of all branches in evaluation mode, computed in batches.

    With `features`, the last layers' inputs `[M, N, D]` instead. Compiles once for each
    network, whose functions have to be pure.

    Raises:
      ArgumentError: unless the images are bytes, with the channels of `pixels`.
    """
    check_images(images, (None, None, len(pixels.mean)))
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
    """BatchNorm statistics of these parameters, averaged over batches of `images`.

    To evaluate an untrained network, whose running statistics are still 0 and 1. Uses
    the first `CALIBRATION_EXAMPLES` images and drops an incomplete last batch. Without
    BatchNorm there is nothing to do.

    Raises:
      ArgumentError: as `predict`.
    """
    check_images(images, (None, None, len(pixels.mean)))
    if not jax.tree.leaves(batch_stats):
        return batch_stats
    images = images[:CALIBRATION_EXAMPLES]
    size = min(EVALUATION_BATCH, len(images))
    total, count = None, 0
    for start in range(0, len(images) - size + 1, size):
        batch = images[start : start + size]
        stats = _batch_statistics(network, params, batch_stats, batch, pixels)
        total = stats if total is None else jax.tree.map(jnp.add, total, stats)
        count += 1
    return jax.tree.map(lambda leaf: leaf / count, total)


@partial(jax.jit, static_argnums=0)
def _batch_statistics(network, params, batch_stats, images, pixels):
    images = normalise(images, *pixels)
    _, updated = network.responses(params, batch_stats, images, train=True)
    kept = branches.BATCH_NORM_MOMENTUM

    # BatchNorm returns only running averages: updated = kept old + (1 - kept) batch.
    def batch_statistic(updated, old):
        return (updated - kept * old) / (1 - kept)

    return jax.tree.map(batch_statistic, updated, batch_stats)


class Classifier(NamedTuple):
    """A trained classifier.

    params, batch_stats: leaves `[M, ...]`.
    step: number of training steps taken.
    """

    network: BranchedNetwork
    params: Tree
    batch_stats: Tree
    spec: ClassifierSpec
    step: int

    def responses(
        self, images: UInt8[np.ndarray, "N H W channels"], *, features: bool = False
    ) -> Float[np.ndarray, "M N C"]:
        """Responses of all branches in evaluation mode; their sum over M is f.

        With `features`, the last layers' inputs `[M, N, D]` instead.

        Raises:
          ArgumentError: unless the images are bytes of the shape in `spec`.
        """
        check_images(images, self.spec.image_shape)
        return predict(
            self.network,
            self.params,
            self.batch_stats,
            images,
            self.spec.pixels,
            features=features,
        )


def load(path: Path | str, network: str = MAIN) -> Classifier:
    """Loads a classifier from a run, a network's folder, or one step's folder.

    Args:
      network: name of the network, if `path` is a run.

    Raises:
      UserError: if the checkpoint is missing, damaged or of another kind of network.
    """
    folder, step = checkpoints.find(path, network)
    spec = checkpoints.read_spec(folder, ClassifierSpec)
    branched = build(spec)
    params, stats = _shapes(branched, spec)
    (model,) = checkpoints.restore(
        folder, step, model={"params": params, "batch_stats": stats}
    )
    return Classifier(branched, model["params"], model["batch_stats"], spec, step)


def _shapes(network: BranchedNetwork, spec: ClassifierSpec) -> tuple[Tree, Tree]:
    """Shapes and types of the parameters and the BatchNorm statistics."""
    return jax.eval_shape(network.init, jax.random.key(0), _one_image(spec))


def _one_image(spec: ClassifierSpec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)


def forward_flops(spec: ClassifierSpec) -> float:
    """Floating-point operations of one branch on one image, as XLA counts them."""
    branch = build(replace(spec, branches=1))
    apply = jax.jit(partial(branch.apply, train=False))
    try:  # a CPU, for which XLA counts without compiling
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names only an accelerator
        device = None
    with jax.default_device(device):
        lowered = apply.lower(*_shapes(branch, spec), _one_image(spec))
    counted = lowered.cost_analysis() if device else lowered.compile().cost_analysis()
    return counted["flops"]
