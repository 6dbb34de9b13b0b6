"""Speed of the batched Chan-Vese, against scikit-image's for one image after another.

    python -m experiments.benchmarks.chan_vese

Many synthetic faces (their value, of hue, saturation, value), each from a surface that
is positive where it is bright, with scikit-image's weights and iterations: as
`segmentation.inside` computes them, in a thread for each core; in one call of
`chan_vese`, image by image and all in one loop; and by scikit-image. Each form runs in
a process of its own, one after another. Takes 3 minutes on 2 cores.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import numpy as np
from skimage.segmentation import chan_vese as of_one

from bspec_jax import runs
from bspec_jax.components import segmentation
from bspec_jax.components.chan_vese import PLAIN, chan_vese
from bspec_jax.data import faces
from experiments.benchmarks.measuring import (
    command_flags,
    main_of_forms,
    median_seconds,
    process,
)

NAME = "benchmark_chan_vese"
Form = Literal["inside", "in_turn", "one_loop", "scikit_image"]


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
    """Flags of the benchmark of Chan-Vese."""

    COUNTS: ClassVar = ("images", "image_size", "repeats")

    form: Form | None = None
    """Form to time alone. Default: all, each in a process."""
    images: int = 256
    """Images of a batch."""
    image_size: int = 64
    """Their side, in pixels."""
    repeats: int = 3
    """Runs of each, of which the median counts."""

    def check(self) -> None:
        super().check()


def data(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Images in 0..1 and their surfaces, `[N, H, W]`."""
    found = faces.ground_truth("test", np.arange(config.images), config.image_size)
    images = segmentation.combine(segmentation.scalarise(found.image[None]), [0])
    return images, 2 * images - 1


def time_form(config: Config) -> dict:
    """Seconds for all images, of compilation, and the share that is inside."""
    images, surfaces = data(config)

    def work():
        if config.form == "inside":
            return segmentation.inside(images, surfaces, PLAIN)
        if config.form == "scikit_image":
            options = {
                "mu": PLAIN.length,
                "lambda1": PLAIN.inside,
                "lambda2": PLAIN.outside,
                "tol": PLAIN.tolerance,
                "max_num_iter": PLAIN.max_iterations,
                "dt": PLAIN.time_step,
            }
            return np.stack(
                [
                    of_one(image, init_level_set=surface, **options)
                    for image, surface in zip(images, surfaces, strict=True)
                ]
            )
        at_once = 1 if config.form == "in_turn" else config.images
        found = chan_vese(images, surfaces, PLAIN, at_once=at_once)
        return np.asarray(found.surface) > 0

    kept = []
    first = median_seconds(lambda: kept.append(work()), 1)
    seconds = median_seconds(work, config.repeats)
    return {
        "seconds": seconds,
        "compilation": max(first - seconds, 0.0),
        "masks": np.packbits(kept[0]).tobytes().hex(),
    }


def compare(config: Config) -> dict:
    """All forms, each in a process, one after another."""
    module = "experiments.benchmarks.chan_vese"
    words = command_flags(config, ("seed", "images", "image_size", "repeats"))
    forms, masks = {}, {}
    for form in get_args(Form):
        usage, results = process(module, "--form", form, *words)
        found = results[form]
        packed = np.frombuffer(bytes.fromhex(found.pop("masks")), np.uint8)
        masks[form] = np.unpackbits(packed)
        forms[form] = {**found, "peak_gib": usage["peak_gib"]}
        print(f"{form:13} {usage['seconds']:6.0f} s in all", flush=True)
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
    main_of_forms(config, NAME, time_form, compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, "benchmarks.chan_vese", __doc__)
