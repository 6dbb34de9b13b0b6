"""The networks in docs/runs, which the pages show, give what their runs say."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax import classifier, generator
from bspec_jax.classifier import contributions
from experiments import recogniser

KEPT = Path(__file__).parent.parent / "docs" / "runs"
RUNS = sorted(path.parent for path in KEPT.glob("*/decompositions.npz"))
MOST_BYTES = 6e6  # of the networks of a run


@pytest.mark.parametrize("workdir", RUNS, ids=lambda path: path.name)
def test_pictures_and_classes_are_those_of_the_networks(workdir):
    shown = np.load(workdir / "decompositions.npz")
    x, labels = shown["images"].astype(np.float32), shown["labels"]
    trained = generator.load(workdir)
    own = generator.decompose(trained.model, trained.params, x, labels)
    for name, found in (
        ("generated", own.image),
        ("residual", own.residual),
        ("components", own.components),
    ):
        # They are kept in float16, and so were the images.
        assert_allclose(found, shown[name], atol=0.05, err_msg=name)
        assert np.abs(found - shown[name]).mean() < 2e-3
    results = json.loads((workdir / "results.json").read_text())
    recognise = recogniser.load(workdir / "checkpoints").recognise
    right = (recognise(x) == labels).mean()
    assert right >= results["recogniser_accuracy"] - 0.2  # of nine images
    assert results["config"]["iterations"] == trained.step


def test_the_classifier_is_as_accurate_as_its_run_says():
    workdir = KEPT / "classify"
    results = json.loads((workdir / "results.json").read_text())
    with np.load(workdir / "examples.npz") as examples:
        images, labels = examples["images"][:1000], examples["labels"][:1000]
    v = classifier.load(workdir).responses(images)
    found = contributions.accuracy(v.sum(0), labels)
    # Of a tenth of the images: three standard errors.
    assert_allclose(found, results["test_accuracy"], atol=0.03)
    alone = [contributions.accuracy(one, labels) for one in v]
    assert_allclose(alone, results["ablation"]["alone"], atol=0.05)


@pytest.mark.parametrize("workdir", sorted(KEPT.iterdir()), ids=lambda path: path.name)
def test_networks_are_small_and_commands_without_paths_of_a_machine(workdir):
    files = [path for path in workdir.rglob("*") if path.is_file()]
    networks = [path for path in files if "checkpoints" in path.parts]
    assert sum(path.stat().st_size for path in networks) <= MOST_BYTES
    assert not [path for path in files if "training" in path.parts]
    environment = json.loads((workdir / "environment.json").read_text())
    paths = [Path(word) for word in environment["command"]]
    assert not [path for path in paths if path.is_absolute()]
