"""The block Hessian and the two factors of the gradient, along training.

    python -m experiments.hessian                             # both toys, M = 2 to 30
    python -m experiments.hessian --checkpoint runs/classify/RUN

Toys: trains many networks by gradient descent and takes the exact Hessian at several
steps. Reports how much of it lies outside the branches' own blocks, against the same
parameters regrouped at random (observation 7); its eigenvalues against 2 / learning
rate; its relation to the index S; and the shares of vanishing distributive and
collaborative factors (the conjecture of section 8).

A checkpoint: the exact Hessian of a trained classifier's first layer, or of --leaves,
with and without the clamp of its loss (Figure 5, panels 3 and 4). Takes 4 to 6 minutes
for 16 branches on 2 cores.

Expected for the toys with the defaults (seed 0, 30 to 37 seconds on 2 cores): at M = 30
the off-diagonal ratio falls from 3.6 to 1.25 (Toy 1) and 0.92 (Toy 2). Parameters
regrouped at random have 1.40 and 1.14.
"""

import time
from functools import partial

import jax

from bspec_jax import runs
from bspec_jax.analysis.observations import VERDICTS
from experiments.hessian import checkpoint, toys
from experiments.hessian.config import NAME, Config
from experiments.hessian.draw import draw
from experiments.tables import number


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(draw, config.workdir))
        return
    case = None
    if config.checkpoint:
        case = checkpoint.prepare(config.checkpoint, config.leaves, config.examples)
    workdir = runs.start(config, NAME, case and case.dataset.identity)
    # Some GPUs multiply with a mantissa of ten bits by default.
    with jax.default_matmul_precision("highest"):
        if case is None:
            results = toys.measure(config, workdir)
        else:
            results = checkpoint.measure(workdir, case)
    runs.conclude(workdir, config, results, started, partial(draw, workdir), summary)


def summary(results: dict) -> str:
    """The table that ends a run."""
    if results["config"]["checkpoint"]:
        return _classifier_table(results)
    return "\n".join(
        line
        for task, data in results["tasks"].items()
        for line in _toy_lines(task, data)
    )


def _toy_lines(task: str, data: dict) -> list[str]:
    lines = [
        f"{task}, {data['trials']} networks for each M",
        "   M  off-diagonal ratio: start    end  control   largest eigenvalue",
    ]
    first, last = (data["stages"][i]["measures"] for i in (0, -1))
    limit = data["stages"][-1]["spectra"]["limit"]
    for i, m in enumerate(data["branches"]):
        start = number(first["offdiagonal_ratio"]["mean"][i])
        end, control, eigenvalue = (
            number(last[name]["mean"][i])
            for name in ("offdiagonal_ratio", "control_ratio", "largest_eigenvalue")
        )
        lines.append(
            f"{m:4}                      {start:>6} {end:>6}   {control:>6}"
            f"        {eigenvalue:>6}, limit {limit:g}"
        )
    several = data["trials"] > 1
    for key, item in data["observations"].items():
        low, high = map(number, item["interval"])
        line = f"{key} {item['claim']}: {item['measure']} {number(item['value'])}"
        if several:
            line += f" ({low}, {high}), limit {item['threshold']}: "
            line += VERDICTS[item["holds"]]
        lines.append(line)
    if not several:
        lines.append("(intervals and verdicts need several trials)")
    if not data["example"]:
        lines.append("no heat map is drawn: every M is too large to be shown")
    return [*lines, ""]


def _classifier_table(results: dict) -> str:
    lines = [
        f"M = {results['branches']}, {results['parameters']} parameters of "
        f"{', '.join(results['leaves'])}, {results['examples']} examples",
        "clamp             step  off-diagonal ratio  control  ratio / control  "
        "small blocks",
    ]
    columns = "offdiagonal_ratio", "control_ratio", "ratio_to_control", "small_blocks"
    for task in results["tasks"].values():
        for stage in task["stages"]:
            ratio, control, relative, small = (number(stage[c]) for c in columns)
            lines.append(
                f"{task['clamp']:17}{stage['step']:5}  {ratio:>18}  {control:>7}  "
                f"{relative:>15}  {small:>12}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
