"""A classifier small enough to write out, for several tests."""

import numpy as np
from flax import linen as nn

from bspec_jax.adapters import from_linen
from bspec_jax.branching import sum_of_branches
from bspec_jax.classifier.branches import BATCH_NORM_MOMENTUM
from bspec_jax.classifier.network import Pixels

PIXELS = Pixels(np.float32([0.4]), np.float32([0.3]))


class Small(nn.Module):
    """Normalised pixels to three classes."""

    @nn.compact
    def __call__(self, x, train=True):
        x = x.reshape(len(x), -1)
        norm = nn.BatchNorm(not train, momentum=BATCH_NORM_MOMENTUM)
        return nn.Dense(3)(norm(x))


NETWORK = sum_of_branches(from_linen(Small()), 2)


def normalised(images):
    return (images.astype(np.float64) / 255 - 0.4) / 0.3
