import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import classifier
from bspec_jax.analysis import gradients
from bspec_jax.classifier import curvature
from bspec_jax.classifier.resnet import WIDTHS
from bspec_jax.losses import classification_loss
from bspec_jax.storage import checkpoints

SPEC = classifier.ClassifierSpec(
    widths=WIDTHS["tiny"],
    branches=2,
    classes=("a", "b", "c"),
    image_shape=(8, 8, 1),
    mean=(0.4,),
    std=(0.2,),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two steps of an untrained network."""
    run = tmp_path_factory.mktemp("run")
    folder = run / "checkpoints" / "main"
    checkpoints.write_spec(folder, SPEC)
    init = jax.jit(classifier.build(SPEC).init)
    for step in (0, 5):
        params, stats = init(jax.random.key(step), jnp.zeros((1, *SPEC.image_shape)))
        model = {"params": params, "batch_stats": stats}
        checkpoints.save(folder, step, model=model)
    return run


@pytest.fixture(scope="module")
def stages(run):
    return curvature.stages(run, classifier.load(run), IMAGES)


@pytest.mark.slow
def test_the_start_is_calibrated_and_the_end_as_saved(run, stages):
    assert [stage.step for stage in stages] == [0, 5]
    folder = run / "checkpoints" / "main"
    for stage in stages:
        saved = classifier.load(folder / str(stage.step))
        stats = saved.batch_stats
        if stage.step == 0:
            stats = classifier.calibrate(
                saved.network, saved.params, stats, IMAGES, SPEC.pixels
            )
        for found, expected in (
            (stage.params, saved.params),
            (stage.batch_stats, stats),
        ):
            jax.tree.map(assert_array_equal, found, expected)
    only_start = curvature.stages(run, classifier.load(folder / "0"), IMAGES)
    assert [stage.step for stage in only_start] == [0]


@pytest.mark.slow
def test_factor_shares_equal_those_of_whole_jacobians(run, stages, monkeypatch):
    monkeypatch.setattr(curvature, "CHUNK", 4)  # of the 6 images
    trained = classifier.load(run)
    clamps = ("hard", "none")
    scales, bounds = None, np.array(gradients.THRESHOLDS)[:, None]
    for stage in stages:
        by_clamp = curvature.objectives(trained, stage, IMAGES, LABELS, clamps)
        shares, scales = curvature.factor_shares(
            by_clamp, stage.params, curvature.FIRST_LAYER, scales
        )
        j, d = factors(trained, stage)
        if stage.step == 0:
            distributive_scale = math.sqrt((j**2).mean())
            collaborative_scale = {c: math.sqrt((d[c] ** 2).mean()) for c in clamps}
        vanishing = j.ravel() < bounds * distributive_scale
        assert_allclose(shares.distributive, vanishing.mean(1), atol=1e-3)
        for clamp in clamps:
            vanishing = d[clamp] < bounds * collaborative_scale[clamp]
            assert_allclose(shares.collaborative[clamp], vanishing.mean(1), atol=1e-6)
    assert_allclose(scales.distributive, distributive_scale, rtol=1e-4)
    for clamp in clamps:
        expected = collaborative_scale[clamp]
        assert_allclose(scales.collaborative[clamp], expected, rtol=1e-4)


def factors(trained, stage):
    """Norms over C of dv_k/dw for the first layer, and of dL/df, for each example."""
    x = (IMAGES / 255 - 0.4) / 0.2

    def respond(kernel):
        params = stage.params | {"stem": {"kernel": kernel}}
        args = params, stage.batch_stats, jnp.asarray(x, jnp.float32)
        return trained.network.responses(*args, train=False)[0]

    kernel = stage.params["stem"]["kernel"]
    j = np.asarray(jax.jit(jax.jacrev(respond))(kernel))  # [M, N, C, M, ...]
    own = np.stack([j[k, :, :, k] for k in range(SPEC.branches)])
    f = respond(kernel).sum(0)

    def collaborative(clamp):
        gradient = jax.grad(lambda f: classification_loss(f, LABELS, clamp=clamp).sum())
        return np.linalg.norm(gradient(f), axis=1)

    norms = {clamp: collaborative(clamp) for clamp in ("hard", "none")}
    return np.linalg.norm(own, axis=2), norms


def test_one_network_decides_nothing():
    first, last = (
        {
            "offdiagonal_ratio": ratio,
            "control_ratio": 2.0,
            "ratio_to_control": ratio / 2,
            "factors": {"distributive": [0, share, 1], "collaborative": [0, 0.5, 1]},
        }
        for ratio, share in ((1.5, 0.25), (0.5, 0.75))
    )
    records = curvature.observe(8, first, last)
    assert set(records) == {7, "section8"}
    measured = {key: (one["value"], one["initial"]) for key, one in records.items()}
    assert measured == {7: (0.25, 0.75), "section8": (0.25, -0.25)}
    for record in records.values():
        assert record["interval"] == (-math.inf, math.inf)
        assert record["holds"] is None
