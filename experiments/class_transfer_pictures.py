"""The pictures of a class-transfer run: of held-out images, or of a user's own.

`config` is that of the run, with the flags that choose components and images.
"""

import numpy as np

from bspec_jax import figures, generator
from bspec_jax.data.folder import read_images
from bspec_jax.storage import files
from experiments import recogniser
from experiments.class_transfer_data import Data, balanced

SHOWN = 3  # examples of each class
ARRAYS = (
    "images",
    "labels",
    "residual",
    "generated",
    "transfers",
    "components",
    "inputs",
)


def save(
    config, data: Data, model: generator.ClassTransfer, params: generator.Tree
) -> None:
    """Saves what the figures show of a few test images of each class."""
    num_classes = len(data.class_names)
    chosen = balanced(data.test.labels, SHOWN * num_classes, config.seed)
    chosen = chosen[np.argsort(data.test.labels[chosen], kind="stable")]
    images, labels = (leaf[chosen] for leaf in data.test)
    shown = show(model, params, images, labels, num_classes)
    files.save_arrays(config.workdir / "decompositions.npz", shown)


def show(
    model: generator.ClassTransfer,
    params,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
) -> dict[str, np.ndarray]:
    """What the figures show of some images, in short floats.

    images, residual, generated `[S, H, W, C]`, labels `[S]`, transfers `[classes, S,
    ...]`, components and, unless all branches read the image, inputs `[M, S, ...]`.
    """
    x = generator.to_signed(images)
    own = generator.decompose(model, params, x, labels)
    shown = {
        "images": x,
        "residual": own.residual,
        "generated": own.image,
        "transfers": generator.to_all_classes(model, params, x, num_classes),
        "components": own.components,
        "inputs": own.components[:0] if own.inputs is None else own.inputs,
    }
    return files.shortened(shown) | {"labels": labels}


def draw(config, results: dict) -> dict:
    """The figures of finished results, by file name."""
    classes = results["classes"]
    if config.images:
        shown = show_own(config, results)
    else:
        like = dict.fromkeys(ARRAYS)
        shown = files.load_arrays(config.workdir / "decompositions.npz", like)
        shown = files.widened(shown)
    drawn = draw_images(config, classes, shown, results)
    if config.images:
        return {f"own_{name}": figure for name, figure in drawn.items()}
    drawn |= {
        "class_transfer_training": figures.generator_training(results["curves"]),
        "class_transfer_energy": figures.component_energy(results),
        "class_transfer_rates": figures.transfer_rates(results),
    }
    if results["part_scores"]:
        drawn["class_transfer_scores"] = figures.component_scores(results)
    if results["spectrum"]:
        drawn["class_transfer_spectrum"] = figures.diffusion_spectrum(results)
    return drawn


def draw_images(config, classes, shown: dict, results: dict) -> dict:
    """Figures 9 to 11, 13 to 15 and 18 to 20."""
    labels = shown["labels"]
    branches = range(len(shown["components"]))
    components = config.components or tuple(branches)
    largest = np.argsort(results["energy_share"])[::-1][:2].tolist()
    subsets = config.subsets or results["subsets"]
    drawn = {"fig09_regenerated": figures.transfers(classes, **shown)}
    of_two = sorted({0, len(labels) - 1})
    for name, example in zip(("fig10", "fig11"), of_two, strict=False):
        drawn[f"{name}_components"] = figures.image_components(
            shown, example, components
        )
    for name, component in zip(
        ("fig13", "fig14"), config.sweep or largest, strict=False
    ):
        drawn[f"{name}_sweep"] = figures.component_sweep(shown, component)
    drawn["fig15_subsets"] = figures.component_subsets(shown, subsets)
    present = sorted(set(labels.tolist()))[:3]
    for i, label in enumerate(present):
        drawn[f"fig{18 + i}_decomposition"] = figures.decompositions(
            shown, np.flatnonzero(labels == label), classes[label]
        )
    return drawn


def show_own(config, results: dict) -> dict:
    """The user's images, each as one of the class that the classifier takes it for."""
    trained = generator.load(config.workdir)
    size, _, channels = trained.description["image_shape"]
    images, paths = read_images(config.images, size, channels)
    taken_for = recogniser.load(config.workdir / "checkpoints")
    labels = taken_for.recognise(generator.to_signed(images)).astype(np.int32)
    classes = results["classes"]
    for path, label in zip(paths, labels, strict=True):
        print(f"{path}: taken for {classes[label]}")
    return show(trained.model, trained.params, images, labels, len(classes))
