import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.adapters import from_linen, from_nnx
from bspec_jax.branching import from_functions, sum_of_branches

M = 4


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(5)(x))
        return nn.Dense(2)(nn.relu(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def take(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)


def assert_all_branches_differ(params):
    """Of every leaf that is not constant at initialisation (biases are)."""
    random = [p for p in jax.tree.leaves(params) if np.ptp(p) > 0]
    assert len(random) >= 2
    for leaf in random:
        flat = np.asarray(leaf).reshape(M, -1)
        assert np.unique(flat, axis=0).shape[0] == M


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (6, 3)) + 1


@pytest.mark.parametrize("sequential", [False, True])
def test_linen_equals_a_loop_over_the_module(x, sequential):
    module = LinenNet()
    net = sum_of_branches(from_linen(module), M, sequential=sequential)
    params, state = net.init(jax.random.key(0), x)
    assert_all_branches_differ(params)
    f, new_state = jax.jit(net.apply)(params, state, x)
    total = 0
    for k in range(M):
        out, updated = module.apply(
            {"params": take(params, k), **take(state, k)}, x, mutable=["batch_stats"]
        )
        total = total + out
        for a, b in zip(
            jax.tree.leaves(take(new_state, k)), jax.tree.leaves(updated), strict=True
        ):
            assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert_allclose(f, total, rtol=1e-4, atol=1e-5)


def test_linen_running_statistics_move_by_the_momentum(x):
    net = sum_of_branches(from_linen(LinenNet()), M)
    params, state = net.init(jax.random.key(0), x)
    _, after = net.apply(params, state, x, train=True)
    dense = params["Dense_0"]
    hidden = jnp.einsum("nd,mdc->mnc", x, dense["kernel"]) + dense["bias"][:, None]
    mean = after["batch_stats"]["BatchNorm_0"]["mean"]
    assert_allclose(mean, 0.1 * hidden.mean(1), rtol=1e-5, atol=1e-6)
    _, frozen = net.apply(params, after, x, train=False)
    jax.tree.map(assert_array_equal, frozen, after)


def test_linen_without_state_has_an_empty_state(x):
    net = sum_of_branches(from_linen(nn.Dense(2)), M)
    params, state = net.init(jax.random.key(0), x)
    assert state == {}
    f, state = net.apply(params, state, x)
    expected = jnp.einsum("nd,mdc->nc", x, params["kernel"]) + params["bias"].sum(0)
    assert state == {}
    assert_allclose(f, expected, rtol=1e-4, atol=1e-5)


def test_linen_dropout_takes_its_rngs_by_keyword(x):
    net = sum_of_branches(from_linen(nn.Dropout(0.5, deterministic=False)), M)
    rngs = {"dropout": jax.random.key(5)}
    params, state = net.init(jax.random.key(0), x, rngs=rngs)
    f, _ = net.apply(params, state, x, rngs=rngs)
    one = nn.Dropout(0.5, deterministic=False).apply({}, x, rngs=rngs)
    assert_allclose(f, M * one, rtol=1e-6)


def test_nnx_module_with_a_list_and_a_plain_array(x):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.shift = jnp.arange(3.0)
            self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            for layer in self.layers:
                x = jnp.tanh(layer(x + self.shift))
            return x

    net = sum_of_branches(from_nnx(Net), M)
    params, state = net.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(0), M)
    expected = sum(Net(nnx.Rngs(key))(x) for key in keys)
    for apply in (net.apply, jax.jit(net.apply)):
        assert_allclose(apply(params, state, x)[0], expected, rtol=1e-5, atol=1e-6)


def evaluation_of_nnx(params, state, x):
    hidden = x @ params["first"]["kernel"] + params["first"]["bias"]
    scale = params["norm"]["scale"] / jnp.sqrt(state["norm"]["var"] + 1e-5)
    hidden = (hidden - state["norm"]["mean"]) * scale + params["norm"]["bias"]
    return jax.nn.relu(hidden) @ params["last"]["kernel"] + params["last"]["bias"]


@pytest.mark.parametrize("sequential", [False, True])
def test_nnx_evaluation_equals_the_formula(x, sequential):
    branch = from_nnx(NnxNet, use_running_average=True, deterministic=True)
    net = sum_of_branches(branch, M, sequential=sequential)
    params, state = net.init(jax.random.key(0))
    assert_all_branches_differ(params)
    f, after = jax.jit(net.apply)(params, state, x)
    expected = sum(
        evaluation_of_nnx(take(params, k), take(state, k), x) for k in range(M)
    )
    assert_allclose(f, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(assert_array_equal, after["norm"], state["norm"])


def test_nnx_training_updates_statistics_and_draws_dropout_per_branch(x):
    train = sum_of_branches(from_nnx(NnxNet), M)
    params, state = train.init(jax.random.key(0))
    # Equal parameters in all branches: only the dropout can tell them apart.
    params = jax.tree.map(lambda p: jnp.broadcast_to(p[:1], p.shape), params)
    v, after = train.responses(params, state, x)
    again, _ = train.responses(params, after, x)
    assert np.unique(np.asarray(v).reshape(M, -1), axis=0).shape[0] == M
    assert not np.allclose(v, again)
    hidden = jnp.einsum("nd,mdc->mnc", x, params["first"]["kernel"])
    assert_allclose(after["norm"]["mean"], 0.1 * hidden.mean(1), rtol=1e-5, atol=1e-6)


def test_nnx_gradient_has_the_tree_of_the_parameters(x):
    branch = from_nnx(NnxNet, use_running_average=True, deterministic=True)
    net = sum_of_branches(branch, M)
    params, state = net.init(jax.random.key(0))
    gradient = jax.grad(lambda p: (net.apply(p, state, x)[0] ** 2).sum())(params)

    def loop(params):
        each = (evaluation_of_nnx(take(params, k), take(state, k), x) for k in range(M))
        return (sum(each) ** 2).sum()

    expected = jax.grad(loop)(params)
    jax.tree.map(
        lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-3), gradient, expected
    )


def test_equinox_module_as_an_example(x):
    """The Equinox example of the pages: arrays are parameters, all else is kept."""

    def make(key):
        return eqx.nn.MLP(in_size=3, out_size=2, width_size=5, depth=1, key=key)

    static = eqx.filter(make(jax.random.key(0)), eqx.is_array, inverse=True)

    def init(key):
        return eqx.filter(make(key), eqx.is_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    net = sum_of_branches(from_functions(init, apply), M)
    params, state = net.init(jax.random.key(0))
    assert_all_branches_differ(params)
    f, _ = jax.jit(net.apply)(params, state, x)
    keys = jax.random.split(jax.random.key(0), M)
    expected = sum(jax.vmap(make(key))(x) for key in keys)
    assert_allclose(f, expected, rtol=1e-5, atol=1e-6)
