import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from configs import Config

from bspec_jax import runs
from bspec_jax.runs import folder
from bspec_jax.runs.command_line import parse_run
from bspec_jax.storage import files
from bspec_jax.storage.errors import ArgumentError, Notice, UserError


@pytest.mark.parametrize("name", ["experiments.thing", "experiments.thing.__main__"])
def test_a_new_run_writes_its_config_and_environment(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["/checkout/experiments/thing.py", "--size", "4"])
    spec = SimpleNamespace(name=name)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    workdir = runs.start(Config(workdir=tmp_path / "a" / "b", size=4), "thing")
    config = json.loads((workdir / "config.json").read_text())
    about = {"experiment": "thing", "schema": runs.SCHEMA}
    assert config == about | {"seed": 0, "size": 4, "rates": [0.1]}
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["versions"]["jax"]
    assert environment["devices"] >= 1
    command = ["python", "-m", "experiments.thing", "--size", "4"]
    assert environment["command"] == command


def test_default_folder_is_named_by_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (runs.start(Config(), "thing") for _ in range(2))
    assert first.parent == Path("runs/thing")
    assert first != second


def test_a_folder_with_a_run_is_not_touched(tmp_path):
    runs.start(Config(workdir=tmp_path / "a"), "thing")
    before = (tmp_path / "a" / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run; choose another"):
        runs.start(Config(workdir=tmp_path / "a", size=9), "thing")
    assert (tmp_path / "a" / "config.json").read_bytes() == before


def test_only_advice_that_works_is_given_for_a_folder_with_a_run(tmp_path):
    config = Config(workdir=tmp_path / "a")
    runs.start(config, "thing")
    with pytest.raises(UserError, match=r"or add --resume$"):
        runs.start(config, "thing")
    runs.save_results(tmp_path / "a", config, {}, 0.0)  # --resume would be refused
    with pytest.raises(UserError, match=r"choose another --workdir$"):
        runs.start(config, "thing")


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="already holds files"):
        runs.start(Config(workdir=tmp_path), "thing")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write to"):
        runs.start(Config(workdir=tmp_path / "file" / "run"), "thing")


def test_resume_takes_the_same_flags_only(tmp_path):
    config = Config(workdir=tmp_path / "a")
    runs.start(config, "thing")
    again = dataclasses.replace(config, resume=True)
    assert runs.start(again, "thing") == tmp_path / "a"
    with pytest.raises(UserError, match=r"has --size 3, not 4"):
        runs.start(dataclasses.replace(again, size=4), "thing")
    runs.save_results(tmp_path / "a", config, {}, 0.0)
    with pytest.raises(UserError, match="finished"):
        runs.start(again, "thing")
    (tmp_path / "a" / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json is damaged.*; move it away"):
        runs.start(again, "thing")
    (tmp_path / "a" / "results.json").unlink()
    assert runs.start(again, "thing") == tmp_path / "a"


def test_resume_of_nothing_and_of_a_damaged_run(tmp_path):
    config = Config(workdir=tmp_path, resume=True)
    with pytest.raises(UserError, match="no run at"):
        runs.start(config, "thing")
    (tmp_path / "config.json").write_text('{"size": ')
    with pytest.raises(UserError, match="damaged"):
        runs.start(config, "thing")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="damaged"):
        runs.start(config, "thing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"config\.json is damaged: it names no experiment"),
        ("[" * 100_000, r"config\.json is damaged: it is not JSON"),
        ('{"experiment": "thing", "schema": [2]}', r"has schema \[2\], and this"),
        ('{"experiment": "thing", "schema": 3, "size": null}', r"--size is None"),
    ],
)
def test_a_damaged_config_is_said_to_be(tmp_path, monkeypatch, content, message):
    (tmp_path / "config.json").write_text(content)
    flags = ["--workdir", str(tmp_path), "--resume"]
    monkeypatch.setattr("sys.argv", ["thing", *flags])
    with pytest.raises(UserError, match=message):
        parse_run(Config, "thing", "thing", "A thing.")


def test_results_without_a_schema_are_damaged_not_old(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="no schema; move it away and resume the run"):
        runs.load_results(tmp_path)


def test_results_that_may_be_intact_are_not_to_be_moved_away(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "results.json").write_text("{}")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"results\.json: Permission denied$"):
        runs.load_results(tmp_path)


