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
    config = None

    def when_stopped():
        return _way_on(program, config)

    with in_one_line(program, arguments), one_line_when_stopped(program, when_stopped):
        config = parse_run(config_class, name, program, description)
        check_backend()
        with naming(config.workdir):
            main(config)


def parse_run(
    config_class: type[Config], name: str, program: str, description: str
) -> Config:
    """The config that the command line asks for, checked, and with a `workdir`.

    Raises:
      FlagError: if a flag is invalid, given twice, or does not apply in its mode.
      UserError: if --resume or --figures-only finds no run.
    """
    words = sys.argv[1:]

    def parse(default, *options):
        config = parse_flags(
            config_class, program, description, default=default, config=options
        )
        return with_paths_expanded(config)

    config = parse(config_class(), tyro.conf.FlagCreatePairsOff)
    if config.workdir and (config.resume or config.figures_only):
        saved = folder.check_experiment(config.workdir, name)
        # Without it: of a flag that is on by default, a pair is all that turns it on.
        config = parse(config_class.from_settings(saved))
    config.check()
    check_given(config, words)
    workdir = config.workdir or folder.new_folder(name)
    if config.resume:
        folder.check_resumable(config, name)
    elif config.starts_run:
        folder.check_new(config, workdir)
    return dataclasses.replace(config, workdir=workdir)


def parse_flags(
    make: Callable[..., Parsed], program: str, description: str, **options
) -> Parsed:
    """What tyro makes of the command line; errors are one line.

    Args:
      make: the dataclass to fill in, or the function to call.
      options: of `tyro.cli`.

    Raises:
      FlagError: if the flags are not valid, or one is given twice.
    """
    words = options.get("args")
    given = _given(sys.argv[1:] if words is None else words)
    if twice := [name for name in given if given.count(name) > 1]:
        raise FlagError(f"{flag(twice[0])} is given twice")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(make, prog=program, description=description, **options)
    except SystemExit as stop:
        if stop.code != 2:
            raise
    raise FlagError(_first_paragraph(printed.getvalue()))


def _given(words: Sequence[str]) -> list[str]:
    """Names of the flags on a command line, in its order."""
    flags = [word.partition("=")[0] for word in words]
    return [word[2:].replace("-", "_") for word in flags if word[:2] == "--" != word]


def _first_paragraph(box: str) -> str:
    """One line from a message of tyro: a titled box of paragraphs between rules."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)  # without colours
    _, *text = [line.strip("│ ") for line in plain.strip().split("\n")]
    # The title is ruled off where the terminal has no letters for a box.
    is_rule = [not line.strip("─-╰╯") for line in text]
    start = is_rule.index(False)
    stop = is_rule.index(True, start)
    message = " ".join(text[start:stop]).rstrip(".")
    # Of a flag with several types or values, tyro describes the types.
    described = r"Error parsing (\S+): (.*)(?:instantiated from|arguments:) \[(.*)\]"
    if wrong := re.fullmatch(described, message):
        message = f"{wrong[1]} cannot be {wrong[3]}"
        if "..." in wrong[2] or "Could not find" in wrong[2]:
            message += " (write several values with spaces between them)"
    # tyro gives choices in any order, and None among them, which is not typed.
    choices = r"invalid choice (\S+) for argument '(\S+)'\. Expected one of \((.*)\)"
    if wrong := re.fullmatch(choices, message):
        known = sorted(set(re.findall(r"'([^']*)'", wrong[3])) - {"None"})
        message = f"{wrong[2]} cannot be {wrong[1]}: choose {', '.join(known)}"
    if hint := re.search(r"Perhaps you meant:\s+(--[\w-]+)", "\n".join(text)):
        message += f" (perhaps {hint[1]})"
    return f"{message}; see --help"


def check_given(config: RunConfig, words: Sequence[str]) -> None:
    """Raises FlagError for a flag without its values, or one that does not apply."""
    unused = config.unused()
    for name in _given(words):
        if name in unused:
            raise FlagError(f"{flag(name)} does not apply {unused[name]}: leave it out")
        if getattr(config, name, None) == ():
            raise FlagError(f"{flag(name)} needs at least one value")


def check_backend() -> None:
    """Raises UserError if JAX finds no device, as with a wrong JAX_PLATFORMS."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without CUDA's plugin
        wanted = jax.config.jax_platforms
        reason = str(error).strip().split("\n")[0] or f"JAX_PLATFORMS={wanted}"
        raise UserError(f"JAX finds no device ({reason})") from None


@contextlib.contextmanager
def naming(workdir: Path) -> Iterator[None]:
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


def _way_on(program: str, config: RunConfig | None) -> str:
    """What Ctrl-C says of the run: where it is, and the command that continues it."""
    workdir = config and config.workdir
    if workdir is None or not (workdir / "config.json").exists():
        return "stopped before the run began"
    if (how := folder.way_to_go_on(config, workdir)) is None:
        finished = (workdir / "results.json").exists()
        state = "is finished" if finished else "cannot be resumed"
        return f"stopped; the run in {workdir} {state}"
    return (
        f"stopped; the run is in {workdir}; to go on:\n"
        f"{program} --workdir {shlex.quote(str(workdir))} {how}"
    )


@contextlib.contextmanager
def one_line_when_stopped(program: str, message: Callable[[], str]) -> Iterator[None]:
    """Ends the process with a line on Ctrl-C (status 130) or SIGTERM (status 143).

    Also inside a garbage-collector callback: JAX registers one, and Python would only
    report an exception raised there.
    """
    status = 128 + signal.SIGINT

    def stop(number, _frame):
        nonlocal status
        status = 128 + number
        raise KeyboardInterrupt

    def end():
        sys.stdout.flush()
        print(f"\n{program}: {message()}", file=sys.stderr, flush=True)
        # Not sys.exit: tearing down while XLA's threads still compute may crash.
        os._exit(status)

    def end_or_report(caught):
        if issubclass(caught.exc_type, KeyboardInterrupt):
            end()
        report(caught)

    report = sys.unraisablehook
    sys.unraisablehook = end_or_report
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        end()
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
