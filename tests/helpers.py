"""How the tests of the experiments start them and read what they leave."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def command(experiment, *flags):
    return [sys.executable, "-m", f"experiments.{experiment}", *map(str, flags)]


def refuse(experiment, *flags):
    return subprocess.run(
        command(experiment, *flags), cwd=ROOT, capture_output=True, text=True
    )


def without_timing(workdir):
    results = json.loads((workdir / "results.json").read_text())
    results.pop("wall_seconds")
    return results
