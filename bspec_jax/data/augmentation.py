"""What a training step does to a batch of images, inside `jax.jit`.

Nothing here is random but by the key that is passed.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Key, Shaped, UInt8


def normalise(
    images: UInt8[Array, "N H W C"],
    mean: Float[Array | np.ndarray, "C"],
    std: Float[Array | np.ndarray, "C"],
) -> Float32[Array, "N H W C"]:
    """(images / 255 - mean) / std, by channel."""
    mean, std = (jnp.asarray(a, jnp.float32) for a in (mean, std))
    return (images.astype(jnp.float32) / 255 - mean) / std


def random_crop(
    key: Key[Array, ""], images: UInt8[Array, "N H W C"], padding: int = 4
) -> UInt8[Array, "N H W C"]:
    """Shifts each image on its own by up to `padding` pixels either way, in H and in W.

    What comes in from outside is zero, a black pixel before normalisation.
    """
    width = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, width)
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image, offset):
        return lax.dynamic_slice(image, (*offset, 0), images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def random_flip(
    key: Key[Array, ""], images: Shaped[Array, "N H W C"]
) -> Shaped[Array, "N H W C"]:
    """Swaps left and right of each image with probability 1/2."""
    swapped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(swapped, images[:, :, ::-1], images)


def augment(
    key: Key[Array, ""],
    images: UInt8[Array, "N H W C"],
    *,
    padding: int = 4,
    flip: bool = True,
) -> UInt8[Array, "N H W C"]:
    """`random_crop` and, if `flip`, `random_flip`, with keys of their own."""
    crop_key, flip_key = jax.random.split(key)
    images = random_crop(crop_key, images, padding)
    return random_flip(flip_key, images) if flip else images


def random_resized_crop(
    key: Key[Array, ""],
    images: Float[Array, "N H W C"],
    probability: float = 0.5,
    area: tuple[float, float] = (0.8, 1.0),
    ratio: tuple[float, float] = (0.9, 1.1),
) -> Float[Array, "N H W C"]:
    """Enlarges a random window of some images to the whole, bilinearly.

    The window's share of the area and its ratio of width to height (by its logarithm)
    are uniform, as is its place.

    Args:
      probability: that an image is cropped.

    Source: the augmentation of StarGAN-v2, Choi et al., arXiv 1912.01865.
    """
    count, height, width = images.shape[:3]
    keys = jax.random.split(key, 4)
    uniform = partial(jax.random.uniform, shape=(count,))
    root = jnp.sqrt(uniform(keys[0], minval=area[0], maxval=area[1]))
    low, high = map(math.log, ratio)
    stretch = jnp.exp(uniform(keys[1], minval=low, maxval=high) / 2)
    # of the window, in H and in W, relative to the image's
    size = jnp.minimum(jnp.stack([root / stretch, root * stretch], 1), 1)
    cropped = jax.random.bernoulli(keys[2], probability, (count,))
    size = jnp.where(cropped[:, None], size, 1)
    place = (1 - size) * jax.random.uniform(keys[3], (count, 2))

    def resize(image, size, place):
        shape = jnp.array([height, width], image.dtype)
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), 1 / size, -place * shape / size, "linear"
        )

    return jax.vmap(resize)(images, size, place)
