import math

import numpy as np
import pytest

from bspec_jax.analysis.verdicts import judge, missing_regime, verdict

INFINITE = (-math.inf, math.inf)
LATE = (0.9, 1.0)


@pytest.mark.parametrize(
    ("number", "interval", "compared", "holds", "reason"),
    [
        (1, (0.6, 0.7), ((0.8, 0.9), LATE), True, None),
        (1, (0.6, 0.8), ((0.81, 0.9), LATE), True, None),
        (
            1,
            (0.85, 0.88),
            (LATE, LATE),
            False,
            "wrong side of the threshold",
        ),
        (1, (0.75, 0.85), (LATE, LATE), None, "contains the threshold"),
        (
            1,
            (0.6, 0.7),
            (LATE, (0.65, 0.9)),
            None,
            "overlaps that of the control",
        ),
        (1, (0.6, 0.7), ((0.65, 0.9), LATE), None, "overlaps that of the start"),
        (1, (0.6, 0.7), (LATE, (0.4, 0.5)), False, "wrong side of the control"),
        (1, (0.6, 0.7), ((0.4, 0.5), LATE), False, "wrong side of the start"),
        # One that is worse decides, whatever else is open.
        (1, (0.6, 0.9), ((0.4, 0.5), LATE), False, "wrong side of the start"),
        (3, (0.6, 0.7), ((0.1, 0.2), (0.0, 0.0)), True, None),
        (3, (0.45, 0.7), ((0.1, 0.2), (0.0, 0.0)), None, "contains the threshold"),
        (3, (0.6, 0.7), ((0.5, 0.65), (0.0, 0.0)), None, "overlaps that of the start"),
        (3, (0.3, 0.4), ((0.1, 0.2), (0.0, 0.0)), False, "wrong side of the threshold"),
        (3, (0.6, 0.7), ((0.0, 0.1), (0.8, 0.9)), False, "wrong side of the control"),
        (4, (0.25, 0.3), ((0.1, 0.2), (0.1, 0.2)), True, None),
        (5, (0.1, 0.3), (), True, None),
        (6, (1.0, 1.4), (), True, None),
        (6, (1.4, 1.6), (), None, "contains the threshold"),
        (6, (1.6, 1.7), (), False, "wrong side of the threshold"),
        (7, (0.9, 0.95), ((0.5, 0.6), (0.0, 0.1)), True, None),
        (7, (0.9, 0.95), ((0.5, 0.6), (0.91, 0.99)), None, "that of the control"),
        ("section8", (0.5, 0.6), (), True, None),
        ("section8", (0.4, 0.49), (), False, "wrong side of the threshold"),
        (5, (np.nan, np.nan), (), None, "undefined"),
        (
            1,
            INFINITE,
            (LATE, LATE),
            None,
            "no interval: too few, or all equal",
        ),
        (1, (0.6, 0.7), (INFINITE, LATE), None, "no interval of the start"),
        (
            1,
            (0.6, 0.7),
            (LATE, (np.nan,) * 2),
            None,
            "no interval of the control",
        ),
    ],
)
def test_holds_beyond_the_threshold_and_what_it_is_compared_with(
    number, interval, compared, holds, reason
):
    stages = dict(zip(("initial", "control"), compared, strict=False))
    found, why = judge(number, interval, stages)
    assert found is holds
    assert (why is None) if reason is None else why.endswith(reason)


@pytest.mark.parametrize(
    ("networks", "regime", "holds", "words"),
    [
        (5, None, True, "holds"),
        (5, None, False, "does not hold"),
        (5, None, None, "undecided"),
        (0, None, None, "undecided"),
        (5, "decay", None, "not tested in the paper's regime"),
        (1, "decay", None, "one network"),
        (1, None, None, "one network"),
    ],
)
def test_a_verdict_in_words(networks, regime, holds, words):
    record = {"networks": networks, "regime": regime, "holds": holds}
    assert verdict(record) == words


def test_the_paper_s_regime_is_one_of_decay_but_for_toys():
    assert missing_regime(20.0, 3) is None
    assert missing_regime(5.0, 3) is None
    assert missing_regime(0.9, 3) == "a decay budget of at least 5 (it is 0.9)"
    named = missing_regime(0.9, 3, steps=4000, accuracy=0.8449)
    assert named.endswith("(it is 0.9, after 4,000 steps, at accuracy 0.845)")
    assert missing_regime(0.0, 2) == "a decay budget of at least 5 (it is 0)"
    assert missing_regime(None, 9).endswith("(it is undefined)")
    assert missing_regime(0.0, 1) is None
    assert missing_regime(math.nan, 2).endswith("(it is nan)")
