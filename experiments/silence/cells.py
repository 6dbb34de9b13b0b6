"""The trained networks of a run, by setting."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bspec_jax.classifier.recipe import decay_budget
from bspec_jax.classifier.sweeps import Measured, activity
from bspec_jax.storage import files
from experiments.silence.config import Config
from experiments.silence.grid import Group, groups
from experiments.silence.train import TRAINED, group_path, recipe_of


class Cell(NamedTuple):
    """The networks of one setting, of S seeds.

    budget: beta at each record, `[R]`.
    records: along training, `[R, S, ...]`; see `train.record`.
    trained: at the end, on the test images, `[S, ...]`.
    """

    group: Group
    weight_decay: float
    learning_rate: float
    init_scale: float
    budget: Float[np.ndarray, " R"]
    records: dict[str, np.ndarray]
    trained: Measured

    @property
    def active(self) -> Float[np.ndarray, " S"]:
        """Active branches of each network, by the centred rule."""
        return activity(self.trained.centred_norms).sum(-1)

    @property
    def silent_share(self) -> Float[np.ndarray, " S"]:
        """Share of the branches that are silent."""
        return 1 - self.active / self.group.branches

    def is_silent(self) -> np.ndarray:
        """Which branches are silent, `[S, M]`."""
        return activity(self.trained.centred_norms) == 0


def load(config: Config) -> list[Cell]:
    """All cells of a run whose groups are trained."""
    return [cell for group in groups(config) for cell in of_group(config, group)]


def of_group(config: Config, group: Group) -> list[Cell]:
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
            Cell(group, decay, rate, scale, np.array(budget), records, measured)
        )
    return cells
