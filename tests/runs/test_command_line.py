import os
import subprocess
import sys

import pytest
from configs import Config

from bspec_jax import runs
from bspec_jax.storage.errors import ArgumentError, UserError


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no data"), 1, "python -m experiments.thing: no data\n"),
        (runs.FlagError("bad flag"), 2, "python -m experiments.thing: bad flag\n"),
        (
            ArgumentError("`size` beside `shape`"),
            2,
            "python -m experiments.thing: --size beside `shape`\n",
        ),
        (
            OSError(28, "No space left on device", "x/y.json"),
            1,
            "python -m experiments.thing: x/y.json: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "\npython -m experiments.thing: stopped\n"),
    ],
)
def test_command_line_ends_in_one_line(monkeypatch, capsys, error, status, line):
    def main(config):
        raise error

    monkeypatch.setattr("sys.argv", ["thing"])
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as e:
        runs.command_line(Config, main, "thing", "A thing.")
    assert e.value.code == status
    assert capsys.readouterr().err == line


def test_command_line_turns_flags_into_the_config(monkeypatch):
    got = []
    argv = ["thing", "--size", "7", "--rates", "0.5", "0.25", "--seed", "3"]
    monkeypatch.setattr("sys.argv", argv)
    runs.command_line(Config, got.append, "thing", "A thing.")
    assert got == [Config(seed=3, size=7, rates=(0.5, 0.25))]


def test_an_interrupt_in_a_callback_of_the_garbage_collector_is_not_lost():
    script = """
import gc, signal, sys
from bspec_jax import runs

def main(config):
    gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGINT))
    gc.collect()
    print("went on")

sys.argv = ["thing"]
runs.command_line(runs.RunConfig, main, "thing", "A thing.")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert ended.returncode == 130
    assert ended.stdout == ""
    assert ended.stderr == "\npython -m experiments.thing: stopped\n"


def test_a_progress_bar_that_was_begun_before(capsys):
    with runs.progress_bar(10, "work", "image", 4) as advance:
        advance(6)
    shown = capsys.readouterr().err
    assert "10.0/10.0" in shown
    assert "image" in shown
