"""The figures of a finished Hessian run."""

from pathlib import Path

import numpy as np

from bspec_jax import figures
from bspec_jax.storage import files
from experiments.hessian.checkpoint import HESSIANS


def draw(workdir: Path, results: dict) -> dict:
    """The figures by file name."""
    if results["config"]["checkpoint"]:
        return draw_classifier(workdir, results)
    tasks = results["tasks"]
    heat_maps = {
        f"hessian_{task}": figures.hessian_heat_maps(
            figures.TASK_TITLES[task], data["example"]
        )
        for task, data in tasks.items()
        if data["example"]  # none if every network is too large
    }
    return heat_maps | {
        "hessian_block_index": figures.hessian_block_index(tasks),
        "hessian_eigenvalues": figures.hessian_eigenvalues(tasks),
        "hessian_index": figures.hessian_index(tasks),
        "section8_factors": figures.vanishing_factors(tasks),
    }


def needed(results: dict) -> dict:
    """Results without the arrays that no figure shows.

    Of toys, heat maps are of the first, a middle and the last stage, the scatter plots
    of index and ratio of the first and the last.
    """
    if results["config"]["checkpoint"]:
        return results
    tasks = {}
    for name, task in results["tasks"].items():
        examples = figures.heat_map_stages(task["example"])
        last = len(task["stages"]) - 1
        stages = [
            stage if i in (0, last) else stage | {"index": _numbers(stage["index"])}
            for i, stage in enumerate(task["stages"])
        ]
        tasks[name] = task | {"stages": stages, "example": examples}
    return results | {"tasks": tasks}


def _numbers(index: dict) -> dict:
    return {key: index[key] for key in index if key not in ("ratios", "indices")}


def draw_classifier(workdir: Path, results: dict) -> dict:
    """Figure 5, panels 3 and 4, and each branch's own block; both clamps."""
    stages = [s for task in results["tasks"].values() for s in task["stages"]]
    names = dict.fromkeys(stage["hessian"] for stage in stages)
    hessians = files.load_arrays(workdir / HESSIANS, names)
    size = results["parameters"]
    drawn = {}
    for name, task in results["tasks"].items():
        examples = [
            {
                "step": stage["step"],
                "branches": results["branches"],
                "offdiagonal_ratio": stage["offdiagonal_ratio"],
                "hessian": np.reshape(hessians[stage["hessian"]], (size, size)),
            }
            for stage in task["stages"]
        ]
        clamp = "no clamp" if task["clamp"] == "none" else f"{task['clamp']} clamp"
        title = f"{', '.join(results['leaves'])}, {clamp}"
        suffix = "" if name == "classify" else "_unclamped"
        drawn[f"fig05_hessian{suffix}"] = figures.hessian_heat_maps(title, examples)
        drawn[f"hessian_branches{suffix}"] = figures.hessian_own_blocks(
            clamp, task["stages"]
        )
    return drawn
