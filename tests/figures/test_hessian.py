import numpy as np

from bspec_jax import figures


def hessian_task():
    def stage(step, ratio):
        means = {
            name: {"mean": [0.1, value], "interval": [[0, 0.2], [value, value]]}
            for name, value in (("offdiagonal_ratio", ratio), ("control_ratio", 2.0))
        }
        return {
            "step": step,
            "measures": means,
            "offdiagonal_ratio_quantiles": [ratio * q for q in (0.5, 0.8, 1, 1.2, 2)],
            "spectra": {
                "limit": 100,
                "largest_quantiles": [1, 2, ratio, 8, 9],
                "whole": [None, 1e-9, 0.5, ratio],
            },
            "factors": {
                "thresholds": [1e-3, 1e-2, 1e-1],
                "distributive": [0.1, 0.5, ratio / 10],
                "collaborative": [0, 0, 1],
            },
            "index": {
                "ratios": [1.0, 2.0],
                "indices": [0.3, ratio],
                "rank_correlation": None,
            },
        }

    hessian = np.arange(16.0).reshape(4, 4) - 8
    example = {"branches": 2, "offdiagonal_ratio": 0.25, "hessian": hessian.tolist()}
    return {
        "branches": [2, 30],
        "stages": [stage(0, 4.0), stage(10, 3.0), stage(1000, 1.0)],
        "example": [example | {"step": s} for s in (0, 10, 30, 100, 1000)],
    }


def test_hessian_heat_maps_show_three_stages_and_every_boundary():
    data = hessian_task()["example"]
    figure = figures.hessian_heat_maps("Toy 1", data)
    axes = figure.axes[:3]
    assert [ax.get_title().split(":")[0] for ax in axes] == [
        "step 0",
        "step 30",
        "step 1000",
    ]
    for ax in axes:
        image = ax.images[0]
        np.testing.assert_array_equal(image.get_array(), data[0]["hessian"])
        assert image.get_clim() == (-8, 8)
        vertical, horizontal = (c.get_segments() for c in ax.collections)
        assert [line[0][0] for line in vertical] == [1.5]
        assert [line[0][1] for line in horizontal] == [1.5]
    zero = data[0] | {"hessian": [[0.0] * 4] * 4, "offdiagonal_ratio": None}
    assert len(figures.hessian_heat_maps("Toy 1", [zero]).axes) == 2


def test_hessian_ratio_plots_medians_controls_and_means():
    figure = figures.hessian_ratio({"toy1": hessian_task()})
    left, right = figure.axes
    median, control = left.lines
    assert median.get_xydata().tolist() == [[0, 4], [10, 3], [1000, 1]]
    assert control.get_ydata().tolist() == [2, 2, 2]
    start, end, control = right.lines
    assert start.get_xydata().tolist() == [[2, 0.1], [30, 4]]
    assert end.get_ydata().tolist() == [0.1, 1]
    assert control.get_ydata().tolist() == [0.1, 2]


def test_hessian_eigenvalues_fall_and_show_the_limit():
    left, right = figures.hessian_eigenvalues({"toy2": hessian_task()}).axes
    median, limit = left.lines
    assert median.get_ydata().tolist() == [4, 3, 1]
    assert set(limit.get_ydata()) == {100}
    start = right.lines[0]
    assert start.get_ydata()[:2].tolist() == [4, 0.5]


def test_factors_of_the_first_and_the_last_stage():
    (ax,) = figures.gradient_factors({"toy1": hessian_task()}).axes
    curves = {line.get_label(): line.get_ydata().tolist() for line in ax.lines[:4]}
    assert [v for k, v in curves.items() if "distributive" in k] == [
        [0.1, 0.5, 0.4],
        [0.1, 0.5, 0.1],
    ]
    assert [v for k, v in curves.items() if "collaborative" in k] == [[0, 0, 1]] * 2


def test_index_against_ratio_for_each_network():
    (ax,) = figures.hessian_index({"toy1": hessian_task()}).axes
    assert ax.lines[0].get_xydata().tolist() == [[0.3, 1], [4, 2]]
    assert "undefined" in ax.lines[0].get_label()
