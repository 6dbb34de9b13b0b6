"""From flags to `main`, and every way in which a command can end."""

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import tyro
from tqdm import tqdm

from bspec_jax.runs.config import RunConfig
from bspec_jax.storage.errors import in_one_line

Config = TypeVar("Config", bound=RunConfig)


def command_line(
    config_class: type[Config],
    main: Callable[[Config], None],
    name: str,
    description: str,
) -> None:
    """Parses the flags and runs `main` on the config; exits with a status on failure.

    A UserError or a file that cannot be written becomes one line on stderr; Ctrl-C
    exits with 130.
    """
    program = f"python -m experiments.{name}"
    arguments = {field.name for field in dataclasses.fields(config_class)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with in_one_line(program, arguments), _no_lost_interrupt(program):
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
    """Ends the process after Ctrl-C."""
    sys.stdout.flush()
    print(f"\n{program}: stopped", file=sys.stderr, flush=True)
    # Not sys.exit: tearing down while XLA's threads still compute may crash.
    os._exit(130)


@contextmanager
def _no_lost_interrupt(program: str) -> Iterator[None]:
    """Ctrl-C also stops the program inside a garbage-collector callback.

    JAX registers one, and Python would only report an exception raised there.
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


@contextmanager
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
