"""What `specialization.measure` returns: measures of a network and of its branches."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array


class Specialization(NamedTuple):
    """The measures of one network, scalars of a floating type; see `measure`.

    Numbers are those of the observations in section 4. Where `num_active` is 0,
    observations 1 to 4 are undefined, and where `active_pairs` is 0, `correlation` is:
    leave them out of averages. All are floats, counts too, so that they can be NaN
    where the responses are not finite.
    """

    num_active: Array  # branches active over all data
    num_silent: Array  # M - num_active
    index: Array  # S of the covariance
    entropy: Array  # 1: region entropy, mean over active branches
    active_per_region: Array  # 2: active branches / M, mean over regions
    silent_share: Array  # 3: share of regions where an active branch is silent, mean
    silent_fraction: Array  # 4: num_silent / M
    correlation: Array  # 5: |rho|, mean over pairs of active branches
    active_pairs: Array  # number of those pairs


class BranchMeasures(NamedTuple):
    """The measures of each branch, `[M]`; NaN where they are not known.

    active: 1 for a branch active over all data, 0 for a silent one.
    norm: of its responses, over the largest branch's.
    active_share: share of the regions where it is active.
    entropy: of its energy over regions; see `region_entropy`.
    """

    active: Array
    norm: Array
    active_share: Array
    entropy: Array


@jax.tree_util.register_pytree_node_class
class Measured(Specialization):
    """The measures of one network; `branches` are those of each branch.

    As a tuple it holds the network's alone, which can be averaged over networks of
    different M. A pytree with all of them. Prints as a table.
    """

    branches: BranchMeasures | None = None

    @classmethod
    def of(cls, branches: BranchMeasures | None, *network: Any) -> "Measured":
        """From measures of the branches, and those of the network in order."""
        measured = cls(*network)
        measured.branches = branches
        return measured

    def tree_flatten(self):
        """Of a pytree."""
        return (self.branches, *self), None

    @classmethod
    def tree_unflatten(cls, _, children) -> "Measured":
        """Of a pytree."""
        return cls.of(*children)

    def __repr__(self) -> str:
        one_network = all(np.ndim(value) == 0 for value in self)
        if not one_network or any(isinstance(v, jax.core.Tracer) for v in self):
            return super().__repr__()
        return "\n".join([*_rows(self), *_summary(self)])

    __str__ = __repr__


COLUMNS = (
    "branch",
    "responds",
    "relative norm",
    "active in regions",
    "entropy over regions",
)


def _rows(measured: Measured) -> list[str]:
    """A line of column names and one for each branch, without padding branches."""
    if measured.branches is None:
        return []
    m = measured.num_active + measured.num_silent
    table = np.stack([np.asarray(column, float) for column in measured.branches], 1)
    words = {1.0: "active", 0.0: "silent"}
    lines = ["  ".join(COLUMNS)]
    for k, (active, norm, share, entropy) in enumerate(table):
        if k < m or np.isnan(m):
            cells = (str(k), words.get(active, "unknown"), f"{norm:.3f}")
            cells += (f"{100 * share:.0f} %", f"{entropy:.3f}")
            pairs = zip(cells, COLUMNS, strict=True)
            lines.append("  ".join(cell.rjust(len(name)) for cell, name in pairs))
    return lines


def _summary(measured: Measured) -> list[str]:
    values = {name: float(value) for name, value in measured._asdict().items()}
    if np.isnan(values["num_active"]):
        return ["The responses are not finite: nothing can be measured."]
    m = values["num_active"] + values["num_silent"]
    lines = [
        f"{values['num_active']:.0f} of {m:.0f} branches active, on average "
        f"{100 * values['active_per_region']:.0f} % in a region; "
        f"specialization index S = {values['index']:.3f}"
    ]
    if values["num_active"]:
        lines.append(
            f"Means over active branches: entropy {values['entropy']:.3f}, silent in "
            f"{100 * values['silent_share']:.0f} % of the regions"
        )
    if values["active_pairs"]:
        lines[-1] += f", |correlation| {values['correlation']:.3f}"
    return lines
