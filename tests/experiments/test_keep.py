import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, command
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from bspec_jax import classifier, generator, runs
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import UserError
from experiments import keep as command_of_keep
from experiments.classify import draw as classify_draw
from experiments.keep import keep, rounded, with_palette, with_significant_bits

RESULTS = {
    "schema": runs.SCHEMA,
    "config": {"learning_rate": 0.123456789, "branches": 3, "bias": True},
    "wall_seconds": 1234567.891,
    "accuracy": None,
    "findings": [{"observation": "section8", "interval": [-0.000123456789, 1e-30]}],
    "steps": [0, 1234567],
    "curves": [],
}
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 14, 14, 1)).astype(np.uint8)


def shapes_of_classifier():
    spec = classifier.ClassifierSpec(
        widths=(2, 2, 4, 4),
        branches=3,
        classes=("a", "b"),
        image_shape=(14, 14, 1),
        mean=(0.5,),
        std=(0.25,),
    )
    image = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    init = classifier.build(spec).init
    params, stats = jax.eval_shape(init, jax.random.key(0), image)
    return spec, {"params": params, "batch_stats": stats}


def shapes_of_generator():
    spec = generator.GeneratorSpec(
        preset="tiny",
        branches=2,
        classes=("a", "b"),
        image_shape=(32, 32, 3),
        residual="gaussian",
        sigma=2.0,
        diffusion_step=1.0,
        precision="float32",
    )
    return spec, generator.shapes(generator.build(spec), spec)


def save_network(folder, spec, shapes, seed):
    """Random parameters at steps 0 and 7; returns the latter."""
    rng = np.random.default_rng(seed)

    def leaf(shape):
        return rng.normal(0, 0.1, shape.shape).astype(shape.dtype)

    checkpoints.write_spec(folder, spec)
    for step in (0, 7):
        model = jax.tree.map(leaf, shapes)
        checkpoints.save(folder, step, model=model, training={"momentum": model})
    return model


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with everything that one may hold, and its two networks."""
    workdir = tmp_path_factory.mktemp("run")
    for name, data in (
        ("data", {"dataset": "faces", "classes": ["a", "b"]}),
        ("config", {"experiment": "classify", "schema": runs.SCHEMA}),
        ("environment", {"command": ["python", "-m", "experiments.classify"]}),
        ("results", RESULTS),
    ):
        (workdir / f"{name}.json").write_text(json.dumps(data))
    (workdir / "metrics.jsonl").write_text("{}\n")
    labels = np.arange(20) % 2
    np.savez(workdir / "examples.npz", images=IMAGES, labels=labels)
    np.savez(workdir / "hessians.npz", h=np.zeros(3))
    for name in ("figures", "samples", "predictions"):
        (workdir / name).mkdir()
        photo().save(workdir / name / "fig01.png")
    networks = {
        name: save_network(workdir / "checkpoints" / name, *network, seed)
        for seed, (name, network) in enumerate(
            [("main", shapes_of_classifier()), ("generator", shapes_of_generator())]
        )
    }
    return workdir, networks


def photo():
    """Smooth noise in more than `MANY_COLOURS` colours, on white."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    image = Image.new("RGB", (201, 151), "white")
    image.paste(Image.fromarray(noise).resize((140, 140)), (5, 5))
    return image


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_flags_results_and_figures_are_kept(finished, tmp_path):
    workdir, _ = finished
    kept = tmp_path / "new" / "kept"
    keep(workdir, kept)
    assert names(kept) == {
        "config.json",
        "environment.json",
        "data.json",
        "results.json",
        "figures",
        "figures/fig01.png",
    }
    for name in ("config.json", "environment.json", "data.json"):
        assert (kept / name).read_bytes() == (workdir / name).read_bytes()
    results = runs.load_results(kept)
    assert results["config"] == RESULTS["config"]  # as in config.json
    assert results["wall_seconds"] == 1234600.0
    assert results["findings"][0]["interval"] == [-0.00012346, 1e-30]
    assert {**results, "findings": 0, "wall_seconds": 0} == {
        **RESULTS,
        "findings": 0,
        "wall_seconds": 0,
    }
    assert (kept / "results.json").read_text().count("\n") == 1
    with Image.open(kept / "figures" / "fig01.png") as image:
        assert (image.mode, image.size) == ("P", (201, 151))
    size = (workdir / "figures" / "fig01.png").stat().st_size
    assert (kept / "figures" / "fig01.png").stat().st_size < size / 2
    assert [path.name for path in kept.parent.iterdir()] == ["kept"]


