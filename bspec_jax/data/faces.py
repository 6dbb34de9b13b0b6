"""Synthetic faces of three animal-like classes, with all that they are rendered from.

    face = render(example_key("train", 0), CLASSES.index("cat"), 64)
    face.image           # [64, 64, 3] in 0..1: albedo * diffuse + specular
    face.masks["eyes"]   # [64, 64], where that part is seen

No real set has a ground truth of its parts, layers and light; these faces score a
decomposition by it. A face is a function of its key and class alone, in coordinates
from -1 to 1 (x to the right, y down), so that it is the same at any size.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from bspec_jax.data.images import Part, Source, Split

CLASSES = ("cat", "dog", "tiger")
PARTS = ("eyes", "nose", "whiskers", "ears", "fur")
COUNTS = {"train": 6000, "test": 900}
IMAGE_SIZE = 64  # unless told otherwise
RENDERED_AT_ONCE = 64
LIGHT_WHISKERS = (0.95, 0.94, 0.90)
DARK = (0.06, 0.05, 0.05)  # pupils, rims of the eyes, mouth
AMBIENT = 0.35  # share of the light that has no direction
ROUGHNESS = {"fur": 12.0, "wet": 60.0}  # exponents of the specular light


class Face(NamedTuple):
    """image = albedo * diffuse + specular, clipped to 0..1.

    image, albedo: `[H, W, 3]`.
    diffuse, specular: of the light, `[H, W, 1]`.
    height: towards the viewer, `[H, W]`, in units of half the image's side.
    normals: unit vectors (right, down, towards the viewer), `[H, W, 3]`.
    masks: for each of `PARTS` where it is seen, `[H, W]`.
    """

    image: Float[Array, "*N H W 3"]
    albedo: Float[Array, "*N H W 3"]
    diffuse: Float[Array, "*N H W 1"]
    specular: Float[Array, "*N H W 1"]
    height: Float[Array, "*N H W"]
    normals: Float[Array, "*N H W 3"]
    masks: dict[str, Bool[Array, "*N H W"]]


class Kind(NamedTuple):
    """What distinguishes the classes; a row for each of them."""

    fur: Array  # colour
    second: Array  # colour of the stripes or patches
    stripes: Array  # strength of stripes
    patches: Array  # strength of patches
    iris: Array  # colour
    eye: Array  # half of its width
    pupil: Array  # its width relative to its height
    nose: Array  # colour
    nose_width: Array  # half of it
    muzzle: Array  # half of its width
    whiskers: Array  # length; 0 for none
    ear: Array  # half width, height, outward tilt, roundness (0: a triangle)


KINDS = Kind(
    fur=jnp.array([[0.60, 0.55, 0.50], [0.74, 0.55, 0.34], [0.92, 0.56, 0.20]]),
    second=jnp.array([[0.30, 0.26, 0.23], [0.95, 0.91, 0.83], [0.12, 0.09, 0.07]]),
    stripes=jnp.array([0.6, 0.0, 1.0]),
    patches=jnp.array([0.0, 1.0, 0.0]),
    iris=jnp.array([[0.52, 0.76, 0.26], [0.32, 0.18, 0.08], [0.93, 0.74, 0.20]]),
    eye=jnp.array([0.170, 0.135, 0.140]),
    pupil=jnp.array([0.35, 0.90, 0.70]),
    nose=jnp.array([[0.84, 0.47, 0.47], [0.08, 0.07, 0.07], [0.72, 0.36, 0.33]]),
    nose_width=jnp.array([0.080, 0.135, 0.115]),
    muzzle=jnp.array([0.20, 0.27, 0.25]),
    whiskers=jnp.array([0.55, 0.0, 0.45]),
    ear=jnp.array(
        [[0.23, 0.48, 0.32, 0.0], [0.17, 0.62, 2.35, 0.8], [0.20, 0.25, 0.60, 1.0]]
    ),
)


def example_key(split: str, index: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of a face of the set, `split` one of `COUNTS`; its class is index % 3."""
    return jax.random.fold_in(jax.random.key(list(COUNTS).index(split)), index)


def find(image_size: int | None) -> Source:
    """The set of faces, as a source of images; it is the same whatever the seed."""
    size = image_size or IMAGE_SIZE
    parts = [
        Part(count, partial(_read, split, size), partial(labels, split))
        for split, count in COUNTS.items()
    ]
    return Source("faces", *parts, CLASSES)


