"""The trained networks of a run, by setting."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bspec_jax.analysis.silence import separation
from bspec_jax.classifier import sweeps
from bspec_jax.classifier.recipe import decay_budget
from bspec_jax.classifier.sweeps import Measured
from bspec_jax.storage import files
from experiments.silence.config import Config
from experiments.silence.grid import Group, groups
from experiments.silence.train import TRAINED, group_path, recipe_of

ROUNDING = 1e-6  # a response smaller than this, relative to the start, is rounding


class Cell(NamedTuple):
    """The networks of one setting, of S seeds.

    budget: beta at each record, `[R]`.
    records: along training, `[R, S, ...]`; see `train.record`.
    trained: at the end, on the test images, `[S, ...]`.
    examples: number of test images.
    """

    group: Group
    weight_decay: float
    learning_rate: float
    init_scale: float
    budget: Float[np.ndarray, " R"]
    records: dict[str, np.ndarray]
    trained: Measured
    examples: int

    @property
    def sizes(self) -> Float[np.ndarray, "S M"]:
        """Root mean square of each branch's response without its constant part."""
        return self.trained.centred_norms / np.sqrt(self.examples)

    @property
    def active(self) -> Float[np.ndarray, " S"]:
        """Active branches of each network, by the centred rule."""
        return self.activity(self.sizes).sum(-1)

    @property
    def silent_share(self) -> Float[np.ndarray, " S"]:
        """Share of the branches that are silent."""
        return 1 - self.active / self.group.branches

    def is_silent(self) -> np.ndarray:
        """Which branches are silent, `[S, M]`."""
        return self.activity(self.sizes) == 0

    def after(self, share: float) -> int:
        """The record after that share of the steps; of the start only for 0."""
        last = len(self.budget) - 1
        return max(1, round(share * last)) if share else 0

    def foretold_by(self, scores: Float[np.ndarray, "S M"]) -> Float[np.ndarray, " S"]:
        """How well scores tell who stays active: `silence.separation` of each seed."""
        pairs = zip(scores, ~self.is_silent(), strict=True)
        return np.array([separation(*pair) for pair in pairs])

    def activity(self, sizes: Float[np.ndarray, "*R S M"]) -> np.ndarray:
        """`sweeps.activity`, with networks of which rounding alone is left all silent.

        Args:
          sizes: root mean squares.
        """
        start = self.records["centred_norms"][0].max(-1, keepdims=True)
        return sweeps.activity(sizes) * (sizes > ROUNDING * start)


def load(config: Config, examples: int) -> list[Cell]:
    """All cells of a run whose groups are trained, measured on so many test images."""
    return [c for group in groups(config) for c in of_group(config, group, examples)]


def of_group(config: Config, group: Group, examples: int) -> list[Cell]:
    """The cells of a trained group."""
    arrays = files.load_arrays(group_path(config.workdir, group))
    steps = arrays.pop("step").tolist()
    trained = {
        name.removeprefix(TRAINED): arrays.pop(name)
        for name in list(arrays)
        if name.startswith(TRAINED)
    }
    cells = []
    for k, (decay, rate, scale) in enumerate(group.settings):
        recipe = recipe_of(config)._replace(weight_decay=decay, learning_rate=rate)
        budget = [decay_budget(recipe, config.steps, step) for step in steps]
        records = {name: values[:, :, k] for name, values in arrays.items()}
        measured = Measured(**{name: v[:, k] for name, v in trained.items()})
        cells.append(
            Cell(
                group,
                decay,
                rate,
                scale,
                np.array(budget),
                records,
                measured,
                examples,
            )
        )
    return cells
