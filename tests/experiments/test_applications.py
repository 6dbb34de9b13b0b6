import json
import os

import jax
import numpy as np
import pytest
from helpers import (
    ROOT,
    check_refused,
    finish,
    run_here,
    start,
    without_timing,
    write_generator,
)
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import generator
from bspec_jax.components import recombination, segmentation
from bspec_jax.components.shading import (
    RELIEFS,
    angular_error,
    mean_angular_error,
    normals_from_shading,
)
from bspec_jax.data import sources
from bspec_jax.data.images import of_classes
from bspec_jax.generator import to_signed
from bspec_jax.storage.errors import UserError
from experiments.applications import __main__ as experiment
from experiments.applications import augmentation as aug
from experiments.applications.config import Config
from experiments.applications.data import Examples, as_input
from experiments.applications.editing import editing_scores
from experiments.applications.filtering import REMOVABLE, removal_scores, remove
from experiments.applications.masks import saved_segmenter
from experiments.applications.shape import shape_scores
from experiments.applications.summary import mean_of_defined

RUNS = ROOT / "docs" / "runs"
CLASSES = ("cat", "dog", "tiger")
SIZE = 32


def faces_of(*classes):
    """The synthetic faces of some classes."""
    return of_classes(sources.find("faces", None, SIZE), classes)


def faces_with(split="test", count=6, **stacks):
    """Faces of all classes without a generator; `stacks` make components of them."""
    part = getattr(faces_of(*CLASSES), split)
    indices = np.arange(count)
    truth = part.ground_truth(indices)
    x = as_input(truth)
    labels = part.labels()[indices]
    found = Examples(part, indices, x, labels, truth, 0.5 * x, 0 * x, {})
    return found._replace(
        stacks={name: np.stack(make(found)) for name, make in stacks.items()}
    )


def removed(config, train, test, part):
    return removal_scores(config, remove(train, part), remove(test, part))


class Oracle:
    """Takes what it has seen of a class for that class, all else for the first."""

    def __init__(self, faces):
        self.faces = faces

    def recognise(self, images):
        same = (np.abs(images - self.faces.x) < 1e-5).all((1, 2, 3))
        return np.where(same, self.faces.labels, 0)


def test_faces_of_some_classes_are_numbered_in_their_order():
    some_classes = faces_of("tiger", "cat").test
    labels = some_classes.labels()
    assert labels[:6].tolist() == [1, 0, 1, 0, 1, 0]  # cat, dog, tiger in turn
    two = some_classes.ground_truth(np.array([1, 2]))
    all_of_them = faces_of(*CLASSES).test.ground_truth(np.array([2, 3]))
    assert_array_equal(two.image, all_of_them.image)


def test_edits_are_measured_by_what_falls_in_the_part():
    def make(faces):
        eyes = faces.truth.masks["eyes"][..., None]
        in_eyes = np.where(eyes, 0.5, 0) + np.zeros(3)
        return in_eyes, np.full(faces.x.shape, 0.25)

    faces = faces_with(responses=make)
    eyes = faces.truth.masks["eyes"]
    masks = eyes.copy()
    masks[:, 0] = True  # and a row that is none
    config = Config(gain=3.0)
    found = editing_scores(config, faces, masks, Oracle(faces))
    assert_allclose(found["chance"], eyes.mean())
    assert found["classes_right"] == 1
    local, constant = found["responses"]
    assert_allclose([local[p]["mean"] for p in ("everywhere", "inside")], 1, rtol=1e-5)
    area = eyes.mean((1, 2))
    assert_allclose(constant["everywhere"]["mean"], area.mean(), rtol=1e-5)
    share = eyes.sum((1, 2)) / masks.sum((1, 2))
    assert_allclose(constant["inside"]["mean"], share.mean(), rtol=1e-5)
    assert constant["inside"]["images"] == 6
    # Twice 0.25 more, of a range of 2.
    assert_allclose(constant["change"], 0.25, rtol=1e-5)
    # The edited ones are all taken for the first class, as two of six are.
    assert_allclose(constant["class_kept"], 1 / 3)
    unchanged = editing_scores(Config(gain=1.0), faces, masks, Oracle(faces))
    assert unchanged["responses"][1]["class_kept"] == 1
    # An empty mask changes nothing, of which nothing is in the part.
    masks[0] = False
    found = editing_scores(config, faces, masks, Oracle(faces))
    assert_allclose(
        found["responses"][1]["inside"]["mean"], share[1:].sum() / 6, rtol=1e-5
    )


