"""Renders the synthetic faces.

A face is a function of its key and class alone, in coordinates from -1 to 1 (x right,
y down), so that it looks the same at any size.
"""

import math
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from bspec_jax.data.faces.parts import (
    CLASSES,
    KINDS,
    PAINTERS,
    PARTS,
    Canvas,
    View,
)
from bspec_jax.data.faces.pinning import pinned
from bspec_jax.data.names import position
from bspec_jax.storage.errors import ArgumentError

AMBIENT = 0.35  # share of undirected light
FUR_DEPTH = 0.007  # height of a strand
THIN = 0.35  # coverage of a pixel from which a whisker counts as visible
ROUGHNESS = {"fur": 12.0, "wet": 60.0}  # Blinn-Phong exponents


class Face(NamedTuple):
    """A face and its layers: image = clip(albedo * diffuse + specular, 0, 1).

    image, albedo: colours, `[H, W, 3]`.
    diffuse, specular: shading, `[H, W, 1]`.
    height: towards the viewer, `[H, W]`, in units of half the image's side.
    normals: unit vectors (right, down, towards the viewer), `[H, W, 3]`.
    masks: for each of `PARTS`, where it is visible, `[H, W]`.
    """

    image: Float[Array, "*N H W 3"]
    albedo: Float[Array, "*N H W 3"]
    diffuse: Float[Array, "*N H W 1"]
    specular: Float[Array, "*N H W 1"]
    height: Float[Array, "*N H W"]
    normals: Float[Array, "*N H W 3"]
    masks: dict[str, Bool[Array, "*N H W"]]


@pinned()
def render(
    key: Key[Array, ""],
    label: Int[Array, ""] | int,
    size: int,
    without: Collection[str] = (),
) -> Face:
    """Renders one face; vmap over `key` and `label` for many.

    Args:
      label: index into `CLASSES`.
      size: side of the image, in pixels.
      without: parts to omit, any of `PARTS` except "fur"; everything else stays the
        same.

    Raises:
      ArgumentError: if there is no such part or class.
    """
    removed = removed_parts(without)
    _check_label(label)
    label = jnp.asarray(label).astype(jnp.int32)
    keys = jax.random.split(key, 3 + len(PAINTERS))
    view, kind = _pose(
        keys[0], jax.tree.map(lambda table: jnp.asarray(table)[label], KINDS), size
    )
    none = jnp.zeros_like(view.x)
    canvas = Canvas(
        _background(keys[1], view.x, view.y),
        none,
        none,
        none,
        dict.fromkeys(PARTS, none),
    )
    for part_key, (name, paint) in zip(keys[3:], PAINTERS.items(), strict=True):
        if name not in removed:
            canvas = paint(_varying(part_key), view, kind, canvas)
    albedo = jnp.clip(canvas.albedo, 0, 1)
    height = canvas.height + FUR_DEPTH * view.strands * canvas.furry
    normals = _normals(height, view.pixel)
    diffuse, specular = _lit(keys[2], normals, canvas.wet, canvas.furry)
    image = jnp.clip(albedo * diffuse + specular, 0, 1)
    thin = canvas.seen["whiskers"] > THIN
    masks = {part: (seen > 0.5) & ~thin for part, seen in canvas.seen.items()}
    masks["whiskers"] = thin
    return Face(image, albedo, diffuse, specular, height, normals, masks)


def removed_parts(without: Collection[str]) -> tuple[str, ...]:
    """The names of the parts to omit, which may be a single one.

    Raises:
      ArgumentError: if there is no such part.
    """
    removable = tuple(part for part in PARTS if part != "fur")
    removed = set()
    for name in (without,) if isinstance(without, str) else without:
        if (at := position(name, removable)) is None:
            have = ", ".join(removable)
            raise ArgumentError(f"`without` must be of {have}, got {name}")
        removed.add(removable[at])
    return tuple(sorted(removed))


def _check_label(label):
    if not isinstance(label, jax.core.Tracer) and not 0 <= label < len(CLASSES):
        raise ArgumentError(f"`label` must be in 0..{len(CLASSES) - 1}, got {label}")


