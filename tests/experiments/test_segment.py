import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from helpers import (
    ROOT,
    check_refused,
    finish,
    refuse,
    run_here,
    start,
    without_timing,
    write_generator,
    write_idx,
)
from numpy.testing import assert_allclose
from PIL import Image

from bspec_jax import generator
from bspec_jax.components import segmentation
from bspec_jax.components.chan_vese import Border
from bspec_jax.components.segmentation import Choice
from bspec_jax.data import faces, fashion_mnist, sources
from bspec_jax.data.selection import balanced
from bspec_jax.generator import to_signed
from bspec_jax.storage.errors import UserError
from experiments.segment import __main__ as experiment
from experiments.segment.analysis import mask_scores
from experiments.segment.config import Config
from experiments.segment.data import load_images, mask_names

pytestmark = pytest.mark.usefixtures("optimised")

RUN = ROOT / "docs" / "runs" / "faces_diffusion"
FEW = ("--choose-examples", 1, "--test-examples", 6, "--largest", 1)
BY_HAND = ("--surface-components", 3, 8, "--image-components", 6, "--dark")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("segment")


@pytest.fixture(scope="module")
def finished(shared):
    workdir = shared / "run"
    flags = ("--checkpoint", RUN, "--workdir", workdir, *FEW, *BY_HAND)
    out, _ = finish(start("segment", *flags))
    return workdir, json.loads((workdir / "results.json").read_text()), out


@pytest.fixture(scope="module")
def truth():
    """The held-out faces of the run, by class."""
    labels = faces.labels("test")
    chosen = balanced(labels, 6, 0)
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    return faces.ground_truth("test", chosen, 64), labels[chosen]


def saved_masks(workdir):
    paths = sorted((workdir / "masks").glob("*.png"))
    masks = [np.array(Image.open(path)) for path in paths]
    return [path.stem for path in paths], np.stack(masks)


def test_masks_are_those_of_the_library(finished, truth):
    names, masks = saved_masks(finished[0])
    assert names == [f"{c}_{i:04d}" for i, c in enumerate(np.repeat(faces.CLASSES, 2))]
    face, labels = truth
    x = to_signed(np.round(255 * face.image).astype(np.uint8))
    trained = generator.load(RUN)
    own = generator.decompose(trained.model, trained.params, x, labels)
    choice = Choice((3, 8), (6,), True, 0.7)
    expected = segmentation.segment(own.inputs, choice, Border(length=0.02, inside=4.0))
    assert masks.dtype == bool
    assert masks.any()
    stack = segmentation.scalarise(own.inputs)
    converged = segmentation.segment_all(stack, [choice]).converged
    saved = finished[1]["methods"]["components"]["converged"]
    assert saved == converged.sum() >= 5
    assert (masks != expected).mean() < 1e-3  # rounding of the images


def test_scores_are_those_of_the_masks(finished, truth):
    workdir, results, out = finished
    _, masks = saved_masks(workdir)
    right = truth[0].masks
    for part, value in results["iou"].items():
        assert_allclose(value, segmentation.iou(masks, right[part]).mean(), rtol=1e-6)
    found = results["methods"]["components"]
    assert found["choice"] == {
        "surface": [3, 8],
        "image": [6],
        "dark": True,
        "level": 0.7,
    }
    eyes = right["eyes"]
    both = (masks & eyes).sum()
    assert_allclose(found["all"]["precision"], both / masks.sum(), rtol=1e-6)
    assert_allclose(found["all"]["recall"], both / eyes.sum(), rtol=1e-6)
    dogs = slice(2, 4)
    assert_allclose(
        found["by_class"]["dog"]["iou"],
        segmentation.iou(masks[dogs], eyes[dogs]).mean(),
        rtol=1e-6,
    )
    methods = results["methods"]
    assert set(methods) == {"components", "best", "plain", "plain_best"}
    assert methods["plain"]["choice"]["image"] == [0]
    assert methods["best"]["value"] > methods["plain_best"]["value"]
    assert all(method["converged"] in range(7) for method in methods.values())
    count = methods["components"]["converged"]
    assert f"{count} of 6 borders converged" in out
    assert "components   surface [3, 8] (dark) above 0.7, image [6]" in out
    for name in ("fig12_segmentation", "fig21_segmentation", "segmentation_scores"):
        assert (workdir / "figures" / f"{name}.png").stat().st_size > 10_000


def test_the_same_seed_gives_the_same_results(finished, shared):
    workdir, _, _ = finished
    again = shared / "again"
    flags = ("--checkpoint", RUN, "--workdir", again, *FEW, *BY_HAND)
    run_here(experiment, *flags)
    assert without_timing(again) == without_timing(workdir)


def test_figures_are_drawn_again(finished):
    workdir, _, _ = finished
    path = workdir / "figures" / "fig21_segmentation.png"
    before = path.read_bytes()
    path.unlink()
    run_here(experiment, "--workdir", workdir, "--figures-only")
    assert path.read_bytes() == before