def without_eyes(faces):
    part = faces.x - faces.without("eyes")
    return np.roll(faces.x, 3, 1), part, 0.5 * (faces.x - part)


@pytest.mark.slow
def test_a_component_that_is_the_part_is_removed_whole():
    train = faces_with("train", 9, responses=without_eyes)
    test = faces_with("test", 6, responses=without_eyes)
    found = removed(Config(), train, test, "eyes")
    methods = found["methods"]
    assert found["images"] == 6
    for place in ("everywhere", "inside"):
        row = methods[f"responses_{place}"]
        assert_allclose(row["gains"], [1, 0, 1], atol=1e-3)
        assert row["psnr"]["mean"] > 50
        assert row["ssim"]["mean"] > 0.999
    wanted = test.without("eyes")
    error = ((test.x - wanted) ** 2).mean((1, 2, 3))
    nothing = methods["nothing"]
    assert_allclose(
        nothing["psnr"]["mean"], np.mean(10 * np.log10(4 / error)), rtol=1e-5
    )
    where = np.abs(test.x - wanted).max(-1) > 4 / 255
    error = ((test.x - wanted) ** 2).mean(-1)
    inside = [np.mean(e[w]) for e, w in zip(error, where, strict=True)]
    assert_allclose(
        nothing["psnr_inside"]["mean"],
        np.mean(10 * np.log10(4 / np.array(inside))),
        rtol=1e-5,
    )
    assert nothing["psnr"]["mean"] > methods["regenerated"]["psnr"]["mean"]
    # Where it helps most: only there, and more of it.
    blurs = [methods[f"blur_{place}"] for place in ("everywhere", "inside")]
    assert blurs[0]["psnr"]["mean"] < blurs[1]["psnr"]["mean"]


def test_named_components_are_attenuated_by_hand():
    test = faces_with("test", 3, responses=without_eyes)
    config = Config(attenuate=(0, 1), attenuation=0.25)
    found = removed(config, test, test, "eyes")["methods"]
    for place in ("everywhere", "inside"):
        assert found[f"responses_{place}"]["gains"].tolist() == [0.25, 0.25, 1]
    stack = test.stacks["responses"]
    images = np.clip(test.x - 0.75 * (stack[0] + stack[1]), -1, 1)
    error = ((images - test.without("eyes")) ** 2).mean((1, 2, 3))
    assert_allclose(
        found["responses_everywhere"]["psnr"]["mean"],
        np.mean(10 * np.log10(4 / error)),
        rtol=1e-4,
    )


@pytest.mark.slow
def test_only_faces_that_have_the_part_are_scored():
    test = faces_with("test", 6, responses=without_eyes)
    found = removed(Config(), test, test, "whiskers")
    assert found["images"] == 4  # dogs have none
    assert found["methods"]["nothing"]["psnr"]["images"] == 4
    assert found["methods"]["nothing"]["psnr"]["mean"] < 60


