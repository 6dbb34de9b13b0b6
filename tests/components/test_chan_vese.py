import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from skimage.filters import gaussian
from skimage.segmentation import chan_vese as reference

from bspec_jax.components.chan_vese import (
    PLAIN,
    Border,
    _solve_all,
    chan_vese,
    functional,
)


def blobs(count: int, seed: int = 0):
    """Smooth random images in 0..1, not square, and their initial surfaces."""
    rng = np.random.default_rng(seed)
    images = np.stack([gaussian(rng.normal(size=(20, 27)), 2) for _ in range(count)])
    images -= images.min((1, 2), keepdims=True)
    images /= images.max((1, 2), keepdims=True)
    return images, 2 * images - 1.2


def disc(height=24, width=30, centre=(10, 17), radius=6):
    rows, columns = np.mgrid[:height, :width]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def of_scikit_image(image, surface, border, tolerance=0.0):
    return reference(
        image,
        mu=border.length,
        lambda1=border.inside,
        lambda2=border.outside,
        tol=tolerance,
        max_num_iter=border.max_iterations,
        dt=border.time_step,
        init_level_set=surface,
        extended_output=True,
    )


AS_SCIKIT_IMAGE = Border(slope=1e-8, tolerance=0.0, max_iterations=40)
BORDERS = [
    AS_SCIKIT_IMAGE,
    AS_SCIKIT_IMAGE._replace(length=0.05, inside=3.0, outside=0.7, time_step=0.3),
]


@pytest.mark.parametrize("border", BORDERS)
def test_iterates_are_those_of_scikit_image(x64, border):
    images, surfaces = blobs(5)
    images = 3 * images - 0.4  # of any scale
    found = chan_vese(images, surfaces / 2, border)
    assert_array_equal(found.iterations, 40)
    assert not np.asarray(found.converged).any()
    for image, surface, phi, value in zip(
        images, surfaces / 2, found.surface, found.functional, strict=True
    ):
        _, right, _ = of_scikit_image(image, surface, border)
        # Rounding grows where the slope is nearly 0 and its inverse large.
        assert_allclose(phi, right, atol=1e-8)
        scaled = (image - image.min()) / np.ptp(image)
        assert_allclose(value, reference_functional(right, scaled, border), rtol=1e-9)


def reference_functional(phi, image, border):
    """With np.gradient-like differences, mirrored at the edge."""
    side = 0.5 + np.arctan(phi) / np.pi
    inner, outer = np.average(image, weights=side), np.average(image, weights=1 - side)
    padded = np.pad(phi, 1, "edge")
    slope = np.hypot(
        padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    )
    return (
        border.inside * (image - inner) ** 2 * side
        + border.outside * (image - outer) ** 2 * (1 - side)
        + border.length * slope / 2 / (1 + phi**2)
    ).sum()


SIZE, CENTRE = 48, (24, 24)
START = disc(SIZE, SIZE, (18, 18), 9.99)
PLATEAU = np.where(START, 1, -1)


@pytest.mark.parametrize(
    "surface",
    [
        PLATEAU,
        PLATEAU.astype(np.float64),
        START,
        np.uint8(255 * START),
        np.int8(-100 + 150 * START),
        np.where(START, 3.0, -15.0),
        np.where(np.arange(SIZE) < 20, -1, 1) * np.where(np.arange(SIZE) < 31, 1, -1)
        + np.zeros((SIZE, 1), int),  # a band
        np.where(disc(SIZE, SIZE, (17, 19), 3), 1, -1),  # a dot
        np.pad(np.ones((11, 13), int), ((9, 28), (8, 27))) * 2 - 1,  # a rectangle
    ],
)
@pytest.mark.parametrize("border", [PLAIN, Border(length=0.05)])
def test_a_flat_start_of_any_type_reaches_the_disc(surface, border):
    image = disc(SIZE, SIZE, CENTRE, 12)
    for of_type in (image * 1.0, image, np.uint8(200 * image + 20), 7.0 * image - 3):
        found = chan_vese(of_type[None], surface[None], border)
        assert_array_equal(found.surface[0] > 0, image)
        assert found.converged[0]
        assert found.iterations[0] < 300
    if surface is PLATEAU:  # which scikit-image takes, too
        right = of_scikit_image(
            image * 1.0, surface, border._replace(max_iterations=300)
        )
        assert_array_equal(right[0], image)


