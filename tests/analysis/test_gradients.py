import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from numpy.testing import assert_allclose

from bspec_jax import toys
from bspec_jax.adapters import from_linen, from_nnx
from bspec_jax.analysis import gradients
from bspec_jax.analysis.objective import frozen_responses
from bspec_jax.branching import from_functions, sum_of_branches
from bspec_jax.losses import squared_error
from bspec_jax.trees import select_leaves

M, N, C = 3, 5, 4


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.tanh(nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x)))
        return nn.Dense(C)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.last = nnx.Linear(2, C, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.norm(x)))


def plain():
    def init(key, x):
        first, second = jax.random.split(key)
        return {
            "a": jax.random.normal(first, (2, 3)),
            "b": jax.random.normal(second, (3, C)),
        }

    return from_functions(init, lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]), {}


ROUTES = {
    "plain": plain,
    "linen": lambda: (from_linen(LinenNet()), {"train": False}),
    "nnx": lambda: (from_nnx(NnxNet, use_running_average=True), {}),
}


@pytest.fixture(params=ROUTES)
def case(request, x64):
    """Network, parameters (all non-zero), state, examples, respond, keywords."""
    branch, kwargs = ROUTES[request.param]()
    net = sum_of_branches(branch, M)
    x = jax.random.normal(jax.random.key(1), (N, 2), jnp.float64)
    params, state = net.init(jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
    params = tree.unflatten(leaves)
    respond = frozen_responses(net, state, **kwargs)
    return net, params, state, x, respond, kwargs


def cross_entropy(f):
    target = jnp.arange(N) % C
    return -(jax.nn.log_softmax(f)[jnp.arange(N), target] * jnp.arange(1, N + 1)).sum()


def squared(f):
    return squared_error(f, jnp.linspace(-1, 2, N * C).reshape(N, C))


@pytest.mark.parametrize("loss", [squared, cross_entropy])
def test_the_product_of_the_factors_is_the_gradient(case, loss):
    net, params, state, x, respond, kwargs = case

    def objective(p):
        return loss(net.apply(p, state, x, **kwargs)[0])

    f, _ = net.apply(params, state, x, **kwargs)
    collaborative = gradients.collaborative_factor(loss, f)
    distributive = gradients.distributive_factor(respond, params, x)
    product = gradients.gradient(distributive, collaborative)
    expected = jax.grad(objective)(params)
    assert jax.tree.structure(product) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(product), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 1e-3
        assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_distributive_factor_is_the_jacobian_of_one_branch(case):
    _, params, _, x, respond, _ = case
    distributive = gradients.distributive_factor(respond, params, x)
    for k in range(M):
        for j in range(N):
            # jacfwd through the whole network, of branch k's response to example j
            dense = jax.jacfwd(lambda p, j=j, k=k: respond(p, x[j])[k])(params)
            for ours, leaf in zip(
                jax.tree.leaves(distributive), jax.tree.leaves(dense), strict=True
            ):
                assert_allclose(ours[k, j], leaf[:, k], rtol=1e-10, atol=1e-12)
                others = np.delete(leaf, k, axis=1)
                assert not others.any()  # disjoint parameters


def test_toys_have_the_factors_of_equations_5_and_6(x64):
    x, y = (jnp.array(values) for values in toys.TASKS["toy2"])
    w, b = jnp.array([1.0, -0.5, 0.3]), jnp.array([0.2, 0.7, -0.4])
    net = toys.toy_network(3, negative_slope=0.1)
    params = {"w": w, "b": b}
    respond = frozen_responses(net, ())
    distributive = gradients.distributive_factor(respond, params, x)
    slope = np.where(w[:, None] * x + b[:, None] >= 0, 1, 0.1)
    assert_allclose(distributive["b"], slope)
    assert_allclose(distributive["w"], slope * x)
    f, _ = net.apply(params, (), x)
    collaborative = gradients.collaborative_factor(lambda f: squared_error(f, y), f)
    assert_allclose(collaborative, f - y)


def test_one_input_per_branch():
    branch = from_functions(lambda key: jax.random.normal(key), lambda w, x: w * x**2)
    net = sum_of_branches(branch, M, in_axes=0)
    params, state = net.init(jax.random.key(0))
    x = jnp.arange(1.0, M * N + 1).reshape(M, N)
    respond = frozen_responses(net, state, example_axis=1)
    distributive = gradients.distributive_factor(respond, params, x.T)
    assert_allclose(distributive, x**2, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 2, 64])
def test_norms_without_the_whole_jacobian(case, chunk_size):
    _, params, _, x, respond, _ = case
    leaves = jax.tree.leaves(gradients.distributive_factor(respond, params, x))
    expected = sum((j**2).reshape(M, N, -1).sum(2) for j in leaves) ** 0.5
    norms = gradients.distributive_norms(respond, params, x, chunk_size=chunk_size)
    assert_allclose(norms, expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [(N,), (N, C)])
def test_scales_of_the_factors(case, shape):
    _, params, _, x, respond, _ = case
    leaves = jax.tree.leaves(gradients.distributive_factor(respond, params, x))
    size = [np.linalg.norm(j.reshape(M, N, C, -1), axis=2).ravel() for j in leaves]
    collaborative = jnp.sin(jnp.arange(np.prod(shape)).reshape(shape))
    rows = np.reshape(collaborative, (N, -1))
    scale = gradients.distributive_scale(respond, params, x, chunk_size=2)
    expected = np.sqrt(np.mean(np.concatenate(size) ** 2))
    assert_allclose(scale, expected, rtol=1e-6)
    scale = gradients.collaborative_scale(collaborative)
    assert_allclose(scale, np.sqrt(np.mean((rows**2).sum(1))), rtol=1e-6)