def test_a_run_goes_on_without_a_record_of_its_environment(tmp_path):
    config = Config(workdir=tmp_path / "a", resume=True)
    record = tmp_path / "a" / "environment.json"
    runs.start(Config(workdir=tmp_path / "a"), "thing")
    record.write_bytes(bytes(100))
    with pytest.raises(UserError, match=r"damaged.*; move it away to go on without"):
        runs.start(config, "thing")
    record.unlink()  # as the message says
    with pytest.warns(Notice, match="settings of JAX are not compared"):
        runs.start(config, "thing")
    assert "command" in json.loads(record.read_text())


def test_resume_refuses_other_settings_of_jax(tmp_path):
    config = Config(workdir=tmp_path / "a", resume=True)
    runs.start(Config(workdir=tmp_path / "a"), "thing")
    with jax.enable_x64(not jax.config.jax_enable_x64):
        message = r"jax_enable_x64 = \w+, .*set JAX_ENABLE_X64="
        with pytest.raises(UserError, match=message):
            runs.start(config, "thing")
    runs.start(config, "thing")


def test_only_the_repository_that_tracks_the_package_is_its_commit(tmp_path):
    source = Path(folder.__file__).parents[1]
    package = tmp_path / "project" / ".venv" / "bspec_jax"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(package.parents[1])]
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, *identity, "commit", "-q", "--allow-empty", "-m", "other"])

    def recorded():
        script = "from bspec_jax.runs import provenance; print(provenance._commit())"
        call = [sys.executable, "-c", script]
        env = os.environ | {"PYTHONPATH": str(package.parent)}
        answer = subprocess.run(
            call, capture_output=True, text=True, check=True, env=env, cwd=tmp_path
        )
        return answer.stdout.strip()

    assert recorded() == "None"
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, *identity, "commit", "-q", "-m", "vendored"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert recorded() == head.stdout.strip()


def test_resume_of_another_experiment(tmp_path):
    config = Config(workdir=tmp_path / "a")
    runs.start(config, "thing")
    with pytest.raises(UserError, match="is a run of thing"):
        runs.start(dataclasses.replace(config, resume=True), "other")


def test_results_come_back_as_they_were_saved(tmp_path):
    config = Config(workdir=tmp_path, rates=(0.1, 0.2))
    saved = runs.save_results(tmp_path, config, {"value": np.nan}, 0.0)
    loaded = runs.load_results(tmp_path)
    assert loaded == saved
    assert loaded["schema"] == runs.SCHEMA
    assert loaded["config"]["rates"] == [0.1, 0.2]
    assert loaded["value"] is None
    assert loaded["wall_seconds"] > 0
    resumed = dataclasses.replace(config, resume=True)
    assert runs.save_results(tmp_path, resumed, {}, 0.0)["wall_seconds"] is None
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_results_of_another_schema(tmp_path):
    files.write_json(tmp_path / "results.json", {"schema": 99})
    message = "schema 99, and this version reads 3: a newer bspec_jax wrote it"
    with pytest.raises(UserError, match=message):
        runs.load_results(tmp_path)
    files.write_json(tmp_path / "results.json", {"schema": 2})
    with pytest.raises(UserError, match=r"schema 2, .*: bspec_jax 0\.3 reads it"):
        runs.load_results(tmp_path)


def test_a_run_of_an_older_schema_is_not_resumed(tmp_path):
    old = {"experiment": "thing", "seed": 0, "size": 3, "rates": [0.1]}
    files.write_json(tmp_path / "config.json", old)  # version 0.1 wrote no schema
    with pytest.raises(UserError, match=r"schema 1, .*: bspec_jax 0\.1 reads it"):
        runs.start(Config(workdir=tmp_path, resume=True), "thing")
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_damaged_results_are_not_drawn_and_user_errors_pass(tmp_path):
    runs.start(Config(workdir=tmp_path), "thing")
    runs.save_results(tmp_path, Config(), {}, 0.0)

    def refuse(results):
        raise ArgumentError("`size` is too large")

    with pytest.raises(UserError, match="damaged or incomplete"):
        runs.redraw(tmp_path, "thing", lambda results: results["missing"])
    with pytest.raises(ArgumentError, match="too large"):
        runs.redraw(tmp_path, "thing", refuse)
