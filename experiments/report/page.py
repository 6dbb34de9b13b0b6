"""The report as a Markdown page, and as an HTML page that embeds its figures."""

import base64
import html
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from markdown_it import MarkdownIt

from bspec_jax.analysis.verdicts import OBSERVATIONS, ONE, VERDICTS
from experiments.report.conclusions import Finding, verdicts
from experiments.report.finished import EXPERIMENTS, FinishedRun
from experiments.report.markup import code, plain
from experiments.tables import number, remarks

ARCHITECTURE = Path("figures/fig01_architecture.png")  # drawn by the report itself
INTRODUCTION = """\
# Branch specialization: what the runs say

Measures and thresholds were fixed before the runs, but for two measures that were \
amended after first ones (see the page on theory). An observation *holds* in a setting \
if the 95 % interval of its measure lies beyond the threshold and beyond what it is \
compared with, the same networks before training and a control; it does *not hold* if \
it lies wholly on the other side of any of these. It is *undecided* if an interval \
contains the threshold or overlaps another, or is missing, and *not tested in the \
paper's regime* if the runs lack what the claim is about. A single network gets no \
verdict. Each setting ends with its number of networks, as in x 1000.

Observations 1 to 6 are measured after each branch's constant output is removed. The \
paper's measure, with constant outputs, stands beside, and so does its verdict where \
that is another one.
"""
# Of the paper's figures, by the prefix of their file names.
CAPTIONS = {
    "fig01": "A network of M branches: all read the same input, and their responses "
    "are added to R.",
    "fig02": "Responses of two branches during training of a toy: one branch per "
    "point, one branch taking over a point, and a shared point.",
    "fig03": "Toys: success rate of training against M, and covariance of the "
    "branches' responses.",
    "fig04": "Toys: responses of all branches to all points, and numbers of active and "
    "silent branches against M.",
    "fig05": "Classifier: active branches against M, covariances, and the Hessian of "
    "the first layer before and after training.",
    "fig06": "Classifier: mean response of each branch to each class.",
    "fig07": "Classifier: confidence of each branch in each class.",
    "fig08": "Classifier: the images of a class in which a branch is most confident.",
    "fig09": "Class transfer: images, re-generated and transferred to other classes.",
    "fig10": "Components of one image, alone and added to it.",
    "fig11": "Components of another image.",
    "fig12": "Eyes segmented by means of the components.",
    "fig13": "One component of the re-generated image at several gains.",
    "fig14": "Another component at several gains.",
    "fig15": "Sums of subsets of the components.",
    "fig16": "Classifier: more of the images in which branches are most confident.",
    "fig17": "Classifier: mean responses for several M.",
    "fig18": "Images, re-generations, R and components of the first class.",
    "fig19": "Images, re-generations, R and components of the second class.",
    "fig20": "Images, re-generations, R and components of the third class.",
    "fig21": "Steps of the segmentation.",
}
# Panels whose order in the paper is not alphabetical.
PANELS = (
    "fig02_typical",
    "fig02_rare_takeover",
    "fig02_rare_shared",
    "fig03_success",
    "fig03_covariance",
    "fig04_responses",
    "fig04_active",
)
# What else must be known of a verdict; see `verdicts` and `observations`.
ALSO = {
    5: " The threshold alone decides.",
    6: " The two M must not differ in success by more than 0.5 points, by interval. "
    "Start and control are shown, not compared: the control grows with M.",
    "section8": " Among examples that are still to be learnt, and beyond the share "
    "at the start. There is no control.",
}
# What stands beside a measure, in words.
BESIDE = {
    "change": "change from the start",
    "null": "with examples permuted",
    "success_difference": "difference in success",
    "step_effect": "effect of a step on other branches",
    "vanishing_share": "share at the end",
    "vanishing_gradient": "vanishing gradients",
    "orthogonal": "vanishing gradients of two factors that do not vanish",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
       max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; margin: .5rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left;
         vertical-align: top; }
