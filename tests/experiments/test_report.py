import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, refuse
from numpy.testing import assert_allclose

from bspec_jax.storage.errors import UserError
from experiments.report import check, report
from experiments.report_findings import (
    Finding,
    conclusions,
    findings,
    of_generator,
    verdict,
)
from experiments.report_pages import panel, to_html
from experiments.report_runs import Run, load, read

RUNS = ROOT / "docs" / "runs"
TOY = "Toy 1, step 0.02, slope 0.3, normal init of scale 2, x 77"  # of `toy_run`
KEPT_REPORT = ROOT / "docs" / "report_of_runs"


def finding(observation, holds, level="toy", setting="a"):
    record = {"holds": holds, "value": 0.5, "interval": [0.4, 0.6]}
    return Finding(observation, level, setting, "run", record)


@pytest.mark.parametrize(
    ("holds", "text"),
    [
        ([True, True], "holds"),
        ([True, False], "holds under conditions"),
        ([True, None], "holds under conditions"),
        ([False, None], "does not hold"),
        ([None, None], "undecided"),
        ([], "not measured"),
    ],
)
def test_verdicts_sum_up_all_settings(holds, text):
    found = [finding(2, one, setting=f"s{i}") for i, one in enumerate(holds)]
    assert verdict(2, [*found, finding(3, False)]).text == text


def test_a_verdict_names_its_conditions():
    found = [
        finding(1, True, setting="first"),
        finding(1, False, setting="second"),
        finding(1, None, "generator", "third"),
    ]
    why = verdict(1, found).why
    assert why == "in toy (first); not: toy (second); undecided: generator (third)"


def test_the_eighth_observation_needs_all_levels():
    levels = ("toy", "classifier", "generator")
    every = [finding(n, True, level) for n in range(1, 8) for level in levels]
    assert verdict(8, every).text == "holds"
    assert verdict(8, every[:-1]).text == "undecided"
    assert verdict(8, every[:-1]).why == "undecided or not measured: generator (7)"
    failing = verdict(8, [*every[:-1], finding(5, False, "classifier")])
    assert failing.text == "does not hold"
    assert failing.why.startswith("fails: classifier (5)")
    assert verdict(8, [finding("section8", True)]).text == "not measured"


def test_a_generator_s_observations_follow_from_its_results():
    results = json.loads((RUNS / "faces_gaussian" / "results.json").read_text())
    found = of_generator(results)
    norms = np.array(results["norms"])
    spread = np.array([part["mean"] for part in results["part_scores"].values()]).T
    energy = norms[:, None] ** 2 * spread
    shares = energy / energy.sum(1, keepdims=True)
    entropy = -(shares * np.log(shares)).sum(1) / math.log(shares.shape[1])
    assert_allclose(found[1]["value"], entropy.mean(), rtol=1e-5)
    active = np.sqrt(energy) >= 0.1 * np.sqrt(energy).max(0)
    assert_allclose(found[2]["value"], active.mean(), rtol=1e-6)
    assert_allclose(found[3]["value"], 1 - active.mean(), atol=1e-6)
    assert found[4]["value"] == (results["silent"] > 0)
    assert_allclose(found[5]["value"], results["mean_correlation"], rtol=1e-3)
    assert_allclose(
        found[5]["initial"], results["initial"]["mean_correlation"], rtol=1e-3
    )
    assert all(one["holds"] is None for one in found.values())