def test_only_some_figures_are_kept(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    for name in ("fig02", "fig03"):
        shutil.copy(workdir / "figures" / "fig01.png", workdir / f"figures/{name}.png")
    keep(workdir, tmp_path / "kept", figures=("fig03", "fig01"))
    assert names(tmp_path / "kept" / "figures") == {"fig01.png", "fig03.png"}
    message = "has no figure fig04; it has fig01, fig02, fig03"
    with pytest.raises(UserError, match=message):
        keep(workdir, tmp_path / "other", figures=("fig01", "fig04"))
    assert not (tmp_path / "other").exists()


def test_networks_are_kept_on_request(finished, tmp_path):
    workdir, networks = finished
    kept = tmp_path / "kept"
    keep(workdir, kept, networks=("main", "generator"), examples=5)
    for name in networks:
        folder = kept / "checkpoints" / name
        assert {path.name for path in folder.iterdir()} == {"network.json", "7"}
        files = {path.name for path in (folder / "7").iterdir()}
        assert files == {"model", "checksums.json"}
    main = classifier.load(kept)
    assert main.step == 7
    restored = {
        "main": {"params": main.params, "batch_stats": main.batch_stats},
        "generator": generator.load(kept).params,
    }
    for name, original in networks.items():
        found = restored[name]
        assert jax.tree.structure(found) == jax.tree.structure(original)
        for new, old in zip(*map(jax.tree.leaves, (found, original)), strict=True):
            assert new.dtype == old.dtype
            assert_array_equal(new, with_significant_bits(old, 12))
            assert_allclose(new, old, rtol=2**-12)
    assert main.responses(IMAGES).shape == (3, 20, 2)
    for path in kept.rglob("*"):  # no path of the machine in any file
        if path.is_file():
            assert tmp_path.name.encode() not in path.read_bytes(), path
    with np.load(kept / "examples.npz") as examples:
        assert_array_equal(examples["images"], IMAGES[:5])
        assert_array_equal(examples["labels"], [0, 1, 0, 1, 0])


def test_rounded_parameters_compress(finished, tmp_path):
    weights = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)

    def size(bits):
        model = {"w": with_significant_bits(weights, bits)}
        checkpoints.save(tmp_path / str(bits), 0, model=model)
        files = (tmp_path / str(bits) / "0" / "model").rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())

    assert size(12) < 0.8 * size(24)


def test_numbers_are_rounded_and_the_rest_stays():
    value = {"a": [1.2345678, 123456789, True, None, "1.2345678"], "b": {"c": -2e-9}}
    expected = {"a": [1.235, 123456789, True, None, "1.2345678"], "b": {"c": -2e-9}}
    assert rounded(value, 4) == expected
    assert isinstance(rounded([True], 4)[0], bool)
    assert isinstance(rounded([3.0], 4)[0], float)
    assert rounded(rounded(0.123456, 3), 3) == 0.123


def test_significant_bits_round_to_the_nearest():
    normal = np.random.default_rng(0).normal(size=1000)
    x = (normal * 10.0 ** np.linspace(-30, 30, 1000)).astype(np.float32)
    found = with_significant_bits(x, 12)
    assert found.dtype == np.float32
    assert_allclose(found, x, rtol=2**-12)
    assert not (found.view(np.uint32) & 0xFFF).any()
    # 1 + j / 2^11 are the numbers of 12 bits from 1 to 2
    spaced = np.float32([1 + 0.4 / 2**11, -1 - 0.6 / 2**11, 1 + 3 / 2**11])
    expected = np.float32([1, -1 - 1 / 2**11, 1 + 3 / 2**11])
    assert_array_equal(with_significant_bits(spaced, 12), expected)
    special = np.float32([0, -0.0, np.inf, -np.inf, np.nan])
    assert_array_equal(with_significant_bits(special, 12), special)
    for other in (np.arange(5000), np.full(3, 1 / 3)):  # integers and float64
        assert with_significant_bits(other, 12) is other


