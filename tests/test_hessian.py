import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from bspec_jax import gradients, hessian, toy
from bspec_jax.branching import from_functions, sum_of_branches
from bspec_jax.leaves import ravel_branches, select_leaves
from bspec_jax.losses import squared_error


def network(m, width=2, c=3):
    def init(key):
        first, second = jax.random.split(key)
        return {
            "out": jax.random.normal(first, (width, c), jnp.float64),
            "hidden": jax.random.normal(second, (2, width), jnp.float64),
        }

    def apply(params, x):
        return jnp.tanh(x @ params["hidden"]) @ params["out"]

    return sum_of_branches(from_functions(init, apply), m)


def clamped_cross_entropy(f, target):
    return -jax.nn.log_softmax(jax.lax.clamp(-1.0, f, 1.0))[target]


def cross_entropy(f, target):
    return -jax.nn.log_softmax(f)[target]


def squared(f, target):
    return squared_error(f, target * jnp.arange(f.size, dtype=f.dtype))


LOSSES = (squared, cross_entropy, clamped_cross_entropy)


def problem(loss, m, n=5, seed=0, **shape):
    net = network(m, **shape)
    params, state = net.init(jax.random.key(seed))
    x = jax.random.normal(jax.random.key(seed + 1), (n, 2), jnp.float64)
    respond = gradients.frozen_responses(net, state)
    return respond, loss, params, x, jnp.arange(n) % 3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("m", [1, 3])
def test_blocks_equal_the_dense_hessian(loss, m, x64):
    case = problem(loss, m)
    dense = hessian.dense_hessian(*case)
    blocks = hessian.hessian_blocks(*case)
    assert np.abs(dense).max() > 0.1
    assert_allclose(blocks.full(), dense, rtol=1e-10, atol=1e-12)
    if m > 1:  # no block is symmetric on its own: a transposed one would show
        assert np.abs(dense[0, :, 1] - dense[0, :, 1].T).max() > 1e-2
    if loss is clamped_cross_entropy:
        respond, _, params, x, _ = case
        f = sum(jax.vmap(respond, (None, 0))(params, x).transpose(1, 0, 2))
        saturated = (np.abs(f) > 1).mean()
        assert 0.2 < saturated < 0.9


@settings(max_examples=8, deadline=None)
@given(
    loss=st.sampled_from(LOSSES),
    m=st.integers(1, 3),
    n=st.sampled_from([1, 4]),
    seed=st.integers(0, 99),
    chunk_size=st.sampled_from([1, 3]),
)
def test_blocks_of_random_networks(loss, m, n, seed, chunk_size):
    jax.config.update("jax_enable_x64", True)
    try:
        case = problem(loss, m, n, seed, width=1)
        blocks = hessian.hessian_blocks(*case, chunk_size=chunk_size)
        dense = hessian.dense_hessian(*case)
        assert_allclose(blocks.full(), dense, rtol=1e-9, atol=1e-11)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_products_on_unit_vectors_are_the_columns(x64):
    case = problem(cross_entropy, 2)
    dense = hessian.dense_hessian(*case)
    flat, unravel = ravel_branches(case[2])
    for k, p in np.ndindex(*flat.shape):
        unit = unravel(jnp.zeros_like(flat).at[k, p].set(1))
        column, _ = ravel_branches(hessian.hessian_product(*case, unit))
        assert_allclose(column, dense[:, :, k, p], rtol=1e-10, atol=1e-12)


def test_the_product_without_freezing_sums_over_branches(x64):
    """A unit vector in every branch at once gives sum_l H_kl, not the block H_kk."""
    case = problem(squared, 3)
    dense = hessian.dense_hessian(*case)
    flat, unravel = ravel_branches(case[2])
    unit = unravel(jnp.zeros_like(flat).at[:, 4].set(1))
    column, _ = ravel_branches(hessian.hessian_product(*case, unit))
    assert_allclose(column, dense[:, :, :, 4].sum(2), rtol=1e-10, atol=1e-12)
    own = np.stack([dense[k, :, k, 4] for k in range(3)])
    assert np.abs(column - own).max() > 0.1


