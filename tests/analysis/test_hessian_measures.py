import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from typechecks import without_type_checks

from bspec_jax.analysis.hessian import BlockHessian
from bspec_jax.analysis.hessian_measures import (
    block_index,
    block_measures,
    block_norms,
    branch_spectra,
    mean_pair_ratio,
    offdiagonal_ratio,
    spectrum,
    step_effect,
)


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


def test_the_block_index_by_hand_and_of_active_branches_only():
    norms = jnp.array([[3.0, 1.0, 0.5], [1.0, 2.0, 7.0], [0.5, 7.0, 0.0]])
    assert_allclose(block_index(norms), 1 - 2 * (1 + 0.25 + 49) / 13 / 2, rtol=1e-6)
    active = jnp.array([True, True, False])
    assert_allclose(block_index(norms, active), 1 - 2 / 13, rtol=1e-6)
    assert_allclose(block_index(1e25 * norms, active), 1 - 2 / 13, rtol=1e-6)
    of_floats = block_index(norms, np.array([1.0, 0.0, 1.0], np.float32))
    assert_allclose(of_floats, 1 - 2 * 0.25 / 9, rtol=1e-6)
    unknown = jnp.array([1.0, 1.0, jnp.nan])
    assert np.isnan(block_index(norms, unknown))
    # A silent branch's blocks need not be known.
    assert_allclose(block_index(norms.at[2, 0].set(jnp.nan), active), 1 - 2 / 13)


def test_the_block_index_of_identical_and_of_separate_branches():
    j = np.random.default_rng(0).normal(size=(5, 8))  # [P, N]
    for m in (2, 3, 7):
        same = np.tile(j, (m, 1, 1))
        h = np.einsum("kpn,lqn->kplq", same, same)
        assert_allclose(block_index(block_norms(jnp.asarray(h))), 0, atol=1e-5)
        apart = np.zeros_like(h)
        for k in range(m):
            apart[k, :, k] = (k + 1) * h[k, :, k]
        assert block_index(block_norms(jnp.asarray(apart))) == 1


def test_the_block_index_is_undefined_without_two_branches_of_curvature():
    ones = jnp.ones((3, 3))
    for active in ([True, False, False], [False] * 3):
        assert np.isnan(block_index(ones, np.array(active)))
    assert np.isnan(block_index(jnp.ones((1, 1))))
    assert np.isnan(block_index(jnp.zeros((3, 3))))
    words = r"has shape \(2,\), but there are 3"
    with without_type_checks(), pytest.raises(ValueError, match=words):
        block_index(ones, np.ones(2, bool))


def test_the_effect_of_a_step_against_a_loop():
    rng = np.random.default_rng(1)
    m, p = 4, 3
    h = rng.normal(size=(m, p, m, p))
    h = h + h.transpose(2, 3, 0, 1)
    gradient = rng.normal(size=(m, p)) * np.array([[1], [1e-20], [5], [1]])
    active = np.array([True, True, True, False])

    def effect(k, branch):
        own = np.linalg.norm(h[k, :, k] @ gradient[k])
        return np.linalg.norm(h[branch, :, k] @ gradient[k]) / own

    expected = [effect(k, o) for k in range(3) for o in range(3) if k != o]
    found = step_effect(jnp.asarray(h), jnp.asarray(gradient), active)
    assert_allclose(found, np.mean(expected), rtol=1e-5)
    every = [effect(k, o) for k in range(m) for o in range(m) if k != o]
    found = step_effect(jnp.asarray(h), jnp.asarray(gradient))
    assert_allclose(found, np.mean(every), rtol=1e-5)
    gradient[2] = 0  # a branch that makes no step is left out, but is moved by others
    expected = [effect(k, o) for k in range(2) for o in range(3) if k != o]
    found = step_effect(jnp.asarray(h), jnp.asarray(gradient), active)
    assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_the_effect_of_a_step_that_is_undefined():
    h, gradient = jnp.ones((2, 3, 2, 3)), jnp.ones((2, 3))
    assert_allclose(step_effect(h, gradient), 1, rtol=1e-6)
    assert np.isnan(step_effect(h, 0 * gradient))
    assert np.isnan(step_effect(0 * h, gradient))
    assert np.isnan(step_effect(h, gradient, np.array([True, False])))
    assert np.isnan(step_effect(jnp.ones((1, 3, 1, 3)), jnp.ones((1, 3))))
    words = r"must be \(2, 3\), not \(2, 4\)"
    with without_type_checks(), pytest.raises(ValueError, match=words):
        step_effect(h, jnp.ones((2, 4)))


def test_block_measures_by_hand():
    # Three branches of one parameter each: a small block is below 1e-2 of 100.
    h = jnp.array([[100.0, 0.5, 2.0], [0.5, 4.0, 0.0], [2.0, 0.0, 0.0]])
    found = block_measures(h.reshape(3, 1, 3, 1))
    assert_allclose(found["block_norms"], h)
    ratio = np.sqrt(2 * (0.5**2 + 2**2) / (100**2 + 4**2))
    assert_allclose(found["offdiagonal_ratio"], ratio, rtol=1e-6)
    assert_allclose(found["small_blocks"], 4 / 6)
    assert_allclose(found["mean_pair_ratio"], 0.5 / np.sqrt(400), rtol=1e-6)
    assert_allclose(found["block_index"], 1 - ratio**2 / 2, rtol=1e-6)
    pair = block_measures(h.reshape(3, 1, 3, 1), np.array([True, True, False]))
    assert_allclose(pair["block_index"], 1 - 2 * 0.5**2 / (100**2 + 4**2), rtol=1e-6)
    assert_allclose(pair["offdiagonal_ratio"], ratio, rtol=1e-6)  # of all branches


def test_something_else_than_a_hessian():
    h = jnp.ones((2, 3, 2, 3))
    parts = BlockHessian(h, jnp.ones((2, 3, 3)))
    with without_type_checks():
        for function in (
            block_norms,
            block_measures,
            lambda h: step_effect(h, jnp.ones((2, 3))),
        ):
            with pytest.raises(TypeError, match=r"got a BlockHessian: give its `full"):
                function(parts)
            with pytest.raises(ValueError, match=r"\[M, P, M, P\], not \(6, 6\)"):
                function(h.reshape(6, 6))
        with pytest.raises(ValueError, match=r"must be \[M, M\], not"):
            offdiagonal_ratio(h)


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