def test_a_heat_map_stays_exact():
    levels = np.arange(256)
    colours = np.stack([levels, 255 - levels // 2, np.full(256, 7)], -1)
    heat_map = colours[np.random.default_rng(0).integers(0, 256, (40, 50))]
    heat_map[0, 0] = 255  # with the page's white, one colour too many: 1 off at most
    image = Image.fromarray(heat_map.astype(np.uint8))
    found = np.asarray(with_palette(image.convert("RGBA")).convert("RGB"))
    assert abs(found.astype(int) - heat_map).max() <= 1
    assert_array_equal(found[0, 0], [255, 255, 255])
    grey = Image.fromarray(heat_map[..., 0].astype(np.uint8))
    assert_array_equal(with_palette(grey).convert("L"), grey)


def test_a_photo_is_close_and_its_page_white():
    original = np.asarray(photo()).astype(float)
    found = np.asarray(with_palette(photo()).convert("RGB"))
    assert_array_equal(found[-1, -1], [255, 255, 255])
    assert np.sqrt(((found - original) ** 2).mean()) < 12
    assert abs((found - original).mean()) < 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"networks": ("mine",)}, "has no network mine; it has generator, main"),
        ({"networks": ("main", "x")}, "has no network x"),
        ({"examples": 0}, "--examples must be at least 1, got 0"),
        ({"examples": 21}, "--examples must be at most 20, got 21"),
    ],
)
def test_a_wrong_request_leaves_nothing(finished, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        keep(finished[0], tmp_path / "kept", **flags)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_kept_leaves_nothing(finished, tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        keep(tmp_path, tmp_path / "kept")
    with pytest.raises(UserError, match="exists already; choose another folder"):
        keep(finished[0], tmp_path)
    other = tmp_path / "other"
    keep(finished[0], other)
    with pytest.raises(UserError, match=r"has no examples\.npz; only runs of classify"):
        keep(other, tmp_path / "kept", examples=5)
    with pytest.raises(UserError, match="has no network main; it has none"):
        keep(other, tmp_path / "kept", networks=("main",))
    (other / "checkpoints" / "main").mkdir(parents=True)
    with pytest.raises(UserError, match="no checkpoint in"):
        keep(other, tmp_path / "kept", networks=("main",))
    path = other / "figures" / "fig01.png"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"fig01\.png is damaged; redraw it"):
        keep(other, tmp_path / "kept")
    (other / "data.json").unlink()  # of a run that reads none, or an old one
    shutil.copy(finished[0] / "figures" / "fig01.png", path)
    keep(other, tmp_path / "kept")
    assert not (tmp_path / "kept" / "data.json").exists()
    shutil.rmtree(tmp_path / "kept")
    config = json.loads((other / "config.json").read_text())
    for name in ("benchmarks.toy_sweep", "../toy", None):
        changed = json.dumps(config | {"experiment": name})
        (other / "config.json").write_text(changed)
        with pytest.raises(UserError, match="which has no figures"):
            keep(other, tmp_path / "kept")
    (other / "config.json").write_text(json.dumps(config))
    results = json.loads((other / "results.json").read_text())
    (other / "results.json").write_text(json.dumps({"schema": runs.SCHEMA}))
    with pytest.raises(UserError, match=r"results\.json is damaged or incomplete"):
        keep(other, tmp_path / "kept")
    (other / "results.json").write_text(json.dumps(results | {"schema": 1}))
    with pytest.raises(UserError, match=r"has schema 1, and this version reads 3"):
        keep(other, tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_command_takes_its_flags(finished, tmp_path):
    flags = (finished[0], tmp_path / "kept", "--networks", "main", "--examples", 4)
    call = command("keep", *flags)
    ended = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r".*/kept: \d+\.\d MiB\n", ended.stdout)
    assert (tmp_path / "kept" / "checkpoints" / "main" / "7" / "model").is_dir()
    ended = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "exists already; choose another folder" in ended.stderr


def test_a_flipped_bit_of_a_kept_network_is_noticed(finished, tmp_path):
    kept = tmp_path / "kept"
    keep(finished[0], kept, networks=("main", "main"))
    parts = (kept / "checkpoints" / "main" / "7" / "model").rglob("*")
    path = max(parts, key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        classifier.load(kept)


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        ([], 2, "RUN"),
        (["run"], 2, "INTO"),
        (["run", "into", "more"], 2, "more"),
        (["run", "into", "--examples", "x"], 2, "--examples"),
        (["run", "into", "--netwoks", "main"], 2, "--networks"),
        (["/nowhere", "/nowhere/kept"], 1, "no finished run at /nowhere"),
    ],
)
def test_wrong_words_get_one_line(flags, status, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["keep", *flags])
    with pytest.raises(SystemExit) as end:
        command_of_keep.main()
    _, err = capsys.readouterr()
    assert end.value.code == status
    assert err.count("\n") == 1
    assert words in err


def test_a_tilde_is_the_home_folder(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    keep(finished[0], Path("~/copy"))
    assert (tmp_path / "copy" / "results.json").exists()
    with pytest.raises(UserError, match="no such home folder"):
        keep(finished[0], Path("~nobody-of-that-name/copy"))


@pytest.mark.parametrize(
    ("error", "status", "end"),
    [
        (OSError(28, "No space left on device"), 1, "COPY: No space left on device\n"),
        (KeyboardInterrupt(), 130, "stopped; nothing is kept\n"),
    ],
)
def test_a_copy_that_ends_early_leaves_nothing(
    error, status, end, finished, tmp_path, monkeypatch, capsys
):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(command_of_keep.files, "write_json", fail)
    monkeypatch.setattr(os, "_exit", sys.exit)
    copy = str(tmp_path / "copy")
    monkeypatch.setattr("sys.argv", ["keep", str(finished[0]), copy])
    with pytest.raises(SystemExit) as ended:
        command_of_keep.main()
    assert ended.value.code == status
    err = capsys.readouterr().err
    assert err.endswith("keep: " + end.replace("COPY", copy))
    assert not list(tmp_path.iterdir())


def test_of_a_long_training_few_lines_are_kept(monkeypatch):
    monkeypatch.setattr(classify_draw, "ENOUGH_LINES", 3)
    curves = [
        {"network": name, "step": step}
        | ({"validation_accuracy": 0.5} if step in validated else {})
        for name, validated in (("control", ()), ("main", (1, 2, 6, 7, 8)))
        for step in range(10)
    ]
    kept = classify_draw.needed({"curves": curves, "loss": 2.0})
    found = [(line["network"], line["step"]) for line in kept["curves"]]
    # 0, 4 and 9 of all, and 1, 6 and 8 of those with a validation accuracy.
    assert found == [("main", step) for step in (0, 1, 4, 6, 8, 9)]
    assert kept["loss"] == 2.0
    assert classify_draw.needed({"curves": []}) == {"curves": []}
