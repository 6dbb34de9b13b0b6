"""The classifier's command on inputs that it refuses, and on a user's own images."""

import dataclasses
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, check_refused, run_here
from numpy.testing import assert_allclose
from PIL import Image

from bspec_jax import classifier, runs
from bspec_jax.classifier import contributions
from bspec_jax.classifier.branches import WIDTHS
from bspec_jax.classifier.recipe import count_steps, decay_budget
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import Notice, UserError
from experiments.branch_size import branch_size
from experiments.classify import __main__ as experiment
from experiments.classify import memory, own_images, train
from experiments.classify.config import NAME, Config

sys.path.insert(0, str(ROOT / "docs"))
import hooks

CLASSES = ("ant", "bee$", "cat")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of three classes of grey pictures of 8 pixels."""
    folder = tmp_path_factory.mktemp("classify") / "pictures"
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def flags_for(images, workdir):
    return (
        *("--dataset", "folder", "--data-dir", images, "--image-size", 8),
        *("--widths", "tiny", "--batch-size", 8, "--crop-padding", 1),
        *("--workdir", workdir),
    )


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        # numbers
        (("--learning-rate", "nan"), 2, "--learning-rate must be positive and finite"),
        (("--learning-rate", 1e39), 2, "--learning-rate must be finite and, unless 0"),
        (("--weight-decay", -1), 2, "--weight-decay must be finite, >= 0, got -1"),
        (("--last-scale", 1e-50), 2, "--last-scale must be finite and, unless 0"),
        (("--branches", 0), 2, "--branches must be at least 1, got 0"),
        (("--branches", 100_000), 2, "a run of 100000 branches on"),
        (("--image-size", 0), 2, "--image-size must be at least 1, got 0"),
        (("--image-size", 100_000), 2, "images of 100000 x 100000 pixels"),
        (("--image-size", 1), 2, "--crop-padding 1 shifts images of 1 x 1 pixels out"),
        (
            ("--crop-padding", 500),
            2,
            "--crop-padding 500 shifts images of 8 x 8 pixels",
        ),
        (("--epochs", 10**12), 2, "--epochs 1000000000000 are 3,000,000,000,000 steps"),
        (("--widths", "²", 1, 1, 1), 2, "--widths must be one of paper"),
        (("--widths", 10**9, 1, 1, 1), 2, "would take about"),
        (("--recipe", "slow"), 2, "--recipe"),
        # branches
        (("--branch", "vgg"), 2, "--branch"),
        (("--branch", "mlp", "--normalisation", "layer"), 2, "--normalisation"),
        (("--branch", "mlp", "--depth", 0), 2, "--depth must be in 1..1000, got 0"),
        (("--depth", 3), 2, "--depth does not apply with --branch resnet"),
        (
            ("--branch", "mlp", "--depth", 1, "--widths", 8),
            2,
            "--widths does not apply with --depth 1",
        ),
        (
            ("--branch", "cnn", "--depth", 2, "--widths", 8, 9),
            2,
            "--widths must be one integer, or 1 for --depth 2, got 8 9",
        ),
        (("--branch", "mlp", "--widths", "tiny"), 2, "--widths must be one integer"),
        (("--branch", "mlp", "--widths", 4, 0), 2, "--widths must be at least 1"),
        (("--branch", "mlp", "--widths", 10**9), 2, "would take about"),
        (("--branch", "cnn", "--branches", 10**8), 2, "a run of 100000000 branches on"),
        (("--batch-size", 28), 2, "--batch-size must be 1 to the 27 training examples"),
        (("--seed", 2**32), 2, "--seed must be in 0..2^32-1"),
        (("--test-share", 1), 2, "--test-share must be above 0 and below 1"),
        (("--dataset", "cifarten"), 1, "no data set is called cifarten"),
        # paths
        (("--data-dir", "missing"), 1, "no folder missing"),
        (("--data-dir", __file__), 1, "is a file"),
        (("--workdir", __file__), 1, "cannot write to"),
        (("--workdir", Path(__file__).parent), 1, "already holds files"),
        # combinations
        (("--resume",), 1, "no run at"),
        (("--figures-only",), 1, "no run at"),
        (("--figure-branches", 16), 2, "--figure-branches must be below 16, got 16"),
        (
            ("--figure-classes", 3),
            2,
            "--figure-classes must be a class of the test data",
        ),
        (("--branches", 2, "--branches", 3), 2, "--branches is given twice"),
        (("--images", "a.png"), 2, "does not apply with --images"),
        (("--dataset", "faces"), 2, "--data-dir does not apply with --dataset faces"),
        (("--dataset", "mnist", "--test-share", 0.5), 2, "--test-share does not apply"),
    ],
)
def test_wrong_input_is_one_line(
    images, tmp_path, monkeypatch, capsys, flags, status, message
):
    base = iter(flags_for(images, tmp_path / "run"))
    pairs = dict(zip(base, base, strict=True))
    if "--branch" in flags or "--depth" in flags:
        del pairs["--widths"]  # a resnet's
    kept = [word for pair in pairs.items() if pair[0] not in flags for word in pair]
    err = check_refused(
        experiment, [*kept, *flags], status, message, monkeypatch, capsys
    )
    assert err.startswith("python -m experiments.classify: ")
    assert not (tmp_path / "run").exists()


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 90).save(path)


def test_data_that_cannot_be_classified(tmp_path, monkeypatch, capsys):
    for split in ("train", "test"):
        for i in range(9):
            picture(tmp_path / "one" / split / "ant" / f"{i}.png")
            picture(tmp_path / "damaged" / split / "ant" / f"{i}.png")
            picture(tmp_path / "damaged" / split / "bee" / f"{i}.png")
        for name in ("ant", "cat"):
            picture(tmp_path / "unknown" / split / name / "0.png")
    (tmp_path / "damaged" / "test" / "bee" / "3.png").write_bytes(b"\x89PNG")
    picture(tmp_path / "unknown" / "test" / "bee" / "0.png")
    (tmp_path / "empty").mkdir()
    for folder, status, message in (
        ("one", 1, "holds a single class, ant"),
        ("damaged", 1, "bee/3.png"),
        ("unknown", 1, "bee is a class that"),
        ("empty", 1, "holds no class folder"),
    ):
        flags = flags_for(tmp_path / folder, tmp_path / "run")
        check_refused(experiment, flags, status, message, monkeypatch, capsys)
        assert not (tmp_path / "run").exists()


def test_a_single_class_of_any_data_set(images):
    config = Config(dataset="folder", data_dir=images, image_size=8, batch_size=8)
    config = config.resolved()
    dataset = experiment.load_data(config)._replace(class_names=("ant",))
    with pytest.raises(runs.FlagError, match="has a single class"):
        train.check_data(config, dataset)


def test_a_class_without_test_images_is_said_before_the_training(images):
    config = Config(
        dataset="folder", data_dir=images, image_size=8, test_examples=1, batch_size=8
    )
    with pytest.warns(Notice, match="no test image of 2 of 3 classes"):
        experiment.load_data(config.resolved())


def test_memory_grows_with_what_takes_it():
    size = memory.Size((32, 32, 3), 45_000, 10_000, 10)
    config = Config().resolved()
    least = memory.estimate(config, size)
    # XLA counts 76.5 MB for a step of 2 branches on 64 images: 1.2 GB for 16 on 128.
    assert 1.2e9 < least < 2e9
    for change in (
        {"branches": 32},
        {"batch_size": 256},
        {"sweep_branches": (64,)},
        {"widths": ("resnet18",)},
        {"repeats": 9},
        {"crop_padding": 500},
    ):
        larger = dataclasses.replace(config, **change)
        assert memory.estimate(larger, size) > 1.05 * least, change
    assert memory.estimate(config, size._replace(test=20_000)) > least


def test_a_branch_as_memory_sees_it():
    def of(**flags):
        config = Config(**flags).resolved()
        return branch_size(config.branch, config.widths_list, (7, 6, 2), 4)

    assert of(branch="mlp", widths=("7", "5")) == (84 * 7 + 7 * 5 + 5 * 4, 12)
    assert of(branch="mlp", depth=1) == (84 * 4, 0)
    # 7 x 6 pixels, then 4 x 3, then 2 x 2.
    kernels = 9 * 2 * 5 + 9 * 5 * 3 + 4 * 3 * 4
    assert of(branch="cnn", widths=("5", "3")) == (kernels, 12 * 5 + 4 * 3)
    assert of(branch="cnn", depth=1) == (84 * 4, 0)


CUSTOMARY = {
    "dataset": "cifar10",
    "image_size": None,
    "branch": "resnet",
    "depth": None,
    "widths": ("paper",),
    "normalisation": "batch",
    "epochs": 200,
    "batch_size": 128,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "last_scale": 1.0,
    "crop_padding": 4,
    "skip_flip": False,
    "skip_biases": False,
    "skip_bias_decay": False,
}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, {}),
        ({"epochs": 3, "crop_padding": 0}, {"epochs": 3, "crop_padding": 0}),
        ({"optimizer": "adamw"}, {"optimizer": "adamw", "learning_rate": 0.001}),
        (
            {"branch": "mlp"},
            {
                "branch": "mlp",
                "depth": 4,
                "widths": ("32", "32", "32"),
                "normalisation": "none",
            },
        ),
        (
            {"branch": "cnn", "widths": ("8", "9", "7"), "normalisation": "batch"},
            {"branch": "cnn", "widths": ("8", "9", "7"), "depth": 4},
        ),
        (
            {"branch": "mlp", "widths": ("8",), "depth": 5, "normalisation": "batch"},
            {"branch": "mlp", "widths": ("8",) * 4, "depth": 5},
        ),
        (
            {"branch": "mlp", "depth": 1, "normalisation": "batch"},
            {"branch": "mlp", "widths": (), "depth": 1},
        ),
        (
            {"recipe": "quick", "branch": "resnet"},
            {
                "dataset": "fashion_mnist",
                "image_size": 14,
                "crop_padding": 0,
                "epochs": 93,
                "last_scale": 0.1,
                "weight_decay": 7e-4,
            },
        ),
        (
            {"recipe": "quick", "weight_decay": 0.0, "branch": "resnet"},
            {
                "dataset": "fashion_mnist",
                "image_size": 14,
                "crop_padding": 0,
                "epochs": 93,
                "last_scale": 0.1,
                "weight_decay": 0.0,
            },
        ),
    ],
)
def test_what_is_not_given_follows_from_the_recipe_and_from_other_flags(
    flags, expected
):
    config = Config(**flags).resolved()
    config.check()
    found = {name: getattr(config, name) for name in CUSTOMARY}
    assert found == CUSTOMARY | expected
    # What config.json holds resolves to itself, whatever a later version decides.
    assert Config.from_settings(config.settings()).resolved() == config
    assert None not in {getattr(config, name) for name in set(CUSTOMARY) - MAY_BE_NONE}


MAY_BE_NONE = {"image_size", "depth"}


@pytest.mark.parametrize(
    ("recipe", "num_examples"), [("customary", 45_000), ("quick", 55_000)]
)
def test_the_help_says_what_a_recipe_is(recipe, num_examples):
    config = Config(recipe=recipe).resolved()
    made = train.recipe_of(config)
    budget = decay_budget(made, count_steps(made, num_examples))
    text = re.sub(r"\s+", " ", hooks.field_docs(Config)["recipe"])
    (own,) = re.findall(rf"{recipe}: (.*?)\.(?: |$)", text)
    decay = f"{config.weight_decay:.0e}".replace("e-0", "e-")
    for part in (f"{config.epochs} epochs", f"decay {decay}", f"budget {budget:.0f}"):
        assert part in own


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose network was never trained, as if finished."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    runs.start(Config(workdir=workdir, branches=5), NAME)
    spec = classifier.ClassifierSpec(
        widths=WIDTHS["tiny"],
        branches=5,
        classes=CLASSES,
        image_shape=(8, 8, 1),
        mean=(0.4,),
        std=(0.3,),
    )
    network = classifier.build(spec, last_scale=30.0)
    params, stats = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    folder = workdir / "checkpoints" / classifier.MAIN
    checkpoints.write_spec(folder, spec)
    checkpoints.save(folder, 7, model={"params": params, "batch_stats": stats})
    (workdir / "results.json").write_text('{"schema": 2}')
    return workdir


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Eleven pictures, some larger, one in colour."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(1)
    for i in range(9):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i} $x$.png")
    Image.new("RGB", (30, 20), (255, 0, 0)).save(folder / "red.png")
    Image.new("L", (40, 40), 200).save(folder / "grey.png")
    return folder


def contents(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_own_images_get_a_class_and_the_parts_of_the_branches(run, own):
    before = contents(run)
    single = own / "0 $x$.png"
    out = run_here(experiment, "--workdir", run, "--images", single, own)
    after = contents(run)
    assert {path: after[path] for path in before} == before
    assert [path.relative_to(run).as_posix() for path in after.keys() - before] == [
        "images/contributions.png"
    ]
    lines = out.splitlines()
    rows = [line.split() for line in lines if line.endswith(".png")][:12]
    images, paths = own_images.read_images([single, own], 8, 1)
    v = classifier.load(run).responses(images).astype(float)
    f = v.sum(0)
    clipped = np.exp(np.clip(f, -1, 1))
    sure = clipped / clipped.sum(1, keepdims=True)
    for n, row in enumerate(rows):
        first, second, _ = np.argsort(-f[n])
        assert row[0] == str(n)
        assert (row[1], row[3]) == (CLASSES[first], CLASSES[second])
        assert_allclose(
            [float(row[2]), float(row[4])], sure[n, [first, second]], atol=0.006
        )
        assert " ".join(row[5:]) == str(paths[n])
    assert "limited to -1..1 as in the loss: at most 0.79, and 0.33 by chance" in out
    label = f.argmax(1)
    parts = v[:, np.arange(12), label] - v.mean(-1)
    start = lines.index("branch" + "".join(f"{f'no. {n}':>9}" for n in range(8, 12)))
    for k in range(5):
        name, *numbers = lines[start + 1 + k].split()
        assert name == str(k)
        assert_allclose(np.float64(numbers), parts[k, 8:], atol=6e-4)
    name, *numbers = lines[start + 6].split()
    assert name == "sum"
    assert_allclose(np.float64(numbers), parts[:, 8:].sum(0), atol=6e-4)


def test_sure_is_not_limited_without_a_clamp():
    v = np.array([[[4.0, 0, 0]], [[3, 1, 0]]])
    answers = own_images.answer(v, "none")
    assert_allclose(answers.probability[0, 0], 1 / (1 + np.exp(-6) + np.exp(-7)))
    clamped = own_images.answer(v, "hard").probability[0]
    assert_allclose(clamped, np.array([np.e, np.e, 1]) / (2 * np.e + 1))
    assert_allclose(answers.contribution[:, 0], [8 / 3, 5 / 3])
    with pytest.raises(UserError, match="not finite: it classifies nothing"):
        own_images.answer(np.full((2, 1, 3), np.nan), "hard")
    assert contributions.surest(3, "none") == 1


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--images", "none.png"), 1, "none.png"),
        (("--images", __file__), 1, "test_classify_inputs.py"),
        (("--epochs", 2), 2, "--epochs does not apply with --images"),
        (("--figures-only",), 2, "--figures-only does not apply with --images"),
        (("--resume",), 2, "--resume does not apply with --images"),
        (("--workdir", "nowhere"), 1, "no run at nowhere"),
    ],
)
def test_own_images_that_cannot_be_classified(
    run, own, monkeypatch, capsys, flags, status, message
):
    base = {"--workdir": (run,), "--images": (own,)} | {flags[0]: flags[1:]}
    given = [word for name, values in base.items() for word in (name, *values)]
    check_refused(experiment, given, status, message, monkeypatch, capsys)


def test_own_images_need_a_run_of_square_images(
    run, own, tmp_path, monkeypatch, capsys
):
    message = "--images needs --workdir"
    check_refused(experiment, ("--images", own), 2, message, monkeypatch, capsys)
    workdir = tmp_path / "wide"
    runs.start(Config(workdir=workdir), NAME)
    flags = ("--workdir", workdir, "--images", own)
    message = "no checkpoint in"
    check_refused(experiment, flags, 1, message, monkeypatch, capsys)
    (workdir / "config.json").write_text(json.dumps({"experiment": "toy", "schema": 2}))
    check_refused(experiment, flags, 1, "is a run of toy", monkeypatch, capsys)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "results.json").unlink()
    with pytest.warns(Notice, match="is not finished: its network has taken 7 steps"):
        own_images.load(unfinished)
