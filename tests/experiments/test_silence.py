"""The silence experiment, on images of 4 pixels that tests write themselves."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import check_refused, run_here, without_timing, write_idx
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import data, runs
from bspec_jax.classifier.recipe import decay_budget
from bspec_jax.classifier.sweeps import Measured
from bspec_jax.data import fashion_mnist
from experiments.keep import keep
from experiments.silence import __main__ as experiment
from experiments.silence import measure as measuring
from experiments.silence import predictions, train
from experiments.silence.cells import Cell
from experiments.silence.config import Config
from experiments.silence.grid import Group, groups

FIGURES = {
    "fig05_active",
    "silence_budget",
    "silence_heat_map",
    "silence_norms",
    "silence_threshold",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of IDX files: ten classes, each a bright pixel of its own and noise."""
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for split, count in (("train", 100), ("test", 40)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        pixels = rng.integers(0, 60, (count, 4, 4)).astype(np.uint8)
        pixels[np.arange(count), labels // 4, labels % 4] = 255
        for name, array in zip(
            fashion_mnist.FILES[split], (pixels, labels), strict=True
        ):
            write_idx(folder / f"{name}.gz", array)
    return folder


def flags_for(images, workdir):
    return [
        *("--data-dir", images, "--workdir", workdir, "--image-size", 4),
        *("--branches", 4, "--sweep-branches", 2, "--sweep-depths", 1, 2),
        *("--width", 3, "--weight-decay", 0.1, "--sweep-weight-decays", 0, 0.4),
        *("--sweep-learning-rates", 0.025, "--repeats", 2, "--steps", 80),
        *("--batch-size", 10, "--init-scale", 1, "--sweep-init-scales", 1),
    ]


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("silence") / "run"
    return workdir, run_here(experiment, *flags_for(images, workdir))


def test_results_and_figures(finished):
    workdir, printed = finished
    results = json.loads((workdir / "results.json").read_text())
    assert {path.stem for path in (workdir / "figures").iterdir()} == FIGURES
    assert not (workdir / "unfinished").exists()
    cells = {
        (c["depth"], c["branches"], c["decay"], c["learning_rate"]): c
        for c in results["cells"]
    }
    assert len(cells) == len(results["cells"]) == 6 + 2 * 3 + 2
    cell = cells[3, 4, 0.1, 0.1]
    assert (cell["branch"], cell["widths"], cell["degree"]) == ("mlp", [3, 3], 3)
    assert (cell["normalisation"], cell["init_scale"]) == ("none", 1)
    # sum of the rates = .1 (T + 1) / 2; times .1 / (1 - .9)
    assert_allclose(cell["decay_budget"], 0.1 * 81 / 2)
    for name in ("accuracy", "active", "active_centred", "active_variance"):
        assert len(cell[name]) == 2
    assert len(cell["along_training"]["active_share"]) == 41
    assert "predictions of docs/silence.md" in printed
    assert printed.count("mlp ") >= len(cells)


def test_a_cell_is_what_its_networks_say(finished, images):
    """Accuracy and activity of one seed from the network trained alone."""
    workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    config = Config.from_settings(results["config"])
    dataset = data.load(**config.data_arguments())
    group = next(g for g in groups(config) if g.branches == 2)
    k = group.settings.index((0.1, 0.1, 1.0))
    from bspec_jax.classifier.network import Pixels, predict
    from bspec_jax.classifier.training import Schedule, fit

    network = train.build(config, group, 10)
    pixels = Pixels(np.float32(dataset.mean), np.float32(dataset.std))
    recipe = train.recipe_of(config)._replace(weight_decay=0.1, epochs=8)
    key = jax.random.split(jax.random.key(0), 2)[1]
    state = fit(
        network,
        recipe,
        pixels,
        dataset.train,
        key,
        workdir.parent / "alone",
        Schedule(80, 80),
        lambda *_: None,
    )
    model, _ = state.parts()
    v = predict(network, **model, images=dataset.test.images, pixels=pixels)
    (cell,) = (c for c in results["cells"] if c["branches"] == 2 and c["decay"] == 0.1)
    assert k == 1
    right = (v.sum(0).argmax(-1) == dataset.test.labels).mean()
    assert_allclose(cell["accuracy"][1], right, atol=1e-6)
    norms = np.linalg.norm((v - v.mean(1)[:, None]).reshape(2, -1), axis=1)
    assert cell["active_centred"][1] == (norms >= 0.1 * norms.max()).sum()


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    finished, images, tmp_path, monkeypatch
):
    """Stopped in the second group, after the first is finished."""
    record, calls = train.record, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return record(*args)

    monkeypatch.setattr(train, "record", stopping)
    given = [str(flag) for flag in flags_for(images, tmp_path / "run")]
    with pytest.raises(KeyboardInterrupt):
        experiment.main(runs.parse_flags(Config, "silence", "", args=given))
    monkeypatch.setattr(train, "record", record)
    run_here(experiment, "--workdir", tmp_path / "run", "--resume")
    resumed, whole = (without_timing(w) for w in (tmp_path / "run", finished[0]))
    assert resumed == whole
    lines = [
        (workdir / "metrics.jsonl").read_text()
        for workdir in (tmp_path / "run", finished[0])
    ]
    assert lines[0] == lines[1]


def test_figures_of_a_finished_run_are_drawn_again(finished):
    workdir, _ = finished
    for path in (workdir / "figures").iterdir():
        path.unlink()
    run_here(experiment, "--workdir", workdir, "--figures-only")
    assert {path.stem for path in (workdir / "figures").iterdir()} == FIGURES


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--branch", "vgg"], "--branch"),
        (["--branch", "resnet", "--depth", 3], "--depth does not apply"),
        (["--branch", "resnet", "--sweep-depths", 3], "--sweep-depths does not apply"),
        (["--branch", "resnet", "--width", 10**5], "of memory"),
        (["--normalisation", "layer"], "--normalisation"),
        (["--depth", 0], "--depth must be at least 1"),
        (["--sweep-depths", 2, 0], "--sweep-depths must be at least 1"),
        (["--width", 0], "--width must be at least 1"),
        (["--weight-decay", -1], "--weight-decay must be finite, >= 0"),
        (["--sweep-weight-decays", 0, "nan"], "--sweep-weight-decays must be"),
        (["--learning-rate", 0], "--learning-rate must be positive"),
        (["--init-scale", "inf"], "--init-scale must be positive"),
        (["--branches", 0], "--branches must be at least 1"),
        (["--branches", 10**8], "of memory"),
        (["--width", 10**7], "of memory"),
        (["--repeats", 10**7], "of memory"),
        (["--steps", 2**31], "--steps must be"),
        (["--quick", "--full"], "--quick and --full exclude one another"),
        (["--dataset", "faces", "--data-dir", "x"], "does not apply"),
        (["--resume"], "--resume needs --workdir"),
        (["--batch-size", 0], "--batch-size must be at least 1"),
    ],
)
def test_invalid_flags_get_a_one_line_answer(flags, words, monkeypatch, capsys):
    check_refused(experiment, flags, 2, words, monkeypatch, capsys)


