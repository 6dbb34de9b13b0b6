"""The figures of a segmentation: overlays, steps and scores."""

import numpy as np

from bspec_jax import figures, files

NAMES = {
    "components": "by components",
    "best": "best choice",
    "plain": "plain image",
    "plain_best": "plain, best choice",
}
ARRAYS = ("labels", "images", "located", "surface", "segmented", "inside")


def draw(config, results: dict) -> dict:
    """The figures of finished results, by file name."""
    rows = {
        method: name for method, name in NAMES.items() if method in results["methods"]
    }
    if results["config"]["surface_components"]:
        rows["components"] = "by hand"
    arrays = [*ARRAYS, *(f"masks_{method}" for method in rows)]
    scored = results["iou"] is not None
    if scored:
        arrays.append("truth")
    path = config.workdir / "segmentation.npz"
    shown = files.load_arrays(path, dict.fromkeys(arrays))
    shown["masks"] = shown["masks_components"]
    _, group = np.unique(shown["labels"], return_inverse=True)
    titles = [results["classes"][i] for i in group]
    masks = {name: f"masks_{method}" for method, name in rows.items()}
    drawn = {
        "fig12_segmentation": figures.segmentations(shown, masks, titles),
        "fig21_segmentation": figures.segmentation_steps(shown, titles),
    }
    if scored:
        drawn["segmentation_scores"] = figures.segmentation_scores(results, rows)
    return drawn
