import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from typechecks import without_type_checks

from bspec_jax.analysis.silence import (
    earliest_silence,
    growth,
    growth_ratio,
    layer_norms,
    separation,
    silence_threshold,
)

RNG = np.random.default_rng(0)
M, N, D, H, C = 3, 7, 4, 5, 2


def leaky(z):
    return jnp.where(z >= 0, z, 0.01 * z)


def responses(params, x):
    """Degree 3, without biases."""
    hidden = leaky(jnp.einsum("nd,mdh->mnh", x, params["a"]))
    hidden = leaky(jnp.einsum("mnh,mhg->mng", hidden, params["b"]))
    return jnp.einsum("mng,mgc->mnc", hidden, params["c"])


@pytest.fixture
def params():
    shapes = {"a": (M, D, H), "b": (M, H, H), "c": (M, H, C)}
    return {name: RNG.normal(size=shape) for name, shape in shapes.items()}


def test_growth_is_what_euler_says_and_the_norm_does(params):
    """-<theta, dL> = -d <v, D_collab>, and half the rate of the squared norm."""
    with jax.enable_x64(True):
        x, y = RNG.normal(size=(N, D)), RNG.normal(size=(N, C))

        def loss(params):
            return 0.5 * ((responses(params, x).sum(0) - y) ** 2).sum()

        gradient = jax.grad(loss)(params)
        grown = growth(params, gradient)
        v = responses(params, x)
        collaborative = v.sum(0) - y
        euler = -3 * (v * collaborative).sum((1, 2))
        assert_allclose(grown, euler, rtol=1e-10)
        step = 1e-7
        moved = {name: p - step * gradient[name] for name, p in params.items()}

        def squared(params):
            leaves = jax.tree.leaves(params)
            return sum((leaf**2).reshape(M, -1).sum(1) for leaf in leaves)

        rate = (squared(moved) - squared(params)) / (2 * step)
        assert_allclose(grown, rate, rtol=1e-4)


def test_layer_norms_by_path(params):
    norms = layer_norms({"deep": params})
    assert list(norms) == ["deep/a", "deep/b", "deep/c"]
    expected = np.linalg.norm(params["b"].reshape(M, -1), axis=1)
    assert_allclose(norms["deep/b"], expected, rtol=1e-6)


def test_the_growth_ratio():
    pull, squared = (
        np.array([[2.0, 0.0], [3.0, 1.0]]),
        np.array([[4.0, 2.0], [1.0, 5.0]]),
    )
    decay = np.array([0.5, 0.0])
    expected = [[1.0, 0.0], [np.nan, np.nan]]  # no decay, nothing to balance
    assert_allclose(growth_ratio(pull, squared, decay), expected)
    # A branch of norm zero has neither pull nor decay, and cannot say.
    assert np.isnan(growth_ratio(np.zeros(1), np.zeros(1), 0.5)).all()


def test_separation_by_pairs():
    score = np.array([3.0, 1.0, 2.0, 2.0, 0.0])
    survived = np.array([True, False, True, False, True])
    # Pairs (3, 1), (3, 2), (2, 1) won, (2, 2) tied, (0, 1), (0, 2) lost.
    assert_allclose(separation(score, survived), 3.5 / 6)
    assert np.isnan(separation(score, np.ones(5, bool)))
    assert np.isnan(separation(np.array([1.0, np.nan]), np.array([True, False])))


def test_the_threshold_against_every_direction_of_a_plane():
    with jax.enable_x64(True):
        x, g = RNG.normal(size=(N, 2)), RNG.normal(size=(N, C))
        angle = np.linspace(0, 2 * np.pi, 20_001)
        w = np.stack([np.cos(angle), np.sin(angle)])
        features = np.asarray(leaky(x @ w))
        expected = np.linalg.norm(features.T @ g, axis=1).max() / N
        found = silence_threshold(x, g, jax.random.key(0))
        assert_allclose(found, expected, rtol=1e-6)


def test_the_threshold_decides_whether_silence_is_a_minimum():
    """Close to zero, a branch of one unit lowers loss and decay below lambda* only."""
    with jax.enable_x64(True):
        x, g = RNG.normal(size=(N, D)), RNG.normal(size=(N, C))
        limit = float(silence_threshold(x, g, jax.random.key(1)))
        starts = RNG.normal(size=(64, D + C))

        def objective(w, a, decay):
            v = leaky(x @ w)[:, None] * a
            return (v * g).sum() / N + decay / 2 * ((w**2).sum() + (a**2).sum())

        def unit(z):
            return z / jnp.linalg.norm(z)

        def lowest(decay):
            def descend(start):
                def step(pair, _):
                    slope = jax.grad(lambda pair: objective(*pair, decay))(pair)
                    moved = jax.tree.map(lambda p, s: unit(p - 0.1 * s), pair, slope)
                    return moved, None

                pair, _ = jax.lax.scan(
                    step, (unit(start[:D]), unit(start[D:])), length=500
                )
                return objective(*pair, decay)

            return jax.vmap(descend)(starts).min()

        assert lowest(1.05 * limit) > 0
        assert lowest(0.95 * limit) < 0


def test_wrong_shapes_are_refused():
    with (
        without_type_checks(),
        pytest.raises(ValueError, match=r"\[N, D\]"),
    ):
        silence_threshold(np.ones((3, 2)), np.ones((4, 2)), jax.random.key(0))


def test_decay_alone_silences_at_the_earliest_budget():
    for degree in (3, 5):
        size = np.exp(-degree * earliest_silence(degree, threshold=0.2))
        assert_allclose(size, 0.2)
    assert_allclose(earliest_silence(3), np.log(10) / 3)
    assert earliest_silence(2) is None