def toy_run(folder, **tasks):
    """A finished run of the toys, as far as the report reads it."""
    (folder / "figures").mkdir(parents=True)
    for name in ("fig03_success", "extra"):
        shutil.copy(
            RUNS / "faces_segmentation" / "figures" / "segmentation_scores.png",
            folder / "figures" / f"{name}.png",
        )
    record = {
        "branches": 30,
        "value": 0.34,
        "interval": [0.33, 0.35],
        "initial": 0.5,
        "control": 1.0,
        "holds": True,
    }
    saved = {
        "config.json": {"experiment": "toy"},
        "environment.json": {
            "command": ["python", "-m", "experiments.toy"],
            "cpus": 2,
            "device": "cpu",
            "commit": "0123456789abcdef",
        },
        "results.json": {
            "schema": 1,
            "config": {
                "learning_rate": 0.02,
                "negative_slope": 0.3,
                "init": "normal",
                "init_scale": 2.0,
            },
            "wall_seconds": 30.0,
            "tasks": {"toy1": {"trials": 77, "observations": {"1": record}}},
        },
    }
    for name, data in saved.items():
        (folder / name).write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a toy, two kept runs, and some that must be left out."""
    folder = tmp_path_factory.mktemp("report")
    toy = toy_run(folder / "my_toy")
    damaged = toy_run(folder / "damaged")
    (damaged / "results.json").write_text("{")
    unfinished = toy_run(folder / "unfinished")
    (unfinished / "results.json").unlink()
    cut = []  # JSON that lacks something, and a picture that is cut or empty
    for i, (name, lost) in enumerate(
        [("results", "tasks"), ("environment", "cpus"), ("results", "wall_seconds")]
    ):
        cut.append(toy_run(folder / f"cut{i}"))
        path = cut[-1] / f"{name}.json"
        data = json.loads(path.read_text())
        del data[lost]
        path.write_text(json.dumps(data))
    for i, size in enumerate((0, 300, 2000), len(cut)):
        cut.append(toy_run(folder / f"cut{i}"))
        path = cut[-1] / "figures" / "extra.png"
        path.write_bytes(path.read_bytes()[:size])
    cut.append(toy_run(folder / "cut6"))
    (cut[-1] / "results.json").write_text("[]")
    runs = (*cut, toy, RUNS / "faces_segmentation", damaged, unfinished, folder)
    report((*runs, RUNS / "faces_gaussian"), folder / "out")
    return folder / "out"


def measured_run(experiment, results):
    return Run(Path("a_run"), experiment, results, {})


def test_a_classifier_s_hessian_is_one_network_s():
    def stage(step, ratio, shares):
        return {
            "step": step,
            "offdiagonal_ratio": ratio,
            "control_ratio": 2.5,
            "ratio_to_control": ratio / 2.5,
            "factors": {"thresholds": [1e-3, 1e-2, 1e-1], **shares},
        }

    start = {"distributive": [0.0, 0.1, 0.2], "collaborative": [0.0, 0.3, 0.4]}
    end = {"distributive": [0.1, 0.45, 0.6], "collaborative": [0.1, 0.2, 0.9]}
    stages = [stage(0, 0.25, start), stage(100, 0.5, end)]
    results = {
        "config": {"checkpoint": "somewhere"},
        "branches": 16,
        "tasks": {"classify": {"clamp": "none", "stages": stages}},
    }
    seventh, eighth = findings(measured_run("hessian", results))
    assert seventh.setting == "M = 16, no clamp, x 1"
    assert (seventh.observation, seventh.level) == (7, "classifier")
    assert_allclose(seventh.record["value"], 0.2)
    assert_allclose(seventh.record["initial"], 0.1)
    assert eighth.observation == "section8"
    assert_allclose(eighth.record["value"], 0.25)
    assert_allclose(eighth.record["initial"], -0.2)
    for one in (seventh, eighth):
        assert one.record["interval"] == [None, None]
        assert one.record["holds"] is None
    del stages[0]  # without its start nothing can be compared
    assert findings(measured_run("hessian", results)) == []


def test_a_classifier_s_observations_are_its_sweep_s():
    record = {"holds": False, "value": 0.9, "branches": [8, 32]}
    results = {
        "config": {
            "dataset": "fashion_mnist",
            "image_size": 14,
            "train_examples": None,
            "epochs": 2,
        },
        "sweep": {"repeats": 3, "branches": [8, 32]},
        "observations": {"6": record, "5": {"holds": None, "branches": 8}},
    }
    growth, other = findings(measured_run("classify", results))
    setting = "fashion_mnist, 14 px, all images, 2 epochs, M = 32, x 3"
    assert growth == Finding(6, "classifier", setting, "a_run", record)
    assert other.observation == 5
    record["branches"] = [8, 8]  # of one M there is no growth
    assert findings(measured_run("classify", results)) == [other]


def test_findings_come_by_level():
    levels = "generator", "toy", "classifier"
    said = conclusions([finding(1, True, level) for level in levels])
    found = [one.level for one in said[1]["findings"]]
    assert found == ["toy", "classifier", "generator"]


def test_what_is_missing_or_damaged_is_named(written):
    page = (written / "report.md").read_text()
    for name in ("hessian", "classify", "applications"):
        assert f"- No run of `{name}`." in page
    assert "No run of `toy`" not in page
    assert re.search("- Left out: damaged: .*results.json is damaged", page)
    assert "- Left out: unfinished: an unfinished run of toy." in page
    left_out = json.loads((written / "report.json").read_text())["left_out"]
    assert len(left_out) == 10
    assert "- Left out: cut6: " in page
    for i in range(6):
        assert re.search(rf"- Left out: cut{i}: damaged \(\w+", page), i
    assert "damaged (KeyError: 'cpus')" in page


def test_observations_have_their_measurements_and_verdicts(written):
    page = (written / "report.md").read_text()
    line = (
        f"| toy: {TOY} | `my_toy` | 30 | 0.340 "
        "| 0.330 to 0.350 | 0.500 | 1.000 | holds |"
    )
    assert line in page
    assert (
        f"**holds under conditions** in toy ({TOY})"
        "; undecided: generator (faces with gaussian R, M = 9, x 1)" in page
    )
    assert "| Observation 7 | the Hessian is nearly block diagonal | **not meas" in page
    saved = json.loads((written / "report.json").read_text())["observations"]
    assert set(saved) == {*map(str, range(1, 9)), "section8"}
    assert saved["1"]["findings"][0]["record"]["value"] == 0.34


def test_figures_come_in_the_order_of_the_paper(written):
    page = (written / "report.md").read_text()
    headings = [int(n) for n in re.findall(r"^### Figure (\d+)$", page, re.M)]
    assert headings == list(range(1, 22))
    at = [page.index(f"![{name}") for name in ("Figure 1", "fig03", "fig09", "fig12")]
    assert at == sorted(at)
    assert page.index("Beyond the paper") < page.index("![extra of my_toy]")
    for path in re.findall(r"\]\((figures/[^)]*)\)", page):
        assert (written / path).stat().st_size > 1000


def test_panels_come_in_the_order_of_the_paper():
    stems = sorted(path.stem for path in RUNS.glob("toy/figures/fig*"))
    assert sorted(stems, key=panel) == [
        "fig02_typical",
        "fig02_rare_takeover",
        "fig02_rare_shared",
        "fig03_success",
        "fig03_covariance",
        "fig04_responses",
        "fig04_active",
    ]
    page = (KEPT_REPORT / "report.md").read_text()
    names = "fig02_typical", "fig02_rare_shared", "fig05_active", "fig05_hessian"
    at = [page.index(f"![{name} of ") for name in names]
    assert at == sorted(at)


def test_a_command_can_be_typed_and_a_commit_s_changes_are_told():
    environment = {"command": ["python", "--classes", "ankle boot"]}
    environment["commit"] = "0123456789abcdef+changes"
    one = Run(Path("a_run"), "toy", {}, environment)
    assert one.command == "python --classes 'ankle boot'"
    assert one.commit == "0123456789+changes"


def test_the_page_needs_no_other_file(written):
    page = (written / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{20})', page)
    assert sources
    assert set(sources) == {"data:image/webp;base"}
    assert page.count("<table>") == page.count('<div class="table">') > 3
    assert "<code>python -m experiments.toy</code>" in page


def test_runs_are_read_in_the_order_of_the_experiments(tmp_path):
    folders = RUNS / "faces_segmentation", toy_run(tmp_path / "t")
    runs, complaints = load(folders, check)
    assert [one.experiment for one in runs] == ["toy", "segment"]
    assert complaints == []
    assert [one.observation for one in findings(runs[0])] == [1]
    assert findings(read(RUNS / "shoes_gaussian")) == []  # has no parts


def test_the_report_that_is_kept_is_that_of_the_runs_that_are_kept(tmp_path):
    """If not, make it again as CONTRIBUTING says."""
    report(tuple(sorted(RUNS.iterdir())), tmp_path / "out")
    made, kept = (
        {str(path.relative_to(folder)) for path in folder.rglob("*")}
        for folder in (tmp_path / "out", KEPT_REPORT)
    )
    assert made == kept
    for name in ("report.md", "report.json"):
        assert (tmp_path / "out" / name).read_text() == (KEPT_REPORT / name).read_text()
    shown = to_html((KEPT_REPORT / "report.md").read_text(), KEPT_REPORT)
    assert (KEPT_REPORT / "report.html").read_text() == shown
    saved = json.loads((KEPT_REPORT / "report.json").read_text())
    assert saved["left_out"] == []
    verdicts = {one["verdict"] for one in saved["observations"].values()}
    assert "not measured" not in verdicts
    assert "## Missing" not in (KEPT_REPORT / "report.md").read_text()


def test_nothing_is_overwritten_and_names_are_distinct(written, tmp_path):
    with pytest.raises(UserError, match="is not empty; choose another --workdir"):
        report((RUNS / "faces_gaussian",), written)
    runs = toy_run(tmp_path / "a" / "same"), toy_run(tmp_path / "b" / "same")
    with pytest.raises(UserError, match="several runs are called same"):
        report(runs, tmp_path / "out")
    with pytest.raises(UserError, match="no finished run among these folders"):
        report((tmp_path,), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_folder_is_one_line():
    refused = refuse("report")
    assert refused.returncode == 2
    assert refused.stderr.endswith("name the folders of finished runs\n")
    assert len(refused.stderr.splitlines()) == 1