def test_shares_of_small_factors(case):
    _, params, _, x, respond, _ = case
    leaves = jax.tree.leaves(gradients.distributive_factor(respond, params, x))
    size = [np.linalg.norm(j.reshape(M, N, C, -1), axis=2).ravel() for j in leaves]
    size = np.concatenate(size)
    scale = 1.7
    thresholds = tuple(np.quantile(size, [0.2, 0.5, 0.9]) / scale)
    shares = gradients.distributive_shares(
        respond, params, x, scale, thresholds=thresholds, chunk_size=2
    )
    expected = [(size < t * scale).mean() for t in thresholds]
    assert expected[0] > 0.1
    assert_allclose(shares, expected, rtol=1e-6)


def test_shares_of_small_collaborative_factors():
    collaborative = jnp.array([[3.0, 4.0], [0.0, 0.3], [0.004, 0.0], [0.0, 0.0]])
    shares = gradients.collaborative_shares(collaborative, 5.0)
    assert_allclose(shares, [0.5, 0.5, 0.75])


def test_alignment_of_known_directions():
    # v_k = w_k times a fixed direction; D_collab at 0, 90, 60 degrees or zero to it.
    direction = jnp.array([2.0, 0.0])
    branch = from_functions(
        lambda key: jnp.ones(()), lambda w, x: w * x[:, None] * direction
    )
    net = sum_of_branches(branch, 2)
    params, state = net.init(jax.random.key(0))
    respond = frozen_responses(net, state)
    collaborative = jnp.array([[-1.0, 0.0], [0.0, 3.0], [0.5, 0.75**0.5], [0.0, 0.0]])
    histogram = gradients.alignment_histogram(
        respond, params, jnp.ones(4), collaborative, bins=4, chunk_size=3
    )
    assert_allclose(histogram, [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-6)


def test_chosen_leaves_only(case):
    _, params, _, x, respond, _ = case
    whole = gradients.distributive_factor(respond, params, x)
    path = sorted(select_leaves(params, ["*"])[0])[-1]
    chosen, restore = select_leaves(params, [path])
    part = gradients.distributive_factor(
        lambda c, example: respond(restore(c), example), chosen, x
    )
    assert list(part) == [path]
    expected, _ = select_leaves(whole, [path])
    assert_allclose(part[path], expected[path], rtol=1e-12)


def test_a_loss_that_is_no_scalar():
    with pytest.raises(ValueError, match=r"must be a scalar, and has shape \(5,\)"):
        gradients.collaborative_factor(lambda f: f.sum(1), jnp.ones((N, C)))


def test_more_pairs_than_an_integer_holds():
    branch = from_functions(lambda key: jnp.ones(2**19), lambda w, x: w.sum() * x)
    net = sum_of_branches(branch, 2)
    params, state = jax.eval_shape(net.init, jax.random.key(0))
    respond = frozen_responses(net, state)
    x = jax.ShapeDtypeStruct((2100,), jnp.float32)
    shares = jax.eval_shape(
        lambda p, x: gradients.distributive_shares(respond, p, x, 1.0), params, x
    )
    assert shares.shape == (3,)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_factors_of_short_floats(dtype, x64):
    """Against float64 at the same (rounded) parameters, examples and outputs."""
    branch, _ = plain()
    net = sum_of_branches(branch, M)
    x = jax.random.normal(jax.random.key(1), (N, 2), dtype)
    params, state = net.init(jax.random.key(0), x)
    short = jax.tree.map(lambda p: p.astype(dtype), params)
    exact = jax.tree.map(lambda p: p.astype(jnp.float64), short)
    respond = frozen_responses(net, state)
    f, _ = net.apply(exact, state, x.astype(jnp.float64))
    f = f.astype(dtype)

    def factors(params, x, f):
        collaborative = gradients.collaborative_factor(
            lambda f: squared_error(f, jnp.full(f.shape, 100.0, f.dtype)), f
        )
        distributive = gradients.distributive_factor(respond, params, x)
        return (
            collaborative,
            distributive,
            gradients.gradient(distributive, collaborative),
            gradients.distributive_norms(respond, params, x),
            gradients.distributive_scale(respond, params, x),
            gradients.collaborative_scale(collaborative),
        )

    found = factors(short, x, f)
    expected = factors(exact, x.astype(jnp.float64), f.astype(jnp.float64))
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert one.dtype == jnp.float32
        assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="chunk_size must be a whole number, got True"):
        gradients.distributive_norms(respond, exact, x, chunk_size=True)


def test_factors_of_leaves_of_size_zero():
    branch, _ = plain()
    net = sum_of_branches(branch, M)
    x = jax.random.normal(jax.random.key(1), (N, 2))
    params, state = net.init(jax.random.key(0), x)
    respond = frozen_responses(net, state)
    more = params | {"none": jnp.zeros((M, 0, 2))}
    for function in (
        gradients.distributive_norms,
        gradients.distributive_scale,
        lambda *case: gradients.distributive_shares(*case, 1.0),
    ):
        assert_allclose(function(respond, more, x), function(respond, params, x))
    assert gradients.distributive_factor(respond, more, x)["none"].shape == (
        *(M, N, C),
        *(0, 2),
    )