def test_missing_data_say_what_to_do(monkeypatch, capsys, tmp_path):
    flags = ("--data-dir", tmp_path / "nowhere")
    err = check_refused(experiment, flags, 1, "nowhere", monkeypatch, capsys)
    assert "--dataset faces" in err


def test_a_batch_larger_than_the_data_is_refused(images, monkeypatch, capsys):
    flags = ("--data-dir", images, "--image-size", 4, "--batch-size", 101)
    check_refused(experiment, flags, 2, "--batch-size must be", monkeypatch, capsys)


def test_resnets_have_one_depth_and_stages_that_widen():
    config = Config(branch="resnet", width=3, normalisation="batch", quick=True)
    resolved = config.resolved()
    assert (resolved.depth, resolved.sweep_depths) == (18, (18,))
    assert resolved.resolved() == resolved
    found = groups(resolved)
    assert {(g.widths, g.depth, g.degree) for g in found} == {((3, 6, 12, 24), 18, 2)}
    assert [g.branches for g in found] == [16, 4]
    (plain, *_) = groups(dataclasses.replace(resolved, normalisation="none"))
    assert plain.degree == 5


def test_the_grid_is_a_star():
    config = Config(
        sweep_branches=(8,),
        sweep_depths=(1,),
        sweep_normalisations=("batch",),
        weight_decay=0.1,
        sweep_weight_decays=(0.0, 0.2),
        sweep_learning_rates=(0.5,),
        init_scale=1.0,
        sweep_init_scales=(2.0,),
        repeats=1,
        steps=10,
    )
    main, *others = groups(config)
    grid = {(d, r, 1.0) for d in (0.0, 0.1, 0.2) for r in (0.1, 0.5)}
    assert set(main.settings) == grid | {(0.0, 0.1, 2.0), (0.1, 0.1, 2.0)}
    assert (main.branches, main.depth, main.normalisation) == (16, 3, "none")
    found = {(g.branches, g.depth, g.normalisation): g.settings for g in others}
    by_decay = ((0.0, 0.1, 1.0), (0.1, 0.1, 1.0), (0.2, 0.1, 1.0))
    assert found == {
        (16, 1, "none"): by_decay,
        (16, 3, "batch"): by_decay,
        (8, 3, "none"): ((0.0, 0.1, 1.0), (0.1, 0.1, 1.0)),
    }
    columns = main.columns()
    assert_array_equal(columns.weight_decay, np.float32([s[0] for s in main.settings]))
    assert_array_equal(columns.learning_rate, np.float32([s[1] for s in main.settings]))


