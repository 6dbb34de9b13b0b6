"""The class-transfer generator of section 7, a sum of branches over a smooth residual.

    f(x, y) = R(x) + sum_k v_k(phi_k(x), y)

shows image x as one of class y. It is built of its description, a plain dict, so that
a checkpoint can be read without the flags of its training. `generator_training` trains
it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from bspec_jax import checkpoints
from bspec_jax.adapters import from_linen
from bspec_jax.batching import batches_of_one_shape
from bspec_jax.branching import Branch, Tree, sum_of_branches
from bspec_jax.errors import UserError
from bspec_jax.models.diffusion import Velocity, blur, diffuse
from bspec_jax.models.stargan import PRESETS, Discriminator, Generator

MAIN = "generator"  # the folder of its checkpoints in a run
EVALUATION_BATCH = 48


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

    x is `[N, H, W, C]` in -1..1 and labels `[N]` the classes that it is to become.
    """

    init: Callable[[Key[Array, ""], Array, Array], Tree]
    apply: Callable[[Tree, Array, Array], Array]
    decompose: Callable[[Tree, Array, Array], Decomposition]


def build(about: dict, *, sequential: bool = False) -> ClassTransfer:
    """The generator of a description.

    Args:
      about: `preset` (of `models.stargan.PRESETS`), `branches` M, `classes` (names),
        `residual` ("diffusion" or "gaussian"), `diffusion_step` or `sigma`, and
        `precision` ("float32", or "bfloat16" for the branches; parameters, diffusion
        and sum stay in float32).
      sequential: a branch at a time, to save memory.

    Source: eq. 15 to 17, appendix E.
    """
    m, learnt = about["branches"], about["residual"] == "diffusion"
    preset = PRESETS[about["preset"]]
    branch = from_linen(Generator(preset.base, preset.most, len(about["classes"])))
    if about["precision"] == "bfloat16":
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
            return blur(x, about["sigma"]), x
        step = about["diffusion_step"]
        return diffuse(lambda u: velocity.apply(params["velocity"], u), x, m, step)

    def apply(params, x, labels):
        residual, inputs = separate(params, x)
        f, _ = network.apply(params["branches"], {}, inputs, labels, residual=residual)
        return f

    def decompose(params, x, labels):
        residual, inputs = separate(params, x)
        v, _ = network.responses(params["branches"], {}, inputs, labels)
        f = residual + v.sum(0)
        return Decomposition(f, residual, v, inputs if learnt else None)

    return ClassTransfer(init, apply, decompose)


def discriminator(about: dict) -> Discriminator:
    """The discriminator that a generator of this description is trained against."""
    preset = PRESETS[about["preset"]]
    base, most = preset.discriminator_base, preset.discriminator_most
    return Discriminator(base, most, len(about["classes"]))


def _in_bfloat16(branch: Branch) -> Branch:
    def apply(params, state, x, labels):
        short = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
        v, state = branch.apply(short[0], state, short[1], labels)
        return v.astype(jnp.float32), state

    return Branch(branch.init, apply)


def to_signed(
    images: UInt8[Array | np.ndarray, "N H W C"],
) -> Float[Array | np.ndarray, "N H W C"]:
    """Bytes to -1..1, of JAX or of NumPy as they are given."""
    return images.astype(np.float32) / 127.5 - 1


def to_bytes(x: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """-1..1 to bytes; what is beyond is clipped."""
    return jnp.round(jnp.clip(127.5 * (x + 1), 0, 255)).astype(jnp.uint8)


def describe(
    preset: str,
    num_branches: int,
    class_names: Sequence[str],
    image_shape: Sequence[int],
    residual: str,
    **more: object,
) -> dict:
    """What `build` and `load` need, and `more` about it."""
    return {
        "kind": "generator",
        "preset": preset,
        "branches": num_branches,
        "classes": list(class_names),
        "image_shape": list(image_shape),
        "residual": residual,
        **more,
    }


class Trained(NamedTuple):
    """A trained generator, as `load` finds it."""

    model: ClassTransfer
    params: Tree
    description: dict
    step: int


def load(path: Path) -> Trained:
    """A generator, the average over its training, of a run's folder or one step in it.

    Raises:
      UserError: if there is no checkpoint, or a damaged one, or one of another kind.
    """
    folder, step = checkpoints.find(path, MAIN)
    about = checkpoints.description(folder)
    if about.get("kind") != "generator":
        raise UserError(f"{folder} holds no generator")
    model = build(about)
    (params,) = checkpoints.restore(folder, step, model=shapes(model, about))
    return Trained(model, params, about, step)


def shapes(model: ClassTransfer, about: dict) -> Tree:
    """Shapes and types of the parameters."""
    image = jax.ShapeDtypeStruct((1, *about["image_shape"]), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), image, label)


def transfer(
    model: ClassTransfer,
    params: Tree,
    x: Float[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "N H W C"]:
    """`model.apply` in batches of one shape, in NumPy."""
    return _in_batches(model.apply, params, x, labels)


def to_all_classes(
    model: ClassTransfer,
    params: Tree,
    x: Float[np.ndarray, "N H W C"],
    num_classes: int,
) -> Float[np.ndarray, "classes N H W C"]:
    """Every image as one of every class."""
    targets = np.arange(num_classes, dtype=np.int32)[:, None].repeat(len(x), 1)
    return np.stack([transfer(model, params, x, to) for to in targets])


def decompose(
    model: ClassTransfer,
    params: Tree,
    x: Float[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, " N"],
) -> Decomposition:
    """`model.decompose` in batches of one shape, in NumPy."""
    return _in_batches(model.decompose, params, x, labels)


def _in_batches(function, params, x, labels):
    size = min(EVALUATION_BATCH, len(x))
    parts = []
    for index, kept in batches_of_one_shape(len(x), size):
        found = jax.device_get(_jitted(function, params, x[index], labels[index]))
        # Of [..., N, H, W, C]
        parts.append(jax.tree.map(lambda a, n=kept: a[..., :n, :, :, :], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, -4), *parts)


@partial(jax.jit, static_argnums=0)
def _jitted(function, params, x, labels):
    return function(params, x, labels)
