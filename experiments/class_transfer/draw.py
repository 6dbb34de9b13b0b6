"""The figures of a run: 9 to 11, 13 to 15, 18 to 20, and those of its numbers."""

from typing import Any

import numpy as np

from bspec_jax import figures
from bspec_jax.components.pictures import Pictures
from bspec_jax.generator.evaluation import energy_share
from experiments.class_transfer.config import Config
from experiments.class_transfer.pictures import load_held_out, of_own_images

Figures = dict[str, Any]  # matplotlib's, by file name


def draw(config: Config, results: dict) -> Figures:
    """The figures of finished results."""
    if config.images:
        pictures = of_own_images(config, results["classes"])
        drawn = draw_pictures(config, results, pictures)
        return {f"own_{name}": figure for name, figure in drawn.items()}
    return {
        **draw_pictures(config, results, load_held_out(config)),
        **draw_numbers(results),
    }


def draw_pictures(config: Config, results: dict, pictures: Pictures) -> Figures:
    """Figures 9 to 11, 13 to 15 and 18 to 20."""
    classes, labels = results["classes"], pictures.labels
    components = config.components or range(len(pictures.components))
    share = np.array(results["energy_share"], float)
    of_most_energy = np.argsort(share)[::-1][:2].tolist()
    drawn = {"fig09_regenerated": figures.transfers(classes, pictures)}
    first_and_last = sorted({0, len(labels) - 1})
    for number, example in zip((10, 11), first_and_last, strict=False):
        figure = figures.image_components(pictures, example, components)
        drawn[f"fig{number}_components"] = figure
    for number, component in zip(
        (13, 14), config.sweep or of_most_energy, strict=False
    ):
        drawn[f"fig{number}_sweep"] = figures.component_sweep(pictures, component)
    subsets = config.subsets or results["subsets"]
    drawn["fig15_subsets"] = figures.component_subsets(pictures, subsets)
    for number, label in zip((18, 19, 20), np.unique(labels), strict=False):
        examples = np.flatnonzero(labels == label).tolist()
        figure = figures.decompositions(pictures, examples, classes[label])
        drawn[f"fig{number}_decomposition"] = figure
    return drawn


def draw_numbers(results: dict) -> Figures:
    """Training curves, energy, recognition rates, and what else was measured."""
    curves = results["curves"]
    norms = np.array([line["norms"] for line in curves if "norms" in line], float)
    drawn = {
        "class_transfer_training": figures.generator_training(
            curves, energy_share(norms)
        ),
        "class_transfer_energy": figures.component_energy(results),
        "class_transfer_rates": figures.transfer_rates(results),
    }
    if results["part_scores"]:
        drawn["class_transfer_scores"] = figures.component_scores(results)
    if results["spectrum"]:
        drawn["class_transfer_spectrum"] = figures.diffusion_spectrum(results)
    return drawn
