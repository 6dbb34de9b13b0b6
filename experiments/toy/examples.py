"""The single networks that Figures 2, 3 and 4 show, which are those of the sweep.

Figure 2 is of M = 2, whether --branches has it or not, and follows no more than
`SEARCH_TRIALS` networks for no more than `RECORD_STEPS` steps.
"""

from typing import Any

import jax
import numpy as np

from bspec_jax import toys
from bspec_jax.analysis.specialization import active_branches, covariance
from bspec_jax.toys import measures, sweeps
from experiments.toy.config import Config

SEARCH_TRIALS = 1000  # networks of M = 2 among which Figure 2's examples are found
RECORD_STEPS, RECORD_EVERY = 4000, 10
COVARIANCE_BRANCHES, COVARIANCE_TRIALS = 10, 10  # the paper's, Figure 3 right
RESPONSE_BRANCHES, RESPONSE_TRIALS = 20, 200  # Figure 4 left and middle
MARGIN = 0.4  # of Figure 4's curves beyond the outer points


def dynamics(config: Config, task: str) -> dict[str, Any]:
    """Figure 2: the first typical run and the first of each rare kind, at M = 2."""
    x, y = (np.array(values) for values in toys.TASKS[task])
    network = toys.toy_network(2, init=config.init, init_scale=config.init_scale)
    key = jax.random.key(config.seed)
    searched = min(config.trials_count, SEARCH_TRIALS)
    steps = min(config.steps, RECORD_STEPS)
    options = {
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "negative_slope": config.negative_slope,
        "steps": steps,
        "every": RECORD_EVERY,
    }

    def follow(trial):
        params, _ = network.init(toys.trial_key(key, 2, trial))
        return toys.record(params, x, y, **options)

    recorded = np.array(jax.vmap(follow)(np.arange(searched)))
    kinds = toys.classify_dynamics(recorded, y, RECORD_EVERY)
    examples = {}
    for kind, of_kind in kinds._asdict().items():
        if not of_kind.any():
            continue
        trial = int(of_kind.argmax())
        error = ((recorded[trial].sum(1) - y) ** 2).sum(-1)
        converged = np.argmax(error < toys.TOLERANCE)
        length = min(error.size, int(1.5 * converged) + 10)
        name = kind if kind == "typical" else f"rare_{kind}"
        examples[name] = {
            "task": task,
            "trial": trial,
            "share": of_kind.mean(),
            "steps": np.arange(length) * RECORD_EVERY,
            "x": x,
            "y": y,
            "responses": recorded[trial, :length],
        }
    return {"task": task, "searched": searched, "steps": steps, "examples": examples}


def covariances(config: Config, task: str, trained: sweeps.Trials) -> dict[str, Any]:
    """Figure 3 right: F F^T of the first ten trials at M = 10, or the M nearest to it.

    Args:
      trained: the task's networks of the sweep.
    """
    m = config.shown_branches(COVARIANCE_BRANCHES)
    trained = _first(trained, m, COVARIANCE_TRIALS)
    v = measures.trial_responses(trained)[:, :m]
    return {
        "task": task,
        "branches": m,
        "converged": trained.converged,
        "matrices": jax.vmap(covariance)(v) if m else [],
    }


def responses(config: Config, task: str, trained: sweeps.Trials) -> dict[str, Any]:
    """Figure 4 left and middle: two converged trials at M = 20, or the M nearest to it.

    The first with 3 active branches, as in the paper, and the first with another count,
    among the first 200.

    Args:
      trained: the task's networks of the sweep.
    """
    m = config.shown_branches(RESPONSE_BRANCHES)
    trained = _first(trained, m, RESPONSE_TRIALS)
    num_active = measures.measure_trials(trained).num_active
    three = np.flatnonzero(trained.converged & (num_active == 3))[:1]
    other = np.flatnonzero(trained.converged & (num_active != 3))[:1]
    x, y = toys.TASKS[task]
    examples = []
    for trial in [*three, *other]:
        network = trained.select([trial])
        w, b = network.w[:m, 0], network.b[:m, 0]
        slope = network.negative_slope[0]
        v = measures.trial_responses(network)[0, :m]
        curves = measures.response_curves(w, b, slope, min(x) - MARGIN, max(x) + MARGIN)
        examples.append(
            {
                "trial": trial,
                "num_active": int(num_active[trial]),
                "active": active_branches(v),
                "w": w,
                "b": b,
                "negative_slope": slope,
                "responses": v,
                "curves": curves._asdict(),
            }
        )
    return {"task": task, "branches": m, "x": x, "y": y, "examples": examples}


def _first(trained: sweeps.Trials, num_branches: int | None, count: int):
    """The first networks of this M; none for None."""
    return trained.select(np.flatnonzero(trained.num_branches == num_branches)[:count])
