"""The report as a Markdown page, and the HTML page that is made of it."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from bspec_jax.analysis.observations import OBSERVATIONS, VERDICTS
from experiments.report_findings import Finding
from experiments.report_runs import EXPERIMENTS, Run
from experiments.tables import number

# Of the paper's figures, by the beginning of their files' names.
CAPTIONS = {
    "fig01": "A network of M branches: all read one input, and their responses are "
    "added to R.",
    "fig02": "How the responses of two branches develop in a toy: one branch for each "
    "point, a branch that takes a point over, and a point that is shared.",
    "fig03": "Toys: how often training succeeds against M, and the covariance of the "
    "branches' responses.",
    "fig04": "Toys: responses of all branches to all points, and how many are active "
    "and silent against M.",
    "fig05": "Classifier: active branches against M, covariances, and the Hessian of "
    "the first layer before and after training.",
    "fig06": "Classifier: mean response of each branch for each class.",
    "fig07": "Classifier: how confident each branch is of each class.",
    "fig08": "Classifier: the images of a class that a branch is most confident of.",
    "fig09": "Class transfer: images, re-generated and shown as other classes.",
    "fig10": "The components of an image, alone and added to it.",
    "fig11": "The components of another image.",
    "fig12": "Segmentation of eyes by the components.",
    "fig13": "A component with other gains in the re-generated image.",
    "fig14": "Another component with other gains.",
    "fig15": "Sums of subsets of the components.",
    "fig16": "Classifier: more of the images that branches are most confident of.",
    "fig17": "Classifier: mean responses for several M.",
    "fig18": "Images, re-generations, R and components of the first class.",
    "fig19": "The same of the second class.",
    "fig20": "The same of the third class.",
    "fig21": "The steps of the segmentation.",
}
# Of several panels, where the paper's order is not that of their names.
PANELS = (
    "fig02_typical",
    "fig02_rare_takeover",
    "fig02_rare_shared",
    "fig03_success",
    "fig03_covariance",
    "fig04_responses",
    "fig04_active",
)
# What a verdict asks beside the threshold and the control, as in `observations`.
ALSO = {
    6: " Success must not fall beyond its interval. The control grows as M does: it is "
    "shown, not compared.",
    7: " The Hessian's ratio must also be below that at the start. The value is "
    "relative to the control, whose own ratio is shown and not compared again.",
    "section8": " It must be above: 0 does not count. There is no control.",
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
    runs: Sequence[Run],
    complaints: Sequence[str],
    said: Mapping[int | str, Mapping],
    pictures: Mapping[tuple[str, str], str],
) -> str:
    """The report in Markdown.

    Args:
      said: of `report_findings.conclusions`.
      pictures: the path of each picture, by run and name.
    """
    return "\n".join(
        [
            "# Branch specialization: what the runs say",
            "",
            "Measures and thresholds were fixed before any run. An observation *holds* "
            "in a setting when the 95 % interval of its measure lies beyond the "
            "threshold and beyond the control; it does *not hold* when the interval "
            "lies wholly on the other side of either. It is *undecided* where the "
            "interval contains the threshold or overlaps with the control's, and "
            "where the interval or that control is missing: a single network has no "
            "interval, but of a share of networks (observation 4). Each setting ends "
            "with the number of networks, as in x 1000.",
            "",
            *missing(runs, complaints),
            "## The observations",
            "",
            *observations(said),
            *figures_of_paper(runs, pictures),
            *other_figures(runs, pictures),
            *table_of_runs(runs),
        ]
    )


def missing(runs: Sequence[Run], complaints: Sequence[str]) -> list[str]:
    """What there is no run of, and what was left out."""
    have = {run.experiment for run in runs}
    lines = [f"- No run of `{name}`." for name in EXPERIMENTS if name not in have]
    lines += [f"- Left out: {complaint}." for complaint in complaints]
    return ["## Missing", "", *lines, ""] if lines else []


def observations(said: Mapping[int | str, Mapping]) -> list[str]:
    """The verdicts, and for each the measurements behind it."""
    lines = ["| | claim | verdict |", "|---|---|---|"]
    lines += [
        f"| {title(key)} | {one['claim']} | **{one['verdict']}** {one['why']} |"
        for key, one in said.items()
    ]
    lines.append("")
    for key, one in said.items():
        if not one["findings"]:
            continue
        limit = OBSERVATIONS[key]
        sign = "at most" if limit.below else "at least"
        also = ALSO.get(key, "")
        lines += [
            f"### {title(key)}: {one['claim']}",
            "",
            f"`{limit.measure}`, {sign} {limit.threshold:g}.{also}",
            "",
            "| level, setting | run | M | value | 95 % interval | at the start | "
            "control | |",
            "|---|---|---|---|---|---|---|---|",
            *map(row, one["findings"]),
            "",
        ]
    return lines


def title(key: int | str) -> str:
    return "Section 8" if key == "section8" else f"Observation {key}"


def row(finding: Finding) -> str:
    """A line of an observation's table."""
    record = finding.record
    branches = record["branches"]
    if isinstance(branches, list):
        branches = ", ".join(map(str, branches))
    low, high = (number(bound, 3) for bound in record["interval"])
    interval = "none" if low == high == "-" else f"{low} to {high}"
    cells = (
        f"{finding.level}: {finding.setting}",
        f"`{finding.run}`",
        branches,
        number(record["value"], 3),
        interval,
        number(record["initial"], 3),
        number(record["control"], 3),
        VERDICTS[record["holds"]],
    )
    return f"| {' | '.join(map(str, cells))} |"


