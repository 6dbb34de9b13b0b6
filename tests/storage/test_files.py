import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bspec_jax.storage import files
from bspec_jax.storage.errors import Notice, UserError


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
    with pytest.warns(Notice, match=r"metrics\.jsonl: skipped 1 damaged line$"):
        files.keep_metrics(tmp_path, lambda record: record["step"] <= 2)
    assert files.read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize(
    "damage",
    [b"\0" * 40, b"\0" * 40 + b"\n", b'{"step": \xff}\n', b"[1]\n", b'{"st\n', b"\n"],
)
def test_damaged_lines_are_skipped_and_said(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage)
    with pytest.warns(Notice, match="skipped 1 damaged line"):
        assert files.read_metrics(tmp_path) == [{"step": 1}]
    with pytest.warns(Notice, match="skipped 1 damaged line"):
        files.keep_metrics(tmp_path, lambda record: True)
    assert path.read_bytes() == b'{"step": 1}\n'
    files.append_metrics(tmp_path, {"step": 2})
    assert files.read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_arrays_of_any_shape(tmp_path):
    files.save_arrays(tmp_path / "a.npz", {"x": np.arange(3), "y": np.zeros((2, 2))})
    loaded = files.load_arrays(tmp_path / "a.npz", {"x": None, "y": np.empty((2, 2))})
    np.testing.assert_array_equal(loaded["x"], [0, 1, 2])
    with pytest.raises(UserError, match="damaged"):
        files.load_arrays(tmp_path / "a.npz", {"x": np.empty(4)})
    with pytest.raises(UserError, match=r"no .*b\.npz: move results\.json away"):
        files.load_arrays(tmp_path / "b.npz")


def test_one_flipped_bit_in_an_array_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    for compressed in (True, False):
        files.save_arrays(path, {"x": np.arange(300)}, compressed=compressed)
        intact = path.read_bytes()
        damaged = bytearray(intact)
        damaged[len(intact) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.npz is damaged: move it away"):
            files.load_arrays(path, {"x": np.empty(300)})


def test_files_without_permission_are_not_damaged(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    files.save_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(UserError, match=r"cannot read .*a\.npz: Permission denied"):
        files.load_arrays(tmp_path / "a.npz")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"cannot read .*a\.json: Permission denied"):
        files.read_json(tmp_path / "a.json", "run")
