import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from shapes import EYES, NOSE, ellipse

from bspec_jax.components import pairs

EARS = ellipse(3, 9, 2, 3) | ellipse(3, 39, 2, 5)  # less alike than the eyes


def test_multiplicity_is_the_number_of_regions_in_a_row():
    low = ellipse(33, 24, 1, 20)
    mask = EYES | NOSE | EARS | low
    found = pairs.regions(mask)
    number = dict(
        zip(
            [int(np.nonzero(region)[0].mean()) for region in found],
            pairs.multiplicity(found),
            strict=True,
        )
    )
    assert number == {3: 2, 14: 2, 15: 2, 26: 1, 33: 1}


def test_of_several_pairs_the_most_alike_is_kept():
    assert_array_equal(pairs.pair(EYES | NOSE | EARS), EYES)
    assert_array_equal(pairs.pair(EARS | NOSE), EARS)
    third = ellipse(15, 24, 3, 2)  # between the eyes: their rows are crossed by three
    assert not pairs.pair(EYES | third).any()
    assert_array_equal(pairs.pair(EYES | third | EARS), EARS)
    # Regions of other rows are more alike, but not beside each other.
    upper = ellipse(10, 14, 4, 5) | ellipse(10, 34, 2, 2)
    lower = ellipse(26, 14, 2, 2) | ellipse(26, 34, 4, 5)
    found = pairs.pair(upper | lower)
    assert (found == upper).all() or (found == lower).all()


def test_specks_are_no_regions():
    mask = EYES.copy()
    mask[15, 24] = True
    assert len(pairs.regions(mask)) == 2
    assert not pairs.regions(np.zeros((4, 4), bool)).size
    corner = np.pad(np.eye(3, dtype=bool), 2)  # regions may hang together at a corner
    assert len(pairs.regions(corner)) == 1


def test_what_the_edge_cuts_is_no_region():
    for edge in (ellipse(15, 0, 3, 3), ellipse(15, 47, 3, 3), ellipse(39, 20, 3, 3)):
        assert_array_equal(pairs.regions(EYES | edge).any(0), EYES)
        assert_array_equal(pairs.pair(EYES | edge), EYES)


def test_the_score_prefers_mirrored_compact_pairs():
    score = pairs.pair_score
    assert score(EYES) > 0.9
    tilted = [np.arange(9)[:, None] - np.arange(9) == 0]
    slanted = np.zeros_like(EYES)
    slanted[10:19, 10:19] |= tilted[0]
    parallel, mirrored = slanted.copy(), slanted.copy()
    parallel[10:19, 30:39] |= tilted[0]
    mirrored[10:19, 30:39] |= tilted[0][:, ::-1]
    assert score(mirrored) > 2 * score(parallel)
    unequal = ellipse(14, 14, 4, 5) | ellipse(15, 34, 2, 2)
    assert score(unequal) < 0.5 * score(EYES)
    hollow = EYES & ~(ellipse(14, 14, 3, 4) | ellipse(15, 34, 3, 4))
    assert score(hollow) < 0.6 * score(EYES)
    assert score(EYES | NOSE) == score(NOSE) == score(np.zeros_like(EYES)) == 0


def test_the_score_knows_no_left_and_right():
    pair = ellipse(14, 14, 4, 5) | ellipse(15, 34, 3, 6)
    assert_allclose(pairs.pair_score(pair), pairs.pair_score(pair[:, ::-1]), rtol=0.05)
