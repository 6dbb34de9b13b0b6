import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax
from numpy.testing import assert_allclose
from typechecks import without_type_checks

from bspec_jax import conv


def reference(x, kernel, strides=(1, 1), padding="SAME"):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=conv.LAYOUT
    )


def over_branches(f, axes):
    """`f` for each branch; where an operand is shared, the first of it is taken."""

    def mapped(x, k):
        x, k = (a if axis == 0 else a[0] for a, axis in zip((x, k), axes, strict=True))
        return jax.vmap(f, axes)(x, k)

    return mapped


def in_a_loop(f, axes):
    def looped(x, k):
        indices = [[i if axis == 0 else 0 for axis in axes] for i in range(len(k))]
        return jnp.stack([f(x[i], k[j]) for i, j in indices])

    return looped


def derivatives(f):
    """Value, gradient, product with the Hessian, reverse over reverse."""

    def loss(x, k):
        y = f(x, k)
        return jnp.sum(jnp.tanh(y) * jnp.arange(1.0, 1 + y.size).reshape(y.shape))

    def all_of(x, k):
        gradient = jax.grad(loss, (0, 1))
        tangents = jnp.cos(x), jnp.sin(k)
        product = jax.jvp(gradient, (x, k), tangents)[1]
        twice = jax.grad(lambda *a: jnp.vdot(gradient(*a)[1], tangents[1]), (0, 1))
        return f(x, k), gradient(x, k), product, twice(x, k)

    return jax.jit(all_of)


@pytest.mark.slow
# Every example compiles: shrinking a failure would take many minutes.
@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    branches=st.integers(1, 3),
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["SAME", "VALID", ((1, 0), (0, 2)), ((2, 1), (0, 0))]),
    axes=st.sampled_from([(0, 0), (None, 0), (0, None)]),
    seed=st.integers(0, 99),
)
def test_it_equals_a_loop_over_branches(
    branches, size, kernel, strides, padding, axes, seed
):
    jax.config.update("jax_enable_x64", True)
    try:
        first, second = jax.random.split(jax.random.key(seed))
        x = jax.random.normal(first, (branches, 2, *size, 2))
        k = jax.random.normal(second, (branches, *kernel, 2, 3))
        pair = []
        for one, batch in ((conv.conv, over_branches), (reference, in_a_loop)):

            def f(x, k, one=one):
                return one(x, k, strides, padding)

            pair.append(derivatives(batch(f, axes))(x, k))
        jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-10), *pair)
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.fixture
def operands(x64):
    first, second = jax.random.split(jax.random.key(0))
    x = jax.random.normal(first, (3, 2, 5, 4, 2))
    return x, jax.random.normal(second, (3, 3, 2, 2, 1))


def test_the_whole_hessian(operands):
    x, k = operands

    def hessian(f):
        def loss(k):
            return jnp.sum(jnp.tanh(jax.vmap(f)(x, k)))

        return jax.jit(jax.hessian(loss))(k)

    assert_allclose(hessian(conv.conv), hessian(reference), atol=1e-11)


def test_nested_vmaps_scan_and_checkpoint(operands):
    x, k = operands

    def value(f):
        def loss(k):
            @jax.checkpoint
            def step(carry, scale):
                # Images of each trial, kernels of each branch.
                v = jax.vmap(jax.vmap(f, (None, 0)), (0, None))(x, k * scale)
                return carry + (v**2).sum(), None

            return lax.scan(step, 0.0, jnp.arange(1.0, 3.0))[0]

        return jax.jit(jax.value_and_grad(loss))(k)

    ours, expected = value(conv.conv), value(reference)
    assert_allclose(ours[0], expected[0], rtol=1e-12)
    assert_allclose(ours[1], expected[1], rtol=1e-10)


def test_eagerly_and_in_short_floats(operands):
    x, k = (a.astype(jnp.bfloat16) for a in operands)
    y = conv.conv(x[0], k[0])
    assert y.dtype == jnp.bfloat16
    assert_allclose(y.astype(float), reference(x[0], k[0]).astype(float), rtol=0.02)


