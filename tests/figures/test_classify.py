import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import figures

CLASSES = ["cat", "dog", "owl"]


def network(branches=4, active=3):
    rng = np.random.default_rng(branches)
    return {
        "branches": branches,
        "active": active,
        "active_centred": active - 1,
        "silent": branches - active,
        "class_outputs": rng.normal(size=(branches, 3)).tolist(),
        "class_norms": rng.uniform(size=(branches, 3)).tolist(),
        "covariance": rng.normal(size=(branches, branches)).tolist(),
    }


def sweep(**changes):
    return {
        "branches": [2, 4, 8],
        "repeats": 1,
        "active": [2.0, 3.5, 4.0],
        "active_centred": [2.0, 3.0, 4.0],
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
    assert_array_equal(curves["active, norm"].get_ydata(), [2, 3.5, 4])
    assert not ax.collections
    (ax,) = figures.active_against_branches(sweep(control_active=[None] * 3)).axes
    assert "active in the control" not in {line.get_label() for line in ax.lines}


def test_active_branches_by_the_centred_rule_have_an_interval():
    centred = {
        "active_centred": [2.0, 2.5, 3.0],
        "active_centred_interval": [[0.0, 2.0], [2.0, 3.0], [None, None]],
    }
    (ax,) = figures.active_against_branches(sweep(**centred)).axes
    curves = {line.get_label(): line for line in ax.lines}
    assert_array_equal(curves["active"].get_ydata(), [2, 2.5, 3])
    (shade,) = ax.collections
    corners = {tuple(corner) for corner in shade.get_paths()[0].vertices.tolist()}
    assert {(2, 0.5), (2, 2), (4, 2), (4, 3)} <= corners


def test_each_covariance_has_its_own_symmetric_scale():
    small, large = [[1.0, -0.5], [-0.5, 0.2]], [[0.0, 8.0], [8.0, 3.0]]
    figure = figures.branch_covariances({"a": small, "b": large})
    for ax, matrix, limit in zip(figure.axes[:2], (small, large), (1, 8), strict=True):
        assert_array_equal(ax.images[0].get_array(), matrix)
        assert ax.images[0].get_clim() == (-limit, limit)


def test_outputs_and_norms_by_branch_and_class():
    measured = network()
    figure = figures.branch_outputs(measured, CLASSES)
    left, right = figure.axes[:2]
    assert_array_equal(left.images[0].get_array(), measured["class_outputs"])
    assert_array_equal(right.images[0].get_array(), measured["class_norms"])
    assert [t.get_text() for t in left.get_xticklabels()] == CLASSES
    title = "$M = 4$: 2 active, 2 silent (by norm 3 active)"
    assert figure.get_suptitle() == title


def test_the_sweep_has_a_row_for_each_network():
    networks = [network(2, 2), network(8, 5)]
    axes = figures.branch_outputs_sweep(networks, CLASSES).axes
    pictures = [ax.images[0].get_array() for ax in axes if ax.images]
    for measured, outputs, covariance in zip(
        networks, pictures[::2], pictures[1::2], strict=True
    ):
        assert_array_equal(outputs, measured["class_outputs"])
        assert_array_equal(covariance, measured["covariance"])


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


def test_a_single_point_of_a_training_curve_has_a_marker():
    for ax in figures.classifier_training([curve(10)]).axes:
        assert {line.get_marker() for line in ax.lines} == {"o"}
    for ax in figures.classifier_training([curve(10), curve(20)]).axes:
        assert {line.get_marker() for line in ax.lines} == {"None"}


def test_ablation_bars_and_curves():
    figure = figures.branch_ablation(
        points_lost=np.array([0.0, 40.0, -5.0]),
        kept=[0.6, 0.8, 0.9],
        alone=np.array([0.6, 0.2, 0.1]),
        num_active=2,
    )
    left, right = figure.axes
    assert_allclose([bar.get_height() for bar in left.patches], [0, 40, -5], atol=1e-9)
    kept, alone, active = right.lines
    assert_array_equal(kept.get_ydata(), [0.6, 0.8, 0.9])
    assert_array_equal(alone.get_ydata(), [0.6, 0.2, 0.1])
    assert set(active.get_xdata()) == {2}


def norm_curves(**changes):
    rng = np.random.default_rng(0)
    return [
        {
            "network": "main",
            "step": step,
            "decay_budget": budget,
            "norms": rng.uniform(0.1, 1, 3).tolist(),
            "centred_norms": [0.1 * step, 0.3, 0.2],
            "parameter_norms": rng.uniform(0.1, 1, 3).tolist(),
        }
        | changes
        for step, budget in ((10, 2.0), (20, 8.0), (40, 20.0))
    ]


def test_norms_along_training_are_a_line_for_each_branch():
    curves = norm_curves()
    other = {**curves[0], "network": "control"}
    axes = figures.branch_norms([*curves, other]).axes
    for ax, name in zip(
        axes, ("norms", "centred_norms", "parameter_norms"), strict=True
    ):
        assert ax.get_yscale() == "log"
        drawn = [line.get_ydata().tolist() for line in ax.lines]
        assert drawn == np.array([line[name] for line in curves]).T.tolist()
        assert ax.lines[0].get_xdata().tolist() == [10, 20, 40]
    # The last centred norms are 4, .3 and .2: from the darkest colour to the lightest.
    luminance = [np.sum(line.get_color()[:3]) for line in axes[0].lines]
    assert luminance[2] < luminance[1] < luminance[0]


def test_the_axis_on_top_is_the_decay_budget():
    figure = figures.branch_norms(norm_curves())
    (top,) = figure.axes[0].child_axes
    ticks = zip(top.get_xticks(), top.get_xticklabels(), strict=True)
    steps = {float(label.get_text()): step for step, label in ticks}
    assert steps[8] == 20
    assert_allclose(steps[4], 10 + 10 * 2 / 6)
    for without in (norm_curves(decay_budget=0.0), norm_curves()[:1]):
        assert not figures.branch_norms(without).axes[0].child_axes


def test_norms_of_a_run_of_version_0_3():
    curves = [curve(10), curve(20)]
    (ax,) = figures.branch_norms(curves).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1, 1], [10, 20]]
