"""What holds a branch up: its own block of the Hessian, at a stage of training.

    found = branch_stability(objective, params, jax.random.key(0))
    found.lowest + weight_decay > 0        # the branch is at a minimum of its own

At zero, a branch of degree 3 and more has no curvature but that of the decay, and no
distributive factor: silence is then a strict local minimum (docs/silence.md).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bspec_jax.analysis.hessian_estimates import lanczos_spectra
from bspec_jax.analysis.hessian_products import compiled, prepare
from bspec_jax.analysis.objective import Objective
from bspec_jax.classifier.curvature import CHUNK
from bspec_jax.trees import Tree, ravel_branches

PRODUCTS = 48  # with the Hessian, for both ends of the spectrum


class BranchStability(NamedTuple):
    """Of each branch, `[M]`; the loss is the mean over examples, without decay.

    size: root mean square over examples of its response without the mean output.
    distributive: the same of the factor D_dist = dv_k / dtheta_k (Frobenius norm).
    lowest, highest: extreme eigenvalues of H_kk, of all its parameters.
    """

    size: Float[Array, " M"]
    distributive: Float[Array, " M"]
    lowest: Float[np.ndarray, " M"]
    highest: Float[np.ndarray, " M"]


def branch_stability(
    objective: Objective, params: Tree, key: Key[Array, ""]
) -> BranchStability:
    """Measures what the data do to each branch; `objective` is a sum over examples.

    Args:
      params: leaves `[M, ...]`.
      key: for the vectors from which Lanczos starts.

    Cost: `PRODUCTS` products with the Hessian, and C backward passes per example.
    """
    objective, params = prepare(objective, params)
    flat, _ = ravel_branches(params)
    spectra = lanczos_spectra(
        objective,
        params,
        key,
        num_products=min(PRODUCTS, flat.shape[1]),
        chunk_size=CHUNK,
    )
    v, squares = compiled(_each_example, objective)(objective, params)
    centred = v - v.mean(0)
    return BranchStability(
        size=jnp.sqrt((centred**2).sum(2).mean(0)),
        distributive=jnp.sqrt(squares.mean(0)),
        lowest=np.nanmin(spectra, 1) / objective.num_examples,
        highest=np.nanmax(spectra, 1) / objective.num_examples,
    )


def _each_example(objective, params):
    """Responses `[N, M, C]`, and squared norms of the distributive factors `[N, M]`."""
    flat, unravel = ravel_branches(params)

    def of_example(example):
        v, pullback = jax.vjp(lambda z: objective.respond(unravel(z), example), flat)
        outputs = jnp.eye(v[0].size, dtype=v.dtype).reshape(-1, *v.shape[1:])

        def squares(output):  # one backward pass serves all branches
            (row,) = pullback(jnp.broadcast_to(output, v.shape))
            return (row**2).sum(1)

        return v.reshape(len(v), -1), jax.lax.map(squares, outputs).sum(0)

    return jax.lax.map(of_example, objective.examples, batch_size=CHUNK)
