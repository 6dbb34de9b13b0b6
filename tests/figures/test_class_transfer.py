import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax import figures
from bspec_jax.components.pictures import Pictures
from bspec_jax.figures import class_transfer as drawing
from bspec_jax.generator.evaluation import energy_share

M, CLASSES = 3, ("cat", "dog")


@pytest.fixture
def shown():
    rng = np.random.default_rng(0)
    components = rng.normal(size=(M, 4, 6, 6, 3)) * np.array([1, 0.1, 0.01]).reshape(
        M, 1, 1, 1, 1
    )
    residual = rng.uniform(-0.5, 0.5, (4, 6, 6, 3))
    return Pictures(
        images=rng.uniform(-1, 1, (4, 6, 6, 3)),
        labels=np.array([1, 0, 1, 0]),
        residual=residual,
        generated=residual + components.sum(0),
        transfers=rng.uniform(-1, 1, (2, 4, 6, 6, 3)),
        components=components,
        inputs=components[:0],
    )


def drawn(figure):
    """What is drawn, in -1..1, row by row; and the names of the rows."""
    rows, names = {}, []
    for ax in figure.axes:
        spec = ax.get_subplotspec()
        if ax.images:
            values = 2 * np.asarray(ax.images[0].get_array()) - 1
            rows.setdefault(spec.rowspan.start, {})[spec.colspan.start] = values
        names += [text.get_text() for text in ax.texts]
    return [list(rows[i].values()) for i in sorted(rows)], names


def test_stretching_keeps_zero_and_takes_each_part_alone(shown):
    v = shown.components
    found = drawing.stretched(v)
    limit = np.quantile(np.abs(v[2, 3]), 0.995)
    assert_allclose(found[2, 3], np.clip(v[2, 3] / limit, -1, 1))
    assert (np.abs(found).max((2, 3, 4)) == 1).all()
    assert (np.sign(found) == np.sign(v)).all()
    assert (drawing.stretched(0 * v) == 0).all()


def test_figure_9_is_ordered_by_class(shown):
    rows, names = drawn(figures.transfers(CLASSES, shown))
    assert names == ["image $x$", "$R$", "own class", "as cat", "as dog"]
    order = [1, 3, 0, 2]
    assert_allclose(rows[0], shown.images[order], atol=1e-12)
    assert_allclose(rows[4], shown.transfers[1][order], atol=1e-12)


def test_figures_10_and_11_add_components_to_the_generated_image(shown):
    rows, names = drawn(figures.image_components(shown, 2, [2, 0]))
    assert names == ["$v_k$, stretched", "$f + v_k$"]
    f, v = shown.generated[2], shown.components[:, 2]
    expected = np.clip([f, f + v[2], f + v[0]], -1, 1)
    assert_allclose(rows[1], expected, atol=1e-12)
    assert_allclose(rows[0][1], drawing.stretched(v[2]), atol=1e-12)
    own = shown._replace(inputs=shown.components[:, :, ::-1])
    rows, names = drawn(figures.image_components(own, 2, [2, 0]))
    assert names[-1] == "$\\varphi_k$, stretched"
    assert len(rows[2]) == 2  # none below the image itself
    assert_allclose(rows[2][1], drawing.stretched(v[0][::-1]), atol=1e-12)


def test_figures_13_and_14_scale_one_component(shown):
    rows, names = drawn(figures.component_sweep(shown, 1))
    assert names[2:] == [f"${gain} \\times v_k$" for gain in (-1, 0, 1, 2, 3)]
    f, v = shown.generated, shown.components[1]
    assert_allclose(rows[4], np.clip(f, -1, 1), atol=1e-12)
    assert_allclose(rows[3], np.clip(f - v, -1, 1), atol=1e-12)
    assert_allclose(rows[6], np.clip(f + 2 * v, -1, 1), atol=1e-12)


def test_figure_15_sums_subsets(shown):
    rows, names = drawn(figures.component_subsets(shown, [[0, 2], [1]]))
    assert names[2:] == ["sum of 0, 2", "$R$ + 0, 2", "sum of 1", "$R$ + 1"]
    total = shown.components[[0, 2]].sum(0)
    assert_allclose(rows[2], drawing.stretched(total), atol=1e-12)
    expected = np.clip(shown.residual + total, -1, 1)
    assert_allclose(rows[3], expected, atol=1e-12)


