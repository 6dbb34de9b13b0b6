"""Keyword arguments and random keys of a sum of branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.branching import Branch, from_functions, sum_of_branches

M, N, D = 3, 5, 2
SEQUENTIAL = pytest.mark.parametrize("sequential", [False, True])


def scaled(params, x, gain=1.0, shift=0.0):
    return params * x * gain + shift


SCALED = from_functions(lambda key, *args, **kwargs: jnp.ones(()), scaled)
PARAMS = jnp.array([1.0, 10.0, 100.0])
X = jnp.arange(1.0, 1 + M * N).reshape(M, N)


@SEQUENTIAL
def test_keywords_with_one_value_per_branch_and_shared_ones(sequential):
    net = sum_of_branches(
        SCALED,
        M,
        in_axes=0,
        keyword_axes={"gain": 0, "shift": None},
        sequential=sequential,
    )
    gain, shift = jnp.array([[1.0], [2.0], [4.0]]), jnp.array([0.5, 0.0, -0.5])
    with pytest.raises(
        ValueError, match=r"gain \(one per branch\).*\(5,\).*3 branches"
    ):
        net.responses(PARAMS, (), X, gain=jnp.ones(N))
    x = X[:, :3]
    v, _ = net.responses(PARAMS, (), x, gain=gain, shift=shift)
    assert_allclose(v, PARAMS[:, None] * x * gain + shift)
    f, _ = net.apply(PARAMS, (), x, gain=gain, shift=shift)
    assert_allclose(f, v.sum(0))


def test_init_takes_a_keyword_per_branch():
    branch = from_functions(lambda key, start: start**2, lambda params, x: params * x)
    net = sum_of_branches(branch, M, keyword_axes={"start": 0})
    params, _ = net.init(jax.random.key(0), start=jnp.array([1.0, 2.0, 3.0]))
    assert_array_equal(params, [1, 4, 9])


@SEQUENTIAL
class TestAnInputPerBranchGivenByKeyword:
    def test_is_refused_where_in_axes_has_a_zero(self, sequential):
        for in_axes in (0, (0, None), (None, 0)):
            net = sum_of_branches(SCALED, M, in_axes=in_axes, sequential=sequential)
            for call in (net.responses, net.apply):
                with pytest.raises(ValueError, match=r"^x is an array given by"):
                    call(PARAMS, (), x=X)
            with pytest.raises(ValueError, match=r"keyword_axes=\{'x': 0\}"):
                net.init(jax.random.key(0), x=X)

    def test_is_refused_without_the_axis_of_branches_too(self, sequential):
        """By position it would be refused, and by keyword it would be shared."""
        net = sum_of_branches(SCALED, M, in_axes=0, sequential=sequential)
        with pytest.raises(ValueError, match="give it by position"):
            net.apply(PARAMS, (), x=X[0])

    def test_beside_one_by_position(self, sequential):
        net = sum_of_branches(SCALED, M, in_axes=0, sequential=sequential)
        with pytest.raises(ValueError, match=r"^gain is an array"):
            net.apply(PARAMS, (), X, gain=jnp.ones((M, N)))

    def test_shared_ones_are_not_refused(self, sequential):
        net = sum_of_branches(SCALED, M, in_axes=0, sequential=sequential)
        gain = jnp.arange(N) + 2.0  # N is not M
        f, _ = net.apply(PARAMS, (), X, gain=gain, shift=0.25)
        assert_allclose(f, (PARAMS[:, None] * X * gain + 0.25).sum(0))
        net = sum_of_branches(SCALED, M, sequential=sequential)
        f, _ = net.apply(PARAMS, (), x=X)  # no input per branch: [M, N] is shared
        assert_allclose(f, 111 * X)


@pytest.mark.parametrize("bad", [1, -1, True, False])
def test_axes_that_are_not_0_or_none(bad):
    with pytest.raises(ValueError, match="keyword_axes must be 0 or None"):
        sum_of_branches(SCALED, 2, keyword_axes={"gain": bad})
    with pytest.raises(ValueError, match="in_axes must be 0 or None"):
        sum_of_branches(SCALED, 2, in_axes=(None, bad))


def noisy(params, x, *, key):
    return params * x + jax.random.normal(key["noise"], jnp.shape(x))


@SEQUENTIAL
@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_every_branch_draws_from_its_own_split_of_a_key(make, sequential):
    branch = from_functions(lambda key: jnp.ones(()), noisy, key_names=("key",))
    net = sum_of_branches(branch, M, sequential=sequential)
    key = make(7)
    v, _ = jax.jit(net.responses)(PARAMS, (), X[0], key={"noise": key})
    keys = jax.random.split(key, M)
    expected = [PARAMS[k] * X[0] + jax.random.normal(keys[k], (N,)) for k in range(M)]
    assert_allclose(v, np.stack(expected), rtol=1e-5, atol=1e-6)
    f, _ = net.apply(PARAMS, (), X[0], key={"noise": key})
    assert_allclose(f, sum(expected), rtol=1e-5, atol=1e-4)


@SEQUENTIAL
def test_keys_of_ones_own_and_a_shared_key(sequential):
    branch = from_functions(lambda key: jnp.ones(()), noisy, key_names=("key",))
    keys = jax.random.split(jax.random.key(1), M)
    own = sum_of_branches(
        branch, M, keyword_axes={"key": 0}, sequential=sequential
    ).responses(PARAMS, (), X[0], key={"noise": keys})[0]
    expected = [PARAMS[k] * X[0] + jax.random.normal(keys[k], (N,)) for k in range(M)]
    assert_allclose(own, np.stack(expected), rtol=1e-5, atol=1e-5)
    shared = sum_of_branches(
        branch, M, keyword_axes={"key": None}, sequential=sequential
    ).responses(PARAMS, (), X[0], key={"noise": keys[0]})[0]
    noise = jax.random.normal(keys[0], (N,))
    assert_allclose(shared, PARAMS[:, None] * X[0] + noise, rtol=1e-5, atol=1e-5)


def test_what_is_no_key():
    branch = Branch(lambda key: ((), ()), lambda p, s, x, key: (x, s), ("key",))
    net = sum_of_branches(branch, M)
    for bad in (3, jnp.float32(1.0), jax.random.split(jax.random.key(0), M)):
        with pytest.raises(ValueError, match=r"^key must be a random key") as error:
            net.apply((), (), X[0], key={"noise": bad})
        assert "\n" not in str(error.value)
