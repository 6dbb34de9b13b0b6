import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bspec_jax import files, run


@dataclasses.dataclass(frozen=True)
class Config(run.RunConfig):
    size: int = 3
    rates: tuple[float, ...] = (0.1,)

    def check(self):
        super().check()
        run.check_flag(self, "size", lambda v: v > 0, "positive")
        run.check_flag(self, "rates", lambda v: v > 0, "positive")


def test_a_new_run_writes_its_config_and_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/checkout/experiments/thing.py", "--size", "4"])
    spec = SimpleNamespace(name="experiments.thing")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    workdir = run.start(Config(workdir=tmp_path / "a" / "b", size=4), "thing")
    config = json.loads((workdir / "config.json").read_text())
    assert config == {"experiment": "thing", "seed": 0, "size": 4, "rates": [0.1]}
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["versions"]["jax"]
    assert environment["devices"] >= 1
    command = ["python", "-m", "experiments.thing", "--size", "4"]
    assert environment["command"] == command


def test_default_folder_is_named_by_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (run.start(Config(), "thing") for _ in range(2))
    assert first.parent == Path("runs/thing")
    assert first != second


def test_a_folder_with_a_run_is_not_touched(tmp_path):
    run.start(Config(workdir=tmp_path / "a"), "thing")
    before = (tmp_path / "a" / "config.json").read_bytes()
    with pytest.raises(run.UserError, match=r"already holds a run; choose another"):
        run.start(Config(workdir=tmp_path / "a", size=9), "thing")
    assert (tmp_path / "a" / "config.json").read_bytes() == before


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(run.UserError, match="already holds files"):
        run.start(Config(workdir=tmp_path), "thing")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(run.UserError, match="cannot write to"):
        run.start(Config(workdir=tmp_path / "file" / "run"), "thing")


def test_resume_takes_the_same_flags_only(tmp_path):
    config = Config(workdir=tmp_path / "a")
    run.start(config, "thing")
    again = dataclasses.replace(config, resume=True)
    assert run.start(again, "thing") == tmp_path / "a"
    with pytest.raises(run.UserError, match=r"has --size 3, not 4"):
        run.start(dataclasses.replace(again, size=4), "thing")
    run.save_results(tmp_path / "a", config, {}, 0.0)
    with pytest.raises(run.UserError, match="finished"):
        run.start(again, "thing")


def test_resume_of_nothing_and_of_a_damaged_run(tmp_path):
    config = Config(workdir=tmp_path, resume=True)
    with pytest.raises(run.UserError, match="no run at"):
        run.start(config, "thing")
    (tmp_path / "config.json").write_text('{"size": ')
    with pytest.raises(run.UserError, match="damaged"):
        run.start(config, "thing")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(run.UserError, match="damaged"):
        run.start(config, "thing")


def test_resume_of_another_experiment(tmp_path):
    config = Config(workdir=tmp_path / "a")
    run.start(config, "thing")
    with pytest.raises(run.UserError, match="is a run of thing"):
        run.start(dataclasses.replace(config, resume=True), "other")


def test_results_come_back_as_they_were_saved(tmp_path):
    config = Config(workdir=tmp_path, rates=(0.1, 0.2))
    saved = run.save_results(tmp_path, config, {"value": np.nan}, 0.0)
    loaded = run.load_results(tmp_path)
    assert loaded == saved
    assert loaded["schema"] == run.SCHEMA
    assert loaded["config"]["rates"] == [0.1, 0.2]
    assert loaded["value"] is None
    assert loaded["wall_seconds"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_results_of_another_schema(tmp_path):
    files.write_json(tmp_path / "results.json", {"schema": 99})
    with pytest.raises(run.UserError, match="schema 99"):
        run.load_results(tmp_path)


def test_flags_are_checked_with_their_names():
    Config().check()
    with pytest.raises(run.FlagError, match=r"--size must be positive, got -1") as e:
        Config(size=-1).check()
    assert e.value.status == 2
    with pytest.raises(run.FlagError, match=r"--rates must be positive, got 0.0"):
        Config(rates=(0.1, 0.0)).check()
    with pytest.raises(run.FlagError, match="--rates needs at least one value"):
        Config(rates=()).check()
    with pytest.raises(run.FlagError, match="--figures-only needs --workdir"):
        Config(figures_only=True).check()
    with pytest.raises(run.FlagError, match="--seed"):
        Config(seed=-1).check()


def test_memory_is_refused_in_words():
    run.check_memory(2**20, "this", "do less")
    message = r"this would take about 8\.0 EiB of memory, .* GiB: do less"
    with pytest.raises(run.FlagError, match=message):
        run.check_memory(2**63, "this", "do less")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (run.UserError("no data"), 1, "python -m experiments.thing: no data\n"),
        (run.FlagError("bad flag"), 2, "python -m experiments.thing: bad flag\n"),
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
    monkeypatch.setattr(run.os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as e:
        run.command_line(Config, main, "thing", "A thing.")
    assert e.value.code == status
    assert capsys.readouterr().err == line


def test_command_line_turns_flags_into_the_config(monkeypatch):
    got = []
    argv = ["thing", "--size", "7", "--rates", "0.5", "0.25", "--seed", "3"]
    monkeypatch.setattr("sys.argv", argv)
    run.command_line(Config, got.append, "thing", "A thing.")
    assert got == [Config(seed=3, size=7, rates=(0.5, 0.25))]


def test_an_interrupt_in_a_callback_of_the_garbage_collector_is_not_lost():
    script = """
import gc, signal, sys
from bspec_jax import run

def main(config):
    gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGINT))
    gc.collect()
    print("went on")

sys.argv = ["thing"]
run.command_line(run.RunConfig, main, "thing", "A thing.")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert ended.returncode == 130
    assert ended.stdout == ""
    assert ended.stderr == "\npython -m experiments.thing: stopped\n"


@dataclasses.dataclass(frozen=True)
class Shown(run.RunConfig):
    size: int = 3
    colour: str = "red"

    PRESENTATION = ("colour",)


def test_flags_of_figures_do_not_count_as_settings(tmp_path):
    run.start(Shown(workdir=tmp_path), "thing")
    assert Shown().settings() == {"seed": 0, "size": 3}
    run.start(Shown(workdir=tmp_path, resume=True, colour="blue"), "thing")


def test_a_progress_bar_that_was_begun_before(capsys):
    with run.progress_bar(10, "work", "image", 4) as advance:
        advance(6)
    shown = capsys.readouterr().err
    assert "10.0/10.0" in shown
    assert "image" in shown
