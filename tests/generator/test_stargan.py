import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax.generator import stargan
from bspec_jax.generator.diffusion import Velocity
from bspec_jax.generator.stargan import AdaIN, Block, Discriminator, Generator


def count(module, size, channels=3):
    x = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), int)
    more = (labels,) if isinstance(module, Generator) else ()
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, *more)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("name", "size", "channels", "of_branch", "of_discriminator", "of_velocity"),
    [
        ("paper256", 256, 3, 2_229_603, 20_852_803, 40_515),
        ("small64", 64, 3, 119_475, 714_515, 12_491),
        ("small32", 32, 1, 34_209, 177_075, 11_913),
        ("tiny", 16, 3, 1_621, 2_815, 2_313),
    ],
)
def test_parameters_of_the_presets(
    name, size, channels, of_branch, of_discriminator, of_velocity
):
    preset = stargan.PRESETS[name]
    branch = Generator(preset.base, preset.most, 3)
    judge = Discriminator(preset.discriminator_base, preset.discriminator_most, 3)
    assert count(branch, size, channels) == of_branch
    assert count(judge, size, channels) == of_discriminator
    assert count(Velocity(preset.velocity), size, channels) == of_velocity


def test_the_original_has_the_published_size():
    """StarGAN-v2's generator has 33.9 M parameters (its paper's table 7)."""
    assert 33.8e6 < count(Generator(64, 512, 3), 256) < 34e6


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3), (64, 1)])
def test_shapes_and_classes(size, channels):
    module = Generator(2, 4, 3)
    x = jax.random.normal(jax.random.key(0), (2, size, size, channels))
    params = jax.jit(module.init)(jax.random.key(1), x, jnp.array([0, 1]))
    apply = jax.jit(module.apply)
    out = apply(params, x, jnp.array([0, 1]))
    assert out.shape == x.shape
    other = apply(params, x, jnp.array([0, 2]))
    assert_allclose(out[0], other[0], rtol=1e-5, atol=1e-6)
    assert np.abs(out[1] - other[1]).max() > 1e-2  # the class changes the image
    judge = Discriminator(2, 4, 3)
    logits, _ = jax.jit(judge.init_with_output)(jax.random.key(2), x)
    assert logits.shape == (2, 3)


def test_images_must_be_squares_of_a_power_of_two():
    for shape in ((1, 24, 24, 3), (1, 16, 32, 3), (1, 8, 8, 3)):
        with pytest.raises(ValueError, match="squares of 16 pixels times a power"):
            stargan.depth_of(shape, 16)
    assert stargan.depth_of((1, 256, 256, 3), 16) == 4
    assert stargan.depth_of((1, 256, 256, 3), 4) == 6


def test_instance_norm_takes_each_image_and_channel_alone():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    found = np.asarray(stargan.instance_norm(x))
    a = np.asarray(x)[1, :, :, 2]
    expected = (a - a.mean()) / np.sqrt(a.var() + 1e-5)
    assert_allclose(found[1, :, :, 2], expected, rtol=1e-4, atol=1e-5)
    # In bfloat16 the mean is still taken in float32.
    short = stargan.instance_norm((100 + x).astype(jnp.bfloat16))
    assert short.dtype == jnp.bfloat16
    assert abs(float(short.astype(jnp.float32).mean())) < 1e-2


def test_derivatives_of_instance_norm_are_those_of_the_plain_formula(x64):
    def plain(x):
        centred = x - x.mean((1, 2), keepdims=True)
        variance = (centred**2).mean((1, 2), keepdims=True)
        return centred / jnp.sqrt(variance + stargan.EPSILON)

    x, dx, ct = jax.random.normal(jax.random.key(0), (3, 2, 4, 3, 2), float)
    for order in (1, 2):

        def derivatives(norm, order=order):
            def slope(x):
                return jax.vjp(norm, x)[1](ct)[0]

            f = norm if order == 1 else slope
            return *jax.jvp(f, (x,), (dx,)), jax.vjp(f, x)[1](ct)[0]

        for found, right in zip(
            derivatives(stargan.instance_norm), derivatives(plain), strict=True
        ):
            assert_allclose(found, right, rtol=1e-11, atol=1e-12)


def test_adain_is_affine_in_the_style():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    style = jax.random.normal(jax.random.key(1), (2, 5))
    params = AdaIN().init(jax.random.key(2), x, style)
    kernel, bias = (params["params"]["Dense_0"][k] for k in ("kernel", "bias"))
    both = style @ kernel + bias
    scale, shift = both[:, None, None, :3], both[:, None, None, 3:]
    expected = (1 + scale) * stargan.instance_norm(x) + shift
    assert_allclose(AdaIN().apply(params, x, style), expected, rtol=1e-5, atol=1e-5)


def plain_conv(x, params):
    dims = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=dims
    )
    return y + params.get("bias", 0)


def leaky(x):
    return jnp.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("resize", ["half", "double"])
def test_a_block_is_that_of_the_paper(resize):
    """Resized after the shortcut's convolution of 1 x 1, which here comes first."""
    norm = "none" if resize == "half" else "instance"
    block = Block(5, norm, resize)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    p = variables["params"]

    def change(x):
        if resize == "double":
            return jnp.kron(x, jnp.ones((1, 2, 2, 1)))
        return x.reshape(2, 4, 2, 4, 2, -1).mean((2, 4))

    def normed(x):
        return x if norm == "none" else stargan.instance_norm(x)  # scale 1, bias 0

    y = leaky(normed(x))
    y = (
        plain_conv(change(y), p["Conv_0"])
        if resize == "double"
        else change(plain_conv(y, p["Conv_0"]))
    )
    y = plain_conv(leaky(normed(y)), p["Conv_1"])
    expected = (change(plain_conv(x, p["shortcut"])) + y) / np.sqrt(2)
    assert_allclose(block.apply(variables, x), expected, rtol=1e-4, atol=1e-4)
