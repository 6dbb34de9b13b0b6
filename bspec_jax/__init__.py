"""Branch specialization in JAX: sums of branches and what becomes of each branch.

The combinator, the measures and the gradient factors are here by name; the rest is
imported as modules: `adapters` (Flax Linen and NNX modules as branches), `conv` (a
convolution that vmap leaves fast), `hessian` with `hessian_measures` and
`hessian_estimates`, `models`, `data`, `classifier` (with `classifier_training`,
`contributions` and `checkpoints`), `toy` and `sweeps`.
"""

from bspec_jax.branching import (
    Branch,
    BranchedNetwork,
    from_functions,
    sum_of_branches,
)
from bspec_jax.gradients import (
    collaborative_factor,
    distributive_factor,
    frozen_responses,
)
from bspec_jax.leaves import select_leaves
from bspec_jax.losses import squared_error
from bspec_jax.specialization import (
    Specialization,
    active_branches,
    active_in_regions,
    correlation,
    covariance,
    example_energy,
    mean_correlation,
    measure,
    region_energy,
    region_entropy,
    response_matrix,
    response_norms,
    specialization_index,
)

__all__ = [
    "Branch",
    "BranchedNetwork",
    "Specialization",
    "active_branches",
    "active_in_regions",
    "collaborative_factor",
    "correlation",
    "covariance",
    "distributive_factor",
    "example_energy",
    "from_functions",
    "frozen_responses",
    "mean_correlation",
    "measure",
    "region_energy",
    "region_entropy",
    "response_matrix",
    "response_norms",
    "select_leaves",
    "specialization_index",
    "squared_error",
    "sum_of_branches",
]
