import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax import toys
from bspec_jax.analysis.objective import frozen_responses
from bspec_jax.analysis.vanishing import factor_scales, vanishing_shares
from bspec_jax.branching import from_functions, sum_of_branches

M, N, C = 3, 7, 2


def two_layers():
    def init(key):
        first, second = jax.random.split(key)
        a = jax.random.normal(first, (2, 4)) * jnp.array([1, 0.03, 0.3, 1])
        return {"a": a, "b": jax.random.normal(second, (4, C))}

    return from_functions(init, lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"])


@pytest.fixture
def case(x64):
    """A network, and its factors by whole Jacobians, `[M, N, C, P]` and `[N, C]`."""
    net = sum_of_branches(two_layers(), M)
    x = jax.random.normal(jax.random.key(1), (N, 2)) * jnp.array([1, 0.1])
    params, state = net.init(jax.random.key(0))
    respond = frozen_responses(net, state)
    leaves = [jax.jacfwd(lambda p: net.responses(p, state, x)[0])(params)]
    own = [
        np.stack([np.asarray(j[k, :, :, k]) for k in range(M)]).reshape(M, N, C, -1)
        for j in jax.tree.leaves(leaves)
    ]
    d = jax.random.normal(jax.random.key(2), (N, C)) * 10.0 ** -jnp.arange(N)[:, None]
    # One that is orthogonal to many columns: those of b's second output.
    d = d.at[1].set(jnp.array([5.0, 0.0]))
    return (respond, params, x, d), np.concatenate(own, -1), np.asarray(d)


def test_scales_and_shares_against_whole_jacobians(case):
    arguments, j, d = case
    size, product = np.linalg.norm(j, axis=2), np.abs(np.einsum("mncp,nc->mnp", j, d))
    scales = factor_scales(*arguments, chunk_size=2)
    norm = np.linalg.norm(d, axis=1)
    expected = [np.sqrt((v**2).mean()) for v in (size, norm, product)]
    assert_allclose(scales, expected, rtol=1e-6)
    scales = scales._replace(gradient=1.3 * scales.gradient)  # of another network
    learning = norm >= 0.1 * scales.collaborative
    assert 1 < learning.sum() < N - 1
    thresholds = (0.03, 0.3)
    shares = vanishing_shares(*arguments, scales, thresholds=thresholds, chunk_size=3)
    size, product, norm = size[:, learning], product[:, learning], norm[learning]
    for i, t in enumerate(thresholds):
        small, gone = size < t * scales.distributive, product < t * scales.gradient
        neither = ~small & (norm >= t * scales.collaborative)[None, :, None]
        kinds = (small, gone, gone & neither)
        expected = [kind.mean() for kind in kinds]
        assert_allclose([share[i] for share in shares], expected, rtol=1e-6)
        assert min(expected) > 0
    assert len({float(share[0]) for share in shares}) == 3


def test_pairs_that_are_left_out(case):
    arguments, j, d = case
    pairs = {
        "a": jnp.broadcast_to(jnp.arange(N)[:, None, None] % 3 > 0, (N, 2, 4)),
        "b": jnp.broadcast_to(jnp.arange(8).reshape(4, C) != 5, (N, 4, C)),
    }
    masks = [np.asarray(pairs[name]).reshape(N, -1) for name in ("a", "b")]
    counted = np.broadcast_to(np.concatenate(masks, 1), j[:, :, 0].shape)
    size, product = np.linalg.norm(j, axis=2), np.abs(np.einsum("mncp,nc->mnp", j, d))
    scales = factor_scales(*arguments, pairs=pairs)
    assert_allclose(scales.distributive, np.sqrt((size[counted] ** 2).mean()))
    assert_allclose(scales.gradient, np.sqrt((product[counted] ** 2).mean()))
    shares = vanishing_shares(*arguments, scales, pairs=pairs, thresholds=(0.3,))
    learning = np.linalg.norm(d, axis=1) >= 0.1 * scales.collaborative
    counted = counted & learning[None, :, None]
    expected = (size[counted] < 0.3 * scales.distributive).mean()
    assert_allclose(shares.distributive, [expected], rtol=1e-6)


def test_a_toy_by_hand():
    """Two neurons at four points; the second is off at two of them."""
    net = toys.toy_network(2, negative_slope=0.01)
    params = {"w": jnp.array([0.0, 1.0]), "b": jnp.array([1.0, 0.0])}
    x = jnp.array([-1.0, 0.0, 1.0, -2.0])
    d = jnp.array([[1.0], [1.0], [0.01], [2.0]])[:, 0]
    respond = frozen_responses(net, ())
    pairs = {"w": x != 0, "b": jnp.ones(4, bool)}
    scales = factor_scales(respond, params, x, d, pairs=pairs)
    # d/db: 1 and a slope, d/dw the same times x. At -1 and -2 the slope is .01.
    squares = (4 + 1 + 1 + 4) + (2 + 2e-4) + (1e-4 + 1 + 4e-4)
    assert_allclose(scales.distributive, np.sqrt(squares / 14), rtol=1e-5)
    assert_allclose(scales.collaborative, np.sqrt(6.0001 / 4), rtol=1e-5)
    shares = vanishing_shares(respond, params, x, d, scales, pairs=pairs)
    # Learning: all but the third point; small: w and b of the second at -1 and -2.
    assert_allclose(shares.distributive, [0, 4 / 10, 4 / 10], atol=1e-6)
    assert_allclose(shares.gradient[1:], [4 / 10, 4 / 10], atol=1e-6)
    # At 1e-2 the pairs of the slope, .01, and of one output: both factors are moderate.
    assert_allclose(shares.orthogonal, [2 / 10, 0, 0], atol=1e-6)


def test_undefined_where_nothing_is_left_to_learn(case):
    (respond, params, x, d), *_ = case
    scales = factor_scales(respond, params, x, d)
    shares = vanishing_shares(respond, params, x, 1e-6 * d, scales)
    assert np.isnan(np.stack(shares)).all()
    # An example that is fitted still has to be known.
    for broken in (d.at[6, 1].set(jnp.nan), d.at[6, 1].set(jnp.inf)):
        shares = vanishing_shares(respond, params, x, broken, scales)
        assert np.isnan(np.stack(shares)).all()
    shares = vanishing_shares(respond, params, x.at[6, 0].set(jnp.nan), d, scales)
    assert np.isnan(np.stack(shares)).all()
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        vanishing_shares(respond, params, x, d, scales, chunk_size=0)