def test_the_component_that_is_the_light_gives_its_normals():
    def make(faces):
        light = np.broadcast_to(faces.truth.diffuse, faces.x.shape)
        return np.random.default_rng(0).normal(size=light.shape), 3 * light - 1, faces.x

    train, test = faces_with("train", 6, responses=make), faces_with(responses=make)
    found = shape_scores(train, test)
    assert found["responses"]["which"] == 1
    assert_allclose(found["responses"]["mean"], found["light"]["mean"], rtol=1e-4)
    assert found["light"]["mean"] < found["image"]["mean"] < found["flat"]["mean"]
    seen = test.foreground()
    tilted = np.degrees(np.arccos(test.truth.normals[..., 2]))
    by_face = [np.mean(t[s]) for t, s in zip(tilted, seen, strict=True)]
    assert_allclose(found["flat"]["mean"], np.mean(by_face), rtol=1e-5)
    row = found["image"]
    settings = {key: row[key] for key in ("relief", "damping")}
    angle = angular_error(
        normals_from_shading(test.x.mean(-1), **settings), test.truth.normals
    )
    by_face = [np.mean(a[s]) for a, s in zip(angle, seen, strict=True)]
    assert_allclose(row["mean"], np.mean(by_face), rtol=1e-5)
    # Chosen on the training faces: no other setting is better there.
    shading = train.x.mean(-1)
    for relief in RELIEFS:
        normals = normals_from_shading(shading, relief=relief, damping=row["damping"])
        error = mean_angular_error(normals, train.truth.normals, train.foreground())
        assert error.mean() >= row["chosen_at"] - 1e-9


def test_other_faces_are_of_the_same_class():
    labels = np.array([0, 1, 0, 1, 1])
    stack = np.arange(10.0).reshape(2, 5, 1, 1, 1)
    found = aug.of_other_images(stack, labels)[..., 0, 0, 0]
    assert found.tolist() == [[2, 4, 0, 1, 3], [7, 9, 5, 6, 8]]


def test_faces_are_perturbed_anew_in_each_epoch():
    def make(faces):
        return 0.2 * faces.x, np.roll(faces.x, 1, 2)

    faces = faces_with(responses=make)
    keys = jax.random.split(jax.random.key(0), 2)
    plain = aug.epoch_images(faces, aug.NONE, 0.2)
    assert_array_equal(plain(keys[0]), plain(keys[1]))
    assert_array_equal(plain(keys[0]), aug.to_small_bytes(faces.x))
    drawn = aug.epoch_images(faces, "responses", 0.2)
    stack = faces.stacks["responses"]
    expected = recombination.perturb_components(
        keys[0], faces.x - stack.sum(0), stack, 0.2
    )
    found = np.asarray(drawn(keys[0]), int)
    assert np.abs(found - np.asarray(aug.to_small_bytes(expected), int)).max() <= 1
    assert np.abs(found - np.asarray(drawn(keys[1]), int)).mean() > 2
    others = aug.epoch_images(faces, aug.OTHERS, 0.2)(keys[0])
    assert np.abs(found - np.asarray(others, int)).mean() > 1


def test_gains_of_accuracy_are_in_pairs():
    found = aug.accuracy_scores([0.9, 0.8, 0.7], [0.8, 0.6, 0.7])
    assert_allclose(found["accuracy"], 0.8)
    assert_allclose(found["gain"], 0.1)
    half = 4.302652729911275 * 0.1 / np.sqrt(3)  # Student's, two degrees of freedom
    assert_allclose(found["gain_interval"], [0.1 - half, 0.1 + half])


def test_the_choice_of_a_run_of_segment():
    spec = generator.load(RUNS / "faces_diffusion").spec
    source, choice, border = saved_segmenter(RUNS / "faces_segmentation", spec)
    saved = json.loads((RUNS / "faces_segmentation" / "results.json").read_text())
    assert source == saved["source"] == "inputs"
    saved_one = saved["methods"]["components"]["choice"]
    assert list(choice.surface) == saved_one["surface"]
    assert list(choice.image) == saved_one["image"]
    assert (choice.dark, choice.level) == (saved_one["dark"], saved_one["level"])
    assert (border.length, border.inside) == (0.02, 4.0)


def segmentation_run(folder, **changes):
    """A copy of the kept run, with changed results."""
    folder.mkdir()
    for name in ("config.json", "results.json"):
        saved = json.loads((RUNS / "faces_segmentation" / name).read_text())
        (folder / name).write_text(json.dumps(saved | changes))
    return folder