def silent_cell(degree=3, seeds=5):
    """Branches 0 and 1 of 4 active and at rest, 2 and 3 without any gradient."""
    group = Group("mlp", (3,) * (degree - 1), "none", 4, ((0.1, 0.1, 1.0),))
    budget = np.array(
        [
            decay_budget(
                train.recipe_of(Config())._replace(weight_decay=0.1, learning_rate=0.1),
                40,
                step,
            )
            for step in range(41)
        ]
    )
    falling = np.exp(-budget)[:, None]
    rng = np.random.default_rng(0)
    layers = np.ones((41, seeds, 4, degree)) + 0.01 * rng.random((1, seeds, 4, degree))
    layers[:, :, 2:] = layers[:, :, 2:] * falling[..., None, None]
    squared = (layers**2).sum(-1)
    growth = 0.1 * squared
    growth[:, :, 2:] = 0
    norms = layers.prod(-1)
    trained = Measured(
        norms=norms[-1],
        centred_norms=norms[-1],
        variances=norms[-1] ** 2,
        accuracy=np.full(seeds, 0.9),
        accuracy_removed=np.full(seeds, 0.85),
        accuracy_pruned=np.full(seeds, 0.9),
    )
    records = {
        "norms": norms,
        "centred_norms": norms,
        "growth": growth,
        "squared_norm": squared,
        "layer_norms": layers,
    }
    return Cell(group, 0.1, 0.1, 1.0, budget, records, trained, 1)


def test_the_predictions_of_a_network_that_follows_the_theory():
    bare = Config(skip_biases=True)
    rows = list(predictions.silent_branches(bare, silent_cell()))
    values = {row["prediction"]: float(row["value"]) for row in rows}
    assert_allclose(values.pop("4a"), -1, atol=1e-6)
    assert_allclose(values.pop("4b"), -1, atol=1e-6)
    assert_allclose(values.pop("5a"), -1, atol=1e-6)
    assert 1 < values.pop("5b") < 1.02
    assert_allclose(values.pop("6a"), 1)
    assert_allclose(values.pop("11"), 0.05)
    assert values == {"6b": 0, "10a": 1, "10b": values["10b"], "11b": 0}
    assert {row["prediction"]: row["holds"] for row in rows}["4a"] is True
    rows = predictions.silent_branches(Config(), silent_cell())
    # A slope is predicted of branches without biases only.
    assert {row["prediction"] for row in rows}.isdisjoint({"4a", "4b", "5a"})


