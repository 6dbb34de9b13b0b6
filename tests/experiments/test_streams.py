import subprocess
import sys

from helpers import ROOT


def test_closed_streams_do_not_stop_a_run(tmp_path):
    script = """
import os, sys
sys.argv = ["-m"]
import experiments
from bspec_jax import runs
with runs.progress_bar(2, "work") as advance:
    advance(2)
print("done")
file = open(sys.orig_argv[-1], "w")
os.write(1, b"of the compiler")
os.write(2, b"of the compiler")
file.write("results")
file.close()
"""
    path = tmp_path / "results.json"
    call = ["sh", "-c", '"$@" >&- 2>&-', "sh", sys.executable, "-c", script, path]
    assert subprocess.run(call, cwd=ROOT, check=False).returncode == 0
    assert path.read_text() == "results"
