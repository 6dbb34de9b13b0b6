# Finds the project in a checkout; elsewhere, as in Colab, clones and installs it.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # outside a checkout: the address of your copy, such as https://...


class StopError(Exception):
    """Ends the run of a notebook with one line instead of a traceback."""

    def _render_traceback_(self):
        return [str(self)]


def call(*command):
    """Runs a command that may not ask for anything."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    options["env"] = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        subprocess.run(command, check=True, **options)
    except OSError as error:
        raise StopError(f"{command[0]} did not start: {error}") from None
    except subprocess.CalledProcessError as error:
        raise StopError(f"{' '.join(command)} failed: {error.stderr.strip()}") from None


parents = (Path.cwd(), *Path.cwd().parents)
clone = Path.cwd() / "bspec_jax_checkout"
ROOT = next((path for path in parents if (path / "colabs/build.py").exists()), clone)
if REPOSITORY and not ROOT.exists():
    call("git", "clone", "-q", REPOSITORY, str(ROOT))
if importlib.util.find_spec("bspec_jax") is None:
    if not ROOT.exists():
        raise StopError(
            "bspec_jax is not installed, and this is not a checkout of it: set "
            "REPOSITORY in this cell to the address of your copy and run it again, or "
            "run `pip install git+ADDRESS`, or open the notebook in a checkout."
        )
    call(sys.executable, "-m", "pip", "install", "-q", f"{ROOT}[colab]")
