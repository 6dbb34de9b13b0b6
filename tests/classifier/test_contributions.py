import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from typechecks import without_type_checks

from bspec_jax.classifier import contributions
from bspec_jax.losses import classification_loss
from bspec_jax.storage.errors import ArgumentError

# Two branches, three examples of classes 0, 2, 2, three classes.
V = np.array(
    [
        [[3.0, 0.0, 0.0], [0.0, 0.0, 6.0], [9.0, 0.0, 0.0]],
        [[0.0, 1.0, 2.0], [0.0, 0.0, 3.0], [0.0, 0.0, 12.0]],
    ]
)
LABELS = np.array([0, 2, 2])


def test_confidence_is_the_true_output_less_the_mean():
    expected = [[2, 4, -3], [-1, 2, 8]]
    assert_allclose(contributions.confidence(V, LABELS), expected)
    shifted = V + np.array([5.0, -2.0])[:, None, None]  # the same for every class
    assert_allclose(contributions.confidence(shifted, LABELS), expected)


def test_class_means():
    values = np.array([[1.0, 2.0, 4.0], [0.0, -1.0, 5.0]])
    means = contributions.class_means(values, LABELS, 3)
    assert_allclose(means, [[1, math.nan, 3], [0, math.nan, 2]])


def test_ablation_by_hand():
    # Sums: [3 1 2], [0 0 9], [9 0 12]: all right. Alone, branch 0 misses the third and
    # branch 1 the first.
    ablation = contributions.ablation(V, LABELS, np.array([False, True]))
    assert ablation.full == 1
    assert_allclose(ablation.without, [2 / 3, 2 / 3])
    assert_allclose(ablation.alone, [2 / 3, 2 / 3])
    # Branch 0 leaves its mean [4 0 2], which gets the first right.
    assert ablation.without_silent == 1
    assert ablation.order == [1, 0]  # norms 126 and 158, squared
    assert_allclose(ablation.kept, [2 / 3, 1])


def test_ablation_keeps_the_largest_first():
    v = np.zeros((3, 2, 2))
    v[0, 0, 0], v[1, 0, 0], v[2, 1, 1] = 1, 3, 2
    labels = np.array([0, 1])
    ablation = contributions.ablation(v, labels, np.array([True, True, True]))
    assert ablation.order == [1, 2, 0]
    assert ablation.kept == [0.5, 1, 1]
    assert ablation.without == [1, 1, 0.5]  # an argmax of zeros is class 0


def test_what_the_ablation_figure_shows():
    saved = {  # as in results.json
        "full": 0.9,
        "without": [0.9, 0.5, 0.95],
        "alone": [0.1, 0.6, 0.2],
        "without_silent": 0.9,
        "order": [1, 2, 0],
        "kept": [0.6, 0.8, 0.9],
    }
    ablation = contributions.Ablation(**saved)
    assert_allclose(ablation.points_lost, [0, 40, -5], atol=1e-9)
    assert_array_equal(ablation.alone_in_order, [0.6, 0.2, 0.1])


def test_enrichment_against_counting_all_permutations():
    # Branch 0 is most confident in three of five examples, of which classes 0 0 1.
    confidence = np.array([[2.0, 2.0, 2.0, 0.0, 0.0], [1.0] * 5])
    labels = np.array([0, 0, 1, 1, 1])
    pairs = contributions.enrichment(confidence, labels, np.ones(2, bool), 2)
    assert_array_equal(pairs.count, [[2, 1], [0, 2]])
    assert_allclose(pairs.expected, [[1.2, 1.8], [0.8, 1.2]])
    ways = math.comb(5, 3)
    at_least_two_zeros = math.comb(2, 2) * math.comb(3, 1) / ways
    at_least_one_one = 1.0  # three examples, two of class 0 at most
    at_least_two_ones = math.comb(3, 2) / math.comb(5, 2)
    expected = [[at_least_two_zeros, at_least_one_one], [1.0, at_least_two_ones]]
    assert_allclose(pairs.p_value, expected)
    assert not pairs.significant.any()


def test_enrichment_finds_what_was_planted_and_little_else():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    confidence = rng.normal(size=(4, 200))
    confidence[2, labels == 3] += 3
    pairs = contributions.enrichment(confidence, labels, np.ones(4, bool), 5)
    assert pairs.significant[2, 3]
    others = np.ones((4, 5), bool)
    others[2, 3] = False
    # Branch 2 takes class 3 from the others, so that theirs are below chance.
    assert not pairs.significant[others].any()
    assert pairs.count.sum() == (confidence.max(0) > 0).sum()


def test_many_null_pairs_are_not_significant():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, 2000)
    values, active = rng.normal(size=(16, 2000)), np.ones(16, bool)
    pairs = contributions.enrichment(values, labels, active, 10)
    assert (pairs.p_value < 0.05).sum() > 2  # as chance has it, before the correction
    assert not pairs.significant.any()


def test_silent_branches_and_examples_against_all_are_not_counted():
    confidence = np.array([[0.3, -0.2, 0.5, -0.1], [0.4, 0.0, 0.1, -0.3], [9.0] * 4])
    active = np.array([True, True, False])
    labels = np.array([0, 0, 1, 1])
    pairs = contributions.enrichment(confidence, labels, active, 2)
    assert_array_equal(pairs.count, [[0, 1], [1, 0], [0, 0]])
    nothing = contributions.enrichment(-confidence, labels, active, 2)
    assert_array_equal(nothing.count, [[1, 0], [0, 1], [0, 0]])
    silent = contributions.enrichment(confidence, labels, ~np.ones(3, bool), 2)
    assert_array_equal(silent.count, np.zeros((3, 2)))
    assert_array_equal(silent.p_value, np.ones((3, 2)))
    assert not silent.significant.any()


