"""The curvature of each branch's own block, against a dense Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.analysis.objective import Objective
from bspec_jax.classifier.stability import branch_stability
from bspec_jax.losses import classification_loss

KEY = jax.random.key(0)
NAMES = ("first", "second", "third")


def respond(params, x):
    """Three branches of degree 3, without biases: `[M, 2]`."""
    h = jnp.tanh(jnp.einsum("mij,j->mi", params["first"], x))
    h = jnp.einsum("mij,mj->mi", params["second"], h)
    return jnp.einsum("mij,mj->mi", params["third"], h)


def loss(f, label):
    return classification_loss(f, label, clamp="tanh")


def example(silent):
    rng = np.random.default_rng(3)
    shapes = ((3, 4, 5), (3, 3, 4), (3, 2, 3))
    params = {
        n: jnp.asarray(rng.normal(size=s)) for n, s in zip(NAMES, shapes, strict=True)
    }
    scale = jnp.array([1.0, 0.0 if silent else 0.3, 2.0])[:, None, None]
    params = jax.tree.map(lambda leaf: scale * leaf, params)
    x, labels = rng.normal(size=(7, 5)), rng.integers(0, 2, 7)
    return Objective(respond, loss, jnp.asarray(x), jnp.asarray(labels)), params


def flat_branch(params, k):
    return jnp.concatenate([params[name][k].ravel() for name in NAMES])


def with_branch(params, k, flat):
    ends = np.cumsum([params[name][k].size for name in NAMES])
    parts = jnp.split(flat, ends[:-1])
    return {
        name: params[name].at[k].set(part.reshape(params[name][k].shape))
        for name, part in zip(NAMES, parts, strict=True)
    }


def test_a_dense_hessian_says_the_same():
    with jax.enable_x64(True):
        objective, params = example(silent=False)
        found = branch_stability(objective, params, KEY)
        v = np.stack([respond(params, x) for x in objective.examples])  # [N, M, C]
        centred = v - v.mean(0)
        assert_allclose(found.size, np.sqrt((centred**2).sum(2).mean(0)), rtol=1e-12)
        for k in range(3):
            flat = flat_branch(params, k)

            def mean_loss(z, k=k):
                return objective.total(with_branch(params, k, z)) / 7

            values = np.linalg.eigvalsh(jax.hessian(mean_loss)(flat))
            assert_allclose(found.lowest[k], values[0], rtol=1e-6)
            assert_allclose(found.highest[k], values[-1], rtol=1e-6)

            def response(z, x, k=k):
                return respond(with_branch(params, k, z), x)[k]

            rows = jax.vmap(jax.jacrev(response), (None, 0))(flat, objective.examples)
            expected = np.sqrt((np.asarray(rows) ** 2).sum((1, 2)).mean())
            assert_allclose(found.distributive[k], expected, rtol=1e-12)
        assert (found.lowest < 0).any()


def test_a_branch_at_zero_has_neither_curvature_nor_a_distributive_factor():
    found = branch_stability(*example(silent=True), KEY)
    for values in found:
        assert_array_equal(values[1], 0)
        assert np.abs(np.delete(values, 1)).min() > 1e-3