def test_figures_18_to_20_show_a_class(shown):
    rows, names = drawn(figures.decompositions(shown, [1, 3], "cat"))
    assert names == ["cat 0", "cat 1"]
    f = np.clip(shown.generated[3], -1, 1)
    assert_allclose(rows[1][1], f, atol=1e-12)
    assert_allclose(rows[1][2], shown.residual[3], atol=1e-12)
    v = shown.components[:, 3]
    assert_allclose(rows[1][3:], drawing.stretched(v), atol=1e-12)
    grey = Pictures(*(leaf if leaf.ndim == 1 else leaf[..., :1] for leaf in shown))
    rows, _ = drawn(figures.decompositions(grey, [1], "cat"))
    assert rows[0][0].shape == (6, 6)


def test_numbers_are_those_of_the_results():
    results = {
        "classes": CLASSES,
        "rates": [[0.9, 0.25], [0.5, 1.0]],
        "rates_residual": [[0.1, 0.2], [0.3, None]],
        "part_scores": {"eyes": {"mean": [3.5, None, 0.1]}, "fur": {"mean": [1, 1, 2]}},
        "layer_scores": {"normal_x": {"mean": [-0.5, 0.25, 0.0]}},
        "energy_share": [0.5, 0.3, 0.2],
        "correlation": np.eye(3).tolist(),
        "initial": {"correlation": np.eye(3).tolist()},
        "active": 3,
        "spectrum": [0.1, 0.2, 0.3],
    }
    left, right = figures.transfer_rates(results).axes
    assert [t.get_text() for t in left.texts] == ["0.90", "0.25", "0.50", "1.00"]
    assert [t.get_text() for t in right.texts] == ["0.10", "0.20", "0.30"]
    parts, layers = figures.component_scores(results).axes
    assert [t.get_text() for t in parts.texts][:2] == ["3.50", "0.10"]
    assert [t.get_text() for t in layers.texts] == ["-0.50", "0.25", "0.00"]
    bars = figures.component_energy(results).axes[0].patches
    assert [bar.get_height() for bar in bars] == [0.5, 0.3, 0.2]
    (line,) = figures.diffusion_spectrum(results).axes[0].lines
    assert line.get_xydata().tolist() == [[1, 0.1], [2, 0.2], [3, 0.3]]


def test_training_curves():
    curves = [
        {
            "step": step,
            "generator_loss": 1.0,
            "discriminator_loss": 2.0,
            "real_accuracy": 0.6,
            "fake_accuracy": 0.7,
        }
        for step in (1, 2, 3)
    ]
    monitored = {
        "transfer_accuracy": 0.5,
        "kept": 0.9,
        "psnr": 15.0,
        "norms": [3.0, 4.0],
        "residual_std": 0.3,
        "image_std": 0.5,
        "input_std": None,
    }
    curves[1] |= monitored
    shares = energy_share(np.array([monitored["norms"]]))
    axes = figures.generator_training(curves, shares).axes
    assert axes[0].lines[1].get_ydata().tolist() == [2.0] * 3
    assert axes[2].lines[1].get_xydata().tolist() == [[2, 0.9]]
    plotted = [line.get_ydata()[0] for line in axes[4].lines]
    assert_allclose(plotted, [9 / 25, 16 / 25])
    assert [text.get_text() for text in axes[4].texts] == [" 0", " 1"]
    assert [line.get_ydata().item() for line in axes[5].lines] == [0.3, 0.5]
    curves[1]["input_std"] = [0.1, 0.2]
    assert len(figures.generator_training(curves, shares).axes[5].lines) == 5


def test_a_single_point_has_a_marker():
    line = {
        "step": 4,
        "generator_loss": 1.0,
        "discriminator_loss": 2.0,
        "real_accuracy": 0.6,
        "fake_accuracy": 0.7,
        "transfer_accuracy": 0.5,
        "kept": 0.9,
        "psnr": 15.0,
        "residual_std": 0.3,
        "image_std": 0.5,
        "input_std": [0.1, 0.2],
    }
    figure = figures.generator_training([line], np.array([[0.4, 0.6]]))
    markers = {
        curve.get_marker()
        for ax in figure.axes
        for curve in ax.lines
        if len(curve.get_xdata())  # not the entry of a legend
    }
    assert markers == {"o"}
