import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.analysis.vanishing import THRESHOLDS, VANISHED
from bspec_jax.toys import hessians, sweeps
from bspec_jax.toys.measures import sum_trained_alone

pytestmark = pytest.mark.usefixtures("optimised")

KEY = jax.random.key(7)


def networks(num_branches=3, trials=5, slopes=(0.01, 0.3)):
    table = sweeps.settings(
        task="toy2",
        num_branches=num_branches,
        negative_slope=slopes,
        learning_rate=0.02,
        trial=range(trials),
    )
    return sweeps.init_trials(KEY, table)


def jacobians(trials, m):
    """dv_k/dtheta_k of each network in NumPy, `[M, P, N, T]`, parameters b, w."""
    z = trials.w[:m, None] * trials.x + trials.b[:m, None]
    slope = np.where(z >= 0, 1, trials.negative_slope)
    return np.stack([slope, slope * trials.x], 1)


@pytest.mark.slow
def test_measures_equal_those_by_hand_with_a_slope_per_network():
    trials = networks()
    h, measures = hessians.measure(trials)
    j = jacobians(trials, 3)
    expected = np.einsum("kpnt,lqnt->tkplq", j, j)
    assert_allclose(h, expected[0], rtol=1e-5, atol=1e-6)
    whole = np.linalg.eigvalsh(expected.reshape(10, 6, 6))
    assert_allclose(measures.spectrum, whole.T, rtol=1e-4, atol=1e-4)
    assert_allclose(measures.largest_eigenvalue, whole[:, -1], rtol=1e-5)
    norms = np.sqrt((expected**2).sum((2, 4)))
    own = np.diagonal(norms, axis1=1, axis2=2)
    order = np.argsort(-own, 1)
    assert_allclose(
        np.diagonal(measures.block_norms), np.take_along_axis(own, order, 1), rtol=1e-5
    )
    blocks = np.einsum("tkpkq->tkpq", expected)
    largest = np.linalg.eigvalsh(blocks)[..., -1]
    assert_allclose(
        measures.branch_spectra[:, -1].T,
        np.take_along_axis(largest, order, 1),
        rtol=1e-5,
    )
    counted = np.ones((1, *j.shape[1:]), bool)
    counted[0, 1] = trials.x != 0  # w at x = 0 has no factor
    squares = np.where(counted, j**2, 0).sum((0, 1, 2)) / (3 * 7)
    assert_allclose(measures.scales.factors.distributive, np.sqrt(squares), rtol=1e-5)
    assert_allclose(measures.gradient_norm, 1)
    assert_allclose(measures.vanishing_distributive, 0)
    v = trials.w[:3, None] * trials.x + trials.b[:3, None]
    v = np.where(v >= 0, v, trials.negative_slope * v)
    active = np.linalg.norm(v - v.mean(1, keepdims=True), axis=1)
    active = active >= 0.1 * active.max(0)
    residual = v.sum(0) - trials.y
    gradient = np.einsum("kpnt,nt->tkp", j, residual)
    for t in range(10):
        of = np.flatnonzero(active[:, t])
        pairs = [(k, o) for k in of for o in of if k != o]
        block = norms[t] ** 2
        other = sum(block[k, o] for k, o in pairs)
        index = 1 - other / sum(block[k, k] for k in of) / max(len(of) - 1, 0.1)
        index = index if len(of) > 1 else np.nan
        assert_allclose(measures.block_index[t], index, rtol=1e-3, atol=1e-4)
        moved = np.einsum("lpkq,kq->lkp", expected[t], gradient[t])
        moved = np.linalg.norm(moved, axis=2)
        effect = np.mean([moved[o, k] / moved[k, k] for k, o in pairs] or [np.nan])
        assert_allclose(measures.step_effect[t], effect, rtol=1e-3)
    assert np.isfinite(measures.block_index).sum() > 2


