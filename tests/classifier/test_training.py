import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import NETWORK, PIXELS, Small, normalised
from numpy.testing import assert_allclose, assert_array_equal
from typechecks import without_type_checks

from bspec_jax.adapters import from_linen
from bspec_jax.branching import Branch, sum_of_branches
from bspec_jax.classifier import training as classifier_training
from bspec_jax.classifier.training import Recipe, Schedule, epoch_order, fit, training
from bspec_jax.data import Split
from bspec_jax.losses import classification_loss
from bspec_jax.storage import checkpoints, resumable
from bspec_jax.storage.errors import ArgumentError, UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 3, 2, 1), np.uint8)
LABELS = RNG.integers(0, 3, 10).astype(np.int32)
PLAIN = Recipe(epochs=3, batch_size=4, crop_padding=0, flip=False, learning_rate=0.2)
KEY = jax.random.key(7)


def run_steps(network, recipe, orders, total=6):
    train = training(network, recipe, PIXELS, total)
    state = train.init(KEY, jnp.asarray(IMAGES[:1]))
    first, logs = jax.tree.map(np.array, state), []
    for order in orders:
        args = jnp.asarray(IMAGES), jnp.asarray(LABELS), np.array(order)
        state, log = train.step(state, KEY, *args)
        logs.append(jax.device_get(log))
    return first, state, logs


def gradient(params, stats, order, separate=False):
    """Of the loss written out, in evaluation of one batch."""

    def loss(params):
        x = jnp.asarray(normalised(IMAGES[order]), jnp.float32)
        v, _ = NETWORK.responses(params, stats, x, train=True)
        return classification_loss(v.sum(0), LABELS[order]).mean()

    return jax.grad(loss)(params)


def test_two_steps_of_sgd_written_out():
    orders = [[0, 3, 1, 9], [2, 2, 5, 4]]
    first, state, _ = run_steps(NETWORK, PLAIN, orders)
    params, velocity = first.params, jax.tree.map(np.zeros_like, first.params)
    for t, order in enumerate(orders):
        rate = 0.2 * 0.5 * (1 + np.cos(np.pi * t / 6))
        slope = gradient(params, first.batch_stats, order)
        velocity = jax.tree.map(
            lambda v, g, p: 0.9 * v + g + 5e-4 * p, velocity, slope, params
        )
        params = jax.tree.map(lambda p, v, r=rate: p - r * v, params, velocity)
    assert int(state.step) == 2
    jax.tree.map(
        lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, params
    )


def test_the_log_by_hand():
    first, state, (log,) = run_steps(NETWORK, PLAIN, [[1, 2, 3, 4]])
    x = jnp.asarray(normalised(IMAGES[[1, 2, 3, 4]]), jnp.float32)
    v, _ = NETWORK.responses(first.params, first.batch_stats, x, train=True)
    f, labels = v.sum(0), LABELS[[1, 2, 3, 4]]
    assert_allclose(log["loss"], classification_loss(f, labels).mean(), rtol=1e-5)
    assert_allclose(log["accuracy"], (f.argmax(1) == labels).mean())
    assert_allclose(log["saturated"], (jnp.abs(f).min(1) >= 1).mean())
    assert_allclose(log["energy"], (v**2).sum((1, 2)) / 4, rtol=1e-4)
    centred = v - v.mean(1)[:, None]
    assert_allclose(log["centred_energy"], (centred**2).sum((1, 2)) / 4, rtol=1e-4)
    squares = [
        (leaf**2).reshape(2, -1).sum(1) for leaf in jax.tree.leaves(state.params)
    ]
    assert_allclose(log["parameter_norm"], np.sqrt(sum(squares)), rtol=1e-5)
    for name in ("energy", "centred_energy", "parameter_norm"):
        assert log[name].shape == (2,)


