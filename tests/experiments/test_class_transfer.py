"""The class-transfer command, on small pictures that the tests write themselves."""

import dataclasses
import json
import shutil
import signal
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

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
)
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from bspec_jax import generator, runs
from bspec_jax.components import measures
from bspec_jax.data import folder
from bspec_jax.data.selection import balanced
from bspec_jax.generator import recogniser
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import Notice, UserError
from experiments.class_transfer import __main__ as experiment
from experiments.class_transfer import fid
from experiments.keep import DIGITS, SIGNIFICANT_BITS, keep, rounded

FIGURES = {
    "class_transfer_energy",
    "class_transfer_rates",
    "class_transfer_spectrum",
    "class_transfer_training",
    "fig09_regenerated",
    "fig10_components",
    "fig11_components",
    "fig13_sweep",
    "fig14_sweep",
    "fig15_subsets",
    "fig18_decomposition",
    "fig19_decomposition",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("class_transfer")


@pytest.fixture(scope="module")
def images(shared):
    """Dark and bright pictures, and a bright one that is damaged."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, level in (("dark", 40), ("light", 180)):
            into = shared / "images" / split / name
            into.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(level, level + 60, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(into / f"{i:02}.png")
    (shared / "images" / "train" / "light" / "03.png").write_bytes(b"damaged")
    return shared / "images"


def flags_for(images, workdir):
    return [
        *("--dataset", "folder", "--data-dir", images, "--workdir", workdir),
        *("--preset", "tiny", "--branches", 3, "--test-examples", 12),
        *("--iterations", 6, "--batch-size", 4, "--r1-every", 2, "--log-every", 1),
        *("--checkpoint-every", 2, "--recogniser-epochs", 12),
        *("--diffusion-step", 0.2),
    ]


@pytest.fixture(scope="module")
def finished(shared, images):
    workdir = shared / "run"
    out, err = finish(start("class_transfer", *flags_for(images, workdir)))
    return workdir, json.loads((workdir / "results.json").read_text()), out, err


def held_out(images):
    """The test images in the order of the run, in -1..1, and their classes."""
    part = folder.find(images, 16).test
    split = part.read(balanced(part.labels(), 12, 0))
    return np.asarray(generator.to_signed(jnp.asarray(split.images))), split.labels


def test_results_follow_from_the_checkpoint(finished, images):
    workdir, results, out, _ = finished
    trained = generator.load(workdir)
    assert trained.step == 6
    x, labels = held_out(images)
    assert labels.tolist() == [0, 1] * 6
    own = generator.decompose(trained.model, trained.params, x, labels)
    f = np.clip(own.image, -1, 1)
    assert_allclose(results["psnr"], measures.psnr(x, f).mean(), rtol=1e-4)
    assert_allclose(results["ssim"], measures.ssim(x, f).mean(), rtol=1e-3)
    residual = measures.psnr(x, own.residual).mean()
    assert_allclose(results["psnr_residual"], residual, rtol=1e-4)
    assert_allclose(results["input_std"], own.inputs.std((1, 2, 3, 4)), rtol=1e-3)
    energy = (own.components.astype(float) ** 2).sum((1, 2, 3, 4))
    assert_allclose(results["energy_share"], energy / energy.sum(), rtol=1e-3)
    assert results["active"] == (energy >= 0.01 * energy.max()).sum()
    classifier = recogniser.load(workdir / "checkpoints")
    recognised = classifier.recognise(x)
    assert_allclose(results["recogniser_accuracy"], (recognised == labels).mean())
    other = generator.transfer(trained.model, trained.params, x, 1 - labels)
    hit = classifier.recognise(other) == 1 - labels
    assert_allclose(results["transfer_accuracy"], hit.mean())
    for source in (0, 1):
        rate = hit[labels == source].mean()
        assert_allclose(results["rates"][source][1 - source], rate)
    kept = classifier.recognise(own.image) == labels
    assert_allclose(results["kept"], kept.mean())
    assert results["part_scores"] == {}
    assert results["findings"] == []
    assert f"{results['psnr']:.2f}" in out
    real, fake = classifier.features(x), classifier.features(other)
    distances = [
        measures.frechet_distance(real[labels == c], fake[labels != c]) for c in (0, 1)
    ]
    assert_allclose(results["frechet"], np.mean(distances), rtol=1e-3)
    # All test images are monitored, so that both are the same at the end.
    for name in ("frechet", "psnr", "ssim", "transfer_accuracy", "kept"):
        assert_allclose(results["curves"][-1][name], results[name], rtol=1e-5)


def test_it_says_what_it_monitors_and_skips(finished, images):
    workdir, results, out, err = finished
    lines = results["curves"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    looked = [line["step"] for line in lines if "kept" in line]
    assert looked == [2, 4, 6]
    assert len(lines[1]["norms"]) == len(lines[1]["input_std"]) == 3
    x, _ = held_out(images)
    assert_allclose(lines[1]["image_std"], x.std(), rtol=1e-5)
    variation = measures.total_variation(x).mean()
    assert_allclose(lines[1]["image_variation"], variation, rtol=1e-5)
    assert (lines[1]["penalty"], lines[0]["penalty"] > 0) == (0, True)
    assert {p.stem for p in (workdir / "samples").iterdir()} == {
        "0000002",
        "0000004",
        "0000006",
    }
    assert len(results["unreadable"]) == 1
    assert "light/03.png as an image" in results["unreadable"][0]
    assert (out + err).count("light/03.png") == 1
    assert "1 unreadable images were skipped" in out


def test_figures_of_other_components_and_of_own_images(
    finished, shared, images, monkeypatch, capsys
):
    workdir, _, _, _ = finished
    drawn = workdir / "figures"
    assert {path.stem for path in drawn.iterdir()} == FIGURES
    before = {path: path.read_bytes() for path in drawn.iterdir()}
    again = ("--workdir", workdir, "--figures-only")
    chosen = ("--components", 2, "--sweep", 1, "--subset", "0,2", "1")
    run_here(experiment, *again, *chosen)
    changed = {p.stem for p, old in before.items() if p.read_bytes() != old}
    assert changed <= {"fig10_components", "fig11_components", "fig13_sweep"} | {
        "fig15_subsets"
    }
    assert {"fig10_components", "fig15_subsets"} <= changed
    own = shared / "own"
    own.mkdir()
    Image.new("RGB", (40, 20), (230, 230, 230)).save(own / "mine.png")
    out = run_here(experiment, *again, "--images", own)
    mine = np.full((1, 16, 16, 3), 230 / 127.5 - 1, np.float32)
    taken = recogniser.load(workdir / "checkpoints").recognise(mine)[0]
    assert f"mine.png: taken for {('dark', 'light')[taken]}" in out
    assert {p.stem for p in drawn.iterdir()} - FIGURES >= {
        "own_fig09_regenerated",
        "own_fig10_components",
        "own_fig18_decomposition",
    }
    bad = (*again, "--images", shared / "none.png")
    message = f"cannot read {bad[-1]}"
    check_refused(experiment, bad, 1, message, monkeypatch, capsys)


def test_a_run_is_kept_without_what_trained_it(finished, shared, images):
    workdir, results, _, _ = finished
    kept = shared / "kept"
    keep(workdir, kept, networks=(generator.MAIN, recogniser.NAME))
    expected = rounded(results, DIGITS) | {"config": results["config"]}
    assert runs.load_results(kept) == expected
    one, other = (generator.load(folder) for folder in (workdir, kept))
    assert other.step == 6
    close = partial(assert_allclose, rtol=2.0**-SIGNIFICANT_BITS)
    jax.tree.map(close, one.params, other.params)
    x, _ = held_out(images)
    found, again = (
        recogniser.load(f / "checkpoints").features(x) for f in (workdir, kept)
    )
    assert_allclose(found, again, atol=1e-2 * found.std())
    assert not list(kept.rglob("training"))
    assert {path.name for path in (kept / "checkpoints").glob("generator/*")} == {
        "network.json",
        "6",
    }
    names = {path.name for path in kept.iterdir()}
    arrays_and_logs = {"samples", "decompositions.npz", "metrics.jsonl"}
    assert names == {path.name for path in workdir.iterdir()} - arrays_and_logs
    config = experiment.Config(workdir=kept, figures_only=True)
    with pytest.raises(UserError, match=r"no .*decompositions.npz: "):
        experiment.main(config)
    with pytest.raises(UserError, match="exists already"):
        keep(workdir, kept)
    with pytest.raises(UserError, match="no finished run"):
        keep(images, shared / "never")
    assert not (shared / "never").exists()


def test_a_killed_run_resumes_bit_for_bit(
    finished, shared, images, monkeypatch, capsys
):
    whole, _, _, _ = finished
    workdir = shared / "killed"
    process = start("class_transfer", *flags_for(images, workdir))
    wait_for(workdir / "metrics.jsonl", '"step": 3', process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = checkpoints.steps(workdir / "checkpoints" / generator.MAIN)
    assert 0 < saved[-1] < 6
    network = workdir / "checkpoints" / generator.MAIN / "network.json"
    before = network.read_bytes()
    changed = images / "train" / "dark" / "zz.png"
    Image.new("RGB", (16, 16)).save(changed)
    resume = ("--resume", "--workdir", workdir)
    message = "class dark had 12 training images, and now has 13"
    check_refused(experiment, resume, 1, message, monkeypatch, capsys)
    changed.unlink()
    assert network.read_bytes() == before
    run_here(experiment, *resume)
    one, other = (generator.load(folder) for folder in (whole, workdir))
    jax.tree.map(assert_array_equal, one.params, other.params)
    assert without_timing(workdir) == without_timing(whole)


def test_a_run_that_lost_its_end_is_measured_again(finished, shared):
    """Stopped after the training, with a torn line in the log as of a power cut."""
    whole, _, _, _ = finished
    workdir = shared / "measured_again"
    shutil.copytree(whole, workdir)
    for name in ("results.json", "decompositions.npz"):
        (workdir / name).unlink()
    with (workdir / "metrics.jsonl").open("a") as log:
        log.write('{"step": 7, "gen')
    with pytest.warns(Notice, match="skipped 1 damaged line"):
        experiment.main(
            dataclasses.replace(
                experiment.Config.from_settings(runs.load_results(whole)["config"]),
                workdir=workdir,
                resume=True,
            )
        )
    assert without_timing(workdir) == without_timing(whole)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--image-size", 48), 2, "--image-size must be 16 times a power of two"),
        (("--classes", "dark", "grey"), 2, "folder has no grey, it has dark, light"),
        (("--classes", "dark"), 2, "--classes needs at least two"),
        (("--accumulate", 3), 2, "--batch-size 8 has no 3 equal parts"),
        (("--components", 9), 2, "--components must be 0..8, got 9"),
        (("--subset", "1,x"), 2, "--subset must be numbers with commas"),
        (("--subset", "1,9"), 2, "--subset must name components in 0..8"),
        (("--sigma", 0), 2, "--sigma must be positive and finite, got 0"),
        (("--images", "a.png"), 2, "--images needs --figures-only"),
    ],
)
def test_wrong_input_is_one_line(
    images, tmp_path, monkeypatch, capsys, flags, status, message
):
    base = ("--dataset", "folder", "--data-dir", images, "--preset", "tiny")
    given = (*base, "--workdir", tmp_path / "run", *flags)
    check_refused(experiment, given, status, message, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


def test_the_fid_is_that_of_torch_fidelity(monkeypatch, tmp_path):
    """The library is not among the tests' requirements: a stand-in takes its place."""
    seen = {}

    def calculate_metrics(**options):
        seen.update(options)
        first, second = (
            np.stack([options[name][i] for i in range(len(options[name]))])
            for name in ("input1", "input2")
        )
        return {"frechet_inception_distance": float(first.mean() - second.mean())}

    torch = ModuleType("torch")
    torch.from_numpy = lambda a: a
    torch.cuda = SimpleNamespace(is_available=lambda: False)
    torch.utils = SimpleNamespace(data=SimpleNamespace(Dataset=object))
    monkeypatch.setitem(sys.modules, "torch", torch)
    library = ModuleType("torch_fidelity")
    library.calculate_metrics = calculate_metrics
    monkeypatch.setitem(sys.modules, "torch_fidelity", library)
    real = np.full((3, 4, 4, 1), 9, np.uint8)
    found = fid.fid(real, real[:2] - 4, tmp_path / "weights.pth")
    assert found == 4
    assert seen["feature_extractor_weights_path"] == str(tmp_path / "weights.pth")
    assert len(seen["input1"]) == 3
    assert seen["input1"][0].shape == (3, 4, 4)
    assert (seen["fid"], seen["cache"], seen["cuda"]) == (True, False, False)
    with pytest.raises(runs.FlagError, match="no file"):
        fid.check(tmp_path / "weights.pth")

    def damaged(**options):
        raise RuntimeError("invalid header\nor archive is corrupted")

    library.calculate_metrics = damaged
    message = r"torch-fidelity cannot compute the FID \(invalid header\)"
    with pytest.raises(UserError, match=message):
        fid.fid(real, real, tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # not installed
    with pytest.raises(UserError, match=r"pip install .bspec_jax\[fid\]"):
        fid.check(tmp_path / "weights.pth")
