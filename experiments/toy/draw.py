"""The figures of a finished toy run."""

import numpy as np

from bspec_jax import figures
from bspec_jax.figures import TASK_TITLES


def draw(results: dict) -> dict:
    """The figures by file name."""
    if results["config"]["mode"] == "phase":
        return {
            f"phase_{task}": figures.toy_phase(task, cells)
            for task, cells in results["tasks"].items()
        }
    drawn = {
        f"fig02_{kind}": figures.toy_dynamics(example, kind, note_on_dynamics(results))
        for kind, example in results["dynamics"]["examples"].items()
    }
    drawn["fig03_success"] = figures.toy_success(results["tasks"])
    # Diverged trials have no covariances and no active branches; see `notes`.
    if has_numbers(results["covariances"]["matrices"]):
        drawn["fig03_covariance"] = figures.toy_covariances(results["covariances"])
    if results["responses"]["examples"]:  # none if no trial converged
        drawn["fig04_responses"] = figures.toy_responses(results["responses"])
    tasks, overlay = results["tasks"], results["overlay"]
    if has_numbers([task["mean_active"] for task in tasks.values()]):
        learning_rate = results["config"]["learning_rate"]
        drawn["fig04_active"] = figures.toy_active(tasks, overlay, learning_rate)
    return drawn


def note_on_dynamics(results: dict) -> str:
    """What Figure 2 is found among, in words."""
    dynamics = results["dynamics"]
    steps, count = dynamics["steps"], dynamics["searched"]
    note = f"{count} trial{'s' * (count > 1)} of {steps} steps"
    listed = all(2 in task["branches"] for task in results["tasks"].values())
    return note if listed else f"{note} (--branches has no 2)"


def notes(results: dict) -> list[str]:
    """What each figure of single networks shows, or why a figure is missing."""
    dynamics, tasks = results["dynamics"], results["tasks"].values()
    covariances, responses = results["covariances"], results["responses"]

    def note(name, data, branches, shown, reason):
        if not shown:
            return f"Figure {name} is not drawn: {reason}"
        return f"Figure {name} shows {TASK_TITLES[data['task']]}, M = {branches}"

    def missing(data, reason):
        return reason if data["branches"] else "every M is too large to be shown"

    searched, examples = note_on_dynamics(results), dynamics["examples"]
    lines = [
        note("2", dynamics, 2, examples, f"no success in {searched}"),
        note(
            "3 right",
            covariances,
            covariances["branches"],
            has_numbers(covariances["matrices"]),
            missing(covariances, "every trial diverged"),
        ),
        note(
            "4 left",
            responses,
            responses["branches"],
            responses["examples"],
            missing(responses, "no trial converged"),
        ),
    ]
    if examples:
        lines[0] += f": {searched}"
    if not has_numbers([task["mean_active"] for task in tasks]):
        lines.append("Figure 4 right is not drawn: every trial diverged")
    return lines


def has_numbers(values: list) -> bool:
    """Whether nested lists hold anything but null."""
    return bool(np.isfinite(np.array(values, float)).any())
