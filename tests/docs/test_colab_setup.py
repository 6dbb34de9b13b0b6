"""The cells with which notebooks start, and what they do where something is missing."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "colabs"))
import build


def cells(name):
    return [cell.source for cell in build.notebook(ROOT / f"colabs/{name}.py").cells]


def installation():
    return next(source for source in cells("combinator") if "REPOSITORY" in source)


def with_address(address):
    assert 'REPOSITORY = ""' in installation()
    return installation().replace('REPOSITORY = ""', f"REPOSITORY = {address!r}")


@pytest.mark.parametrize("inside", [True, False])
def test_the_installation_fetches_and_installs_where_there_is_none(
    inside, tmp_path, monkeypatch
):
    """In a checkout only the latter; pip takes a bare name for a package's."""
    calls = []

    def run(command, **options):
        assert options["check"]
        calls.append([str(part) for part in command])

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(ROOT / "docs" if inside else tmp_path)
    folder = ROOT if inside else tmp_path / "bspec_jax_checkout"
    if not inside:
        monkeypatch.setattr(Path, "exists", lambda path: len(calls) > 0)
    address = "https://example.org/bspec_jax"
    exec(with_address(address), {})
    fetch = ["git", "clone", "-q", address, str(folder)]
    install = [sys.executable, "-m", "pip", "install", "-q", f"{folder}[colab]"]
    assert calls == ([install] if inside else [fetch, install])


def test_an_installed_package_needs_no_checkout_but_takes_one(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: calls.append(command))
    monkeypatch.chdir(tmp_path)
    exec(installation(), {})
    assert not calls
    exec(with_address("https://example.org/b"), {})
    assert [command[:2] for command in calls] == [("git", "clone")]


def printed_by_failing_cells(sources, folder):
    """What a notebook shows below each of these cells, which all fail."""
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in sources]
    )
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(made, resources=where, allow_errors=True).execute()
    outputs = [cell.outputs for cell in made.cells[1:]]
    assert all(len(output) == 1 for output in outputs)
    return ["\n".join(output[0].traceback) for output in outputs]


def test_without_a_checkout_the_installation_says_what_to_do(tmp_path):
    hidden = "import sys; sys.modules['bspec_jax'] = None"  # as if not installed
    sources = [hidden, installation(), with_address(str(tmp_path / "none"))]
    missing, wrong = printed_by_failing_cells(sources, tmp_path)
    for text in (missing, wrong):
        assert len(text.splitlines()) == 1
        assert "Traceback" not in text
    for advice in ("REPOSITORY", "pip install", "checkout"):
        assert advice in missing
    assert wrong.startswith("git clone")
    assert "none" in wrong


@pytest.mark.parametrize("name", ["classifier", "decomposition"])
def test_without_a_network_a_notebook_says_where_it_is(name, tmp_path):
    (cell,) = [source for source in cells(name) if source.startswith("RUN = ROOT")]
    names = {"ROOT": tmp_path, "StopError": RuntimeError}
    with pytest.raises(RuntimeError, match=r"REPOSITORY.*checkout"):
        exec(cell, names)
    (tmp_path / names["RUN"].relative_to(tmp_path)).mkdir(parents=True)
    exec(cell, names)
    assert (ROOT / names["RUN"].relative_to(tmp_path)).is_dir()


def test_without_equinox_the_last_cell_says_so(monkeypatch):
    last = cells("combinator")[-1]
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(RuntimeError, match="pip install equinox"):
        exec(last, {"importlib": importlib, "StopError": RuntimeError})


def explore():
    """The function of that name in a notebook, the same in all that have one."""
    names = [script.stem for script in build.scripts()]
    (source,) = {s for name in names for s in cells(name) if "def explore(" in s}
    names = {"importlib": importlib}
    exec(source, names)
    return names["explore"]


def recorder():
    drawn = []

    def draw(gain=1.0, init="normal", **others):
        drawn.append((gain, init, others))

    controls = {"gain": (0.0, 3.0), "init": ["uniform", "normal"], "seed": (0, 8)}
    return drawn, draw, controls


def test_controls_redraw_with_their_values():
    drawn, draw, controls = recorder()
    picture = explore()(draw, **controls)
    gain, init, seed, _ = picture.children
    assert not gain.continuous_update
    assert not seed.continuous_update
    gain.value = 2.5
    init.value = "uniform"
    seed.value = 7
    assert drawn == [
        (1.0, "normal", {"seed": 4}),
        (2.5, "normal", {"seed": 4}),
        (2.5, "uniform", {"seed": 4}),
        (2.5, "uniform", {"seed": 7}),
    ]


def test_without_ipywidgets_there_is_the_picture_and_a_line(monkeypatch, capsys):
    drawn, draw, controls = recorder()
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert explore()(draw, **controls) is None
    assert drawn == [(1.0, "normal", {})]
    (line,) = capsys.readouterr().out.splitlines()
    assert "pip install ipywidgets" in line
