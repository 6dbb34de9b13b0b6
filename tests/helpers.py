"""How the tests of the experiments start them and read what they leave."""

import json
import subprocess
import sys
from pathlib import Path

from bspec_jax import sweeps

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
