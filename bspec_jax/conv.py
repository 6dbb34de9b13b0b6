"""A convolution that stays fast when vmap batches its kernels.

JAX lowers a vmap over kernels to one grouped convolution, whose kernel gradient is far
slower on a CPU than that of separate convolutions. Here a batch of kernels is lowered
by platform: to one convolution per kernel on a CPU, to the grouped form elsewhere.
Kernels that share one input, as in a network's first layer, become a single dense
convolution.

Convolution is bilinear; its forward pass, input gradient and kernel gradient are
transposes of one another. They are three primitives with a leading batch axis B, and
derivatives of any order and vmap only ever produce these three:

    forward(x, k) = y    input_gradient(dy, k) = dx    kernel_gradient(x, dy) = dk
    x [B, N, H, W, C],  k [B, kh, kw, C, O],  y [B, N, H', W', O]
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from bspec_jax.numerics import check_count

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "kh kw I O"],
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> Float[Array, "N H2 W2 O"]:
    """Two-dimensional convolution: `jax.lax.conv_general_dilated` in NHWC and HWIO.

    Args:
      x: images.
      kernel: filters.
      strides: window strides in H and W.
      padding: "SAME", "VALID", or (low, high) for each of H and W.

    Raises:
      ValueError: for other ranks, if C and I differ, and for strides or a padding that
        are not whole numbers for H and for W.
    """
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            "x must be [N, H, W, C] and the kernel [kh, kw, C, O], not "
            f"{x.shape} and {kernel.shape}"
        )
    if x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"x has {x.shape[-1]} channels, but the kernel takes {kernel.shape[2]}"
        )
    strides = tuple(check_count("strides", stride) for stride in strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    pads = tuple(
        tuple(check_count("padding", side, None) for side in sides) for sides in padding
    )
    if len(strides) != 2 or [len(sides) for sides in pads] != [2, 2]:
        raise ValueError(
            f"strides and padding must be for H and W, got {strides} and {pads}"
        )
    return forward_p.bind(x[None], kernel[None], strides=strides, pads=pads)[0]


def conv_general_dilated(
    lhs: Array, rhs: Array, window_strides, padding, **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated`, computed by `conv` where it can be.

    For Flax: `nn.Conv(..., conv_general_dilated=conv.conv_general_dilated)`. Dilations,
    groups, other layouts and other numbers of dimensions fall back to JAX.
    """
    supported = {
        "lhs_dilation": (None, (1, 1)),
        "rhs_dilation": (None, (1, 1)),
        "feature_group_count": (1,),
        "batch_group_count": (1,),
        "precision": (None,),
        "preferred_element_type": (None, lhs.dtype),
    }
    numbers = lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, options.get("dimension_numbers")
    )
    channels_last = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, LAYOUT)
    if numbers == channels_last and all(
        name == "dimension_numbers" or _as_tuple(value) in supported.get(name, ())
        for name, value in options.items()
    ):
        return conv(lhs, rhs, window_strides, padding)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def _as_tuple(value):
    return tuple(value) if isinstance(value, list | tuple) else value


def _forward(x, k, *, strides, pads):
    """One branch: x `[N, H, W, C]`, k `[kh, kw, C, O]`."""
    return lax.conv_general_dilated(x, k, strides, pads, dimension_numbers=LAYOUT)


def _input_gradient(dy, k, *, strides, pads, size):
    """The transpose of `_forward` in x, whose H and W are `size`."""
    low = [n - 1 - p for n, (p, _) in zip(k.shape, pads, strict=False)]
    reach = [(n - 1) * s + 1 for n, s in zip(dy.shape[1:3], strides, strict=True)]
    high = [
        n + window - 1 - r - p
        for n, window, r, p in zip(size, k.shape, reach, low, strict=False)
    ]
    flipped = jnp.swapaxes(k[::-1, ::-1], 2, 3)
    return lax.conv_general_dilated(
        dy,
        flipped,
        (1, 1),
        list(zip(low, high, strict=True)),
        lhs_dilation=strides,
        dimension_numbers=LAYOUT,
    )


def _kernel_gradient(x, dy, *, strides, pads, size):
    """The transpose of `_forward` in k, whose kh and kw are `size`; contracts N."""
    reach = [(n - 1) * s + 1 for n, s in zip(dy.shape[1:3], strides, strict=True)]
    padding = [
        (low, window - 1 + r - n - low)
        for n, window, r, (low, _) in zip(x.shape[1:3], size, reach, pads, strict=True)
    ]
    return lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        padding,
        rhs_dilation=strides,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


def _separate(branch_fn: Callable, a, b, **params):
    """One computation per branch, for CPUs."""
    pairs = zip(a, b, strict=True)
    return jnp.stack([branch_fn(*pair, **params) for pair in pairs])


def _grouped(branch_fn: Callable, a, b, **params):
    """The grouped convolution that vmap yields, for all other platforms."""
    return jax.vmap(partial(branch_fn, **params))(a, b)