SAVED = {"surface": [0], "image": [0], "dark": False, "level": 0.7}


def test_the_components_are_of_the_source_that_they_were_chosen_in(tmp_path):
    spec = generator.load(RUNS / "faces_diffusion").spec
    methods = {"components": {"choice": SAVED}}

    def eyes(faces):
        return [np.float32(faces.truth.masks["eyes"])[..., None]]

    def nothing(faces):
        return [np.zeros((*faces.x.shape[:3], 1), np.float32)]

    faces = faces_with(count=3, responses=eyes, inputs=nothing)
    for source, found in (("responses", 1), ("inputs", 0)):
        run = segmentation_run(tmp_path / source, source=source, methods=methods)
        segmented = saved_segmenter(run, spec).segment(faces)
        truth = faces.truth.masks["eyes"]
        assert_allclose(segmentation.iou(segmented.masks[0], truth), found)
        assert segmented.converged.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "inputs"}, "chose among the inputs of another generator"),
        ({"source": "responses"}, "chose component 8 of another generator: .* 0..1"),
        ({"source": "outputs"}, "chose among the outputs of another generator"),
        ({"methods": {}}, "results.json is damaged or incomplete: run segment again"),
        ({"methods": None}, "results.json is damaged or incomplete"),
        ({"config": {"length": "x", "inside": 1.0}}, "is damaged or incomplete"),
    ],
)
def test_a_choice_for_another_generator_is_refused(changes, message, tmp_path):
    write_generator(tmp_path / "generator")
    spec = generator.load(tmp_path / "generator").spec
    with pytest.raises(UserError, match=message):
        saved_segmenter(segmentation_run(tmp_path / "run", **changes), spec)


def test_nulls_and_flags_that_nothing_uses():
    assert mean_of_defined([None, 1.0, 3.0]) == 2
    assert mean_of_defined([None]) is None
    config = Config(applications=("shape",))
    assert {"part", "gain", "trials", "attenuate"} <= set(config.unused())
    assert set(Config().unused()) == {"attenuation", "resume"}
    assert set(Config(attenuate=(1,)).unused()) == {"resume"}


FACES = RUNS / "faces_diffusion"
FEW = (
    *("--checkpoint", FACES),
    *("--test-examples", 3, "--choose-examples", 1, "--trials", 1),
    *("--labels-per-class", 1, "--steps", 2),
)
CHOSEN = ("--segmentation", RUNS / "faces_segmentation")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("applications")
    out, _ = finish(start("applications", *FEW, *CHOSEN, "--workdir", folder / "a"))
    only = ("--applications", "augmentation")
    run_here(experiment, *FEW, *only, "--workdir", folder / "b")
    return folder, out


def test_a_run_scores_all_applications_and_can_be_repeated(finished):
    folder, out = finished
    results = without_timing(folder / "a")
    again = without_timing(folder / "b")
    assert again["augmentation"] == results["augmentation"]
    assert "filtering" not in again
    assert {"editing", "filtering", "shape", "augmentation"} <= set(results)
    assert len(results["editing"]["inputs"]) == 9
    ways = results["augmentation"]["1"]
    assert set(ways) == {"none", "responses", "inputs", "others"}
    assert all(len(way["accuracies"]) == 1 for way in ways.values())
    assert ways["none"]["gain"] == 0
    for line in ("editing: share", "filtering: against", "shape: mean", "1 labels"):
        assert line in out
    segmented = results["segmentation"]
    assert segmented["source"] == "inputs"
    assert f"{segmented['converged']} of 3 borders converged" in out
    names = {path.stem for path in (folder / "a" / "figures").glob("*.png")}
    assert names == {
        *("editing", "editing_shares", "shape", "shape_errors"),
        *("augmentation", "augmentation_faces"),
        *(f"filtering_{part}" for part in REMOVABLE),
    }