def _varying(key):
    """`vary(value, by)`, which changes a value at random by up to the fraction `by`."""
    keys = iter(jax.random.split(key, 8))

    def vary(value, by):
        return value * (1 + by * jax.random.uniform(next(keys), minval=-1.0))

    vary.key = keys.__next__
    return vary


def _pose(key, kind, size):
    """The view of a face, and its kind with this face's fur colour."""
    keys = jax.random.split(key, 3)
    vary = _varying(keys[0])
    pixel = 2 / size
    centres = (jnp.arange(size) + 0.5) * pixel - 1
    x, y = _head_coordinates(keys[1], *jnp.meshgrid(centres, centres))
    side = jnp.abs(x)
    radius, angle = jnp.hypot(x, y - 0.15), jnp.arctan2(side, y - 0.15)
    strands = _strands(keys[2], radius, angle, jnp.sign(x))
    view = View(x, y, side, radius, angle, strands, vary(0.36, 0.04), pixel)
    return view, kind._replace(fur=vary(1.0, 0.15) * kind.fur)


def _head_coordinates(key, x, y):
    """Coordinates on a head that is rotated, shifted and scaled at random."""
    angle, right, down, scale = jax.random.truncated_normal(key, -2, 2, (4,))
    x, y = x - 0.05 * right, y - 0.06 - 0.04 * down
    turn, zoom = 0.09 * angle, 0.93 + 0.05 * scale
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    return zoom * (x * cos + y * sin), zoom * (y * cos - x * sin)


def _strands(key, radius, angle, sign):
    """Fur that grows away from the nose: noise of high angular frequency."""
    count = 18
    keys = jax.random.split(key, 4)
    around = jax.random.uniform(keys[0], (count,), minval=18.0, maxval=56.0)
    along = jax.random.uniform(keys[1], (count,), minval=-14.0, maxval=14.0)
    phase = 2 * jnp.pi * jax.random.uniform(keys[2], (count,))
    other = 2 * jnp.pi * jax.random.uniform(keys[3], (count,))
    phase = jnp.where(sign[..., None] < 0, other, phase)  # not symmetric
    waves = jnp.cos(around * angle[..., None] + along * radius[..., None] + phase)
    fade = jnp.clip(radius / 0.3, 0, 1)  # the strands converge at the nose
    return fade * waves.sum(-1) / math.sqrt(count)


def _background(key, x, y):
    """A gradient between two muted colours."""
    keys = jax.random.split(key, 3)
    colours = jax.random.uniform(keys[0], (2, 3), minval=0.25, maxval=0.65)
    colours = 0.6 * colours + 0.4 * colours.mean(1, keepdims=True)
    turn = 2 * jnp.pi * jax.random.uniform(keys[1])
    share = jnp.clip(0.5 + 0.5 * (x * jnp.cos(turn) + y * jnp.sin(turn)), 0, 1)
    return colours[0] * (1 - share[..., None]) + colours[1] * share[..., None]


def _normals(height, pixel):
    down, right = jnp.gradient(height, pixel)
    normals = jnp.stack([-right, -down, jnp.ones_like(height)], -1)
    return normals / jnp.linalg.norm(normals, axis=-1, keepdims=True)


def _lit(key, normals, wet, furry):
    """Diffuse (Lambert) and specular (Blinn-Phong) shading by one light."""
    keys = jax.random.split(key, 3)
    turn = jax.random.uniform(keys[0], minval=-2.4, maxval=-0.7)  # from above
    rise = jax.random.uniform(keys[1], minval=0.45, maxval=1.1)
    light = jnp.array(
        [jnp.cos(turn) * jnp.cos(rise), jnp.sin(turn) * jnp.cos(rise), jnp.sin(rise)]
    )
    strength = jax.random.uniform(keys[2], minval=0.95, maxval=1.25)
    facing = jnp.clip(normals @ light, 0, None)
    diffuse = AMBIENT + (strength - AMBIENT) * facing
    half = light + jnp.array([0.0, 0.0, 1.0])
    shine = jnp.clip(normals @ (half / jnp.linalg.norm(half)), 0, None)
    specular = 0.25 * furry * shine ** ROUGHNESS["fur"]
    specular = specular + 0.85 * wet * shine ** ROUGHNESS["wet"]
    return diffuse[..., None], specular[..., None]
