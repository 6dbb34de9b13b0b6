import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax.toys import hessians, stages, sweeps

pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture(scope="module")
def measured():
    table = sweeps.settings(
        task="toy1", num_branches=[2, 5], learning_rate=0.02, trial=range(8)
    )
    trials = sweeps.init_trials(jax.random.key(0), table)
    by_m = {m: trials.select(table.num_branches == m) for m in (2, 5)}
    return {m: hessians.measure(part)[1] for m, part in by_m.items()}


def test_means_leave_out_what_diverged_is_not_chosen_or_not_finite(measured):
    few = measured[2]._replace(
        index=np.array([1, 2, 4, 8, 16, np.nan, 64, 128.0]),
        defined=np.array([0, 1, 1, 1, 1, 1, 1, 1], bool),
        converged=np.array([1, 1, 1, 0, 0, 1, 0, 0], bool),
    )
    assert stages.means([few], "index")["mean"] == 222 / 6
    assert stages.means([few], "index", lambda m: m.converged)["mean"] == 3
    rows = stages.means([few], "distributive", rows=stages.REPORTED)["mean"]
    assert_allclose(rows[0], few.distributive[stages.REPORTED][:, 1:].mean(1))


def test_a_record_has_distributions_of_the_largest_m_and_means_of_all(measured):
    record = stages.record(30, measured, learning_rate=0.5)
    assert record["step"] == 30
    for name in stages.AVERAGED:
        means = record["measures"][name]["mean"]
        expected = [np.nanmean(getattr(m, name)) for m in measured.values()]
        assert_allclose(means, expected, rtol=1e-6)
    assert_allclose(record["block_norms"], measured[5].block_norms.mean(-1), rtol=1e-6)
    spectra = record["spectra"]
    assert spectra["limit"] == 4
    assert spectra["above_limit"] == (measured[5].largest_eigenvalue > 4).mean()
    median = np.median(measured[5].offdiagonal_ratio)
    assert_allclose(record["offdiagonal_ratio_quantiles"][2], median)
    # The largest M alone needs the arrays over branches.
    slim = measured | {2: measured[2].without_arrays_over_branches()}
    again = stages.record(30, slim, learning_rate=0.5)
    assert_allclose(again["block_norms"], record["block_norms"])


def test_the_outcome_counts_fitted_and_stuck_networks(measured):
    converged = np.arange(8) < 3
    last = {m: one._replace(converged=converged) for m, one in measured.items()}
    record = stages.record(0, last, learning_rate=0.02)
    outcome = stages.outcome([2, 5], [record, record], last)
    assert outcome["trials"] == 8
    assert outcome["diverged"] == [0, 0]
    assert set(outcome["observations"]) == {7, "section8"}
    equilibria = outcome["equilibria"]
    assert equilibria["converged"]["trials"] == [3, 3]
    assert equilibria["stuck"]["trials"] == [5, 5]
    expected = [one.gradient_norm[~converged].mean() for one in last.values()]
    assert_allclose(equilibria["stuck"]["gradient_norm"]["mean"], expected)
