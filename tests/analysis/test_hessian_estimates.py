from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from objectives import problem, squared, unclamped_loss

from bspec_jax.analysis import hessian, hessian_estimates, hessian_measures
from bspec_jax.losses import classification_loss
from bspec_jax.trees import ravel_branches


@pytest.mark.slow
@pytest.mark.parametrize("loss", [squared, classification_loss])
def test_estimated_norms_and_their_standard_errors(loss, x64):
    case = problem(loss, 3)
    norms = hessian_measures.block_norms(hessian.dense(*case))
    keys = jax.random.split(jax.random.key(0), 60)
    estimates = [hessian_estimates.block_norms(*case, k, probes=40) for k in keys]
    z = np.stack([(e.norms - norms) / e.standard_error for e in estimates])
    # 60 estimates of 9 norms. The mean of z has a standard error of about 1/sqrt(60)
    # = .13 for one norm (a root of a mean is a little low); its spread is about 1.
    assert np.abs(z.mean(0)).max() < 0.6
    assert 0.8 < z.std() < 1.3
    relative = np.mean([e.standard_error / e.norms for e in estimates])
    assert 0.01 < relative < 0.1


def test_a_hessian_of_zeros_and_a_single_probe(x64):
    objective, params = problem(squared, 2)

    def loss_of_none(f, target):
        return 0.0 * objective.loss(f, target)

    estimate = hessian_estimates.block_norms(
        replace(objective, loss=loss_of_none), params, jax.random.key(0), probes=2
    )
    assert not estimate.norms.any()
    assert not estimate.standard_error.any()
    with pytest.raises(ValueError, match="at least 2 probes, got 1"):
        hessian_estimates.block_norms(objective, params, jax.random.key(0), probes=1)


@pytest.mark.parametrize("loss", [squared, unclamped_loss, classification_loss])
def test_lanczos_of_all_branches_at_once(loss, x64):
    case = problem(loss, 3, n=9)
    exact = hessian_measures.branch_spectra(hessian.dense(*case))
    p = exact.shape[1]
    ritz = hessian_estimates.lanczos_spectra(*case, jax.random.key(0), num_products=p)
    # A multiple eigenvalue (the losses' zeros) appears once; what is left is NaN.
    for values, eigenvalues in zip(ritz, exact, strict=True):
        found = values[~np.isnan(values)]
        assert len(found) >= p - 3
        for value in found:
            assert np.abs(eigenvalues - value).min() < 1e-9
        assert_allclose(found[-1], eigenvalues[-1], rtol=1e-9)
        assert_allclose(found[0], eigenvalues[0], rtol=1e-9, atol=1e-12)


def test_few_products_find_the_largest_eigenvalues():
    matrix = np.diag(np.concatenate([np.linspace(-1, 1, 97), [8.0, -5.0, 12.0]]))
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))
    matrix = jnp.array(q @ matrix @ q.T, jnp.float32)
    start = jax.random.normal(jax.random.key(0), (1, 100))
    (ritz,) = hessian_estimates.lanczos(lambda z: z @ matrix, start, 15)
    assert_allclose([ritz[0], ritz[-2], ritz[-1]], [-5, 8, 12], rtol=1e-4)


def test_spaces_that_are_exhausted_early():
    operators = jnp.stack(
        [
            jnp.zeros((5, 5)),  # a silent branch
            2 * jnp.eye(5),
            jnp.diag(jnp.array([0.0, 0, 0, 0, 7])),  # of rank 1
            jnp.diag(jnp.arange(5.0) - 1),
        ]
    )
    start = jax.random.normal(jax.random.key(1), (4, 5))
    ritz = hessian_estimates.lanczos(
        lambda z: jnp.einsum("bij,bj->bi", operators, z), start, 5
    )
    nan = np.nan
    expected = [
        [0, nan, nan, nan, nan],
        [2, nan, nan, nan, nan],
        [0, 7, nan, nan, nan],
        [-1, 0, 1, 2, 3],
    ]
    assert_allclose(ritz, expected, atol=1e-5)


def test_more_products_than_parameters(x64):
    case = problem(squared, 2)
    size = ravel_branches(case[1])[0].shape[1]
    with pytest.raises(ValueError, match=rf"num_products must be in 1..{size}, got"):
        hessian_estimates.lanczos_spectra(
            *case, jax.random.key(0), num_products=size + 1
        )


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [2, 3, 5, 99])
def test_chunks_and_leaves_change_nothing_but_rounding(chunk_size, x64):
    case = *problem(classification_loss, 2), jax.random.key(0)  # 5 examples
    told = []
    options = {"leaves": ["hidden"], "probes": 3}
    expected = hessian_estimates.block_norms(*case, **options)
    norms = hessian_estimates.block_norms(
        *case, **options, chunk_size=chunk_size, progress=told.append
    )
    assert told == [1, 1, 1]
    assert_allclose(norms.norms, expected.norms, rtol=1e-10)
    exact = hessian.dense(*case[:-1], leaves=["hidden"])
    ritz = hessian_estimates.lanczos_spectra(
        *case, leaves=["hidden"], num_products=4, chunk_size=chunk_size
    )
    assert_allclose(ritz, hessian_measures.branch_spectra(exact), rtol=1e-8)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        hessian_estimates.lanczos_spectra(*case, chunk_size=0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats(dtype, x64):
    objective, params = problem(squared, 3, n=9)
    short = jax.tree.map(lambda p: p.astype(dtype), params)
    exact = jax.tree.map(lambda p: p.astype(jnp.float64), short)
    expected = hessian.dense(objective, exact)
    ritz = hessian_estimates.lanczos_spectra(
        replace(objective, examples=objective.examples.astype(jnp.float32)),
        short,
        jax.random.key(0),
        num_products=8,
    )
    assert ritz.dtype == np.float32
    largest = hessian_measures.branch_spectra(expected)[:, -1]
    assert_allclose(np.nanmax(ritz, 1), largest, rtol=1e-4)
    norms, _ = hessian_estimates.block_norms(
        objective, short, jax.random.key(1), probes=8
    )
    again, _ = hessian_estimates.block_norms(
        objective, exact, jax.random.key(1), probes=8
    )
    assert_allclose(norms, again, rtol=0.5)  # other signs, for the type is another
    start = jnp.ones((1, 3), dtype)
    values = jnp.diag(jnp.array([1.0, 2.0, 1000.0]))
    ritz = hessian_estimates.lanczos(lambda z: z @ values, start, 3)
    assert_allclose(ritz[0], [1, 2, 1000], rtol=1e-4)


def test_a_product_that_changes_or_is_not_finite():
    scale = 1.0
    values = jnp.arange(1.0, 4.0)

    def product(z):
        return scale * values * z

    start = jnp.array([[1.0, 2.0, -1.0], [0.5, 1.0, 1.0]])
    first = hessian_estimates.lanczos(product, start, 3)
    scale = 10.0
    assert_allclose(hessian_estimates.lanczos(product, start, 3), 10 * first, rtol=1e-5)
    nan = hessian_estimates.lanczos(
        lambda z: values * z.at[1].multiply(jnp.nan), start, 3
    )
    assert_allclose(nan[0], first[0], rtol=1e-5)
    assert np.isnan(nan[1]).all()


def test_probes_that_are_no_number(x64):
    with pytest.raises(ValueError, match="whole number, got True"):
        hessian_estimates.block_norms(
            *problem(squared, 3), jax.random.key(0), probes=True
        )
