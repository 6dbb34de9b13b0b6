import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import gradients, hessian, toy
from bspec_jax.adapters import from_linen, from_nnx
from bspec_jax.branching import from_functions, sum_of_branches
from bspec_jax.leaves import ravel_branches, select_leaves
from bspec_jax.losses import classification_loss, squared_error


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


def unclamped_loss(f, target):
    return classification_loss(f, target, clamp=False)


def squared(f, target):
    return squared_error(f, target * jnp.arange(f.size, dtype=f.dtype))


LOSSES = (squared, unclamped_loss, classification_loss)


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
    if loss is classification_loss:
        respond, _, params, x, _ = case
        f = sum(jax.vmap(respond, (None, 0))(params, x).transpose(1, 0, 2))
        saturated = (np.abs(f) > 1).mean()
        assert 0.2 < saturated < 0.9


class LinenConv(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(2, (2,))(x[..., None])
        x = nn.tanh(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.last = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.norm(self.first(x))))


MODULES = {
    "linen": lambda: (from_linen(LinenConv()), {"train": False}),
    "nnx": lambda: (from_nnx(NnxNet, use_running_average=True), {}),
}


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("module", MODULES)
def test_blocks_of_modules_with_batch_norm(module, m, x64):
    branch, kwargs = MODULES[module]()
    net = sum_of_branches(branch, m)
    x = jax.random.normal(jax.random.key(1), (4, 2), jnp.float64)
    params, state = jax.jit(net.init)(jax.random.key(0), x)
    # Statistics and parameters that are not their initial zeros and ones.
    state = jax.tree.map(
        lambda s: s + jnp.linspace(0.1, 0.5, s.size).reshape(s.shape), state
    )
    flat, unravel = ravel_branches(params)
    params = unravel(jax.random.normal(jax.random.key(2), flat.shape, jnp.float64))
    respond = gradients.frozen_responses(net, state, **kwargs)
    case = respond, unclamped_loss, params, x, jnp.arange(4) % 3

    def objective(flat):
        f, _ = net.apply(unravel(flat), state, x, **kwargs)
        return classification_loss(f, case[-1], clamp=False).sum()

    flat, _ = ravel_branches(params)
    dense = jax.jit(jax.hessian(objective))(flat)  # of the network itself
    blocks = hessian.hessian_blocks(*case, chunk_size=3)
    assert np.abs(blocks.residual).max() > 0.01
    assert_allclose(blocks.full(), dense, rtol=1e-9, atol=1e-11)
    assert_allclose(hessian.dense_hessian(*case), dense, rtol=1e-9, atol=1e-11)


@settings(max_examples=8, deadline=None)
@given(
    loss=st.sampled_from(LOSSES),
    m=st.integers(1, 3),
    n=st.sampled_from([1, 4]),
    seed=st.integers(0, 99),
    chunk_size=st.sampled_from([1, 3]),
    column_chunk=st.sampled_from([1, 2, 99]),
)
def test_blocks_of_random_networks(loss, m, n, seed, chunk_size, column_chunk):
    jax.config.update("jax_enable_x64", True)
    try:
        case = problem(loss, m, n, seed, width=1)
        blocks = hessian.hessian_blocks(
            *case, chunk_size=chunk_size, column_chunk=column_chunk
        )
        dense = hessian.dense_hessian(*case)
        assert_allclose(blocks.full(), dense, rtol=1e-9, atol=1e-11)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_products_on_unit_vectors_are_the_columns(x64):
    case = problem(unclamped_loss, 2)
    dense = hessian.dense_hessian(*case)
    flat, unravel = ravel_branches(case[2])
    product = jax.jit(hessian.hessian_operator(*case))
    for k, p in np.ndindex(*flat.shape):
        unit = unravel(jnp.zeros_like(flat).at[k, p].set(1))
        column, _ = ravel_branches(product(unit))
        assert_allclose(column, dense[:, :, k, p], rtol=1e-10, atol=1e-12)


def test_the_product_without_freezing_sums_over_branches(x64):
    """A unit vector in every branch at once gives sum_l H_kl, not the block H_kk."""
    case = problem(squared, 3)
    dense = hessian.dense_hessian(*case)
    flat, unravel = ravel_branches(case[2])
    unit = unravel(jnp.zeros_like(flat).at[:, 4].set(1))
    column, _ = ravel_branches(hessian.hessian_operator(*case)(unit))
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
    respond, loss, params, x, y = problem(unclamped_loss, 2)
    whole = hessian.dense_hessian(respond, loss, params, x, y)
    chosen, restore = select_leaves(params, ["hidden"])
    blocks = hessian.hessian_blocks(
        lambda c, example: respond(restore(c), example), loss, chosen, x, y
    )
    first = params["hidden"][0].size  # "hidden" comes before "out"
    assert_allclose(blocks.full(), whole[:, :first, :, :first], rtol=1e-10, atol=1e-12)


