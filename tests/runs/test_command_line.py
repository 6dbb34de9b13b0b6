import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import jax
import pytest
from configs import Config

from bspec_jax import runs
from bspec_jax.storage.errors import ArgumentError, UserError


@dataclasses.dataclass(frozen=True)
class Modes(Config):
    """A config with a mode and a flag of figures."""

    PRESENTATION = ("colour",)

    folders: tuple[Path, ...] = ()
    count: int | None = None
    counts: tuple[int, ...] | None = None
    mode: Literal["fast", "slow"] = "slow"
    place: Literal["there", "here"] | None = None
    colour: str = "red"

    def unused(self):
        modes = {"size": "with --mode fast"} if self.mode == "fast" else {}
        return super().unused() | modes


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
        (
            OSError(28, "No space left on device"),
            1,
            "python -m experiments.thing: the/run: No space left on device\n",
        ),
        (
            MemoryError(),
            1,
            "python -m experiments.thing: out of memory: make the batches, the images "
            "or the number of branches smaller\n",
        ),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"),
            1,
            "python -m experiments.thing: out of memory: make the batches, the images "
            "or the number of branches smaller\n",
        ),
        (
            KeyboardInterrupt(),
            130,
            "\npython -m experiments.thing: stopped before the run began\n",
        ),
    ],
)
def test_command_line_ends_in_one_line(monkeypatch, capsys, error, status, line):
    def main(config):
        raise error

    monkeypatch.setattr("sys.argv", ["thing", "--workdir", "the/run"])
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as e:
        runs.command_line(Config, main, "thing", "A thing.")
    assert e.value.code == status
    assert capsys.readouterr().err == line


def ends(monkeypatch, capsys, *flags, main=print, config=Config):
    """The exit status of a command, and what it prints on stderr."""
    monkeypatch.setattr("sys.argv", ["thing", *map(str, flags)])
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as end:
        runs.command_line(config, main, "thing", "A thing.")
    return end.value.code, capsys.readouterr().err


def configs(monkeypatch, *flags, config=Config):
    """The config that `main` gets."""
    got = []
    monkeypatch.setattr("sys.argv", ["thing", *map(str, flags)])
    runs.command_line(config, got.append, "thing", "A thing.")
    return got[0]


def test_command_line_turns_flags_into_the_config(monkeypatch):
    flags = ("--size", "7", "--rates", "0.5", "0.25", "--seed", "3", "--workdir", "a")
    expected = Config(seed=3, size=7, rates=(0.5, 0.25), workdir=Path("a"))
    assert configs(monkeypatch, *flags) == expected
    assert configs(monkeypatch).workdir.parent == Path("runs/thing")


