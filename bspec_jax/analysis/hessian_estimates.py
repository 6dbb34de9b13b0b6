"""Block norms and spectra of a Hessian that is too large to be formed.

Both need nothing but products with the Hessian. `chunk_size` is the number of examples
computed at a time: all of them by default, which is fastest. As in `hessian`, numbers
are float32 or wider, and each call compiles the objective's functions anew.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bspec_jax.analysis.hessian_measures import eigenvalues
from bspec_jax.analysis.hessian_products import (
    branch_columns,
    compiled,
    count_examples,
    flat_responses,
    operator,
    prepare,
)
from bspec_jax.analysis.objective import Leaves, Objective
from bspec_jax.numerics import check_count, ratio, widen
from bspec_jax.trees import Tree, ravel_branches


class EstimatedNorms(NamedTuple):
    """Frobenius norms of all blocks, `[M, M]`, and the standard error of each."""

    norms: Float[Array, "M M"]
    standard_error: Float[Array, "M M"]


def block_norms(
    objective: Objective,
    params: Tree,
    key: Key[Array, ""],
    *,
    leaves: Leaves = None,
    probes: int = 32,
    chunk_size: int | None = None,
    progress: Callable[[int], None] = lambda probes_done: None,
) -> EstimatedNorms:
    """Frobenius norms of the blocks: ||H_kl||^2 = E ||H_kl z||^2 over random signs z.

    Args:
      params: leaves `[M, ...]`.
      leaves: paths or patterns of the parameters; all by default.
      probes: number of sign vectors, at least 2.
      progress: takes the number of probes done since its last call.

    The squares are unbiased; their standard error comes from the spread over probes,
    that of the norms by the delta method.

    Source: Hutchinson, Commun. Stat. Simul. Comput. 19 (1990), p. 433. Cost: M products
    with the Hessian per probe.

    Raises:
      ValueError: for fewer than 2 probes.
    """
    if check_count("probes", probes) < 2:
        raise ValueError(f"the standard error takes at least 2 probes, got {probes}")
    chunk_size = _whole_chunks(objective, chunk_size)
    options = {"leaves": leaves, "chunk_size": chunk_size}
    of_probe = compiled(partial(_probe, **options), objective)
    samples = []
    for probe in jax.random.split(key, probes):
        sample = of_probe(objective, params, probe)
        samples.append(jax.block_until_ready(sample))
        progress(1)
    samples = jnp.stack(samples)
    norms = jnp.sqrt(samples.mean(0))
    error = samples.std(0, ddof=1) / jnp.sqrt(probes)
    return EstimatedNorms(norms, ratio(error, 2 * norms))


def _probe(objective, params, key, leaves, chunk_size):
    """One sample of all squared norms."""
    objective, params = prepare(objective, params, leaves)
    flat, unravel = ravel_branches(params)
    branch = jnp.arange(flat.shape[0])
    signs = jax.random.rademacher(key, flat.shape, flat.dtype)
    product = _sum_over_chunks(lambda o: operator(o, params), objective, chunk_size)

    def column(k):
        entries = product(unravel(jnp.where(branch[:, None] == k, signs, 0)))
        return (ravel_branches(entries)[0] ** 2).sum(1)

    return jax.lax.map(column, branch).T


def lanczos_spectra(
    objective: Objective,
    params: Tree,
    key: Key[Array, ""],
    *,
    leaves: Leaves = None,
    num_products: int = 32,
    chunk_size: int | None = None,
) -> Float[np.ndarray, "M num_products"]:
    """Ritz values of each branch's own block H_kk, ascending.

    The outermost are close to the extreme eigenvalues; after P products all are
    eigenvalues. NaN follow where a block has fewer, as at a low rank: take the largest
    by `nanmax`. See `lanczos`.

    Cost: `num_products` products with the Hessian, each for all branches at once.

    Raises:
      ValueError: for more products than a branch has parameters.
    """
    chunk_size = _whole_chunks(objective, chunk_size)
    coefficients = partial(
        _branch_coefficients,
        leaves=leaves,
        num_products=num_products,
        chunk_size=chunk_size,
    )
    return _ritz_values(*compiled(coefficients, objective)(objective, params, key))


def _branch_coefficients(objective, params, key, leaves, num_products, chunk_size):
    objective, params = prepare(objective, params, leaves)
    flat, _ = ravel_branches(params)

    def curve(f, target, direction):
        slope = jax.grad(objective.loss)
        return jax.jvp(lambda f: slope(f, target), (f,), (direction,))[1]

    def own_operator(chunk):
        f, columns = branch_columns(chunk, params)
        flat, responses = flat_responses(chunk, params)
        _, pullback = jax.vjp(responses, flat)

        def own_blocks(z):
            j, residual = columns(z)
            by_branch = jax.vmap(jax.vmap(curve), (None, None, 0))
            weighted = by_branch(f, chunk.targets, j)
            return pullback(weighted)[0] + residual

        return own_blocks

    product = _sum_over_chunks(own_operator, objective, chunk_size)
    start = jax.random.normal(key, flat.shape, flat.dtype)
    return _lanczos_coefficients(product, start, num_products)


def _whole_chunks(objective, chunk_size):
    """The chunk's size, or the number of examples if that is smaller."""
    given = 1 if chunk_size is None else chunk_size
    num_examples = count_examples(objective, chunk_size=given)
    return min(num_examples, chunk_size or num_examples)