img { max-width: 100%; height: auto; }
code { font-size: .875em; overflow-wrap: anywhere; }
"""


def page(
    runs: Sequence[FinishedRun],
    complaints: Sequence[str],
    concluded: Mapping[int | str, Mapping],
    folder: Path,
) -> str:
    """The report in Markdown.

    Args:
      complaints: one line for each run that was left out.
      concluded: of `conclusions.conclusions`.
      folder: of the report; links to figures are relative to it.
    """
    return "\n".join(
        [
            INTRODUCTION,
            *missing(runs, complaints),
            "## The observations",
            "",
            *observations(concluded),
            *predictions(runs),
            *figures_of_paper(runs, folder),
            *other_figures(runs, folder),
            *table_of_runs(runs),
        ]
    )


def missing(runs: Sequence[FinishedRun], complaints: Sequence[str]) -> list[str]:
    """Experiments without a run, and folders that were left out."""
    present = {run.experiment for run in runs}
    lines = [f"- No run of `{name}`." for name in EXPERIMENTS if name not in present]
    lines += [f"- Left out: {plain(complaint)}." for complaint in complaints]
    return ["## Missing", "", *lines, ""] if lines else []


def observations(concluded: Mapping[int | str, Mapping]) -> list[str]:
    """The verdicts, then the measurements behind each."""
    lines = ["| | claim | verdict |", "|---|---|---|"]
    lines += [
        f"| {title(key)}{level and f', {level}'} | {concluded[key]['claim']} | "
        f"**{found['verdict']}** {plain(found['why'])} |"
        for key, level, found in verdicts(concluded)
    ]
    lines.append("")
    for key, conclusion in concluded.items():
        if not conclusion["findings"]:
            continue
        limit = OBSERVATIONS[key]
        sign = "at most" if limit.below else "at least"
        least = f" For M of at least {limit.least}." if limit.least > 1 else ""
        also = least + ALSO.get(key, "")
        lines += [
            f"### {title(key)}: {conclusion['claim']}",
            "",
            f"`{limit.measure}`, {sign} {limit.threshold:g}.{also}",
            "",
            "| level, setting | run | M | value | 95 % interval | initial value | "
            "control | beside | |",
            "|---|---|---|---|---|---|---|---|---|",
            *map(row, conclusion["findings"]),
            "",
        ]
    return lines


def predictions(runs: Sequence[FinishedRun]) -> list[str]:
    """What the theory of silence predicted, and what the runs that test it say."""
    tested = [run for run in runs if "predictions" in run.results]
    if not tested:
        return []
    lines = [
        "## Predictions of when branches fall silent",
        "",
        "Written down before any run. A prediction holds if the interval over seeds "
        "lies within what was expected, and fails if it lies outside.",
        "",
        "| | prediction | run | setting | measure | expected | value | interval | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in tested:
        for row in run.results["predictions"]:
            cells = (
                row["prediction"],
                row["claim"],
                code(run.name, in_table=True),
                plain(row["setting"]),
                row["measure"],
                " to ".join(number(bound, 3) for bound in row["expected"]),
                number(row["value"], 3),
                interval(row) or "none",
                VERDICTS[row["holds"]],
            )
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def title(key: int | str) -> str:
    return "Section 8" if key == "section8" else f"Observation {key}"


def row(finding: Finding) -> str:
    """One line of an observation's table."""
    record = finding.record
    branches = record["branches"]
    if isinstance(branches, list):
        branches = ", ".join(map(str, branches))
    remark = "" if finding.kind == ONE else plain(remarks(record))
    cells = (
        f"{finding.level}: {plain(finding.setting)}",
        code(finding.run, in_table=True),
        branches,
        number(record["value"], 3),
        interval(record) or "none",
        number(record["initial"], 3),
        number(record["control"], 3),
        "; ".join(beside(record)),
        f"{finding.kind}{remark and f' ({remark})'}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def interval(measured: Mapping) -> str:
    """The interval of a measure in words; "" without one."""
    low, high = (number(bound, 3) for bound in measured["interval"] or (None, None))
    return "" if low == high == "-" else f"{low} to {high}"


def beside(record: Mapping) -> Iterator[str]:
    """What stands beside a measure, with intervals."""
    shown = {BESIDE[name]: measured for name, measured in record["beside"].items()}
    if "uncentred" in record:
        shown = {"with constant outputs": record["uncentred"]} | shown
    for words, measured in shown.items():
        of_value = f" ({found})" if (found := interval(measured)) else ""
        yield f"{words} {number(measured['value'], 3)}{of_value}"


def figures_of_paper(runs: Sequence[FinishedRun], folder: Path) -> list[str]:
    """The paper's figures in its order, each from every run that has it."""
    lines = ["## The paper's figures", ""]
    for prefix, caption in CAPTIONS.items():
        lines += [f"### Figure {int(prefix[3:])}", "", caption, ""]
        panels = [
            (run, path)
            for run in runs
            for path in run.figures
            if path.stem.startswith(prefix)
        ]
        panels.sort(key=lambda panel: panel_order(panel[1].stem))
        shown = [picture(run, path, folder) for run, path in panels]
        if prefix == "fig01":
            shown = [f"![Figure 1]({link(folder / ARCHITECTURE, folder)})"]
        lines += [*(shown or ["No run shows it."]), ""]
    return lines


def panel_order(stem: str) -> tuple[int, str]:
    """Sort key of a panel, from the stem of its file name."""
    return PANELS.index(stem) if stem in PANELS else len(PANELS), stem


def other_figures(runs: Sequence[FinishedRun], folder: Path) -> list[str]:
    """The figures that are not in the paper."""
    lines = ["## Beyond the paper", ""]
    for run in runs:
        others = [path for path in run.figures if path.stem[:5] not in CAPTIONS]
        if others:
            lines += [f"### {run.experiment}: {code(run.name)}", ""]
            lines += [picture(run, path, folder) for path in others]
            lines.append("")
    return lines


def picture(run: FinishedRun, path: Path, folder: Path) -> str:
    stem, target = plain(path.stem), link(path, folder)
    return f"{code(run.name)}, {stem}:\n\n![{stem} of {plain(run.name)}]({target})\n"


def link(path: Path, folder: Path) -> str:
    """The Markdown target of a file, relative to a folder."""
    # Resolved, since `..` out of a symbolic link leads elsewhere.
    relative = Path(os.path.relpath(path.resolve(), folder.resolve()))
    return f"<{quote(os.fsencode(relative.as_posix()), safe='/ ')}>"


def table_of_runs(runs: Sequence[FinishedRun]) -> list[str]:
    """Where the numbers come from."""
    return [
        "## The runs",
        "",
        "| run | experiment | minutes | device | commit | command |",
        "|---|---|---|---|---|---|",
        *map(row_of_run, runs),
        "",
        "Each command ran at the commit beside it (+changes: with modified files).",
        "",
    ]


def row_of_run(run: FinishedRun) -> str:
    seconds = run.results["wall_seconds"]
    minutes = "resumed" if seconds is None else f"{seconds / 60:.1f}"
    device = f"{run.environment['cpus']} x {run.environment['device']}"
    name, command = (code(text, in_table=True) for text in (run.name, run.command))
    cells = (name, run.experiment, minutes, plain(device), plain(run.commit), command)
    return f"| {' | '.join(cells)} |"


def to_html(markdown: str, folder: Path) -> str:
    """The report as one HTML page that needs no other file.

    Args:
      folder: of the report; its links to PNGs become embedded data.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

    def embedded(match):
        path = os.fsdecode(unquote_to_bytes(html.unescape(match[1])))
        data = (folder / path).read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(data).decode()}"'

    body = re.sub(r'src="([^"]+)"', embedded, body)
    body = body.replace("<table>", '<div class="table"><table>')
    body = body.replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Branch specialization: report</title>\n<style>{STYLE}</style>\n"
        f"</head>\n<body>\n{body}</body>\n</html>\n"
    )