def test_what_foretells_and_when_branches_fall():
    """Norms tell silent_cell's branches from when they fall; one more comes back."""
    cell = silent_cell()
    accuracy = np.linspace(0, 1, 41)[:, None] + np.zeros(5)
    cell.records["train_accuracy"] = accuracy
    found = measuring.foretelling(cell)
    assert found["share_of_steps"] == (0, 0.025, 0.05, 0.1, 0.2)
    auc = {name: values["mean"] for name, values in found["auc"].items()}
    assert_array_equal(auc["norms"][1:], 1)
    assert_array_equal(auc["growth"], 1)
    ratio = np.array([1.0, 0.0])
    cell.records["growth"][0] = cell.records["squared_norm"][0] * ratio.repeat(2)[::-1]
    assert measuring.foretelling(cell)["auc"]["growth"]["mean"][0] == 0
    last = np.flatnonzero(np.exp(-3 * cell.budget) > 0.11)[-1]
    fell = measuring.falls(cell)
    assert_allclose(fell["decay_budget"], np.full(10, cell.budget[last]))
    assert_allclose(fell["train_accuracy"], last / 40)
    assert fell["revived"] == 0
    cell.records["centred_norms"][7, 2, 1] = 0  # silent once, active at the end
    cell.records["centred_norms"][:3, 3, 0] = 0  # silent until the third record
    assert measuring.falls(cell)["revived"] == 1


@pytest.mark.parametrize(
    ("records", "share", "expected"),
    [(41, 0, 0), (41, 0.05, 2), (41, 0.1, 4), (2, 0.05, 1), (2, 0, 0), (80, 0.05, 4)],
)
def test_records_by_the_share_of_the_steps(records, share, expected):
    cell = silent_cell()._replace(budget=np.arange(float(records)))
    assert cell.after(share) == expected


def test_networks_that_do_not_train_say_nothing_about_decay():
    cell = silent_cell()._replace(weight_decay=0.0)
    accuracy = np.array([0.9, 0.4, 0.9, 0.44, 0.9])
    cell = cell._replace(trained=cell.trained._replace(accuracy=accuracy))
    (row,) = predictions.without_decay([cell])
    assert (row["seeds"], row["value"]) == (3, 0.5)
    none = cell._replace(trained=cell.trained._replace(accuracy=0.1 * accuracy))
    assert len(list(predictions.without_decay([cell, none]))) == 1


def test_where_rounding_is_left_all_branches_are_silent(images):
    """Beyond lambda*, decay leaves nothing of any branch; below, everything."""
    config = Config(data_dir=images, image_size=4, learning_rate=0.1, init_scale=1.0)
    dataset = data.load(**config.data_arguments())
    limit = predictions.lambda_star(config, dataset)
    cells = []
    for factor, left in ((2.0, 1e-7), (0.1, 1.0)):
        cell = silent_cell(degree=2)
        rng = np.random.default_rng(1)
        size = left * (1 + rng.random((5, 4)))
        trained = cell.trained._replace(centred_norms=size * np.sqrt(400))
        cells.append(
            cell._replace(
                trained=trained, examples=400, weight_decay=float(factor * limit)
            )
        )
    gone, alive = cells
    assert_array_equal(gone.active, np.zeros(5))
    assert gone.is_silent().all()
    assert_array_equal(alive.active, np.full(5, 4))
    of_two = predictions.of_degree_two(config, cells)
    rows = predictions.threshold(of_two, limit)
    assert {r["prediction"]: r["holds"] for r in rows} == {"8a": True, "8b": True}
    found = measuring.threshold(of_two, limit)
    assert_allclose(found["lambda_star"], limit)
    assert found["decays"] == [alive.weight_decay, gone.weight_decay]
    assert_allclose(found["active_share"]["mean"], [1, 0])
    assert_allclose(found["largest"]["mean"][1], gone.sizes.max(1).mean())
    assert measuring.threshold([alive], limit) is None


