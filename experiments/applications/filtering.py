"""Filtering: a part removed by attenuated components, against the truth without it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bspec_jax.components.measures import RANGE, psnr, psnr_inside, ssim
from bspec_jax.components.recombination import fit_gains, recombine, remainder
from bspec_jax.generator.diffusion import blur
from experiments.applications.config import Config
from experiments.applications.data import BLURS, Examples, mean_over_images

REMOVABLE = ("eyes", "nose", "whiskers", "ears")
VISIBLE = RANGE * 2 / 255  # smallest change of a channel that counts

Images = Float[np.ndarray, "N H W C"]
Region = Bool[np.ndarray, "N H W"]


class Removal(NamedTuple):
    """Examples, the same images without a part, and the pixels that it changes."""

    examples: Examples
    target: Images
    changed: Region

    def region(self, place: str) -> Region | None:
        """The pixels that may change: `inside` the part, or None for `everywhere`."""
        return self.changed if place == "inside" else None


def remove(examples: Examples, removed: str) -> Removal:
    """The examples with and without a part."""
    target = examples.without(removed)
    return Removal(examples, target, changed_pixels(examples.x, target))


def changed_pixels(x: Images, target: Images) -> Region:
    """The pixels in which images differ visibly."""
    return (np.abs(x - target) > VISIBLE).any(-1)


def filtering_scores(config: Config, train: Examples, test: Examples) -> dict:
    """`removal_scores` of each part that can be removed."""
    return {
        part: removal_scores(config, remove(train, part), remove(test, part))
        for part in REMOVABLE
    }


def removal_scores(config: Config, train: Removal, test: Removal) -> dict:
    """How close each method comes to the images rendered without the part.

    Of each source of components, gains in 0..1 are fitted to the training images, or
    given by --attenuate: for all pixels (`everywhere`), or for those that the part
    changes, where they then apply (`inside`). Baselines: the unchanged image, the
    re-generation, and a Gaussian blur of the best width.
    """
    methods: dict[str, dict[str, Any]] = {
        "nothing": similarity(test, test.examples.x),
        "regenerated": similarity(test, test.examples.generated),
    }
    for place in ("everywhere", "inside"):
        sigma = best_blur(train, place)
        images = blurred(test.examples.x, sigma, test.region(place))
        methods[f"blur_{place}"] = {**similarity(test, images), "sigma": sigma}
        for source, stack in test.examples.stacks.items():
            gains = removal_gains(config, train, source, place)
            rest = remainder(test.examples.x, stack)
            images = np.asarray(recombine(rest, stack, gains, test.region(place)))
            scores = similarity(test, images)
            methods[f"{source}_{place}"] = {**scores, "gains": gains}
    having = test.changed.any((1, 2))
    return {"images": int(having.sum()), "methods": methods}


def removal_gains(
    config: Config, train: Removal, source: str, place: str
) -> Float[np.ndarray, " M"]:
    """The gains that remove the part: given by flags, or fitted to training images."""
    stack = train.examples.stacks[source]
    if config.attenuate:
        gains = np.ones(len(stack))
        gains[list(config.attenuate)] = config.attenuation
        return gains
    rest = remainder(train.examples.x, stack)
    return fit_gains(rest, stack, train.target, train.region(place))


def best_blur(train: Removal, place: str) -> float:
    """The width of the blur that removes the part best, in pixels."""

    def mean_psnr(sigma):
        images = blurred(train.examples.x, sigma, train.region(place))
        return psnr(images, train.target).mean()

    return max(BLURS, key=mean_psnr)


def blurred(x: Images, sigma: float, region: Region | None = None) -> Images:
    """Images blurred everywhere, or in a region; `sigma` in pixels."""
    smooth = np.asarray(blur(jnp.asarray(x), sigma))
    return smooth if region is None else np.where(region[..., None], smooth, x)


def similarity(removal: Removal, images: Images) -> dict:
    """PSNR and SSIM to the images without the part, of those that have the part.

    `psnr_inside` is over the pixels that the part changes.
    """
    having = removal.changed.any((1, 2))
    images = np.clip(images[having], -1, 1)
    target, region = removal.target[having], removal.changed[having]
    return {
        "psnr": mean_over_images(psnr(images, target)),
        "ssim": mean_over_images(ssim(images, target)),
        "psnr_inside": mean_over_images(psnr_inside(images, target, region)),
    }
