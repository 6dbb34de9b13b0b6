import inspect
from functools import partial

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.components import recombination
from bspec_jax.components.recombination import (
    fit_gains,
    perturb_components,
    recombine,
    remainder,
)

M, N, H, W, C = 3, 4, 5, 6, 2


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    residual = rng.normal(size=(N, H, W, C)).astype(np.float32)
    components = rng.normal(size=(M, N, H, W, C)).astype(np.float32)
    region = rng.random((N, H, W)) < 0.4
    return residual, components, region


def by_loop(residual, components, gains, region):
    """The formula, pixel by pixel, with a gain for each image."""
    found = np.zeros(residual.shape)
    for n, i, j in np.ndindex(N, H, W):
        value = residual[n, i, j].astype(float)
        for k in range(M):
            gain = gains[k, n] if region[n, i, j] else 1
            value = value + gain * components[k, n, i, j]
        found[n, i, j] = value
    return found


def test_recombine_is_the_formula(images):
    residual, components, region = images
    gains = np.array([0.0, 2.5, -1.0], np.float32)
    of_each = gains[:, None].repeat(N, 1)
    everywhere = np.ones_like(region)
    found = recombine(residual, components, gains)
    assert_allclose(
        found, by_loop(residual, components, of_each, everywhere), atol=1e-5
    )
    found = recombine(residual, components, gains, region)
    assert_allclose(found, by_loop(residual, components, of_each, region), atol=1e-5)
    of_each = np.random.default_rng(1).normal(size=(M, N)).astype(np.float32)
    found = recombine(residual, components, of_each, region)
    assert_allclose(found, by_loop(residual, components, of_each, region), atol=1e-5)


def test_outside_the_region_nothing_changes_at_all(images):
    residual, components, region = images
    x = np.asarray(recombine(residual, components, np.ones(M, np.float32)))
    edited = np.asarray(
        recombine(residual, components, np.array([3, 0, 1], np.float32), region)
    )
    assert_array_equal(edited[~region], x[~region])
    assert (edited[region] != x[region]).all()


def test_with_the_remainder_gains_of_one_give_the_image(images):
    x, components, _ = images
    residual = remainder(x, components)
    assert_allclose(recombine(residual, components, np.ones(M)), x, atol=1e-5)


def test_perturbations_have_the_mean_and_the_variance_of_the_formula(images):
    residual, components, _ = images
    scale, draws = 0.3, 4000
    keys = jax.random.split(jax.random.key(0), draws)
    found = np.asarray(
        jax.lax.map(
            lambda key: perturb_components(key, residual, components, scale), keys
        )
    )
    mean, deviation = (
        residual + components.sum(0),
        scale * np.sqrt((components**2).sum(0)),
    )
    # Five standard errors, over all pixels.
    assert (np.abs(found.mean(0) - mean) < 5 * deviation / np.sqrt(draws)).all()
    assert_allclose(found.std(0), deviation, rtol=5 / np.sqrt(2 * draws))


def test_perturbations_of_images_and_components_are_independent(images):
    residual, components, _ = images
    ones = np.ones_like(components)
    zero = np.zeros_like(residual)
    key = jax.random.key(3)
    alone = [
        np.asarray(
            perturb_components(
                key, zero, ones * (np.arange(M) == k)[:, None, None, None, None], 1.0
            )
        )
        for k in range(M)
    ]
    factors = np.stack([one[:, 0, 0, 0] for one in alone])  # [M, N]
    assert len(np.unique(factors.round(5))) == M * N
    for one in alone:  # the same over an image
        assert_allclose(one, one[:, :1, :1, :1].repeat(H, 1).repeat(W, 2).repeat(C, 3))


def test_the_same_key_gives_the_same_images(images):
    residual, components, _ = images
    one, again, other = (
        perturb_components(jax.random.key(seed), residual, components, 0.5)
        for seed in (0, 0, 1)
    )
    assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_fitted_gains_are_those_that_made_the_target(images):
    residual, components, region = images
    gains = np.array([0.2, 0.9, 0.55])
    target = np.array(recombine(residual, components, gains))
    assert_allclose(fit_gains(residual, components, target), gains, atol=1e-5)
    target[~region] = 7  # which must not count
    found = fit_gains(residual, components, target, region)
    assert_allclose(found, gains, atol=1e-5)


