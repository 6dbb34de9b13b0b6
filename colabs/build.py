"""Builds the notebooks from the percent scripts, with their output.

python colabs/build.py                 # all notebooks, in a minute or two
python colabs/build.py toy_dynamics    # one
"""

import base64
import io
import re
import sys
from pathlib import Path

import jupytext
import nbclient
from PIL import Image

FOLDER = Path(__file__).parent
CELL_SECONDS = 300
SHARED = re.compile(r"(?:from|import) cells\.(\w+)")  # a cell of several notebooks
COLOURS = 256  # palette of the figures, so that the notebooks stay small
WIDGET = "application/vnd.jupyter.widget-view+json"
FRAME = re.compile(r'(?<=data:image/png;base64,)[^"]+')  # of an animation in HTML


def scripts():
    """The percent scripts that the notebooks are built from."""
    return sorted(p for p in FOLDER.glob("*.py") if p != Path(__file__))


def notebook(script):
    """The notebook of a script, without output.

    It needs no other file: a cell that imports one of `cells` becomes that file.
    """
    made = jupytext.read(script)
    for i, cell in enumerate(made.cells):
        cell.id = f"cell-{i}"  # instead of a random one
        if shared := SHARED.match(cell.source):
            cell.source = (FOLDER / "cells" / f"{shared[1]}.py").read_text().strip()
    return made


def run(made):
    """Executes a notebook and returns it with its output, but without its widgets.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    where = {"metadata": {"path": str(FOLDER)}}
    options = {"timeout": CELL_SECONDS, "resources": where, "coalesce_streams": True}
    client = nbclient.NotebookClient(made, **options)
    # nbclient would emulate the front end of output widgets, with messages on the
    # channel on which it waits for a cell's end, and miss that end until the timeout
    # (its issue 312). Without it, a slider's first output is an output of the cell.
    client.widget_registry.clear()
    client.execute()
    for cell in made.cells:
        cell.metadata.pop("execution", None)  # times, which differ between builds
        if "outputs" in cell:  # controls need a kernel; what they draw first remains
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        for output in cell.get("outputs", []):
            shrink(output.get("data", {}))
    made.metadata.pop("widgets", None)
    return made


def shrink(data):
    """Gives the PNGs in an output a palette, also those in HTML."""
    if "image/png" in data:
        data["image/png"] = with_palette(data["image/png"])
    if "text/html" in data:
        data["text/html"] = FRAME.sub(lambda m: with_palette(m[0]), data["text/html"])


def with_palette(encoded):
    """The PNG in base64 with at most `COLOURS` colours."""
    # Matplotlib's animations break the lines of a JavaScript string by backslashes.
    picture = Image.open(io.BytesIO(base64.b64decode(encoded.replace("\\\n", ""))))
    picture = picture.convert("RGB").quantize(
        COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2
    )
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for script in scripts():
        if not chosen or script.stem in chosen:
            jupytext.write(run(notebook(script)), script.with_suffix(".ipynb"))
            print(script.with_suffix(".ipynb"))
