"""Speed of the batched Chan-Vese segmentation, compared with scikit-image's.

    python -m experiments.benchmarks.chan_vese

Segments many synthetic faces (their value, of hue, saturation and value) with
scikit-image's default weights and 500 iterations; the initial surface is positive where
the image is bright. Four forms: `segmentation.inside`, with one thread per core; one
call of `chan_vese`, image by image, and with all images in one loop; and scikit-image,
image by image. Each form runs in a process of its own, one after another. Takes 3
minutes on 2 cores.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import numpy as np

from bspec_jax import runs
from bspec_jax.components import segmentation
from bspec_jax.components.chan_vese import PLAIN, chan_vese
from bspec_jax.data import faces
from bspec_jax.storage.optional import needs
from experiments.benchmarks.measuring import (
    BenchmarkConfig,
    median_seconds,
    run_forms,
    time_alone,
)

NAME = "benchmarks.chan_vese"
PIXEL_BYTES = 200  # per pixel of an image and of what it is rendered from
Form = Literal["inside", "in_turn", "one_loop", "scikit_image"]
# Of scikit-image, which stops by another rule: neither stops early here.
BORDER = PLAIN._replace(slope=1e-8, tolerance=0.0, max_iterations=500)
SCIKIT_IMAGE_OPTIONS = {
    "mu": BORDER.length,
    "lambda1": BORDER.inside,
    "lambda2": BORDER.outside,
    "tol": BORDER.tolerance,
    "max_num_iter": BORDER.max_iterations,
    "dt": BORDER.time_step,
}


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Flags of the Chan-Vese benchmark."""

    COUNTS: ClassVar = ("images", "image_size", "repeats")

    form: Form | None = None
    """Single form to time. Default: all forms, each in a process of its own."""
    images: int = 256
    """Number of images."""
    image_size: int = 64
    """Side of the images, in pixels."""
    repeats: int = 3
    """Timed runs per form; the median counts."""

    def check(self) -> None:
        super().check()
        runs.check_flag(self, "image_size", lambda v: v > 1, "at least 2")
        runs.check_memory(
            PIXEL_BYTES * self.images * self.image_size**2,
            f"{self.images:,} images of {self.image_size:,} px",
            "use fewer --images, or a smaller --image-size",
        )


def example_images(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Images in 0..1 and their initial surfaces, `[N, H, W]`."""
    truth = faces.ground_truth("test", np.arange(config.images), config.image_size)
    images = segmentation.combine(segmentation.scalarise(truth.image[None]), [0])
    return images, 2 * images - 1


def time_form(config: Config) -> dict:
    """Seconds for all images, of compilation, and the masks as hexadecimal digits."""
    images, surfaces = example_images(config)

    def segment():
        if config.form == "inside":
            return segmentation.inside(images, surfaces, BORDER).masks
        if config.form == "scikit_image":
            chan_vese_of_image = needs("skimage.segmentation", extra="bench").chan_vese
            pairs = zip(images, surfaces, strict=True)
            return np.stack(
                [
                    chan_vese_of_image(
                        image, init_level_set=surface, **SCIKIT_IMAGE_OPTIONS
                    )
                    for image, surface in pairs
                ]
            )
        at_once = 1 if config.form == "in_turn" else config.images
        result = chan_vese(images, surfaces, BORDER, at_once=at_once)
        return np.asarray(result.surface) > 0

    masks = []
    first = median_seconds(lambda: masks.append(segment()), 1)
    seconds = median_seconds(segment, config.repeats)
    return {
        "seconds": seconds,
        "compilation": max(first - seconds, 0.0),
        "masks": np.packbits(masks[0]).tobytes().hex(),
    }


def compare(config: Config) -> dict:
    """All forms, each in a process of its own."""
    forms, masks = {}, {}
    for form in get_args(Form):
        alone = dataclasses.replace(config, form=form)
        forms[form] = timed = time_alone(NAME, alone, f"{form:13}")
        packed = np.frombuffer(bytes.fromhex(timed.pop("masks")), np.uint8)
        masks[form] = np.unpackbits(packed)
    for form, item in forms.items():
        item["times_as_fast"] = forms["scikit_image"]["seconds"] / item["seconds"]
        item["agreement"] = float((masks[form] == masks["scikit_image"]).mean())
    return {"forms": forms}


def report(results: dict) -> None:
    print("form            seconds  times as fast  compile s  peak GiB  same pixels")
    for form, item in results["forms"].items():
        print(
            f"{form:14} {item['seconds']:8.2f} {item['times_as_fast']:14.1f}"
            f" {item['compilation']:10.1f} {item['peak_gib']:9.2f}"
            f" {item['agreement']:12.4f}"
        )


def main(config: Config) -> None:
    if config.form in (None, "scikit_image"):
        needs("skimage.segmentation", extra="bench")
    run_forms(config, NAME, time_form, compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
