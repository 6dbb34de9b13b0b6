from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from objectives import LOSSES, problem, squared, unclamped_loss
from typechecks import without_type_checks

from bspec_jax import toys
from bspec_jax.adapters import from_linen, from_nnx
from bspec_jax.analysis import hessian, hessian_estimates
from bspec_jax.analysis.objective import Objective, frozen_responses
from bspec_jax.branching import from_functions, sum_of_branches
from bspec_jax.losses import classification_loss, squared_error
from bspec_jax.trees import ravel_branches


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("m", [1, 3])
def test_blocks_equal_the_dense_hessian(loss, m, x64):
    case = problem(loss, m)
    dense = hessian.dense(*case)
    blocks = hessian.blocks(*case)
    assert np.abs(dense).max() > 0.1
    assert_allclose(blocks.full(), dense, rtol=1e-10, atol=1e-12)
    if m > 1:  # no block is symmetric on its own: a transposed one would show
        assert np.abs(dense[0, :, 1] - dense[0, :, 1].T).max() > 1e-2
    if loss is classification_loss:
        objective, params = case
        v = jax.vmap(objective.respond, (None, 0))(params, objective.examples)
        f = sum(v.transpose(1, 0, 2))
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


@pytest.mark.slow
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
    respond = frozen_responses(net, state, **kwargs)
    labels = jnp.arange(4) % 3
    case = Objective(respond, unclamped_loss, x, labels), params

    def of_network(flat):
        f, _ = net.apply(unravel(flat), state, x, **kwargs)
        return classification_loss(f, labels, clamp="none").sum()

    flat, _ = ravel_branches(params)
    dense = jax.jit(jax.hessian(of_network))(flat)
    blocks = hessian.blocks(*case, chunk_size=3)
    assert np.abs(blocks.residual).max() > 0.01
    assert_allclose(blocks.full(), dense, rtol=1e-9, atol=1e-11)
    assert_allclose(hessian.dense(*case), dense, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
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
        blocks = hessian.blocks(*case, chunk_size=chunk_size, column_chunk=column_chunk)
        dense = hessian.dense(*case)
        assert_allclose(blocks.full(), dense, rtol=1e-9, atol=1e-11)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_products_on_unit_vectors_are_the_columns(x64):
    case = problem(unclamped_loss, 2)
    dense = hessian.dense(*case)
    flat, unravel = ravel_branches(case[1])
    product = jax.jit(hessian.operator(*case))
    for k, p in np.ndindex(*flat.shape):
        unit = unravel(jnp.zeros_like(flat).at[k, p].set(1))
        column, _ = ravel_branches(product(unit))
        assert_allclose(column, dense[:, :, k, p], rtol=1e-10, atol=1e-12)


def test_the_product_without_freezing_sums_over_branches(x64):
    """A unit vector in every branch at once gives sum_l H_kl, not the block H_kk."""
    case = problem(squared, 3)
    dense = hessian.dense(*case)
    flat, unravel = ravel_branches(case[1])
    unit = unravel(jnp.zeros_like(flat).at[:, 4].set(1))
    column, _ = ravel_branches(hessian.operator(*case)(unit))
    assert_allclose(column, dense[:, :, :, 4].sum(2), rtol=1e-10, atol=1e-12)
    own = np.stack([dense[k, :, k, 4] for k in range(3)])
    assert np.abs(column - own).max() > 0.1


def test_toys_have_no_residual_part(x64):
    """A leaky ReLU is piecewise linear: H = J^T J almost everywhere."""
    x, y = (jnp.array(values) for values in toys.TASKS["toy2"])
    params = {"w": jnp.array([1.0, -0.5, 0.3]), "b": jnp.array([0.2, 0.7, -0.4])}
    respond = frozen_responses(toys.toy_network(3, negative_slope=0.1), ())
    blocks = hessian.blocks(Objective(respond, squared_error, x, y), params)
    slope = np.where(params["w"][:, None] * x + params["b"][:, None] >= 0, 1, 0.1)
    j = np.stack([slope, slope * x], 1)  # [M, P, N], in the order b, w
    assert_allclose(blocks.gauss_newton, np.einsum("kpn,lqn->kplq", j, j), rtol=1e-12)
    assert not blocks.residual.any()


def test_a_branch_without_response_has_blocks_of_its_parameters_only(x64):
    objective, params = problem(squared, 3)
    params["out"] = params["out"].at[1].set(0)
    params["hidden"] = params["hidden"].at[1].set(0)
    blocks = hessian.blocks(objective, params)
    # tanh(0) = 0 and out = 0: every first derivative of v_1 is zero.
    assert not blocks.gauss_newton[1].any()
    assert not blocks.gauss_newton[:, :, 1].any()
    assert np.abs(blocks.residual[1]).max() > 1e-3
    dense = hessian.dense(objective, params)
    assert_allclose(blocks.full(), dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("leaves", ["hidden", ["hid*"]])
def test_chosen_leaves_give_the_part_of_the_whole(leaves, x64):
    case = problem(unclamped_loss, 2)
    first = case[1]["hidden"][0].size  # "hidden" comes before "out"
    whole = hessian.dense(*case)[:, :first, :, :first]
    blocks = hessian.blocks(*case, leaves=leaves)
    assert_allclose(blocks.full(), whole, rtol=1e-10, atol=1e-12)
    dense = hessian.dense(*case, leaves=leaves)
    assert_allclose(dense, whole, rtol=1e-10, atol=1e-12)


def test_a_leaf_that_matches_nothing(x64):
    with pytest.raises(ValueError, match="no leaf matches 'Conv_0'; the leaves"):
        hessian.blocks(*problem(squared, 2), leaves=["Conv_0"])


@pytest.mark.parametrize("sequential", [False, True])
def test_two_inputs_trees_of_targets_and_a_residual(sequential, x64):
    """Inputs of each branch beside a shared one, and f = R + sum_k v_k (eq. 15)."""

    def apply(params, x, c):
        return jnp.tanh(x @ params["a"] + c["shift"]) * params["b"]

    def init(key, x, c):
        a = jax.random.normal(key, (2, 3), jnp.float64)
        return {"a": a, "b": jnp.arange(1.0, 4.0)}

    net = sum_of_branches(
        from_functions(init, apply), 2, in_axes=(0, None), sequential=sequential
    )
    x = jax.random.normal(jax.random.key(1), (2, 5, 2), jnp.float64)
    c = {"shift": jnp.linspace(-1, 1, 15).reshape(5, 3)}
    params, state = net.init(jax.random.key(0), x, c)
    residual, y = jnp.linspace(0, 2, 15).reshape(5, 3), jnp.ones((5, 3))

    def of_example(f, target):
        return classification_loss(f + target["r"], 1) + squared_error(f, target["y"])

    respond = frozen_responses(net, state, example_axis=(1, 0))
    examples, targets = (jnp.moveaxis(x, 1, 0), c), {"r": residual, "y": y}
    objective = Objective(respond, of_example, examples, targets)
    blocks = hessian.blocks(objective, params, chunk_size=2)
    flat, unravel = ravel_branches(params)

    def of_network(flat):
        f, _ = net.apply(unravel(flat), state, x, c)
        g, _ = net.apply(unravel(flat), state, x, c, residual=residual)
        labels = jnp.ones(5, int)
        return classification_loss(g, labels).sum() + squared_error(f, y)

    dense = jax.jit(jax.hessian(of_network))(flat)
    assert_allclose(blocks.full(), dense, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"column_chunk": -1}, "column_chunk must be at least 1, got -1"),
        ({"chunk_size": True}, "chunk_size must be a whole number, got True"),
    ],
)
def test_chunks_of_nothing(options, words, x64):
    with pytest.raises(ValueError, match=words):
        hessian.blocks(*problem(squared, 2), **options)
    objective, params = problem(squared, 2)
    with pytest.raises(ValueError, match="there are no examples"):
        hessian.blocks(objective.slice(slice(0)), params)


