import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import UserError


def tree(value):
    return {
        "a": jnp.full((2, 3), value, jnp.float32),
        "b": {"c": jnp.arange(4) + value, "empty": ()},
    }


@pytest.fixture
def folder(tmp_path):
    for step in (0, 10, 20, 30):
        checkpoints.save(tmp_path / "net", step, model=tree(step), training=tree(-step))
    return tmp_path / "net"


def test_what_is_saved_is_restored(folder):
    model, training = checkpoints.restore(folder, 30, model=tree(1), training=tree(2))
    for got, expected in ((model, tree(30)), (training, tree(-30))):
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        jax.tree.map(assert_array_equal, got, expected)
        types = [[leaf.dtype for leaf in jax.tree.leaves(t)] for t in (got, expected)]
        assert types[0] == types[1]
    (model,) = checkpoints.restore(folder, 0, model=tree(1))  # one part alone
    assert_array_equal(model["a"], np.zeros((2, 3)))


def test_a_step_is_restored_by_its_own_shapes(folder):
    like = checkpoints.saved_shapes(folder, 30, "model")
    assert like["a"] == jax.ShapeDtypeStruct((2, 3), jnp.float32)
    (model,) = checkpoints.restore(folder, 30, model=like)
    assert jax.tree.structure(model) == jax.tree.structure(tree(30))
    jax.tree.map(assert_array_equal, model, tree(30))
    with pytest.raises(UserError, match=r"no checkpoint at .*net/10"):
        checkpoints.saved_shapes(folder, 10, "model")
    (folder / "30" / "model" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match=r"net/30 is damaged"):
        checkpoints.saved_shapes(folder, 30, "model")


def test_the_first_and_the_latest_steps_stay(folder):
    assert checkpoints.steps(folder) == [0, 20, 30]
    assert checkpoints.steps(folder / "missing") == []


def test_an_unfinished_step_does_not_count(folder):
    (folder / "40.orbax-checkpoint-tmp-1").mkdir()
    assert checkpoints.steps(folder) == [0, 20, 30]