def test_classes_of_any_name_have_masks(tmp_path):
    """Of Fashion-MNIST's T-shirt/top, whose name is no file's."""
    images, classes = tmp_path / "images", ("T-shirt/top", "Bag")
    images.mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        pixels = rng.integers(0, 256, (6, 16, 16)).astype(np.uint8)
        labels = np.array([0, 8, 1] * 2, np.uint8)
        for name, array in zip(
            fashion_mnist.FILES[split], (pixels, labels), strict=True
        ):
            write_idx(images / name, array)
    write_generator(
        tmp_path / "generator",
        classes=classes,
        image_shape=(16, 16, 1),
        dataset="fashion_mnist",
    )
    workdir = tmp_path / "run"
    out = run_here(
        experiment,
        *("--checkpoint", tmp_path / "generator", "--data-dir", images),
        *("--workdir", workdir, *FEW),
    )
    assert saved_masks(workdir)[0] == [
        *("Bag_0002", "Bag_0003", "T-shirt_top_0000", "T-shirt_top_0001")
    ]
    assert "plain        T-shirt/top" in out
    results = json.loads((workdir / "results.json").read_text())
    assert results["iou"] is None  # and its figures are drawn


@pytest.mark.parametrize(
    "names",
    [
        ("a/tom.png", "b/tom.png", "tom.jpg", "Tom.gif"),
        ("CON.png", "..png", " .png", "a:b.png", "A?b.png"),
    ],
)
def test_masks_of_your_own_images_have_distinct_names(names, tmp_path):
    found = mask_names([tmp_path / name for name in names])
    assert len({name.casefold() for name in found}) == len(names)
    for name in found:
        assert not set("/:?") & set(name)
    with pytest.raises(UserError, match="2 images would have a mask called a_tom"):
        mask_names([tmp_path / "a" / "tom.png", tmp_path / "c" / "a" / "tom.png"])


@pytest.mark.slow
def test_your_own_images(shared, truth):
    folder = shared / "mine"
    folder.mkdir()
    for name, image in (("tom", truth[0].image[0]), ("rex", truth[0].image[2])):
        picture = Image.fromarray(np.uint8(np.round(255 * image)))
        picture.resize((80, 80)).save(folder / f"{name}.png")
    workdir = shared / "own"
    out = run_here(
        experiment,
        *("--checkpoint", RUN / "checkpoints" / "generator", "--images", folder),
        *("--workdir", workdir, *BY_HAND),
    )
    assert "tom.png: 80 x 80, resized to 64 x 64" in out
    assert "tom.png: taken for cat" in out
    names, masks = saved_masks(workdir)
    assert names == ["rex", "tom"]
    assert masks.shape == (2, 64, 64)
    results = json.loads((workdir / "results.json").read_text())
    assert results["iou"] is None
    assert results["methods"]["components"]["all"]["iou"] is None
    assert set(results["methods"]) == {"components", "plain"}


@pytest.mark.slow
def test_own_images_need_the_classifier_of_the_run(tmp_path):
    alone = tmp_path / "checkpoints" / "generator"
    shutil.copytree(RUN / "checkpoints" / "generator", alone)
    picture = tmp_path / "tom.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(picture)
    flags = ("--checkpoint", alone, "--images", picture, "--workdir", tmp_path / "run")
    refused = refuse("segment", *flags)
    assert refused.returncode == 1
    assert "no classifier to recognise classes in" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def folder_of_faces(folder, classes=("cat", "dog", "tiger")):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(3):
                image = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
                Image.fromarray(image).save(folder / part / name / f"{i}.png")
    return folder


def test_data_of_the_generator_that_have_changed_are_refused(
    tmp_path, monkeypatch, capsys
):
    folder = folder_of_faces(tmp_path / "data")
    run = write_generator(tmp_path / "run", dataset="folder")
    identity = sources.find("folder", folder, 16).identity
    (run / "data.json").write_text(json.dumps(identity))
    flags = ("--checkpoint", run, "--data-dir", folder, *FEW[:4])
    config = Config(checkpoint=run, data_dir=folder, test_examples=3)
    _, segmented = load_images(config, generator.load(run).spec)
    assert segmented.labels.tolist() == [0, 1, 2]
    (folder / "train" / "dog" / "0.png").rename(folder / "test" / "dog" / "9.png")
    message = "have changed: class dog had 3 training images, and now has 2"
    flags += ("--workdir", tmp_path / "out")
    check_refused(experiment, flags, 1, message, monkeypatch, capsys)
    assert not (tmp_path / "out").exists()
    # Given on purpose, any images of these classes are welcome.
    given = dataclasses.replace(config, dataset="folder")
    assert len(load_images(given, generator.load(run).spec)[1].x) == 3


def test_flags_that_the_generator_s_data_do_not_read_are_refused(
    tmp_path, monkeypatch, capsys
):
    run = write_generator(tmp_path / "run")
    for name, value in (("--data-dir", tmp_path), ("--test-share", 0.5)):
        flags = ("--checkpoint", run, name, value, "--workdir", tmp_path / "out")
        message = f"{name} does not apply with --dataset faces"
        check_refused(experiment, flags, 2, message, monkeypatch, capsys)


