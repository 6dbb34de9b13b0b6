import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from typechecks import without_type_checks

from bspec_jax.analysis.hessian import BlockHessian
from bspec_jax.analysis.hessian_measures import (
    block_measures,
    block_norms,
    branch_spectra,
    expected_control_ratio,
    mean_pair_ratio,
    offdiagonal_ratio,
    random_groups,
    regrouped_ratios,
    spectrum,
)


def test_regrouping_by_hand():
    h = jnp.arange(16.0).reshape(2, 2, 2, 2)
    groups = jnp.array([[1, 0], [1, 0]])
    flat = np.arange(16.0).reshape(4, 4)
    norms = block_norms(h, groups)
    for k in (0, 1):
        for m in (0, 1):
            rows, columns = ([1, 3] if i == 0 else [0, 2] for i in (k, m))
            part = flat[np.ix_(rows, columns)]
            assert_allclose(norms[k, m], np.linalg.norm(part), rtol=1e-6)
    own = jnp.array([[0, 0], [1, 1]])
    assert_allclose(block_norms(h, own), block_norms(h), rtol=1e-6)


def test_the_control_deals_all_parameters_into_groups_of_one_size():
    key = jax.random.key(3)
    groups = random_groups(key, 5, 7)
    assert_array_equal(np.bincount(groups.ravel()), [7] * 5)
    assert (groups != jnp.arange(5)[:, None]).mean() > 0.5
    # Over partitions, a pair of parameters shares a group with probability
    # (P - 1) / (M P - 1); here H is 1 in the P x P entries of each branch.
    m, p = 4, 3
    h = jnp.zeros((m, p, m, p)).at[jnp.arange(m), :, jnp.arange(m), :].set(1)
    ratios = regrouped_ratios(h, key, 2000)
    within = 1 / (1 + ratios**2)  # share of the squares inside groups
    by_expectation = 1 / (1 + expected_control_ratio(h) ** 2)
    expected = (1 + (p - 1) * (p - 1) / (m * p - 1)) / p
    error = within.std() / 2000**0.5
    assert len(np.unique(ratios)) > 5
    assert abs(within.mean() - expected) < 4 * error
    assert_allclose(by_expectation, expected, rtol=1e-6)


def test_spectra_of_known_eigenvalues():
    own = np.array([[-2.0, 0.5, 3.0], [0.0, 1.0, 7.0]])
    rng = np.random.default_rng(0)
    h = np.zeros((2, 3, 2, 3))
    for k in range(2):
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        h[k, :, k] = q @ np.diag(own[k]) @ q.T
    assert_allclose(branch_spectra(h), own, atol=1e-12)
    assert_allclose(spectrum(h), np.sort(own.ravel()), atol=1e-12)
    h[0, :, 1] = h[1, :, 0] = 10  # a pair of eigenvalues +-30, roughly
    assert_allclose(branch_spectra(h), own, atol=1e-12)
    assert spectrum(h)[-1] > 25
    stack = np.stack([h, 2 * h, -h])
    assert_allclose(spectrum(stack)[2], -spectrum(h)[::-1], atol=1e-12)
    assert_allclose(branch_spectra(stack)[1], 2 * own, atol=1e-12)


def test_the_ratio_of_what_is_nearly_block_diagonal():
    """Rounding must not turn a small ratio into zero or NaN, in float32."""
    own = np.random.default_rng(0).random(30) + 0.5
    norms = np.full((30, 30), 1e-6)
    np.fill_diagonal(norms, own)
    expected = 1e-6 * (30 * 29 / (own**2).sum()) ** 0.5
    assert_allclose(offdiagonal_ratio(jnp.array(norms)), expected, rtol=1e-5)
    assert offdiagonal_ratio(jnp.diag(jnp.array(own))) == 0


def test_norms_and_ratios_by_hand():
    h = np.zeros((2, 1, 2, 1), np.float32)
    h[:, 0, :, 0] = [[3.0, 2.0], [2.0, -12.0]]
    norms = block_norms(jnp.array(h))
    assert_allclose(norms, [[3, 2], [2, 12]])
    assert_allclose(offdiagonal_ratio(norms), (8 / 153) ** 0.5, rtol=1e-6)
    assert_allclose(mean_pair_ratio(norms), 2 / 6, rtol=1e-6)


def test_ratios_that_are_undefined():
    assert np.isnan(offdiagonal_ratio(jnp.zeros((2, 2))))
    assert np.isnan(mean_pair_ratio(jnp.zeros((2, 2))))
    assert np.isnan(mean_pair_ratio(jnp.ones((1, 1))))
    assert offdiagonal_ratio(jnp.ones((1, 1))) == 0


def test_the_control_of_one_branch_and_of_nothing():
    assert expected_control_ratio(jnp.ones((1, 3, 1, 3))) == 0
    assert np.isnan(expected_control_ratio(jnp.zeros((2, 3, 2, 3))))


def test_block_measures_by_hand():
    # Three branches of one parameter each: a small block is below 1e-2 of 100.
    h = jnp.array([[100.0, 0.5, 2.0], [0.5, 4.0, 0.0], [2.0, 0.0, 0.0]])
    found = block_measures(h.reshape(3, 1, 3, 1))
    assert_allclose(found["block_norms"], h)
    ratio = np.sqrt(2 * (0.5**2 + 2**2) / (100**2 + 4**2))
    assert_allclose(found["offdiagonal_ratio"], ratio, rtol=1e-6)
    assert_allclose(found["small_blocks"], 4 / 6)
    assert_allclose(found["mean_pair_ratio"], 0.5 / np.sqrt(400), rtol=1e-6)
    assert_allclose(found["ratio_to_control"], ratio / found["control_ratio"])


def test_something_else_than_a_hessian():
    h = jnp.ones((2, 3, 2, 3))
    parts = BlockHessian(h, jnp.ones((2, 3, 3)))
    with without_type_checks():
        for function in (block_norms, block_measures, expected_control_ratio):
            with pytest.raises(TypeError, match=r"got a BlockHessian: give its `full"):
                function(parts)
            with pytest.raises(ValueError, match=r"\[M, P, M, P\], not \(6, 6\)"):
                function(h.reshape(6, 6))
        with pytest.raises(ValueError, match=r"must be \[M, M\], not"):
            offdiagonal_ratio(h)
        with pytest.raises(ValueError, match=r"must be in 0..1"):
            block_norms(h, np.full((2, 3), 2))


def test_norms_and_ratios_of_large_and_of_short_floats():
    h = np.random.default_rng(0).normal(size=(2, 3, 2, 3)).astype(np.float32)
    exact = {name: np.asarray(v) for name, v in block_measures(jnp.array(h)).items()}
    for scale in (1e25, 1e-25):
        for name, value in block_measures(jnp.array(h * np.float32(scale))).items():
            expected = exact[name] * (scale if name == "block_norms" else 1)
            assert_allclose(value, expected, rtol=1e-4, err_msg=name)
    short = block_measures(jnp.array(1000 * h, jnp.float16))
    assert short["block_norms"].dtype == jnp.float32
    assert_allclose(short["block_norms"], 1000 * exact["block_norms"], rtol=1e-3)
