"""User-fixable errors, printed as one line.

The library names arguments in backticks, as in "`image_size` must be at least 1"; a
command prints them as its flags.
"""

import io
import os
import re
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """An error that the user can fix; `status` is a command's exit status."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


class ArgumentError(UserError, ValueError):
    """An invalid argument; exit status 2."""

    def __init__(self, message: str):
        super().__init__(message, status=2)


class Notice(UserWarning):
    """Something that the user should know; a command prints it as one line."""


def notify(message: str) -> None:
    """Warns with a `Notice`."""
    warnings.warn(message, Notice, stacklevel=3)


def flag(name: str) -> str:
    """The flag that sets an argument: `image_size` becomes `--image-size`."""
    return "--" + name.replace("_", "-")


@contextmanager
def in_one_line(program: str, arguments: Collection[str] = ()) -> Iterator[None]:
    """Ends the process on a UserError: one line on stderr, and its exit status.

    Also on a file that cannot be read or written (status 1). Notices become lines too.

    Args:
      program: begins the line.
      arguments: names that are flags of the program; in backticks they become these.
    """

    def as_flag(match):
        return flag(match[1]) if match[1] in arguments else match[0]

    def line(message):
        return f"{program}: " + re.sub(r"`(\w+)`", as_flag, " ".join(message.split()))

    def show(message, category, *where):
        if not issubclass(category, Notice):
            show_others(message, category, *where)
            return
        print(line(str(message)), file=sys.stderr)

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Escapes what the encoding lacks, as stderr does: a path is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    show_others = warnings.showwarning
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = show
            yield
    except UserError as error:
        print(line(str(error)), file=sys.stderr)
        sys.exit(error.status)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, is gone
        os._exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(line(f"{where}{error.strerror or error}"), file=sys.stderr)
        sys.exit(1)
