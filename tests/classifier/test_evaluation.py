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
    index = results["measures"]["control"]["index"]["mean"]
    for i, m in enumerate(BRANCHES):
        names = [CONTROL if r == 0 else f"{CONTROL}_{r}" for r in range(REPEATS)]
        parts = [responses[control].trained[:m] for control in names]
        expected = [sp.specialization_index(sp.covariance(v)) for v in parts]
        assert_allclose(index[i], np.mean(expected), rtol=1e-5)


def test_classes_weigh_alike_and_missing_ones_do_not_count(jobs, responses):
    results = analyse(jobs, responses, LABELS, CLASSES)
    entropies = []
    for r in range(REPEATS):
        energy = (responses[name(8, r)].trained.astype(float) ** 2).sum(-1)
        mean = np.stack([energy[:, c == LABELS].mean(1) for c in range(3)], 1)
        p = mean / mean.sum(1, keepdims=True)
        entropies.append((-(p * np.log(p)).sum(1) / np.log(3)).mean())
    value = results["observations"][1]["value"]
    assert_allclose(value, np.mean(entropies), rtol=1e-5)
    assert sorted(results["selection"]["classes"]) == [0, 1, 2]
    assert np.isnan(results["class_outputs"]).all(0).tolist() == [False] * 3 + [True]


def test_without_a_control_there_are_no_verdicts_that_need_one(jobs, responses):
    jobs = [job for job in jobs if not job.separate]
    responses = {job.name: responses[job.name] for job in jobs}
    results = analyse(jobs, responses, LABELS, CLASSES)
    verdicts = {key: item["holds"] for key, item in results["observations"].items()}
    assert [verdicts[key] for key in range(1, 6)] == [None] * 5
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
