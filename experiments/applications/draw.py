"""The figures of the applications, of a few held-out faces.

`save` keeps the faces and their components; `draw` recombines them by the gains that
results.json holds.
"""

import jax
import numpy as np

from bspec_jax import figures, runs
from bspec_jax.components.recombination import perturb_components, recombine, remainder
from bspec_jax.storage import files
from experiments import applications_analysis as analysis
from experiments.applications_augmentation import NONE, OTHERS, of_another
from experiments.applications_data import Faces
from experiments.class_transfer_data import first_of_each

SHOWN = 2  # faces of each class
FILE = "faces.npz"
SOURCES = {"responses": "$v_k$", "inputs": r"$\varphi_k$"}
WAYS = {NONE: "no components", **SOURCES, OTHERS: "$v_k$ of another"}
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


def save(config, results: dict, test: Faces, masks: np.ndarray | None) -> None:
    """Saves what the figures show, in short floats."""
    index = first_of_each(test.labels, SHOWN)
    few = test.of(index)
    shown = {"labels": few.labels, "x": few.x, **few.stacks}
    if masks is not None:
        shown |= {"masks": masks[index], "truth": few.truth.masks[config.part]}
    if "filtering" in results:
        shown |= {f"without_{p}": few.without(p) for p in analysis.REMOVABLE}
    if "shape" in results:
        shown |= {"normals": few.truth.normals, "seen": few.seen()}
        for name, candidates in analysis.shadings(few).items():
            normals = analysis.normals_by(results["shape"][name], candidates)
            shown[f"normals_{name}"] = normals
    files.save_arrays(config.workdir / FILE, files.shortened(shown))


def draw(config, results: dict) -> dict:
    """The figures of finished results, by file name."""
    shown = files.widened(files.load_arrays(config.workdir / FILE))
    titles = [results["classes"][label] for label in shown["labels"]]
    drawn, rows = {}, {}
    if "editing" in results:
        rows["editing"] = edits(config, results, shown)
        drawn["editing_shares"] = figures.edit_shares(results["editing"], SOURCES)
    if "filtering" in results:
        for part in analysis.REMOVABLE:
            rows[f"filtering_{part}"] = removals(results["filtering"], part, shown)
    if "shape" in results:
        rows["shape"] = surfaces(shown)
        drawn["shape_errors"] = figures.normal_errors(results["shape"], SHADINGS)
    if "augmentation" in results:
        rows["augmentation_faces"] = perturbed(results, shown)
        drawn["augmentation"] = figures.augmentation(results["augmentation"], WAYS)
    grids = {name: figures.pictures(of, titles) for name, of in rows.items()}
    return grids | drawn


def edits(config, results: dict, shown: dict) -> dict:
    """Rows of the faces, their masks, and one component with another gain."""
    rows = {
        "image $x$": shown["x"],
        "masks": figures.overlaid(shown["x"], shown["masks"], shown["truth"]),
    }
    gain = results["config"]["gain"]
    for source in sources(shown):
        shares = [row["everywhere"]["mean"] for row in results["editing"][source]]
        runs.check_components(config, len(shares), ("component",))
        k = int(np.argmax(shares)) if config.component is None else config.component
        gains = np.ones(len(shares), np.float32)
        gains[k] = gain
        rest = remainder(shown["x"], shown[source])
        name = SOURCES[source].replace("k", str(k))
        for place, region in (("everywhere", None), ("in the masks", shown["masks"])):
            edited = recombine(rest, shown[source], gains, region)
            rows[f"{gain:g} times {name} {place}"] = edited
    return rows


def removals(results: dict, part: str, shown: dict) -> dict:
    """Rows of the faces, the same rendered without a part, and filtered."""
    x, wanted = shown["x"], shown[f"without_{part}"]
    rows = {"image $x$": x, f"without {part}": wanted}
    for source in sources(shown):
        rest = remainder(x, shown[source])
        for place in ("everywhere", "inside"):
            row = results[part]["methods"][f"{source}_{place}"]
            region = analysis.changed(x, wanted) if place == "inside" else None
            gains = np.array(row["gains"], np.float32)
            name = f"{SOURCES[source]} attenuated" + (
                "" if region is None else " there"
            )
            rows[name] = recombine(rest, shown[source], gains, region)
    return rows


def surfaces(shown: dict) -> dict:
    """Rows of the faces, and normals (right, down, towards the viewer) as colours."""
    rows = {"image $x$": shown["x"]}
    normals = {"normals": "true normals"}
    normals |= {f"normals_{key}": f"from {name}" for key, name in SHADINGS.items()}
    for key, name in normals.items():
        if key in shown:
            rows[name] = np.where(shown["seen"][..., None], shown[key], 1)
    return rows


def perturbed(results: dict, shown: dict) -> dict:
    """Rows of the faces, and with components perturbed."""
    scale = results["config"]["scale"]
    rows = {"image $x$": shown["x"]}
    for way in (*sources(shown), OTHERS):
        components = shown["responses" if way == OTHERS else way]
        if way == OTHERS:
            components = of_another(components, shown["labels"])
        rest = remainder(shown["x"], components)
        rows[WAYS[way]] = perturb_components(
            jax.random.key(results["config"]["seed"]), rest, components, scale
        )
    return rows


def sources(of: dict) -> list[str]:
    """The sources of components that are there."""
    return [source for source in SOURCES if source in of]
