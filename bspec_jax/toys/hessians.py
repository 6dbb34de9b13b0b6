"""Hessian and gradient factors of many toy networks at one stage of training."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bspec_jax.analysis import gradients, hessian
from bspec_jax.analysis.hessian_measures import (
    block_measures,
    branch_spectra,
    mean_pair_ratio,
    spectrum,
)
from bspec_jax.analysis.objective import Leaves, Objective, frozen_responses
from bspec_jax.analysis.specialization import (
    active_branches,
    covariance,
    specialization_index,
)
from bspec_jax.losses import squared_error
from bspec_jax.toys.sweeps import Trials
from bspec_jax.toys.tasks import toy_network

# Relative to the factor's initial root mean square; eight per decade.
THRESHOLDS = tuple(10.0 ** (i / 8) for i in range(-32, 9))
VANISHED = THRESHOLDS.index(1e-2)
BATCH_ELEMENTS = 2**23  # entries of the Hessians held at a time


class InitialScales(NamedTuple):
    """What the factors and the gradient of each network are relative to.

    distributive, collaborative: root mean squares of the factors at initialisation.
    gradient_norm: of the gradient at initialisation.
    """

    distributive: Float[np.ndarray, " T"]
    collaborative: Float[np.ndarray, " T"]
    gradient_norm: Float[np.ndarray, " T"]


class HessianMeasures(NamedTuple):
    """Measures of T networks of M branches at one stage; the last axis is networks.

    P is the number of parameters of a branch that the Hessian is of. The measures of a
    network that diverged are NaN.
    """

    offdiagonal_ratio: Float[np.ndarray, " T"]  # see `hessian_measures`
    control_ratio: Float[np.ndarray, " T"]
    ratio_to_control: Float[np.ndarray, " T"]
    mean_pair_ratio: Float[np.ndarray, " T"]
    active_pair_ratio: Float[np.ndarray, " T"]  # mean_pair_ratio of active branches
    small_blocks: Float[np.ndarray, " T"]
    largest_eigenvalue: Float[np.ndarray, " T"]
    index: Float[np.ndarray, " T"]  # S of the covariance of the responses
    distributive: Float[np.ndarray, "thresholds T"]  # shares of vanishing factors
    collaborative: Float[np.ndarray, "thresholds T"]
    vanishing_difference: Float[np.ndarray, " T"]  # of these shares at 1e-2
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
        initial = InitialScales(*(np.asarray(scale, dtype) for scale in initial))
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
    measures = block_measures(h)
    norms = measures.pop("block_norms")
    order = jnp.argsort(-jnp.diagonal(norms))
    active = active_branches(v)
    both_active = active[:, None] & active[None, :]
    measures |= {
        "active_pair_ratio": mean_pair_ratio(jnp.where(both_active, norms, 0)),
        "block_norms": norms[order][:, order],
        "index": specialization_index(covariance(v)),
    }
    return h, order, measures | _factors(objective, params, v, initial)


def _factors(
    objective: Objective, params: dict, v: Array, initial: InitialScales | None
) -> dict:
    """Shares of vanishing factors, and the norm of the gradient."""
    respond, x, y = objective.respond, objective.examples, objective.targets
    factor = gradients.collaborative_factor(lambda f: squared_error(f, y), v.sum(0))
    gradient = jax.grad(objective.total)(params)
    gradient_norm = jnp.hypot(*map(jnp.linalg.norm, gradient.values()))
    if initial is None:
        initial = InitialScales(
            distributive=gradients.distributive_scale(respond, params, x),
            collaborative=gradients.collaborative_scale(factor),
            gradient_norm=gradient_norm,
        )
    distributive = gradients.distributive_shares(
        respond, params, x, initial.distributive, thresholds=THRESHOLDS
    )
    distributive = distributive + 0 * v.sum()
    collaborative = gradients.collaborative_shares(
        factor, initial.collaborative, thresholds=THRESHOLDS
    )
    return {
        "distributive": distributive,
        "collaborative": collaborative,
        "vanishing_difference": (distributive - collaborative)[VANISHED],
        "gradient_norm": gradient_norm / initial.gradient_norm,
        "scales": initial,
    }


def memory_estimate(num_trials: int, num_branches: int) -> int:
    """Rough number of bytes that `measure` takes besides the trials."""
    return 4 * (2 * num_trials * num_branches**2 + 8 * BATCH_ELEMENTS)