@pytest.mark.parametrize("kind", [list, np.array, jnp.array])
def test_a_mask_of_branches(kind, x64):
    case = problem(unclamped_loss, 3)
    masked = hessian.blocks(*case, branches=kind([True, False, True]))
    chosen = hessian.blocks(*case, branches=kind([0, 2]))
    assert_allclose(masked.full(), chosen.full(), rtol=1e-12)


def test_chosen_branches_in_their_order(x64):
    case = problem(unclamped_loss, 3)
    dense = hessian.dense(*case)
    blocks = hessian.blocks(*case, branches=[2, 0])
    chosen = np.array([2, 0])
    assert_allclose(blocks.full(), dense[chosen][:, :, chosen], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("branches", "words"),
    [
        (
            [True, False],
            "must have 3 entries, one for each, and has 2",
        ),
        ([False] * 3, "choose a branch"),
        ([True, 2], "must be a whole number, got True"),
        ([0.0, 1.0], "must be a whole number, got 0.0"),
        ([1, 3], "no branch 3: the network has branches 0 to 2"),
        ([-1], "no branch -1"),
        ([], "choose a branch"),
        ([1, 1], r"twice: \[1, 1\]"),
        (1, "must be a list of indices, or a mask, got 1"),
    ],
)
def test_branches_that_cannot_be_chosen(branches, words, x64):
    with without_type_checks(), pytest.raises(ValueError, match=words):
        hessian.blocks(*problem(squared, 3), branches=branches)