def _sum_over_chunks(make, objective, chunk_size):
    """V -> the sum over chunks of `make(chunk)(v)`.

    A single chunk is linearised once, for all products.
    """
    count, rest = divmod(objective.num_examples, chunk_size)
    if count == 1 and not rest:
        return make(objective)
    whole = objective.slice(slice(count * chunk_size))
    head = jax.tree.map(lambda x: x.reshape(count, chunk_size, *x.shape[1:]), whole)
    tail = objective.slice(slice(count * chunk_size, None))

    def product(v):
        def add(total, chunk):
            return jax.tree.map(jnp.add, total, make(chunk)(v)), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, v), head)
        return add(total, tail)[0] if rest else total

    return product


def lanczos(
    product: Callable[[Array], Array], start: Float[Array, "B D"], num_products: int
) -> Float[np.ndarray, "B num_products"]:
    """Ritz values, ascending, of B symmetric operators that act side by side.

    With full reorthogonalisation. Where a start vector's Krylov space is exhausted
    early, as in a block of low rank or of a silent branch, NaN follow the values found.
    (A library's iteration would serve if it did not divide by zero there.)

    Args:
      product: takes `[B, D]` to `[B, D]`, row b by operator b.
      start: one vector per operator.

    Source: Golub and Van Loan, Matrix Computations, section 10.1. Cost: `num_products`
    products; B D `num_products` numbers.

    Raises:
      ValueError: for more products than D.
    """

    @jax.jit  # not of a function that outlives this call: `product` may change
    def iterate(start):
        return _lanczos_coefficients(product, start, num_products)

    return _ritz_values(*iterate(start))


def _lanczos_coefficients(product, start, num_products):
    """Diagonal and subdiagonal of the tridiagonal matrices, `[num_products, B]`.

    The subdiagonal is zero from where the space is exhausted.
    """
    start = widen(start)
    count, size = start.shape
    if not 1 <= check_count("num_products", num_products, None) <= size:
        raise ValueError(f"num_products must be in 1..{size}, got {num_products}")
    tolerance = 100 * jnp.finfo(start.dtype).eps

    def normalise(w, scale):
        length = jnp.linalg.norm(w, axis=1)
        length = jnp.where(length <= tolerance * scale, 0, length)
        return length, w / jnp.where(length == 0, jnp.inf, length)[:, None]

    def step(i, carry):
        basis, diagonal, subdiagonal, q, scale = carry
        basis = basis.at[i].set(q)
        w = product(q).astype(q.dtype)
        diagonal = diagonal.at[i].set((q * w).sum(1))
        scale = jnp.maximum(scale, jnp.linalg.norm(w, axis=1))
        for _ in range(2):  # once more for what rounding leaves
            shares = jnp.einsum("ibd,bd->ib", basis, w, precision="highest")
            w = w - jnp.einsum("ib,ibd->bd", shares, basis, precision="highest")
        length, q = normalise(w, scale)
        return basis, diagonal, subdiagonal.at[i].set(length), q, scale

    basis = jnp.zeros((num_products, *start.shape), start.dtype)
    zeros = jnp.zeros((num_products, count), start.dtype)
    scale = zeros[0]
    carry = (basis, zeros, zeros, normalise(start, scale)[1], scale)
    return jax.lax.fori_loop(0, num_products, step, carry)[1:3]


def _ritz_values(diagonal, subdiagonal):
    # On the host, for the reason that `hessian_measures.spectrum` gives.
    diagonal, subdiagonal = np.asarray(diagonal), np.asarray(subdiagonal)
    values = np.full(diagonal.T.shape, np.nan, diagonal.dtype)
    for row, main, below in zip(values, diagonal.T, subdiagonal.T, strict=True):
        reached = 1 + int(np.cumprod(below[:-1] != 0).sum())
        matrix = np.diag(main[:reached]) + np.diag(below[: reached - 1], -1)
        row[:reached] = eigenvalues(matrix)  # of the lower triangle
    return values
