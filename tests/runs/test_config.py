import dataclasses
from typing import Literal

import pytest
from configs import Config

from bspec_jax import runs
from bspec_jax.storage.errors import UserError


def test_flags_are_checked_with_their_names():
    Config().check()
    with pytest.raises(runs.FlagError, match=r"--size must be positive, got -1") as e:
        Config(size=-1).check()
    assert e.value.status == 2
    with pytest.raises(runs.FlagError, match=r"--rates must be positive, got 0.0"):
        Config(rates=(0.1, 0.0)).check()
    with pytest.raises(runs.FlagError, match="--rates needs at least one value"):
        Config(rates=()).check()
    with pytest.raises(runs.FlagError, match="--figures-only needs --workdir"):
        Config(figures_only=True).check()
    with pytest.raises(runs.FlagError, match="--seed"):
        Config(seed=-1).check()


def test_memory_is_refused_in_words():
    runs.check_memory(2**20, "this", "do less")
    message = r"this would take about 8\.0 EiB of memory, .* GiB: do less"
    with pytest.raises(runs.FlagError, match=message):
        runs.check_memory(2**63, "this", "do less")


@dataclasses.dataclass(frozen=True)
class Shown(runs.RunConfig):
    size: int = 3
    colour: str = "red"

    PRESENTATION = ("colour",)


def test_flags_of_figures_do_not_count_as_settings(tmp_path):
    runs.start(Shown(workdir=tmp_path), "thing")
    assert Shown().settings() == {"seed": 0, "size": 3}
    runs.start(Shown(workdir=tmp_path, resume=True, colour="blue"), "thing")


@dataclasses.dataclass(frozen=True)
class Optional(runs.RunConfig):
    shape: Literal["round", "square"] | None = None
    count: int | None = None


def test_flags_that_may_be_missing_are_read_again():
    for config in (Optional(), Optional(shape="square", count=3)):
        assert Optional.from_settings(config.settings()) == config
    with pytest.raises(UserError, match="damaged: --shape is 'flat'"):
        Optional.from_settings({"shape": "flat"})
