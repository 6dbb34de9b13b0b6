import importlib.util
import subprocess
import sys

import nbformat
import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "colabs"))
import build

pytestmark = pytest.mark.usefixtures("optimised")

NAMES = [script.stem for script in build.scripts()]


def kept(name):
    return nbformat.read(ROOT / "colabs" / f"{name}.ipynb", as_version=4)


def test_there_are_notebooks():
    assert len(NAMES) >= 4
    assert "build" not in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_what_its_script_makes(name):
    """If not: python colabs/build.py."""
    made = build.notebook(ROOT / "colabs" / f"{name}.py")
    found = kept(name)
    assert [(c.cell_type, c.source) for c in found.cells] == [
        (c.cell_type, c.source) for c in made.cells
    ]
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    numbers = [cell.execution_count for cell in code]
    assert numbers == list(range(1, len(code) + 1))  # run once, top to bottom
    assert any(cell.outputs for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_with_outputs_of_the_kinds_that_are_kept(name):
    made = build.run(build.notebook(ROOT / "colabs" / f"{name}.py"))

    def kinds(notebook):
        return [
            [output.output_type for output in cell.get("outputs", [])]
            for cell in notebook.cells
        ]

    assert kinds(made) == kinds(kept(name))


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_small(name):
    assert (ROOT / "colabs" / f"{name}.ipynb").stat().st_size <= 500_000


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_start_with_the_same_installation(name):
    first = next(cell for cell in kept(name).cells if cell.cell_type == "code")
    other = next(cell for cell in kept(NAMES[0]).cells if cell.cell_type == "code")
    assert first.source == other.source
    assert "REPOSITORY" in first.source


@pytest.mark.parametrize("inside", [True, False])
def test_the_installation_fetches_and_installs_where_there_is_none(
    inside, tmp_path, monkeypatch
):
    """In a checkout only the latter; pip takes a bare name for a package's."""
    calls = []

    def run(command, check):
        calls.append([str(part) for part in command])

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(ROOT / "docs" if inside else tmp_path)
    first = next(cell for cell in kept(NAMES[0]).cells if cell.cell_type == "code")
    assert 'REPOSITORY = ""' in first.source
    address = "https://example.org/bspec_jax"
    exec(first.source.replace('REPOSITORY = ""', f"REPOSITORY = {address!r}"), {})
    folder = str(ROOT if inside else tmp_path / "bspec_jax_checkout")
    fetch = ["git", "clone", "-q", address, folder]
    install = [sys.executable, "-m", "pip", "install", "-q", f"{folder}[colab]"]
    assert calls == ([install] if inside else [fetch, install])
