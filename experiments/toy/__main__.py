"""Toy 1 and Toy 2: Figures 2, 3 and 4, or a phase diagram of observation 6.

    python -m experiments.toy                  # the paper's sweep over M, two tasks
    python -m experiments.toy --mode phase     # learning rate x initial scale x slope

The sweep takes 13 to 20 seconds on 2 cores, the phase diagram 37 to 49. Expected with
the defaults (seed 0): at M = 2, 4 and 10 Toy 1 succeeds in .52, .88 and 1.00 of the
trials, Toy 2 in .60, .84 and .98. From M = 10 to 30, 3 to 4 branches are active.
"""

import time

import numpy as np

from bspec_jax import runs
from experiments.tables import number, observation_lines
from experiments.toy.config import NAME, Config
from experiments.toy.draw import draw, notes
from experiments.toy.phase import phase
from experiments.toy.sweep import sweep

RELIABLE = 0.95  # success rate


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, draw)
        return
    workdir = runs.start(config, NAME)
    compute = sweep if config.mode == "sweep" else phase
    runs.conclude(workdir, config, compute(config, workdir), started, draw, summary)


def summary(results: dict) -> str:
    """The table that ends a run."""
    phase = results["config"]["mode"] == "phase"
    table = _phase_lines if phase else _sweep_lines
    lines = [
        line for task, data in results["tasks"].items() for line in table(task, data)
    ]
    return "\n".join(lines if phase else [*lines, *notes(results)])


def _phase_lines(task: str, data: dict) -> list[str]:
    """How many cells learn reliably, and in how many of these observation 6 holds."""
    success = np.array(data["success_rate"], float)[-1]
    growth = data["active_growth"]
    lines = [f"{task}, {data['trials']} trials per cell, M = {data['branches']}"]
    for i, slope in enumerate(data["axes"]["negative_slope"]):
        learns = success[i] >= RELIABLE
        line = f"  slope {slope:<5g} success >= {RELIABLE:g} in {learns.sum()} of "
        line += f"{learns.size} cells"
        if growth is not None:
            ratio = np.array(growth["ratio"][i], float)
            constant = learns & (ratio <= growth["threshold"])
            line += f"; in {constant.sum()} of these observation 6 holds"
        lines.append(line)
    return [*lines, f"  {np.sum(data['diverged'])} trials diverged"]


def _sweep_lines(task: str, data: dict) -> list[str]:
    lines = [
        f"{task}, {data['trials']} trials for each M",
        "   M  success  (95 % interval)  active  silent  centred  variance  index S  "
        "diverged",
    ]
    for i, m in enumerate(data["branches"]):
        low, high = data["success_interval"][i]
        lines.append(
            f"{m:4}  {data['success_rate'][i]:7.3f}  ({low:.3f}, {high:.3f})   "
            f"{number(data['mean_active'][i]):>6}  "
            f"{number(data['mean_silent'][i]):>6}  "
            f"{number(data['mean_active_centred'][i]):>7}  "
            f"{number(data['mean_active_variance'][i]):>8}  "
            f"{number(data['specialization_index'][i], 3):>7}  "
            f"{data['diverged'][i]:8}"
        )
    several = data["trials"] > 1
    columns = ("value", "initial", "control")
    lines += [
        "active by the norm of responses (the paper), centred: without each branch's "
        "mean output, or by variance",
        "",
        *observation_lines(data["observations"], columns, verdicts=several),
    ]
    if not several:
        lines.append("(verdicts need several trials)")
    return [*lines, ""]


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
