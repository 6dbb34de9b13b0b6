import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.branching import Branch, from_functions, sum_of_branches

M, N, D, C = 5, 7, 3, 2


def init_mlp(key):
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (D, 4)),
        "out": jax.random.normal(second, (4, C)),
    }


def apply_mlp(params, x):
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


MLP = from_functions(init_mlp, apply_mlp)


def stateful(x_scale=1.0):
    """A branch whose state counts its calls and sums its inputs' means."""

    def init(key, x):
        params = {"w": jax.random.normal(key, (x.shape[-1],))}
        return params, {"calls": jnp.zeros((), jnp.int32), "mean": jnp.zeros(())}

    def apply(params, state, x, gain=1.0):
        new = {"calls": state["calls"] + 1, "mean": state["mean"] + x.mean()}
        return gain * x_scale * (x @ params["w"]), new

    return Branch(init, apply)


def take(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)


@pytest.fixture
def data():
    return jax.random.normal(jax.random.key(1), (N, D))


@pytest.mark.parametrize("sequential", [False, True])
def test_sum_and_responses_equal_a_loop_over_branches(data, sequential, x64):
    x = data.astype(jnp.float64)
    net = sum_of_branches(MLP, M, sequential=sequential)
    params, state = net.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    loop = np.stack([apply_mlp(take(params, k), x) for k in range(M)])
    v, _ = net.responses(params, state, x)
    f, _ = net.apply(params, state, x)
    # Float64 sums of 5 terms of order one in another order: a few 1e-16.
    assert_allclose(v, loop, rtol=1e-13, atol=1e-13)
    assert_allclose(f, loop.sum(0), rtol=1e-13, atol=1e-13)


def test_gradient_equals_that_of_the_loop(data, x64):
    x = data.astype(jnp.float64)
    target = jnp.arange(N * C, dtype=jnp.float64).reshape(N, C) / 7

    def loss_of_sum(f):
        return jnp.sum(jnp.sin(f) * target)

    vmapped, scanned = (sum_of_branches(MLP, M, sequential=s) for s in (False, True))
    params, _ = vmapped.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)

    def loop(params):
        return loss_of_sum(sum(apply_mlp(take(params, k), x) for k in range(M)))

    expected = jax.grad(loop)(params)
    for net in (vmapped, scanned):
        got = jax.grad(lambda p, net=net: loss_of_sum(net.apply(p, (), x)[0]))(params)
        jax.tree.map(
            lambda a, b: assert_allclose(a, b, rtol=1e-12, atol=1e-12), got, expected
        )


def test_branches_start_different():
    params, _ = sum_of_branches(MLP, M).init(jax.random.key(0))
    for leaf in jax.tree.leaves(params):
        flat = np.asarray(leaf).reshape(M, -1)
        distances = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
        assert distances[~np.eye(M, dtype=bool)].min() > 0.1


def test_each_branch_is_initialised_from_its_own_split_of_the_key():
    params, _ = sum_of_branches(MLP, M).init(jax.random.key(3))
    keys = jax.random.split(jax.random.key(3), M)
    for k in range(M):
        alone = init_mlp(keys[k])
        jax.tree.map(
            lambda a, b: assert_allclose(a, b, rtol=1e-6), take(params, k), alone
        )


