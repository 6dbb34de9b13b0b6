"""The classifier's command, on images of 8 pixels that tests write themselves."""

import dataclasses
import json
import shutil
import signal
from contextlib import redirect_stdout
from io import StringIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    check_refused,
    finish,
    run_here,
    start,
    wait_for,
    without_timing,
    write_idx,
)
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import classifier, data, runs
from bspec_jax.classifier import contributions, stability
from bspec_jax.classifier.branches import WIDTHS
from bspec_jax.data import fashion_mnist
from bspec_jax.data.augmentation import normalise
from bspec_jax.losses import classification_loss
from bspec_jax.storage import checkpoints, files
from bspec_jax.storage.errors import UserError
from experiments.classify import __main__ as experiment
from experiments.classify import measure, train
from experiments.hessian import __main__ as hessian_experiment
from experiments.hessian import checkpoint
from experiments.keep import keep

FIGURES = {
    "fig05_active",
    "fig05_covariance",
    "fig06_outputs",
    "fig07_confidence",
    "fig08_confident",
    "fig16_confident",
    "fig17_sweep",
    "classify_ablation",
    "classify_enrichment",
    "classify_norms",
    "classify_training",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("classify")


@pytest.fixture(scope="module")
def images(shared):
    """A folder of IDX files: ten classes, each a bright pixel of its own and noise."""
    folder = shared / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 120)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        pixels = rng.integers(0, 60, (count, 8, 8)).astype(np.uint8)
        pixels[np.arange(count), labels // 4 * 2 + 1, labels % 4 * 2] = 255
        for name, array in zip(
            fashion_mnist.FILES[split], (pixels, labels), strict=True
        ):
            write_idx(folder / f"{name}.gz", array)
    return folder


def flags_for(images, workdir):
    return [
        *("--dataset", "fashion_mnist", "--data-dir", images, "--workdir", workdir),
        *("--validation-examples", 60, "--widths", "tiny", "--batch-size", 16),
        *("--branches", 3, "--sweep-branches", 2, "--epochs", 6, "--log-every", 4),
        *("--checkpoint-every", 40, "--learning-rate", 0.02, "--crop-padding", 1),
        *("--skip-flip", "--last-scale", 0.05),
    ]


@pytest.fixture(scope="module")
def finished(shared, images):
    workdir = shared / "run"
    out, _ = finish(start("classify", *flags_for(images, workdir)))
    return workdir, json.loads((workdir / "results.json").read_text()), out


@pytest.fixture(scope="module")
def kept(finished, shared):
    folder = shared / "kept"
    keep(finished[0], folder, networks=("main",), examples=40)
    return folder


def responses(workdir, name="main"):
    with np.load(workdir / "predictions" / f"{name}.npz") as saved:
        return saved["trained"], saved["initial"]


def test_results_follow_from_the_responses(finished, images):
    workdir, results, _ = finished
    v, initial = responses(workdir)
    labels = data.load("fashion_mnist", images, validation_examples=60).test.labels
    assert v.shape == initial.shape == (3, 120, 10)
    f = v.sum(0).astype(float)
    assert_allclose(results["test_accuracy"], (f.argmax(1) == labels).mean())
    p = np.full((120, 10), np.exp(-1))
    p[np.arange(120), labels] = np.exp(1)
    p /= p.sum(1, keepdims=True)
    g = np.clip(f, -1, 1)
    excess = (p * (np.log(p) - g + np.log(np.exp(g).sum(1, keepdims=True)))).sum(1)
    assert_allclose(results["excess_loss"], excess.mean(), rtol=1e-4)
    assert_allclose(results["saturated"], (abs(f).min(1) >= 1).mean())
    flat = v.reshape(3, -1).astype(float)
    assert_allclose(results["covariance"], flat @ flat.T, rtol=1e-4)
    norms = np.linalg.norm(flat, axis=1)
    assert results["active"] == (norms >= 0.1 * norms.max()).sum()
    assert results["active"] + results["silent"] == 3
    without = [((f - v[k]).argmax(1) == labels).mean() for k in range(3)]
    assert_allclose(results["ablation"]["without"], without)
    class_means = [[v[k, labels == c, c].mean() for c in range(10)] for k in range(3)]
    assert_allclose(results["networks"][0]["class_outputs"], class_means, rtol=1e-4)
    assert results["selection"]["branches"] == list(np.argsort(-norms)[:2])
    start = np.linalg.norm(initial.reshape(3, -1), axis=1)
    expected = contributions.enrichment(
        contributions.confidence(initial, labels),
        labels,
        start >= 0.1 * start.max(),
        10,
    )
    pairs = results["enrichment"]["significant_pairs"]
    assert pairs["before training"] == expected.significant.sum()
    assert list(pairs) == ["trained", "before training", "trained separately"]


def test_training_learns_and_starts_from_what_is_called_initial(finished, images):
    workdir, results, _ = finished
    labels = data.load("fashion_mnist", images, validation_examples=60).test.labels
    _, initial = responses(workdir)
    before = contributions.accuracy(initial.sum(0), labels)
    assert before < 0.35 < results["test_accuracy"]
    lines = [line for line in results["curves"] if line["network"] == "main"]
    # 15 steps an epoch: every 4, every 40 and at the end of each.
    stops = {*range(4, 91, 4), 40, 80, *range(15, 91, 15)}
    assert [line["step"] for line in lines] == sorted(stops)
    held_out = [line["step"] for line in lines if "validation_accuracy" in line]
    assert held_out == [15, 30, 45, 60, 75, 90]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_how_long_and_how_far_decay_went(finished):
    workdir, results, out = finished
    # The sum of half-cosines over 90 steps; the customary decay.
    budget = 5e-4 / 0.1 * 0.02 * 91 / 2
    for record in (results, *results["networks"]):
        assert (record["steps"], record["epochs"]) == (90, 6)
        assert_allclose(record["decay_budget"], budget)
    assert f"6 epochs, 90 steps, decay budget {budget:.3g}" in out
    lines = [line for line in results["curves"] if line["network"] == "main"]
    assert_allclose(lines[-1]["decay_budget"], budget)
    rates = [0.01 * (1 + np.cos(np.pi * t / 90)) for t in range(40)]
    (at_40,) = (line["decay_budget"] for line in lines if line["step"] == 40)
    assert_allclose(at_40, 5e-3 * sum(rates))
    saved = json.loads((workdir / "config.json").read_text())
    resolved = {"recipe": "customary", "branch": "resnet", "weight_decay": 5e-4}
    assert saved | resolved == saved


def test_norms_are_logged_and_the_middle_of_the_training_is_kept(finished):
    workdir, results, _ = finished
    main = [line for line in results["curves"] if line["network"] == "main"]
    for line in main:
        norms, centred = np.array(line["norms"]), np.array(line["centred_norms"])
        assert norms.shape == centred.shape == (3,)
        assert (centred < norms).all()
        assert line["active_centred"] == (centred >= 0.1 * centred.max()).sum()
    trained = classifier.load(workdir)
    squares = [
        (leaf.astype(float) ** 2).reshape(3, -1).sum(1)
        for leaf in jax.tree.leaves(jax.tree.map(np.asarray, trained.params))
    ]
    assert_allclose(main[-1]["parameter_norms"], np.sqrt(sum(squares)), rtol=1e-5)
    assert trained.spec.steps == 90
    assert checkpoints.steps(workdir / "checkpoints" / "main") == [0, 45, 80, 90]


def test_a_branch_without_normalisation(shared, images):
    """Its whole way: training, results, figures, the Hessian of all parameters."""
    workdir = shared / "mlp"
    out = run_here(
        experiment,
        *("--recipe", "quick", "--data-dir", images, "--image-size", 8),
        *("--validation-examples", 60, "--epochs", 2, "--batch-size", 16),
        *("--branches", 3, "--widths", 5, 4, "--skip-biases", "--workdir", workdir),
    )
    assert "2 epochs, 30 steps, decay budget" in out
    saved = json.loads((workdir / "config.json").read_text())
    chosen = {"branch": "mlp", "depth": 3, "widths": ["5", "4"], "crop_padding": 0}
    assert saved | chosen | {"normalisation": "none"} == saved
    trained = classifier.load(workdir)
    assert set(trained.params) == {"stem", "layer_1", "head"}
    assert set(trained.params["head"]) == {"kernel"}
    assert jax.tree.leaves(trained.batch_stats) == []
    v, _ = responses(workdir)
    test = data.load("fashion_mnist", images, image_size=8, validation_examples=60).test
    assert_allclose(trained.responses(test.images), v, rtol=1e-5)
    results = json.loads((workdir / "results.json").read_text())
    setting = results["findings"][0]["setting"]
    assert "8 px, all images, mlp 5 4, unnormalised, 2 epochs, decay" in setting
    drawn = {path.stem for path in (workdir / "figures").iterdir()}
    assert drawn == FIGURES - {"fig05_active", "fig17_sweep"}
    assert checkpoint.prepare(workdir).num_parameters == 960  # of the first layer
    of_mlp = shared / "hessian of mlp"
    flags = ("--checkpoint", workdir, "--examples", 20, "--leaves", "*")
    out = run_here(hessian_experiment, *flags, "--workdir", of_mlp)
    assert "M = 3, 1140 parameters of *" in out
    hessian = json.loads((of_mlp / "results.json").read_text())
    last = hessian["tasks"]["classify"]["stages"][-1]["branches"]
    with np.load(of_mlp / "hessians.npz") as saved:
        h = saved["hard_30"]
    values = np.stack([np.linalg.eigvalsh(h[k, :, k]) for k in range(3)]) / 20
    assert np.abs(values[:, [0, -1]]).min() > 1e-3
    assert_allclose(last["lowest"], values[:, 0], rtol=1e-2)
    assert_allclose(last["highest"], values[:, -1], rtol=1e-2)


def test_every_network_is_there_and_the_control_is_another(finished):
    workdir, results, out = finished
    names = [(n["name"], n["branches"]) for n in results["networks"]]
    assert names == [("main", 3), ("branches_2", 2), ("control", 3)]
    assert results["sweep"]["branches"] == [2, 3]
    assert len(results["measures"]["norm"]["control"]["index"]["mean"]) == 2
    alone, together = responses(workdir, "control")[0], responses(workdir)[0]
    assert not np.allclose(alone, together)
    first = responses(workdir, "control")[1], responses(workdir)[1]
    assert_array_equal(*first)  # from the same initial parameters
    verdicts = {key: item["holds"] for key, item in results["observations"].items()}
    assert set(verdicts.values()) == {None}
    assert "verdicts need several networks: --repeats 5" in out


def test_findings_are_the_observations_with_their_setting(finished):
    _, results, _ = finished
    findings = results["findings"]
    assert [finding["observation"] for finding in findings] == list(range(1, 7))
    setting = (
        "fashion_mnist, full size, all images, resnet tiny, BatchNorm, 6 epochs, decay "
        f"budget {results['decay_budget']:.3g}, M = 3, x 1"
    )
    for finding in findings:
        assert (finding["level"], finding["setting"]) == ("classifier", setting)
        record = results["observations"][str(finding["observation"])]
        assert finding | record == finding


def test_the_pruned_network_is_the_sum_of_the_active_branches(finished, images):
    """And of the means of the others, over the training images."""
    workdir, results, _ = finished
    examples = data.load("fashion_mnist", images, validation_examples=60)
    pruned = classifier.load(workdir / "checkpoints" / "pruned")
    v = pruned.responses(examples.test.images)
    trained, _ = responses(workdir)
    centred = trained - trained.mean(1, keepdims=True)
    norms = np.linalg.norm(centred.reshape(3, -1), axis=1)
    active = norms >= 0.1 * norms.max()
    of_training = classifier.load(workdir).responses(examples.train.images)
    constant = of_training[~active].mean(1).sum(0)
    expected = trained[active].sum(0) + constant
    assert_allclose(v.sum(0), expected, rtol=1e-3, atol=1e-3)
    assert results["pruned"]["branches"] == active.sum()
    accuracy = (v.sum(0).argmax(1) == examples.test.labels).mean()
    assert_allclose(results["pruned"]["test_accuracy"], accuracy)
    assert results["pruned"]["parameters_before"] == 3 * 2128 - 3 * 18 * 2  # grey


def test_figures_are_drawn_and_drawn_again(finished, shared, monkeypatch, capsys):
    workdir, _, _ = finished
    figures = workdir / "figures"
    assert {path.stem for path in figures.iterdir()} == FIGURES
    before = {path: path.read_bytes() for path in figures.iterdir()}
    copy = shared / "copy"  # of the network, without saved responses
    unused = shutil.ignore_patterns("figures", "predictions")
    shutil.copytree(workdir, copy, ignore=unused)
    run_here(experiment, "--workdir", copy, "--figures-only")
    again = {workdir / p.relative_to(copy): p for p in copy.glob("figures/*")}
    assert {path: again[path].read_bytes() for path in again} == before
    chosen = [*("--figure-branches", 2), *("--figure-classes", 5, 1)]
    run_here(experiment, "--workdir", workdir, "--figures-only", *chosen)
    changed = {p.stem for p, old in before.items() if p.read_bytes() != old}
    assert changed == {"fig08_confident", "fig16_confident"}
    bad = ("--workdir", workdir, "--figures-only", "--figure-branches", 3)
    message = "--figure-branches must be below 3"
    check_refused(experiment, bad, 2, message, monkeypatch, capsys)


def test_only_some_networks_are_kept(finished, kept, shared):
    workdir, _, _ = finished
    assert [path.name for path in (kept / "checkpoints").iterdir()] == ["main"]
    assert not (kept / "predictions").exists()
    bare = shared / "bare"
    keep(workdir, bare, networks=())
    names = {path.name for path in workdir.iterdir()}
    expected = names - {"checkpoints", "predictions", "examples.npz", "metrics.jsonl"}
    assert {path.name for path in bare.iterdir()} == expected
    with pytest.raises(UserError, match="has no network mine; it has branches_2, cont"):
        keep(workdir, shared / "never", networks=("mine",))
    assert not (shared / "never").exists()


def test_a_kept_run_draws_what_it_has(finished, kept, shared, monkeypatch, capsys):
    again = shared / "kept_again"
    keep(finished[0], again, networks=())
    for workdir, missing in (
        (kept, set()),
        (again, {"fig07_confidence", "fig08_confident", "fig16_confident"}),
    ):
        shutil.rmtree(workdir / "figures")
        experiment.main(experiment.Config(workdir=workdir, figures_only=True))
        drawn = {path.stem for path in (workdir / "figures").iterdir()}
        assert drawn == FIGURES - missing
    flags = ("--workdir", again, "--figures-only", "--figure-branches", 1)
    message = f"--figure-branches: {again} has no test images to show"
    capsys.readouterr()
    check_refused(experiment, flags, 1, message, monkeypatch, capsys)


def test_a_killed_run_resumes_bit_for_bit(
    finished, shared, images, monkeypatch, capsys
):
    whole, _, _ = finished
    workdir = shared / "killed"
    process = start("classify", *flags_for(images, workdir))
    wait_for(workdir / "metrics.jsonl", '"step": 52', process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = workdir / "checkpoints" / "main"
    assert 0 < checkpoints.steps(folder)[-1] < 90
    resuming_a_damaged_copy_is_one_line(shared, images, workdir)
    run_here(experiment, "--workdir", workdir, "--resume")
    unstopped, resumed = (classifier.load(folder) for folder in (whole, workdir))
    assert unstopped.step == resumed.step == 90
    for a, b in zip(leaves(unstopped), leaves(resumed), strict=True):
        assert_array_equal(a, b)
    assert without_timing(workdir) == without_timing(whole)
    flags, message = flags_for(images, workdir), "is finished; nothing to resume"
    check_refused(experiment, [*flags, "--resume"], 1, message, monkeypatch, capsys)


def resuming_a_damaged_copy_is_one_line(shared, images, stopped):
    workdir = shared / "damaged"
    shutil.copytree(stopped, workdir)
    folder = workdir / "checkpoints" / "main"
    last = folder / str(checkpoints.steps(folder)[-1])
    for path in last.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, err = finish(start("classify", *flags_for(images, workdir), "--resume"), 1)
    message = err.splitlines()[-1]
    assert message.startswith("python -m experiments.classify: ")
    assert f"{last}/checksums.json is damaged" in message
    assert "Traceback" not in err
    assert last.exists()


STOPS = {  # the call at which a run stops, as by Ctrl-C
    "a line of the log": (files, "append_metrics", 3),
    "a checkpoint": (checkpoints, "save", 2),
    "responses of the first network": (train, "save_responses", 1),
    "test images": (measure, "save_examples", 1),
    "the pruned network": (checkpoints, "write_spec", 3),
    "results": (runs.folder, "write_json", 4),
}


@pytest.fixture(scope="module")
def short(shared, images):
    """A short run of two networks, and its config."""
    config = experiment.Config(
        workdir=shared / "short",
        dataset="fashion_mnist",
        data_dir=images,
        image_size=4,
        train_examples=32,
        validation_examples=8,
        branch="mlp",  # with BatchNorm, as a ResNet, but compiled sooner
        widths=("4", "4"),
        branches=2,
        batch_size=16,
        epochs=1,
        log_every=1,
        checkpoint_every=1,
        learning_rate=0.02,
        crop_padding=1,
    )
    with redirect_stdout(StringIO()):
        experiment.main(config)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS)
def test_a_run_stopped_anywhere_ends_the_same(short, shared, monkeypatch, stop):
    module, name, number = STOPS[stop]
    function, calls = getattr(module, name), []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    workdir = shared / f"stopped at {stop}"
    config = dataclasses.replace(short, workdir=workdir)
    monkeypatch.setattr(module, name, stopping)
    with pytest.raises(KeyboardInterrupt):
        experiment.main(config)
    assert not (workdir / "results.json").exists()
    experiment.main(dataclasses.replace(config, resume=True))
    assert without_timing(workdir) == without_timing(short.workdir)
    for name in ("main", "control", "pruned"):
        one, other = (
            classifier.load(run.resolve() / "checkpoints" / name)
            for run in (short.workdir, workdir)
        )
        for a, b in zip(leaves(one), leaves(other), strict=True):
            assert_array_equal(a, b)


@pytest.mark.slow
def test_a_resume_with_other_data_is_refused(short, shared, images):
    """And nothing of the run is overwritten."""
    workdir, other = shared / "other_data", shared / "other"
    shutil.copytree(short.workdir, workdir)
    (workdir / "results.json").unlink()
    (workdir / "predictions" / "main.npz").unlink()
    shutil.copytree(images, other)
    labels = fashion_mnist.FILES["train"][1]
    write_idx(other / f"{labels}.gz", np.arange(300).astype(np.uint8) % 10)
    config = runs.folder.read_json(workdir / "config.json", "run")
    (workdir / "config.json").write_text(json.dumps(config | {"data_dir": str(other)}))
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    resumed = dataclasses.replace(short, workdir=workdir, data_dir=other, resume=True)
    with pytest.raises(UserError, match=r"the data of .* have changed: class"):
        experiment.main(resumed)
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


def leaves(loaded):
    return jax.tree.leaves((loaded.params, loaded.batch_stats))


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--widths", 5, 11), 2, "--widths must be one of paper"),
        (("--widths", 5, 11, 0, 3), 2, "--widths must be at least 1, got 5 11 0 3"),
        (("--sweep-branches", 2, 0), 2, "--sweep-branches must be at least 1"),
        (("--batch-size", 241), 2, "--batch-size must be 1 to the 240 training"),
        (
            ("--figure-classes", 10),
            2,
            "--figure-classes must be a class of the test data (0, 1, 2, 3, 4, 5, 6, "
            "7, 8, 9), got 10",
        ),
        (("--learning-rate", 0), 2, "--learning-rate must be positive"),
    ],
)
def test_wrong_input_is_one_line(
    images, tmp_path, monkeypatch, capsys, flags, status, message
):
    base = ("--dataset", "fashion_mnist", "--data-dir", images)
    given = (*base, "--validation-examples", 60, "--workdir", tmp_path / "run", *flags)
    check_refused(experiment, given, status, message, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


def test_widths_by_number(finished, monkeypatch, capsys):
    # The same as the preset; a run of other flags is not resumed.
    workdir, _, _ = finished
    widths = tuple(map(str, WIDTHS["tiny"]))
    config = experiment.Config(widths=widths).resolved()
    assert config.widths_list == WIDTHS["tiny"]
    changed = ("--workdir", workdir, "--resume", "--branches", 4)
    message = "has --branches 3, not 4"
    check_refused(experiment, changed, 1, message, monkeypatch, capsys)


def test_leaves_that_are_too_large(finished, monkeypatch):
    monkeypatch.setattr(checkpoint, "MOST_PARAMETERS", 53)
    with pytest.raises(runs.FlagError, match="chooses 54 parameters in all branches"):
        checkpoint.prepare(finished[0], None)


def test_the_hessian_of_the_checkpoint(finished, shared, images, monkeypatch, capsys):
    trained, results, _ = finished
    workdir = shared / "hessian"
    flags = ("--checkpoint", trained, "--examples", 20, "--workdir", workdir)
    # Compiling it for each stage takes minutes; tests/classifier/test_stability.py.
    nothing = stability.BranchStability(*np.zeros((4, 3)))
    monkeypatch.setattr(stability, "branch_stability", lambda *_: nothing)
    out = run_here(hessian_experiment, *flags)
    assert "M = 3, 54 parameters of stem/kernel, 20 examples" in out
    hessian = json.loads((workdir / "results.json").read_text())
    assert hessian["decay_budget"] == results["decay_budget"]
    assert {path.stem for path in (workdir / "figures").iterdir()} == {
        "fig05_hessian",
        "fig05_hessian_unclamped",
        "hessian_branches",
        "hessian_branches_unclamped",
    }
    last = classifier.load(trained)
    train = data.load("fashion_mnist", images, validation_examples=60).train
    x = normalise(jnp.asarray(train.images[:20]), *last.spec.pixels)
    labels = jnp.asarray(train.labels[:20])
    rng = np.random.default_rng(0)
    direction = jnp.asarray(rng.normal(size=last.params["stem"]["kernel"].shape))

    def loss(t):
        """The summed loss along the direction in the first layer, without a clamp."""
        stem = {"kernel": last.params["stem"]["kernel"] + t * direction}
        params = last.params | {"stem": stem}
        f, _ = last.network.apply(params, last.batch_stats, x, train=False)
        return classification_loss(f, labels, clamp="none").sum()

    slope_and_curvature = jax.jit(lambda t: jax.jvp(jax.grad(loss), (t,), (1.0,)))
    _, curvature = slope_and_curvature(0.0)
    with np.load(workdir / "hessians.npz") as saved:
        h = saved["none_90"]
        clamped, first = saved["hard_90"], saved["none_0"]
    z = np.asarray(direction).reshape(3, -1)
    assert_allclose(np.einsum("kp,kplq,lq->", z, h, z), curvature, rtol=1e-3)
    stages = hessian["tasks"]["classify_unclamped"]["stages"]
    assert [stage["step"] for stage in stages] == [0, 45, 90]
    norms = np.sqrt((h**2).sum((1, 3)))
    assert_allclose(stages[2]["block_norms"], norms, rtol=1e-4)
    own = np.trace(norms**2)
    ratio = np.sqrt(((norms**2).sum() - own) / own)
    assert_allclose(stages[2]["offdiagonal_ratio"], ratio, rtol=1e-4)
    assert hessian["tasks"]["classify"]["clamp"] == "hard"
    assert not np.allclose(h, first, rtol=0.1)
    saturated = results["saturated_coordinates"] > 0
    assert np.allclose(h, clamped) != saturated
    bad = ("--checkpoint", trained, "--leaves", "stem/bias", "--workdir", shared / "no")
    capsys.readouterr()
    message = "--leaves: "
    err = check_refused(hessian_experiment, bad, 2, message, monkeypatch, capsys)
    assert err.count(message) == 1
