"""Normalisation and random augmentation of image batches, for use inside `jax.jit`.

All randomness comes from the `key` argument.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Key, Shaped, UInt8

from bspec_jax.data.images import check_bytes
from bspec_jax.storage.errors import ArgumentError


def normalise(
    images: UInt8[Array, "N H W C"],
    mean: Float[Array | np.ndarray, "C"],
    std: Float[Array | np.ndarray, "C"],
) -> Float32[Array, "N H W C"]:
    """(images / 255 - mean) / std, per channel.

    Raises:
      ArgumentError: if the images are not bytes.
    """
    check_bytes(images)
    per_channel = (1, 1, 1, -1)
    mean, std = (jnp.asarray(a, jnp.float32).reshape(per_channel) for a in (mean, std))
    return (images.astype(jnp.float32) / 255 - mean) / std


def random_crop(
    key: Key[Array, ""], images: UInt8[Array, "N H W C"], padding: int = 4
) -> UInt8[Array, "N H W C"]:
    """Shifts each image independently by up to `padding` pixels in H and in W.

    Pixels from outside the image are zero, black before normalisation.

    Raises:
      ArgumentError: if the images are not bytes.
    """
    check_bytes(images)
    width = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, width)
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image, offset):
        return lax.dynamic_slice(image, (*offset, 0), images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def random_flip(
    key: Key[Array, ""], images: Shaped[Array, "N H W C"]
) -> Shaped[Array, "N H W C"]:
    """Mirrors each image left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def augment(
    key: Key[Array, ""],
    images: UInt8[Array, "N H W C"],
    *,
    padding: int = 4,
    flip: bool = True,
) -> UInt8[Array, "N H W C"]:
    """`random_crop`, then `random_flip` if `flip`, with independent keys."""
    check_bytes(images)
    crop_key, flip_key = jax.random.split(key)
    if padding:
        images = random_crop(crop_key, images, padding)
    return random_flip(flip_key, images) if flip else images


def random_resized_crop(
    key: Key[Array, ""],
    images: Float[Array, "N H W C"],
    probability: float = 0.5,
    area: tuple[float, float] = (0.8, 1.0),
    ratio: tuple[float, float] = (0.9, 1.1),
) -> Float[Array, "N H W C"]:
    """Crops a random window of each image and resizes it, bilinearly, to full size.

    The window's position, its share of the area and the logarithm of its aspect ratio
    are uniform.

    Args:
      probability: probability that an image is cropped.
      area: range of the window's share of the image area.
      ratio: range of the window's width / height, relative to the image's.

    Raises:
      ArgumentError: if the images are not floats.

    Source: StarGAN-v2, Choi et al., arXiv 1912.01865.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ArgumentError(f"`images` must be floats, got {images.dtype}")
    count, height, width = images.shape[:3]
    keys = jax.random.split(key, 4)
    uniform = partial(jax.random.uniform, shape=(count,))
    root = jnp.sqrt(uniform(keys[0], minval=area[0], maxval=area[1]))
    low, high = map(math.log, ratio)
    stretch = jnp.exp(uniform(keys[1], minval=low, maxval=high) / 2)
    # Sides of the window in H and W, as shares of the image's.
    size = jnp.minimum(jnp.stack([root / stretch, root * stretch], 1), 1)
    cropped = jax.random.bernoulli(keys[2], probability, (count,))
    size = jnp.where(cropped[:, None], size, 1)
    corner = (1 - size) * jax.random.uniform(keys[3], (count, 2))

    def resize(image, size, corner):
        shape = jnp.array([height, width], image.dtype)
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), 1 / size, -corner * shape / size, "linear"
        )

    return jax.vmap(resize)(images, size, corner)