@pytest.mark.parametrize("sequential", [False, True])
def test_state_is_stacked_updated_and_returned(data, sequential):
    net = sum_of_branches(stateful(), M, in_axes=0, sequential=sequential)
    inputs = jnp.stack([data * (k + 1) for k in range(M)])
    params, state = net.init(jax.random.key(0), inputs)
    assert_array_equal(state["calls"], np.zeros(M))
    f, state = net.apply(params, state, inputs, gain=3.0)
    v, state = net.responses(params, state, inputs, gain=3.0)
    assert_array_equal(state["calls"], np.full(M, 2))
    means = 2 * data.mean() * np.arange(1, M + 1)
    assert_allclose(state["mean"], means, rtol=1e-5, atol=1e-6)
    loop = [3 * (k + 1) * data @ params["w"][k] for k in range(M)]
    assert_allclose(v, np.stack(loop), rtol=1e-5, atol=1e-5)
    assert_allclose(f, sum(loop), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sequential", [False, True])
def test_one_input_per_branch_beside_a_shared_one(sequential):
    def apply(params, x, shift):
        return params * x + shift["by"]

    branch = from_functions(lambda key: jax.random.normal(key), apply)
    net = sum_of_branches(branch, 3, in_axes=(0, None), sequential=sequential)
    params = jnp.array([1.0, 10.0, 100.0])
    x = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    shift = {"by": jnp.array([0.5, -0.5])}
    v, _ = net.responses(params, (), x, shift)
    assert_allclose(v, [[1.5, 1.5], [30.5, 39.5], [500.5, 599.5]])
    f, _ = net.apply(params, (), x, shift, residual=jnp.array([1000.0, 2000.0]))
    assert_allclose(f, [1532.5, 2640.5])


@pytest.mark.parametrize("sequential", [False, True])
def test_residual_is_added_and_gets_its_gradient(data, sequential):
    net = sum_of_branches(MLP, M, sequential=sequential)
    params, _ = net.init(jax.random.key(0))
    residual = jnp.arange(N * C, dtype=jnp.float32).reshape(N, C)
    f, _ = net.apply(params, (), data)
    g, _ = net.apply(params, (), data, residual=residual)
    assert_allclose(g, f + residual, rtol=1e-6)
    weights = jnp.linspace(-1, 1, N * C).reshape(N, C)
    gradient = jax.grad(
        lambda r: (weights * net.apply(params, (), data, residual=r)[0]).sum()
    )(residual)
    assert_allclose(gradient, weights)


@pytest.mark.parametrize("sequential", [False, True])
def test_one_branch_is_the_branch(data, sequential):
    net = sum_of_branches(MLP, 1, sequential=sequential)
    params, _ = net.init(jax.random.key(0))
    alone = apply_mlp(take(params, 0), data)
    assert_allclose(net.apply(params, (), data)[0], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sequential", [False, True])
def test_outer_vmap_is_an_ensemble_of_networks(data, sequential):
    net = sum_of_branches(MLP, M, sequential=sequential)
    keys = jax.random.split(jax.random.key(0), 4)
    params, state = jax.vmap(net.init)(keys)
    assert params["out"].shape == (4, M, 4, C)
    f, _ = jax.jit(jax.vmap(net.apply, in_axes=(0, 0, None)))(params, state, data)
    each = [net.apply(net.init(key)[0], (), data)[0] for key in keys]
    assert_allclose(f, np.stack(each), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sequential", [False, True])
def test_eval_shape(data, sequential):
    net = sum_of_branches(MLP, M, sequential=sequential)
    params, state = jax.eval_shape(net.init, jax.random.key(0))
    assert params["hidden"].shape == (M, D, 4)
    v, _ = jax.eval_shape(net.responses, params, state, data)
    f, _ = jax.eval_shape(net.apply, params, state, data)
    assert (v.shape, f.shape) == ((M, N, C), (N, C))


def test_jit_traces_the_branch_once_whatever_m_is(data):
    traces = []

    def apply(params, x):
        traces.append(1)
        return apply_mlp(params, x)

    net = sum_of_branches(from_functions(init_mlp, apply), 16)
    params, _ = net.init(jax.random.key(0))
    run = jax.jit(net.apply)
    for _ in range(3):
        run(params, (), data)
    assert len(traces) == 1


def test_sequence_mode_needs_a_fraction_of_the_memory():
    """The gradient's temporary memory falls at least M / 2 times."""
    m, width = 16, 64

    def init(key):
        return jax.random.normal(key, (4, width, width)) / width**0.5

    def apply(params, x):
        for layer in params:
            x = jnp.tanh(x @ layer)
        return x

    x = jnp.ones((512, width))
    memory = {}
    for sequential in (False, True):
        net = sum_of_branches(from_functions(init, apply), m, sequential=sequential)
        params, _ = jax.eval_shape(net.init, jax.random.key(0))
        gradient = jax.jit(jax.grad(lambda p, n=net: (n.apply(p, (), x)[0] ** 2).sum()))
        analysis = gradient.lower(params).compile().memory_analysis()
        memory[sequential] = analysis.temp_size_in_bytes
    assert memory[False] >= m / 2 * memory[True]


def test_sharding_the_parameters_shards_the_branches():
    """On two devices, which a process must ask for before it starts."""
    program = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from jax.sharding import NamedSharding, PartitionSpec
from bspec_jax import from_functions, sum_of_branches
branch = from_functions(lambda key: jax.random.normal(key, (3,)), lambda w, x: x @ w)
net = sum_of_branches(branch, 4)
params, state = net.init(jax.random.key(0))
x = jnp.arange(15.0).reshape(5, 3)
expected = net.apply(params, state, x)[0]
mesh = jax.make_mesh((2,), ("branch",))
sharded = jax.device_put(params, NamedSharding(mesh, PartitionSpec("branch")))
v, _ = jax.jit(net.responses)(sharded, state, x)
f, _ = jax.jit(net.apply)(sharded, state, x)
assert {s.data.shape for s in v.addressable_shards} == {(2, 5)}, v.sharding
np.testing.assert_allclose(f, expected, rtol=1e-5)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_responses_of_any_structure(data):
    def apply(params, x):
        return {"mean": x @ params["hidden"], "square": (x @ params["hidden"]) ** 2}

    for sequential in (False, True):
        net = sum_of_branches(from_functions(init_mlp, apply), M, sequential=sequential)
        params, _ = net.init(jax.random.key(0))
        f, _ = net.apply(params, (), data)
        expected = sum((data @ params["hidden"][k]) ** 2 for k in range(M))
        assert_allclose(f["square"], expected, rtol=1e-4)


def test_sequence_mode_adds_up_short_floats_as_vmap_does():
    branch = from_functions(lambda key: jnp.ones((), jnp.bfloat16), lambda p, x: p * x)
    for sequential in (False, True):
        net = sum_of_branches(branch, 512, sequential=sequential)
        params, _ = net.init(jax.random.key(0))
        f, _ = net.apply(params, (), jnp.ones(2, jnp.bfloat16))
        assert f.dtype == jnp.bfloat16
        assert_array_equal(f.astype(jnp.float32), [512, 512])


@pytest.mark.parametrize("sequential", [False, True])
def test_strict_promotion_of_types_and_ranks(data, sequential):
    """Also of short floats, whose running sum is of float32."""
    branch = from_functions(
        lambda key: jnp.full(D, 0.5, jnp.bfloat16), lambda p, x: x.astype(p.dtype) @ p
    )
    net = sum_of_branches(branch, M, sequential=sequential)
    residual = jnp.ones(N, jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        params, _ = net.init(jax.random.key(0))
        f, _ = net.apply(params, (), data, residual=residual)
    assert f.dtype == jnp.bfloat16
    expected = 1 + M * (data.astype(jnp.bfloat16).astype(jnp.float32) * 0.5).sum(1)
    assert_allclose(f.astype(jnp.float32), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("sequential", [False, True])
def test_branches_without_parameters(data, sequential):
    branch = from_functions(lambda key: {}, lambda params, x: jnp.tanh(x))
    net = sum_of_branches(branch, M, sequential=sequential)
    params, state = net.init(jax.random.key(0))
    assert_allclose(net.apply(params, state, data)[0], M * jnp.tanh(data), rtol=1e-6)
    assert net.responses(params, state, data)[0].shape == (M, N, D)


@pytest.mark.parametrize("sequential", [False, True])
def test_forward_mode_and_hessian(data, sequential, x64):
    net = sum_of_branches(MLP, 2, sequential=sequential)
    params, _ = net.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    x = data[:2].astype(jnp.float64)

    def loss(out, apply):
        return (apply(params | {"out": out}) ** 2).sum()

    def by_net(p):
        return net.apply(p, (), x)[0]

    def by_loop(p):
        return sum(apply_mlp(take(p, k), x) for k in range(2))

    got, expected = (
        jax.hessian(lambda out, f=f: loss(out, f))(params["out"])
        for f in (by_net, by_loop)
    )
    assert np.abs(expected).max() > 0.1
    assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_integers_of_numpy_are_integers():
    assert sum_of_branches(MLP, np.int64(3)).num_branches == 3


@pytest.mark.parametrize("bad", [0, -3, True])
def test_bad_number_of_branches(bad):
    with pytest.raises(ValueError, match="num_branches"):
        sum_of_branches(MLP, bad)


@pytest.mark.parametrize("bad", [1, -1, (0, 2), True])
def test_bad_in_axes(bad):
    with pytest.raises(ValueError, match="in_axes must be 0 or None"):
        sum_of_branches(MLP, 2, in_axes=bad)


@pytest.mark.parametrize("sequential", [False, True])
class TestErrorsOfACall:
    def test_residual_of_another_shape(self, data, sequential):
        net = sum_of_branches(MLP, M, sequential=sequential)
        params, _ = net.init(jax.random.key(0))
        # (C,) would broadcast: it must not do so silently.
        with pytest.raises(ValueError, match=r"residual has shape \(2,\).*\(7, 2\)"):
            net.apply(params, (), data, residual=jnp.zeros(C))
        with pytest.raises(ValueError, match="residual"):
            net.apply(params, (), data, residual={"r": jnp.zeros((N, C))})

    def test_input_whose_leading_axis_is_not_m(self, data, sequential):
        net = sum_of_branches(MLP, M, in_axes=0, sequential=sequential)
        params, _ = net.init(jax.random.key(0))
        with pytest.raises(ValueError, match=r"input 0.*\(7, 3\).*5 branches"):
            net.apply(params, (), data)

    def test_leaves_that_disagree_on_m(self, data, sequential):
        net = sum_of_branches(MLP, M, sequential=sequential)
        params, _ = net.init(jax.random.key(0))
        params["out"] = params["out"][:-1]
        with pytest.raises(ValueError, match=r"params\['out'\].*\(4, 4, 2\)"):
            net.responses(params, (), data)

    def test_state_that_disagrees_on_m(self, data, sequential):
        net = sum_of_branches(stateful(), M, sequential=sequential)
        params, state = net.init(jax.random.key(0), data)
        state["mean"] = jnp.zeros(())
        with pytest.raises(ValueError, match=r"state\['mean'\]"):
            net.apply(params, state, data)

    def test_more_inputs_than_axes(self, data, sequential):
        net = sum_of_branches(MLP, M, in_axes=(), sequential=sequential)
        params, _ = net.init(jax.random.key(0))
        with pytest.raises(ValueError, match="in_axes covers 0 inputs, got 1"):
            net.apply(params, (), data)