def test_branches_of_the_control_train_as_if_alone():
    separate = PLAIN._replace(separate=True)
    orders = [[0, 1, 2, 3], [4, 5, 6, 7]]
    first, state, logs = run_steps(NETWORK, separate, orders)
    alone, losses = sum_of_branches(from_linen(Small()), 1), []
    for k in range(2):
        train = training(alone, PLAIN, PIXELS, 6)
        single = train.init(KEY, jnp.asarray(IMAGES[:1]))
        own = jax.tree.map(lambda leaf, k=k: jnp.array(leaf[k : k + 1]), first.params)
        single = single._replace(params=own)
        for order in orders:
            args = jnp.asarray(IMAGES), jnp.asarray(LABELS), np.array(order)
            single, log = train.step(single, KEY, *args)
            losses.append(float(log["loss"]))
        jax.tree.map(
            lambda a, b, k=k: assert_allclose(a[k], b[0], rtol=1e-4, atol=1e-6),
            state.params,
            single.params,
        )
    means = np.reshape(losses, (2, 2)).mean(0)  # over branches, by step
    assert_allclose([log["loss"] for log in logs], means, rtol=1e-5)


def test_adamw_decays_what_has_no_gradient():
    # A branch that ignores a parameter: only the decay changes it.
    branch = from_linen(Small())

    def init(key, x, **kwargs):
        params, state = branch.init(key, x, **kwargs)
        return params | {"unused": jnp.ones(2)}, state

    def apply(params, state, x, **kwargs):
        return branch.apply(
            {"Dense_0": params["Dense_0"], "BatchNorm_0": params["BatchNorm_0"]},
            state,
            x,
            **kwargs,
        )

    network = sum_of_branches(Branch(init, apply), 2)
    recipe = PLAIN._replace(optimizer="adamw", learning_rate=0.1, weight_decay=0.5)
    _, state, _ = run_steps(network, recipe, [[0, 1, 2, 3]])
    assert_allclose(state.params["unused"], np.full((2, 2), 1 - 0.1 * 0.5), rtol=1e-6)


def test_an_epoch_takes_every_example_once():
    orders = [epoch_order(KEY, epoch, 10, 3) for epoch in (0, 1)]
    for order in orders:
        assert order.shape == (3, 3)  # the tenth example is left
        assert len(set(order.ravel())) == 9
        assert set(order.ravel()) <= set(range(10))
    assert not np.array_equal(*orders)
    assert_array_equal(orders[1], epoch_order(KEY, 1, 10, 3))


class StoppedError(Exception):
    pass


def fit_small(folder, stop_at=None, recipe=PLAIN, network=NETWORK, examples=None):
    """Two steps an epoch, six in all; optionally stops after the log of one."""
    seen = []

    def on_log(state, step, epoch, log):
        assert_allclose(epoch, step / 2)
        seen.append((step, len(log["loss"])))
        if step == stop_at:
            raise StoppedError

    split = examples or Split(IMAGES, LABELS)
    schedule = Schedule(log_every=5, checkpoint_every=3)
    state = fit(network, recipe, PIXELS, split, KEY, folder, schedule, on_log)
    return jax.tree.map(np.asarray, state), seen


@pytest.mark.slow
def test_a_resumed_training_ends_bit_for_bit_the_same(tmp_path):
    recipe = PLAIN._replace(crop_padding=1, flip=True)
    whole, seen = fit_small(tmp_path / "whole", recipe=recipe)
    # Stops at 2, 4, 6 (epochs), 3, 6 (checkpoints) and 5 (the log's own).
    assert seen == [(2, 2), (3, 1), (4, 1), (5, 1), (6, 1)]
    # A log comes before its checkpoint: the last ones are those of 0, 0 and 3.
    starts = [0, 0, 3]
    for stop_at in (2, 3, 5):
        with pytest.raises(StoppedError):
            fit_small(tmp_path / "part", stop_at, recipe)
        assert checkpoints.steps(tmp_path / "part")[-1] == starts.pop(0)
    resumed, later = fit_small(tmp_path / "part", recipe=recipe)
    assert later == [(4, 1), (5, 1), (6, 1)]
    jax.tree.map(assert_array_equal, resumed, whole)
    assert whole.step == 6


def test_the_checkpoint_of_the_middle_stays(tmp_path):
    recipe = PLAIN._replace(epochs=5)  # of two steps, so that 5 ends no epoch
    _, seen = fit_epochs(tmp_path / "net", recipe)
    assert (5, 1) in seen
    assert checkpoints.steps(tmp_path / "net") == [0, 5, 10]