def test_only_advice_that_works_is_given(finished, shared, monkeypatch, capsys):
    copy = shared / "without_arrays"
    shutil.copytree(finished[0], copy)
    (copy / "segmentation.npz").unlink()
    flags = ("--figures-only", "--workdir", copy)
    message = "resume the run; or start another"
    check_refused(experiment, flags, 1, message, monkeypatch, capsys)
    (copy / "results.json").unlink()
    flags = ("--checkpoint", RUN, "--workdir", copy)
    message = "already holds a run; choose another --workdir\n"  # not --resume
    check_refused(experiment, flags, 1, message, monkeypatch, capsys)
    message = "--resume does not apply to segment"
    check_refused(
        experiment, ("--resume", "--workdir", copy), 2, message, monkeypatch, capsys
    )


def test_more_images_than_memory_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)  # a million bytes
    flags = ("--checkpoint", RUN, "--workdir", tmp_path / "run", *FEW)
    message = "the components of 6 images would take about"
    err = check_refused(experiment, flags, 2, message, monkeypatch, capsys)
    assert "lower --test-examples" in err
    assert not (tmp_path / "run").exists()


def test_figures_of_a_run_take_no_flag_of_it(finished, monkeypatch, capsys):
    flags = ("--workdir", finished[0], "--figures-only", "--seed", 1)
    message = "--seed does not apply to --figures-only"
    check_refused(experiment, flags, 2, message, monkeypatch, capsys)


def test_an_empty_mask_counts_nothing_right():
    right = np.zeros((2, 4, 4), bool)
    right[:, 1:3, 1:3] = True
    masks = right.copy()
    masks[1] = False
    found = mask_scores(masks, right, np.array([True, True]))
    assert (found["iou"], found["empty"]) == (0.5, 0.5)
    assert (found["precision"], found["recall"]) == (1.0, 0.5)
    found = mask_scores(masks, right, np.array([False, True]))
    assert (found["iou"], found["precision"], found["recall"]) == (0.0, None, 0.0)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ((), 2, "--checkpoint needs the folder of a class-transfer run"),
        (("--checkpoint", "missing"), 1, "missing"),
        (
            ("--checkpoint", RUN, "--surface-components", 9, "--image-components", 0),
            2,
            "--surface-components must be 0..8, got 9",
        ),
        (
            ("--checkpoint", RUN, "--surface-components", 1),
            2,
            "--surface-components and --image-components need each other",
        ),
        (("--checkpoint", RUN, "--images", "gone.png"), 1, "cannot read gone.png"),
        (("--checkpoint", RUN, "--images", "EMPTY"), 1, "holds no image"),
        (("--checkpoint", RUN, "--images"), 2, "--images needs at least one value"),
        (("--checkpoint", RUN, "--test-examples", 0), 2, "--test-examples must be at"),
        (("--checkpoint", RUN, "--choose-examples", -1), 2, "--choose-examples must"),
        (("--checkpoint", RUN, "--largest", "two"), 2, "invalid literal for int"),
        (("--checkpoint", RUN, "--length", "nan"), 2, "--length must be finite, >= 0"),
        (("--checkpoint", RUN, "--inside", 1e300), 2, "--inside must be finite and"),
        (
            (
                *("--checkpoint", RUN, "--surface-components", 3, 3),
                *("--image-components", 0),
            ),
            2,
            "--surface-components must have distinct values, got 3 3",
        ),
        (("--checkpoint", RUN, "--dark"), 2, "--dark does not apply to a search"),
        (
            ("--checkpoint", RUN, "--images", "gone.png", "--dataset", "faces"),
            2,
            "--dataset does not apply to --images: leave it out",
        ),
        (
            ("--checkpoint", RUN, "--images", "gone.png", "--part", "ears"),
            2,
            "--part does not apply to --images: leave it out",
        ),
        (("--checkpoint", RUN, "--dataset", "nothing"), 1, "no data set is called"),
        (("--checkpoint", RUN / "results.json"), 1, "results.json"),
        (("--figures-only",), 1, "no run at"),
        (("--resume", "--checkpoint", RUN), 1, "no run at"),
        (("--checkpoint", RUN, "--level", 1), 2, "--level must be in 0..1, below 1"),
        (
            ("--checkpoint", "GAUSSIAN", "--source", "inputs"),
            2,
            "--source inputs needs a generator with the diffusion",
        ),
        (
            ("--checkpoint", RUN / "checkpoints" / "recogniser"),
            1,
            "holds no generator",
        ),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, flags, status, message):
    places = {"EMPTY": tmp_path / "empty", "GAUSSIAN": tmp_path / "gaussian"}
    places["EMPTY"].mkdir()
    if "GAUSSIAN" in flags:
        write_generator(places["GAUSSIAN"])
    given = ("--workdir", tmp_path / "run", *(places.get(f, f) for f in flags))
    check_refused(experiment, given, status, message, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()
