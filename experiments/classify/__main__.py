"""Image classification by a sum of branches: Figures 5 to 8, 16 and 17.

    python -m experiments.classify                                # the paper's setting
    python -m experiments.classify --sweep-branches 2 4 8 16 32   # and Figures 5.1, 17
    python -m experiments.classify --recipe quick                 # four minutes

Trains M branches on the loss of their sum (section 6) and, as a control, as many
branches separately, summed afterwards. Measures how the branches of both divide the
classes, before and after training; ablates branches, and exports the network without
its silent ones. Branches are ResNets, or smaller networks (--branch) which fall silent
within minutes: the last command, on 2 cores, ends with 7 of 16 branches active and a
test accuracy of 0.881 (control: 16, and 0.879; seed 0). For the Hessian of its
checkpoints, run `python -m experiments.hessian --checkpoint RUN`. A run also classifies
images of your own: which class, how sure, and what each branch contributes.

    python -m experiments.classify --workdir RUN --images my.png my_pictures/
"""

import dataclasses
import time
from functools import partial

from bspec_jax import data, runs
from experiments.classify import own_images
from experiments.classify.config import NAME, Config
from experiments.classify.draw import draw
from experiments.classify.measure import measure
from experiments.classify.train import finish, jobs, load_data
from experiments.tables import number, observation_lines


def main(config: Config) -> None:
    started = time.perf_counter()
    config = config.resolved()
    if config.images:
        own_images.classify(config)
        return
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(draw, config))
        return
    dataset = load_data(config)
    workdir = runs.start(config, NAME, dataset.identity)
    config = dataclasses.replace(config, workdir=workdir)
    print(*data.describe(dataset), sep="\n")
    for job in jobs(config):
        finish(config, job, dataset)
    results = measure(config, dataset)
    runs.conclude(
        config.workdir, config, results, started, partial(draw, config), summary
    )


def summary(results: dict) -> str:
    """The table that ends a run."""
    networks = results["networks"]
    width = max(15, *(len(network["name"]) for network in networks))
    lines = [
        f"{results['config']['dataset']}, chance {1 / len(results['classes']):.2f}; "
        f"{results['epochs']} epochs, {results['steps']:,} steps, decay budget "
        f"{results['decay_budget']:.3g}",
        f"{'network':{width}}  M  accuracy  excess loss  saturated  active  silent  "
        "centred  variance  index S",
    ]
    for network in networks:
        lines.append(
            f"{network['name']:{width}}{network['branches']:3}  "
            f"{number(network['test_accuracy'], 4):>8}  "
            f"{number(network['excess_loss'], 4):>11}  "
            f"{number(network['saturated'], 3):>9}  {number(network['active'], 0):>6}  "
            f"{number(network['silent'], 0):>6}  "
            f"{number(network['active_centred'], 0):>7}  "
            f"{number(network['active_variance'], 0):>8}  "
            f"{number(network['specialization_index'], 3):>7}"
        )
    pruned = results["pruned"]
    left = number(pruned["test_accuracy"], 4)
    several = results["config"]["repeats"] > 1
    columns = ("value", "initial", "control")
    lines += [
        "active by the norm of responses (the paper), centred: without each branch's "
        "mean output, or by variance",
        "",
        f"without its silent branches (centred), but for their mean output: accuracy "
        f"{left}, {number(pruned['parameters'], 0)} of {pruned['parameters_before']:,} "
        "parameters",
        "",
        *observation_lines(results["observations"], columns, verdicts=several),
    ]
    if not several:
        lines.append("(verdicts need several networks: --repeats 5)")
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
