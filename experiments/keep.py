"""Copies a finished run without what only served to train it.

    python -m experiments.keep RUN docs/runs/NAME
    python -m experiments.keep RUN docs/runs/NAME --networks main

The copy has the flags, results, figures and networks (parameters alone, of the last
step), so that figures can be drawn again and the networks used: a small part of the
run.
"""

import shutil
from pathlib import Path
from typing import Annotated

import tyro

from bspec_jax.runs import load_results
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import UserError, in_one_line

NAME = "python -m experiments.keep"
# Folders of a run that serve the training, or that its networks give again.
SCRATCH = ("checkpoints", "samples", "predictions")
# Orbax's note of the folder that a step was first written to; nothing reads it here.
NOTE = "commit_success.txt"


def keep(
    run: Annotated[Path, tyro.conf.Positional],
    into: Annotated[Path, tyro.conf.Positional],
    networks: Annotated[
        tuple[str, ...] | None, tyro.conf.arg(metavar="[NAME ...]")
    ] = None,
) -> None:
    """Copies a finished run without what only served to train it.

    Args:
      run: its folder.
      into: the folder to make.
      networks: those of checkpoints/ to take, all without this flag; with no name
        after it, results and figures alone.
    """
    load_results(run)
    if into.exists():
        raise UserError(f"{into} exists already; choose another folder")
    folders = {path.name: path for path in sorted((run / "checkpoints").glob("*/"))}
    for name in networks or ():
        if name not in folders:
            has = ", ".join(folders) or "none"
            raise UserError(f"{run} has no network {name}; it has {has}")
    shutil.copytree(run, into, ignore=shutil.ignore_patterns(*SCRATCH))
    for name in folders if networks is None else networks:
        folder = folders[name]
        last = checkpoints.steps(folder)[-1]
        to = into / "checkpoints" / name
        shutil.copytree(
            folder / f"{last}" / "model",
            to / f"{last}" / "model",
            ignore=shutil.ignore_patterns(NOTE),
        )
        shutil.copy(folder / checkpoints.DESCRIPTION, to)
    size = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
    print(f"{into}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    with in_one_line(NAME):
        tyro.cli(keep, prog=NAME)
