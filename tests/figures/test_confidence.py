import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import figures
from bspec_jax.classifier import contributions

CLASSES = ["cat", "dog", "owl"]
LABELS = np.repeat([0, 1, 2], 30)
RNG = np.random.default_rng(0)
CONFIDENCE = RNG.normal(size=(4, 90))
IMAGES = np.arange(90, dtype=np.uint8)[:, None, None, None] * np.ones(
    (1, 3, 2, 1), np.uint8
)


def test_confidence_shows_twenty_examples_of_each_class_in_order():
    # The confidence of branch 0 is the label, that of the others the example's number.
    confidence = np.stack([LABELS, *[np.arange(90.0)] * 3])
    sample = contributions.sample_of_each(LABELS, 20)
    figure = figures.branch_confidence(CLASSES, confidence[:, sample], LABELS[sample])
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == (4, 60)
    assert_array_equal(shown[0], np.repeat([0, 1, 2], 20))
    assert len(set(shown[1])) == 60  # none twice
    assert_array_equal(shown[1], shown[2])
    edges = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert edges == [19.5, 39.5]


def test_most_confident_images_of_each_class_and_branch():
    compared = contributions.compare_most_confident(
        CONFIDENCE, LABELS, [3, 1], [2, 0], 0.1
    )
    blocks = [top._asdict() | {"images": IMAGES[top.examples]} for top in compared]
    figure = figures.most_confident_images(CLASSES, blocks, 0.1)
    assert len(figure.axes) == 4
    tops = {}
    for ax, (label, branch) in zip(
        figure.axes, [(2, 3), (2, 1), (0, 3), (0, 1)], strict=True
    ):
        of_class = np.flatnonzero(label == LABELS)
        top = of_class[np.argsort(-CONFIDENCE[branch, of_class])[:3]]  # 10 % of 30
        sheet = np.asarray(ax.images[0].get_array())
        assert_array_equal(sheet[0, [0, 3, 6]], top)  # 2 pixels each, and 1 between
        assert sheet[0, 2] == sheet[3, 0] == 255
        title = ax.get_title(loc="left")
        assert title.startswith(f"{CLASSES[label]}, branch {branch}: ")
        tops[label, branch] = set(top)
    common = len(tops[2, 3] & tops[2, 1])
    assert f"{common} of 3" in figure.axes[0].get_title(loc="left")


def test_enrichment_shows_counts_and_marks_what_is_beyond_chance():
    data = {
        "count": [[8, 1], [0, 4]],
        "log2_ratio": [[1.0, -2.0], [-np.inf, 2.0]],
        "significant": [[True, False], [False, False]],
        "significant_pairs": {"trained": 1, "before training": 0},
    }
    ax = figures.branch_enrichment(data, CLASSES[:2]).axes[0]
    assert [text.get_text() for text in ax.texts] == ["8*", "1", "4"]
    assert_allclose(ax.images[0].get_array(), [[1, -2], [-3, 2]])  # at most 3
    assert ax.get_xlabel() == "pairs beyond chance: 1 trained; 0 before training"