def test_the_chunks_of_a_call_compile_once_and_calls_in_a_jit_too(x64):
    objective, params = problem(squared, 2, n=12)
    traces = []

    def counted(params, example):
        traces.append(1)
        return objective.respond(params, example)

    counting = replace(objective, respond=counted)

    def of(params, chunk_size=4):
        return hessian.blocks(counting, params, chunk_size=chunk_size).full()

    of(params, chunk_size=12)
    once = len(traces)
    traces.clear()
    of(params)
    assert len(traces) == once
    jitted = jax.jit(of)
    expected = of(params)
    assert_allclose(jitted(params), expected, rtol=1e-10, atol=1e-12)
    traces.clear()
    assert not np.allclose(jitted(jax.tree.map(lambda p: p + 1, params)), expected)
    assert not traces


class Unhashable:
    __hash__ = None

    def __call__(self, f, y):
        return squared_error(f, jnp.ones(3) * y)


def test_a_loss_that_changes_between_two_calls(x64):
    """What a function reads from outside is read in every call."""
    objective, params = problem(squared, 2)
    weight = 1.0

    def loss(f, y):
        return weight * objective.loss(f, y)

    def respond(params, example):
        return weight * objective.respond(params, example)

    key = jax.random.key(0)
    quantities = {
        "dense": hessian.dense,
        "blocks": lambda *case: hessian.blocks(*case).full(),
        "operator": lambda *case: hessian.operator(*case)(params)["out"],
        "norms": lambda *case: (
            hessian_estimates.block_norms(*case, key, probes=2).norms
        ),
        "lanczos": lambda *case: hessian_estimates.lanczos_spectra(
            *case, key, num_products=3
        ),
    }
    for name, quantity in quantities.items():
        weight = 1.0
        changing = replace(objective, loss=loss)
        first = quantity(changing, params)
        weight = 10.0
        assert_allclose(quantity(changing, params), 10 * first, rtol=1e-9, err_msg=name)
        weight = 1.0
        changing = replace(objective, respond=respond)
        assert_allclose(quantity(changing, params), first, rtol=1e-9, err_msg=name)
        weight = 2.0
        second = quantity(changing, params)
        expected = quantity(
            replace(objective, respond=lambda p, x: 2 * objective.respond(p, x)), params
        )
        assert_allclose(second, expected, rtol=1e-9, err_msg=name)
    unhashable = replace(objective, loss=Unhashable())
    assert_allclose(
        hessian.blocks(unhashable, params).full(),
        hessian.dense(unhashable, params),
        rtol=1e-10,
        atol=1e-12,
    )


