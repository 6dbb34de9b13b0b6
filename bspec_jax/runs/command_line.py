"""From flags to `main`, and every way in which a command can end."""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro
from tqdm import tqdm

from bspec_jax.runs import folder
from bspec_jax.runs.config import FlagError, RunConfig, with_paths_expanded
from bspec_jax.storage.errors import UserError, flag, in_one_line

Config = TypeVar("Config", bound=RunConfig)
Parsed = TypeVar("Parsed")


def command_line(
    config_class: type[Config],
    main: Callable[[Config], None],
    name: str,
    description: str,
) -> None:
    """Parses the flags and runs `main` on the config; exits with a status on failure.

    `main` gets a config with a `workdir`. With --resume or --figures-only, flags that
    are not given are those of the saved run.

    A UserError, a file that cannot be written, or too little memory becomes one line on
    stderr. Ctrl-C (status 130) and SIGTERM (143) print the folder of the run and the
    command that continues it.
    """
    program = f"python -m experiments.{name}"
    arguments = {field.name for field in dataclasses.fields(config_class)}
    interrupted = _Interrupted(program)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, interrupted.by_signal)
    try:
        with in_one_line(program, arguments), _no_lost_interrupt(interrupted):
            config = parse_run(config_class, name, program, description)
            interrupted.config = config
            _check_backend()
            with _naming(config.workdir):
                main(config)
    except KeyboardInterrupt:
        interrupted.exit()


def parse_run(
    config_class: type[Config], name: str, program: str, description: str
) -> Config:
    """The config that the command line asks for, checked, and with a `workdir`.

    Raises:
      FlagError: if a flag is invalid, given twice, or does not apply in its mode.
      UserError: if --resume or --figures-only finds no run.
    """
    words = sys.argv[1:]

    def parse(default):
        options = (tyro.conf.FlagCreatePairsOff,)
        config = parse_flags(
            config_class, program, description, default=default, config=options
        )
        return with_paths_expanded(config)

    config = parse(config_class())
    if config.workdir and (config.resume or config.figures_only):
        saved = folder.check_experiment(config.workdir, name)
        config = parse(config_class.from_settings(saved))
    config.check()
    _check_given(config, words)
    if config.resume:
        folder.check_resumable(config, name)
    return dataclasses.replace(
        config, workdir=config.workdir or folder.new_folder(name)
    )


def parse_flags(
    make: Callable[..., Parsed], program: str, description: str, **options
) -> Parsed:
    """What tyro makes of the command line; errors are one line.

    Args:
      make: the dataclass to fill in, or the function to call.
      options: of `tyro.cli`.

    Raises:
      FlagError: if the flags are not valid.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(make, prog=program, description=description, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    raise FlagError(_first_paragraph(printed.getvalue()))


def _first_paragraph(box: str) -> str:
    """One line from a message of tyro: a titled box of paragraphs between rules."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)  # without colours
    _, *text = [line.strip("│ ") for line in plain.strip().split("\n")]
    # The title is ruled off where the terminal has no letters for a box.
    is_rule = [not line.strip("─-╰╯") for line in text]
    start = is_rule.index(False)
    stop = is_rule.index(True, start)
    message = " ".join(text[start:stop]).rstrip(".")
    if hint := re.search(r"Perhaps you meant:\s+(--[\w-]+)", "\n".join(text)):
        message += f" (perhaps {hint[1]})"
    return f"{message}; see --help"


def _check_given(config: RunConfig, words: Sequence[str]) -> None:
    """Raises FlagError for a flag given twice, or one that does not apply."""
    fields = [field.name for field in dataclasses.fields(config)]
    flags = [word.partition("=")[0].replace("-", "_") for word in words]
    given = [word[2:] for word in flags if word[:2] == "__" and word[2:] in fields]
    unused = config.unused()
    for name in given:
        if given.count(name) > 1:
            raise FlagError(f"{flag(name)} is given twice")
        if name in unused:
            raise FlagError(f"{flag(name)} does not apply {unused[name]}: leave it out")


def _check_backend() -> None:
    """Raises UserError if JAX finds no device, as with a wrong JAX_PLATFORMS."""
    try:
        jax.devices()
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"JAX finds no device ({reason})") from None


@contextlib.contextmanager
def _naming(workdir: Path) -> Iterator[None]:
    """Errors of a full disk name the folder of the run where Python names no file.

    Running out of memory, on the machine or on the device, is a UserError.
    """
    try:
        yield
    except MemoryError:
        raise _out_of_memory() from None
    except jax.errors.JaxRuntimeError as error:
        if re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)) is None:
            raise
        raise _out_of_memory() from None
    except OSError as error:
        if error.filename is None and not isinstance(error, UserError):
            error.filename = str(workdir)
        raise


def _out_of_memory() -> UserError:
    return UserError(
        "out of memory: make the batches, the images or the number of branches smaller"
    )


class _Interrupted:
    """The end of a process by Ctrl-C or SIGTERM."""

    def __init__(self, program: str):
        self.program = program
        self.config = None
        self.status = 128 + signal.SIGINT

    def by_signal(self, number, _frame):
        self.status = 128 + number
        raise KeyboardInterrupt

    def exit(self):
        sys.stdout.flush()
        print(f"\n{self.program}: {self._message()}", file=sys.stderr, flush=True)
        # Not sys.exit: tearing down while XLA's threads still compute may crash.
        os._exit(self.status)

    def _message(self) -> str:
        workdir = self.config and self.config.workdir
        if workdir is None or not (workdir / "config.json").exists():
            return "stopped before the run began"
        if not folder.resumable(self.config, workdir):
            return f"stopped; the run in {workdir} cannot be resumed"
        finished = (workdir / "results.json").exists()
        how = "--figures-only" if finished else "--resume"
        return (
            f"stopped; the run is in {workdir}; to go on:\n"
            f"{self.program} --workdir {shlex.quote(str(workdir))} {how}"
        )


@contextlib.contextmanager
def _no_lost_interrupt(interrupted: _Interrupted) -> Iterator[None]:
    """Ctrl-C also stops the program inside a garbage-collector callback.

    JAX registers one, and Python would only report an exception raised there.
    """
    report = sys.unraisablehook

    def stop_or_report(caught):
        if issubclass(caught.exc_type, KeyboardInterrupt):
            interrupted.exit()
        report(caught)

    sys.unraisablehook = stop_or_report
    try:
        yield
    finally:
        sys.unraisablehook = report


@contextlib.contextmanager
def progress_bar(
    total: int, what: str, unit: str = "it", initial: int = 0
) -> Iterator[Callable[[int], Any]]:
    """A bar with a rate on stderr; yields the function that advances it.

    The rate leaves out the first `initial` of `total`, which were done earlier.
    """
    with tqdm(
        total=total, desc=what, unit=unit, initial=initial, unit_scale=True
    ) as bar:
        yield bar.update
