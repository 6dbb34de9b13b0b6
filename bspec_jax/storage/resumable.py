"""Training that resumes: one protocol for every network that is trained in steps.

A training state says what of it is the network and what only training needs; `resume`
starts from the newest checkpoint, and `train_loop` logs, saves, and stops at numbers
that are not finite. A step is a function of the state and its number alone, so that a
resumed training ends bit for bit like one that was never stopped.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import UserError
from bspec_jax.trees import Tree

# `(total, initial) -> context of the function that advances a progress bar`.
Progress = Callable[[int, int], AbstractContextManager[Callable[[int], Any]]]


@runtime_checkable
class TrainingState(Protocol):
    """What training carries from step to step.

    step: steps done, an array `[]`.
    """

    step: Any

    def parts(self) -> tuple[Tree, Tree]:
        """The network's tree, and that of what only training needs."""

    @classmethod
    def from_parts(cls, model: Tree, training: Tree) -> "TrainingState":
        """The inverse of `parts`."""


State = TypeVar("State", bound=TrainingState)


def save(folder: Path, state: TrainingState, keep: Collection[int] = ()) -> None:
    """Writes the checkpoint of the state's step; `keep` as of `checkpoints.save`."""
    model, training = state.parts()
    checkpoints.save(folder, int(state.step), keep=keep, model=model, training=training)


def restore(folder: Path, step: int, like: State) -> State:
    """Reads what `save` wrote.

    Args:
      like: a state of the same structure, shapes and types.

    Raises:
      UserError: if the checkpoint is missing, damaged or of another network.
    """
    model, training = like.parts()
    parts = checkpoints.restore(folder, step, model=model, training=training)
    return type(like).from_parts(*parts)


def resume(folder: Path, initial: State) -> State:
    """The state of the newest checkpoint in `folder`; without one, saves `initial`.

    Raises:
      UserError: if the checkpoint is damaged or of another network.
    """
    if checkpoints.steps(folder):
        return restore(folder, checkpoints.last_step(folder), initial)
    save(folder, initial)
    return initial


def train_loop(
    advance: Callable[[Any, int], tuple[Any, dict]],
    state: Any,
    steps: range,
    *,
    log_every: Sequence[int],
    save_every: int,
    on_log: Callable[[Any, int, dict[str, np.ndarray]], Any],
    save: Callable[[Any], Any],
    name: str,
    check: Callable[[str, int, dict[str, np.ndarray]], Any] | None = None,
) -> Any:
    """Takes the steps; only logging and saving block on a step.

    Args:
      advance: step t, `(state, t) -> (state, log)`, the log a dict of arrays.
      log_every: calls `on_log` at each multiple of any of these, and before any save.
      save_every: steps between two saves; another is at the end.
      on_log: takes the state, the number of steps done, and the logs since the last
        call, stacked `[K, ...]`.
      name: of the network, for messages.
      check: raises for a log that should end the training; takes `name`, the log's
        first step, and the log. Default: `check_finite`.

    Raises:
      UserError: by default, if a logged number is not finite.
    """
    check = check or check_finite
    done, total = steps.start, steps.stop
    while done < total:
        stop = min(total, *((done // n + 1) * n for n in (*log_every, save_every)))
        log = []
        for step in range(done, stop):
            state, entry = advance(state, step)
            log.append(entry)
        log = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(log))
        check(name, done, log)
        done = stop
        on_log(state, done, log)
        if done == total or done % save_every == 0:
            save(state)
    return state


def check_finite(name: str, step: int, log: dict[str, np.ndarray]) -> None:
    """Raises UserError unless all logged numbers are finite."""
    for quantity, values in log.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(1)
        if not finite.all():
            raise UserError(
                f"{name}: {quantity} is not finite at step {step + finite.argmin()}; "
                "the last checkpoint is kept; try a smaller `learning_rate`"
            )


@contextmanager
def no_progress(total: int, initial: int) -> Iterator[Callable[[int], None]]:
    """Shows nothing, where a training may show a progress bar."""
    yield lambda steps: None
