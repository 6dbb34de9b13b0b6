import html
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers import ROOT, refuse
from PIL import Image

from bspec_jax import runs
from bspec_jax.storage.errors import UserError
from experiments.report.__main__ import check, main, report
from experiments.report.conclusions import (
    Finding,
    conclusions,
    findings,
    verdict,
    verdict_at,
)
from experiments.report.finished import FinishedRun, load_runs, read
from experiments.report.markup import code, plain
from experiments.report.page import panel_order, row, row_of_run, to_html

RUNS = ROOT / "docs" / "runs"
KEPT_REPORT = ROOT / "docs" / "report_of_runs"
TOY = "Toy 1, step 0.02, slope 0.3, normal init of scale 2, x 77"
GENERATOR = "faces with gaussian R, M = 9, x 1"


def finding(observation, holds, level="toy", setting="a", **changes):
    record = {"holds": holds, "networks": 9, "regime": None} | changes
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


def test_a_single_network_gets_no_verdict():
    single = [finding(2, None, "classifier", name, networks=1) for name in "ab"]
    found = verdict(2, single)
    assert found == ("no verdict", "one network: classifier (a and b)")
    found = verdict(2, [*single, finding(2, True, setting="s")])
    assert found == ("holds", "holds: toy (s); one network: classifier (a and b)")


def test_networks_outside_of_the_regime_decide_nothing():
    lacking = finding(2, None, "classifier", "c", regime="more decay")
    untested = "not tested in the paper's regime"
    assert verdict(2, [lacking]) == (untested, "in classifier (c)")
    found = verdict(2, [lacking, finding(2, False, setting="s")])
    assert found.text == "does not hold"
    assert found.why == f"does not hold: toy (s); {untested}: classifier (c)"
    single = finding(2, None, "classifier", "d", networks=1, regime="more decay")
    assert verdict(2, [lacking, single]).text == untested


NASTY = [
    *("a|b", "*a* **b**", "_a_ b_c __d__", "<b>&amp;</b>", "`code`", "``", "` a `"),
    *("[a](b)", "![a](b)", "$5-$10", "b$_$", "~~a~~", "# a", "- a", r"a\|b\*", "<!--"),
    *("a\nb", "https://a.b/c_d", 'src="x"', " a ", "&#35;", "<a@b.c>", "\\", "||"),
]


@pytest.mark.parametrize("text", NASTY)
def test_text_of_the_data_is_no_markup(text):
    """As a page shows it, in a table and elsewhere."""
    shown = text.replace("\n", "\\n")
    table = f"| a | b |\n|---|---|\n| x {plain(text)} y | {code(text, in_table=True)} |"
    page = to_html(f"x {plain(text)} y\n\n# {code(text)}\n\n{table}", Path())
    body = page.partition("<body>")[2]
    (paragraph,) = re.findall("<p>(.*?)</p>", body, re.S)
    assert html.unescape(paragraph) == f"x {shown} y"
    (heading,) = re.findall("<h1><code>(.*?)</code></h1>", body, re.S)
    cells = re.findall("<td>(.*?)</td>", body, re.S)
    assert html.unescape(cells[0]) == f"x {shown} y"
    assert cells[1] == f"<code>{heading}</code>"
    assert html.unescape(heading) == shown
    assert len(cells) == 2


