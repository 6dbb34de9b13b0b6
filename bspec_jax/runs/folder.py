"""The folder of a run, from its start to its figures.

    config.json         flags that determine the results
    environment.json    versions, device, settings of JAX, commit, command
    data.json           what identifies the data, if the run reads any
    metrics.jsonl       one line per logging step
    results.json        every number that the figures show
    figures/*.png
    checkpoints/        of networks, where there are any
    unfinished/         intermediate results, until the run is finished

`config.json` and `results.json` carry the `schema` of the run's files.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bspec_jax import data
from bspec_jax.data.names import shown
from bspec_jax.runs.config import RunConfig
from bspec_jax.runs.provenance import ENVIRONMENT, check_jax_settings, environment
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import UserError, flag, notify
from bspec_jax.storage.files import read_json, to_json, write_json

SCHEMA = 3  # of a run's files
READ_BY = {1: "0.1", 2: "0.3"}  # the version that reads an older schema
UNFINISHED = "unfinished"
DATA = "data.json"
AGAIN = "move it away and resume the run, or start another"


def start(
    config: RunConfig, name: str, identity: Mapping[str, Any] | None = None
) -> Path:
    """Creates the run's folder, or finds it again for `--resume`; returns its path.

    Args:
      identity: of the data that the run reads, if it reads any; see `data.identity`.

    Raises:
      UserError: if the folder is not empty or cannot be written, or (to resume) holds
        no run, a finished run, a run with other flags or settings of JAX, or one of
        other data. Nothing is overwritten.
    """
    workdir = config.workdir or new_folder(name)
    if config.resume:
        check_resumable(config, name)
        if identity is not None:
            check_data(workdir, identity)
        if not (workdir / ENVIRONMENT).exists():
            notify(f"{workdir} has no {ENVIRONMENT}: settings of JAX are not compared")
            write_json(workdir / ENVIRONMENT, environment())
        return workdir
    check_new(config, workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        about = {"experiment": name, "schema": SCHEMA}
        write_json(workdir / ENVIRONMENT, environment())
        if identity is not None:
            write_json(workdir / DATA, identity)
        write_json(workdir / "config.json", about | config.settings())
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}") from None
    return workdir


def check_new(config: RunConfig, workdir: Path) -> None:
    """Raises UserError unless a run can begin in `workdir`: a new or empty folder."""
    try:
        if not workdir.exists() or not any(workdir.iterdir()):
            return
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}") from None
    holds = "a run" if (workdir / "config.json").exists() else "files"
    way_on = way_to_go_on(config, workdir)
    also = f", or add {way_on}" if way_on == flag("resume") else ""
    raise UserError(f"{workdir} already holds {holds}; choose another --workdir{also}")


def way_to_go_on(config: RunConfig, workdir: Path) -> str | None:
    """The flag that goes on with the run in `workdir`; None if there is no such way.

    It is --figures-only once the results are there, else --resume.
    """
    name = "figures_only" if (workdir / "results.json").exists() else "resume"
    holds_run = (workdir / "config.json").exists()
    return flag(name) if holds_run and name not in config.unused() else None


def check_data(workdir: Path, identity: Mapping[str, Any]) -> None:
    """Raises UserError unless these are the data of the run in `workdir`.

    A run that recorded none passes.
    """
    if (workdir / DATA).exists():
        data.check_same(read_json(workdir / DATA, "record of data"), identity, workdir)


def check_trained_on(
    checkpoint: Path, network: str, identity: Mapping[str, Any]
) -> None:
    """Raises UserError unless these are the data that a network was trained on.

    Args:
      checkpoint, network: as for `checkpoints.find`.
    """
    folder, _ = checkpoints.find(checkpoint, network)
    check_data(folder.parent.parent, identity)


def new_folder(name: str) -> Path:
    """The default folder of a run, runs/NAME/<UTC time>."""
    return Path("runs") / name / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")


def check_experiment(workdir: Path, name: str) -> dict:
    """The saved flags of the run in `workdir`.

    Raises:
      UserError: if there is no run, or it is of another experiment or schema.
    """
    saved = read_json(workdir / "config.json", "run")
    if "experiment" not in saved:
        raise UserError(f"{workdir / 'config.json'} is damaged: it names no experiment")
    if saved["experiment"] != name:
        raise UserError(f"{workdir} is a run of {saved['experiment']}, not {name}")
    check_schema(workdir, saved)
    return saved


def check_schema(workdir: Path, saved: Mapping[str, Any]) -> None:
    """Raises UserError unless this version reads the run's files.

    Args:
      saved: what `config.json` or `results.json` holds; the former had no schema in
        version 0.1.
    """
    schema = saved.get("schema", 1)
    if schema == SCHEMA:
        return
    reader = READ_BY.get(schema) if isinstance(schema, int) else None
    how = f"bspec_jax {reader} reads it" if reader else "a newer bspec_jax wrote it"
    raise UserError(
        f"{workdir} has schema {schema}, and this version reads {SCHEMA}: {how}; or "
        "run the experiment again"
    )


def check_resumable(config: RunConfig, name: str) -> None:
    """Raises UserError unless the run in `config.workdir` can go on with the config."""
    workdir = config.workdir
    saved = type(config)().settings() | check_experiment(workdir, name)
    wanted = config.settings()
    for key in wanted:
        if wanted[key] != saved[key]:
            raise UserError(
                f"the run in {workdir} has {flag(key)} {saved[key]}, not "
                f"{wanted[key]}: leave the flag out, or start another run"
            )
    if (workdir / "results.json").exists():
        load_results(workdir)
        raise UserError(
            f"the run in {workdir} is finished; nothing to resume (--figures-only "
            "draws its figures again)"
        )
    check_jax_settings(workdir)


def save_results(
    workdir: Path, config: RunConfig, results: Mapping[str, Any], started: float
) -> dict:
    """Writes results.json and returns its content.

    `wall_seconds` counts from `started`, a reading of `time.perf_counter`. It is null
    for a resumed run, since nobody knows how long the earlier parts took.
    """
    seconds = None if config.resume else round(time.perf_counter() - started, 3)
    data = to_json(
        {
            "schema": SCHEMA,
            "config": config.settings(),
            "wall_seconds": seconds,
            **results,
        }
    )
    write_json(workdir / "results.json", data)
    return data


def conclude(
    workdir: Path,
    config: RunConfig,
    results: Mapping[str, Any],
    started: float,
    draw: Callable[[dict], Mapping[str, Any]],
    summary: Callable[[dict], str],
) -> None:
    """Ends a run: saves results, deletes intermediate files, draws and summarises.

    Args:
      started: as for `save_results`.
      draw, summary: figures by name, and the table, from the content of results.json.
    """
    saved = save_results(workdir, config, results, started)
    shutil.rmtree(workdir / UNFINISHED, ignore_errors=True)
    save_figures(workdir, draw(saved))
    print(summary(saved))
    seconds = time.perf_counter() - started
    print(f"results and figures in {shown(workdir)} ({seconds:.1f} s)")


def redraw(workdir: Path, name: str, draw: Callable[[dict], Mapping[str, Any]]) -> None:
    """Redraws the figures of a finished run of experiment `name`.

    Raises:
      UserError: if there is no such run, or its results are damaged.
    """
    results = load_results(workdir)
    check_experiment(workdir, name)
    try:
        figures = draw(results)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        path = workdir / "results.json"
        raise UserError(f"{path} is damaged or incomplete: {AGAIN}") from None
    save_figures(workdir, figures)
    print(f"figures drawn again in {shown(workdir / 'figures')}")


def load_results(workdir: Path) -> dict:
    """The results of a finished run.

    Raises:
      UserError: if there are none, or they are of another schema.
    """
    path = workdir / "results.json"
    results = read_json(path, "finished run", f"; {AGAIN}")
    if "schema" not in results:
        raise UserError(f"{path} is damaged: it has no schema; {AGAIN}")
    check_schema(workdir, results)
    return results


def save_figures(
    workdir: Path, figures: Mapping[str, Any], subfolder: str = "figures"
) -> None:
    """Writes each matplotlib Figure to SUBFOLDER/NAME.png."""
    folder = workdir / subfolder
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
