"""The parts of the synthetic faces, painted in layers.

A painter is a function `(vary, view, kind, canvas) -> canvas`. `vary(value, by)`
changes a value at random by up to the fraction `by`, and `vary.key()` is a fresh key.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

CLASSES = ("cat", "dog", "tiger")
PARTS = ("eyes", "nose", "whiskers", "ears", "fur")
LIGHT_WHISKERS = (0.95, 0.94, 0.90)
DARK = (0.06, 0.05, 0.05)  # pupils, eye rims, mouth


class Kind(NamedTuple):
    """What distinguishes the classes; in `KINDS`, one row per class."""

    fur: Array  # colour
    second: Array  # colour of the stripes or patches
    stripes: Array  # strength of the stripes
    patches: Array  # strength of the patches
    iris: Array  # colour
    eye: Array  # half width
    pupil: Array  # width / height
    nose: Array  # colour
    nose_width: Array  # half width
    muzzle: Array  # half width
    whiskers: Array  # length; 0 for none
    ear: Array  # half width, height, outward tilt, roundness (0: triangle)


KINDS = Kind(
    fur=np.array([[0.60, 0.55, 0.50], [0.74, 0.55, 0.34], [0.92, 0.56, 0.20]]),
    second=np.array([[0.30, 0.26, 0.23], [0.95, 0.91, 0.83], [0.12, 0.09, 0.07]]),
    stripes=np.array([0.6, 0.0, 1.0]),
    patches=np.array([0.0, 1.0, 0.0]),
    iris=np.array([[0.52, 0.76, 0.26], [0.32, 0.18, 0.08], [0.93, 0.74, 0.20]]),
    eye=np.array([0.170, 0.135, 0.140]),
    pupil=np.array([0.35, 0.90, 0.70]),
    nose=np.array([[0.84, 0.47, 0.47], [0.08, 0.07, 0.07], [0.72, 0.36, 0.33]]),
    nose_width=np.array([0.080, 0.135, 0.115]),
    muzzle=np.array([0.20, 0.27, 0.25]),
    whiskers=np.array([0.55, 0.0, 0.45]),
    ear=np.array(
        [[0.23, 0.48, 0.32, 0.0], [0.17, 0.62, 2.35, 0.8], [0.20, 0.25, 0.60, 1.0]]
    ),
)


class View(NamedTuple):
    """Head coordinates of the pixels, `[H, W]`, and quantities that parts share."""

    x: Array
    y: Array
    side: Array  # |x|: a face is symmetric, except for its patches and the light
    radius: Array  # polar coordinates around the nose
    angle: Array
    strands: Array  # fur texture, around 0
    muzzle_y: Array
    pixel: float  # side of a pixel

    def cover(self, inside, scale=1.0):
        """Share of each pixel inside an edge at signed distance `inside * scale`."""
        return jnp.clip(0.5 + inside * scale / self.pixel, 0, 1)


class Canvas(NamedTuple):
    """The face painted so far, `[H, W, ...]`."""

    albedo: Array
    height: Array
    wet: Array  # share of each pixel, as are the following
    furry: Array
    seen: dict[str, Array]  # visibility of each part

    def paint(self, colour, alpha, part=None):
        """Paints a colour with opacity `alpha`; a part hides the parts below it."""
        seen = self.seen
        if part:
            seen = {name: below * (1 - alpha) for name, below in seen.items()}
            seen[part] = seen[part] + alpha
        albedo = self.albedo * (1 - alpha[..., None]) + colour * alpha[..., None]
        return self._replace(albedo=albedo, seen=seen)


def _head(vary, view, kind, canvas):
    width, length = vary(0.62, 0.07), vary(0.64, 0.07)
    x, y = view.x / width, (view.y - 0.08) / length
    head = view.cover(1 - jnp.hypot(x, y), width)
    stripes = kind.stripes * _stripes(
        vary.key(), view.side, view.y, view.radius, view.angle
    )
    patches = kind.patches * _patches(vary.key(), view.x, view.y)
    marked = jnp.clip(stripes + patches, 0, 1)[..., None]
    colour = (kind.fur * (1 - marked) + kind.second * marked) * _furry(view)
    canvas = canvas.paint(colour, head, "fur")
    return canvas._replace(height=0.55 * _dome(x, y), furry=head)


def _furry(view):
    """Brightness of the coat, which varies between strands."""
    return 1 + 0.35 * view.strands[..., None]


def _both_ears(vary, view, kind, canvas):
    ear, inner, height = _ears(vary, kind, view)
    hangs = kind.ear[2] > 1.5  # in front of the head rather than behind it
    ear = jnp.where(hangs, ear, ear * (1 - canvas.furry))
    colour = (0.75 * kind.fur + 0.35 * inner[..., None] * kind.nose) * _furry(view)
    return canvas.paint(colour, ear, "ears")._replace(
        height=canvas.height + ear * (height + jnp.where(hangs, 0.1, 0.0)),
        furry=jnp.maximum(canvas.furry, ear),
    )


def _ears(vary, kind, view):
    """Coverage of both ears, coverage of their insides, and their height."""
    width, length, tilt, round_ = kind.ear
    width, length, tilt = vary(width, 0.12), vary(length, 0.12), vary(tilt, 0.08)
    # Coordinates along and across the ear's axis, from its base on the head.
    ex, ey = view.side - 0.36, view.y + 0.33
    along = ex * jnp.sin(tilt) - ey * jnp.cos(tilt)
    across = ex * jnp.cos(tilt) + ey * jnp.sin(tilt)
    share = along / length
    pointed = width * (1 - share) - jnp.abs(across)
    oval = 1 - jnp.hypot(across / width, (share - 0.35) / 0.65)
    inside = (1 - round_) * pointed + round_ * oval * width
    inside = jnp.where(share > -0.4, inside, -1.0)
    ear, inner = view.cover(inside), view.cover(inside - 0.3 * width)
    return ear, inner, 0.25 * jnp.sqrt(jnp.clip(inside, 0, None) + 1e-3)


def _muzzle(vary, view, kind, canvas):
    width = vary(kind.muzzle, 0.1)
    x, y = (view.side - 0.55 * width) / width, (view.y - view.muzzle_y) / 0.17
    muzzle = view.cover(1 - jnp.hypot(x, y), 0.17)
    light = (0.55 * kind.fur + 0.45) * (1 + 0.15 * view.strands[..., None])
    mouth_y = view.muzzle_y + 0.13 - 0.25 * view.side**2 / width
    mouth = view.cover(0.014 - jnp.abs(view.y - mouth_y)) * view.cover(
        width - view.side
    )
    below, above = mouth_y - view.y, view.y - view.muzzle_y
    line = view.cover(0.012 - view.side) * view.cover(below) * view.cover(above)
    canvas = canvas.paint(light, 0.9 * muzzle)
    canvas = canvas.paint(jnp.array(DARK), jnp.maximum(mouth, line))
    return canvas._replace(height=canvas.height + 0.16 * _dome(x, y))


def _whiskers(vary, view, kind, canvas):
    """Three curved hairs on each side of the muzzle."""
    bend = jax.random.uniform(vary.key(), (3,), minval=-0.12, maxval=0.12)
    start = 0.16
    stop, seen = start + vary(kind.whiskers, 0.15), 0.0
    ends = view.cover(view.side - start) * view.cover(stop - view.side)
    for i in range(3):
        along = (view.side - start) / 0.5
        centre = view.muzzle_y - 0.07 + 0.06 * i + 0.16 * (i - 1) * along
        centre = centre + bend[i] * along**2
        hair = view.cover(0.013 - jnp.abs(view.y - centre)) * ends
        seen = jnp.maximum(seen, hair)
    seen = jnp.where(kind.whiskers > 0, seen, 0.0)
    return canvas.paint(jnp.array(LIGHT_WHISKERS), seen, "whiskers")


def _nose(vary, view, kind, canvas):
    """The nose, wider at the top."""
    width = vary(kind.nose_width, 0.12)
    y = (view.y - view.muzzle_y + 0.15) / (0.75 * width)
    x = view.side / (width * jnp.clip(1 - 0.35 * y, 0.3, 1.4))
    nose = view.cover(1 - jnp.hypot(x, y), width)
    canvas = canvas.paint(vary(1.0, 0.1) * kind.nose, nose, "nose")
    return canvas._replace(
        height=canvas.height + 0.10 * _dome(x, y),
        wet=jnp.maximum(canvas.wet, nose),
        furry=canvas.furry * (1 - nose),
    )


def _eyes(vary, view, kind, canvas):
    """A dark rim, the iris and the pupil."""
    width = vary(kind.eye, 0.12)
    height, apart = vary(0.78, 0.1) * width, vary(0.27, 0.06)
    x, y = view.side - apart, view.y + vary(0.10, 0.2)
    y = y - 0.25 * x  # the outer corner is higher
    distance = jnp.hypot(x / width, y / height)
    rim, iris = (view.cover(1 - distance / share, height) for share in (1, 0.8))
    tall = 0.72 * height * vary(1.0, 0.1)
    wide = kind.pupil * tall
    pupil = view.cover(1 - jnp.hypot(x / wide, y / tall), wide)
    canvas = canvas.paint(jnp.array(DARK), rim, "eyes")
    canvas = canvas.paint(vary(1.0, 0.15) * kind.iris, iris)
    canvas = canvas.paint(jnp.array(DARK), jnp.minimum(pupil, iris))
    # A ball in a shallow socket.
    deep = canvas.height * (1 - 0.1 * rim) + 0.12 * _dome(x / width, y / height)
    return canvas._replace(
        height=deep,
        wet=jnp.maximum(canvas.wet, iris),
        furry=canvas.furry * (1 - rim),
    )


def _dome(x, y):
    """Height of a unit hemisphere, 0 outside it."""
    square = jnp.clip(1 - x**2 - y**2, 0, None)
    return jnp.sqrt(square + 1e-3) - math.sqrt(1e-3)


def _stripes(key, side, y, radius, angle):
    """Dark stripes: vertical on the forehead, radial on the cheeks."""
    phase, cheek_phase = jax.random.uniform(key, (2,), minval=-0.4, maxval=0.4)
    bend = 0.6 * jnp.sin(5 * radius + phase)
    forehead = jnp.cos(17 * side * (1 + 0.4 * (y + 0.5)) + bend) * (y < 0)
    cheek = jnp.cos(11 * angle + 3 * bend + cheek_phase) * (y >= 0) * (side > 0.28)
    wave = jnp.where(y < 0, forehead * jnp.clip(-3 * y - 0.5, 0, 1), cheek)
    return jnp.clip(2.2 * (wave - 0.35), 0, 1) * jnp.clip((radius - 0.3) / 0.15, 0, 1)


def _patches(key, x, y):
    """A blaze down the middle and one patch in a random place, as dogs may have."""
    draw = jax.random.uniform(key, (3,), minval=-1.0)
    px, py = 0.45 * draw[0], -0.15 + 0.25 * draw[1]
    size = 0.28 + 0.08 * draw[2]
    patch = jnp.clip(4 - 4 * jnp.hypot((x - px) / size, (y - py) / (1.2 * size)), 0, 1)
    blaze = jnp.clip(4 - 40 * jnp.abs(x) / (0.5 + y**2), 0, 1)
    return jnp.maximum(patch, blaze)


PAINTERS = {
    "fur": _head,
    "ears": _both_ears,
    "muzzle": _muzzle,
    "whiskers": _whiskers,
    "nose": _nose,
    "eyes": _eyes,
}
