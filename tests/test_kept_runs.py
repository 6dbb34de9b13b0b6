"""The generators in docs/runs, which the pages show, give what their runs say."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax import generator
from experiments import recogniser

KEPT = Path(__file__).parent.parent / "docs" / "runs"
RUNS = sorted(path.parent for path in KEPT.glob("*/decompositions.npz"))


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
    classifier = recogniser.load(workdir / "checkpoints")
    right = (classifier.recognise(x) == labels).mean()
    assert right >= results["recogniser_accuracy"] - 0.2  # of nine images
    assert results["config"]["iterations"] == trained.step