def test_a_disc_of_two_levels_is_segmented_exactly():
    inside = disc()
    image = np.where(inside, 0.8, 0.3).astype(np.float32)
    rows, columns = np.mgrid[:24, :30]
    chequered = np.sin(np.pi * rows / 5) * np.sin(np.pi * columns / 5)
    for surface in (2 * image - 1.1, disc(centre=(12, 14), radius=3) * 2.0 - 1.0):
        found = chan_vese(image[None], np.float32(surface)[None], Border(length=0.01))
        assert_array_equal(np.asarray(found.surface[0]) > 0, inside)
        assert found.converged[0]
    # From where nothing is known, either side may be the inside.
    found = chan_vese(image[None], np.float32(chequered)[None], Border(length=0.01))
    mask = np.asarray(found.surface[0]) > 0
    assert (mask == inside).all() or (mask != inside).all()


def test_what_has_converged_stays():
    images, surfaces = blobs(12)
    border = Border(length=0.1)
    found = chan_vese(images, surfaces, border)
    converged = np.asarray(found.converged)
    assert converged.sum() >= 8
    before = np.asarray(found.surface) > 0
    # Not one of them is where it started.
    assert (before != (surfaces > 0)).any((1, 2)).all()
    for n in np.flatnonzero(converged):
        more = border._replace(
            tolerance=0.0, max_iterations=int(found.iterations[n]) + 50
        )
        after = chan_vese(images[n : n + 1], surfaces[n : n + 1], more)
        assert not after.converged[0]
        assert ((np.asarray(after.surface[0]) > 0) != before[n]).sum() <= 1


def test_what_has_not_converged_is_said():
    images, surfaces = blobs(6)
    border = Border(length=0.1)
    needed = np.asarray(chan_vese(images, surfaces, border).iterations)
    half = border._replace(max_iterations=int(np.median(needed)))
    found = chan_vese(images, surfaces, half)
    assert_array_equal(found.converged, needed <= half.max_iterations)
    assert set(np.asarray(found.converged)) == {True, False}
    none = chan_vese(images, surfaces, border._replace(max_iterations=0))
    assert not np.asarray(none.converged).any()
    assert_allclose(
        none.surface,
        surfaces / np.abs(surfaces).max((1, 2), keepdims=True).clip(1),
        rtol=1e-6,
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_segmented(value):
    images, surfaces = blobs(3)
    images[0, 3, 4] = surfaces[1, 2, 2] = value
    found = chan_vese(images, surfaces, Border(length=0.1))
    assert np.isnan(found.surface).any((1, 2)).tolist() == [True, True, False]
    assert np.isnan(found.functional).tolist() == [True, True, False]
    assert found.converged.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("surface", "border", "message"),
    [
        (np.ones((2, 8, 9)), PLAIN, r"\[N, H, W\], got shapes .*9, 8.*8, 9"),
        (np.ones((1, 9, 8)), PLAIN, "got shapes"),
        (np.ones((9, 8)), PLAIN, "got shapes"),
        (np.ones((2, 9, 8)), Border(time_step=0.0), "time_step must be positive"),
        (np.ones((2, 9, 8)), Border(time_step=np.nan), "time_step must be positive"),
        (np.ones((2, 9, 8)), Border(slope=0.0), "slope must be positive, got 0.0"),
    ],
)
def test_wrong_arguments_are_refused(surface, border, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(chan_vese)(np.ones((2, 9, 8)), surface, border)


def test_short_types_are_computed_in_float32():
    images, surfaces = blobs(2)
    border = Border(length=0.1, max_iterations=60)
    for dtype in (jnp.float16, jnp.bfloat16):
        short = [jnp.asarray(x, dtype) for x in (images, surfaces)]
        found = chan_vese(*short, border)
        right = chan_vese(*(np.asarray(x, np.float32) for x in short), border)
        assert found.surface.dtype == jnp.float32
        assert_array_equal(found.surface, right.surface)


def test_images_do_not_depend_on_each_other(x64):
    images, surfaces = blobs(5)
    border = Border(max_iterations=30)
    together = chan_vese(images, surfaces, border)
    for at_once in (1, 2, 5):
        again = chan_vese(images, surfaces, border, at_once=at_once)
        assert_allclose(again.surface, together.surface, atol=1e-10)
        assert_array_equal(again.iterations, together.iterations)


def test_another_border_compiles_nothing_anew():
    images, surfaces = blobs(2)
    before = _solve_all._cache_size()
    for length in (0.1, 0.2, 0.3):
        chan_vese(images, surfaces, Border(length=length, max_iterations=3))
    assert _solve_all._cache_size() - before <= 1


def test_a_constant_image_ends():
    image = jnp.full((1, 8, 8), 0.5)
    found = chan_vese(image, jnp.ones((1, 8, 8)), Border())
    assert np.isfinite(found.surface).all()
    assert np.isfinite(functional(found.surface[0], image[0], PLAIN))
    assert jax.tree.all(jax.tree.map(lambda leaf: leaf.shape[0] == 1, found))
