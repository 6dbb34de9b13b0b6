"""Errors that the user can mend, which a command prints as one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def flag(name: str) -> str:
    """The flag that sets the field of a config: `image_size`, `--image-size`."""
    return "--" + name.replace("_", "-")


class UserError(Exception):
    """What the user can mend, said in one line; `status` is the exit status."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


class FlagError(UserError):
    """A flag's value that makes no sense; exit status 2."""

    def __init__(self, message: str):
        super().__init__(message, status=2)


@contextmanager
def in_one_line(program: str) -> Iterator[None]:
    """Ends the process at a UserError, said in a line on stderr, with its status.

    So does a file that cannot be read or written (1).
    """
    try:
        yield
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:
        print(f"{program}: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
