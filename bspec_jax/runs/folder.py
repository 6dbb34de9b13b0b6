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

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from bspec_jax import data
from bspec_jax.runs.config import RunConfig
from bspec_jax.storage.errors import UserError, flag
from bspec_jax.storage.files import read_json, to_json, write_json

SCHEMA = 2  # of a run's files
READ_BY = {1: "0.1"}  # the version that reads an older schema
UNFINISHED = "unfinished"
DATA = "data.json"
JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
)
PACKAGES = ("bspec_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


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
        return workdir
    try:
        if workdir.exists() and any(workdir.iterdir()):
            holds = "a run" if (workdir / "config.json").exists() else "files"
            raise UserError(
                f"{workdir} already holds {holds}; choose another --workdir"
                + (", or add --resume to go on" if resumable(config, workdir) else "")
            )
        workdir.mkdir(parents=True, exist_ok=True)
        about = {"experiment": name, "schema": SCHEMA}
        write_json(workdir / "environment.json", environment())
        if identity is not None:
            write_json(workdir / DATA, identity)
        write_json(workdir / "config.json", about | config.settings())
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}") from None
    return workdir


def resumable(config: RunConfig, workdir: Path) -> bool:
    """Whether `workdir` holds a run, and one that --resume may continue."""
    return (workdir / "config.json").exists() and "resume" not in config.unused()


def check_data(workdir: Path, identity: Mapping[str, Any]) -> None:
    """Raises UserError unless these are the data of the run in `workdir`.

    A run that recorded none passes.
    """
    if (workdir / DATA).exists():
        data.check_same(read_json(workdir / DATA, "record of data"), identity, workdir)


def new_folder(name: str) -> Path:
    """The default folder of a run, runs/NAME/<UTC time>."""
    return Path("runs") / name / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")


def check_experiment(workdir: Path, name: str) -> dict:
    """The saved flags of the run in `workdir`.

    Raises:
      UserError: if there is no run, or it is of another experiment or schema.
    """
    saved = read_json(workdir / "config.json", "run")
    if saved.get("experiment") != name:
        raise UserError(f"{workdir} is a run of {saved.get('experiment')}, not {name}")
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
    reader = READ_BY.get(schema)
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
    settings = read_json(workdir / "environment.json", "run").get("jax_settings", {})
    for key, now in _jax_settings().items():
        if settings.get(key, now) != now:
            raise UserError(
                f"the run in {workdir} was started with {key} = {settings[key]}, which "
                f"is {now} here and changes numbers: set {key.upper()}={settings[key]}"
            )


def environment() -> dict:
    """Versions, device, commit and command: where a number comes from."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpus": os.cpu_count(),
        "jax_settings": _jax_settings(),
        "commit": _commit(),
        "command": _command(),
    }


def _command() -> list[str]:
    """The command as typed, without the path of this checkout."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return ["python", Path(sys.argv[0]).name, *sys.argv[1:]]
    return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def _jax_settings() -> dict[str, Any]:
    """The settings of JAX that change numbers."""
    return {name: to_json(getattr(jax.config, name, None)) for name in JAX_SETTINGS}


def _commit() -> str | None:
    """The checkout's commit, with "+changes" if its files differ.

    None for an installed copy, even inside the repository of another project.
    """
    here = Path(__file__).resolve()

    def ask(*words):
        call = [git, "-C", str(here.parent), *words]
        answer = subprocess.run(call, capture_output=True, text=True, check=False)
        return answer.stdout.strip()

    if not (git := shutil.which("git")) or not ask("ls-files", here.name):
        return None
    return ask("describe", "--always", "--abbrev=40", "--dirty=+changes") or None


def save_results(
    workdir: Path, config: RunConfig, results: Mapping[str, Any], started: float
) -> dict:
    """Writes results.json and returns its content.

    `wall_seconds` counts from `started`, a reading of `time.perf_counter`.
    """
    data = to_json(
        {
            "schema": SCHEMA,
            "config": config.settings(),
            "wall_seconds": round(time.perf_counter() - started, 3),
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
    print(f"results and figures in {workdir} ({time.perf_counter() - started:.1f} s)")


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
        raise UserError(
            f"{workdir / 'results.json'} is damaged or incomplete: move it away and "
            "add --resume, or start another run"
        ) from None
    save_figures(workdir, figures)
    print(f"figures drawn again in {workdir / 'figures'}")


def load_results(workdir: Path) -> dict:
    """The results of a finished run.

    Raises:
      UserError: if there are none, or they are of another schema.
    """
    path = workdir / "results.json"
    try:
        results = read_json(path, "finished run")
    except UserError as error:
        advice = "; move it away, and --resume computes it again"
        raise UserError(f"{error}{advice if path.exists() else ''}") from None
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
