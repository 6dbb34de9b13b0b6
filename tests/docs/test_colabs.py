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


# Runs in a kernel before a notebook: every figure that it shows is also described.
DESCRIBE = """
def _describe(figure):
    import matplotlib as mpl

    def style(line):
        return [mpl.colors.to_hex(line.get_color()), line.get_linestyle()]

    def describe_axes(ax):
        spec = ax.get_subplotspec()
        maps = [image for image in ax.images if image.get_array().ndim == 2]
        lines = [(line.get_label(), style(line)) for line in ax.lines]
        return {
            "colorbar": ax.get_label() == "<colorbar>",
            "shown": ax.axison,
            "top": spec is not None and spec.is_first_row(),
            "left": spec is not None and spec.is_first_col(),
            "bottom": spec is not None and spec.is_last_row(),
            "title": ax.get_title(),
            "labels": [ax.get_xlabel(), ax.get_ylabel()],
            "colour maps": any(image.get_cmap().name != "gray" for image in maps),
            "lines": [look for _, look in lines],
            "named": {name: look for name, look in lines if not name.startswith("_")},
        }

    boxes = [*figure.legends, *(ax.legend_ for ax in figure.axes if ax.legend_)]
    return {
        "axes": [describe_axes(ax) for ax in figure.axes],
        "legend": [text.get_text() for box in boxes for text in box.get_texts()],
    }

import matplotlib.figure
matplotlib.figure.Figure._repr_json_ = _describe
"""


def executed(name):
    """The notebook after a run, and the description of every figure."""
    made = build.notebook(ROOT / "colabs" / f"{name}.py")
    made.cells.insert(0, nbformat.v4.new_code_cell(DESCRIBE))
    del build.run(made).cells[0]
    outputs = [output for cell in made.cells for output in cell.get("outputs", [])]
    found = [output.get("data", {}).get("application/json") for output in outputs]
    return made, [figure for figure in found if figure]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_its_figures_can_be_read(name):
    made, figures = executed(name)

    def kinds(notebook):
        return [
            [output.output_type for output in cell.get("outputs", [])]
            for cell in notebook.cells
        ]

    assert kinds(made) == kinds(kept(name))
    assert figures
    for figure in figures:
        check_axes(figure)
        check_lines(figure)
        check_columns(figure["axes"])
    check_branches(figures)


def check_axes(figure):
    """The outer ones have labels, and colours that stand for numbers have a bar."""
    bars = [ax for ax in figure["axes"] if ax["colorbar"]]
    assert all(ax["labels"][1] for ax in bars)
    for ax in figure["axes"]:
        if ax["colour maps"] and not ax["colorbar"]:
            assert bars
            assert ax["shown"]
        if ax["shown"] and not ax["colorbar"]:
            x, y = ax["labels"]
            assert x or not ax["bottom"]
            assert y or not ax["left"]


def check_lines(figure):
    """If there are several in a panel, all are named in a legend by their style."""
    for ax in figure["axes"]:
        if len(ax["lines"]) > 1 and not ax["colour maps"]:
            assert all(style in ax["named"].values() for style in ax["lines"])
            assert set(ax["named"]) <= set(figure["legend"])


def check_columns(axes):
    """Those of a grid of pictures are headed, each by a name of its own."""
    top = [ax["title"] for ax in axes if ax["top"] and not ax["shown"]]
    assert all(top)
    assert len(set(top)) == len(top)


def check_branches(figures):
    """A branch looks the same in all figures, and no two look alike."""
    named = [ax["named"].items() for figure in figures for ax in figure["axes"]]
    looks = {(name, tuple(style)) for pairs in named for name, style in pairs}
    branches = [(name, look) for name, look in looks if name.startswith("branch ")]
    assert len({name for name, _ in branches}) == len(branches)
    assert len({look for _, look in branches}) == len(branches)


@pytest.mark.parametrize("name", NAMES)
def test_a_sentence_after_each_figure_says_what_to_see(name):
    cells = kept(name).cells
    after = [
        following.source
        for cell, following in zip(cells, [*cells[1:], cells[0]], strict=True)
        if any("image/png" in o.get("data", {}) for o in cell.get("outputs", []))
    ]
    assert after
    assert not [text for text in after if text.startswith(("#", "import"))]


@pytest.mark.parametrize("name", NAMES)
def test_controls_are_kept_as_the_picture_that_they_draw_first(name):
    cells = [cell for cell in kept(name).cells if "\nexplore(" in cell.source]
    assert cells or name == "hessian_blocks"
    for cell in cells:
        (output,) = cell.outputs
        assert {"image/png", "text/html"} & set(output.data)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_small(name):
    assert (ROOT / "colabs" / f"{name}.ipynb").stat().st_size <= 500_000


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_start_with_the_same_installation(name):
    first = next(cell for cell in kept(name).cells if cell.cell_type == "code")
    other = next(cell for cell in kept(NAMES[0]).cells if cell.cell_type == "code")
    assert first.source == other.source
    assert "REPOSITORY" in first.source
