"""User-fixable errors, printed as one line.

The library names arguments in backticks, as in "`image_size` must be at least 1"; a
command prints them as its flags.
"""

import re
import sys
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


def flag(name: str) -> str:
    """The flag that sets an argument: `image_size` becomes `--image-size`."""
    return "--" + name.replace("_", "-")


@contextmanager
def in_one_line(program: str, arguments: Collection[str] = ()) -> Iterator[None]:
    """Ends the process on a UserError: one line on stderr, and its exit status.

    Also on a file that cannot be read or written (status 1).

    Args:
      program: begins the line.
      arguments: names that are flags of the program; in backticks they become these.
    """

    def as_flag(match):
        return flag(match[1]) if match[1] in arguments else match[0]

    try:
        yield
    except UserError as error:
        message = re.sub(r"`(\w+)`", as_flag, str(error))
        print(f"{program}: {message}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:
        print(f"{program}: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
