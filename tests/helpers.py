"""How the tests of the experiments start them and read what they leave."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bspec_jax import runs
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


def check_refused(experiment, flags, status, message, monkeypatch, capsys):
    """That the command line of an experiment's module answers flags in one line.

    In this process, which is quick; `refuse` starts another one.
    """
    name = experiment.NAME
    monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
    with pytest.raises(SystemExit) as end:
        runs.command_line(experiment.Config, experiment.main, name, "")
    out, err = capsys.readouterr()
    assert end.value.code == status
    assert out == ""
    assert err.count("\n") == 1, err
    assert message in err


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


def by_image(images, labels):
    """What does not depend on the order: the label of each image, by its bytes."""
    pairs = zip(images, labels, strict=True)
    found = {image.tobytes(): int(label) for image, label in pairs}
    assert len(found) == len(images)
    return found
