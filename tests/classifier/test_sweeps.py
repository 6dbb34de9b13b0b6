"""A grid of networks trained together is the same networks trained one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import NETWORK, PIXELS
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.adapters import from_linen
from bspec_jax.branching import sum_of_branches
from bspec_jax.classifier import branches, sweeps
from bspec_jax.classifier.network import predict
from bspec_jax.classifier.recipe import Recipe
from bspec_jax.classifier.training import Schedule, fit
from bspec_jax.data import Split

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 3, 2, 1), np.uint8)
EXAMPLES = Split(IMAGES, RNG.integers(0, 3, 10).astype(np.int32))
RECIPE = Recipe(epochs=3, batch_size=4, crop_padding=0, flip=False, learning_rate=9.0)
KEYS = jax.random.split(jax.random.key(7), 2)
SETTINGS = sweeps.Settings(
    learning_rate=np.float32([0.2, 0.05, 0.2]),
    weight_decay=np.float32([0.0, 0.1, 0.01]),
    init_scale=np.float32([1, 1, 0.5]),
)
PLAIN = sum_of_branches(
    from_linen(branches.make("mlp", (4, 3), 3, normalisation="none")), 3
)


def train(network, folder, settings=SETTINGS, on_log=lambda *_: None, steps=6):
    return sweeps.fit(
        network,
        RECIPE,
        PIXELS,
        EXAMPLES,
        KEYS,
        settings,
        folder,
        steps=steps,
        log_every=2,
        checkpoint_every=2,
        on_log=on_log,
    )


@pytest.mark.parametrize("parts", [[slice(0, 1), slice(1, 2)], [slice(0, 2)]])
@pytest.mark.parametrize("network", [NETWORK, PLAIN], ids=["BatchNorm", "none"])
def test_a_network_of_the_grid_is_the_one_trained_alone(
    network, parts, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweeps, "parts_of", lambda num_seeds: parts)
    logs = []
    state = train(
        network, tmp_path / "grid", on_log=lambda state, step, log: logs.append(log)
    )
    assert jax.tree.leaves(state.params)[0].shape[:2] == (2, 3)
    for s in range(2):
        for k in range(2):  # of the usual initial scale
            recipe = RECIPE._replace(
                learning_rate=float(SETTINGS.learning_rate[k]),
                weight_decay=float(SETTINGS.weight_decay[k]),
            )
            losses = []
            alone = fit(
                network,
                recipe,
                PIXELS,
                EXAMPLES,
                KEYS[s],
                tmp_path / f"{s}_{k}",
                Schedule(2, 2),
                lambda state, step, epoch, log, kept=losses: kept.append(log["loss"]),
            )
            jax.tree.map(
                lambda grid, one, s=s, k=k: assert_allclose(
                    grid[s, k], one, rtol=1e-4, atol=1e-5
                ),
                (state.params, state.batch_stats),
                (alone.params, alone.batch_stats),
            )
            of_grid = np.concatenate([log["loss"][:, s, k] for log in logs])
            assert_allclose(of_grid, np.concatenate(losses), rtol=1e-4)


def test_the_initial_scale_multiplies_all_parameters():
    functions = sweeps.sweep(PLAIN, RECIPE, PIXELS, 6)
    state = functions.init(KEYS, SETTINGS, jnp.asarray(IMAGES[:1]))
    for leaf in jax.tree.leaves(state.params):
        assert_allclose(leaf[:, 2], 0.5 * leaf[:, 0], rtol=1e-6)
        assert_array_equal(leaf[:, 0], leaf[:, 1])
    kernel = state.params["stem"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1  # seeds differ


def test_one_compilation_serves_all_steps():
    functions = sweeps.sweep(PLAIN, RECIPE, PIXELS, 6)
    images, labels = map(jnp.asarray, EXAMPLES)
    settings = jax.tree.map(jnp.asarray, SETTINGS)
    state = functions.init(KEYS, settings, images[:1])
    for i in range(3):
        index = np.full((2, 4), i)
        state, _ = functions.step(state, settings, KEYS, images, labels, index)
    assert functions.step._cache_size() == 1
    assert int(state.step) == 3


def test_a_network_that_diverges_leaves_the_others_alone(tmp_path):
    wild = SETTINGS._replace(learning_rate=np.float32([0.2, 1e30, 0.2]))
    state, calm = train(PLAIN, tmp_path / "a", wild), train(PLAIN, tmp_path / "b")
    kernel, expected = (s.params["head"]["kernel"] for s in (state, calm))
    assert np.isnan(kernel[:, 1]).any()
    assert_array_equal(kernel[:, [0, 2]], expected[:, [0, 2]])


def test_a_stopped_training_ends_like_an_uninterrupted_one(tmp_path):
    def stop(state, step, log):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PLAIN, tmp_path / "stopped", on_log=stop)
    steps = []
    resumed = train(
        PLAIN, tmp_path / "stopped", on_log=lambda state, step, log: steps.append(step)
    )
    assert steps == [4, 6]
    jax.tree.map(
        assert_array_equal, resumed.parts(), train(PLAIN, tmp_path / "whole").parts()
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(PLAIN, tmp_path_factory.mktemp("trained") / "grid")


@pytest.mark.parametrize("batch", [250, 4])  # the last of which is incomplete
def test_measures_by_numpy(trained, batch, monkeypatch):
    monkeypatch.setattr(sweeps, "EVALUATION_BATCH", batch)
    model, _ = trained.parts()
    # The first branch of one network says next to nothing but a large constant.
    head = model["params"]["head"]
    head["kernel"] = head["kernel"].at[1, 2, 0].multiply(1e-4)
    head["bias"] = head["bias"].at[1, 2, 0].set(5.0)
    measured = sweeps.measure(PLAIN, **model, examples=EXAMPLES, pixels=PIXELS)
    for s, k in np.ndindex(2, 3):
        one = jax.tree.map(lambda leaf, s=s, k=k: leaf[s, k], model)
        v = np.float64(predict(PLAIN, **one, images=IMAGES, pixels=PIXELS))
        centred = v - v.mean(1, keepdims=True)
        norms = np.linalg.norm(centred.reshape(3, -1), axis=1)
        active = norms >= 0.1 * norms.max()
        pruned = np.where(active[:, None, None], v, v.mean(1, keepdims=True))
        expected = sweeps.Measured(
            norms=np.linalg.norm(v.reshape(3, -1), axis=1),
            centred_norms=norms,
            variances=v.reshape(3, -1).var(1),
            accuracy=(v.sum(0).argmax(-1) == EXAMPLES.labels).mean(),
            accuracy_removed=(v[active].sum(0).argmax(-1) == EXAMPLES.labels).mean(),
            accuracy_pruned=(pruned.sum(0).argmax(-1) == EXAMPLES.labels).mean(),
        )
        for name, value in expected._asdict().items():
            got = getattr(measured, name)[s, k]
            # Of a constant 5, rounding leaves 1e-6 in a centred response.
            assert_allclose(got, value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert not sweeps.activity(measured.centred_norms)[1, 2, 0]
    assert sweeps.activity(measured.norms)[1, 2, 0] == 1


def test_measures_of_a_network_that_is_not_finite_are_nan(trained):
    model, _ = trained.parts()
    head = model["params"]["head"]
    head["kernel"] = head["kernel"].at[0, 1, 2, 0, 0].set(np.inf)
    measured = sweeps.measure(PLAIN, **model, examples=EXAMPLES, pixels=PIXELS)
    assert np.isnan(sweeps.activity(measured.centred_norms)[0, 1]).all()
    assert np.isnan(measured.accuracy[0, 1])
    assert np.isnan(measured.accuracy_pruned[0, 1])
    assert np.isnan(measured.accuracy_removed[0, 1])
    assert np.isfinite(measured.accuracy).sum() == 5


def test_activity_by_hand():
    sizes = np.array([[1.0, 0.1, 0.0999], [0.0, 0.0, 0.0], [1.0, np.nan, 2.0]])
    assert_array_equal(
        sweeps.activity(sizes), [[1, 1, 0], [0, 0, 0], [np.nan, np.nan, np.nan]]
    )