def fit_epochs(folder, recipe):
    seen = []
    state = fit(
        NETWORK,
        recipe,
        PIXELS,
        Split(IMAGES, LABELS),
        KEY,
        folder,
        Schedule(log_every=2, checkpoint_every=100),
        lambda state, step, epoch, log: seen.append((step, len(log["loss"]))),
    )
    return state, seen


def test_each_seed_draws_its_own(tmp_path):
    train = training(NETWORK, PLAIN, PIXELS, 6)
    states = [train.init(jax.random.key(s), jnp.asarray(IMAGES[:1])) for s in (0, 1)]
    kernels = [state.params["Dense_0"]["kernel"] for state in states]
    assert not np.allclose(*kernels)


def test_what_is_not_finite_stops_the_training(tmp_path):
    recipe = PLAIN._replace(learning_rate=1e30, clamp="none")
    with pytest.raises(UserError, match=r"net: \w+ is not finite at step \d; the last"):
        fit_small(tmp_path / "net", recipe=recipe)
    kept = checkpoints.steps(tmp_path / "net")
    assert kept[0] == 0
    train = training(NETWORK, recipe, PIXELS, 6)
    like = train.init(KEY, jnp.asarray(IMAGES[:1]))
    state = resumable.restore(tmp_path / "net", 0, like)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_training_compiles_its_step_once(tmp_path):
    branch, traces = from_linen(Small()), itertools.count()

    def apply(*args, **kwargs):
        next(traces)
        return branch.apply(*args, **kwargs)

    network = sum_of_branches(Branch(branch.init, apply), 2)
    fit_small(tmp_path / "a", network=network)
    assert next(traces) == 2  # the other one only counts the classes


def test_each_step_draws_its_own_augmentation():
    still = PLAIN._replace(learning_rate=1e-30, weight_decay=0.0)
    for recipe, differs in ((still, False), (still._replace(crop_padding=2), True)):
        _, _, (first, second) = run_steps(NETWORK, recipe, [[0, 1, 2, 3]] * 2)
        assert np.allclose(first["loss"], second["loss"], rtol=1e-6) != differs


def test_the_steps_of_an_epoch_take_its_order(tmp_path, monkeypatch):
    taken, make = [], classifier_training.training

    def spying(*args):
        train = make(*args)

        def step(state, key, images, labels, index):
            taken.append(np.array(index))
            return train.step(state, key, images, labels, index)

        return train._replace(step=step)

    monkeypatch.setattr(classifier_training, "training", spying)
    # Within the third epoch the log and a checkpoint part its two steps.
    fit_small(tmp_path / "net")
    orders = jax.random.split(KEY, 3)[1]
    expected = [epoch_order(orders, epoch, 10, 4) for epoch in range(3)]
    assert_array_equal(taken, np.concatenate(expected))


@pytest.mark.parametrize(
    ("examples", "recipe", "message"),
    [
        (Split(IMAGES / 255, LABELS), {}, "bytes in 0..255"),
        (Split(IMAGES, LABELS + 1), {}, r"`labels` must be in 0..2, got 3"),
        (Split(IMAGES, LABELS - 1), {}, r"`labels` must be in 0..2, got -1"),
        (
            Split(IMAGES, np.eye(3, dtype=int)[LABELS]),
            {},
            "of one-hot rows take",
        ),
        (Split(IMAGES, LABELS), {"batch_size": 10**6}, "`batch_size` must be 1 to the"),
        (Split(IMAGES, LABELS), {"epochs": 10**12}, "`epochs` 1000000000000 are"),
    ],
)
def test_examples_and_recipes_that_cannot_be(tmp_path, examples, recipe, message):
    with without_type_checks(), pytest.raises(ArgumentError, match=message):
        fit_small(tmp_path / "a", examples=examples, recipe=PLAIN._replace(**recipe))
    assert not (tmp_path / "a").exists()


def test_parameters_that_the_last_step_makes_infinite_are_not_saved(tmp_path):
    """The loss and the gradient of that step are finite: they were computed before."""
    recipe = PLAIN._replace(
        learning_rate=3e38, weight_decay=1e3, batch_size=10, epochs=1
    )
    message = "net: largest_parameter is not finite at step 0"
    with pytest.raises(UserError, match=message):
        fit_small(tmp_path / "net", recipe=recipe)
    assert checkpoints.steps(tmp_path / "net") == [0]