def test_chosen_branches_in_their_order(x64):
    case = problem(unclamped_loss, 3)
    dense = hessian.dense_hessian(*case)
    blocks = hessian.hessian_blocks(*case, branches=[2, 0])
    chosen = np.array([2, 0])
    assert_allclose(blocks.full(), dense[chosen][:, :, chosen], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("branches", "words"),
    [
        ([1, 3], "no branch 3: the network has branches 0 to 2"),
        ([-1], "no branch -1"),
        ([], "choose a branch"),
        ([1, 1], r"twice: \[1, 1\]"),
    ],
)
def test_branches_that_cannot_be_chosen(branches, words, x64):
    with pytest.raises(ValueError, match=words):
        hessian.hessian_blocks(*problem(squared, 3), branches=branches)


def test_the_same_functions_and_shapes_compile_once(x64):
    respond, *case = problem(squared, 2, n=6)
    traces = []

    def counted(params, example):
        traces.append(1)
        return respond(params, example)

    hessian.hessian_blocks(counted, *case, chunk_size=3)
    first = len(traces)
    loss, params, x, y = case
    case = loss, jax.tree.map(lambda p: p + 1, params), x * 2, y
    hessian.hessian_blocks(counted, *case, chunk_size=3)
    assert len(traces) == first + 1  # the check of the loss, which is not compiled


def test_identical_products_that_differ():
    calls = []

    def product(v):
        calls.append(1)
        return {"w": v["w"] * (1 + 1e-3 * (len(calls) == 2))}

    vector = {"w": jnp.arange(3.0)}
    with pytest.raises(ValueError, match=r"differ by 0.002 in entries of up to 2"):
        hessian.check_repeatable(product, vector)
    hessian.check_repeatable(product, vector)
    hessian.check_repeatable(lambda v: v, {"w": jnp.zeros(2)})
    with pytest.raises(ValueError, match="differ by nan"):
        hessian.check_repeatable(lambda v: v, jnp.array([1, jnp.nan]))


def test_regrouping_by_hand():
    h = jnp.arange(16.0).reshape(2, 2, 2, 2)
    groups = jnp.array([[1, 0], [1, 0]])
    flat = np.arange(16.0).reshape(4, 4)
    norms = hessian.block_norms(h, groups)
    for k in (0, 1):
        for m in (0, 1):
            rows, columns = ([1, 3] if i == 0 else [0, 2] for i in (k, m))
            part = flat[np.ix_(rows, columns)]
            assert_allclose(norms[k, m], np.linalg.norm(part), rtol=1e-6)
    own = jnp.array([[0, 0], [1, 1]])
    assert_allclose(hessian.block_norms(h, own), hessian.block_norms(h), rtol=1e-6)


def test_the_control_deals_all_parameters_into_groups_of_one_size():
    key = jax.random.key(3)
    groups = hessian.random_groups(key, 5, 7)
    assert_array_equal(np.bincount(groups.ravel()), [7] * 5)
    assert (groups != jnp.arange(5)[:, None]).mean() > 0.5
    # Over partitions, a pair of parameters shares a group with probability
    # (P - 1) / (M P - 1); here H is 1 in the P x P entries of each branch.
    m, p = 4, 3
    h = jnp.zeros((m, p, m, p)).at[jnp.arange(m), :, jnp.arange(m), :].set(1)
    ratios = hessian.regrouped_ratios(h, key, 2000)
    within = 1 / (1 + ratios**2)  # share of the squares inside groups
    expected = (1 + (p - 1) * (p - 1) / (m * p - 1)) / p
    error = within.std() / 2000**0.5
    assert len(np.unique(ratios)) > 5
    assert abs(within.mean() - expected) < 4 * error


def test_spectra(x64):
    h = hessian.dense_hessian(*problem(unclamped_loss, 3))
    size = h.shape[0] * h.shape[1]
    expected = np.linalg.eigvalsh(np.asarray(h).reshape(size, size))
    assert_allclose(hessian.spectrum(h), expected, rtol=1e-9, atol=1e-12)
    stack = np.stack([h, 2 * h])
    assert_allclose(hessian.spectrum(stack), hessian.spectrum(h) * [[1], [2]])
    assert_allclose(hessian.branch_spectra(stack)[1], 2 * hessian.branch_spectra(h))
    for k, values in enumerate(hessian.branch_spectra(h)):
        expected = np.linalg.eigvalsh(h[k, :, k])
        assert_allclose(values, expected, rtol=1e-9, atol=1e-12)


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
        with pytest.raises(ValueError, match=r"2 branches with 10 .*estimate_block"):
            function(*problem(squared, 2))


def test_a_loss_that_is_no_scalar(x64):
    for function in (hessian.dense_hessian, hessian.hessian_blocks):
        with pytest.raises(ValueError, match="must be a scalar"):
            function(*problem(lambda f, target: f, 2))
