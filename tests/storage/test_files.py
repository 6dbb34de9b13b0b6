import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bspec_jax.storage import files
from bspec_jax.storage.errors import UserError


def test_numbers_that_are_not_finite_become_null():
    data = {
        1: np.array([1.0, np.nan]),
        "b": (jnp.inf, np.float32(2.5), np.int64(3), np.bool_(True)),
        "c": jnp.arange(2),
        "d": Path("x"),
    }
    assert files.to_json(data) == {
        "1": [1.0, None],
        "b": [None, 2.5, 3, True],
        "c": [0, 1],
        "d": "x",
    }


def test_metrics_are_one_line_each(tmp_path):
    files.append_metrics(tmp_path, {"step": 1, "loss": np.float32(0.5)})
    files.append_metrics(tmp_path, {"step": 2, "loss": np.nan})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": None},
    ]


def test_metrics_that_will_be_written_again_are_dropped(tmp_path):
    files.keep_metrics(tmp_path, lambda record: False)  # none yet
    for step in (1, 2, 3):
        files.append_metrics(tmp_path, {"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')  # the process was killed here
    files.keep_metrics(tmp_path, lambda record: record["step"] <= 2)
    assert files.read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_arrays_of_any_shape(tmp_path):
    files.save_arrays(tmp_path / "a.npz", {"x": np.arange(3), "y": np.zeros((2, 2))})
    loaded = files.load_arrays(tmp_path / "a.npz", {"x": None, "y": np.empty((2, 2))})
    np.testing.assert_array_equal(loaded["x"], [0, 1, 2])
    with pytest.raises(UserError, match="damaged"):
        files.load_arrays(tmp_path / "a.npz", {"x": np.empty(4)})
    with pytest.raises(UserError, match=r"no .*b\.npz: run the experiment again"):
        files.load_arrays(tmp_path / "b.npz")
