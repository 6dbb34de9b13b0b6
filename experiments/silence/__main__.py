r"""When do branches fall silent? Decay, rate, depth and M, on real images.

    apt-get install dataset-fashion-mnist
    python -m experiments.silence                    # 20 minutes on 2 cores
    python -m experiments.silence --quick            # 3 minutes
    python -m experiments.silence --dataset faces    # nothing to install

Trains hundreds of small branched networks, those of one architecture in one batched
computation, and counts the branches that fall silent: against M with weight decay and
without (Figure 5.1), against the decay budget for each degree of the response, along
training, and over decay and learning rate. Compares them with the predictions of
docs/silence.md, which were written down before any run.
"""

import dataclasses
import time

import numpy as np

from bspec_jax import data, runs
from bspec_jax.analysis.verdicts import VERDICTS
from experiments.silence.config import NAME, Config
from experiments.silence.draw import draw
from experiments.silence.grid import groups
from experiments.silence.measure import measure
from experiments.silence.train import finish, load_data
from experiments.tables import number


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, draw)
        return
    config = config.resolved()
    dataset = load_data(config)
    workdir = runs.start(config, NAME, dataset.identity)
    config = dataclasses.replace(config, workdir=workdir)
    print(*data.describe(dataset), sep="\n")
    for group in groups(config):
        finish(config, group, dataset)
    runs.conclude(workdir, config, measure(config, dataset), started, draw, summary)


def summary(results: dict) -> str:
    """The table that ends a run."""

    def mean(values):
        return np.mean(np.array(values, float))

    config = results["config"]
    lines = [
        f"{config['dataset']}, {config['steps']:,} steps, means over "
        f"{config['repeats']} seeds; active: centred norm, paper's norm, variance",
        "branch  degree  norm.    M  decay     rate  init   beta  accuracy  active",
    ]
    for cell in results["cells"]:
        active = [cell[k] for k in ("active_centred", "active", "active_variance")]
        lines.append(
            f"{cell['branch']:6}  {cell['degree']:6}  {cell['normalisation']:5}  "
            f"{cell['branches']:3}  {cell['decay']:<7g}  {cell['learning_rate']:5g}  "
            f"{cell['init_scale']:4g}  {cell['decay_budget']:5.1f}  "
            f"{number(mean(cell['accuracy']), 3):>8}  "
            + " ".join(f"{number(mean(values), 1):>5}" for values in active)
        )
    lines += ["", "predictions of docs/silence.md, with 95 % intervals over seeds"]
    for row in results["predictions"]:
        low, high = (number(bound, 3) for bound in row["interval"])
        lines.append(
            f"{row['prediction']:>3}  {row['claim']}: {row['measure']} "
            f"{number(row['value'], 3)} ({low}, {high}), {VERDICTS[row['holds']]}; "
            f"{row['setting']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
