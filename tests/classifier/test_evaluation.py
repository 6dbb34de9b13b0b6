"""The measures of an experiment's classifiers, from made-up responses."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.analysis import specialization as sp
from bspec_jax.classifier import contributions
from bspec_jax.classifier.evaluation import CONTROL, Job, Responses, analyse

BRANCHES, REPEATS, CLASSES = (2, 8), 3, 4
# Class 3 has no example, and class 0 more than the others.
LABELS = np.repeat([0, 1, 2, 0], [10, 6, 4, 5])


@pytest.fixture
def jobs():
    renamed = {"net_8_0": "main", f"{CONTROL}_0": CONTROL}
    jobs = []
    for repeat in range(REPEATS):
        jobs += [Job(f"net_{m}_{repeat}", m, repeat, False) for m in BRANCHES]
        jobs.append(Job(f"{CONTROL}_{repeat}", max(BRANCHES), repeat, True))
    jobs = [job._replace(name=renamed.get(job.name, job.name)) for job in jobs]
    return sorted(jobs, key=lambda job: job.name != "main")


@pytest.fixture
def responses(jobs):
    rng = np.random.default_rng(0)
    shape = len(LABELS), CLASSES
    return {
        job.name: Responses(
            *rng.normal(size=(2, job.branches, *shape)).astype(np.float32)
        )
        for job in jobs
    }


def name(m, repeat):
    return "main" if (m, repeat) == (8, 0) else f"net_{m}_{repeat}"


@pytest.mark.slow
def test_the_sweep_averages_over_the_repeats(jobs, responses):
    results = analyse(jobs, responses, LABELS, CLASSES)
    assert results["sweep"]["branches"] == [2, 8]
    for i, m in enumerate(BRANCHES):
        nets = [responses[name(m, r)].trained for r in range(REPEATS)]
        accuracies = [contributions.accuracy(v.sum(0), LABELS) for v in nets]
        assert_allclose(results["sweep"]["test_accuracy"][i], np.mean(accuracies))
        active = [int(sp.active_branches(v).sum()) for v in nets]
        assert_allclose(results["sweep"]["active"][i], np.mean(active))
    assert results["observations"][6]["branches"] == [2, 8]


def test_the_control_is_cut_to_the_same_number_of_branches(jobs, responses):
    results = analyse(jobs, responses, LABELS, CLASSES)
    index = results["measures"]["norm"]["control"]["index"]["mean"]
    for i, m in enumerate(BRANCHES):
        names = [CONTROL if r == 0 else f"{CONTROL}_{r}" for r in range(REPEATS)]
        parts = [responses[control].trained[:m] for control in names]
        expected = [sp.specialization_index(sp.covariance(v)) for v in parts]
        assert_allclose(index[i], np.mean(expected), rtol=1e-5)


def test_classes_weigh_alike_and_missing_ones_do_not_count(jobs, responses):
    results = analyse(jobs, responses, LABELS, CLASSES)
    for centred in (True, False):
        entropies = []
        for r in range(REPEATS):
            v = responses[name(8, r)].trained.astype(float)
            v = v - np.median(v, 1, keepdims=True) if centred else v
            energy = (v**2).sum(-1)
            mean = np.stack([energy[:, c == LABELS].mean(1) for c in range(3)], 1)
            p = mean / mean.sum(1, keepdims=True)
            entropies.append((-(p * np.log(p)).sum(1) / np.log(3)).mean())
        record = results["observations"][1]
        value = record["value"] if centred else record["uncentred"]["value"]
        assert_allclose(value, np.mean(entropies), rtol=1e-5)
    assert record["value"] != value
    assert sorted(results["selection"]["classes"]) == [0, 1, 2]
    assert np.isnan(results["class_outputs"]).all(0).tolist() == [False] * 3 + [True]


def test_a_constant_hides_silence_from_the_paper_s_rule_alone(jobs, responses):
    """Branches 0 and 3 of the largest networks keep nothing but a constant."""
    for job in jobs:
        v = responses[job.name].trained
        if job.branches == 8 and not job.separate:
            v[[0, 3]] = np.float32(0.1) * np.arange(CLASSES, dtype=np.float32) * 20
    results = analyse(jobs, responses, LABELS, CLASSES)
    assert (results["active"], results["active_centred"]) == (8, 6)
    sweep = results["sweep"]
    assert_allclose(sweep["active"], [2, 8])
    assert_allclose(sweep["active_centred"], [2, 6])
    growth = results["observations"][6]
    assert_allclose([growth["value"], growth["uncentred"]["value"]], [3, 4])
    silent = results["measures"]["centred"]["converged"]["silent_fraction"]
    assert_allclose(silent["mean"], [0, 0.25])
    assert_allclose(results["measures"]["norm"]["converged"]["num_silent"]["mean"], 0)
    # Three networks that agree have no interval.
    assert np.isinf(silent["interval"]).all()


def test_correlations_stand_beside_their_start_and_permuted_examples(jobs, responses):
    common = np.random.default_rng(1).normal(size=(1, len(LABELS), CLASSES))
    for job in jobs:
        if not job.separate:
            responses[job.name].trained[:] += 2 * common  # of all branches
    results = analyse(jobs, responses, LABELS, CLASSES)
    record = results["observations"][5]

    def rho(v):
        v = v - v.mean(1, keepdims=True)
        rho = np.corrcoef(v.reshape(8, -1))
        return np.abs(rho[np.triu_indices(8, 1)]).mean()

    pairs = [
        (rho(responses[name(8, r)].trained), rho(responses[name(8, r)].initial))
        for r in range(REPEATS)
    ]
    assert_allclose(record["value"], np.mean(pairs, 0)[0], rtol=1e-4)
    assert record["value"] > 0.7
    change = np.diff(pairs)[:, 0] * -1
    found = record["beside"]["change"]
    assert_allclose(found["value"], change.mean(), rtol=1e-4)
    half = 4.302653 * change.std(ddof=1) / np.sqrt(3)
    assert_allclose(np.diff(found["interval"]), 2 * half, rtol=1e-3)
    # Of 100 numbers, a quarter of them alike in all branches: chance.
    assert 0.05 < record["beside"]["null"]["value"] < 0.15
    other = analyse(jobs, responses, LABELS, CLASSES, seed=1)["observations"][5]
    assert other["beside"]["null"]["value"] != record["beside"]["null"]["value"]


def test_outside_of_the_regime_nothing_is_decided(jobs, responses):
    for job in jobs:
        responses[job.name].trained[1:] *= 1e-3  # silent
    inside = analyse(jobs, responses, LABELS, CLASSES)["observations"]
    assert True in {record["holds"] for record in inside.values()} or any(
        record["holds"] is False for record in inside.values()
    )
    results = analyse(jobs, responses, LABELS, CLASSES, regime="decay")
    for record in results["observations"].values():
        assert (record["holds"], record["regime"]) == (None, "decay")


def test_without_a_control_there_are_no_verdicts_that_need_one(jobs, responses):
    jobs = [job for job in jobs if not job.separate]
    responses = {job.name: responses[job.name] for job in jobs}
    results = analyse(jobs, responses, LABELS, CLASSES)
    verdicts = {key: item["holds"] for key, item in results["observations"].items()}
    assert [verdicts[key] for key in range(1, 5)] == [None] * 4
    assert verdicts[5] is not None  # which needs none
    assert list(results["enrichment"]["significant_pairs"]) == [
        "trained",
        "before training",
    ]
    assert_array_equal(list(results["covariances"]), ["trained", "before training"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_depends_on_responses_that_are_not_finite_is_nan(bad):
    v = np.random.default_rng(0).normal(size=(3, 25, 4)).astype(np.float32)
    v[1, 3, 2], finite = bad, v.copy()  # of an example of class 0
    results = analyse(
        [Job("main", 3, 0, False)], {"main": Responses(v, finite)}, LABELS, 4
    )
    numbers = ("test_accuracy", "loss", "excess_loss", "saturated", "active", "silent")
    for key in (*numbers, "saturated_coordinates", "specialization_index"):
        assert np.isnan(results[key]), key
    assert_array_equal(np.isnan(results["norms"]), [False, True, False])
    assert_array_equal(np.isnan(results["class_norms"][1]), [True, False, False, True])
    assert np.isnan(results["enrichment"]["significant_pairs"]["trained"])
    assert results["observations"][1]["holds"] is None


def test_without_any_response_no_branch_is_active():
    v = np.zeros((3, 25, 4), np.float32)
    results = analyse([Job("main", 3, 0, False)], {"main": Responses(v, v)}, LABELS, 4)
    assert (results["active"], results["silent"]) == (0, 3)
    assert results["test_accuracy"] == 15 / 25  # an argmax of zeros is class 0
    assert results["ablation"]["without_silent"] == 15 / 25
    assert results["saturated"] == 0
    assert results["specialization_index"] == 0


def test_a_single_branch_and_a_single_example():
    v = np.array([[[0.5, 2, 0]]], np.float32)
    responses = {"main": Responses(v, v)}
    results = analyse([Job("main", 1, 0, False)], responses, np.array([1]), 3)
    assert (results["test_accuracy"], results["active"]) == (1, 1)
    assert np.isnan(results["class_outputs"]).tolist() == [[True, False, True]]
    assert np.isnan(results["observations"][5]["value"])  # no pair of branches
