from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bspec_jax.storage import checkpoints, resumable
from bspec_jax.storage.errors import UserError
from bspec_jax.storage.resumable import train_loop


def run_loop(steps, state=0.0, advance=None, **options):
    calls = []

    def add(state, step):
        return state + step, {"step": jnp.float32(step), "pair": jnp.ones(2)}

    state = train_loop(
        advance or add,
        state,
        steps,
        **{"log_every": (3, 10), "save_every": 4} | options,
        on_log=lambda state, done, log: calls.append(("log", done, log, state)),
        save=lambda state: calls.append(("save", state)),
        name="net",
    )
    return state, calls


def test_it_stops_to_log_and_to_save_and_at_the_end():
    state, calls = run_loop(range(11))
    assert state == sum(range(11))
    logs = [call for call in calls if call[0] == "log"]
    assert [call[1] for call in logs] == [3, 4, 6, 8, 9, 10, 11]
    assert [call[2]["step"].tolist() for call in logs][:3] == [[0, 1, 2], [3], [4, 5]]
    assert logs[0][2]["pair"].shape == (3, 2)
    saved = [call[1] for call in calls if call[0] == "save"]
    assert saved == [sum(range(n)) for n in (4, 8, 11)]
    # The log comes before the save of the same step.
    assert [call[0] for call in calls][:3] == ["log", "log", "save"]


def test_it_goes_on_where_it_was():
    _, straight = run_loop(range(11))
    _, resumed = run_loop(range(4, 11), state=sum(range(4)))
    assert [c[:2] for c in resumed] == [c[:2] for c in straight][3:]
    assert run_loop(range(11, 11), state=5.0) == (5.0, [])


def test_what_is_not_finite_is_named_with_its_step():
    def advance(state, step):
        value = jnp.array([0.0, jnp.inf if step == 7 else 0.0])
        return state, {"fine": jnp.zeros(()), "norm": value}

    saved = []
    with pytest.raises(UserError, match="net: norm is not finite at step 7; the last"):
        train_loop(
            advance,
            0,
            range(20),
            log_every=(5,),
            save_every=5,
            on_log=lambda *_: None,
            save=saved.append,
            name="net",
        )
    assert len(saved) == 1  # that of step 5
    assert np.isfinite(saved).all()


class State(NamedTuple):
    step: jnp.ndarray
    weights: jnp.ndarray
    momentum: jnp.ndarray

    def parts(self):
        return {"weights": self.weights}, {"m": self.momentum, "step": self.step}

    @classmethod
    def from_parts(cls, model, training):
        return cls(training["step"], model["weights"], training["m"])


def state(step, value=1.0):
    return State(jnp.asarray(step), jnp.full(3, value), jnp.full(2, -value))


def test_training_starts_once_and_then_resumes_from_the_newest_step(tmp_path):
    folder = tmp_path / "net"
    first = resumable.resume(folder, state(0))
    assert_array_equal(first.weights, np.ones(3))
    assert checkpoints.steps(folder) == [0]
    for step in (5, 10):
        resumable.save(folder, state(step, step / 2))
    found = resumable.resume(folder, state(0))
    assert int(found.step) == 10
    assert_array_equal(found.weights, np.full(3, 5.0))
    assert_array_equal(found.momentum, np.full(2, -5.0))
    assert isinstance(found, State)
    earlier = resumable.restore(folder, 5, state(0))
    assert_array_equal(earlier.weights, np.full(3, 2.5))


def test_nothing_resumes_from_a_damaged_step(tmp_path):
    resumable.resume(tmp_path, state(0))
    other = state(0)._replace(weights=jnp.ones(4))
    with pytest.raises(UserError, match="of another network"):
        resumable.resume(tmp_path, other)