def test_batch_norm_is_judged_by_whether_the_data_are_fitted():
    cell = silent_cell()
    group = cell.group._replace(normalisation="batch")
    fits = {**cell.records, "train_accuracy": np.full((41, 5), 1.0)}
    misses = {**cell.records, "train_accuracy": np.full((41, 5), 0.9)}
    assert 0.2 < cell.budget[-1] < 20
    long = np.array([0.0, 30.0])
    cells = [
        cell._replace(group=group, records=misses),
        cell._replace(group=group, records=fits),  # of a budget that decides nothing
        cell._replace(group=group, records=fits, budget=long),
        cell._replace(group=group, records=fits, budget=long, weight_decay=0.0),
        cell._replace(records=fits, budget=long),
    ]
    rows = list(predictions.batch_norm(cells))
    assert [(row["prediction"], row["value"]) for row in rows] == [
        ("9a", 0.5),
        ("9b", 0.5),
    ]
    assert "of 3 layers with BatchNorm, degree 2" in rows[0]["setting"]


def test_a_verdict_needs_an_interval():
    assert predictions.row("1a", "", [0.5])["holds"] is None
    assert predictions.row("1a", "", [0.5, 0.6, 0.55, 0.5, 0.52])["holds"] is True
    assert predictions.row("1a", "", [0.1, 0.12, 0.11, 0.1, 0.13])["holds"] is False
    assert predictions.row("1a", "", [0.1, 0.4, 0.2, 0.3, 0.3])["holds"] is None
    # An AUC is at most 1, and so is the end of its interval.
    certain = predictions.row("10a", "", [0.92, 1, 1, 1, 1])
    assert (certain["holds"], certain["interval"][1]) == (True, 1)
    undefined = predictions.row("4a", "", [np.nan, np.nan])
    assert undefined["holds"] is None
    assert undefined["seeds"] == 0


def test_the_slope_is_least_squares():
    x, y = np.array([0.0, 1.0, 3.0]), np.array([[1.0, 5.0], [0.0, 5.0], [-5.0, 6.0]])
    expected = [np.polyfit(x, column, 1)[0] for column in y.T]
    assert_allclose(predictions.slope(x, y), expected)


def test_lambda_star_is_of_the_loss_at_zero(images):
    """A bias column for hidden biases; by hand for a single direction."""
    config = Config(data_dir=images, image_size=4, repeats=1, steps=1)
    dataset = data.load(**config.data_arguments())
    limit = predictions.lambda_star(config, dataset)
    x = (dataset.train.images.reshape(100, -1) / 255 - dataset.mean) / dataset.std
    x = np.append(x, np.ones((100, 1)), 1)
    p = np.exp(2 * np.eye(10))[dataset.train.labels]
    g = 0.1 - p / p.sum(1, keepdims=True)
    for direction in np.random.default_rng(1).normal(size=(200, 17)):
        z = x @ (direction / np.linalg.norm(direction))
        gain = np.linalg.norm(jnp.where(z >= 0, z, 0.01 * z) @ g) / 100
        assert gain <= limit * 1.001
    # The mean image of a class is a good direction: close to it the bound is reached.
    best = x[dataset.train.labels == 3].mean(0)
    z = x @ (best / np.linalg.norm(best))
    assert limit < 3 * np.linalg.norm(jnp.where(z >= 0, z, 0.01 * z) @ g) / 100


def test_a_kept_run_draws_its_figures(finished, tmp_path):
    keep(finished[0], tmp_path / "kept")
    for path in (tmp_path / "kept" / "figures").iterdir():
        path.unlink()
    run_here(experiment, "--workdir", tmp_path / "kept", "--figures-only")
    kept = {path.stem for path in (tmp_path / "kept" / "figures").iterdir()}
    assert kept == FIGURES
