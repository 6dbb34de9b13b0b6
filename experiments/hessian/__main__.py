"""The block Hessian and the two factors of the gradient, along training.

    python -m experiments.hessian                             # both toys, M = 2 to 30
    python -m experiments.hessian --checkpoint runs/classify/RUN

Toys: trains many networks by gradient descent and takes the exact Hessian at several
steps. Reports how nearly block diagonal it is over the active branches, against the
start and against separately trained branches (observation 7), and how much a step of
one branch moves the gradients of others; its eigenvalues against 2 / learning rate; its
relation to the index S; and, at the points that networks fail to fit, the share of
vanishing distributive factors (the conjecture of section 8).

A checkpoint: the exact Hessian of a trained classifier's first layer, or of --leaves,
with and without the clamp of its loss (Figure 5, panels 3 and 4), at the start,
half-way and at the end, and of the run's separately trained branches. Takes 2 to 3
minutes for each of these and 16 branches on 2 cores.

Expected for the toys with the defaults (seed 0, about 40 seconds on 2 cores): at M = 30
S_H rises from 0.39 to 0.58 (Toy 1) and from 0.42 to 0.73 (Toy 2). Of branches that were
trained separately it is 0.00 and 0.26.
"""

import time
from functools import partial

import jax

from bspec_jax import runs
from experiments.hessian import checkpoint, toys
from experiments.hessian.config import NAME, Config
from experiments.hessian.draw import draw
from experiments.tables import number, observation_lines


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
        "   M  block index S_H: start    end  control   effect of a step   largest "
        "eigenvalue",
    ]
    first, last = (data["stages"][i]["measures"] for i in (0, -1))
    limit = data["stages"][-1]["spectra"]["limit"]
    names = ("block_index", "step_effect", "largest_eigenvalue")
    for i, m in enumerate(data["branches"]):
        start, control = (
            number(of_stage["block_index"]["mean"][i])
            for of_stage in (first, data["control"])
        )
        end, effect, eigenvalue = (number(last[name]["mean"][i]) for name in names)
        lines.append(
            f"{m:4}                   {start:>6} {end:>6}   {control:>6}   "
            f"{effect:>16}   {eigenvalue:>6}, limit {limit:g}"
        )
    columns = ("value", "initial", "control")
    several = data["trials"] > 1
    lines += observation_lines(data["observations"], columns, verdicts=several)
    if not several:
        lines.append("(intervals and verdicts need several trials)")
    if not data["example"]:
        lines.append("no heat map is drawn: every M is too large to be shown")
    return [*lines, ""]


def _classifier_table(results: dict) -> str:
    lines = [
        f"M = {results['branches']}, {results['parameters']} parameters of "
        f"{', '.join(results['leaves'])}, {results['examples']} examples",
        "clamp             step  active  block index S_H  effect of a step  "
        "off-diagonal ratio  small blocks",
    ]
    for task in results["tasks"].values():
        stages = [(stage["step"], stage) for stage in task["stages"]]
        if task["control"]:
            stages.append(("apart", task["control"]))
        lines += [
            f"{task['clamp']:15}{step:>7}  {number(stage['active_centred'], 0):>6}  "
            f"{number(stage['block_index']):>15}  "
            f"{number(stage.get('step_effect')):>16}  "
            f"{number(stage['offdiagonal_ratio']):>18}  "
            f"{number(stage['small_blocks']):>12}"
            for step, stage in stages
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
