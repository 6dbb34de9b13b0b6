"""The single networks that Figures 2, 3 and 4 show."""

from typing import Any

import jax
import numpy as np

from bspec_jax import toys
from bspec_jax.analysis.specialization import active_branches, covariance
from bspec_jax.toys import measures, sweeps
from experiments.toy.config import COVARIANCE_BRANCHES, RESPONSE_BRANCHES, Config

SEARCH_TRIALS = 1000  # networks of M = 2 among which Figure 2's examples are found
RECORD_STEPS, RECORD_EVERY = 4000, 10
MARGIN = 0.4  # of Figure 4's curves beyond the outer points


def dynamics(config: Config, task: str) -> dict[str, Any]:
    """Figure 2: the first typical run and the first of each rare kind, at M = 2."""
    x, y = (np.array(values) for values in toys.TASKS[task])
    network = toys.toy_network(2, init=config.init, init_scale=config.init_scale)
    key = jax.random.key(config.seed)
    options = {
        "learning_rate": config.learning_rate,
        "negative_slope": config.negative_slope,
        "steps": RECORD_STEPS,
        "every": RECORD_EVERY,
    }

    def follow(trial):
        params, _ = network.init(toys.trial_key(key, 2, trial))
        return toys.record(params, x, y, **options)

    recorded = np.array(jax.vmap(follow)(np.arange(SEARCH_TRIALS)))
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
    return {"searched": SEARCH_TRIALS, "examples": examples}


def covariances(task: str, trained: sweeps.Trials) -> dict[str, Any]:
    """Figure 3 right: F F^T of the first ten trials at M = 10."""
    v = measures.trial_responses(trained)[:, :COVARIANCE_BRANCHES]
    return {
        "task": task,
        "branches": COVARIANCE_BRANCHES,
        "converged": trained.converged,
        "matrices": jax.vmap(covariance)(v),
    }


def responses(task: str, trained: sweeps.Trials) -> dict[str, Any]:
    """Figure 4 left and middle: two converged trials at M = 20.

    The first with 3 active branches, as in the paper, and the first with another count.
    """
    num_active = measures.measure_trials(trained).num_active
    three = np.flatnonzero(trained.converged & (num_active == 3))[:1]
    other = np.flatnonzero(trained.converged & (num_active != 3))[:1]
    x, y = toys.TASKS[task]
    examples = []
    for trial in [*three, *other]:
        network = trained.select([trial])
        w, b = network.w[:RESPONSE_BRANCHES, 0], network.b[:RESPONSE_BRANCHES, 0]
        slope = network.negative_slope[0]
        v = measures.trial_responses(network)[0, :RESPONSE_BRANCHES]
        curves = measures.response_curves(w, b, slope, min(x) - MARGIN, max(x) + MARGIN)
        examples.append(
            {
                "trial": trial,
                "num_active": num_active[trial],
                "active": active_branches(v),
                "w": w,
                "b": b,
                "negative_slope": slope,
                "responses": v,
                "curves": curves._asdict(),
            }
        )
    return {"task": task, "x": x, "y": y, "examples": examples}
