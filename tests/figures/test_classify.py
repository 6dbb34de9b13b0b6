import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import figures

CLASSES = ["cat", "dog", "owl"]
LABELS = np.repeat([0, 1, 2], 30)
RNG = np.random.default_rng(0)
CONFIDENCE = RNG.normal(size=(4, 90))
IMAGES = np.arange(90, dtype=np.uint8)[:, None, None, None] * np.ones(
    (1, 3, 2, 1), np.uint8
)


def network(branches=4, active=3):
    rng = np.random.default_rng(branches)
    return {
        "branches": branches,
        "active": active,
        "silent": branches - active,
        "class_outputs": rng.normal(size=(branches, 3)).tolist(),
        "class_norms": rng.uniform(size=(branches, 3)).tolist(),
        "covariance": rng.normal(size=(branches, branches)).tolist(),
    }


def sweep(**changes):
    return {
        "branches": [2, 4, 8],
        "repeats": 1,
        "active": [2.0, 3.0, 4.0],
        "silent": [0.0, 1.0, 4.0],
        "control_active": [2.0, 4.0, 8.0],
    } | changes


def test_active_and_silent_branches_on_logarithmic_axes():
    (ax,) = figures.active_against_branches(sweep()).axes
    curves = {line.get_label(): line for line in ax.lines}
    assert_array_equal(curves["active"].get_ydata(), [2, 3, 4])
    assert_array_equal(curves["silent"].get_ydata(), [0.5, 1, 4])  # a half is zero
    assert_array_equal(curves["active in the control"].get_ydata(), [2, 4, 8])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [label.get_text() for label in ax.get_yticklabels()][:2] == ["0", "1"]
    (ax,) = figures.active_against_branches(sweep(control_active=[None] * 3)).axes
    assert "active in the control" not in {line.get_label() for line in ax.lines}


def test_each_covariance_has_its_own_symmetric_scale():
    small, large = [[1.0, -0.5], [-0.5, 0.2]], [[0.0, 8.0], [8.0, 3.0]]
    figure = figures.branch_covariances({"a": small, "b": large})
    for ax, matrix, limit in zip(figure.axes[:2], (small, large), (1, 8), strict=True):
        assert_array_equal(ax.images[0].get_array(), matrix)
        assert ax.images[0].get_clim() == (-limit, limit)


def test_outputs_and_norms_by_branch_and_class():
    one = network()
    figure = figures.branch_outputs(one, CLASSES)
    left, right = figure.axes[:2]
    assert_array_equal(left.images[0].get_array(), one["class_outputs"])
    assert_array_equal(right.images[0].get_array(), one["class_norms"])
    assert [t.get_text() for t in left.get_xticklabels()] == CLASSES
    assert "3 active and 1 silent" in figure.get_suptitle()


def test_confidence_shows_twenty_examples_of_each_class_in_order():
    # The confidence of branch 0 is the label, that of the others the example's number.
    confidence = np.stack([LABELS, *[np.arange(90.0)] * 3])
    figure = figures.branch_confidence(CLASSES, confidence, LABELS)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == (4, 60)
    assert_array_equal(shown[0], np.repeat([0, 1, 2], 20))
    assert len(set(shown[1])) == 60  # none twice
    assert_array_equal(shown[1], shown[2])
    edges = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert edges == [19.5, 39.5]


def test_most_confident_images_of_each_class_and_branch():
    shown = {"images": IMAGES, "labels": LABELS, "confidence": CONFIDENCE}
    figure = figures.most_confident_images(CLASSES, [3, 1], [2, 0], 0.1, **shown)
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


def test_the_sweep_has_a_row_for_each_network():
    networks = [network(2, 2), network(8, 5)]
    axes = figures.branch_outputs_sweep(networks, CLASSES).axes
    pictures = [ax.images[0].get_array() for ax in axes if ax.images]
    for one, outputs, covariance in zip(
        networks, pictures[::2], pictures[1::2], strict=True
    ):
        assert_array_equal(outputs, one["class_outputs"])
        assert_array_equal(covariance, one["covariance"])


def curve(step, name="main", **more):
    record = {"network": name, "step": step, "epoch": step / 10, "accuracy": step / 50}
    return (
        record
        | {"excess_loss": 1 / step, "saturated": 0.1, "norms": [1.0, step]}
        | more
    )


def test_training_curves_are_those_of_the_network():
    curves = [curve(10), curve(20, validation_accuracy=0.7), curve(30, "control")]
    loss, accuracy, norms = figures.classifier_training(curves).axes
    assert_allclose(loss.lines[0].get_xydata(), [[1, 0.1], [2, 0.05]])
    drawn = {line.get_label(): line.get_xydata().tolist() for line in accuracy.lines}
    assert drawn["training"] == [[1, 0.2], [2, 0.4]]
    assert drawn["validation"] == [[2, 0.7]]
    assert [line.get_ydata().tolist() for line in norms.lines] == [[1, 1], [10, 20]]
    assert len(figures.classifier_training([curve(10)]).axes[1].lines) == 2


def test_ablation_bars_and_curves():
    ablation = {
        "full": 0.9,
        "without": [0.9, 0.5, 0.95],
        "alone": [0.1, 0.6, 0.2],
        "order": [1, 2, 0],
        "kept": [0.6, 0.8, 0.9],
    }
    figure = figures.branch_ablation({"ablation": ablation, "pruned": {"branches": 2}})
    left, right = figure.axes
    assert_allclose([bar.get_height() for bar in left.patches], [0, 40, -5], atol=1e-9)
    kept, alone, active = right.lines
    assert_array_equal(kept.get_ydata(), [0.6, 0.8, 0.9])
    assert_array_equal(alone.get_ydata(), [0.6, 0.2, 0.1])
    assert set(active.get_xdata()) == {2}


def test_enrichment_shows_counts_and_marks_what_is_beyond_chance():
    data = {
        "count": [[8, 1], [0, 4]],
        "expected": [[4.0, 4.0], [4.0, 1.0]],
        "significant": [[True, False], [False, False]],
        "significant_pairs": {"trained": 1, "before training": 0},
    }
    ax = figures.branch_enrichment(data, CLASSES[:2]).axes[0]
    assert [text.get_text() for text in ax.texts] == ["8*", "1", "4"]
    assert_allclose(ax.images[0].get_array(), [[1, -2], [-3, 2]])  # at most 3
    assert ax.get_xlabel() == "pairs beyond chance: 1 trained; 0 before training"