def figures_of_paper(
    runs: Sequence[Run], pictures: Mapping[tuple[str, str], str]
) -> list[str]:
    """All pictures of each of the paper's figures, in its order."""
    lines = ["## The paper's figures", ""]
    for prefix, caption in CAPTIONS.items():
        lines += [f"### Figure {int(prefix[3:])}", "", caption, ""]
        found = [
            (run, path.stem)
            for run in runs
            for path in run.figures
            if path.stem.startswith(prefix)
        ]
        found.sort(key=lambda one: panel(one[1]))
        shown = [picture(run, stem, pictures) for run, stem in found]
        if prefix == "fig01":
            shown = [f"![Figure 1]({pictures['', prefix]})"]
        lines += [*(shown or ["No run shows it."]), ""]
    return lines


def panel(stem: str) -> tuple[int, str]:
    """To sort the panels of a figure by."""
    return PANELS.index(stem) if stem in PANELS else len(PANELS), stem


def other_figures(
    runs: Sequence[Run], pictures: Mapping[tuple[str, str], str]
) -> list[str]:
    """The pictures that the paper does not have."""
    lines = ["## Beyond the paper", ""]
    for run in runs:
        others = [p.stem for p in run.figures if p.stem[:5] not in CAPTIONS]
        if others:
            lines += [f"### {run.experiment}: `{run.name}`", ""]
            lines += [picture(run, name, pictures) for name in others]
            lines.append("")
    return lines


def picture(run: Run, name: str, pictures: Mapping[tuple[str, str], str]) -> str:
    label = f"{name} of {run.name}"
    return f"`{run.name}`, {name}:\n\n![{label}]({pictures[run.name, name]})\n"


def table_of_runs(runs: Sequence[Run]) -> list[str]:
    """Where the numbers come from."""
    return [
        "## The runs",
        "",
        "| run | experiment | minutes | device | commit | command |",
        "|---|---|---|---|---|---|",
        *map(row_of_run, runs),
        "",
        "A command is one of the commit beside it (+changes: with files changed).",
        "",
    ]


def row_of_run(run: Run) -> str:
    minutes = f"{run.results['wall_seconds'] / 60:.1f}"
    device = f"{run.environment['cpus']} x {run.environment['device']}"
    cells = (f"`{run.name}`", run.experiment, minutes, device, run.commit)
    return f"| {' | '.join(cells)} | `{run.command}` |"


def to_html(markdown: str, folder: Path) -> str:
    """One page that needs no other file: pictures of `folder` are put into it."""
    body = MarkdownIt("commonmark").enable("table").render(markdown)

    def inlined(match):
        data = base64.b64encode((folder / html.unescape(match[1])).read_bytes())
        return f'src="data:image/webp;base64,{data.decode()}"'

    body = re.sub(r'src="([^"]+)"', inlined, body)
    body = body.replace("<table>", '<div class="table"><table>')
    body = body.replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Branch specialization: report</title>\n<style>{STYLE}</style>\n"
        f"</head>\n<body>\n{body}</body>\n</html>\n"
    )
