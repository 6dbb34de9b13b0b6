import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax.components.shading import (
    DAMPINGS,
    RELIEFS,
    angular_error,
    fit_shading,
    mean_angular_error,
    normals_from_shading,
)
from bspec_jax.data import faces

SIZE = 64


def bump(slope):
    """The slopes of an asymmetric surface, to the right and down; flat at the edges."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    right, down = 0.0, 0.0
    for cx, cy, sx, sy, h in ((24, 30, 5, 8, 1.0), (40, 26, 7, 4, -0.6)):
        one = slope * h * np.exp(-(((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2) / 2)
        right = right - one * (x - cx) / sx**2
        down = down - one * (y - cy) / sy**2
    return right, down


def of_slopes(right, down):
    normals = np.stack([-right, -down, np.ones_like(right)], -1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


@pytest.mark.parametrize("tilt", [-math.pi / 2, -0.7, 0.4, 2.0])
def test_a_surface_lit_as_the_method_assumes_is_found(tilt):
    right, down = bump(2.0)
    along = right * math.cos(tilt) + down * math.sin(tilt)
    relief = along.std()
    shading = 0.3 - 5 * along
    found = normals_from_shading(shading[None], relief=relief, tilt=tilt, damping=1e-6)[
        0
    ]
    truth = of_slopes(right, down)
    # What varies only across the light is lost, up to 20 degrees being there.
    error = angular_error(found, truth)
    assert error.mean() < 1
    assert error.max() < 3
    # A light from another side, or the shading turned round, is far off.
    wrong = normals_from_shading(
        shading[None], relief=relief, tilt=tilt + 1, damping=1e-6
    )[0]
    assert angular_error(wrong, truth).max() > 15
    wrong = normals_from_shading(
        -shading[None], relief=relief, tilt=tilt, damping=1e-6
    )[0]
    assert angular_error(wrong, truth).max() > 25


def test_a_matt_ball_is_nearer_to_the_truth_than_a_flat_surface():
    """Lambert's law, of which the method knows the first order only."""
    y, x = (np.mgrid[:SIZE, :SIZE] - 31.5) / 24
    height = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    on = height > 0.5
    truth = np.stack([x, y, height], -1)
    light = np.array([0, -math.sin(0.6), math.cos(0.6)])
    shading = np.where(height > 0, truth @ light, math.cos(0.6))
    found = normals_from_shading(shading[None], relief=0.5, damping=1e-3)[0]
    flat = np.array([0.0, 0.0, 1.0])
    assert angular_error(found, truth)[on].mean() < 0.65 * (
        angular_error(np.broadcast_to(flat, truth.shape), truth)[on].mean()
    )


def test_shading_has_no_unit_and_images_do_not_mix():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 20, 24))
    together = normals_from_shading(images, relief=0.3)
    apart = [
        normals_from_shading(7 + 4 * image[None], relief=0.3)[0] for image in images
    ]
    assert_allclose(together, apart, atol=1e-10)
    assert_allclose(np.linalg.norm(together, axis=-1), 1)


def test_a_constant_image_is_flat():
    found = normals_from_shading(np.full((1, 8, 8), 3.0), relief=1.0)
    assert_allclose(found, np.broadcast_to([0.0, 0.0, 1.0], found.shape), atol=1e-12)


@pytest.mark.slow
def test_normals_are_in_the_coordinates_of_the_faces():
    """From the true light of the faces the normals come nearer than a flat surface."""
    truth = faces.ground_truth("test", range(12), SIZE)
    seen = np.any(list(truth.masks.values()), 0)
    found = normals_from_shading(truth.diffuse[..., 0], relief=1.0)
    flat = np.broadcast_to([0.0, 0.0, 1.0], found.shape)
    error, of_flat = (
        angular_error(normals, truth.normals)[seen].mean() for normals in (found, flat)
    )
    assert error < 0.8 * of_flat
    turned = angular_error(found * [1, -1, 1], truth.normals)[seen].mean()
    assert turned > of_flat


def test_angular_error_is_in_degrees():
    normals = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    other = np.array([[0, 0, 1], [0, 0, 1], [0, -1, 0], [0, 0.6, 0.8]])
    expected = [0, 90, 180, math.degrees(math.acos(0.8))]
    assert_allclose(angular_error(normals, other), expected, atol=1e-6)


def test_the_mean_error_is_over_the_region_of_each_image():
    normals = np.zeros((2, 1, 3, 3))
    normals[..., 2] = 1
    truth = normals.copy()
    truth[0, 0, 1] = [0, 1, 0]
    truth[1, 0, 2] = [0, 0.6, 0.8]
    region = np.array([[[True, True, False]], [[False, False, True]]])
    expected = [45, math.degrees(math.acos(0.8))]
    assert_allclose(mean_angular_error(normals, truth, region), expected, atol=1e-6)


def test_a_fit_finds_the_settings_that_made_the_truth():
    shading = np.random.default_rng(0).normal(size=(2, 16, 12))
    region = np.zeros(shading.shape, bool)
    region[:, 3:9, 2:10] = True
    relief, damping = RELIEFS[3], DAMPINGS[1]
    truth = normals_from_shading(shading, relief=relief, damping=damping)
    truth[~region] = [1, 0, 0]  # which must not count
    found = fit_shading(5 * shading + 1, truth, region)
    assert (found.relief, found.damping) == (relief, damping)
    assert_allclose(found.error, 0, atol=1e-5)


def test_a_fit_needs_a_damping_pixels_and_numbers():
    """0 / 0 would make NaN of the errors, of which the first is then the lowest."""
    shading = np.random.default_rng(0).normal(size=(2, 8, 9))
    truth = normals_from_shading(shading, relief=0.4)
    region = np.zeros(shading.shape, bool)
    region[0, 3:5] = True
    for damping in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="`damping` must be positive"):
            normals_from_shading(shading, relief=0.4, damping=damping)
    with pytest.raises(ValueError, match="`region` must be boolean, with some pixels"):
        fit_shading(shading, truth, region)
    region[1, 2, 2] = True
    assert fit_shading(shading, truth, region).relief == 0.4
    for broken in (shading, truth):
        kept = broken[1, 2, 2].copy()
        broken[1, 2, 2] = np.nan
        with pytest.raises(ValueError, match="must be finite numbers"):
            fit_shading(shading, truth, region)
        broken[1, 2, 2] = kept
