"""A run: its flags, its folder, its progress bar and how it ends.

A run's folder holds `config.json` (the flags), `environment.json` (versions, device,
commit), `metrics.jsonl` (one line a logging step), `results.json` (every number that
the figures show), `figures/*.png`, where there is a network to keep `checkpoints/`, and
until the run is finished `unfinished/`, which only serves to resume it.
"""

import dataclasses
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import jax
import tyro
from tqdm import tqdm

from bspec_jax.errors import FlagError, UserError, flag, in_one_line
from bspec_jax.files import read_json, to_json, write_json

SCHEMA = 1  # of results.json
UNFINISHED = "unfinished"  # folder of a run
PACKAGES = ("bspec_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Flags that every experiment has."""

    PRESENTATION: ClassVar[tuple[str, ...]] = ()  # flags that only change figures
    COUNTS: ClassVar[tuple[str, ...]] = ()  # flags that are at least 1, if given

    seed: int = 0
    """Seed of everything random; the same seed gives the same results."""
    workdir: Path | None = None
    """Folder of the run; must be new or empty. Default: runs/NAME/<UTC time>."""
    resume: bool = False
    """Go on with the stopped run in --workdir, with the flags it was started with."""
    figures_only: bool = False
    """Only redraw the figures of the finished run in --workdir."""

    def check(self) -> None:
        """Raises FlagError, naming the flag, where a value makes no sense."""
        check_flag(self, "seed", lambda v: 0 <= v < 2**32, "in 0..2^32-1")
        for name in self.COUNTS:
            check_flag(self, name, lambda v: v >= 1, "at least 1")
        for name in ("resume", "figures_only"):
            if getattr(self, name) and self.workdir is None:
                raise FlagError(f"{flag(name)} needs --workdir, the folder of the run")

    def settings(self) -> dict:
        """What determines the results, as JSON: all flags but where and how to run."""
        others = ("workdir", "resume", "figures_only", *self.PRESENTATION)
        return to_json(
            {
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(self)
                if field.name not in others
            }
        )


def check_flag(
    config: RunConfig, name: str, valid: Callable[[Any], bool], what: str
) -> None:
    """Raises FlagError if a flag, or one of its values, is not `what`; None passes.

    A flag that takes several values must have at least one, unless none is its default.
    """
    value = getattr(config, name)
    if value == () and getattr(type(config), name) != ():
        raise FlagError(f"{flag(name)} needs at least one value")
    for item in value if isinstance(value, tuple) else (value,):
        if item is not None and not valid(item):
            raise FlagError(f"{flag(name)} must be {what}, got {item}")


def check_components(
    config: RunConfig, num_branches: int, names: Sequence[str]
) -> None:
    """Raises FlagError if one of these flags names a component beside 0..M-1."""
    for name in names:
        valid = range(num_branches).__contains__
        check_flag(config, name, valid, f"0..{num_branches - 1}")


Config = TypeVar("Config", bound=RunConfig)


def command_line(
    config_class: type[Config],
    main: Callable[[Config], None],
    name: str,
    description: str,
) -> None:
    """Runs `main` on the config that the flags make; ends the process if it fails.

    A UserError becomes one line on stderr and its exit status, as does a file that
    cannot be written (1), and Ctrl-C (130).
    """
    program = f"python -m experiments.{name}"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with in_one_line(program), _no_lost_interrupt(program):
            config = tyro.cli(
                config_class,
                prog=program,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            config.check()
            main(config)
    except KeyboardInterrupt:
        _stop(program)


def _stop(program: str) -> None:
    """Ends the process as Ctrl-C should."""
    sys.stdout.flush()
    print(f"\n{program}: stopped", file=sys.stderr, flush=True)
    # Not sys.exit: tearing down while XLA's threads still compute may crash.
    os._exit(130)


@contextmanager
def _no_lost_interrupt(program: str) -> Iterator[None]:
    """Ctrl-C stops the program in a callback of the garbage collector, too.

    JAX has one, and Python would report what is raised there and go on.
    """
    report = sys.unraisablehook

    def stop_or_report(caught):
        if issubclass(caught.exc_type, KeyboardInterrupt):
            _stop(program)
        report(caught)

    sys.unraisablehook = stop_or_report
    try:
        yield
    finally:
        sys.unraisablehook = report


def start(config: RunConfig, name: str) -> Path:
    """Makes the run's folder, or finds it again for `--resume`; returns its path.

    Raises:
      UserError: if the folder is not empty, cannot be written, or (to resume) holds no
        run, a finished one, or one of other flags. Nothing is overwritten.
    """
    workdir = config.workdir or new_folder(name)
    if config.resume:
        _check_resumable(workdir, config, name)
        return workdir
    try:
        if workdir.exists() and any(workdir.iterdir()):
            holds = "a run" if (workdir / "config.json").exists() else "files"
            raise UserError(
                f"{workdir} already holds {holds}; choose another --workdir"
                + (", or add --resume to go on" if holds == "a run" else "")
            )
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", {"experiment": name, **config.settings()})
        write_json(workdir / "environment.json", environment())
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}") from None
    return workdir


def new_folder(name: str) -> Path:
    """The folder of a run that was not told where to write, runs/NAME/<UTC time>."""
    return Path("runs") / name / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")


def check_experiment(workdir: Path, name: str) -> dict:
    """The config of the run in `workdir`.

    Raises:
      UserError: if there is no run, or it is one of another experiment.
    """
    saved = read_json(workdir / "config.json", "run")
    if saved.get("experiment") != name:
        raise UserError(f"{workdir} is a run of {saved.get('experiment')}, not {name}")
    return saved


def _check_resumable(workdir: Path, config: RunConfig, name: str) -> None:
    saved = check_experiment(workdir, name)
    wanted = config.settings()
    differing = [key for key in wanted if wanted[key] != saved.get(key)]
    if differing:
        key = differing[0]
        raise UserError(
            f"the run in {workdir} has {flag(key)} {saved.get(key)}, not "
            f"{wanted[key]}; resume it with the flags in its config.json"
        )
    if (workdir / "results.json").exists():
        raise UserError(f"the run in {workdir} is finished; nothing to resume")


def environment() -> dict:
    """Versions, device and commit, to say where a number comes from."""
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
        "commit": _commit(),
        "command": _command(),
    }


