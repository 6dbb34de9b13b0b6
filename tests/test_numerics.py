"""Also properties of every public measure: NaN stay NaN, strict JAX settings."""

from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import numerics, toys
from bspec_jax.analysis import (
    gradients,
    hessian,
    hessian_estimates,
    statistics,
)
from bspec_jax.analysis import hessian_measures as hm
from bspec_jax.analysis import specialization as sp
from bspec_jax.analysis.averages import average
from bspec_jax.analysis.objective import Objective, frozen_responses
from bspec_jax.analysis.vanishing import (
    FactorScales,
    factor_scales,
    vanishing_shares,
)
from bspec_jax.branching import from_functions, sum_of_branches
from bspec_jax.components import measures as pictures
from bspec_jax.components.chan_vese import chan_vese
from bspec_jax.components.recombination import perturb_components, recombine
from bspec_jax.conv import conv
from bspec_jax.data import augmentation
from bspec_jax.losses import classification_loss, squared_error
from bspec_jax.toys import hessians, measures, sweeps

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def symmetric(m, p):
    half = draw(m, p, m, p)
    return half + half.transpose(2, 3, 0, 1)


V = draw(3, 4, 2) * np.array([1, 0.5, 0.01], np.float32)[:, None, None]
MASKS = np.zeros((2, 12, 12), bool)
MASKS[:, 2:5, 3:9] = True
ACTIVE = np.array([True, True, False])
TWO = from_functions(
    lambda key: jax.random.normal(key, (2, 3)), lambda w, x: jnp.tanh(x @ w)
)
NETWORK = sum_of_branches(TWO, 3)
PARAMS, _ = NETWORK.init(jax.random.key(0))
RESPOND = frozen_responses(NETWORK, ())
X, D = jnp.asarray(draw(4, 2)), jnp.asarray(draw(4, 3))
# So large that all factors but one are small.
SCALES = FactorScales(*map(jnp.float32, (9.0, 5.0, 90.0)))
STEP = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
H = np.einsum("kp,lq->kplq", STEP, STEP) + np.eye(6, dtype="f").reshape(3, 2, 3, 2)
LAYER, FEATURES = draw(2, 3, 3, 1), draw(4, 2)
IMAGES = jnp.asarray(draw(2, 4, 4, 1))
BYTES = RNG.integers(0, 256, (2, 4, 4, 2), np.uint8)


def trials(w):
    table = sweeps.settings(
        task="toy2", num_branches=3, learning_rate=0.02, trial=range(2)
    )
    made = sweeps.init_trials(jax.random.key(0), table)
    made = made._replace(w=np.pad(w, ((0, 1), (0, 0))))
    with np.errstate(invalid="ignore"):
        v = measures.trial_responses(made)
        return made._replace(error=((v.sum(1) - made.y.T) ** 2).sum(-1))


def jitted(function):
    """For what is jittable, and quicker so."""
    compiled = jax.jit(function)
    return lambda x: compiled(x)


def scalars(measured):
    return tuple(measured) + tuple(measured.branches)


