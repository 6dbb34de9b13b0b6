"""The paper's figures, drawn from the values in `results.json`; nothing is computed.

Each function takes plain JSON values or arrays and returns a matplotlib Figure.
"""

from bspec_jax.figures import backend  # noqa: F401  (before all of matplotlib)
from bspec_jax.figures.applications import (
    augmentation,
    edit_shares,
    normal_errors,
    pictures,
)
from bspec_jax.figures.architecture import architecture
from bspec_jax.figures.class_transfer import (
    component_energy,
    component_scores,
    component_subsets,
    component_sweep,
    decompositions,
    diffusion_spectrum,
    generator_training,
    image_components,
    transfer_rates,
    transfers,
)
from bspec_jax.figures.classify import (
    active_against_branches,
    branch_ablation,
    branch_covariances,
    branch_norms,
    branch_outputs,
    branch_outputs_sweep,
    classifier_training,
)
from bspec_jax.figures.confidence import (
    branch_confidence,
    branch_enrichment,
    most_confident_images,
)
from bspec_jax.figures.hessian import (
    heat_map_stages,
    hessian_block_index,
    hessian_eigenvalues,
    hessian_heat_maps,
    hessian_index,
    hessian_own_blocks,
    vanishing_factors,
)
from bspec_jax.figures.own_images import own_contributions
from bspec_jax.figures.segment import (
    overlaid,
    segmentation_scores,
    segmentation_steps,
    segmentations,
)
from bspec_jax.figures.silence import (
    silence_against_branches,
    silence_against_budget,
    silence_heat_map,
    silence_norms,
    silence_threshold,
)
from bspec_jax.figures.style import TASK_TITLES, Figure
from bspec_jax.figures.toy import (
    toy_active,
    toy_covariances,
    toy_dynamics,
    toy_phase,
    toy_responses,
    toy_success,
)

__all__ = [
    "TASK_TITLES",
    "Figure",
    "active_against_branches",
    "architecture",
    "augmentation",
    "branch_ablation",
    "branch_confidence",
    "branch_covariances",
    "branch_enrichment",
    "branch_norms",
    "branch_outputs",
    "branch_outputs_sweep",
    "classifier_training",
    "component_energy",
    "component_scores",
    "component_subsets",
    "component_sweep",
    "decompositions",
    "diffusion_spectrum",
    "edit_shares",
    "generator_training",
    "heat_map_stages",
    "hessian_block_index",
    "hessian_eigenvalues",
    "hessian_heat_maps",
    "hessian_index",
    "hessian_own_blocks",
    "image_components",
    "most_confident_images",
    "normal_errors",
    "overlaid",
    "own_contributions",
    "pictures",
    "segmentation_scores",
    "segmentation_steps",
    "segmentations",
    "silence_against_branches",
    "silence_against_budget",
    "silence_heat_map",
    "silence_norms",
    "silence_threshold",
    "toy_active",
    "toy_covariances",
    "toy_dynamics",
    "toy_phase",
    "toy_responses",
    "toy_success",
    "transfer_rates",
    "transfers",
    "vanishing_factors",
]
