r"""One page about finished runs: the paper's observations, its figures, the commands.

    python -m experiments.report runs/toy/* runs/hessian/* docs/runs/*

Gathers any runs of toy, hessian, classify, class_transfer, segment and applications
into report.html, which needs no other file, report.md with its pictures in figures/,
and report.json. Every observation gets the measurements of all runs that make one, and
a verdict by the thresholds that were fixed before; what is not measured, unfinished or
damaged is named.
"""

from io import BytesIO
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from bspec_jax import figures
from bspec_jax.storage.errors import UserError, in_one_line
from bspec_jax.storage.files import write_json
from experiments.report_findings import conclusions, findings
from experiments.report_pages import page, row, row_of_run, to_html
from experiments.report_runs import Run, load

NAME = "python -m experiments.report"
DRAWN_BRANCHES = 4  # of Figure 1
QUALITY = 85  # of the pictures, of 100


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    workdir: Path | None = None,
) -> None:
    """Gathers finished runs into one page.

    Args:
      runs: their folders.
      workdir: the folder to write to; must be new or empty. Default:
        runs/report/<UTC time>.
    """
    workdir = workdir or runs.new_folder("report")
    if not runs:
        raise UserError("name the folders of finished runs", status=2)
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"{workdir} is not empty; choose another --workdir")
    loaded, complaints = load(runs, check)
    for complaint in complaints:
        print(f"left out: {complaint}")
    if not loaded:
        raise UserError("no finished run among these folders")
    names = [one.name for one in loaded]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"several runs are called {sorted(twice)[0]}: rename a folder")
    said = conclusions([finding for one in loaded for finding in findings(one)])
    pictures = collect(loaded, workdir)
    markdown = page(loaded, complaints, said, pictures)
    (workdir / "report.md").write_text(markdown)
    (workdir / "report.html").write_text(to_html(markdown, workdir))
    data = {
        "runs": {one.name: one.command for one in loaded},
        "left_out": complaints,
        "observations": {
            key: {**one, "findings": [finding._asdict() for finding in one["findings"]]}
            for key, one in said.items()
        },
    }
    write_json(workdir / "report.json", data)
    for key, one in said.items():
        print(f"{key} {one['claim']}: {one['verdict']}")
    print(f"report in {workdir}")


def check(one: Run) -> None:
    """Raises one of `report_runs.DAMAGE` where the report could not show a run."""
    for finding in findings(one):
        row(finding)
    row_of_run(one)
    for path in one.figures:
        with Image.open(path) as image:
            image.load()


def collect(runs: list[Run], workdir: Path) -> dict[tuple[str, str], str]:
    """Copies all pictures, as WebP; their paths in the report, by run and name."""
    (workdir / "figures").mkdir(parents=True)
    drawn = BytesIO()
    figures.architecture(DRAWN_BRANCHES).savefig(drawn)
    pictures = {("", "fig01"): drawn}
    for one in runs:
        pictures |= {(one.name, path.stem): path for path in one.figures}
    paths = {}
    for (name, stem), picture in pictures.items():
        paths[name, stem] = f"figures/{name}_{stem}.webp".replace("/_", "/")
        with Image.open(picture) as image:
            image.convert("RGB").save(workdir / paths[name, stem], quality=QUALITY)
    return paths


if __name__ == "__main__":
    with in_one_line(NAME):
        tyro.cli(report, prog=NAME, description=__doc__)