def convolutions(function, *args):
    """How many convolutions the compiled program has, and their feature groups."""
    text = jax.jit(function).lower(*args).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    return ["feature_group_count = 1 " in line + " " for line in lines]


def test_one_dense_convolution_for_a_shared_input(operands):
    x, k = operands
    shared = jax.vmap(conv.conv, (None, 0))
    assert convolutions(shared, x[0], k) == [True]

    def kernel_gradient(k):
        return jax.grad(lambda k: (shared(x[0], k) ** 2).sum())(k)

    assert convolutions(kernel_gradient, k) == [True, True]
    assert convolutions(jax.vmap(conv.conv), x, k) == [True] * 3  # and on a CPU else
    assert convolutions(jax.vmap(reference), x, k) == [False]


def test_the_grouped_forms_of_other_platforms(operands):
    x, k = operands
    params = {"strides": (2, 1), "pads": ((1, 0), (0, 2))}
    y = conv.forward_p.bind(x, k, **params)
    ct = np.cos(np.arange(y.size)).reshape(y.shape)
    for primitive, form, pair, size in (
        (conv.forward_p, partial(conv._grouped, conv._forward), (x, k), {}),
        (
            conv.input_gradient_p,
            partial(conv._grouped, conv._input_gradient),
            (ct, k),
            {"size": x.shape[2:4]},
        ),
        (
            conv.kernel_gradient_p,
            conv._grouped_kernel_gradient,
            (x, ct),
            {"size": k.shape[1:3]},
        ),
    ):
        expected = primitive.bind(*pair, **params, **size)
        assert_allclose(form(*pair, **params, **size), expected, atol=1e-12)


def test_a_gpu_gets_the_convolutions_that_vmap_makes(operands):
    x, k = operands

    def groups(f):
        def gradient(x, k):
            return jax.grad(lambda *a: (jax.vmap(f)(*a) ** 2).sum(), (0, 1))(x, k)

        lowered = jax.jit(gradient).trace(x, k).lower(lowering_platforms=("cuda",))
        found = re.findall(r"(batch|feature)_group_count = (\d+)", lowered.as_text())
        return sorted(found)

    assert groups(conv.conv) == groups(reference)
    assert ("batch", "3") in groups(conv.conv)  # the kernel's gradient


def test_channels_that_do_not_fit():
    with pytest.raises(ValueError, match="x has 3 channels, but the kernel takes 2"):
        conv.conv(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 2, 5)))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (3, 3), "strides": (2, 1)},
        {"kernel_size": (3, 3), "padding": "VALID", "use_bias": False},
        {"kernel_size": (3, 3), "padding": 1},
        {"kernel_size": (3, 3), "kernel_dilation": (2, 1)},
        {"kernel_size": (3, 3), "feature_group_count": 2},
        {"kernel_size": (3,)},
    ],
)
def test_in_a_linen_layer(options):
    shape = (2, 6, 5, 4) if len(options["kernel_size"]) == 2 else (2, 6, 4)
    x = jax.random.normal(jax.random.key(0), shape)
    plain = nn.Conv(6, **options)
    ours = nn.Conv(6, conv_general_dilated=conv.conv_general_dilated, **options)
    params = plain.init(jax.random.key(1), x)
    assert_allclose(ours.apply(params, x), plain.apply(params, x), rtol=1e-5, atol=1e-6)
    primitives = str(jax.make_jaxpr(lambda x: ours.apply(params, x))(x))
    own = len(shape) == 4 and not {"kernel_dilation", "feature_group_count"} & set(
        options
    )
    assert ("branch_conv_forward" in primitives) == own


