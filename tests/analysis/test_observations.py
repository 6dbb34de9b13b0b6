import numpy as np
import pytest

from bspec_jax.analysis.observations import (
    evaluate,
    evaluate_hessian,
    holds,
    quarter_index,
)


@pytest.mark.parametrize(
    ("number", "interval", "control", "expected"),
    [
        (1, (0.6, 0.7), (0.9, 1.0), True),
        (1, (0.85, 0.88), (0.9, 1.0), False),  # all of it is above 0.8
        (1, (0.75, 0.85), (0.9, 1.0), None),  # the interval reaches over 0.8
        (1, (0.6, 0.7), (0.65, 0.9), None),  # and here into the control's
        (1, (0.6, 0.7), (0.4, 0.5), False),  # the control is better
        (3, (0.6, 0.7), (0.1, 0.2), True),
        (3, (0.45, 0.7), (0.1, 0.2), None),
        (3, (0.6, 0.7), (0.5, 0.65), None),
        (3, (0.3, 0.4), (0.1, 0.2), False),
        (3, (0.6, 0.7), (0.8, 0.9), False),
        (6, (1.0, 1.4), None, True),
        (6, (1.4, 1.6), None, None),
        (6, (1.6, 1.7), None, False),
        (5, (0.1, 0.2), (np.nan, np.nan), None),
        (1, (-np.inf, np.inf), (0.9, 1.0), None),  # a single run
    ],
)
def test_holds_beyond_threshold_and_control(number, interval, control, expected):
    assert holds(number, interval, control) is expected


def stage(m, **values):
    fields = ("num_active", "entropy", "active_per_region", "silent_share")
    fields += ("any_silent", "correlation")
    means = {name: np.full(len(m), values.get(name, 0.5)) for name in fields}
    return {
        name: {"mean": mean, "interval": np.stack([mean - 0.01, mean + 0.01], -1)}
        for name, mean in means.items()
    }


@pytest.fixture
def stages():
    m = [2, 8, 30]
    converged = stage(m, entropy=0.3, active_per_region=0.1, silent_share=0.9)
    converged["num_active"]["mean"] = np.array([1.5, 3.0, 3.6])
    control = stage(m, entropy=1.0, active_per_region=1.0, silent_share=0.0)
    control["num_active"]["mean"] = np.array(m, float)
    return {
        "branches": m,
        "converged": converged,
        "initial": stage(m),
        "control": control,
    }


def test_growth_compares_the_largest_m_with_a_quarter_of_it(stages):
    success = np.array([[0.4, 0.5], [0.9, 0.95], [0.98, 1.0]])
    result = evaluate(**stages, success_interval=success)
    assert result[6]["branches"] == [8, 30]
    assert result[6]["value"] == pytest.approx(1.2)
    assert result[6]["control"] == pytest.approx(3.75)
    # Independent relative errors add in squares.
    half = np.hypot(0.01 / 3.6, 0.01 / 3.0)
    assert np.log(result[6]["interval"][1] / 1.2) == pytest.approx(half, rel=1e-6)
    assert [result[n]["holds"] for n in (1, 2, 3, 6)] == [True, True, True, True]
    assert result[5]["holds"] is False


def test_growth_does_not_hold_where_success_falls(stages):
    success = np.array([[0.4, 0.5], [0.9, 0.95], [0.7, 0.8]])
    assert evaluate(**stages, success_interval=success)[6]["holds"] is False


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


def test_no_verdict_on_what_is_undefined(stages):
    stages["converged"]["any_silent"]["mean"][-1] = np.nan  # all runs diverged
    stages["converged"]["any_silent"]["interval"][-1] = [0, 1]
    success = np.array([[0.4, 0.5], [0.9, 0.95], [0.98, 1.0]])
    assert evaluate(**stages, success_interval=success)[4]["holds"] is None


def test_verdicts_that_one_m_cannot_give(stages):
    small = {
        key: {n: {k: v[:1] for k, v in f.items()} for n, f in stages[key].items()}
        for key in ("converged", "initial", "control")
    }
    result = evaluate([2], **small, success_interval=np.array([[0.4, 0.5]]))
    assert result[2]["holds"] is None
    assert 6 not in result  # no growth
    assert result[1]["holds"] is True


def test_no_verdict_on_growth_without_a_success_rate(stages):
    for where in ((-1, 1), (1, 0)):
        success = np.array([[0.4, 0.5], [0.9, 0.95], [0.98, 1.0]])
        success[where] = np.nan
        assert evaluate(**stages, success_interval=success)[6]["holds"] is None


def hessian_stage(ratio, control, difference, half=0.01):
    values = {
        "offdiagonal_ratio": ratio,
        "control_ratio": control,
        "ratio_to_control": ratio / control,
        "vanishing_difference": difference,
    }
    return {
        name: {"mean": [0.0, v], "interval": [[0, 0], [v - half, v + half]]}
        for name, v in values.items()
    }


@pytest.mark.parametrize(
    ("converged", "initial", "expected"),
    [
        ((0.4, 1.0, 0.3), (0.9, 1.0, 0), (True, True)),
        ((0.6, 1.0, 0.3), (0.9, 1.0, 0), (False, True)),  # over half the control
        ((0.4, 1.0, 0.3), (0.41, 1.0, 0), (False, True)),  # not below initialisation
        ((0.4, 1.0, 0.005), (0.9, 1.0, 0), (True, None)),  # the interval holds 0
        ((0.4, 1.0, -0.3), (0.9, 1.0, 0), (True, False)),
        ((np.nan, 1.0, np.nan), (0.9, 1.0, 0), (None, None)),
        ((0.4, 1.0, 0.3), (np.nan, 1.0, 0), (None, True)),
    ],
)
def test_the_hessian_and_section_8(converged, initial, expected):
    stages = hessian_stage(*converged), hessian_stage(*initial)
    result = evaluate_hessian([2, 30], *stages)
    assert (result[7]["holds"], result["section8"]["holds"]) == expected
    if converged[0] == 0.4:
        assert result[7]["value"] == pytest.approx(0.4)
        assert result[7]["control"] == 1
        assert result[7]["initial"] == pytest.approx(initial[0], nan_ok=True)


def test_a_difference_of_exactly_zero_does_not_hold():
    stages = [hessian_stage(0.4, 1.0, 0.0, half=0.0)] * 2
    assert evaluate_hessian([2, 30], *stages)["section8"]["holds"] is False
