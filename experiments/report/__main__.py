"""One page about finished runs: the paper's observations, its figures, the commands.

    python -m experiments.report runs/toy/* runs/hessian/* docs/runs/*

Takes any runs of toy, hessian, classify, silence, class_transfer, segment and
applications and writes report.html, which needs no other file; report.md, which links
to the figures of the runs; and report.json. Each observation is listed with the
measurements of every run that makes one and with a verdict by thresholds fixed in
advance; observation 8 has one for each level. Predictions of when branches fall silent
stand beside what runs of silence measured. Runs that are missing, unfinished or damaged
are named. Takes seconds.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from bspec_jax import figures, runs
from bspec_jax.data.names import expanded, shown
from bspec_jax.storage.errors import UserError, in_one_line
from bspec_jax.storage.files import write_json
from experiments.report.conclusions import conclusions, findings, verdicts
from experiments.report.finished import FinishedRun, load_runs
from experiments.report.page import (
    ARCHITECTURE,
    page,
    predictions,
    row,
    row_of_run,
    to_html,
)

NAME = "python -m experiments.report"
DRAWN_BRANCHES = 4  # in Figure 1


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the report."""

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")
    ]
    """Run folders, in any order."""
    workdir: Path | None = None
    """Folder of the report, new or empty. Default: runs/report/<UTC time>."""


def report(folders: Sequence[Path], workdir: Path | None = None) -> None:
    """Writes one page about finished runs.

    Args:
      folders: of the runs, in any order.
      workdir: of the report, new or empty. Default: runs/report/<UTC time>.

    Raises:
      UserError: if there is nothing to report, names clash or `workdir` is not empty.
    """
    folders = [expanded(folder) for folder in folders]
    workdir = expanded(workdir or runs.new_folder("report"))
    finished, complaints = _load(folders, workdir)
    concluded = conclusions([f for run in finished for f in findings(run)])
    workdir.mkdir(parents=True, exist_ok=True)
    runs.save_figures(
        workdir, {ARCHITECTURE.stem: figures.architecture(DRAWN_BRANCHES)}
    )
    markdown = page(finished, complaints, concluded, workdir)
    (workdir / "report.md").write_text(markdown, encoding="utf-8")
    html = to_html(markdown, workdir)
    (workdir / "report.html").write_text(html, encoding="utf-8")
    data = {
        "runs": {run.name: run.command for run in finished},
        "left_out": complaints,
        "observations": {
            key: {
                **conclusion,
                "findings": [f._asdict() for f in conclusion["findings"]],
            }
            for key, conclusion in concluded.items()
        },
    }
    write_json(workdir / "report.json", data)
    for key, level, found in verdicts(concluded):
        where = f", {level}" if level else ""
        print(f"{key} {concluded[key]['claim']}{where}: {found['verdict']}")
    print(f"report in {shown(workdir)}")


def _load(
    folders: Sequence[Path], workdir: Path
) -> tuple[list[FinishedRun], list[str]]:
    """The runs to report and what is wrong with the others.

    Raises:
      UserError: if there is nothing to report, names clash or `workdir` is not empty.
    """
    if not folders:
        raise UserError("name the folders of finished runs", status=2)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{shown(workdir)} is a file; choose another --workdir")
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"{shown(workdir)} is not empty; choose another --workdir")
    finished, complaints = load_runs(folders, check)
    for complaint in complaints:
        print(f"left out: {shown(complaint)}")
    if not finished:
        raise UserError("no finished run among these folders")
    names = [run.name for run in finished]
    if clashing := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"several runs are called {shown(sorted(clashing)[0])}: rename a folder"
        )
    return finished, complaints


def check(run: FinishedRun) -> None:
    """Raises one of `finished.DAMAGE` if the report could not show the run."""
    conclusions(findings(run))
    for finding in findings(run):
        row(finding)
    predictions([run])
    row_of_run(run)
    for path in run.figures:
        with Image.open(path) as image:
            image.load()


def main(flags: Sequence[str] | None = None) -> None:
    """Parses the flags and writes the report."""

    def when_stopped():
        return "stopped; the report is incomplete"

    with in_one_line(NAME), runs.one_line_when_stopped(NAME, when_stopped):
        flags = runs.parse_flags(Flags, NAME, __doc__, args=flags)
        workdir = flags.workdir or runs.new_folder("report")
        with runs.naming(workdir):
            report(flags.folders, workdir)


if __name__ == "__main__":
    main()
