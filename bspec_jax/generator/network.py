"""The class-transfer generator of section 7: branches over a smooth residual.

    f(x, y) = R(x) + sum_k v_k(phi_k(x), y)

shows image x as one of class y. `generator.training` trains it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from bspec_jax.adapters import from_linen
from bspec_jax.batching import batches_of_one_shape
from bspec_jax.branching import Branch, sum_of_branches
from bspec_jax.classifier.checks import check_labels
from bspec_jax.data.images import check_bytes
from bspec_jax.generator.checks import check_floats, check_signed
from bspec_jax.generator.diffusion import Velocity, blur, diffuse
from bspec_jax.generator.stargan import (
    PRESETS,
    Discriminator,
    Generator,
    PresetName,
)
from bspec_jax.storage import checkpoints
from bspec_jax.trees import Tree

MAIN = "generator"  # folder of its checkpoints in a run
EVALUATION_BATCH = 48  # images

Residual = Literal["diffusion", "gaussian"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class GeneratorSpec:
    """What rebuilds a generator and its discriminator.

    preset: channels of the networks; a key of `stargan.PRESETS`.
    branches: M.
    classes: names, by label.
    image_shape: (H, W, channels).
    residual: R by learnt diffusion, where each branch reads one of its components, or
        by a Gaussian blur, where all branches read the image.
    sigma: standard deviation of the blur, in pixels.
    diffusion_step: time step of the diffusion.
    precision: of the branches; parameters, diffusion and sum stay in float32.
    dataset: name of the training data.
    """

    KIND: ClassVar[str] = "generator"

    preset: PresetName
    branches: int
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    residual: Residual
    sigma: float
    diffusion_step: float
    precision: Precision
    dataset: str | None = None


class Decomposition(NamedTuple):
    """image = residual + components.sum(0).

    image: f, `[N, H, W, C]`, around -1..1.
    residual: R, `[N, H, W, C]`.
    components: v_k, `[M, N, H, W, C]`.
    inputs: phi_k, `[M, N, H, W, C]`; None where all branches read x.
    """

    image: Float[Array, "N H W C"]
    residual: Float[Array, "N H W C"]
    components: Float[Array, "M N H W C"]
    inputs: Float[Array, "M N H W C"] | None


class ClassTransfer(NamedTuple):
    """f as pure functions of `params`, `{"branches": [M, ...], "velocity": ...}`.

    init: `(key, x, labels) -> params`.
    apply: `(params, x, labels) -> f`, `[N, H, W, C]`.
    decompose: `(params, x, labels) -> Decomposition`.
    num_classes: number of classes that labels name; None if it is not known.

    x is `[N, H, W, C]` in -1..1 and labels `[N]` the classes that it is to become.
    """

    init: Callable[[Key[Array, ""], Array, Array], Tree]
    apply: Callable[[Tree, Array, Array], Array]
    decompose: Callable[[Tree, Array, Array], Decomposition]
    num_classes: int | None = None


def build(spec: GeneratorSpec, *, sequential: bool = False) -> ClassTransfer:
    """The generator of a specification.

    Args:
      sequential: one branch at a time, to save memory.

    Source: eq. 15 to 17, appendix E.
    """
    m, learnt = spec.branches, spec.residual == "diffusion"
    preset = PRESETS[spec.preset]
    branch = from_linen(Generator(preset.base, preset.most, len(spec.classes)))
    if spec.precision == "bfloat16":
        branch = _in_bfloat16(branch)
    network = sum_of_branches(
        branch, m, in_axes=(0 if learnt else None, None), sequential=sequential
    )
    velocity = Velocity(preset.velocity)

    def init(key, x, labels):
        keys = jax.random.split(key)
        inputs = jnp.broadcast_to(x, (m, *x.shape)) if learnt else x
        branches, _ = network.init(keys[0], inputs, labels)
        return {
            "branches": branches,
            "velocity": velocity.init(keys[1], x) if learnt else {},
        }

    def separate(params, x):
        """The residual, and what the branches read."""
        if not learnt:
            return blur(x, spec.sigma), x
        p = partial(velocity.apply, params["velocity"])
        return diffuse(p, x, m, spec.diffusion_step)

    def apply(params, x, labels):
        residual, inputs = separate(params, x)
        f, _ = network.apply(params["branches"], {}, inputs, labels, residual=residual)
        return f

    def decompose(params, x, labels):
        residual, inputs = separate(params, x)
        v, _ = network.responses(params["branches"], {}, inputs, labels)
        f = residual + v.sum(0)
        return Decomposition(f, residual, v, inputs if learnt else None)

    return ClassTransfer(init, apply, decompose, len(spec.classes))


def discriminator(spec: GeneratorSpec) -> Discriminator:
    """The discriminator that this generator is trained against."""
    preset = PRESETS[spec.preset]
    base, most = preset.discriminator_base, preset.discriminator_most
    return Discriminator(base, most, len(spec.classes))


def _in_bfloat16(branch: Branch) -> Branch:
    def apply(params, state, x, labels):
        params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
        v, state = branch.apply(params, state, x, labels)
        return v.astype(jnp.float32), state

    return Branch(branch.init, apply)


def to_signed(
    images: UInt8[Array | np.ndarray, "N H W C"],
) -> Float[Array | np.ndarray, "N H W C"]:
    """Bytes to -1..1; JAX arrays stay JAX arrays, NumPy's NumPy's.

    Raises:
      ArgumentError: if the images are not bytes.
    """
    check_bytes(images)
    return images.astype(np.float32) / 127.5 - 1


def to_bytes(x: Float[Array | np.ndarray, "..."]) -> UInt8[Array, "..."]:
    """-1..1 to bytes, clipped. No byte is NaN: of such pixels, the result says nothing.

    Raises:
      ArgumentError: if x is not of floats.
    """
    check_floats("x", x)
    return jnp.round(jnp.clip(127.5 * (x + 1), 0, 255)).astype(jnp.uint8)


class Trained(NamedTuple):
    """A trained generator: the average of its parameters over training.

    step: of its training.
    """

    model: ClassTransfer
    params: Tree
    spec: GeneratorSpec
    step: int


def load(path: Path | str) -> Trained:
    """A generator from a run's folder, or from one step in it.

    Raises:
      UserError: if the checkpoint is missing, damaged or of another kind of network.
    """
    folder, step = checkpoints.find(path, MAIN)
    spec = checkpoints.read_spec(folder, GeneratorSpec)
    model = build(spec)
    (params,) = checkpoints.restore(folder, step, model=shapes(model, spec))
    return Trained(model, params, spec, step)


def shapes(model: ClassTransfer, spec: GeneratorSpec) -> Tree:
    """Shapes and types of the parameters."""
    image = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), image, label)


def transfer(
    model: ClassTransfer,
    params: Tree,
    x: Float[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "N H W C"]:
    """`model.apply` in batches of one shape, in NumPy.

    Compiles once for each model, whose functions have to be pure.

    Raises (as `to_all_classes` and `decompose`):
      ArgumentError: unless x is images in -1..1, and labels are classes.
    """
    check_signed(x)
    check_labels(labels, len(x), model.num_classes)
    return _in_batches(model.apply, params, x, labels)


def to_all_classes(
    model: ClassTransfer,
    params: Tree,
    x: Float[np.ndarray, "N H W C"],
    num_classes: int,
) -> Float[np.ndarray, "classes N H W C"]:
    """Every image transferred to every class."""
    targets = np.arange(num_classes, dtype=np.int32)[:, None].repeat(len(x), 1)
    return np.stack([transfer(model, params, x, to) for to in targets])


def decompose(
    model: ClassTransfer,
    params: Tree,
    x: Float[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, " N"],
) -> Decomposition:
    """`model.decompose` in batches of one shape, in NumPy."""
    check_signed(x)
    check_labels(labels, len(x), model.num_classes)
    return _in_batches(model.decompose, params, x, labels)


def _in_batches(function, params, x, labels):
    size = min(EVALUATION_BATCH, len(x))
    parts = []
    for index, kept in batches_of_one_shape(len(x), size):
        outputs = jax.device_get(_jitted(function, params, x[index], labels[index]))
        # Every output is [..., N, H, W, C].
        parts.append(jax.tree.map(lambda a, n=kept: a[..., :n, :, :, :], outputs))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, -4), *parts)


@partial(jax.jit, static_argnums=0)
def _jitted(function, params, x, labels):
    return function(params, x, labels)
