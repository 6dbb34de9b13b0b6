"""The figures of `experiments.applications`, of a few held-out images.

`save_examples` keeps the images and their components; `draw` recombines them by the
gains in results.json, so that --component can choose another edit to show.
"""

import jax
import numpy as np

from bspec_jax import figures, runs
from bspec_jax.components.pairs import Masks
from bspec_jax.components.recombination import perturb_components, recombine, remainder
from bspec_jax.data.selection import first_of_each
from bspec_jax.figures import Figure
from bspec_jax.storage import files
from experiments.applications import shape
from experiments.applications.augmentation import NONE, OTHERS, components_of_kind
from experiments.applications.config import Config
from experiments.applications.data import Examples
from experiments.applications.filtering import REMOVABLE, changed_pixels

SHOWN = 2  # images of each class
ARRAYS_FILE = "faces.npz"
SOURCES = {"responses": "$v_k$", "inputs": r"$\varphi_k$"}
KINDS = {NONE: "none", **SOURCES, OTHERS: "another's $v_k$"}
SHADINGS = {
    "flat": "nothing (flat)",
    "image": "the image",
    "blur": "the image, blurred",
    "regenerated": "re-generation $f$",
    "residual": "residual $R$",
    "responses": "best $v_k$",
    "inputs": r"best $\varphi_k$",
    "light": "the true light",
}

Arrays = dict[str, np.ndarray]


def save_examples(
    config: Config, results: dict, test: Examples, masks: Masks | None
) -> None:
    """Saves what the figures show, in float16."""
    index = first_of_each(test.labels, SHOWN)
    few = test.select(index)
    arrays = {"labels": few.labels, "x": few.x, **few.stacks}
    if masks is not None:
        arrays |= {"masks": masks[index], "truth": few.truth.masks[config.part]}
    if "filtering" in results:
        arrays |= {f"without_{part}": few.without(part) for part in REMOVABLE}
    if "shape" in results:
        arrays |= {"normals": few.truth.normals, "foreground": few.foreground()}
        for name, candidates in shape.shadings(few).items():
            normals = shape.fitted_normals(results["shape"][name], candidates)
            arrays[f"normals_{name}"] = normals
    files.save_arrays(config.workdir / ARRAYS_FILE, files.shortened(arrays))


def draw(config: Config, results: dict) -> dict[str, Figure]:
    """The figures of finished results, by file name."""
    arrays = files.widened(files.load_arrays(config.workdir / ARRAYS_FILE))
    titles = [results["classes"][label] for label in arrays["labels"]]
    drawn, rows = {}, {}
    if "editing" in results:
        rows["editing"] = edited_rows(config, results, arrays)
        drawn["editing_shares"] = figures.edit_shares(results["editing"], SOURCES)
    if "filtering" in results:
        for part in REMOVABLE:
            rows[f"filtering_{part}"] = filtered_rows(results, part, arrays)
    if "shape" in results:
        rows["shape"] = normal_rows(arrays)
        drawn["shape_errors"] = figures.normal_errors(results["shape"], SHADINGS)
    if "augmentation" in results:
        rows["augmentation_faces"] = perturbed_rows(results, arrays)
        drawn["augmentation"] = figures.augmentation(results["augmentation"], KINDS)
    grids = {name: figures.pictures(grid, titles) for name, grid in rows.items()}
    return grids | drawn


def edited_rows(config: Config, results: dict, arrays: Arrays) -> Arrays:
    """Rows of the images, of their masks, and with another gain of one component."""
    rows = {
        "image $x$": arrays["x"],
        "masks": figures.overlaid(arrays["x"], arrays["masks"], arrays["truth"]),
    }
    gain = results["config"]["gain"]
    for source in sources(arrays):
        edits = results["editing"][source]
        shares = np.array([row["everywhere"]["mean"] for row in edits], float)
        runs.check_components(config, len(shares), ("component",))
        k = config.component
        if k is None:  # a share that is not defined is the lowest
            k = int(np.argmax(np.nan_to_num(shares, nan=-1)))
        gains = np.ones(len(shares), np.float32)
        gains[k] = gain
        rest = remainder(arrays["x"], arrays[source])
        name = SOURCES[source].replace("k", str(k))
        for place, region in (("everywhere", None), ("in the masks", arrays["masks"])):
            edited = recombine(rest, arrays[source], gains, region)
            rows[f"{gain:g} times {name} {place}"] = edited
    return rows


def filtered_rows(results: dict, part: str, arrays: Arrays) -> Arrays:
    """Rows of the images, rendered without a part, and with attenuated components."""
    x, target = arrays["x"], arrays[f"without_{part}"]
    methods = results["filtering"][part]["methods"]
    rows = {"image $x$": x, f"without {part}": target}
    for source in sources(arrays):
        rest = remainder(x, arrays[source])
        name = f"{SOURCES[source]} attenuated"
        for place, suffix in (("everywhere", ""), ("inside", " there")):
            region = changed_pixels(x, target) if place == "inside" else None
            gains = np.array(methods[f"{source}_{place}"]["gains"], np.float32)
            rows[name + suffix] = recombine(rest, arrays[source], gains, region)
    return rows


def normal_rows(arrays: Arrays) -> Arrays:
    """Rows of the images, and of normals (right, down, to the viewer) as colours."""
    names = {"normals": "true normals"}
    names |= {f"normals_{key}": f"from {name}" for key, name in SHADINGS.items()}
    foreground = arrays["foreground"][..., None]
    rows = {
        name: np.where(foreground, arrays[key], 1)
        for key, name in names.items()
        if key in arrays
    }
    return {"image $x$": arrays["x"], **rows}


def perturbed_rows(results: dict, arrays: Arrays) -> Arrays:
    """Rows of the images, and with perturbed components."""
    scale = results["config"]["scale"]
    key = jax.random.key(results["config"]["seed"])
    rows = {"image $x$": arrays["x"]}
    for kind in (*sources(arrays), OTHERS):
        components = components_of_kind(arrays, arrays["labels"], kind)
        rest = remainder(arrays["x"], components)
        rows[KINDS[kind]] = perturb_components(key, rest, components, scale)
    return rows


def sources(named: dict) -> list[str]:
    """The sources of components that are among the keys."""
    return [source for source in SOURCES if source in named]