def test_transposes_are_adjoint(operands):
    """<conv(x, k), y> = <x, input_gradient(y, k)> = <k, kernel_gradient(x, y)>."""
    x, k = operands
    params = {"strides": (2, 1), "pads": ((1, 0), (0, 2))}
    y = conv.forward_p.bind(x, k, **params)
    ct = np.cos(np.arange(y.size)).reshape(y.shape)
    dx = conv.input_gradient_p.bind(ct, k, size=x.shape[2:4], **params)
    dk = conv.kernel_gradient_p.bind(x, ct, size=k.shape[1:3], **params)
    assert_allclose(jnp.vdot(y, ct), jnp.vdot(x, dx), rtol=1e-12)
    assert_allclose(jnp.vdot(y, ct), jnp.vdot(k, dk), rtol=1e-12)


EMPTY = {  # images, kernels, strides, padding
    "a kernel larger than the images": ((2, 2, 5, 2), (3, 3, 2, 3), (1, 1), "VALID"),
    "and strides": ((2, 2, 2, 2), (3, 3, 2, 3), (2, 3), "VALID"),
    "padding that is not enough": (
        (1, 1, 4, 1),
        (4, 2, 1, 2),
        (1, 1),
        ((1, 1), (0, 0)),
    ),
    "no images": ((0, 4, 4, 2), (3, 3, 2, 3), (1, 2), "SAME"),
    "no channels": ((2, 4, 4, 0), (3, 3, 0, 3), (1, 1), "SAME"),
    "no filters": ((2, 4, 4, 2), (3, 3, 2, 0), (1, 1), "VALID"),
    "no rows": ((2, 0, 4, 2), (3, 3, 2, 3), (1, 1), "SAME"),
}


@pytest.mark.parametrize(
    ("case", "axes"),
    [(case, (0, 0)) for case in EMPTY]
    + [("a kernel larger than the images", axes) for axes in ((None, 0), (0, None))],
)
def test_convolutions_of_nothing(case, axes, x64):
    shape, kernel, strides, padding = EMPTY[case]
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    k = jax.random.normal(jax.random.key(1), (2, *kernel))
    pair = [
        derivatives(over_branches(lambda x, k, f=f: f(x, k, strides, padding), axes))(
            x, k
        )
        for f in (conv.conv, reference)
    ]
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-12), *pair)
    assert pair[0][0].size == 0 or case == "no channels"


def test_dilated_convolutions_of_nothing():
    x, k = jnp.ones((2, 3, 3, 1)), jnp.ones((2, 2, 1, 2))

    def loss(x, k):
        options = {"rhs_dilation": (3, 3), "dimension_numbers": conv.LAYOUT}
        return conv.conv_general_dilated(x, k, (1, 1), "VALID", **options).sum()

    dx, dk = jax.grad(loss, (0, 1))(x, k)
    assert (dx.shape, dk.shape) == (x.shape, k.shape)
    assert not dx.any()
    assert not dk.any()


def test_no_branches():
    def batch(x, k):
        return jax.vmap(conv.conv)(x, k).sum()

    dx, dk = jax.grad(batch, (0, 1))(
        jnp.ones((0, 2, 4, 4, 1)), jnp.ones((0, 3, 3, 1, 2))
    )
    assert (dx.shape, dk.shape) == ((0, 2, 4, 4, 1), (0, 3, 3, 1, 2))


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((4, 4, 2), {}, r"x must be \[N, H, W, C\] .* not \(4, 4, 2\)"),
        (
            (1, 4, 4, 2),
            {"strides": (1.5, 1)},
            "whole number, got 1.5",
        ),
        ((1, 4, 4, 2), {"strides": (True, 1)}, "a whole number, got True"),
        ((1, 4, 4, 2), {"strides": (0, 1)}, "at least 1, got 0"),
        ((1, 4, 4, 2), {"strides": (1,)}, "must be for H and W"),
        (
            (1, 4, 4, 2),
            {"padding": ((0, 0.5), (0, 0))},
            "padding must be a whole number",
        ),
        ((1, 4, 4, 2), {"padding": ((0, 0),)}, "must be for H and W"),
    ],
)
def test_arguments_that_are_mistaken(shape, options, words):
    options = {"padding": ((0, 0), (0, 0))} | options
    with without_type_checks(), pytest.raises(ValueError, match=words):
        conv.conv(jnp.ones(shape), jnp.ones((3, 3, 2, 5)), **options)