def test_any_folder_and_setting_is_shown_as_it_is(tmp_path):
    name = "a|b *c* _d_ <e> &amp; $f$ [g](h) `i` #1 50% (j)\nk"
    run = toy_run(tmp_path / name, setting="A|B <i>*c*</i>, x 9", interval=None)
    broken = tmp_path / "<b> | c"
    broken.mkdir()
    report((run, broken), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    texts = html.unescape(page)
    shown = name.replace("\n", "\\n")
    assert f"<code>{shown}</code></td>" in texts
    assert f'alt="extra of {shown}"' in texts
    assert "<td>toy: A|B <i>*c*</i>, x 9</td>" in texts
    assert "<li>Left out: <b> | c: no run at" in texts
    for markup in ("<i>", "<b>", "<e>", "<em>c", "<em>d"):
        assert markup not in page
    assert page.count("data:image/png;base64,") == 3
    for target in links((tmp_path / "out" / "report.md").read_text()):
        assert (tmp_path / "out" / unquote(target)).exists()


def test_a_run_is_called_by_its_folder_however_it_is_given(tmp_path, monkeypatch):
    run = toy_run(tmp_path / "my_run")
    monkeypatch.chdir(run)
    for given in (".", "../my_run", "figures/.."):
        assert read(Path(given)).name == "my_run"


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ((), 2, "name the folders of finished runs"),
        (("--workdir",), 2, "--workdir"),
        (("a", "--nothing"), 2, "nothing"),
        (("missing",), 1, "no finished run among these folders"),
        (("README.md",), 1, "no finished run among these folders"),
        (("RUN", "RUN"), 1, "several runs are called"),
        (("RUN", "--workdir", "RUN"), 1, "is not empty; choose another --workdir"),
        (("RUN", "--workdir", "README.md"), 1, "is a file; choose another --workdir"),
        (("RUN", "--workdir", "README.md/new"), 1, "README.md"),
        (("~nobody_here/run",), 1, "~nobody_here"),
        (("RUN", "--workdir", "a", "--workdir=b"), 2, "--workdir is given twice"),
    ],
)
def test_wrong_input_is_one_line(flags, status, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = toy_run(tmp_path / "toy")
    with pytest.raises(SystemExit) as end:
        main([str(run) if flag == "RUN" else flag for flag in flags])
    assert end.value.code == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert message in err


@pytest.mark.parametrize(
    ("error", "status", "end"),
    [
        (OSError(28, "No space left on device"), 1, "OUT: No space left on device\n"),
        (KeyboardInterrupt(), 130, "stopped; the report is incomplete\n"),
    ],
)
def test_a_report_that_ends_early_is_one_line(
    error, status, end, tmp_path, monkeypatch, capsys
):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(runs, "save_figures", fail)
    monkeypatch.setattr(os, "_exit", sys.exit)
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        main([str(toy_run(tmp_path / "toy")), "--workdir", out])
    assert ended.value.code == status
    assert capsys.readouterr().err.endswith("report: " + end.replace("OUT", out))


def test_a_verdict_names_its_conditions():
    found = [
        finding(1, True, setting="first"),
        finding(1, False, setting="second"),
        finding(1, None, "generator", "third"),
    ]
    why = verdict(1, found).why
    assert why == (
        "holds: toy (first); does not hold: toy (second); undecided: generator (third)"
    )
    assert verdict(1, found[:1]).why == "in toy (first)"


def test_the_eighth_observation_has_a_verdict_for_each_level():
    every = [finding(n, True, "toy") for n in range(1, 8)]
    assert verdict_at("toy", every) == ("holds", "holds: 1, 2, 3, 4, 5, 6, 7")
    assert verdict_at("classifier", every).text == "not measured"
    missing = verdict_at("toy", every[:-1])
    assert missing == ("undecided", "holds: 1, 2, 3, 4, 5, 6; not measured: 7")
    failing = verdict_at("toy", [*every[:-1], finding(5, False)])
    assert failing.text == "does not hold"
    assert "does not hold: 5; not measured: 7" in failing.why
    several = [finding(n, h) for n in range(1, 8) for h in (True, None)]
    assert verdict_at("toy", several).text == "undecided"  # all under conditions
    lacking = [finding(n, None, regime="decay") for n in range(1, 7)]
    untested = "not tested in the paper's regime"
    assert verdict_at("toy", lacking).text == untested
    assert verdict_at("toy", [*lacking, finding(7, True)]).text == "undecided"
    assert verdict_at("toy", [*lacking, finding(7, False)]).text == "does not hold"
    one = [finding(n, None, "generator", networks=1) for n in range(1, 8)]
    assert verdict_at("generator", one).text == "no verdict"
    found = conclusions([*every, *one])[8]
    assert "verdict" not in found
    texts = [level["verdict"] for level in found["levels"].values()]
    assert texts == ["holds", "not measured", "no verdict"]
    assert verdict_at("toy", [finding("section8", True)]).text == "not measured"


def record_of(observation, level, setting, **changes):
    """A finding as results.json holds it."""
    return {
        "observation": observation,
        "level": level,
        "setting": setting,
        "claim": "branches have regions of specialization",
        "measure": "entropy",
        "threshold": 0.8,
        "branches": 30,
        "value": 0.34,
        "interval": [0.33, 0.35],
        "initial": 0.5,
        "control": 1.0,
        "control_interval": [0.9, 1.0],
        "networks": 77,
        "holds": True,
        "reason": None,
        "regime": None,
        "beside": {},
        **changes,
    }


def finished_run(folder, experiment="toy", saved=None):
    """A finished run, as far as the report reads it; without `saved`, no findings."""
    (folder / "figures").mkdir(parents=True)
    for name in ("fig03_success", "extra"):
        noise = Image.effect_noise((100, 80), 60)
        noise.save(folder / "figures" / f"{name}.png")
    files = {
        "config.json": {"experiment": experiment, "schema": runs.SCHEMA},
        "environment.json": {
            "command": ["python", "-m", f"experiments.{experiment}"],
            "cpus": 2,
            "device": "cpu",
            "commit": "0123456789abcdef",
        },
        "results.json": {
            "schema": runs.SCHEMA,
            "config": {},
            "wall_seconds": 30.0,
            **({} if saved is None else {"findings": saved}),
        },
    }
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data))
    return folder


