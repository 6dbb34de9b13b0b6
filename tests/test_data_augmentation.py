import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.data import augmentation


def test_normalise():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 4, 2), np.uint8)
    mean, std = np.array([0.3, 0.6]), np.array([0.2, 0.7])
    found = jax.jit(augmentation.normalise)(images, mean, std)
    assert found.dtype == jnp.float32
    expected = (images.astype(np.float64) / 255 - mean) / std
    assert_allclose(found, expected, atol=2e-6)


IMAGES = np.random.default_rng(1).integers(1, 256, (300, 5, 7, 3), np.uint8)


def crops(image, padding):
    """By offset, every image that `random_crop` may make of one."""
    height, width, channels = image.shape
    shape = (height + 2 * padding, width + 2 * padding, channels)
    padded = np.zeros(shape, np.uint8)
    padded[padding : padding + height, padding : padding + width] = image
    return {
        (top, left): padded[top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


@pytest.mark.parametrize("padding", [0, 2])
def test_random_crop_gives_each_image_an_offset_of_its_own(padding):
    crop = jax.jit(augmentation.random_crop, static_argnums=2)
    found = np.asarray(crop(jax.random.key(0), IMAGES, padding))
    assert found.dtype == np.uint8
    offsets = []
    for image, cropped in zip(IMAGES, found, strict=True):
        equal = [at for at, c in crops(image, padding).items() if (c == cropped).all()]
        assert len(equal) == 1
        offsets += equal
    assert set(offsets) == set(crops(IMAGES[0], padding))  # all of them, and no other
    assert_array_equal(found, crop(jax.random.key(0), IMAGES, padding))
    if padding:
        assert (found != crop(jax.random.key(1), IMAGES, padding)).any()


def test_random_flip_swaps_left_and_right_of_half_the_images():
    flip = jax.jit(augmentation.random_flip)
    found = np.asarray(flip(jax.random.key(0), IMAGES))
    same = (found == IMAGES).all((1, 2, 3))
    swapped = (found == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ swapped).all()
    assert 0.4 < swapped.mean() < 0.6
    assert_array_equal(found, flip(jax.random.key(0), IMAGES))
    assert (found != flip(jax.random.key(1), IMAGES)).any()


@pytest.mark.parametrize("flip", [True, False])
def test_augment_is_a_crop_and_a_flip_of_independent_keys(flip):
    augment = jax.jit(augmentation.augment, static_argnames=("padding", "flip"))
    found = np.asarray(augment(jax.random.key(3), IMAGES, padding=1, flip=flip))
    assert found.dtype == np.uint8
    seen = set()
    for image, augmented in zip(IMAGES, found, strict=True):
        seen |= {
            (*offset, mirror)
            for offset, crop in crops(image, 1).items()
            for mirror in (False, True)
            if (crop[:, :: -1 if mirror else 1] == augmented).all()
        }
    # Every combination occurs: neither determines the other.
    assert len(seen) == (18 if flip else 9)
    assert flip or not any(mirror for *_, mirror in seen)
    crop_key, flip_key = jax.random.split(jax.random.key(3))
    expected = augmentation.random_crop(crop_key, jnp.asarray(IMAGES), 1)
    if flip:
        expected = augmentation.random_flip(flip_key, expected)
    assert_array_equal(found, expected)


def test_augmentation_in_double_precision(x64):
    def step(key, images):
        images = augmentation.augment(key, images)
        return images, augmentation.normalise(images, np.zeros(3), np.ones(3))

    images, normal = jax.jit(step)(jax.random.key(0), IMAGES)
    assert images.dtype == jnp.uint8
    assert normal.dtype == jnp.float32
