"""The paper's toys (section 4): tasks, dynamics, sweeps, and what they measure.

By name here: single networks. Thousands at once: `sweeps`, `measures`, `hessians`,
`stages`.
"""

from bspec_jax.toys.dynamics import (
    Dynamics,
    classify_dynamics,
    gradient_descent_step,
    record,
)
from bspec_jax.toys.tasks import (
    TASKS,
    TOLERANCE,
    InitDistribution,
    Task,
    toy_branch,
    toy_network,
    trial_key,
)

__all__ = [
    "TASKS",
    "TOLERANCE",
    "Dynamics",
    "InitDistribution",
    "Task",
    "classify_dynamics",
    "gradient_descent_step",
    "record",
    "toy_branch",
    "toy_network",
    "trial_key",
]
