r"""Image classification by a sum of slim ResNets: Figures 5 to 8, 16 and 17.

    python -m experiments.classify                                # the paper's setting
    python -m experiments.classify --sweep-branches 2 4 8 16 32   # and Figures 5.1, 17
    python -m experiments.classify --dataset fashion_mnist --optimizer adamw \
        --train-examples 40000 --validation-examples 1000 --epochs 2 --batch-size 64 \
        --crop-padding 0

Trains M branches on the loss of their sum (section 6) and, as a control, as many
branches separately, summed afterwards. Measures how the branches of both divide the
classes, before and after training; ablates branches, and exports the network without
its silent ones. The last command takes 58 minutes on 2 cores; its test accuracy is
0.906, and 0.887 for the control (seed 0). For the Hessian of its checkpoint, run
`python -m experiments.hessian --checkpoint RUN`.
"""

import dataclasses
import time
from functools import partial

from bspec_jax import runs
from experiments.classify.config import NAME, Config
from experiments.classify.draw import draw
from experiments.classify.measure import measure
from experiments.classify.train import finish, jobs, load_data
from experiments.tables import observation_lines


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(draw, config))
        return
    dataset = load_data(config)
    config = dataclasses.replace(config, workdir=runs.start(config, NAME))
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
        f"{results['config']['dataset']}, chance {1 / len(results['classes']):.2f}",
        f"{'network':{width}}  M  accuracy  excess loss  saturated  active  silent  "
        "index S",
    ]
    for network in networks:
        lines.append(
            f"{network['name']:{width}}{network['branches']:3}  "
            f"{network['test_accuracy']:8.4f}  {network['excess_loss']:11.4f}  "
            f"{network['saturated']:9.3f}  {network['active']:6}  "
            f"{network['silent']:6}  {network['specialization_index']:7.3f}"
        )
    ablation, pruned = results["ablation"], results["pruned"]
    lines += [
        "",
        f"without its silent branches: accuracy {ablation['without_silent']:.4f}, "
        f"{pruned['parameters']:,} of {pruned['parameters_before']:,} parameters",
        "",
        *observation_lines(results["observations"], ("value", "initial", "control")),
    ]
    if results["config"]["repeats"] == 1:
        lines.append("(verdicts need several networks: --repeats 5)")
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