@pytest.mark.parametrize("flags", [["--workdir=~/x"], ["--workdir", "~/x"]])
def test_a_tilde_is_the_home_folder(monkeypatch, flags):
    assert configs(monkeypatch, *flags).workdir == Path.home() / "x"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "x"], "--seed: invalid literal for int() with base 10: 'x'"),
        (["--size", "3.5"], "--size: invalid literal"),
        (["--size"], "Missing value for argument '--size'"),
        (["--sise", "3"], "--sise, 3 (perhaps --size)"),
        (["three"], "Unrecognized options: three"),
        (["--rates", "0.5", "b"], "--rates cannot be '0.5', 'b' (write several"),
        (["--rates", "0.5,1"], "--rates"),
        (["--count", "1e3"], "--count cannot be '1e3'; see --help"),
        (["--counts", "2,3"], "--counts cannot be '2,3' (write several values with"),
        (["--counts"], "--counts needs at least one value"),
        (["--folders"], "--folders needs at least one value"),
        (["--mode", "quick"], "--mode cannot be 'quick': choose fast, slow; see"),
        (["--place", "far"], "--place cannot be 'far': choose here, there; see"),
        (["--resume", "yes"], "yes"),
        (["--seed", "1", "--seed=2"], "--seed is given twice"),
        (["--workdir", "~nobody-of-that-name/x"], "--workdir ~nobody-of"),
        (["--seed", "-1"], "--seed must be in 0..2^32-1"),
        (["--resume"], "--resume needs --workdir"),
    ],
)
def test_wrong_flags_are_one_line(monkeypatch, capsys, flags, message):
    for columns in ("20", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        status, err = ends(monkeypatch, capsys, *flags, config=Modes)
        assert status == 2
        assert err.count("\n") == 1
        assert err.startswith("python -m experiments.thing: ")
        assert "│" not in err
        assert message in err


def test_flags_that_do_not_apply_are_refused_by_name(monkeypatch, capsys, tmp_path):
    assert configs(monkeypatch, "--mode", "fast", config=Modes).size == 3
    for size in ("4", "3"):  # even the default, if it is given
        flags = ("--mode", "fast", f"--size={size}")
        status, err = ends(monkeypatch, capsys, *flags, config=Modes)
        assert status == 2
        assert "--size does not apply with --mode fast: leave it out\n" in err
    runs.start(Modes(workdir=tmp_path / "a"), "thing")
    redraw = ("--workdir", tmp_path / "a", "--figures-only")
    assert configs(monkeypatch, *redraw, "--colour", "blue", config=Modes).size == 3
    for flags in (["--seed", "0"], ["--size", "4"], ["--resume"]):
        status, err = ends(monkeypatch, capsys, *redraw, *flags, config=Modes)
        assert status == 2
        assert f"{flags[0]} does not apply to --figures-only" in err


def test_resume_reads_the_flags_from_the_run(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "a run"
    folders = (Path("x"), Path("y z"))
    first = Modes(7, folder, size=5, rates=(1.0, 2.0), folders=folders, mode="fast")
    runs.start(first, "thing")
    resume = ("--resume", "--workdir", folder)
    again = dataclasses.replace(first, resume=True)
    assert configs(monkeypatch, *resume, config=Modes) == again
    assert configs(monkeypatch, *resume, "--seed", "7", config=Modes) == again
    status, err = ends(monkeypatch, capsys, *resume, "--seed", "8", config=Modes)
    assert status == 1
    assert "has --seed 7, not 8" in err
    status, err = ends(monkeypatch, capsys, *resume[:2], tmp_path / "b", config=Modes)
    assert status == 1
    assert "no run at" in err
    config = json.loads((folder / "config.json").read_text())
    for damage in ({"rates": "many"}, {"size": None}, {"mode": 3}, {"folders": 5}):
        (folder / "config.json").write_text(json.dumps(config | damage))
        status, err = ends(monkeypatch, capsys, *resume, config=Modes)
        assert status == 1
        assert "config.json is damaged" in err


def test_ctrl_c_names_the_folder_and_the_command_that_continues(tmp_path):
    script = """
import signal, sys
from pathlib import Path
from bspec_jax import runs

number = signal.Signals[sys.argv.pop()]

def main(config):
    runs.start(config, "thing")
    if config.seed:
        Path(config.workdir, "results.json").write_text("{}")
    signal.raise_signal(number)

class Once(runs.RunConfig):
    def unused(self):
        return {"resume": "to it"}

config_class = Once if "once" in sys.argv[2] else runs.RunConfig
runs.command_line(config_class, main, "thing", "A thing.")
"""
    for name, status, seed, how in (
        ("SIGINT", 130, 0, "--resume"),
        ("SIGTERM", 143, 0, "--resume"),
        ("SIGINT", 130, 1, "--figures-only"),
    ):
        folder = tmp_path / f"my {name} {seed}"
        flags = ["--workdir", str(folder), "--seed", str(seed), name]
        ended = subprocess.run(
            [sys.executable, "-c", script, *flags], capture_output=True, text=True
        )
        assert ended.returncode == status, ended.stderr
        program = "python -m experiments.thing"
        assert ended.stderr == (
            f"\n{program}: stopped; the run is in {folder}; to go on:\n"
            f"{program} --workdir '{folder}' {how}\n"
        )
    folder = tmp_path / "once"
    flags = ["--workdir", str(folder), "SIGINT"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *flags], capture_output=True, text=True
    )
    assert ended.stderr.endswith(f"stopped; the run in {folder} cannot be resumed\n")
    folder = tmp_path / "once and finished"  # its figures may still be drawn
    flags = ["--workdir", str(folder), "--seed", "1", "SIGINT"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *flags], capture_output=True, text=True
    )
    assert ended.stderr.endswith(f"--workdir '{folder}' --figures-only\n")


def test_a_folder_in_use_is_refused_before_any_work(monkeypatch, capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    flags = ("--workdir", tmp_path)
    status, err = ends(monkeypatch, capsys, *flags, main=pytest.fail)
    assert (status, err.count("\n")) == (1, 1)
    assert "already holds files" in err


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_command_without_a_run_ends_in_one_line_and_cleans_up(number, status):
    script = f"""
import signal
from bspec_jax import runs

with runs.one_line_when_stopped("a command", lambda: "stopped"):
    try:
        signal.raise_signal(signal.{number})
    finally:
        print("cleaned up")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    expected = (status, "cleaned up\n", "\na command: stopped\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == expected


@pytest.mark.parametrize("error", [RuntimeError("no abacus\nat all"), AssertionError()])
def test_whatever_jax_raises_without_a_device_is_one_line(monkeypatch, capsys, error):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    status, err = ends(monkeypatch, capsys)
    assert status == 1
    assert re.search(r"JAX finds no device \((no abacus|JAX_PLATFORMS=.+)\)\n$", err)


def test_a_platform_that_is_not_there_is_one_line():
    script = """
from bspec_jax import runs
runs.command_line(runs.RunConfig, print, "thing", "A thing.")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "abacus"},
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("python -m experiments.thing: JAX finds no device (")
    assert ended.stderr.count("\n") == 1


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
    assert ended.stderr == (
        "\npython -m experiments.thing: stopped before the run began\n"
    )


def test_a_progress_bar_that_was_begun_before(capsys):
    with runs.progress_bar(10, "work", "image", 4) as advance:
        advance(6)
    shown = capsys.readouterr().err
    assert "10.0/10.0" in shown
    assert "image" in shown