def toy_run(folder, **changes):
    saved = record_of(1, "toy", TOY) | changes
    return finished_run(folder, "toy", [saved])


def generator_run(folder):
    unknown = {"interval": [None, None], "control": None, "holds": None}
    unknown |= {"networks": 1, "reason": "one network"}
    saved = [record_of(n, "generator", GENERATOR, **unknown) for n in range(1, 6)]
    return finished_run(folder, "class_transfer", saved)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a toy and two other runs, and of some that must be left out."""
    folder = tmp_path_factory.mktemp("report")
    toy = toy_run(folder / "my_toy")
    damaged = toy_run(folder / "damaged")
    (damaged / "results.json").write_text("{")
    unfinished = toy_run(folder / "unfinished")
    (unfinished / "results.json").unlink()
    cut = []  # JSON that lacks something, and a picture that is cut or empty
    for i, (name, lost) in enumerate(
        [("results", "findings"), ("environment", "cpus"), ("results", "wall_seconds")]
    ):
        cut.append(toy_run(folder / f"cut{i}"))
        path = cut[-1] / f"{name}.json"
        data = json.loads(path.read_text())
        if lost == "findings":
            del data[lost][0]["holds"]
        else:
            del data[lost]
        path.write_text(json.dumps(data))
    for i, size in enumerate((0, 300, 2000), len(cut)):
        cut.append(toy_run(folder / f"cut{i}"))
        path = cut[-1] / "figures" / "extra.png"
        assert path.stat().st_size > size
        path.write_bytes(path.read_bytes()[:size])
    cut.append(toy_run(folder / "cut6"))
    (cut[-1] / "results.json").write_text("[]")
    segmentation = finished_run(folder / "my segmentation #2", "segment")
    generator = generator_run(folder / "my_generator")
    report(
        (*cut, toy, segmentation, damaged, unfinished, folder, generator),
        folder / "out",
    )
    return folder / "out"


def test_findings_are_those_that_a_run_saved(tmp_path):
    record = {"claim": "c", "value": 0.9, "branches": [8, 32], "holds": False}
    where = {"level": "classifier", "setting": "fashion_mnist, M = 32, x 3"}
    saved = [
        {"observation": 6, **where, **record},
        {"observation": "section8", **where, **record},
    ]
    found = findings(read(finished_run(tmp_path / "a_run", "classify", saved)))
    setting = "fashion_mnist, M = 32, x 3"
    assert found == [
        Finding(6, "classifier", setting, "a_run", record),
        Finding("section8", "classifier", setting, "a_run", record),
    ]
    assert findings(read(finished_run(tmp_path / "none", "class_transfer", []))) == []
    assert findings(read(finished_run(tmp_path / "segmentation", "segment"))) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"holds": "yes"}, "KeyError: 'yes'"),
        ({"interval": [0.1]}, "ValueError: .*"),
        ({"value": "high"}, "ValueError: .*"),
        ({"level": "human"}, "ValueError: .*"),
    ],
)
def test_a_finding_of_another_form_is_damage(changes, reason, tmp_path):
    finished, (complaint,) = load_runs([toy_run(tmp_path / "toy", **changes)], check)
    assert finished == []
    assert re.fullmatch(rf"toy: damaged \({reason}\)", complaint)


def test_a_run_of_another_version_is_named(tmp_path):
    path = toy_run(tmp_path / "toy") / "results.json"
    path.write_text(json.dumps({"schema": 1, "config": {}, "wall_seconds": 1.0}))
    finished, (complaint,) = load_runs([tmp_path / "toy"], check)
    assert finished == []
    assert "schema 1" in complaint
    assert "0.1 reads it" in complaint


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
        "| 0.330 to 0.350 | 0.500 | 1.000 |  | holds |"
    )
    assert line in page
    assert (
        f"| **holds** holds: toy ({TOY}); one network: generator ({GENERATOR}) |"
        in page
    )
    line = (
        f"| generator: {GENERATOR} | `my_generator` | 30 | 0.340 | none | 0.500 | - |"
    )
    assert f"{line}  | one network |" in page
    line = r"\| Observation 8, (\w+) \| .*? \| \*\*(.*?)\*\* (.*?) \|"
    assert re.findall(line, page) == [
        ("toy", "undecided", "holds: 1; not measured: 2, 3, 4, 5, 6, 7"),
        ("classifier", "not measured", "not measured: 1, 2, 3, 4, 5, 6, 7"),
        ("generator", "no verdict", "no verdict: 1, 2, 3, 4, 5; not measured: 6, 7"),
    ]
    assert "| Observation 7 | the Hessian is nearly block diagonal | **not meas" in page
    saved = json.loads((written / "report.json").read_text())["observations"]
    assert set(saved) == {*map(str, range(1, 9)), "section8"}
    assert saved["1"]["findings"][0]["record"]["value"] == 0.34


def test_what_stands_beside_a_measure_and_a_verdict_that_is_not_shared():
    uncentred = {"value": 0.9, "interval": [None, None], "holds": False}
    null = {"value": 0.1, "interval": [0.05, 0.15], "networks": 77}
    saved = record_of(
        5,
        "toy",
        TOY,
        uncentred=uncentred | {"agrees": False},
        beside={"null": null},
        holds=None,
        reason="the interval contains the threshold",
    )
    found = Finding(5, "toy", TOY, "my_toy", saved)
    cells = row(found).strip("| ").split(" | ")
    assert cells[-2] == (
        "with constant outputs 0.900; with examples permuted 0.100 (0.050 to 0.150)"
    )
    assert cells[-1] == (
        "undecided (the interval contains the threshold; with constant outputs: does "
        "not hold)"
    )


def test_figures_come_in_the_order_of_the_paper(written):
    page = (written / "report.md").read_text()
    headings = [int(n) for n in re.findall(r"^### Figure (\d+)$", page, re.M)]
    assert headings == list(range(1, 22))
    names = ("Figure 1", "fig03", "extra of my_toy", "extra of my_gen", "extra of my s")
    at = [page.index(f"![{name}") for name in names]
    assert at == sorted(at)
    assert page.index("Beyond the paper") < page.index("![extra of my_toy]")


def test_figures_are_those_of_the_runs(written):
    """Only Figure 1 is new; spaces and other characters need not stop a link."""
    drawn = [str(p.relative_to(written)) for p in written.rglob("*") if p.is_file()]
    assert sorted(drawn) == [
        "figures/fig01_architecture.png",
        "report.html",
        "report.json",
        "report.md",
    ]
    targets = links((written / "report.md").read_text())
    assert "../my segmentation %232/figures/extra.png" in targets
    for target in targets:
        assert (written / unquote(target)).stat().st_size > 1000
    assert len(targets) == 1 + 2 * 3  # Figure 1, and two of each run


def links(markdown):
    return re.findall(r"\]\(<([^>]*)>\)", markdown)


def test_links_lead_out_of_a_symbolic_link(tmp_path):
    run = toy_run(tmp_path / "runs" / "toy")
    (tmp_path / "deep" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "real")
    report((run,), tmp_path / "link" / "out")
    targets = links((tmp_path / "link" / "out" / "report.md").read_text())
    assert "../../../runs/toy/figures/extra.png" in targets
    for target in targets:
        assert os.path.exists(f"{tmp_path / 'link' / 'out'}/{target}")  # noqa: PTH110


def test_panels_come_in_the_order_of_the_paper():
    stems = sorted(path.stem for path in RUNS.glob("toy/figures/fig*"))
    assert sorted(stems, key=panel_order) == [
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
    run = FinishedRun(Path("a_run"), "toy", {}, environment)
    assert run.command == "python --classes 'ankle boot'"
    assert run.commit == "0123456789+changes"


@pytest.mark.parametrize(("seconds", "minutes"), [(90.0, "1.5"), (None, "resumed")])
def test_the_time_of_a_resumed_run_is_not_that_of_its_last_part(
    seconds, minutes, tmp_path
):
    run = read(toy_run(tmp_path / "a_run"))
    row = row_of_run(run._replace(results=run.results | {"wall_seconds": seconds}))
    assert f"| toy | {minutes} | 2 x cpu |" in row


def test_the_page_needs_no_other_file(written):
    page = (written / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{20})', page)
    assert sources
    assert set(sources) == {"data:image/png;base6"}
    assert page.count("<table>") == page.count('<div class="table">') > 3
    assert "<code>python -m experiments.toy</code>" in page


def test_runs_are_read_in_the_order_of_the_experiments(tmp_path):
    folders = finished_run(tmp_path / "s", "segment"), toy_run(tmp_path / "t")
    finished, complaints = load_runs(folders, check)
    assert [run.experiment for run in finished] == ["toy", "segment"]
    assert complaints == []
    assert [one.observation for one in findings(finished[0])] == [1]


def test_the_report_that_is_kept_is_that_of_the_runs_that_are_kept(tmp_path):
    """If not, make it again as CONTRIBUTING says."""
    report(tuple(sorted(RUNS.iterdir())), tmp_path / "out")
    made, kept = (
        json.loads((folder / "report.json").read_text())
        for folder in (tmp_path / "out", KEPT_REPORT)
    )
    assert made == kept  # commands, verdicts and measurements
    assert kept["left_out"] == []
    levels = kept["observations"].pop("8")["levels"]
    observations = [*kept["observations"].values(), *levels.values()]
    assert "not measured" not in {one["verdict"] for one in observations}
    page = (KEPT_REPORT / "report.md").read_text()
    assert "## Missing" not in page
    for key, one in kept["observations"].items():
        title = "Section 8" if key == "section8" else f"Observation {key}"
        assert f"| {title} | {one['claim']} | **{one['verdict']}** {one['why']}" in page
    figures = {path.resolve() for path in RUNS.glob("*/figures/*.png")}
    shown = {(KEPT_REPORT / unquote(target)).resolve() for target in links(page)}
    assert shown == figures | {KEPT_REPORT / "figures" / "fig01_architecture.png"}
    assert not (KEPT_REPORT / "report.html").exists()


def test_nothing_is_overwritten_and_names_are_distinct(written, tmp_path):
    with pytest.raises(UserError, match="is not empty; choose another --workdir"):
        report((toy_run(tmp_path / "toy"),), written)
    same = toy_run(tmp_path / "a" / "same"), toy_run(tmp_path / "b" / "same")
    with pytest.raises(UserError, match="several runs are called same"):
        report(same, tmp_path / "out")
    with pytest.raises(UserError, match="no finished run among these folders"):
        report((tmp_path,), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_folder_is_one_line():
    refused = refuse("report")
    assert refused.returncode == 2
    assert refused.stderr.endswith("name the folders of finished runs\n")
    assert len(refused.stderr.splitlines()) == 1


def test_predictions_of_silence_are_listed(tmp_path):
    folder = finished_run(tmp_path / "grid", "silence")
    path = folder / "results.json"
    row = {
        "prediction": "3b",
        "claim": "without decay it does",
        "setting": "mlp, degree 3",
        "measure": "active(32) / active(8)",
        "expected": [3.0, None],
        "value": 4.0,
        "interval": [3.9, 4.2],
        "seeds": 5,
        "holds": True,
    }
    undecided = {**row, "prediction": "1a", "interval": [None, None], "holds": None}
    saved = json.loads(path.read_text()) | {"predictions": [row, undecided]}
    path.write_text(json.dumps(saved))
    report((folder,), tmp_path / "page")
    page = (tmp_path / "page" / "report.md").read_text()
    assert (
        "| 3b | without decay it does | `grid` | mlp, degree 3 | active(32) / active(8)"
        " | 3.000 to - | 4.000 | 3.900 to 4.200 | holds |" in page
    )
    assert "| none | undecided |" in page
