"""Makes the notebooks of the percent scripts, with what they print and draw.

python colabs/build.py                 # all of them, a minute or two
python colabs/build.py toy_dynamics    # one
"""

import sys
from pathlib import Path

import jupytext
import nbclient

FOLDER = Path(__file__).parent
CELL_SECONDS = 300


def scripts():
    """The percent scripts, the sources of the notebooks."""
    return sorted(p for p in FOLDER.glob("*.py") if p != Path(__file__))


def notebook(script):
    """The notebook of a script, without outputs; its cells are numbered, not named."""
    made = jupytext.read(script)
    for i, cell in enumerate(made.cells):
        cell.id = f"cell-{i}"
    return made


def run(made):
    """The notebook with its outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    where = {"metadata": {"path": str(FOLDER)}}
    options = {"timeout": CELL_SECONDS, "resources": where, "coalesce_streams": True}
    client = nbclient.NotebookClient(made, **options)
    # It would mimic the front end of output widgets by messages on the channel that it
    # awaits the cell's end on, and miss that end until the time is up (nbclient, issue
    # 312). Without it what a slider's function draws at first is an output of the cell.
    client.widget_registry.clear()
    client.execute()
    for cell in made.cells:
        cell.metadata.pop("execution", None)  # times, which differ
    made.metadata.pop("widgets", None)
    return made


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for script in scripts():
        if not chosen or script.stem in chosen:
            jupytext.write(run(notebook(script)), script.with_suffix(".ipynb"))
            print(script.with_suffix(".ipynb"))