def test_short_parameters_beside_a_wide_constant_under_strict_promotion():
    """Such as a frozen average: only what is converted may be traced."""
    scale = jnp.array([3.0, 5.0])

    def respond(params, x):
        return params[:, None] * scale[None, :] * x

    objective = Objective(respond, squared_error, jnp.ones(2), jnp.zeros((2, 2)))
    params = jnp.array([1.5, -2.0, 0.5], jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        found = hessian.blocks(objective, params).full()
    assert_allclose(found, np.full((3, 1, 3, 1), 2 * (9 + 25)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_are_computed_in_longer_ones(dtype, x64):
    """Against float64 at the same (rounded) parameters and examples."""
    objective, params = problem(squared, 2, n=8)
    short = jax.tree.map(lambda p: p.astype(dtype), params)
    examples = objective.examples.astype(dtype)
    objective = replace(objective, examples=examples, targets=objective.targets * 9)
    exact = jax.tree.map(lambda p: p.astype(jnp.float64), short)
    wide = replace(objective, examples=examples.astype(jnp.float64))
    expected = hessian.dense(wide, exact)
    for found in (
        hessian.dense(objective, short),
        hessian.blocks(objective, short).full(),
    ):
        assert found.dtype == jnp.float32
        assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    product = hessian.operator(objective, short)(short)
    for leaf, other in zip(
        jax.tree.leaves(product),
        jax.tree.leaves(hessian.operator(wide, exact)(exact)),
        strict=True,
    ):
        assert leaf.dtype == jnp.float32
        assert_allclose(leaf, other, rtol=1e-3, atol=1e-3)
    hessian.check_repeatable(objective, short, jax.random.key(0))
    mixed = short | {"out": exact["out"]}  # one leaf is wide
    assert hessian.blocks(objective, mixed).full().dtype == jnp.float64


def test_the_full_hessian_has_the_wider_type_of_its_parts():
    short = jnp.full((2, 1, 2, 1), 1.0, jnp.bfloat16)
    full = hessian.BlockHessian(short, jnp.full((2, 1, 1), 1e-3)).full()
    assert full.dtype == jnp.float32
    assert_allclose(full[:, 0, :, 0], [[1.001, 1], [1, 1.001]], rtol=1e-6)


def test_leaves_of_size_zero(x64):
    objective, params = problem(squared, 2)
    more = params | {"none": jnp.zeros((2, 0, 3)), "zero": jnp.zeros((2, 0))}
    expected = hessian.dense(objective, params)
    assert_allclose(hessian.blocks(objective, more).full(), expected, atol=1e-12)
    assert_allclose(hessian.dense(objective, more), expected, atol=1e-12)
    product = hessian.operator(objective, more)(more)
    assert product["none"].shape == (2, 0, 3)
    with pytest.raises(ValueError, match="leaves hold no parameter"):
        hessian.blocks(objective, more, leaves=["none"])


def test_a_network_that_draws_its_own_numbers_is_found(x64):
    objective, params = problem(squared, 2)
    generator = np.random.default_rng(0)

    def dropout(params, example):
        return objective.respond(params, example) * (generator.random(3) > 0.5)

    hessian.check_repeatable(objective, params, jax.random.key(0))
    random = replace(objective, respond=dropout)
    with pytest.raises(ValueError, match=r"identical products differ by .* dropout"):
        hessian.check_repeatable(random, params, jax.random.key(0))


def test_products_that_are_not_numbers_or_all_zero(x64):
    objective, params = problem(squared, 2)
    zero = replace(objective, loss=lambda f, y: 0.0 * f.sum())
    hessian.check_repeatable(zero, params, jax.random.key(0))

    def nan(f, target):
        return jnp.nan * f.sum() ** 2

    with pytest.raises(ValueError, match="differ by nan"):
        hessian.check_repeatable(
            replace(objective, loss=nan), params, jax.random.key(0)
        )


def test_progress_adds_up_to_the_examples(x64):
    told = []
    case = problem(squared, 2, n=7)
    hessian.blocks(*case, chunk_size=3, progress=told.append)
    assert told == [3, 3, 1]


def test_a_hessian_that_does_not_fit(monkeypatch, x64):
    monkeypatch.setattr(hessian, "MAX_BYTES", 100)
    for function in (hessian.dense, hessian.blocks):
        with pytest.raises(ValueError, match=r"2 branches with 10 .*block_norms"):
            function(*problem(squared, 2))


def test_a_loss_that_is_no_scalar(x64):
    for function in (hessian.dense, hessian.blocks):
        with pytest.raises(ValueError, match="must be a scalar"):
            function(*problem(lambda f, target: f, 2))
