"""Packages that only some uses need, imported by those alone."""

import importlib
from types import ModuleType

from bspec_jax.storage.errors import UserError


def needs(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
      module: dotted name, such as "skimage.metrics".
      extra: the extra of bspec_jax that installs it, such as "generator".

    Raises:
      UserError: if it is not installed, with the command that installs it, or cannot
        be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        package = (missing or module).split(".")[0]
        problem = f"cannot be imported ({error})"
        if missing:
            problem = "is not installed"
        raise UserError(
            f'{package} {problem}: run `pip install "bspec_jax[{extra}]"`'
        ) from None
