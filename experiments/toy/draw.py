"""The figures of a finished toy run."""

import numpy as np

from bspec_jax import figures


def draw(results: dict) -> dict:
    """The figures by file name."""
    if results["config"]["mode"] == "phase":
        return {
            f"phase_{task}": figures.toy_phase(task, cells)
            for task, cells in results["tasks"].items()
        }
    drawn = {
        f"fig02_{kind}": figures.toy_dynamics(example, kind)
        for kind, example in results["dynamics"]["examples"].items()
    }
    drawn["fig03_success"] = figures.toy_success(results["tasks"])
    # Diverged trials have no covariances and no active branches.
    if has_numbers(results["covariances"]["matrices"]):
        drawn["fig03_covariance"] = figures.toy_covariances(results["covariances"])
    if results["responses"]["examples"]:  # none if no trial converged
        drawn["fig04_responses"] = figures.toy_responses(results["responses"])
    tasks, overlay = results["tasks"], results["overlay"]
    if has_numbers([task["mean_active"] for task in tasks.values()]):
        learning_rate = results["config"]["learning_rate"]
        drawn["fig04_active"] = figures.toy_active(tasks, overlay, learning_rate)
    return drawn


def has_numbers(values: list) -> bool:
    """Whether nested lists hold anything but null."""
    return bool(np.isfinite(np.array(values, float)).any())
