"""Images to classify: where they come from, how they are split and augmented.

`load` reads a set by name; `augmentation` holds what a training step does to a batch;
`python -m bspec_jax.data.prepare NAME` fetches a TensorFlow Datasets set.
"""

from bspec_jax.data.images import Split
from bspec_jax.data.sources import Dataset, load

__all__ = ["Dataset", "Split", "load"]