def test_the_ratio_to_chance_is_undefined_only_where_nothing_is_expected():
    count, expected = np.array([[8, 1], [0, 4]]), np.array([[4.0, 4.0], [4.0, 1.0]])
    ratio = contributions.log2_ratio(count, expected)
    assert_allclose(ratio, [[1, -2], [-math.inf, 2]])
    nothing = contributions.log2_ratio(np.zeros((1, 1), int), np.zeros((1, 1)))
    assert np.isnan(nothing).all()


def test_most_confident_of_one_class():
    confidence = np.array([0.5, 9.0, 0.1, 0.9, 0.7, 8.0])
    labels = np.array([1, 0, 1, 1, 1, 0])
    top = contributions.most_confident(confidence, labels, 1, 0.5)
    assert_array_equal(top, [3, 4])
    assert_array_equal(contributions.most_confident(confidence, labels, 1, 0.01), [3])


def test_tops_of_branches_are_compared_within_a_class():
    confidence = np.array(
        [[9.0, 8.0, 1.0, 2.0, 0.0], [7.0, 1.0, 2.0, 8.0, 0.0], [0.0] * 4 + [9.0]]
    )
    labels = np.array([0, 0, 0, 0, 1])
    tops = contributions.compare_most_confident(
        confidence, labels, branches=[1, 0], classes=[1, 0], share=0.5
    )
    assert [(top.label, top.branch) for top in tops] == [(1, 1), (1, 0), (0, 1), (0, 0)]
    assert [top.examples.tolist() for top in tops] == [[4], [4], [3, 0], [0, 1]]
    assert [top.confidence.tolist() for top in tops] == [[0], [0], [8, 7], [9, 8]]
    assert [top.shared for top in tops] == [1, 1, 1, 1]
    (alone,) = contributions.compare_most_confident(confidence, labels, [1], [0], 0.5)
    assert alone.shared == 0


def test_a_sample_has_as_many_of_each_class_and_none_twice():
    labels = np.repeat([3, 0, 1], [30, 2, 25])
    sample = contributions.sample_of_each(labels, 20)
    assert_array_equal(labels[sample], np.repeat([0, 1, 3], [2, 20, 20]))
    assert len(set(sample)) == 42
    assert_array_equal(contributions.sample_of_each(labels, 20), sample)
    assert not np.array_equal(contributions.sample_of_each(labels, 20, seed=1), sample)


def test_most_shared_classes():
    energy = np.array([[4.0, 1.0, 0.0, 6.0], [0.0, 1.0, 0.0, 2.0]])
    # Largest shares: 1, 1/2, none at all, 3/4.
    assert_array_equal(contributions.most_shared_classes(energy), [1, 3, 0, 2])


ONE_HOT = np.eye(3, dtype=int)[LABELS]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ONE_HOT,
            r"each of the 3 examples, got int64\[3, 3\]; of one-hot rows",
        ),
        (LABELS.astype(float), "got float64"),
        (LABELS[:2], r"got int64\[2\]"),
        (LABELS - 1, r"must be in 0..2, got -1"),
        (LABELS + 1, r"must be in 0..2, got 3"),
    ],
)
def test_labels_are_a_class_of_each_example(labels, message):
    active, means = np.array([True, True]), V.mean(-1)
    for function, args in (
        (contributions.accuracy, (V[0], labels)),
        (contributions.confidence, (V, labels)),
        (contributions.class_means, (means, labels, 3)),
        (contributions.ablation, (V, labels, active)),
        (contributions.enrichment, (means, labels, active, 3)),
    ):
        with without_type_checks(), pytest.raises(ArgumentError, match=message):
            function(*args)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_stay(bad):
    v = V.copy()
    v[0, 1, 2] = bad
    assert math.isnan(contributions.accuracy(v[0], LABELS))
    ablation = contributions.ablation(v, LABELS, np.array([False, True]))
    assert math.isnan(ablation.full)
    assert math.isnan(ablation.without_silent)
    # Only what leaves out branch 0 is known.
    assert_allclose(ablation.alone, [math.nan, 2 / 3])
    confidence = np.array([[1.0, bad, 0.2], [0.1, 0.4, 0.3]])
    enrichment = contributions.enrichment(confidence, LABELS, np.array([True] * 2), 3)
    assert all(np.isnan(field).all() for field in enrichment)
    energy = np.array([[1.0, 0, bad, 3], [1, 0, 1, 1]])
    assert contributions.most_shared_classes(energy).tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize("clamp", ["hard", "straight-through", "tanh", "none"])
def test_probabilities_are_those_of_the_loss(clamp):
    f = np.array([[3.0, 0.5, -0.2, -4.0], [0.1, 0.2, 0.3, 0.4]])
    p = contributions.probabilities(f, clamp)
    assert_allclose(p.sum(1), 1)
    target = jax.nn.softmax(2 * jax.nn.one_hot(0, 4) - 1)
    loss = classification_loss(jnp.asarray(f), np.array([0, 0]), clamp=clamp)
    assert_allclose(-np.log(p) @ np.asarray(target), loss, rtol=1e-5)
    surest = contributions.surest(4, clamp)
    extreme = contributions.probabilities(np.array([[1e3, -1e3, -1e3, -1e3]]), clamp)
    assert_allclose(extreme.max(), surest)
    # e / (e + 3 / e)
    assert_allclose(surest, 1 if clamp == "none" else 0.711235, rtol=1e-5)