def ground_truth(split: str, indices: Sequence[int] | np.ndarray, size: int) -> Face:
    """The faces of these examples with all their layers, leaves `[N, H, W, ...]`."""
    indices, faces = np.asarray(indices), []
    for start in range(0, len(indices), RENDERED_AT_ONCE):
        # Always as many, so that it is compiled once.
        some = np.resize(indices[start : start + RENDERED_AT_ONCE], RENDERED_AT_ONCE)
        keys = jax.vmap(partial(example_key, split))(some)
        rendered = jax.device_get(_render_many(keys, _labels(some), size))
        count = min(RENDERED_AT_ONCE, len(indices) - start)
        faces.append(jax.tree.map(lambda leaf, n=count: leaf[:n], rendered))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *faces)


def labels(split: str) -> Int32[np.ndarray, " N"]:
    """The classes of all examples of a split."""
    return _labels(np.arange(COUNTS[split]))


def _labels(indices):
    return np.asarray(indices % len(CLASSES), np.int32)


def _read(split, size, indices):
    images = ground_truth(split, indices, size).image
    return Split(np.round(255 * images).astype(np.uint8), _labels(indices))


@partial(jax.jit, static_argnums=2)
def _render_many(keys, labels, size):
    return jax.vmap(lambda key, label: render(key, label, size))(keys, labels)


