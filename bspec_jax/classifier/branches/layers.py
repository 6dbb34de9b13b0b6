"""What the branches' networks share: normalisation and initial weights."""

from functools import partial
from typing import Literal

from flax import linen as nn

Normalisation = Literal["batch", "none"]
BATCH_NORM_MOMENTUM = 0.9  # share of a running statistic that a step keeps

# Keeps the mean square of a signal through a (leaky) ReLU and the layer after it.
# Source: He et al., arXiv 1502.01852, section 2.2.
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

BatchNorm = partial(nn.BatchNorm, momentum=BATCH_NORM_MOMENTUM)