def test_fitted_gains_keep_to_0_and_1_and_are_the_best_that_do(images):
    residual, components, _ = images
    # Not orthogonal: clipping what is best without bounds would not do.
    components = components + 0.7 * components[[1, 2, 0]]
    target = np.asarray(recombine(residual, components, np.array([-0.5, 1.5, 0.4])))
    found = fit_gains(residual, components, target)

    def error(gains):
        return ((recombine(residual, components, gains) - target) ** 2).sum()

    grid = np.linspace(0, 1, 21)
    best = min(
        ((a, b, c) for a in grid for b in grid for c in grid),
        key=lambda gains: error(np.array(gains)),
    )
    assert_allclose(found, best, atol=0.051)
    assert_allclose([found.min(), found.max()], [0, 1], atol=1e-9)
    assert found.min() >= 0
    assert found.max() <= 1
    assert error(found) <= error(np.array(best)) * (1 + 1e-6)


def test_a_component_that_is_zero_keeps_its_gain(images):
    residual, components, _ = images
    components = components.copy()
    components[1] = 0
    target = np.asarray(recombine(residual, components, np.array([0.3, 0.0, 0.8])))
    assert_allclose(fit_gains(residual, components, target), [0.3, 1, 0.8], atol=1e-5)


def test_where_nothing_counts_no_gain_is_changed(images):
    residual, components, region = images
    found = fit_gains(residual, components, residual, np.zeros_like(region))
    assert_array_equal(found, np.ones(M))
    region = np.zeros_like(region)
    region[0, 0, 0] = True  # fewer pixel values than components
    target = np.asarray(recombine(residual, components, np.array([0.3, 1.0, 0.8])))
    found = fit_gains(residual, components, target, region)
    made = np.asarray(recombine(residual, components, found))
    assert_allclose(made[region], target[region], atol=1e-5)


def test_gains_that_are_not_the_best_are_said(images, monkeypatch):
    residual, components, _ = images
    # Strongly correlated, with a tolerance and a number of steps too few for them.
    components = components + 0.7 * components[[1, 2, 0]]
    target = np.asarray(recombine(residual, components, np.array([-0.5, 1.5, 0.4])))
    hasty = partial(recombination.lsq_linear, max_iter=1)
    monkeypatch.setattr(recombination, "lsq_linear", hasty)
    with pytest.warns(RuntimeWarning, match="^the gains are not the best: .*iteration"):
        fit_gains(residual, components, target)


def test_images_of_another_unit_or_shape_are_refused(images):
    residual, components, region = images
    call = inspect.unwrap(recombine)
    ones = np.ones(M, np.float32)
    as_bytes = np.uint8(100 * residual.clip(0, 1))
    for wrong, message in (
        ((as_bytes, components, ones), "must be floats, as in -1..1, got uint8"),
        ((residual, np.int32(components), ones), "must be floats"),
        ((residual[:1], components, ones), r"\[M, \*images.shape\]"),
        ((residual, components[:1], ones), r"`gains` must be \[M\] or \[M, N\]"),
        ((residual, components, ones[:1]), "`gains` must be"),
        ((residual, components, np.ones((N, M))), "`gains` must be"),
        ((residual, components, ones, region * 1.0), "`region` must be boolean"),
        ((residual, components, ones, region[:1]), "`region` must be boolean, of sh"),
    ):
        with pytest.raises(ValueError, match=message):
            call(*wrong)
    for wrong in (as_bytes, residual[:1]):
        with pytest.raises(ValueError, match="images"):
            inspect.unwrap(remainder)(wrong, components)
        with pytest.raises(ValueError, match="images"):
            inspect.unwrap(fit_gains)(residual, components, wrong)
    broken = residual.copy()
    broken[0, 1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        fit_gains(residual, components, broken)
