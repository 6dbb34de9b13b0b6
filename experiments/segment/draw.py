"""The figures of `experiments.segment`: overlays, steps and scores."""

import numpy as np

from bspec_jax import figures
from bspec_jax.figures import Figure
from bspec_jax.storage import files
from experiments.segment.choices import COMPONENTS, PLAIN
from experiments.segment.config import Config

ARRAYS_FILE = "segmentation.npz"
METHOD_NAMES = {
    COMPONENTS: "components, no labels",
    "best": "components, true masks",
    PLAIN: "image, no labels",
    "plain_best": "image, true masks",
}
ARRAYS = ("labels", "images", "located", "surface", "segmented", "inside")


def draw(config: Config, results: dict) -> dict[str, Figure]:
    """The figures of finished results, by file name."""
    names = {m: name for m, name in METHOD_NAMES.items() if m in results["methods"]}
    if results["config"]["surface_components"]:
        names[COMPONENTS] = "components, by hand"
    scored = results["iou"] is not None
    expected = [*ARRAYS, *(f"masks_{method}" for method in names)]
    if scored:
        expected.append("truth")
    arrays = files.load_arrays(config.workdir / ARRAYS_FILE, dict.fromkeys(expected))
    _, group = np.unique(arrays["labels"], return_inverse=True)
    titles = [results["classes"][i] for i in group]
    masks = {name: arrays[f"masks_{method}"] for method, name in names.items()}
    steps = arrays | {"pairs": arrays[f"masks_{COMPONENTS}"]}
    drawn = {
        "fig12_segmentation": figures.segmentations(
            arrays["images"], masks, titles, arrays.get("truth")
        ),
        "fig21_segmentation": figures.segmentation_steps(steps, titles),
    }
    if scored:
        drawn["segmentation_scores"] = figures.segmentation_scores(results, names)
    return drawn
