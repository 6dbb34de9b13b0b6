import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from skimage.filters import gaussian
from skimage.segmentation import chan_vese as reference

from bspec_jax.components import chan_vese as cv
from bspec_jax.components.chan_vese import Border, chan_vese


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


BORDERS = [
    Border(max_iterations=40),
    Border(length=0.05, inside=3.0, outside=0.7, time_step=0.3, max_iterations=40),
]


@pytest.mark.parametrize("border", BORDERS)
def test_iterates_are_those_of_scikit_image(x64, border):
    """Where its functional falls from the first iteration to the last."""
    images, surfaces = blobs(5)
    found = chan_vese(images, surfaces, border)
    compared = 0
    for image, surface, phi, value, count in zip(
        images, surfaces, *map(np.asarray, found), strict=True
    ):
        _, right, energies = reference(
            image,
            mu=border.length,
            lambda1=border.inside,
            lambda2=border.outside,
            tol=border.tolerance,
            max_num_iter=border.max_iterations,
            dt=border.time_step,
            init_level_set=surface,
            extended_output=True,
        )
        if (np.diff(energies) > 0).any():
            continue
        compared += 1
        assert count == len(energies)
        # Rounding grows where the slope is nearly 0 and its inverse large.
        assert_allclose(phi, right, atol=1e-8)
        assert_allclose(value, reference_functional(right, image, border), rtol=1e-9)
    assert compared >= 3


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


def test_the_functional_never_rises(x64):
    # A large step, with which the plain iteration does not fall.
    images, surfaces = blobs(4)
    border = Border(inside=4.0, time_step=100.0, tolerance=0.0)
    values = [
        np.asarray(
            chan_vese(images, surfaces, border._replace(max_iterations=n)).functional
        )
        for n in range(60)
    ]
    moves = np.diff(values, axis=0)
    assert (moves <= 0).all()
    assert (moves < 0).any(0).all()
    plain, image = jnp.asarray(surfaces[2]), jnp.asarray(images[2])
    rises = []
    for _ in range(60):
        plain = cv._step(plain, image, border, border.time_step)
        rises.append(float(cv.functional(plain, image, border)))
    assert (np.diff(rises) > 0).any()


def test_a_disc_of_two_levels_is_segmented_exactly():
    inside = disc()
    image = np.where(inside, 0.8, 0.3).astype(np.float32)
    rows, columns = np.mgrid[:24, :30]
    chequered = np.sin(np.pi * rows / 5) * np.sin(np.pi * columns / 5)
    for surface in (2 * image - 1.1, disc(centre=(12, 14), radius=3) * 2.0 - 1.0):
        found = chan_vese(image[None], np.float32(surface)[None], Border(length=0.01))
        assert_array_equal(np.asarray(found.surface[0]) > 0, inside)
    # From where nothing is known, either side may be the inside.
    found = chan_vese(image[None], np.float32(chequered)[None], Border(length=0.01))
    mask = np.asarray(found.surface[0]) > 0
    assert (mask == inside).all() or (mask != inside).all()


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
    before = chan_vese._cache_size()
    for length in (0.1, 0.2, 0.3):
        chan_vese(images, surfaces, Border(length=length, max_iterations=3))
    assert chan_vese._cache_size() - before <= 1


def test_a_constant_image_ends():
    image = jnp.full((1, 8, 8), 0.5)
    found = chan_vese(image, jnp.ones((1, 8, 8)), Border())
    assert np.isfinite(found.surface).all()
    assert np.isfinite(found.functional).all()
    assert jax.tree.all(jax.tree.map(lambda leaf: leaf.shape[0] == 1, found))
