"""The paper's figures, drawn from what `results.json` holds; nothing is computed anew.

Each function takes plain JSON values and returns a matplotlib Figure.
"""

from bspec_jax.figures.hessian import (
    gradient_factors,
    hessian_eigenvalues,
    hessian_heat_maps,
    hessian_index,
    hessian_ratio,
)
from bspec_jax.figures.toy import (
    toy_active,
    toy_covariances,
    toy_dynamics,
    toy_phase,
    toy_responses,
    toy_success,
)

__all__ = [
    "gradient_factors",
    "hessian_eigenvalues",
    "hessian_heat_maps",
    "hessian_index",
    "hessian_ratio",
    "toy_active",
    "toy_covariances",
    "toy_dynamics",
    "toy_phase",
    "toy_responses",
    "toy_success",
]
