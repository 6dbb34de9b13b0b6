"""Helpers of several tests: commands in other processes, their results, data files."""

import gzip
import json
import subprocess
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import jax
import numpy as np
import pytest

from bspec_jax import generator, runs
from bspec_jax.storage import checkpoints
from bspec_jax.toys import sweeps

ROOT = Path(__file__).parent.parent


def command(experiment, *flags):
    return [sys.executable, "-m", f"experiments.{experiment}", *map(str, flags)]


def start(experiment, *flags):
    """Starts the command."""
    return subprocess.Popen(
        command(experiment, *flags),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, status=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return out, err


def wait_for(path, text, process):
    """Until a file of a running process holds the text."""
    started = time.monotonic()
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < 200
        time.sleep(0.002)


def refuse(experiment, *flags):
    return subprocess.run(
        command(experiment, *flags), cwd=ROOT, capture_output=True, text=True
    )


def run_here(experiment, *flags):
    """The command in this process, which has compiled much already; what it prints."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.setattr(sys, "argv", [experiment.NAME, *map(str, flags)])
        name = experiment.NAME
        runs.command_line(experiment.Config, experiment.main, name, "")
    return out.getvalue()


def check_refused(experiment, flags, status, message, monkeypatch, capsys):
    """That the command line of an experiment's module answers flags in one line.

    In this process, which is quick; `refuse` starts another one.
    """
    name = experiment.NAME
    capsys.readouterr()  # what was printed before
    monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
    with pytest.raises(SystemExit) as end:
        runs.command_line(experiment.Config, experiment.main, name, "")
    out, err = capsys.readouterr()
    assert end.value.code == status
    assert out == ""
    assert err.count("\n") == 1, err
    assert message in err
    return err


def without_timing(workdir):
    results = json.loads((workdir / "results.json").read_text())
    results.pop("wall_seconds")
    return results


def stop_training_at(monkeypatch, call):
    """Makes that call of `sweeps.train`, counted from 1, end as Ctrl-C does."""
    train, calls = sweeps.train, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(sweeps, "train", stopping)


def write_idx(path, array, magic=None):
    """Writes an array as an IDX file, compressed if the name ends in .gz."""
    header = bytes(magic or (0, 0, 8, array.ndim))
    data = header + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def by_image(images, labels):
    """What does not depend on the order: the label of each image, by its bytes."""
    pairs = zip(images, labels, strict=True)
    found = {image.tobytes(): int(label) for image, label in pairs}
    assert len(found) == len(images)
    return found


def write_generator(folder, **fields):
    """Writes a tiny generator, all zeros, as a run's; `fields` are of its spec."""
    defaults = {
        "preset": "tiny",
        "branches": 2,
        "classes": ("cat", "dog", "tiger"),
        "image_shape": (16, 16, 3),
        "residual": "gaussian",
        "sigma": 2.0,
        "diffusion_step": 1.0,
        "precision": "float32",
        "dataset": "faces",
    }
    spec = generator.GeneratorSpec(**defaults | fields)
    shapes = generator.shapes(generator.build(spec), spec)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    checkpoints.write_spec(folder / "checkpoints" / generator.MAIN, spec)
    checkpoints.save(folder / "checkpoints" / generator.MAIN, 0, model=params)
    return folder