@pytest.mark.slow
def test_vanishing_factors_by_hand():
    """Among the points with a residual, against the start, without w at x = 0."""
    start = networks(num_branches=2, trials=20, slopes=0.01)
    _, first = hessians.measure(start)
    trained = sweeps.train(start, steps=5000)
    _, last = hessians.measure(trained, initial=first.scales)

    def shares(trials, scale):
        j = np.abs(jacobians(trials, 2))
        z = trials.w[:2, None] * trials.x + trials.b[:2, None]
        residual = np.abs(np.where(z >= 0, z, 0.01 * z).sum(0) - trials.y)
        rms = np.sqrt((residual**2).mean(0)) if scale is None else scale[0]
        counted = np.ones((1, *j.shape[1:]), bool)
        counted[0, 1] = trials.x != 0
        counted = np.broadcast_to(counted, j.shape)
        size = np.sqrt(np.sum(j**2, (0, 1, 2), where=counted) / counted.sum((0, 1, 2)))
        size = size if scale is None else scale[1]
        counted = counted & (residual >= 0.1 * rms)
        small = counted & (j < 0.05 * size)
        with np.errstate(invalid="ignore"):
            share = small.sum((0, 1, 2)) / counted.sum((0, 1, 2))
        return share, (rms, size)

    before, scale = shares(start, None)
    after, _ = shares(trained, scale)
    at = THRESHOLDS.index(VANISHED)
    assert_allclose(first.distributive[at], before, atol=1e-6)
    assert_allclose(last.distributive[at], after, atol=1e-6)
    assert_allclose(last.vanishing_distributive, after - before, atol=1e-6)
    left = np.isfinite(after)
    assert not left[trained.converged].any()
    assert 2 < left.sum() < 17


def test_separately_trained_branches_have_the_hessian_of_their_jacobians():
    alone = networks(1, trials=6, slopes=0.01)
    control = sum_trained_alone(alone, np.arange(6).reshape(3, 2))
    h, measures = hessians.measure(control)
    j = jacobians(alone, 1)[0][..., [0, 2, 4]]  # [P, N, 3] of the first sum
    assert_allclose(h, np.einsum("pnk,qnl->kplq", j, j), rtol=1e-5, atol=1e-6)
    assert measures.block_index.shape == (2,)


def test_batches_and_the_scales_of_the_start(monkeypatch):
    start = networks()
    _, first = hessians.measure(start)
    trained = sweeps.train(start, steps=200)
    h, together = hessians.measure(trained, initial=first.scales)
    monkeypatch.setattr(hessians, "BATCH_ELEMENTS", 4 * 36)  # four networks of M = 3
    h_again, in_batches = hessians.measure(trained, initial=first.scales)
    assert_array_equal(h, h_again)
    for one, other in zip(*map(jax.tree.leaves, (together, in_batches)), strict=True):
        assert one.shape[-1] == 10
        assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert (together.gradient_norm < 1).all()
    assert_array_equal(together.scales.factors, first.scales.factors)


def test_networks_of_several_m_are_refused():
    trials = sweeps.stack([networks(2), networks(3)])
    with pytest.raises(ValueError, match=r"must have one M, got \[2, 3\]"):
        hessians.measure(trials)


def test_double_precision_and_one_leaf():
    trials = networks()
    h, measures = hessians.measure(trials, leaves=("w",), float64=True)
    j = jacobians(trials, 3)[:, 1].astype(np.float64)
    assert h.dtype == np.float64
    assert h.shape == (3, 1, 3, 1)
    assert_allclose(h[:, 0, :, 0], np.einsum("kn,ln->kl", j[..., 0], j[..., 0]))
    slim = measures.without_arrays_over_branches()
    assert slim.spectrum is slim.block_norms is slim.branch_spectra is None
    assert_array_equal(slim.index, measures.index)


def test_a_slope_in_full_precision():
    trials = networks(slopes=0.01)
    h, _ = hessians.measure(trials, negative_slope=0.01, float64=True)
    exact = trials._replace(negative_slope=np.full(5, 0.01))
    j = jacobians(exact, 3).astype(np.float64)[..., 0]
    assert_allclose(h, np.einsum("kpn,lqn->kplq", j, j), rtol=1e-14)
    rounded, _ = hessians.measure(trials, float64=True)
    assert np.abs(rounded - h).max() > 1e-12


def test_a_network_that_diverged_has_no_measures_and_stops_nothing():
    trials = networks()
    w, error = trials.w.copy(), trials.error.copy()
    w[1, 2], error[2] = np.nan, np.nan
    _, measures = hessians.measure(trials._replace(w=w, error=error))
    _, expected = hessians.measure(trials)
    assert_array_equal(measures.defined, np.arange(10) != 2)
    for name, values in measures._asdict().items():
        if name not in ("defined", "converged", "scales"):
            assert np.isnan(values[..., 2]).all(), name
            others = np.delete(values, 2, -1), np.delete(getattr(expected, name), 2, -1)
            assert_allclose(*others, rtol=1e-5, atol=1e-6)
