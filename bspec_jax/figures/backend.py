"""Imports matplotlib whatever MPLBACKEND names: a figure in a file needs no backend."""

import contextlib
import os

# Matplotlib cannot be imported with a name that it does not know.
_named = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib as mpl
finally:
    if _named is not None:
        os.environ["MPLBACKEND"] = _named
if _named:
    with contextlib.suppress(ValueError):
        mpl.rcParams["backend"] = _named
