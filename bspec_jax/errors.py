"""Errors that the user can mend; `run.command_line` prints them as one line."""


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
