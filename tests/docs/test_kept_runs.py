"""The runs in docs/runs: what is kept of them, and that pages and networks agree."""

import json
import re
import shlex
import subprocess

import numpy as np
import pytest
from helpers import ROOT
from numpy.testing import assert_allclose

from bspec_jax import classifier, generator, runs
from bspec_jax.classifier import contributions
from bspec_jax.components import measures
from bspec_jax.data import faces
from bspec_jax.generator import recogniser, to_signed

KEPT = ROOT / "docs" / "runs"
RUNS = sorted(KEPT.iterdir())
WITH_NETWORKS = {"classify", "faces_diffusion"}  # those that the notebooks need
FILES = {"config.json", "environment.json", "results.json", "figures"}
LARGEST = 500_000  # bytes of a file of any other run
LARGEST_NETWORK = 5_000_000  # bytes of a run's networks and examples
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def by_name(path):
    return path.name


def commands(page):
    """The shell commands of a page, each in one line."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def without_folders(command):
    """A command but where it writes to; run folders by default are named by time."""
    command = [re.sub(r"/\d{8}-\d{6}-\d+$", "/<time>", word) for word in command]
    if "--workdir" in command:
        at = command.index("--workdir")
        del command[at : at + 2]
    return command


@pytest.mark.parametrize("workdir", RUNS, ids=by_name)
def test_a_page_shows_the_command_and_the_figures_of_each_run(workdir):
    environment = json.loads((workdir / "environment.json").read_text())
    command = without_folders(environment["command"])
    shown = [
        page for page in PAGES if f"runs/{workdir.name}/figures/" in page.read_text()
    ]
    assert shown
    assert any(
        command == without_folders(one) for page in shown for one in commands(page)
    ), shlex.join(command)


@pytest.mark.parametrize("workdir", RUNS, ids=by_name)
def test_little_is_kept_and_this_version_reads_it(workdir):
    results = runs.load_results(workdir)
    config = json.loads((workdir / "config.json").read_text())
    assert runs.check_experiment(workdir, config["experiment"]) == config
    assert results["config"].items() <= config.items()
    have = {path.name for path in workdir.iterdir()} - {"data.json"}
    if workdir.name in WITH_NETWORKS:
        kept = [*workdir.rglob("checkpoints/**/*"), *workdir.glob("*.npz")]
        assert sum(p.stat().st_size for p in kept if p.is_file()) <= LARGEST_NETWORK
        assert have <= FILES | {"checkpoints", "examples.npz"}
    else:
        assert have == FILES
    others = [*workdir.glob("*.json"), *(workdir / "figures").iterdir()]
    assert max(path.stat().st_size for path in others) <= LARGEST
    environment = json.loads((workdir / "environment.json").read_text())
    assert not [word for word in environment["command"] if word.startswith("/")]


@pytest.mark.slow
def test_the_classifier_is_as_accurate_as_its_run_says():
    workdir = KEPT / "classify"
    results = runs.load_results(workdir)
    with np.load(workdir / "examples.npz") as examples:
        images, labels = examples["images"], examples["labels"]
    v = classifier.load(workdir).responses(images)
    accuracy = contributions.accuracy(v.sum(0), labels)
    # Of a tenth of the images: three standard errors.
    assert_allclose(accuracy, results["test_accuracy"], atol=0.03)
    alone = [contributions.accuracy(branch, labels) for branch in v]
    assert_allclose(alone, results["ablation"]["alone"], atol=0.05)


@pytest.mark.slow
def test_the_generator_is_as_good_as_its_run_says():
    workdir = KEPT / "faces_diffusion"
    results = runs.load_results(workdir)
    trained = generator.load(workdir)
    assert results["config"]["iterations"] == trained.step
    indices = np.arange(24)
    labels = faces.labels("test")[indices]
    x = to_signed(faces.find(64).test.read(indices).images)
    own = generator.decompose(trained.model, trained.params, x, labels)
    assert_allclose(own.residual + own.components.sum(0), own.image, atol=1e-5)
    psnr = measures.psnr(x, np.clip(own.image, -1, 1))
    # Of 24 images in place of 600: three standard errors.
    error = psnr.std() / np.sqrt(len(psnr))
    assert_allclose(psnr.mean(), results["psnr"], atol=3 * error)
    recognise = recogniser.load(workdir / "checkpoints").recognise
    right = (recognise(x) == labels).mean()
    assert right >= results["recogniser_accuracy"] - 0.1


def test_the_repository_is_light():
    """At most 20 MB, and 500 KB a file but for the networks that notebooks need."""
    call = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(call, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {path: path.stat().st_size for path in paths if path.is_file()}
    assert sum(sizes.values()) <= 20e6
    networks = {KEPT / name / "checkpoints" for name in WITH_NETWORKS}
    large = [path for path, size in sizes.items() if size > LARGEST]
    assert not [path for path in large if not networks & set(path.parents)]
