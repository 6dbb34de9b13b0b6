import dataclasses
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from objectives import problem, unclamped_loss

from bspec_jax import classifier
from bspec_jax.analysis import hessian
from bspec_jax.analysis.vanishing import THRESHOLDS
from bspec_jax.classifier import curvature
from bspec_jax.losses import classification_loss
from bspec_jax.storage import checkpoints
from bspec_jax.trees import ravel_branches

SPEC = classifier.ClassifierSpec(
    branch="cnn",
    widths=(3, 4),
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


def test_the_start_half_of_the_training_and_its_end(run, tmp_path, monkeypatch):
    monkeypatch.setattr(curvature, "calibrate", lambda *_: "calibrated")
    kept = tmp_path / "run"
    shutil.copytree(run, kept)
    folder = kept / "checkpoints" / "main"
    for step in (2, 4):  # half of 5, and one that a stopped training left
        shutil.copytree(folder / "5", folder / f"{step}")
    found = curvature.stages(kept, classifier.load(kept), IMAGES)
    assert [stage.step for stage in found] == [0, 2, 5]
    assert found[0].batch_stats == "calibrated"
    found = curvature.stages(kept, classifier.load(folder / "4"), IMAGES)
    assert [stage.step for stage in found] == [0, 2, 4]


@pytest.mark.slow
def test_factors_equal_those_of_whole_jacobians(run, stages, monkeypatch):
    monkeypatch.setattr(curvature, "CHUNK", 4)  # of the 6 images
    trained = classifier.load(run)
    seen = set()
    for clamp in ("hard", "none"):
        scales = None
        for stage in stages:
            objective = curvature.objectives(trained, stage, IMAGES, LABELS, [clamp])
            objective = objective[clamp]
            found = curvature.factors(
                objective, stage.params, curvature.FIRST_LAYER, scales
            )
            size, product, norm, gradient = whole_factors(trained, stage, clamp)
            if stage.step == 0:
                expected = [np.sqrt((v**2).mean()) for v in (size, norm, product)]
                scales = found.scales
                assert_allclose(scales, expected, rtol=1e-4)
            learning = norm >= 0.1 * scales.collaborative
            for i, t in enumerate(THRESHOLDS):
                expected = (norm < t * scales.collaborative).mean()
                assert_allclose(found.collaborative[i], expected, atol=1e-6)
                if not learning.any():  # saturated: nothing is left to learn
                    assert np.isnan(np.stack(found.shares)).all()
                    continue
                seen.add((clamp, stage.step))
                small = size[:, learning] < t * scales.distributive
                gone = product[:, learning] < t * scales.gradient
                shares = found.shares
                assert_allclose(shares.distributive[i], small.mean(), atol=2e-3)
                assert_allclose(shares.gradient[i], gone.mean(), atol=2e-3)
            ours = curvature.gradient(objective, stage.params, curvature.FIRST_LAYER)
            assert_allclose(ours, gradient, rtol=1e-3, atol=1e-4)
    assert seen >= {("hard", 0), ("none", 0), ("none", 5)}


def whole_factors(trained, stage, clamp):
    """Of the first layer |dv_k/dw| and |g|, `[M, N, P]`; ||dL/df||; the gradient."""
    x = (IMAGES / 255 - 0.4) / 0.2

    def respond(kernel):
        params = stage.params | {"stem": {"kernel": kernel}}
        args = params, stage.batch_stats, jnp.asarray(x, jnp.float32)
        return trained.network.responses(*args, train=False)[0]

    def loss(f):
        return classification_loss(f, LABELS, clamp=clamp).sum()

    kernel = stage.params["stem"]["kernel"]
    j = np.asarray(jax.jit(jax.jacrev(respond))(kernel))  # [M, N, C, M, ...]
    own = np.stack([j[k, :, :, k] for k in range(SPEC.branches)])
    own = own.reshape(*own.shape[:3], -1)
    d = np.asarray(jax.grad(loss)(respond(kernel).sum(0)))
    products = np.einsum("mncp,nc->mnp", own, d)
    norms = np.linalg.norm(own, axis=2), np.abs(products), np.linalg.norm(d, axis=1)
    return *norms, products.sum(1)


@pytest.mark.parametrize("loss", [unclamped_loss, classification_loss])
def test_the_control_has_separate_jacobians_and_the_sum_s_curvature(loss, x64):
    objective, params = problem(loss, 3)
    _, separate_params = problem(loss, 3, seed=5)
    separate_params = jax.tree.map(lambda leaf: 3 * leaf, separate_params)
    control = curvature.control_objective(objective, params, objective, separate_params)
    h = hessian.blocks(control, separate_params).full()
    assert_allclose(h, hessian.dense(control, separate_params), rtol=1e-9, atol=1e-12)
    flat, unravel = ravel_branches(separate_params)

    def respond(flat):
        return jax.vmap(objective.respond, (None, 0))(unravel(flat), objective.examples)

    j = np.asarray(jax.jacobian(respond)(flat))  # [N, M, C, M, P]
    j = np.stack([j[:, k, :, k] for k in range(3)])  # [M, N, C, P]
    f = curvature.outputs(objective, params)
    b = jax.vmap(jax.hessian(loss))(f, objective.targets)
    g = jax.vmap(jax.grad(loss))(f, objective.targets)
    expected = np.einsum("kncp,ncd,lndq->kplq", j, b, j)
    residual = jax.hessian(lambda flat: (g[:, None] * respond(flat)).sum())(flat)
    assert np.abs(expected).max() > 1e-2
    assert np.abs(residual).max() > 1e-2
    assert_allclose(h, expected + residual, rtol=1e-6, atol=1e-9)


def test_responses_and_outputs_of_all_examples(x64, monkeypatch):
    monkeypatch.setattr(curvature, "CHUNK", 2)
    objective, params = problem(classification_loss, 3)
    v = curvature.responses(objective, params)
    for n, x in enumerate(objective.examples):
        assert_allclose(v[:, n], objective.respond(params, x), rtol=1e-12)
    assert_allclose(curvature.outputs(objective, params), v.sum(0))


def test_the_separately_trained_branches_of_the_same_repeat(run):
    trained = classifier.load(run)
    assert curvature.control_stage(run, trained) is None
    spec = dataclasses.replace(SPEC, branches=3)
    init = jax.jit(classifier.build(spec).init)
    for i, name in enumerate(("control", "control_repeat_1")):
        x = jnp.zeros((1, *SPEC.image_shape))
        params, stats = init(jax.random.key(10 + i), x)
        folder = run / "checkpoints" / name
        checkpoints.write_spec(folder, spec)
        checkpoints.save(folder, 7, model={"params": params, "batch_stats": stats})
    network = run / "checkpoints" / "branches_2_repeat_1"
    shutil.copytree(run / "checkpoints" / "main", network)
    for path, control in ((run, "control"), (network / "5", "control_repeat_1")):
        stage = curvature.control_stage(path, trained)
        saved = classifier.load(run / "checkpoints" / control)
        assert stage.step == 7
        jax.tree.map(
            lambda ours, whole: assert_array_equal(ours, whole[:2]),
            stage.params,
            saved.params,
        )
    apart = run / "checkpoints" / "control"
    assert curvature.control_stage(apart, classifier.load(apart)) is None


def test_one_network_decides_nothing():
    beside = dict.fromkeys(("vanishing_share", "vanishing_gradient", "orthogonal"), 0.5)
    stages = {
        "converged": {
            "block_index": np.float32(0.95),
            "step_effect": 0.1,
            "vanishing_distributive": 0.75,
            **beside,
            "vanishing_share": 0.85,
        },
        "initial": {"block_index": 0.25, "vanishing_distributive": 0.0},
        "control": {"block_index": None},
    }
    records = curvature.observe(8, stages)
    assert set(records) == {7, "section8"}
    measured = {key: (one["value"], one["initial"]) for key, one in records.items()}
    assert_allclose(measured[7], (0.95, 0.25))
    assert_allclose(measured["section8"], (0.75 / 0.9, 0))  # 0.1 at the start
    assert math.isnan(records[7]["control"])
    for record in records.values():
        assert record["interval"] == (-math.inf, math.inf)
        assert (record["holds"], record["networks"]) == (None, 1)
