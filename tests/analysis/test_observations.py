import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax.analysis.observations import (
    BESIDE,
    evaluate,
    evaluate_hessian,
    quarter_index,
)

M = [2, 8, 32]
FIELDS = ("num_active", "entropy", "active_per_region", "silent_share")
FIELDS += ("silent_fraction", "correlation")


def summary(mean, half=0.01, networks=10):
    mean = np.broadcast_to(np.asarray(mean, float), (len(M),)).copy()
    interval = np.stack([mean - half, mean + half], -1)
    return {"mean": mean, "interval": interval, "networks": np.full(len(M), networks)}


def stage(networks=10, **values):
    return {name: summary(values.get(name, 0.5), networks=networks) for name in FIELDS}


SPECIALIZED = {
    "num_active": [2, 3.0, 3.6],
    "entropy": 0.3,
    "active_per_region": 0.1,
    "silent_share": 0.9,
    "silent_fraction": 0.8,
    "correlation": 0.2,
}


def rule(networks=10, **changes):
    return {
        "converged": stage(networks, **SPECIALIZED | changes),
        "initial": stage(networks),
        "control": stage(networks, num_active=M, silent_fraction=0.0, entropy=1.0),
        "change": {"correlation": summary(-0.3)},
        "null": {"correlation": summary(0.07)},
    }


def measures(networks=10, uncentred=None, **changes):
    norm = changes if uncentred is None else uncentred
    return {"centred": rule(networks, **changes), "norm": rule(networks, **norm)}


SUCCESS = {"mean": [0.5, 0.999, 0.999], "interval": [[0.4, 0.6], *[[0.998, 1.0]] * 2]}


def test_every_observation_of_specialized_branches_holds():
    records = evaluate(M, measures(), SUCCESS)
    assert [record["holds"] for record in records.values()] == [True] * 6
    first = records[1]
    assert (first["value"], first["initial"], first["control"]) == (0.3, 0.5, 1.0)
    assert_allclose(first["control_interval"], [0.99, 1.01])
    assert (first["branches"], first["networks"]) == (32, 10)
    assert (first["reason"], first["regime"]) == (None, None)
    assert records[5]["beside"]["change"]["value"] == -0.3
    assert records[5]["beside"]["null"]["value"] == 0.07
    assert {record["uncentred"]["agrees"] for record in records.values()} == {True}


def test_verdicts_follow_the_centred_responses_and_name_the_others():
    found = evaluate(M, measures(uncentred={"silent_fraction": 0.0}), SUCCESS)
    assert found[4]["holds"] is True
    uncentred = found[4]["uncentred"]
    assert (uncentred["value"], uncentred["holds"]) == (0, False)
    assert uncentred["agrees"] is False
    assert_allclose(uncentred["interval"], [-0.01, 0.01])
    assert found[1]["uncentred"]["agrees"] is True
    hidden = evaluate(M, measures(uncentred={"num_active": M}), SUCCESS)
    assert (hidden[6]["holds"], hidden[6]["uncentred"]["holds"]) == (True, False)


def test_correlation_is_decided_by_the_threshold_alone():
    found = measures()
    found["centred"]["control"]["correlation"] = summary(0.0)
    found["centred"]["initial"]["correlation"] = summary(0.1)
    assert evaluate(M, found, SUCCESS)[5]["holds"] is True
    assert evaluate(M, measures(correlation=0.4), SUCCESS)[5]["holds"] is False


def cut(found, count):
    """The same with the first values of M only."""
    if isinstance(found, dict):
        return {key: cut(value, count) for key, value in found.items()}
    return found[:count]


@pytest.mark.parametrize(
    ("count", "decided"), [(1, [1, 3, 5]), (2, [1, 2, 3, 5]), (3, [1, 2, 3, 4, 5])]
)
def test_claims_about_many_branches_need_them(count, decided):
    found = evaluate(M[:count], cut(measures(), count), cut(SUCCESS, count))
    holds = [n for n in range(1, 6) if found[n]["holds"] is True]
    assert holds == decided
    assert (6 in found) == (count > 1)
    if count < 3:
        assert found[4]["reason"] == "it says nothing of M below 16"


@pytest.mark.parametrize("networks", [0, 1])
def test_no_verdict_of_one_network_even_with_an_interval(networks):
    found = evaluate(M, measures(networks), SUCCESS)
    for record in found.values():
        assert record["holds"] is None
        assert record["uncentred"]["holds"] is None
        assert record["networks"] == networks
        assert record["reason"] == ("one network" if networks else "no network")


def test_nothing_is_decided_outside_of_the_regime():
    found = evaluate(M, measures(), SUCCESS, regime="decay")
    for record in found.values():
        assert (record["holds"], record["regime"]) == (None, "decay")
        assert record["uncentred"]["holds"] is None


def test_without_a_control_only_what_needs_none_is_decided():
    found = measures()
    for of_rule in found.values():
        of_rule["control"] = {name: summary(np.nan) for name in FIELDS}
    records = evaluate(M, found, SUCCESS)
    assert [n for n in records if records[n]["holds"] is not None] == [5, 6]
    assert records[1]["reason"] == "no interval of the control"


