import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import convolve, gaussian_filter

from bspec_jax.generator import diffusion


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(0), (2, 12, 12, 3), minval=-1.0)


def velocity(key, images):
    module = diffusion.Velocity()
    params = jax.jit(module.init)(key, images)
    return params, module


def test_the_velocity_has_the_papers_parameters(images):
    params, _ = velocity(jax.random.key(1), images)
    assert count(params) == 40_515


@pytest.mark.parametrize(("steps", "step"), [(1, 0.1), (4, 0.7), (9, 0.02)])
def test_residual_and_components_add_up_to_the_image(images, steps, step):
    params, module = velocity(jax.random.key(2), images)
    p = lambda u: module.apply(params, u)  # noqa: E731
    found = diffusion.diffuse(p, images, steps, step)
    total = found.residual + found.components.sum(0)
    largest = jnp.abs(found.components).max() + jnp.abs(found.residual).max()
    assert_allclose(total, images, atol=4e-7 * float(largest) * steps)
    assert float(jnp.abs(found.components).max()) > 1e-3


def test_it_is_the_loop_of_the_paper(images):
    p = lambda u: jnp.sin(2 * u) + 0.1 * u**2  # noqa: E731
    steps, step = 3, 0.2
    u, values = [images], []
    for _ in range(steps):
        values.append(p(u[-1]))
        u.append(u[-1] - step * values[-1])
    values.append(p(u[-1]))
    found = diffusion.diffuse(p, images, steps, step)
    for k in (1, 2, 3):
        # t u_tt by differences of u_t = -p, times the step.
        u_tt = -(values[k] - values[k - 1]) / step
        assert_allclose(found.components[k - 1], step * k * step * u_tt, atol=1e-6)
    assert_allclose(found.residual, u[-1] + steps * step * values[-1], atol=1e-6)


@pytest.mark.slow
def test_the_gradient_of_p_is_that_of_the_whole_identity(images):
    """However p is trained, the parts add up: also after some steps on them."""
    params, module = velocity(jax.random.key(3), images)

    def decompose(params):
        return diffusion.diffuse(lambda u: module.apply(params, u), images, 5, 0.1)

    def loss(params):  # a smooth residual, by its total variation
        r = decompose(params).residual
        return sum(jnp.abs(jnp.diff(r, axis=axis)).mean() for axis in (1, 2))

    optimizer = optax.adam(1e-3)
    state = optimizer.init(params)

    @jax.jit
    def update(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    first = None
    for _ in range(20):
        params, state, value = update(params, state)
        first = value if first is None else first
    assert value < 0.9 * first
    found = decompose(params)
    assert_allclose(found.residual + found.components.sum(0), images, atol=2e-6)


def test_no_motion_and_constant_motion(images):
    still = diffusion.diffuse(jnp.zeros_like, images, 3, 0.5)
    assert_allclose(still.residual, images)
    assert_allclose(still.components, jnp.zeros((3, *images.shape)))
    steady = diffusion.diffuse(jnp.ones_like, images, 3, 0.5)
    assert_allclose(steady.components, jnp.zeros((3, *images.shape)))
    assert_allclose(steady.residual, images, atol=1e-6)


def test_spectrum():
    components = jnp.arange(-12.0, 12.0).reshape(2, 3, 1, 2, 2)
    expected = np.abs(np.arange(-12.0, 12.0)).reshape(2, 3, 4).sum(-1) / 0.5
    assert_allclose(diffusion.spectrum(components, 0.5), expected)


def test_the_blur_is_scipys():
    images = jax.random.normal(jax.random.key(5), (2, 11, 14, 3))
    expected = gaussian_filter(np.asarray(images), (0, 2.5, 2.5, 0))
    assert_allclose(diffusion.blur(images, 2.5), expected, atol=1e-6)
    impulse = jnp.zeros((1, 21, 21, 1)).at[0, 10, 6].set(1.0)
    found = diffusion.blur(impulse, 1.5)
    assert_allclose(found.sum(), 1.0, rtol=1e-6)
    # One pixel off against the centre: exp(-1 / (2 sigma^2)).
    ratio = found[0, 10, 7, 0] / found[0, 10, 6, 0]
    assert_allclose(ratio, np.exp(-1 / (2 * 1.5**2)), rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_p_starts_as_heat_flow(channels):
    images = jax.random.uniform(jax.random.key(6), (2, 12, 10, channels), minval=-1.0)
    params, module = velocity(jax.random.key(7), images)
    blurred = np.asarray(images, np.float64)
    kernel = np.outer((1, 2, 1), (1, 2, 1))[None, :, :, None] / 16
    for _ in range(7):
        blurred = convolve(blurred, kernel)
    assert_allclose(module.apply(params, images), images - blurred, atol=1e-5)
    # The residual is smoother than the image, and constants stay as they are.
    found = diffusion.diffuse(lambda u: module.apply(params, u), images, 5, 1.0)
    assert np.abs(np.diff(found.residual, axis=2)).mean() < 0.5 * (
        np.abs(np.diff(images, axis=2)).mean()
    )
    assert_allclose(module.apply(params, 0 * images + 0.7), 0 * images, atol=1e-5)
    # Other keys differ in the channels that are still to be used.
    others, _ = velocity(jax.random.key(8), images)
    first, second = (p["params"]["Conv_0"]["kernel"] for p in (params, others))
    assert_allclose(first[..., : 2 * channels], second[..., : 2 * channels])
    assert np.abs(first - second)[..., 2 * channels :].min() > 0


@pytest.mark.slow
def test_all_of_p_is_learnt(images):
    params, module = velocity(jax.random.key(3), images)

    def loss(params):
        r = diffusion.diffuse(lambda u: module.apply(params, u), images, 3, 1.0)
        return (r.residual**3).mean()

    params = jax.tree.map(
        lambda p: p + 1e-2 * jax.random.normal(jax.random.key(p.size), p.shape), params
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params)):
        assert (jnp.abs(leaf) > 0).mean() > 0.99, path
