import numpy as np
from numpy.testing import assert_array_equal

from bspec_jax import figures
from bspec_jax.figures import hessian


def hessian_task():
    def means(*values):
        interval = [[value, value] for value in values]
        return {"mean": values, "interval": interval, "networks": [9, 4]}

    def stage(step, ratio):
        names = ("vanishing_distributive", "vanishing_share", "vanishing_gradient")
        names += ("orthogonal",)
        shares = {name: means(0.1 * i, None) for i, name in enumerate(names)}
        return {
            "step": step,
            "measures": {"block_index": means(0.1, ratio / 8), **shares},
            "block_index_quantiles": [ratio / 8 * q for q in (0.5, 0.8, 1, 1.2, 1.5)],
            "spectra": {
                "limit": 100,
                "largest_quantiles": [1, 2, ratio, 8, 9],
                "whole": [None, 1e-9, 0.5, ratio],
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
        "control": {"block_index": means(0.0, 0.25)},
        "observations": {"7": {"threshold": 0.9}, "section8": {"threshold": 0.5}},
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


def test_the_block_index_along_training_and_with_start_and_control():
    figure = figures.hessian_block_index({"toy1": hessian_task()})
    left, right = figure.axes
    median, limit = left.lines
    assert median.get_xydata().tolist() == [[0, 0.5], [10, 0.375], [1000, 0.125]]
    assert set(limit.get_ydata()) == {0.9}
    start, end, control, limit = right.lines
    assert start.get_xydata().tolist() == [[2, 0.1], [30, 0.5]]
    assert end.get_ydata().tolist() == [0.1, 0.125]
    assert control.get_ydata().tolist() == [0, 0.25]
    assert set(limit.get_ydata()) == {0.9}


def test_hessian_eigenvalues_fall_and_show_the_limit():
    left, right = figures.hessian_eigenvalues({"toy2": hessian_task()}).axes
    median, limit = left.lines
    assert median.get_ydata().tolist() == [4, 3, 1]
    assert set(limit.get_ydata()) == {100}
    start = right.lines[0]
    assert start.get_ydata()[:2].tolist() == [4, 0.5]


def test_vanishing_factors_and_the_number_of_networks():
    (ax,) = figures.vanishing_factors({"toy1": hessian_task()}).axes
    *shares, limit = ax.lines
    drawn = [line.get_ydata().tolist()[0] for line in shares]
    np.testing.assert_allclose(drawn, [0, 0.1, 0.2, 0.3])
    assert np.isnan(shares[0].get_ydata()[1])
    assert set(limit.get_ydata()) == {0.5}
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2\n(9)", "30\n(4)"]


def test_index_against_ratio_for_each_network():
    (ax,) = figures.hessian_index({"toy1": hessian_task()}).axes
    assert ax.lines[0].get_xydata().tolist() == [[0.3, 1], [4, 2]]
    assert "undefined" in ax.lines[0].get_label()


def test_a_large_hessian_keeps_its_largest_entries(monkeypatch):
    monkeypatch.setattr(hessian, "MOST_CELLS", 5)
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(14, 14))  # two branches of seven parameters
    shown = hessian.largest_entries(matrix, 2)
    assert shown.shape == (4, 4)
    edges = [0, 3, 7, 10, 14]
    for i, j in np.ndindex(4, 4):
        part = matrix[edges[i] : edges[i + 1], edges[j] : edges[j + 1]].ravel()
        assert shown[i, j] == part[np.abs(part).argmax()]
    monkeypatch.setattr(hessian, "MOST_CELLS", 14)
    assert_array_equal(hessian.largest_entries(matrix, 2), matrix)
    undefined = np.full((14, 14), np.nan)
    assert np.isnan(hessian.largest_entries(undefined, 2)).all()