def _command() -> list[str]:
    """What was typed, without the path of this checkout."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return ["python", *started, *sys.argv[1:]]


def _commit() -> str | None:
    """The checkout's commit, with "+changes" if files differ from it."""
    if not (git := shutil.which("git")):
        return None
    here = Path(__file__).resolve().parent
    call = [
        git,
        "-C",
        str(here),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+changes",
    ]
    answer = subprocess.run(call, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def save_results(
    workdir: Path, config: RunConfig, results: Mapping[str, Any], started: float
) -> dict:
    """Writes results.json and returns what it holds.

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
    """Ends a run: saves its results, drops what only served to resume, draws, reports.

    Args:
      started: as for `save_results`.
      draw, summary: the figures by name, and the table, of what results.json holds.
    """
    saved = save_results(workdir, config, results, started)
    shutil.rmtree(workdir / UNFINISHED, ignore_errors=True)
    save_figures(workdir, draw(saved))
    print(summary(saved))
    print(f"results and figures in {workdir} ({time.perf_counter() - started:.1f} s)")


def redraw(workdir: Path, name: str, draw: Callable[[dict], Mapping[str, Any]]) -> None:
    """Draws the figures of a finished run of the experiment `name` again.

    Raises:
      UserError: if there is no such run, or its results are damaged.
    """
    results = load_results(workdir)
    check_experiment(workdir, name)
    try:
        figures = draw(results)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise UserError(
            f"{workdir / 'results.json'} is damaged or incomplete; run it again"
        ) from None
    save_figures(workdir, figures)
    print(f"figures drawn again in {workdir / 'figures'}")


def load_results(workdir: Path) -> dict:
    """The results of a finished run.

    Raises:
      UserError: if there are none, or they are of another schema.
    """
    results = read_json(workdir / "results.json", "finished run")
    if results.get("schema") != SCHEMA:
        raise UserError(
            f"{workdir / 'results.json'} has schema {results.get('schema')}, this "
            f"version reads {SCHEMA}; run the experiment again"
        )
    return results


def save_figures(
    workdir: Path, figures: Mapping[str, Any], subfolder: str = "figures"
) -> None:
    """Writes each matplotlib Figure to SUBFOLDER/NAME.png."""
    folder = workdir / subfolder
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raises FlagError if `needed` bytes are more than the machine's memory."""
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > total:
        raise FlagError(
            f"{what} would take about {_bytes(needed)} of memory, and this machine has "
            f"{_bytes(total)}: {advice}"
        )


def _bytes(count: int) -> str:
    power = min(int(math.log(max(count, 1), 1024)), 6)
    unit = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")[power]
    return f"{count / 1024**power:,.1f} {unit}"


@contextmanager
def progress_bar(
    total: int, what: str, unit: str = "it", initial: int = 0
) -> Iterator[Callable[[int], Any]]:
    """A bar with a rate on stderr; yields the function that advances it.

    `initial` of the `total` were done before, and do not count in the rate.
    """
    with tqdm(
        total=total, desc=what, unit=unit, initial=initial, unit_scale=True
    ) as bar:
        yield bar.update
