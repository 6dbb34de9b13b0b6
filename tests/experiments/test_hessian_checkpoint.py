"""The Hessian of a classifier's checkpoint, as a user starts it."""

import dataclasses
import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import check_refused, run_here, without_timing
from numpy.testing import assert_array_equal
from PIL import Image

from bspec_jax import classifier, data, runs
from bspec_jax.analysis.vanishing import THRESHOLDS, FactorScales, VanishingShares
from bspec_jax.classifier import curvature, stability
from bspec_jax.classifier.branches import WIDTHS
from bspec_jax.storage import checkpoints, files
from experiments.hessian import __main__ as experiment
from experiments.hessian import checkpoint

SPEC = classifier.ClassifierSpec(
    widths=WIDTHS["tiny"],
    branches=2,
    classes=("ant", "bee"),
    image_shape=(8, 8, 3),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
)


def write_network(run, spec, seed=0):
    """The folder of a run, with two steps of an untrained classifier."""
    files.write_json(
        run / "config.json", {"experiment": "classify", "schema": runs.SCHEMA}
    )
    folder = run / "checkpoints" / "main"
    checkpoints.write_spec(folder, spec)
    for step in (0, 5):
        checkpoints.save(folder, step, model=random_model(10 * seed + step))


@cache
def random_model(seed):
    """Parameters and BatchNorm statistics of `SPEC`."""
    init = jax.jit(classifier.build(SPEC).init)
    params, stats = init(jax.random.key(seed), jnp.zeros((1, *SPEC.image_shape)))
    return {"params": params, "batch_stats": stats}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of a classifier, which tests leave alone."""
    return write_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def own(tmp_path):
    """Such a run, which a test may damage."""
    return write_run(tmp_path)


def write_run(folder):
    """The run of a classifier, its images in ant/ and bee/, and its spec."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            of_class = images / split / name
            of_class.mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(of_class / f"{i}.png")
    arguments = {"dataset": "folder", "data_dir": str(images), "image_size": 8}
    arguments |= {"validation_examples": 2}
    spec = dataclasses.replace(SPEC, data=arguments)
    run = folder / "run"
    run.mkdir()
    write_network(run, spec)
    files.write_json(run / "data.json", data.load(**arguments).identity)
    return run, images, spec


def flags_for(run, *more):
    return ("--checkpoint", run, "--workdir", run.parent / "hessian", *more)


@pytest.mark.parametrize("damage", ["renamed class", "fewer images", "other image"])
def test_changed_data_are_refused(own, damage, monkeypatch, capsys):
    run, images, _ = own
    folder = images / "train" / "ant"
    if damage == "renamed class":
        for split in ("train", "test"):
            (images / split / "ant").rename(images / split / "zant")
        words = "class ant is gone, and zant is new"
    elif damage == "fewer images":
        (folder / "3.png").unlink()
        words = "class ant had 6 training images, and now has 5"
    else:
        Image.new("RGB", (8, 8), "grey").save(folder / "3.png")
        words = "has other images"
    err = check_refused(experiment, flags_for(run), 1, words, monkeypatch, capsys)
    assert str(run) in err
    assert not (run.parent / "hessian").exists()


class OuterProduct:
    """In place of the Hessian, whose compilation takes long: v v^T of the leaf."""

    def __init__(self, objective, params, **options):
        v = np.asarray(params["stem"]["kernel"]).reshape(SPEC.branches, -1)
        self.matrix = np.einsum("kp,lq->kplq", v, v)

    def full(self):
        return self.matrix


def no_factors(objective, params, leaves, scales):
    shares = VanishingShares(*np.zeros((3, len(THRESHOLDS))))
    return curvature.Factors(shares, np.zeros(len(THRESHOLDS)), FactorScales(1, 1, 1))


def no_stability(objective, params, key):
    return stability.BranchStability(*np.zeros((4, SPEC.branches)))


def drawn_responses(objective, params):
    shape = SPEC.branches, objective.num_examples, len(SPEC.classes)
    return jax.random.normal(jax.random.key(0), shape)


def own_parameters(objective, params, leaves):
    return params["stem"]["kernel"].reshape(SPEC.branches, -1)


