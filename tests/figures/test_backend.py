import os
import subprocess
import sys

import pytest

DRAW = """
import io, os, sys
{first}
from bspec_jax import figures
figures.architecture(2).savefig(io.BytesIO(), format="png")
import matplotlib
used = matplotlib.rcParams["backend"]
print(os.environ["MPLBACKEND"], used, "matplotlib.pyplot" in sys.modules)
"""


@pytest.mark.parametrize(
    ("backend", "first", "kept"),
    [
        ("no_such_backend", "import experiments.applications.draw", False),
        ("module://no_such_module", "", True),  # a notebook's is kept, and not loaded
    ],
)
def test_figures_need_no_backend_and_no_pyplot(backend, first, kept):
    answer = subprocess.run(
        [sys.executable, "-c", DRAW.format(first=first)],
        env=os.environ | {"MPLBACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    named, used, pyplot = answer.stdout.split()
    assert named == backend
    assert (used == backend) == kept
    assert first or pyplot == "False"  # another library may import it
