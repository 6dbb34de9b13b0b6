"""Labelled images: data sets by name, their splits, augmentation, synthetic faces.

`load` reads a data set; `python -m bspec_jax.data.prepare NAME` fetches one of
TensorFlow Datasets.
"""

from bspec_jax.data.images import Split
from bspec_jax.data.selection import Selection, select
from bspec_jax.data.sources import Dataset, load

__all__ = ["Dataset", "Selection", "Split", "load", "select"]