def test_a_stopped_run_goes_on_with_the_same_network_and_data_only(
    own, monkeypatch, capsys
):
    run, images, spec = own
    monkeypatch.setattr(checkpoint.hessian, "blocks", OuterProduct)
    # Compiling these takes long, too.
    monkeypatch.setattr(curvature, "factors", no_factors)
    monkeypatch.setattr(curvature, "responses", drawn_responses)
    monkeypatch.setattr(curvature, "gradient", own_parameters)
    monkeypatch.setattr(checkpoint.stability, "branch_stability", no_stability)
    control = run / "checkpoints" / "control"
    checkpoints.write_spec(control, spec)
    checkpoints.save(control, 5, model=random_model(77))
    whole = run.parent / "whole"
    config = experiment.Config(
        checkpoint=run, workdir=run.parent / "hessian", examples=4
    )
    run_here(experiment, "--checkpoint", run, "--workdir", whole, "--examples", 4)

    exact, calls = checkpoint.exact_hessian, []

    def stopping(*args):
        calls.append(args[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return exact(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "exact_hessian", stopping)
        with pytest.raises(KeyboardInterrupt):
            experiment.main(config)
    assert len(list((config.workdir / "unfinished").glob("*.npz"))) == 2
    shutil.copytree(config.workdir, run.parent / "stopped")
    run_here(experiment, "--resume", "--workdir", config.workdir)
    found, expected = without_timing(config.workdir), without_timing(whole)
    assert found["tasks"] == expected["tasks"]
    names = {f"{clamp}_{of}" for clamp in ("hard", "none") for of in (0, 5, "control")}
    with np.load(whole / "hessians.npz") as saved:
        assert set(saved) == names
        of_control = OuterProduct(None, random_model(77)["params"]).full()
        assert_array_equal(saved["hard_control"], of_control)
    for task in found["tasks"].values():
        norms = np.linalg.norm(of_control, axis=(1, 3))
        index = 1 - 2 * norms[0, 1] ** 2 / (norms[0, 0] ** 2 + norms[1, 1] ** 2)
        assert task["control"]["block_index"] == pytest.approx(index, rel=1e-4)
        assert [stage["active_centred"] for stage in task["stages"]] == [2, 2]
    seventh = found["findings"][0]
    assert seventh["control"] == pytest.approx(index, rel=1e-4)

    # Another network in its place: nothing of the first is taken for its own.
    shutil.rmtree(run / "checkpoints")
    write_network(run, spec, seed=1)
    experiment.main(
        dataclasses.replace(config, workdir=run.parent / "stopped", resume=True)
    )
    for step in (0, 5):
        expected = OuterProduct(None, random_model(10 + step)["params"]).full()
        for name in (f"hard_{step}", f"none_{step}"):
            found = np.load(run.parent / "stopped" / "hessians.npz")[name]
            assert_array_equal(found, expected)

    Image.new("RGB", (8, 8), "grey").save(images / "train" / "bee" / "3.png")
    redo = run.parent / "redo"
    shutil.copytree(whole, redo)
    (redo / "results.json").unlink()
    check_refused(
        experiment,
        ("--resume", "--workdir", redo),
        1,
        "has other images",
        monkeypatch,
        capsys,
    )


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--examples", 0], 2, "--examples must be at least 1, got 0"),
        (["--examples", 11], 2, "--examples must be at most 10, the number of"),
        (["--examples", 10**12], 2, "of memory"),
        (["--examples", "all"], 2, "--examples"),
        (["--leaves", "nowhere"], 2, "no leaf matches 'nowhere'"),
        (["--leaves"], 2, "--leaves needs at least one value"),
        (["--workdir", "/dev/null/run"], 1, "cannot write to /dev/null/run"),
        (["--tasks", "toy1"], 2, "--tasks does not apply with --checkpoint"),
        (["--trials", 5], 2, "--trials does not apply with --checkpoint"),
        (["--steps", 5], 2, "--steps does not apply with --checkpoint"),
        (["--at-steps", 5], 2, "--at-steps does not apply with --checkpoint"),
        (["--branches", 5], 2, "--branches does not apply with --checkpoint"),
        (["--seed", 5], 2, "--seed does not apply with --checkpoint"),
        (["--float64"], 2, "--float64 does not apply with --checkpoint"),
        (["--learning-rate", 1], 2, "--learning-rate does not apply with"),
        (["--init", "uniform"], 2, "--init does not apply with --checkpoint"),
    ],
)
def test_invalid_flags_get_a_one_line_answer(
    trained, flags, status, words, monkeypatch, capsys
):
    run, _, _ = trained
    given = ("--checkpoint", run, *flags)
    check_refused(experiment, given, status, words, monkeypatch, capsys)


def test_too_many_leaves_are_refused(trained, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "MOST_PARAMETERS", 100)
    given = ("--checkpoint", trained[0])
    words = "chooses 108 parameters in all branches, and the Hessian takes at most 100"
    check_refused(experiment, given, 2, words, monkeypatch, capsys)


def no_data(run, images, spec):
    folder = run / "checkpoints" / "main"
    checkpoints.write_spec(folder, dataclasses.replace(spec, data=None))


def no_images(run, images, spec):
    shutil.rmtree(images)


def no_network(run, images, spec):
    (run / "checkpoints" / "main" / "network.json").unlink()


def other_network(run, images, spec):
    checkpoints.write_spec(
        run / "checkpoints" / "main", dataclasses.replace(spec, branches=3)
    )


def flipped_bit(run, images, spec):
    path = max(
        (run / "checkpoints" / "main" / "5" / "model").rglob("*"),
        key=lambda path: path.stat().st_size * path.is_file(),
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_data, "does not name the data"),
        (no_images, "images"),
        (no_network, "network"),
        (other_network, "of another network"),
        (flipped_bit, "is damaged"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(own, damage, words, monkeypatch, capsys):
    run, images, spec = own
    damage(run, images, spec)
    check_refused(experiment, flags_for(run), 1, words, monkeypatch, capsys)