def test_what_another_device_saved(tmp_path):
    script = f"""
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
from pathlib import Path
import jax, jax.numpy as jnp
from bspec_jax.storage import checkpoints
tree = jax.device_put({{"a": jnp.arange(3)}}, jax.devices()[1])
checkpoints.save(Path({str(tmp_path)!r}), 1, model=tree)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    (model,) = checkpoints.restore(tmp_path, 1, model={"a": jnp.zeros(3, int)})
    assert_array_equal(model["a"], [0, 1, 2])


def test_reading_leaves_alone_what_is_being_written(folder):
    unfinished = folder / "40.orbax-checkpoint-tmp-1"
    unfinished.mkdir()
    checkpoints.restore(folder, 30, model=tree(0))
    assert unfinished.exists()


def test_a_missing_step(folder):
    with pytest.raises(UserError, match=r"no checkpoint at .*net/10"):
        checkpoints.restore(folder, 10, model=tree(0))


def test_one_flipped_bit_in_any_file_is_noticed(folder):
    files = [p for p in (folder / "30").rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 10
    for path in files:
        intact = path.read_bytes()
        damaged = bytearray(intact)
        damaged[len(intact) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged") as error:
            checkpoints.restore(folder, 30, model=tree(0))
        assert "\n" not in str(error.value)
        assert "delete" not in str(error.value)
        path.write_bytes(intact)
    checkpoints.restore(folder, 30, model=tree(0))
    (model,) = checkpoints.restore(folder, 20, model=tree(0))
    assert_array_equal(model["a"], np.full((2, 3), 20))


def test_a_missing_file_is_damage_and_a_check_can_be_left_out(folder):
    (folder / "30" / "training" / "_sharding").unlink()
    with pytest.raises(UserError, match=r"net/30 is damaged: training/_sharding"):
        checkpoints.restore(folder, 30, model=tree(0))
    (model,) = checkpoints.restore(folder, 30, verify=False, model=tree(0))
    assert_array_equal(model["a"], np.full((2, 3), 30))


def test_a_step_without_checksums(folder):
    (folder / "30" / "checksums.json").unlink()
    (model,) = checkpoints.restore(folder, 30, model=tree(0))
    assert_array_equal(model["a"], np.full((2, 3), 30))
    for path in (folder / "30" / "model").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"net/30 is damaged, or of another network"):
        checkpoints.restore(folder, 30, model=tree(0))


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_too_many_open_files_are_no_damage(folder, spare):
    like = tree(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    limit = max(taken) + 1 + spare
    for number in taken[: len(taken) - spare]:
        os.dup2(taken[-1], number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with pytest.raises(UserError) as error:
            checkpoints.restore(folder, 30, model=like)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)
    assert "oo many open files" in str(error.value)
    assert "damaged" not in str(error.value)


def test_a_file_without_permission_is_no_damage(folder, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot read .*30.*: Permission denied"):
        checkpoints.restore(folder, 30, model=tree(0))


def test_too_little_memory_is_no_damage(folder, monkeypatch):
    def refuse(*args):
        raise MemoryError

    monkeypatch.setattr(checkpoints.ocp.StandardCheckpointer, "restore", refuse)
    with pytest.raises(MemoryError):
        checkpoints.restore(folder, 30, model=tree(0))


def test_another_network(folder):
    other = tree(0) | {"a": jnp.zeros((5, 3))}
    with pytest.raises(UserError, match=r"net/30 is of another network \(.*\(2, 3\)"):
        checkpoints.restore(folder, 30, model=other)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys_of_any_kind_come_back(tmp_path, impl):
    state = {
        "keys": jax.random.split(jax.random.key(3, impl=impl), 4),
        "none": jnp.zeros((0, 3), jnp.bfloat16),
        "count": np.uint32(7),
    }
    checkpoints.save(tmp_path, 1, state=state)
    shapes = jax.eval_shape(lambda tree: tree, state)
    for like in (state, shapes):
        (read,) = checkpoints.restore(tmp_path, 1, state=like)
        assert jax.random.key_impl(read["keys"]) == impl
        draws = [jax.vmap(jax.random.normal)(tree["keys"]) for tree in (read, state)]
        assert_array_equal(*draws)
        assert read["none"].shape == (0, 3)
        assert read["none"].dtype == jnp.bfloat16
        assert_array_equal(read["count"], 7)


@dataclass(frozen=True)
class Spec:
    KIND: ClassVar[str] = "test"

    mean: tuple[float, ...]
    name: str = "net"


def test_a_run_a_network_and_a_step_can_be_named(tmp_path):
    folder = tmp_path / "checkpoints" / "main"
    checkpoints.write_spec(folder, Spec((0.5, 1.0)))
    for step in (0, 7):
        checkpoints.save(folder, step, model=tree(step))
    for path, step in ((tmp_path, 7), (folder, 7), (folder / "0", 0)):
        assert checkpoints.find(path, "main") == (folder, step)
    assert checkpoints.last_step(folder) == 7
    assert checkpoints.last_step(tmp_path) == 0
    with pytest.raises(UserError, match=r"no checkpoint in .*checkpoints/other"):
        checkpoints.find(tmp_path, "other")


def test_a_specification_comes_back(tmp_path):
    checkpoints.write_spec(tmp_path / "net", Spec((0.5, 1.0)))
    saved = json.loads((tmp_path / "net" / "network.json").read_text())
    assert len(saved.pop("checksum")) == 32
    assert saved == {"kind": "test", "mean": [0.5, 1.0], "name": "net"}
    assert checkpoints.read_spec(tmp_path / "net", Spec) == Spec((0.5, 1.0))


def test_a_changed_number_in_a_specification_is_noticed(tmp_path):
    checkpoints.write_spec(tmp_path, Spec((0.5, 1.0)))
    text = (tmp_path / "network.json").read_text()
    (tmp_path / "network.json").write_text(text.replace("0.5", "0.7"))
    with pytest.raises(UserError, match=r"network\.json is damaged"):
        checkpoints.read_spec(tmp_path, Spec)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (None, "no network at"),
        ({"kind": "other", "mean": [1.0]}, "holds no test"),
        ({"mean": [1.0]}, "holds no test"),
        ({"kind": "test"}, "is damaged .*mean"),
        ({"kind": "test", "mean": [1.0], "more": 1}, "is damaged .*more"),
    ],
)
def test_a_specification_that_is_none(tmp_path, saved, message):
    if saved is not None:
        (tmp_path / "network.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=message):
        checkpoints.read_spec(tmp_path, Spec)
