"""Hessian and gradient factors of many toy networks at one stage of training."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bspec_jax.analysis import hessian
from bspec_jax.analysis.gradients import collaborative_factor, collaborative_shares
from bspec_jax.analysis.hessian_measures import (
    block_measures,
    branch_spectra,
    mean_pair_ratio,
    spectrum,
    step_effect,
)
from bspec_jax.analysis.objective import Leaves, Objective, frozen_responses
from bspec_jax.analysis.specialization import (
    activity,
    covariance,
    specialization_index,
)
from bspec_jax.analysis.vanishing import (
    THRESHOLDS,
    VANISHED,
    FactorScales,
    factor_scales,
    vanishing_shares,
)
from bspec_jax.losses import squared_error
from bspec_jax.toys.sweeps import Trials
from bspec_jax.toys.tasks import toy_network
from bspec_jax.trees import ravel_branches, select_leaves

BATCH_ELEMENTS = 2**23  # entries of the Hessians held at a time


class InitialScales(NamedTuple):
    """What the factors and the gradient of each network are relative to.

    factors: root mean squares at initialisation.
    gradient_norm: of the gradient at initialisation.
    vanishing: share of the distributive factors that were small at initialisation.
    """

    factors: FactorScales
    gradient_norm: Float[np.ndarray, " T"]
    vanishing: Float[np.ndarray, " T"]


class HessianMeasures(NamedTuple):
    """Measures of T networks of M branches at one stage; the last axis is networks.

    P is the number of parameters of a branch that the Hessian is of. The measures of a
    network that diverged are NaN; the shares of vanishing factors, at
    `vanishing.THRESHOLDS`, also for one that has no example left to learn.
    """

    block_index: Float[np.ndarray, " T"]  # see `hessian_measures`
    step_effect: Float[np.ndarray, " T"]
    offdiagonal_ratio: Float[np.ndarray, " T"]
    mean_pair_ratio: Float[np.ndarray, " T"]
    active_pair_ratio: Float[np.ndarray, " T"]  # mean_pair_ratio of active branches
    small_blocks: Float[np.ndarray, " T"]
    largest_eigenvalue: Float[np.ndarray, " T"]
    index: Float[np.ndarray, " T"]  # S of the covariance of the responses
    distributive: Float[np.ndarray, "thresholds T"]  # see `vanishing.VanishingShares`
    gradient: Float[np.ndarray, "thresholds T"]
    orthogonal: Float[np.ndarray, "thresholds T"]
    collaborative: Float[np.ndarray, "thresholds T"]  # share of small ||D_collab||
    vanishing_distributive: Float[np.ndarray, " T"]  # at 5e-2, less that at the start
    gradient_norm: Float[np.ndarray, " T"]  # relative to its initial norm
    block_norms: Float[np.ndarray, "M M T"] | None  # by descending own block
    spectrum: Float[np.ndarray, "MP T"] | None
    branch_spectra: Float[np.ndarray, "M P T"] | None  # in the order of block_norms
    scales: InitialScales
    defined: Bool[np.ndarray, " T"]  # did not diverge
    converged: Bool[np.ndarray, " T"]

    def without_arrays_over_branches(self) -> "HessianMeasures":
        """Drops the three fields that grow with M, to free their memory."""
        return self._replace(block_norms=None, spectrum=None, branch_spectra=None)


class _Networks(NamedTuple):
    """Networks of one M, with the leading axis T."""

    w: Float[np.ndarray, "T M"]
    b: Float[np.ndarray, "T M"]
    x: Float[np.ndarray, "T N"]
    y: Float[np.ndarray, "T N"]
    negative_slope: Float[np.ndarray, " T"]


def measure(
    trials: Trials,
    *,
    leaves: Leaves = None,
    initial: InitialScales | None = None,
    negative_slope: float | None = None,
    float64: bool = False,
) -> tuple[Float[np.ndarray, "M P M P"], HessianMeasures]:
    """The exact Hessian of the first network, and the measures of every network.

    Args:
      trials: networks of one M.
      leaves: paths or patterns of the parameters of the Hessian: "w", "b" or, by
        default, both.
      initial: `scales` of the same networks at initialisation; None if these are they.
      negative_slope: of all networks. Default: that of each trial, which is rounded to
        the precision of the training.
      float64: compute in double precision.

    Raises:
      ValueError: if the networks differ in M.
    Cost: per network M P products with the Hessian, and its eigenvalues, O((M P)^3).
    """
    dtype = np.float64 if float64 else np.float32
    if leaves is not None and not isinstance(leaves, str):
        leaves = tuple(leaves)
    columns = _columns(trials)
    if negative_slope is not None:
        slopes = np.full(trials.error.size, negative_slope)
        columns = columns._replace(negative_slope=slopes)
    networks = _Networks(*(np.asarray(column, dtype) for column in columns))
    if initial is not None:
        initial = jax.tree.map(lambda scale: np.asarray(scale, dtype), initial)
    total, m = networks.w.shape
    size = min(total, max(1, BATCH_ELEMENTS // (2 * m) ** 2))
    first, batches = None, []
    with jax.enable_x64(float64):
        for start in range(0, total, size):
            index = np.arange(start, start + size) % total  # one shape, one compilation
            part = jax.tree.map(lambda column, i=index: column[i], (networks, initial))
            h, order, measures = jax.device_get(_measure_batch(*part, leaves=leaves))
            first = h[0] if first is None else first
            batches.append(measures | _spectra(h, order))
    joined = jax.tree.map(
        lambda *parts: np.moveaxis(np.concatenate(parts)[:total], 0, -1), *batches
    )
    return first, HessianMeasures(
        **joined, defined=~trials.diverged, converged=trials.converged
    )


def _columns(trials: Trials) -> _Networks:
    sizes = np.unique(trials.num_branches)
    if len(sizes) != 1:
        raise ValueError(f"the networks must have one M, got {sizes.tolist()}")
    (num_branches,) = sizes
    narrow = (trials.w[:num_branches], trials.b[:num_branches], trials.x, trials.y)
    columns = (np.ascontiguousarray(column.T) for column in narrow)
    return _Networks(*columns, trials.negative_slope)


def _spectra(h: np.ndarray, order: np.ndarray) -> dict[str, np.ndarray]:
    """Eigenvalues of a stack of Hessians, and of its branches in the given order."""
    whole = spectrum(h)
    branches = np.take_along_axis(branch_spectra(h), order[..., None], 1)
    return {
        "spectrum": whole,
        "largest_eigenvalue": whole[:, -1],
        "branch_spectra": branches,
    }


@partial(jax.jit, static_argnames="leaves")
def _measure_batch(networks: _Networks, initial: InitialScales | None, *, leaves):
    return jax.vmap(partial(_measure_network, leaves))(networks, initial)


def _measure_network(leaves: Leaves, network: _Networks, initial: InitialScales | None):
    """The Hessian of a network, its branches by their own block, and its measures."""
    net = toy_network(network.w.size, negative_slope=network.negative_slope)
    params = {"w": network.w, "b": network.b}
    objective = Objective(
        frozen_responses(net, ()), squared_error, network.x, network.y
    )
    v, _ = net.responses(params, (), network.x)
    # Of a network that is NaN the slopes alone would still be numbers.
    h = hessian.dense(objective, params, leaves=leaves) + 0 * v.sum()
    gradient = jax.grad(objective.total)(params)
    chosen = gradient if leaves is None else select_leaves(gradient, leaves)[0]
    active = activity(v, rule="centred")
    measures = block_measures(h, active)
    norms = measures.pop("block_norms")
    order = jnp.argsort(-jnp.diagonal(norms))
    both_active = active[:, None] * active[None, :]
    measures |= {
        "active_pair_ratio": mean_pair_ratio(jnp.where(both_active == 0, 0, norms)),
        "step_effect": step_effect(h, ravel_branches(chosen)[0], active),
        "block_norms": norms[order][:, order],
        "index": specialization_index(covariance(v)),
    }
    return h, order, measures | _factors(objective, params, v, gradient, initial)


def _factors(
    objective: Objective,
    params: dict,
    v: Array,
    gradient: dict,
    initial: InitialScales | None,
) -> dict:
    """Shares of vanishing factors, and the norm of the gradient."""
    x, y = objective.examples, objective.targets
    factor = collaborative_factor(lambda f: squared_error(f, y), v.sum(0))
    pair = (objective.respond, params, x, factor)
    # dv_k/dw is a slope times x: zero at x = 0 for every w and b.
    pairs = {"w": x != 0, "b": jnp.ones_like(x, bool)}
    gradient_norm = jnp.hypot(*map(jnp.linalg.norm, gradient.values()))
    new = initial is None
    scales = factor_scales(*pair, pairs=pairs) if new else initial.factors
    shares = vanishing_shares(*pair, scales, pairs=pairs)
    shares = jax.tree.map(lambda share: share + 0 * v.sum(), shares)
    vanishing = shares.distributive[THRESHOLDS.index(VANISHED)]
    if new:
        initial = InitialScales(scales, gradient_norm, vanishing)
    collaborative = collaborative_shares(
        factor, scales.collaborative, thresholds=THRESHOLDS
    )
    return {
        **shares._asdict(),
        "collaborative": collaborative,
        "vanishing_distributive": vanishing - initial.vanishing,
        "gradient_norm": gradient_norm / initial.gradient_norm,
        "scales": initial,
    }


def memory_estimate(num_trials: int, num_branches: int) -> int:
    """Rough number of bytes that `measure` takes besides the trials."""
    return 4 * (2 * num_trials * num_branches**2 + 8 * BATCH_ELEMENTS)
