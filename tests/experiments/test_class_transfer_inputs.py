"""The class-transfer command on inputs that it refuses, and on very little data."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import check_refused
from PIL import Image

from bspec_jax.storage.errors import Notice
from experiments.class_transfer import __main__ as experiment
from experiments.class_transfer import memory
from experiments.class_transfer.config import Config


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Dark and bright pictures."""
    folder = tmp_path_factory.mktemp("class_transfer") / "images"
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for name, level in (("dark", 40), ("light", 180)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(level, level + 60, (16, 16), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        # numbers
        (("--learning-rate", 0), 2, "--learning-rate must be positive and finite"),
        (("--learning-rate", 1e39), 2, "--learning-rate must be finite and, unless 0"),
        (
            ("--branches", 100_000),
            2,
            "a step of 100000 branches on 8 images",
        ),
        (("--image-size", 100_000), 2, "--image-size must be 16 times a power of two"),
        (("--image-size", 2**16), 2, "images of 65536 pixels would take about"),
        (("--batch-size", 10**9), 2, "would take about"),
        (("--iterations", 2**31), 2, "--iterations must be below 2^31"),
        (("--recogniser-epochs", 10**9), 2, "--recogniser-epochs must be at most"),
        (("--average", 1), 2, "--average must be in 0..1, below 1, got 1"),
        (("--crop", "nan"), 2, "--crop must be in 0..1, got nan"),
        (("--workers", -1), 2, "--workers must be at least 0"),
        (
            ("--residual", "gaussian", "--sigma", 17),
            2,
            "--sigma must be at most",
        ),
        # paths
        (("--data-dir", "missing"), 1, "no folder missing"),
        (("--workdir", __file__), 1, "cannot write to"),
        (("--workdir", Path(__file__).parent), 1, "already holds files"),
        (("--figures-only", "--images", "a.png"), 1, "no run at"),
        # data
        (("--classes", "dark", "dark"), 2, "--classes names dark twice"),
        (("--classes", "dark", "Lamp"), 2, "folder has no Lamp, it has dark, light"),
        (("--dataset", "no_such_set"), 1, "no data set is called no_such_set"),
        # combinations
        (("--sigma", 4), 2, "--sigma does not apply without --residual gaussian"),
        (
            ("--residual", "gaussian", "--velocity-rate", 1),
            2,
            "--velocity-rate does not apply with --residual gaussian",
        ),
        (("--r1-weight", 0, "--r1-every", 2), 2, "--r1-every does not apply with"),
        (("--dataset", "faces"), 2, "--data-dir does not apply with --dataset faces"),
        (("--resume",), 1, "no run at"),
        (("--figures-only", "--workers", 2), 1, "no run at"),
    ],
)
def test_wrong_input_is_one_line(
    images, tmp_path, monkeypatch, capsys, flags, status, message
):
    base = {
        "--dataset": "folder",
        "--data-dir": images,
        "--preset": "tiny",
        "--workdir": tmp_path / "run",
    }
    kept = [word for pair in base.items() if pair[0] not in flags for word in pair]
    given = [*kept, *flags]
    err = check_refused(experiment, given, status, message, monkeypatch, capsys)
    assert err.startswith("python -m experiments.class_transfer: ")
    assert not (tmp_path / "run").exists()


def test_memory_grows_with_what_takes_it():
    config = Config(preset="small32", branches=4, batch_size=4)
    # XLA counts 37 MB for a step with the diffusion, and 25 MB one branch at a time.
    assert 25e6 < memory.step(config, 32) < 60e6
    one_by_one = Config(preset="small32", branches=4, batch_size=4, sequential=True)
    assert memory.step(one_by_one, 32) < memory.step(config, 32)
    halved = Config(preset="small32", branches=4, batch_size=4, accumulate=2)
    assert memory.step(halved, 32) < memory.step(config, 32)
    shape = 600, 32, 32, 3
    least = memory.evaluation(config, shape, 3)
    assert least > 600 * 32**2 * 3 * 4 * (2 * 4 + 3)
    assert memory.evaluation(config, (1200, *shape[1:]), 3) == 2 * least


def test_what_little_data_cannot_tell_is_null_and_said_first(images, tmp_path):
    """Three test images of a class, and a single branch."""
    config = Config(
        dataset="folder",
        data_dir=images,
        preset="tiny",
        branches=1,
        test_examples=6,
        iterations=1,
        batch_size=2,
        recogniser_epochs=1,
        residual="gaussian",
        workdir=tmp_path / "run",
    )
    with pytest.warns(Notice, match="dark has 3 test images: Frechet distances need 4"):
        experiment.main(config)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in ("frechet", "frechet_residual", "frechet_real", "mean_correlation"):
        assert results[name] is None
    assert results["curves"][-1]["frechet"] is None
    assert results["recogniser_accuracy"] in [n / 6 for n in range(7)]
    assert results["subsets"] == [[0]]
    assert results["energy_share"] == [1]