def test_growth_compares_the_largest_m_with_a_quarter_of_it():
    record = evaluate(M, measures(), SUCCESS)[6]
    assert record["branches"] == [8, 32]
    assert record["value"] == pytest.approx(1.2)
    assert (record["initial"], record["control"]) == (1, 4)
    # Independent relative errors add in squares.
    half = np.hypot(0.01 / 3.6, 0.01 / 3.0)
    assert np.log(record["interval"][1] / 1.2) == pytest.approx(half, rel=1e-6)
    found = measures()
    for of_rule in found.values():
        of_rule["converged"]["num_active"]["interval"][1] = [-np.inf, np.inf]
    record = evaluate(M, found, SUCCESS)[6]
    assert record["interval"] == (-math.inf, math.inf)
    assert record["holds"] is None


@pytest.mark.parametrize(
    ("success", "comparable"),
    [
        ([[0.998, 1.0], [0.998, 1.0]], True),
        ([[0.99, 1.0], [0.99, 1.0]], False),  # too uncertain
        ([[0.9, 0.902], [0.998, 1.0]], False),  # success rises
        ([[0.998, 1.0], [0.9, 0.902]], False),  # and falls
    ],
)
def test_growth_is_not_compared_where_success_differs(success, comparable):
    mean = [0.5, *(sum(bounds) / 2 for bounds in success)]
    success = {"mean": mean, "interval": [[0, 1], *success]}
    record = evaluate(M, measures(), success)[6]
    assert record["holds"] is (True if comparable else None)
    difference = record["beside"]["success_difference"]
    assert_allclose(difference["value"], mean[2] - mean[1])
    if not comparable:
        assert "not surely by at most 0.5" in record["reason"]
        grown = evaluate(M, measures(num_active=M), success)[6]
        assert grown["holds"] is None  # nor is there a verdict against the claim


def test_success_of_networks_that_share_a_seed_is_compared_in_pairs():
    seeds = np.array([0.80, 0.90, 0.85, 0.95, 0.70])
    gain = np.array([0.011, 0.012, 0.011, 0.012, 0.011])
    values = [seeds, seeds + 0.01, seeds + gain]
    record = evaluate(M, measures(), {"values": np.array(values)})[6]
    difference = record["beside"]["success_difference"]
    assert record["holds"] is True
    assert_allclose(difference["value"], 0.0014)
    # 2.776 sqrt(3e-7 / 5), by hand
    half = 2.776445 * np.sqrt(3e-7 / 5)
    assert_allclose(difference["interval"], [0.0014 - half, 0.0014 + half], rtol=1e-4)
    shuffled = [values[0], values[1], values[2][::-1]]
    record = evaluate(M, measures(), {"values": np.array(shuffled)})[6]
    assert record["holds"] is None
    nan = np.array(values)
    nan[2, 0] = np.nan
    record = evaluate(M, measures(), {"values": nan})[6]
    assert record["reason"] == "no interval of the difference in success"


@pytest.mark.parametrize(
    ("branches", "index"),
    [
        (list(range(2, 31)), 6),
        ([8, 32], 0),
        ([29, 30], None),
        ([20, 30], None),
        ([2, 3, 10], 1),
        ([7], None),
        ([1, 100], None),
    ],
)
def test_a_quarter_of_the_largest_m(branches, index):
    assert quarter_index(branches) == index


def hessian(converged, initial, control, vanishing, networks=(10, 10, 10)):
    of_end = {"block_index": summary(converged), "step_effect": summary(0.05)}
    of_end |= {name: summary(0.8) for name in BESIDE}
    shares = summary(vanishing) | {"networks": np.array(networks)}
    return {
        "converged": of_end | {"vanishing_distributive": shares},
        "initial": {"block_index": summary(initial)},
        "control": {"block_index": summary(control)},
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.95, 0.5, 0.1, 0.6), (True, True)),
        ((0.85, 0.5, 0.1, 0.1), (False, False)),
        ((0.95, 0.98, 0.1, 0.2), (False, None)),  # more so at the start
        ((0.95, 0.5, 0.94, 0.6), (None, True)),  # as are separate branches
        ((0.95, 0.5, np.nan, np.nan), (None, None)),
    ],
)
def test_the_hessian_and_section_8(values, expected):
    found = evaluate_hessian(M, hessian(*values))
    assert (found[7]["holds"], found["section8"]["holds"]) == expected
    assert_allclose([found[7][key] for key in ("value", "initial")], values[:2])
    assert found[7]["beside"]["step_effect"]["value"] == 0.05
    assert {v["value"] for v in found["section8"]["beside"].values()} == {0.8}
    # 0.8 after a change of v, of the 1 - (0.8 - v) that had not vanished before.
    assert_allclose(found["section8"]["value"], values[3] / (0.2 + values[3]))


@pytest.mark.parametrize(
    ("networks", "branches", "count"),
    [
        ((10, 7, 0), 8, 7),
        ((10, 7, 4), 8, 7),  # fewer than five are not enough
        ((10, 4, 5), 32, 5),
        ((3, 2, 1), 2, 3),  # unless there are no five at any M
        ((0, 0, 0), 32, 0),
        ((1, 1, 1), 32, 1),
    ],
)
def test_the_conjecture_is_taken_where_networks_have_something_to_learn(
    networks, branches, count
):
    changes = [0.6, 0.7, 0.8]
    stages = hessian(0.95, 0.5, 0.1, changes, networks)
    found = evaluate_hessian(M, stages)["section8"]
    assert (found["branches"], found["networks"]) == (branches, count)
    change = changes[M.index(branches)]
    assert_allclose(found["value"], change / (0.2 + change))
    assert found["holds"] is (True if count > 1 else None)
    assert evaluate_hessian(M, stages, regime="r")["section8"]["regime"] == "r"