def test_toys_have_no_residual_part(x64):
    """A leaky ReLU is piecewise linear: H = J^T J almost everywhere."""
    x, y = (jnp.array(values) for values in toy.TASKS["toy2"])
    params = {"w": jnp.array([1.0, -0.5, 0.3]), "b": jnp.array([0.2, 0.7, -0.4])}
    respond = gradients.frozen_responses(toy.toy_network(3, negative_slope=0.1), ())
    blocks = hessian.hessian_blocks(respond, squared_error, params, x, y)
    slope = np.where(params["w"][:, None] * x + params["b"][:, None] >= 0, 1, 0.1)
    j = np.stack([slope, slope * x], 1)  # [M, P, N], in the order b, w
    assert_allclose(blocks.gauss_newton, np.einsum("kpn,lqn->kplq", j, j), rtol=1e-12)
    assert not blocks.residual.any()


def test_a_branch_without_response_has_blocks_of_its_parameters_only(x64):
    respond, loss, params, x, y = problem(squared, 3)
    params["out"] = params["out"].at[1].set(0)
    params["hidden"] = params["hidden"].at[1].set(0)
    blocks = hessian.hessian_blocks(respond, loss, params, x, y)
    # tanh(0) = 0 and out = 0: every first derivative of v_1 is zero.
    assert not blocks.gauss_newton[1].any()
    assert not blocks.gauss_newton[:, :, 1].any()
    assert np.abs(blocks.residual[1]).max() > 1e-3
    dense = hessian.dense_hessian(respond, loss, params, x, y)
    assert_allclose(blocks.full(), dense, rtol=1e-10, atol=1e-12)


def test_chosen_leaves_give_the_part_of_the_whole(x64):
    respond, loss, params, x, y = problem(cross_entropy, 2)
    whole = hessian.dense_hessian(respond, loss, params, x, y)
    chosen, restore = select_leaves(params, ["hidden"])
    blocks = hessian.hessian_blocks(
        lambda c, example: respond(restore(c), example), loss, chosen, x, y
    )
    first = params["hidden"][0].size  # "hidden" comes before "out"
    assert_allclose(blocks.full(), whole[:, :first, :, :first], rtol=1e-10, atol=1e-12)


def test_norms_and_ratios_by_hand():
    h = np.zeros((2, 1, 2, 1), np.float32)
    h[:, 0, :, 0] = [[3.0, 2.0], [2.0, -12.0]]
    norms = hessian.block_norms(jnp.array(h))
    assert_allclose(norms, [[3, 2], [2, 12]])
    assert_allclose(hessian.offdiagonal_ratio(norms), (8 / 153) ** 0.5, rtol=1e-6)
    assert_allclose(hessian.mean_pair_ratio(norms), 2 / 6, rtol=1e-6)


def test_ratios_that_are_undefined():
    assert np.isnan(hessian.offdiagonal_ratio(jnp.zeros((2, 2))))
    assert np.isnan(hessian.mean_pair_ratio(jnp.zeros((2, 2))))
    assert np.isnan(hessian.mean_pair_ratio(jnp.ones((1, 1))))
    assert hessian.offdiagonal_ratio(jnp.ones((1, 1))) == 0


def test_progress_adds_up_to_the_examples(x64):
    told = []
    case = problem(squared, 2, n=7)
    hessian.hessian_blocks(*case, chunk_size=3, progress=told.append)
    assert told == [3, 3, 1]


def test_a_hessian_that_does_not_fit(monkeypatch, x64):
    monkeypatch.setattr(hessian, "MAX_BYTES", 100)
    for function in (hessian.dense_hessian, hessian.hessian_blocks):
        with pytest.raises(ValueError, match=r"2 branches with 10 .*select_leaves"):
            function(*problem(squared, 2))


def test_a_loss_that_is_no_scalar(x64):
    for function in (hessian.dense_hessian, hessian.hessian_blocks):
        with pytest.raises(ValueError, match="must be a scalar"):
            function(*problem(lambda f, target: f, 2))
