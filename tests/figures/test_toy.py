import matplotlib as mpl
import numpy as np
import pytest

from bspec_jax import figures


def task(**changes):
    return {
        "branches": [2, 4, 8],
        "trials": 50,
        "success_rate": [0.5, 0.9, 1.0],
        "success_interval": [[0.4, 0.6], [0.85, 0.95], [0.9, 1.0]],
        "mean_active": [1.5, 2.5, None],
        "mean_active_interval": [[1.4, 1.6], [2.4, 2.6], [None, None]],
        "mean_silent": [0.5, 1.5, None],
    } | changes


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_success_is_drawn_against_m_with_its_interval():
    figure = figures.toy_success({"toy1": task(), "toy2": task(trials=7)})
    (ax,) = figure.axes
    drawn = lines(ax)["Toy 1 (50 trials each)"]
    np.testing.assert_array_equal(drawn.get_xdata(), [2, 4, 8])
    np.testing.assert_array_equal(drawn.get_ydata(), [0.5, 0.9, 1.0])
    band = ax.collections[0].get_paths()[0].vertices
    assert {0.4, 0.6, 0.85, 0.95}.issubset(set(band[:, 1]))
    assert "95 %" in ax.get_ylabel()


def test_active_and_silent_with_the_overlay_and_a_gap():
    overlay = {"learning_rate": 0.005, "tasks": {"toy1": task(mean_silent=[9, 8, 7])}}
    figure = figures.toy_active({"toy1": task()}, overlay, 0.02)
    left, right = figure.axes
    assert set(lines(left)) == {"Toy 1, step 0.02", "Toy 1, step 0.005"}
    active = lines(left)["Toy 1, step 0.02"].get_ydata()
    np.testing.assert_array_equal(active, [1.5, 2.5, np.nan])
    silent = lines(right)["Toy 1, step 0.005"].get_ydata()
    np.testing.assert_array_equal(silent, [9, 8, 7])


def test_a_single_m_is_a_marker_and_a_bar():
    single = task(
        branches=[4],
        success_rate=[0.9],
        success_interval=[[0.8, 0.95]],
        mean_active=[2.5],
        mean_active_interval=[[2.0, 3.0]],
        mean_silent=[1.5],
    )
    (ax,) = figures.toy_success({"toy1": single}).axes
    no_overlay = {"learning_rate": 0.0, "tasks": {}}
    left, right = figures.toy_active({"toy1": single}, no_overlay, 0.02).axes
    for one in (ax, left, right):
        assert one.lines[0].get_marker() == "o"
    (bar,) = left.collections[0].get_segments()
    assert bar.tolist() == [[4, 2], [4, 3]]


def test_dynamics_draw_each_point_of_each_branch():
    responses = np.arange(5 * 2 * 4.0).reshape(5, 2, 4)
    example = {
        "task": "toy1",
        "trial": 17,
        "share": 0.25,
        "steps": [0, 10, 20, 30, 40],
        "x": [-1.0, 0.0, 0.0, 1.0],
        "y": [1.0, 0.5, 0.5, 1.0],
        "responses": responses.tolist(),
    }
    figure = figures.toy_dynamics(example, "rare_shared", "40 trials of 90 steps")
    title = figure.get_suptitle()
    assert "trial 17; 25 % of 40 trials of 90 steps are of this kind" in title
    for k, ax in enumerate(figure.axes):
        drawn = lines(ax)
        np.testing.assert_array_equal(
            drawn["$x = 1$ (target 1)"].get_ydata(), responses[:, k, 3]
        )
        np.testing.assert_array_equal(
            drawn["$x = 0$ (target 0.5)"].get_ydata(), responses[:, k, 1]
        )


def test_covariances_share_one_symmetric_scale():
    matrices = np.random.default_rng(0).normal(size=(5, 3, 3))
    matrices[2, 0, 0] = -9
    data = {"task": "toy1", "branches": 3, "converged": [True] * 4 + [False]}
    figure = figures.toy_covariances(data | {"matrices": matrices.tolist()})
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(images) >= 5
    for image, matrix in zip(images, matrices, strict=False):
        assert image.get_clim() == (-9, 9)
        np.testing.assert_array_equal(image.get_array(), matrix)
    assert figure.axes[4].get_title() == "trial 4 (failed)"
    diverged = matrices.tolist()
    diverged[1] = [[None] * 3] * 3
    figure = figures.toy_covariances(data | {"matrices": diverged})
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles[:4] == ["trial 0", "trial 2", "trial 3", "trial 4 (failed)"]
    assert "4 trials" in figure.get_suptitle()


def test_response_example_shows_the_table_and_the_curves():
    w, b = np.array([1.0, -1.0, 0.0]), np.array([0.0, 0.5, 0.01])
    x = np.array([-1.0, 0.0, 1.0, 2.0])
    v = w[:, None] * x + b[:, None]
    v = np.where(v >= 0, v, 0.01 * v)
    bends = np.array([-1.4, 0.0, 0.5, 2.4])
    curves = w[:, None] * bends + b[:, None]
    curves = np.where(curves >= 0, curves, 0.01 * curves)
    example = {
        "trial": 3,
        "num_active": 2,
        "active": [True, True, False],
        "responses": v.tolist(),
        "curves": {
            "x": bends.tolist(),
            "responses": curves.tolist(),
            "total": curves.sum(0).tolist(),
        },
    }
    data = {"task": "toy2", "x": x.tolist(), "y": [1.0] * 4, "examples": [example]}
    figure = figures.toy_responses(data)
    left, right = figure.axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), v.T)
    drawn = lines(right)
    assert {"branch 0", "branch 1", "1 silent", "targets"} <= set(drawn)
    total = drawn["sum $f$"]
    at_points = np.interp(x, total.get_xdata(), total.get_ydata())
    np.testing.assert_allclose(at_points, v.sum(0), atol=0.01)


@pytest.mark.parametrize("branches", [[8, 32], [8]])
def test_phase_diagram_has_a_map_for_each_quantity_and_slope(branches):
    shape = (len(branches), 2, 3, 4)
    success = np.linspace(0, 1, np.prod(shape)).reshape(shape)
    active = 1 + success
    active[0, 0, 0, 0] = np.nan  # all trials of a cell diverged
    data = {
        "branches": branches,
        "trials": 5,
        "axes": {
            "negative_slope": [0.0, 0.1],
            "init_scale": [0.1, 1.0, 2.0],
            "learning_rate": [0.01, 0.02, 0.05, 0.1],
        },
        "success_rate": success.tolist(),
        "mean_active": active.tolist(),
        "active_growth": None,
    }
    if len(branches) == 2:
        ratio = (active[1] / active[0]).tolist()
        growth = {"branches": branches, "threshold": 1.5, "ratio": ratio}
        data["active_growth"] = growth
    figure = figures.toy_phase("toy1", data)
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    np.testing.assert_array_equal(images[1], success[-1, 1])
    if len(branches) == 2:
        np.testing.assert_allclose(images[5], active[1, 1] / active[0, 1])
    assert len([ax for ax in figure.axes if ax.get_title()]) == 2


def test_figures_leave_the_callers_style_alone():
    before = mpl.rcParams["font.size"]
    figures.toy_success({"toy1": task()})
    assert mpl.rcParams["font.size"] == before