# Of one array, and the entry that becomes NaN or infinite.
MEASURES = {
    "norms": (jitted(sp.response_norms), V, (1, 2, 0)),
    "covariance": (jitted(sp.covariance), V, (1, 2, 0)),
    "centred": (jitted(sp.centred), V, (1, 2, 0)),
    "activity": (jitted(sp.activity), V, (2, 3, 1)),
    "null correlation": (
        jitted(lambda v: sp.null_correlation(v, jax.random.key(0), rule="centred")),
        V,
        (1, 2, 0),
    ),
    "correlation": (jitted(lambda v: sp.correlation(sp.covariance(v))), V, (0, 1, 1)),
    "of variances": (jitted(sp.correlation), draw(3, 3) + 9 * np.eye(3), (1, 1)),
    "mean correlation": (
        jitted(lambda rho: sp.mean_correlation(rho, ACTIVE)),
        draw(3, 3) / 9,
        (0, 1),
    ),
    "index": (jitted(sp.specialization_index), draw(3, 3) + 4 * np.eye(3), (0, 2)),
    "index's diagonal": (jitted(sp.specialization_index), 4 * np.eye(3) + 1, (1, 1)),
    "energy": (jitted(sp.example_energy), V, (1, 2, 0)),
    "region energy": (
        jitted(lambda v: sp.region_energy(v, np.array([1, 0, 1, 0]), 2)),
        V,
        (1, 2, 0),
    ),
    "entropy": (jitted(sp.region_entropy), draw(3, 4) ** 2, (2, 1)),
    "measure": (jitted(lambda v: scalars(sp.measure(v))), V, (2, 3, 1)),
    "measure by variance": (
        jitted(lambda v: scalars(sp.measure(v, rule="variance"))),
        V,
        (0, 0, 0),
    ),
    "measure of the centred": (
        jitted(lambda v: scalars(sp.measure(v, rule="centred"))),
        V,
        (0, 0, 0),
    ),
    "measure of energy": (
        jitted(lambda energy: scalars(sp.measure(V, energy=energy))),
        draw(3, 5) ** 2,
        (1, 4),
    ),
    "mean": (statistics.mean_interval, draw(2, 5), (1, 2)),
    "rate": (statistics.rate_interval, np.array([[0.0, 1, 1], [1, 1, 0]]), (1, 0)),
    "ranks": (
        lambda a: statistics.rank_correlation(a, [0, 1, 2, 0, 1]),
        np.array([-1.0, 2.0, 0.1, 0.3, 1.0]),
        0,
    ),
    "block norms": (jitted(hm.block_norms), symmetric(3, 2), (1, 0, 2, 1)),
    "block measures": (jitted(hm.block_measures), symmetric(3, 2), (1, 0, 2, 1)),
    "block measures' own": (jitted(hm.block_measures), symmetric(3, 2), (1, 0, 1, 0)),
    "block index": (
        jitted(lambda norms: hm.block_index(norms, ACTIVE)),
        draw(3, 3) ** 2,
        (0, 1),
    ),
    "step effect": (
        jitted(lambda h: hm.step_effect(h, STEP, ACTIVE)),
        H,
        (1, 0, 0, 1),
    ),
    "step's gradient": (
        jitted(lambda g: hm.step_effect(H, g)),
        STEP,
        (1, 0),
    ),
    "branch spectra": (hm.branch_spectra, symmetric(2, 3), (1, 2, 1, 0)),
    "spectrum": (hm.spectrum, symmetric(2, 3), (1, 2, 1, 0)),
    "ratio": (jitted(hm.offdiagonal_ratio), draw(3, 3) ** 2, (1, 1)),
    "pair ratio": (jitted(hm.mean_pair_ratio), draw(3, 3) ** 2, (1, 1)),
    "pair ratio's pair": (jitted(hm.mean_pair_ratio), draw(3, 3) ** 2, (0, 2)),
    "D_collab's scale": (jitted(gradients.collaborative_scale), D, (1, 0)),
    "D_collab's shares": (
        jitted(lambda d: gradients.collaborative_shares(d, 9.0)),
        D,
        (1, 0),
    ),
    "shares' scale": (
        jitted(lambda s: gradients.collaborative_shares(D, s)),
        np.array(9.0, np.float32),
        (),
    ),
    "J's norms": (
        jitted(lambda x: gradients.distributive_norms(RESPOND, PARAMS, x)),
        X,
        (2, 1),
    ),
    "J's scale": (
        jitted(lambda x: gradients.distributive_scale(RESPOND, PARAMS, x)),
        X,
        (2, 1),
    ),
    "J's shares": (
        jitted(lambda x: gradients.distributive_shares(RESPOND, PARAMS, x, 9.0)),
        X,
        (2, 1),
    ),
    "vanishing": (
        jitted(lambda d: vanishing_shares(RESPOND, PARAMS, X, d, SCALES)),
        D,
        (1, 0),
    ),
    "vanishing at inputs": (
        jitted(lambda x: vanishing_shares(RESPOND, PARAMS, x, D, SCALES)),
        X,
        (2, 1),
    ),
    "factors' scales": (
        jitted(lambda x: factor_scales(RESPOND, PARAMS, x, D)),
        X,
        (2, 1),
    ),
    "alignment": (
        jitted(lambda d: gradients.alignment_histogram(RESPOND, PARAMS, X, d)),
        D,
        (0, 1),
    ),
    "gradient": (
        jitted(
            lambda d: gradients.gradient(
                gradients.distributive_factor(RESPOND, PARAMS, X), d
            )
        ),
        D,
        (0, 1),
    ),
    "psnr": (
        lambda x: pictures.psnr(x, np.full_like(x, 0.1)),
        draw(2, 4, 4, 1) / 9,
        (1, 2, 2, 0),
    ),
    "psnr inside": (
        lambda x: pictures.psnr_inside(x, np.full_like(x, 0.1), MASKS),
        draw(2, 12, 12, 2) / 9,
        (1, 3, 4, 0),
    ),
    "psnr outside": (
        lambda x: pictures.psnr_inside(x, np.full_like(x, 0.1), MASKS),
        draw(2, 12, 12, 2) / 9,
        (1, 0, 0, 0),
    ),
    "ssim": (
        lambda x: pictures.ssim(x, np.full_like(x, 0.1)),
        draw(2, 12, 12, 1) / 9,
        (1, 0, 0, 0),
    ),
    "variation": (pictures.total_variation, draw(2, 4, 4, 1), (1, 2, 2, 0)),
    "roughness": (pictures.roughness, draw(2, 2, 4, 4, 1), (1, 0, 2, 2, 0)),
    "enrichment": (
        lambda v: pictures.part_enrichment(v, MASKS),
        draw(2, 2, 12, 12, 1),
        (1, 0, 0, 0, 0),
    ),
    "energy share": (
        lambda x: pictures.energy_share(x, MASKS),
        draw(2, 12, 12, 1),
        (1, 3, 4, 0),
    ),
    "layer correlation": (
        lambda v: pictures.layer_correlation(v, LAYER),
        draw(2, 2, 3, 3, 1),
        (1, 0, 1, 1, 0),
    ),
    "frechet": (
        lambda x: pictures.frechet_distance(x, FEATURES),
        draw(5, 2),
        (3, 1),
    ),
    "trials": (lambda w: measures.measure_trials(trials(w)), draw(3, 2), (1, 1)),
    "trials' Hessians": (
        lambda w: hessians.measure(trials(w))[1]._replace(
            defined=None, converged=None, scales=None
        ),
        draw(3, 2),
        (1, 1),
    ),
    "growth": (
        lambda mean: measures.active_growth([2, 8], mean)["ratio"],
        np.array([1.5, 3.0]),
        1,
    ),
    "average": (
        lambda entropy: average(
            sp.Specialization(*[np.ones(3)] * 3, entropy, *[np.ones(3)] * 5)
        )["entropy"],
        np.array([0.2, 0.4, 0.9]),
        1,
    ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_what_depends_on_what_is_not_finite_is_not(name):
    """What changes with an entry is NaN (or infinite) if the entry is."""
    function, array, index = MEASURES[name]
    array = np.array(array, np.float64 if isinstance(index, int) else np.float32)

    def values(entry):
        changed = array.copy()
        changed[index] = entry
        return [np.asarray(leaf, float) for leaf in jax.tree.leaves(function(changed))]

    zero_or_one = set(np.unique(array)) <= {0, 1}
    other = 1 - array[index] if zero_or_one else 37 * (1 + np.abs(array[index]))
    if name in ("psnr", "psnr inside", "psnr outside", "ssim"):
        other = 0.9
    before, after = values(array[index]), values(other)
    depends = [~np.isclose(a, b, rtol=1e-5) for a, b in zip(before, after, strict=True)]
    assert all(np.isfinite(leaf).all() for leaf in before)
    assert any(d.any() for d in depends) == (name != "psnr outside")
    for entry in (np.nan, np.inf, -np.inf):
        found = values(entry)
        for leaf, changes, was in zip(found, depends, before, strict=True):
            assert not np.isfinite(leaf[changes]).any(), (entry, leaf)
            still = np.isfinite(leaf)
            assert_allclose(leaf[still], was[still], rtol=1e-5)
        if name.startswith("measure") and name != "measure of energy":
            assert all(np.isnan(leaf).all() for leaf in found)


def test_0_over_0_is_0_and_nothing_else_is():
    n = jnp.array([0.0, 1.0, jnp.nan, 0.0, jnp.inf, 3.0])
    d = jnp.array([0.0, 0.0, 0.0, jnp.nan, jnp.inf, 2.0])
    nan, inf = np.nan, np.inf
    assert_array_equal(numerics.ratio(n, d), [0, inf, nan, nan, nan, 1.5])
    assert jax.grad(numerics.ratio, (0, 1))(0.0, 0.0) == (1, 0)
    x = jnp.array([1.0, jnp.inf, -jnp.inf, jnp.nan, -2.0])
    assert_array_equal(numerics.nan_unless_finite(x), [1, nan, nan, nan, -2])


def test_nan_in_many_values_at_once(optimised):
    """XLA's maximum drops NaN where a CPU computes several at a time."""
    many = jnp.ones((100_000, 4)).at[3, 1].set(jnp.nan)
    assert_array_equal(numerics.largest(many, 0), [1, np.nan, 1, 1])
    assert np.isnan(numerics.largest(many))
    assert np.isnan(sp.measure(many.T).num_active)
    x = jnp.ones((64, 64)).at[3, 5].set(jnp.nan).at[7, 9].set(-jnp.inf)
    found = jax.jit(numerics.largest, static_argnums=1)(x, 1)
    assert_array_equal(np.flatnonzero(np.isnan(found)), [3, 7])
    assert np.isnan(jax.jit(numerics.largest)(x))
    loss = jax.jit(classification_loss)(x, jnp.zeros(64, int))
    assert_array_equal(np.flatnonzero(np.isnan(loss)), [3])  # the clamp takes inf
    rho = jax.jit(sp.correlation)(jnp.eye(64).at[3, 5].set(jnp.nan))
    assert_array_equal(np.argwhere(np.isnan(rho)), [[3, 5]])


def test_counts_are_whole_numbers():
    assert numerics.check_count("n", np.int8(3)) == 3
    for wrong in (True, np.True_, 2.0, "2", None, jnp.ones(2, int)):
        with pytest.raises(ValueError, match="n must be a whole number, got"):
            numerics.check_count("n", wrong)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        numerics.check_count("n", 0)


def objective(dtype=np.float32):
    return Objective(RESPOND, squared_error, X.astype(dtype), D.astype(dtype))


STRICT = {
    **{
        name: lambda c=case: c[0](c[1].astype(np.float32))
        for name, case in MEASURES.items()
    },
    "active": lambda: sp.active_branches(V),
    "active in regions": lambda: sp.active_in_regions(V[..., 0] ** 2),
    "dense": lambda: hessian.dense(objective(), PARAMS),
    "blocks": lambda: hessian.blocks(objective(), PARAMS, branches=[2, 0]).full(),
    "operator": lambda: hessian.operator(objective(), PARAMS)(PARAMS),
    "repeatable": lambda: hessian.check_repeatable(
        objective(), PARAMS, jax.random.key(0)
    ),
    "hutchinson": lambda: hessian_estimates.block_norms(
        objective(), PARAMS, jax.random.key(0), probes=2, chunk_size=3
    ),
    "lanczos": lambda: hessian_estimates.lanczos_spectra(
        objective(), PARAMS, jax.random.key(0), num_products=3
    ),
    "short floats": lambda: hessian.blocks(
        objective(jnp.bfloat16), PARAMS.astype(jnp.bfloat16)
    ).full(),
    "D_collab": lambda: gradients.collaborative_factor(
        lambda f: squared_error(f, D), jnp.asarray(D)
    ),
    "classes": lambda: jax.grad(
        lambda f: classification_loss(f, np.array([0, 2, 1, 1], np.uint8)).sum()
    )(jnp.asarray(D)),
    "conv": lambda: jax.grad(lambda k: (conv(IMAGES, k) ** 2).sum())(
        jnp.ones((3, 2, 1, 2))
    ),
    "conv of a sum": lambda: jax.grad(
        lambda k: (jax.vmap(conv, (None, 0))(IMAGES, k) ** 2).sum()
    )(jnp.ones((3, 3, 2, 1, 2))),
    "training": lambda: sweeps.train(trials(draw(3, 2)), steps=20, check_every=10),
    "recorded": lambda: toys.record(
        {"w": jnp.ones(3), "b": jnp.ones(3)},
        *map(np.array, toys.TASKS["toy2"]),
        steps=4,
        every=2,
    ),
    "curves": lambda: measures.response_curves(V[:, 0, 0], V[:, 1, 1], 0.1, -1.0, 1.0),
    "normalised": lambda: augmentation.normalise(jnp.asarray(BYTES), V[0, 0], V[1, 0]),
    "augmented": lambda: augmentation.augment(jax.random.key(0), jnp.asarray(BYTES)),
    "resized": lambda: augmentation.random_resized_crop(jax.random.key(0), IMAGES),
    "recombined": lambda: recombine(
        IMAGES, jnp.stack([IMAGES, -IMAGES]), V[:2, 0, 0], IMAGES[..., 0] > 0
    ),
    "perturbed": lambda: perturb_components(
        jax.random.key(0), IMAGES, jnp.stack([IMAGES, -IMAGES]), 0.1
    ),
    "segmented": lambda: chan_vese(BYTES[..., 0], IMAGES[..., 0] > 0).surface,
    "one example a unit": lambda: sum(
        squared_error(RESPOND(PARAMS, jnp.asarray(x)).sum(0), d)
        for x, d in zip(X, D, strict=True)
    ),
}


@pytest.mark.parametrize("name", STRICT)
def test_no_promotion_of_ranks_or_types_and_no_nan_on_the_way(name):
    with ExitStack() as settings:
        settings.enter_context(jax.numpy_rank_promotion("raise"))
        settings.enter_context(jax.numpy_dtype_promotion("strict"))
        settings.enter_context(jax.debug_nans(True))
        found = STRICT[name]()
    expected = STRICT[name]() if not name.startswith(("train", "conv")) else found
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        if np.issubdtype(np.asarray(one).dtype, np.number):
            assert np.isfinite(np.asarray(one, float)).all()
            assert_allclose(one, other, rtol=1e-4, atol=1e-5)
