import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.data import augmentation, sources
from bspec_jax.data.images import Split, make_split
from bspec_jax.data.streaming import from_split
from bspec_jax.storage.errors import ArgumentError


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


def test_a_resized_crop_shows_a_window_of_the_right_size():
    """On ramps, the slopes tell the window's height and width, the values its place."""
    size, count = 32, 40
    places = (np.indices((size, size)).astype(np.float32) + 0.5).transpose(1, 2, 0)
    images = jnp.broadcast_to(places, (count, *places.shape))
    key = jax.random.key(0)
    found = np.asarray(augmentation.random_resized_crop(key, images, 1.0))
    down = (found[:, 24, 16, 0] - found[:, 8, 16, 0]) / 16
    across = (found[:, 16, 24, 1] - found[:, 16, 8, 1]) / 16
    area, ratio = down * across, across / down
    assert (area > 0.8 * 0.99).all()
    assert (area < 1.01).all()
    assert area.min() < 0.85
    assert area.max() > 0.95
    assert (ratio > 0.9 * 0.99).all()
    assert (ratio < 1.1 * 1.01).all()
    assert ratio.std() > 0.02
    # The window lies within the image, anywhere in it.
    for slope, centre in (
        (down, found[:, 15:17, 16, 0]),
        (across, found[:, 16, 15:17, 1]),
    ):
        middle = centre.mean(1)
        low, high = middle - size * slope / 2, middle + size * slope / 2
        assert low.min() > -0.05
        assert high.max() < size + 0.05
        shift = low / np.maximum(size * (1 - slope), 1e-3)
        assert 0.2 < np.median(shift) < 0.8


def test_some_images_are_not_cropped():
    images = jax.random.normal(jax.random.key(1), (60, 8, 8, 1))
    key = jax.random.key(2)
    found = augmentation.random_resized_crop(key, images, 0.5)
    same = np.abs(found - images).max((1, 2, 3)) < 1e-5
    assert 15 < same.sum() < 45
    still = augmentation.random_resized_crop(key, images, 0.0)
    assert_allclose(still, images, atol=1e-5)
    whole = augmentation.random_resized_crop(key, images, 1.0, (1.0, 1.0), (1.0, 1.0))
    assert_allclose(whole, images, atol=1e-5)


def test_floats_are_mirrored_too():
    images = jax.random.normal(jax.random.key(1), (30, 4, 6, 2))
    found = augmentation.random_flip(jax.random.key(3), images)
    same = (found == images).all((1, 2, 3))
    assert 5 < same.sum() < 25
    assert (found[~same] == images[~same][:, :, ::-1]).all()


@pytest.mark.parametrize("wrong", [IMAGES / 255, IMAGES.astype(np.int32)])
def test_pixels_that_are_not_bytes_are_refused(wrong):
    """Whichever function takes them: it could only read them as other values."""
    images = jnp.asarray(wrong)
    key, labels = jax.random.key(0), np.zeros(len(wrong), np.int32)
    message = f"`images` must be bytes in 0..255 .uint8., got {images.dtype}"
    # Without the type checks of these tests, which users do not have.
    normalise, random_crop, resize, statistics, part_of, split_of = map(
        inspect.unwrap,
        (
            augmentation.normalise,
            augmentation.random_crop,
            augmentation.random_resized_crop,
            sources.channel_statistics,
            from_split,
            make_split,
        ),
    )
    for use in (
        lambda: normalise(images, np.zeros(3), np.ones(3)),
        lambda: jax.jit(normalise)(images, np.zeros(3), np.ones(3)),
        lambda: random_crop(key, images),
        lambda: statistics(np.asarray(images)),
        lambda: split_of(np.asarray(images), labels, None),
        lambda: part_of(Split(np.asarray(images), labels)),
    ):
        with pytest.raises(ArgumentError, match=message):
            use()
    with pytest.raises(ArgumentError, match="`images` must be floats, got uint8"):
        resize(key, jnp.asarray(IMAGES))