def _grouped_kernel_gradient(x, dy, *, strides, pads, size):
    """`_kernel_gradient` of all branches, as the transpose of the grouped forward pass.

    On a GPU XLA recognises this form and calls the library's filter gradient. It does
    not recognise what vmap makes of `_kernel_gradient`.
    """
    forward = partial(_grouped, _forward, x, strides=strides, pads=pads)
    shape = (len(x), *size, x.shape[-1], dy.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(forward, kernel)(dy)[0]


def _zeros_where_empty(form: Callable, shape_fn: Callable, a, b, **params):
    """`form`, but zeros where an operand or the result has no entry.

    A window that fits nowhere has no position, and its transposes nothing to add up;
    neither is a convolution that XLA would take.
    """
    shape = shape_fn(a.shape, b.shape, **params)
    if 0 in (a.size, b.size, math.prod(shape)):
        return jnp.zeros(shape, a.dtype)
    return form(a, b, **params)


def _primitive(
    name: str,
    shape_fn: Callable,
    branch_fn: Callable,
    grouped_fn: Callable | None = None,
) -> Primitive:
    """A primitive with a leading axis B.

    Args:
      shape_fn: the shape of the result, from those of the operands.
      branch_fn: the computation for one branch.
      grouped_fn: that of all branches at once; by default `_grouped`.
    """
    grouped_fn = grouped_fn or partial(_grouped, branch_fn)
    primitive = Primitive(f"branch_conv_{name}")

    @cache
    def compiled(**params):
        return jax.jit(partial(primitive.bind, **params))

    def abstract(a, b, **params):
        form = partial(_zeros_where_empty, grouped_fn, shape_fn, **params)
        out = jax.eval_shape(form, a, b)
        return jax.core.ShapedArray(out.shape, out.dtype)

    primitive.def_impl(lambda a, b, **params: compiled(**params)(a, b))
    primitive.def_abstract_eval(abstract)
    for form, platform in ((grouped_fn, None), (partial(_separate, branch_fn), "cpu")):
        form = partial(_zeros_where_empty, form, shape_fn)
        rule = mlir.lower_fun(form, multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


def _forward_shape(x, k, *, strides, pads):
    spaces = zip(x[2:4], k[1:3], strides, pads, strict=True)
    size = [max(0, (n + sum(pad) - w) // s + 1) for n, w, s, pad in spaces]
    return (*x[:2], *size, k[4])


def _input_gradient_shape(dy, k, *, size, **_):
    return (*dy[:2], *size, k[3])


def _kernel_gradient_shape(x, dy, *, size, **_):
    return (x[0], *size, x[4], dy[4])


forward_p = _primitive("forward", _forward_shape, _forward)
input_gradient_p = _primitive("input_gradient", _input_gradient_shape, _input_gradient)
kernel_gradient_p = _primitive(
    "kernel_gradient",
    _kernel_gradient_shape,
    _kernel_gradient,
    _grouped_kernel_gradient,
)


# The transpose of each primitive in its first and in its second operand.


def _forward_in_x(ct, x, k, *, strides, pads):
    size = x.aval.shape[2:4]
    return input_gradient_p.bind(ct, k, strides=strides, pads=pads, size=size)


def _forward_in_k(ct, x, k, *, strides, pads):
    size = k.aval.shape[1:3]
    return kernel_gradient_p.bind(x, ct, strides=strides, pads=pads, size=size)


def _input_gradient_in_dy(ct, dy, k, *, strides, pads, size):
    return forward_p.bind(ct, k, strides=strides, pads=pads)


def _input_gradient_in_k(ct, dy, k, *, strides, pads, size):
    window = k.aval.shape[1:3]
    return kernel_gradient_p.bind(ct, dy, strides=strides, pads=pads, size=window)


def _kernel_gradient_in_x(ct, x, dy, *, strides, pads, size):
    shape = x.aval.shape[2:4]
    return input_gradient_p.bind(dy, ct, strides=strides, pads=pads, size=shape)


def _kernel_gradient_in_dy(ct, x, dy, *, strides, pads, size):
    return forward_p.bind(x, ct, strides=strides, pads=pads)


ad.defbilinear(forward_p, _forward_in_x, _forward_in_k)
ad.defbilinear(input_gradient_p, _input_gradient_in_dy, _input_gradient_in_k)
ad.defbilinear(kernel_gradient_p, _kernel_gradient_in_x, _kernel_gradient_in_dy)


# Batching rules. A new axis of both operands is merged into B. A new axis of a single
# operand is merged into an axis which that operand shares with the result alone (N, C
# or O), so that nothing is repeated and the convolution stays as dense as it was.


def _batch(primitive, shared_axes, operands, dims, **params):
    """The batching rule of a primitive.

    Args:
      shared_axes: for each operand, the axis that takes an axis of this operand alone:
        (axis of the operand, axis of the result).
    """
    a, b = (
        x if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(operands, dims, strict=True)
    )
    if None not in dims:
        pair = [a.shape[0], a.shape[1]]
        a, b = (x.reshape(math.prod(pair), *x.shape[2:]) for x in (a, b))
        out = primitive.bind(a, b, **params)
        return out.reshape(*pair, *out.shape[1:]), 0
    mapped = 1 - dims.index(None)  # the operand that is batched
    axis, result_axis = shared_axes[mapped]
    pair = [a, b]
    count, size = pair[mapped].shape[0], pair[mapped].shape[axis + 1]
    pair[mapped] = _merge(pair[mapped], axis)
    out = primitive.bind(*pair, **params)
    shape = out.shape
    out = out.reshape(*shape[:result_axis], count, size, *shape[result_axis + 1 :])
    return out, result_axis


def _merge(x, axis):
    """Merges the leading axis into `axis` of the rest, as the slower-varying index."""
    x = jnp.moveaxis(x, 0, axis)
    size = x.shape[axis] * x.shape[axis + 1]
    return x.reshape(*x.shape[:axis], size, *x.shape[axis + 2 :])


# Axes of [B, N, H, W, C] and [B, kh, kw, C, O]: x and dy use N, k uses O or C.
batching.primitive_batchers[forward_p] = partial(_batch, forward_p, ((1, 1), (4, 4)))
batching.primitive_batchers[input_gradient_p] = partial(
    _batch, input_gradient_p, ((1, 1), (3, 4))
)
batching.primitive_batchers[kernel_gradient_p] = partial(
    _batch, kernel_gradient_p, ((4, 3), (4, 4))
)