def render(key: Key[Array, ""], label: Int[Array, ""] | int, size: int) -> Face:
    """One face of `size` x `size` pixels; for many use `jax.vmap`."""
    kind = jax.tree.map(lambda table: table[label], KINDS)
    keys = iter(jax.random.split(key, 24))

    def vary(value, by):
        """Changes a value by up to so much of it, either way."""
        return value * (1 + by * jax.random.uniform(next(keys), minval=-1.0))

    pixel = 2 / size
    centres = (jnp.arange(size) + 0.5) * pixel - 1
    x, y = _posed(next(keys), *jnp.meshgrid(centres, centres))
    side = jnp.abs(x)  # a face is symmetric, but for its patches and the light
    radius, angle = jnp.hypot(x, y - 0.15), jnp.arctan2(side, y - 0.15)
    strands = _strands(next(keys), radius, angle, jnp.sign(x))
    cover = partial(_cover, pixel=pixel)

    # The head and the ears, and what their fur is coloured like.
    head_a, head_b = vary(0.62, 0.07), vary(0.64, 0.07)
    head = cover(1 - jnp.hypot(x / head_a, (y - 0.08) / head_b), head_a)
    ear, inner, ear_height = _ears(vary, kind, side, y, cover)
    hangs = kind.ear[2] > 1.5  # before the head, not behind it
    fur = vary(1.0, 0.15) * kind.fur
    stripes = kind.stripes * _stripes(next(keys), side, y, radius, angle)
    patches = kind.patches * _patches(next(keys), x, y)
    marked = jnp.clip(stripes + patches, 0, 1)[..., None]
    coat = (fur * (1 - marked) + kind.second * marked) * (1 + 0.35 * strands[..., None])
    ear_colour = (0.75 * fur + 0.35 * inner[..., None] * kind.nose) * (
        1 + 0.35 * strands[..., None]
    )
    background = _background(next(keys), x, y)
    albedo = background
    ear_seen = jnp.where(hangs, ear, ear * (1 - head))
    for colour, alpha in ((coat, head), (ear_colour, ear_seen)):
        albedo = _over(albedo, colour, alpha)
    dome = _dome(x / head_a, (y - 0.08) / head_b)
    height = 0.55 * dome + ear_seen * (ear_height + jnp.where(hangs, 0.1, 0.0))

    # Muzzle and mouth.
    muzzle_width, muzzle_y = vary(kind.muzzle, 0.1), vary(0.36, 0.04)
    across, down = (side - 0.55 * muzzle_width) / muzzle_width, (y - muzzle_y) / 0.17
    muzzle = cover(1 - jnp.hypot(across, down), 0.17)
    bright = 0.55 * fur + 0.45
    albedo = _over(albedo, bright * (1 + 0.15 * strands[..., None]), 0.9 * muzzle)
    height = height + 0.16 * _dome(across, down)
    mouth_y = muzzle_y + 0.13 - 0.25 * side**2 / muzzle_width
    mouth = cover(0.014 - jnp.abs(y - mouth_y), 1) * cover(muzzle_width - side, 1)
    line = cover(0.012 - side, 1) * cover(mouth_y - y, 1) * cover(y - muzzle_y, 1)
    albedo = _over(albedo, jnp.array(DARK), jnp.maximum(mouth, line))

    # Whiskers, before the nose and the eyes, which they do not cross.
    whiskers = _whiskers(vary, next(keys), kind.whiskers, side, y, muzzle_y, cover)
    albedo = _over(albedo, jnp.array(LIGHT_WHISKERS), whiskers)

    # The nose: wider above than below.
    nose_width, nose_y = vary(kind.nose_width, 0.12), muzzle_y - 0.15
    below = (y - nose_y) / (0.75 * nose_width)
    beside = side / (nose_width * jnp.clip(1 - 0.35 * below, 0.3, 1.4))
    nose = cover(1 - jnp.hypot(beside, below), nose_width)
    albedo = _over(albedo, vary(1.0, 0.1) * kind.nose, nose)
    height = height + 0.10 * _dome(beside, below)

    # The eyes: a dark rim, the iris and the pupil.
    eye_width = vary(kind.eye, 0.12)
    eye_height, apart = vary(0.78, 0.1) * eye_width, vary(0.27, 0.06)
    eye_x, eye_y = side - apart, y + vary(0.10, 0.2)
    eye_y = eye_y - 0.25 * eye_x  # the outer corner is higher
    rim = cover(1 - jnp.hypot(eye_x / eye_width, eye_y / eye_height), eye_height)
    inside = 0.80
    iris = cover(
        1 - jnp.hypot(eye_x / eye_width, eye_y / eye_height) / inside, eye_height
    )
    pupil_height = 0.72 * eye_height * vary(1.0, 0.1)
    pupil = cover(
        1 - jnp.hypot(eye_x / (kind.pupil * pupil_height), eye_y / pupil_height),
        kind.pupil * pupil_height,
    )
    for colour, alpha in (
        (jnp.array(DARK), rim),
        (vary(1.0, 0.15) * kind.iris, iris),
        (jnp.array(DARK), jnp.minimum(pupil, iris)),
    ):
        albedo = _over(albedo, colour, alpha)
    height = height * (1 - 0.1 * rim)  # in its socket, and round itself
    height = height + 0.12 * _dome(eye_x / eye_width, eye_y / eye_height)
    wet = jnp.maximum(iris, nose)
    furry = jnp.maximum(head, ear) * (1 - jnp.maximum(rim, nose))
    height = height + 0.007 * strands * furry

    albedo = jnp.clip(albedo, 0, 1)
    normals = _normals(height, pixel)
    diffuse, specular = _lit(next(keys), normals, wet, furry)
    masks = {
        "eyes": rim > 0.5,
        "nose": (nose > 0.5) & (rim <= 0.5),
        "whiskers": (whiskers > 0.35) & (nose <= 0.5) & (rim <= 0.5),
        "ears": (ear_seen > 0.5) & (whiskers <= 0.35) & (rim <= 0.5),
    }
    taken = jnp.stack(list(masks.values())).any(0)
    masks["fur"] = (jnp.maximum(head, ear) > 0.5) & ~taken
    image = jnp.clip(albedo * diffuse + specular, 0, 1)
    return Face(image, albedo, diffuse, specular, height, normals, masks)


def _posed(key, x, y):
    """Coordinates of the head, which is turned, moved and scaled in the image."""
    angle, right, down, scale = jax.random.truncated_normal(key, -2, 2, (4,))
    x, y = x - 0.05 * right, y - 0.06 - 0.04 * down
    turn, zoom = 0.09 * angle, 0.93 + 0.05 * scale
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    return zoom * (x * cos + y * sin), zoom * (y * cos - x * sin)


def _cover(inside, scale, pixel):
    """Share of a pixel within an edge, `inside * scale` away from it."""
    return jnp.clip(0.5 + inside * scale / pixel, 0, 1)


def _dome(x, y):
    """Height of half a unit ball, 0 outside."""
    square = jnp.clip(1 - x**2 - y**2, 0, None)
    return jnp.sqrt(square + 1e-3) - math.sqrt(1e-3)


