"""The benchmarks start without PyTorch, and their forms compute the same."""

import dataclasses
from importlib import import_module

import pytest
from helpers import ROOT
from numpy.testing import assert_allclose

from bspec_jax.runs import FlagError
from bspec_jax.storage.errors import UserError, flag
from experiments.benchmarks import hessian_blocks, measuring

NAMES = [
    path.stem
    for path in (ROOT / "experiments" / "benchmarks").glob("*.py")
    if path.stem not in ("__init__", "measuring")
]


@pytest.mark.parametrize("name", NAMES)
def test_counts_below_one_are_refused(name):
    config = import_module(f"experiments.benchmarks.{name}").Config
    assert config.COUNTS
    for field in config.COUNTS:
        zero = (0,) if isinstance(getattr(config, field), tuple) else 0
        with pytest.raises(FlagError, match=f"{flag(field)} must be at least 1"):
            dataclasses.replace(config(), **{field: zero}).check()


def test_a_missing_peer_is_named():
    measuring.require("numpy")
    with pytest.raises(UserError, match="needs no_such_peer: pip install"):
        measuring.require("numpy", "no_such_peer")


def test_forms_of_the_hessian_agree():
    config = hessian_blocks.Config(branches=2, examples=1, columns=3, repeats=1)
    blocks = hessian_blocks.time_blocks(config)["columns"]
    assert blocks.shape == (3, 2 * 135)
    scale = abs(blocks).max()
    for linearised in (True, False):
        columns = hessian_blocks.time_columns(config, linearised)["columns"]
        assert_allclose(columns, blocks, atol=1e-5 * scale)
