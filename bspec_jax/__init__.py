"""Branch specialization in JAX: sums of branches and what becomes of each branch.

By name here: the combinator, the measures and the gradient factors. The packages:

- `adapters`, `inputs`, `conv`, `losses`, `trees`: what a sum of branches is made of
- `analysis`: specialization, gradient factors and the Hessian of any sum of branches
- `toys`, `classifier`, `generator`: the paper's three levels
- `components`: decompositions of images, and what they are good for
- `data`, `storage`, `runs`, `figures`: from images on disk to a run's figures
"""

from bspec_jax.analysis.gradients import collaborative_factor, distributive_factor
from bspec_jax.analysis.objective import Objective, frozen_responses
from bspec_jax.analysis.specialization import (
    Specialization,
    active_branches,
    active_in_regions,
    activity,
    centred,
    correlation,
    covariance,
    example_energy,
    input_regions,
    mean_correlation,
    measure,
    null_correlation,
    region_energy,
    region_entropy,
    response_matrix,
    response_norms,
    specialization_index,
)
from bspec_jax.branching import (
    Branch,
    BranchedNetwork,
    from_functions,
    sum_of_branches,
)
from bspec_jax.losses import squared_error
from bspec_jax.trees import select_leaves

__all__ = [
    "Branch",
    "BranchedNetwork",
    "Objective",
    "Specialization",
    "active_branches",
    "active_in_regions",
    "activity",
    "centred",
    "collaborative_factor",
    "correlation",
    "covariance",
    "distributive_factor",
    "example_energy",
    "from_functions",
    "frozen_responses",
    "input_regions",
    "mean_correlation",
    "measure",
    "null_correlation",
    "region_energy",
    "region_entropy",
    "response_matrix",
    "response_norms",
    "select_leaves",
    "specialization_index",
    "squared_error",
    "sum_of_branches",
]
