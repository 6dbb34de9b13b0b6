"""The loop of a training that logs, saves and stops where a number is not finite."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bspec_jax.errors import UserError

State = Any


def train_loop(
    advance: Callable[[State, int], tuple[State, dict]],
    state: State,
    steps: range,
    *,
    log_every: int,
    save_every: Sequence[int],
    on_log: Callable[[State, int, dict[str, np.ndarray]], Any],
    save: Callable[[State], Any],
    name: str,
) -> State:
    """Takes the steps; nothing waits for a step to end but what is logged and saved.

    Args:
      advance: step t, `(state, t) -> (state, log)`, the log a dict of arrays.
      log_every: steps between two calls of `on_log`, which is called before any save.
      save_every: save at each multiple of any of these, and at the end.
      on_log: told the state, the number of steps done, and the logs since the last
        call, stacked `[K, ...]`.
      name: of what is trained, for messages.

    Raises:
      UserError: if something that is logged is not finite.
    """
    done, total = steps.start, steps.stop
    while done < total:
        stop = min(total, *((done // n + 1) * n for n in (log_every, *save_every)))
        log = []
        for step in range(done, stop):
            state, entry = advance(state, step)
            log.append(entry)
        log = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(log))
        _check_finite(name, done, log)
        done = stop
        on_log(state, done, log)
        if done == total or any(done % n == 0 for n in save_every):
            save(state)
    return state


def _check_finite(name: str, step: int, log: dict) -> None:
    for quantity, values in log.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(1)
        if not finite.all():
            raise UserError(
                f"{name}: {quantity} is not finite at step {step + finite.argmin()}; "
                "the last checkpoint is kept; try a smaller --learning-rate"
            )
