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


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_prints_what_is_kept(name):
    made = build.run(build.notebook(ROOT / "colabs" / f"{name}.py"))

    def kinds(notebook):
        return [
            [output.output_type for output in cell.get("outputs", [])]
            for cell in notebook.cells
        ]

    assert kinds(made) == kinds(kept(name))


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_start_with_the_same_installation(name):
    first = next(cell for cell in kept(name).cells if cell.cell_type == "code")
    other = next(cell for cell in kept(NAMES[0]).cells if cell.cell_type == "code")
    assert first.source == other.source
    assert "REPOSITORY" in first.source
