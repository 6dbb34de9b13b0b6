"""The networks of a run: a star of settings around the main one, in groups.

Networks of a group share their shapes, hence one compilation and one computation.
"""

from typing import NamedTuple

import numpy as np

from bspec_jax.classifier import branches
from bspec_jax.classifier.sweeps import Settings
from experiments.silence.config import Config


class Group(NamedTuple):
    """Networks of one architecture, trained together.

    widths: of the hidden layers.
    branches: M.
    settings: (weight decay, learning rate, initial scale) of each.
    """

    branch: str
    widths: tuple[int, ...]
    normalisation: str
    branches: int
    settings: tuple[tuple[float, float, float], ...]

    @property
    def depth(self) -> int:
        """Layers with weights, on the longest path."""
        return branches.depth(self.branch, self.widths)

    @property
    def degree(self) -> int:
        """Of the response in the layers, without biases."""
        lowest, _ = branches.degree(self.branch, self.widths, self.normalisation)
        return lowest

    @property
    def name(self) -> str:
        """Of the group's files."""
        parts = (self.branch, f"depth_{self.depth}", self.normalisation)
        return "_".join((*parts, f"branches_{self.branches}"))

    def columns(self) -> Settings:
        """The settings as arrays."""
        decay, rate, scale = np.array(self.settings, np.float32).T
        return Settings(learning_rate=rate, weight_decay=decay, init_scale=scale)


def groups(config: Config) -> list[Group]:
    """All networks, the main group first.

    At the main depth, normalisation and M: every decay with every learning rate, and
    every initial scale with the main decay and without any. For every other depth and
    normalisation: every decay. For every other M: the main decay, and none.
    """
    decays, rates = config.all_of("weight_decay"), config.all_of("learning_rate")
    few = sorted({0.0, config.weight_decay})
    rate, scale = config.learning_rate, config.init_scale
    by_decay = [(d, rate, scale) for d in decays]
    grid = [(d, r, scale) for d in decays for r in rates]
    grid += [(d, rate, s) for d in few for s in config.all_of("init_scale")]
    main = (config.depth, config.normalisation, config.branches)
    settings = {main: grid}
    for depth in config.all_of("depth"):
        settings.setdefault((depth, config.normalisation, config.branches), by_decay)
    for norm in config.all_of("normalisation"):
        settings.setdefault((config.depth, norm, config.branches), by_decay)
    for m in config.all_of("branches"):
        settings.setdefault(
            (config.depth, config.normalisation, m), [(d, rate, scale) for d in few]
        )
    return [
        Group(
            config.branch,
            config.widths_of(depth),
            normalisation,
            m,
            tuple(sorted(set(chosen))),
        )
        for (depth, normalisation, m), chosen in settings.items()
    ]
