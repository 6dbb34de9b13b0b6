import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax.analysis.vanishing import THRESHOLDS, VANISHED
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
    of_index = stages.means([few], "index")
    assert of_index["networks"] == 6
    rows = stages.means([few], "distributive", rows=[0, 2])["mean"]
    assert_allclose(rows[0], few.distributive[[0, 2]][:, 1:].mean(1))
    shares = few._replace(small_blocks=np.array([0, 1, 1, 1, 1, 1, 1, 0.0]))
    assert stages.means([shares], "small_blocks")["interval"][0, 1] == 1


def test_a_record_has_distributions_of_the_largest_m_and_means_of_all(measured):
    record = stages.record(30, measured, learning_rate=0.5)
    assert record["step"] == 30
    for name in stages.BOUNDS:
        means = record["measures"][name]["mean"]
        expected = [np.nanmean(getattr(m, name)) for m in measured.values()]
        assert_allclose(means, expected, rtol=1e-6)
    assert_allclose(record["block_norms"], measured[5].block_norms.mean(-1), rtol=1e-6)
    spectra = record["spectra"]
    assert spectra["limit"] == 4
    assert spectra["above_limit"] == (measured[5].largest_eigenvalue > 4).mean()
    median = np.nanmedian(measured[5].block_index)
    assert_allclose(record["block_index_quantiles"][2], median)
    share = [m.gradient[THRESHOLDS.index(VANISHED)].mean() for m in measured.values()]
    assert_allclose(record["measures"]["vanishing_gradient"]["mean"], share, rtol=1e-6)
    # The largest M alone needs the arrays over branches.
    slim = measured | {2: measured[2].without_arrays_over_branches()}
    again = stages.record(30, slim, learning_rate=0.5)
    assert_allclose(again["block_norms"], record["block_norms"])


def test_the_outcome_counts_fitted_and_stuck_networks(measured):
    converged = np.arange(8) < 3
    last = {m: one._replace(converged=converged) for m, one in measured.items()}
    record = stages.record(0, last, learning_rate=0.02)
    control = {m: one._replace(block_index=np.full(8, 0.1)) for m, one in last.items()}
    outcome = stages.outcome([2, 5], [record, record], last, control)
    assert outcome["trials"] == 8
    assert outcome["diverged"] == [0, 0]
    seventh, eighth = outcome["observations"][7], outcome["observations"]["section8"]
    index = np.nanmean(measured[5].block_index)
    assert_allclose([seventh["value"], seventh["initial"]], index, rtol=1e-6)
    assert_allclose(seventh["control"], 0.1)
    assert_allclose(outcome["control"]["block_index"]["mean"], 0.1)
    effect = np.nanmean(measured[5].step_effect)
    assert_allclose(seventh["beside"]["step_effect"]["value"], effect, rtol=1e-6)
    assert (eighth["value"], eighth["branches"]) == (0, 5)
    share = measured[5].distributive[THRESHOLDS.index(VANISHED)].mean()
    assert_allclose(eighth["beside"]["vanishing_share"]["value"], share, rtol=1e-6)
    equilibria = outcome["equilibria"]
    assert equilibria["converged"]["trials"] == [3, 3]
    assert equilibria["stuck"]["trials"] == [5, 5]
    expected = [one.gradient_norm[~converged].mean() for one in last.values()]
    assert_allclose(equilibria["stuck"]["gradient_norm"]["mean"], expected)