def test_figures_are_drawn_again_and_for_another_component(
    finished, monkeypatch, capsys
):
    folder, _ = finished
    figures = folder / "a" / "figures"
    before = {path.name: path.read_bytes() for path in figures.glob("*.png")}
    flags = ("--workdir", folder / "a", "--figures-only")
    run_here(experiment, *flags)
    assert {path.name: path.read_bytes() for path in figures.glob("*.png")} == before
    run_here(experiment, *flags, "--component", 7)
    differing = {n for n in before if (figures / n).read_bytes() != before[n]}
    assert differing == {"editing.png"}
    message = "--component must be 0..8, got 9\n"
    check_refused(
        experiment, (*flags, "--component", 9), 2, message, monkeypatch, capsys
    )


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ((), 2, "--checkpoint needs the folder of a class-transfer run"),
        (
            ("--checkpoint", "SHOES"),
            1,
            "was trained on fashion_mnist",
        ),
        (
            ("--checkpoint", RUNS / "faces_diffusion", "--attenuate", 9),
            2,
            "--attenuate must be 0..8, got 9",
        ),
        (
            ("--checkpoint", RUNS / "faces_diffusion", "--component", -1),
            2,
            "--component must be 0..8, got -1",
        ),
        (
            (
                *("--checkpoint", RUNS / "faces_diffusion"),
                *("--segmentation", RUNS / "faces_diffusion"),
            ),
            1,
            "is a run of class_transfer, not segment",
        ),
        (
            ("--checkpoint", RUNS / "faces_diffusion", "--scale", 0),
            2,
            "--scale must be finite, above 0, got 0.0",
        ),
        (("--checkpoint", "missing"), 1, "missing"),
        (("--checkpoint", FACES, "--test-examples", 0), 2, "--test-examples must be"),
        (("--checkpoint", FACES, "--trials", 1.5), 2, "invalid literal for int"),
        (("--checkpoint", FACES, "--gain", "inf"), 2, "--gain must be finite"),
        (
            ("--checkpoint", FACES, "--labels-per-class", 5, 100_000),
            2,
            "the training images of a class, got 100000",
        ),
        (("--checkpoint", FACES, "--scale", 1e300), 2, "--scale must be finite and"),
        (("--checkpoint", FACES, "--seed", -1), 2, "--seed must be in 0..2^32-1"),
        (
            ("--checkpoint", FACES, "--attenuate", 2, 5, 2),
            2,
            "--attenuate must have distinct values, got 2 5 2",
        ),
        (
            ("--checkpoint", FACES, "--labels-per-class", 5, 5),
            2,
            "--labels-per-class must have distinct values",
        ),
        (
            ("--checkpoint", FACES, "--attenuation", 0.5),
            2,
            "--attenuation does not apply without --attenuate: leave it out",
        ),
        (
            ("--checkpoint", FACES, "--applications", "shape", "--gain", 3),
            2,
            "--gain does not apply to --applications shape: leave it out",
        ),
        (("--checkpoint", FACES, "--applications", "all"), 2, "--applications"),
        (("--checkpoint", FACES, "--segmentation", "gone"), 1, "no run at gone"),
        (("--checkpoint", FACES, "--resume"), 1, "no run at"),
        (("--figures-only",), 1, "no run at"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, flags, status, message):
    shoes = tmp_path / "shoes"
    if "SHOES" in flags:
        write_generator(
            shoes,
            classes=("sandal", "sneaker"),
            image_shape=(16, 16, 1),
            dataset="fashion_mnist",
        )
    flags = (shoes if flag == "SHOES" else flag for flag in flags)
    given = ("--workdir", tmp_path / "run", *flags)
    check_refused(experiment, given, status, message, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


def test_more_images_than_memory_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)  # a million bytes
    flags = ("--checkpoint", FACES, "--workdir", tmp_path / "run")
    message = "the components of 300 + 150 images would take about"
    check_refused(experiment, flags, 2, message, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


def test_what_is_read_are_bytes():
    truth = faces_of(*CLASSES).test.ground_truth(np.array([0]))
    x = as_input(truth)
    assert_array_equal(x, to_signed(np.uint8(np.round(255 * truth.image))))
