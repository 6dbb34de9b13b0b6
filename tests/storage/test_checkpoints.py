import json
import subprocess
import sys
from dataclasses import dataclass
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


def test_damage_is_one_line(folder):
    files = [p for p in (folder / "30" / "model").rglob("*") if p.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"net/30 is damaged or of another") as error:
        checkpoints.restore(folder, 30, model=tree(0))
    assert "\n" not in str(error.value)
    (model,) = checkpoints.restore(folder, 20, model=tree(0))  # the one before is whole
    assert_array_equal(model["a"], np.full((2, 3), 20))


def test_another_network(folder):
    other = tree(0) | {"a": jnp.zeros((5, 3))}
    with pytest.raises(UserError, match="damaged or of another network"):
        checkpoints.restore(folder, 30, model=other)


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
    assert saved == {"kind": "test", "mean": [0.5, 1.0], "name": "net"}
    assert checkpoints.read_spec(tmp_path / "net", Spec) == Spec((0.5, 1.0))


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
