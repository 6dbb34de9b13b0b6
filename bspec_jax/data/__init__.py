"""Labelled images: data sets by name, their splits, augmentation, synthetic faces.

`load` reads a data set; `python -m bspec_jax.data.prepare NAME` fetches one of
TensorFlow Datasets. `describe` says what is used of one and what is left out. The
`identity` of a `Dataset` or `Selection`, a JSON dict, is compared by `check_same`.
"""

from bspec_jax.data.description import describe
from bspec_jax.data.identity import check_same
from bspec_jax.data.images import Split
from bspec_jax.data.selection import Selection, select
from bspec_jax.data.sources import Dataset, find, load, read

__all__ = [
    "Dataset",
    "Selection",
    "Split",
    "check_same",
    "describe",
    "find",
    "load",
    "read",
    "select",
]
