"""New images from components with other gains: edited, filtered or perturbed.

An image R + sum_k v_k becomes R + sum_k g_k v_k, everywhere or in a region. To keep the
details of an image x that the v_k do not add up to, use `remainder(x, components)` as
R: gains of 1 then give x itself.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from scipy.optimize import lsq_linear

from bspec_jax.storage.errors import ArgumentError

Images = Float[Array | np.ndarray, "N H W C"]
Components = Float[Array | np.ndarray, "M N H W C"]


def remainder(images: Images, components: Components) -> Images:
    """The residual R for which R + sum_k v_k equals the images.

    Raises:
      ArgumentError: if shapes do not fit, or images are not floats, such as bytes.
    """
    _check(images, components)
    return images - components.sum(0)


def recombine(
    residual: Images,
    components: Components,
    gains: Float[Array | np.ndarray, "M"] | Float[Array | np.ndarray, "M N"],
    region: Bool[Array | np.ndarray, "N H W"] | None = None,
) -> Float[Array, "N H W C"]:
    """R + sum_k g_k v_k inside a region, and R + sum_k v_k outside.

    Args:
      residual: R.
      components: v_k.
      gains: g_k, shared by all images or of each image.
      region: where gains apply. Default: everywhere.

    Raises:
      ArgumentError: if shapes do not fit, or images are not floats, such as bytes.

    Source: section 7 and appendix A (Figures 13 and 14: the gain of one component).
    """
    _check(residual, components, region)
    residual, components = jnp.asarray(residual), jnp.asarray(components)
    change = jnp.asarray(gains, components.dtype) - 1
    if change.shape not in (components.shape[:1], components.shape[:2]):
        raise ArgumentError(
            f"`gains` must be [M] or [M, N], of {components.shape[:2]}, got shape "
            f"{change.shape}"
        )
    change = change.reshape(*change.shape, *(1,) * (components.ndim - change.ndim))
    if region is not None:
        change = jnp.where(jnp.asarray(region)[None, ..., None], change, 0)
    return residual + ((1 + change) * components).sum(0)


def perturb_components(
    key: Key[Array, ""],
    residual: Images,
    components: Components,
    scale: float | Float[Array, ""],
) -> Float[Array, "N H W C"]:
    """R + sum_k (1 + scale e_k) v_k, with e_k standard normal for each k and image.

    For data augmentation: varies what the components show, in place.

    Args:
      residual: R.
      components: v_k.
      scale: standard deviation of the gains.

    Raises:
      ArgumentError: if shapes do not fit, or images are not floats, such as bytes.

    Source: section 7 ("random channel perturbations for data augmentation").
    """
    components = jnp.asarray(components)
    draws = jax.random.normal(key, components.shape[:2], components.dtype)
    return recombine(residual, components, 1 + scale * draws)


def fit_gains(
    residual: Images,
    components: Components,
    target: Images,
    region: Bool[np.ndarray, "N H W"] | None = None,
) -> Float[np.ndarray, " M"]:
    """Gains in 0..1, shared by all images, that approximate the target best.

    They minimise the squared error of `recombine`, by SciPy's bounded least squares in
    float64. A component that is 0 wherever it counts has gain 1.

    Args:
      residual: R.
      components: v_k.
      region: the pixels that count. Default: all.

    Raises:
      ArgumentError: if shapes do not fit, a value is not finite, or images are not
        floats, such as bytes.

    Cost: O(P M^2) time and O(P M) memory for P pixel values that count.
    """
    _check(residual, components, region)
    _check(target, components)
    where = np.ones(target.shape[:-1], bool) if region is None else region
    if not where.any():
        return np.ones(len(components))
    v = np.stack([np.asarray(v, np.float64)[where].ravel() for v in components], 1)
    wanted = np.asarray(target - residual, np.float64)[where].ravel() - v.sum(1)
    if not (np.isfinite(v).all() and np.isfinite(wanted).all()):
        raise ArgumentError("images and components must be finite numbers")
    # A QR factorisation reduces the equations, one per pixel value, to M.
    q, r = np.linalg.qr(v)
    # Solved for g - 1, so that a component that is 0 stays unchanged. The solver moves
    # its starting point strictly inside the bounds: hence the margin above 0.
    solution = lsq_linear(r, q.T @ wanted, (-1, 1e-9))
    if not solution.success:
        warnings.warn(
            f"the gains are not the best: {solution.message}",
            RuntimeWarning,
            stacklevel=2,
        )
    return np.clip(1 + solution.x, 0, 1)


def _check(images, components, region=None):
    """Raises ArgumentError unless these are floats whose shapes fit."""
    for array in (images, components):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ArgumentError(
                f"images and components must be floats, as in -1..1, got {array.dtype}"
            )
    if components.shape[1:] != images.shape:
        raise ArgumentError(
            "components must be [M, *images.shape], got shapes "
            f"{components.shape} and {images.shape}"
        )
    if region is None:
        return
    if region.dtype != bool or region.shape != images.shape[:-1]:
        raise ArgumentError(
            f"`region` must be boolean, of shape {images.shape[:-1]}, got "
            f"{region.dtype} {region.shape}"
        )