def _over(below, colour, alpha):
    alpha = alpha[..., None]
    return below * (1 - alpha) + colour * alpha


def _strands(key, radius, angle, sign):
    """Fur that grows away from the nose: noise of high frequency in the angle."""
    count = 18
    keys = jax.random.split(key, 4)
    around = jax.random.uniform(keys[0], (count,), minval=18.0, maxval=56.0)
    along = jax.random.uniform(keys[1], (count,), minval=-14.0, maxval=14.0)
    phase = 2 * jnp.pi * jax.random.uniform(keys[2], (count,))
    other = 2 * jnp.pi * jax.random.uniform(keys[3], (count,))
    phase = jnp.where(sign[..., None] < 0, other, phase)  # not symmetric
    waves = jnp.cos(around * angle[..., None] + along * radius[..., None] + phase)
    fade = jnp.clip(radius / 0.3, 0, 1)  # the strands run together at the nose
    return fade * waves.sum(-1) / math.sqrt(count)


def _stripes(key, side, y, radius, angle):
    """Dark stripes: upright on the forehead, lying on the cheeks."""
    one, two = jax.random.uniform(key, (2,), minval=-0.4, maxval=0.4)
    bend = 0.6 * jnp.sin(5 * radius + one)
    forehead = jnp.cos(17 * side * (1 + 0.4 * (y + 0.5)) + bend) * (y < 0)
    cheek = jnp.cos(11 * angle + 3 * bend + two) * (y >= 0) * (side > 0.28)
    wave = jnp.where(y < 0, forehead * jnp.clip(-3 * y - 0.5, 0, 1), cheek)
    return jnp.clip(2.2 * (wave - 0.35), 0, 1) * jnp.clip((radius - 0.3) / 0.15, 0, 1)


def _patches(key, x, y):
    """A light blaze and one patch somewhere, as dogs may have."""
    where = jax.random.uniform(key, (3,), minval=-1.0)
    px, py = 0.45 * where[0], -0.15 + 0.25 * where[1]
    size = 0.28 + 0.08 * where[2]
    patch = jnp.clip(4 - 4 * jnp.hypot((x - px) / size, (y - py) / (1.2 * size)), 0, 1)
    blaze = jnp.clip(4 - 40 * jnp.abs(x) / (0.5 + y**2), 0, 1)
    return jnp.maximum(patch, blaze)


def _ears(vary, kind, side, y, cover):
    """Where a pair of ears is, its inside, and its height."""
    width, length, tilt, round_ = kind.ear
    width, length, tilt = vary(width, 0.12), vary(length, 0.12), vary(tilt, 0.08)
    # From the foot of the ear on the head, along and across its axis.
    ex, ey = side - 0.36, y + 0.33
    along = ex * jnp.sin(tilt) - ey * jnp.cos(tilt)
    across = ex * jnp.cos(tilt) + ey * jnp.sin(tilt)
    share = along / length
    pointed = width * (1 - share) - jnp.abs(across)
    oval = 1 - jnp.hypot(across / width, (share - 0.35) / 0.65)
    inside = (1 - round_) * pointed + round_ * oval * width
    inside = jnp.where(share > -0.4, inside, -1.0)
    ear, inner = cover(inside, 1), cover(inside - 0.3 * width, 1)
    return ear, inner, 0.25 * jnp.sqrt(jnp.clip(inside, 0, None) + 1e-3)


def _whiskers(vary, key, length, side, y, muzzle_y, cover):
    """Three curved hairs on each side, away from the muzzle."""
    bend = jax.random.uniform(key, (3,), minval=-0.12, maxval=0.12)
    start, stop, seen = 0.16, 0.16 + vary(length, 0.15), 0.0
    for i in range(3):
        along = (side - start) / 0.5
        centre = muzzle_y - 0.07 + 0.06 * i + 0.16 * (i - 1) * along
        centre = centre + bend[i] * along**2
        ends = cover(side - start, 1) * cover(stop - side, 1)
        seen = jnp.maximum(seen, cover(0.013 - jnp.abs(y - centre), 1) * ends)
    return jnp.where(length > 0, seen, 0.0)


def _background(key, x, y):
    """A dull colour that changes slowly from side to side."""
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
    """Diffuse (Lambert) and specular (Blinn-Phong) light from one side."""
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
