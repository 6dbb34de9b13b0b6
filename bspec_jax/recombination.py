"""New images from the components of others: edited, filtered, or varied at random.

An image is R + sum_k v_k, and another is what these make with other gains, everywhere
or in a region. To keep all details of an image x that v_k do not add up to, take for R
what is missing, `remainder(x, components)`: gains of 1 then give x itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from scipy.optimize import lsq_linear

Images = Float[Array | np.ndarray, "N H W C"]
Components = Float[Array | np.ndarray, "M N H W C"]


def remainder(images: Images, components: Components) -> Images:
    """The R with which components add up to the images."""
    return images - components.sum(0)


def recombine(
    residual: Images,
    components: Components,
    gains: Float[Array | np.ndarray, "M"] | Float[Array | np.ndarray, "M N"],
    region: Bool[Array | np.ndarray, "N H W"] | None = None,
) -> Float[Array, "N H W C"]:
    """R + sum_k g_k v_k, outside the region with g_k = 1.

    Args:
      gains: g_k, the same for all images or for each one.
      region: where gains count; default everywhere.

    Source: section 7 and appendix A (Figures 13 and 14: the gain of one component).
    """
    change = jnp.asarray(gains) - 1
    change = change.reshape(*change.shape, *(1,) * (components.ndim - change.ndim))
    if region is not None:
        change = change * jnp.asarray(region)[..., None]
    return residual + ((1 + change) * components).sum(0)


def perturb_components(
    key: Key[Array, ""],
    residual: Images,
    components: Components,
    scale: float | Float[Array, ""],
) -> Float[Array, "N H W C"]:
    """R + sum_k (1 + scale e_k) v_k with independent normal e_k, anew for each image.

    To augment data: what varies is what the components show, and in place.
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
    """Gains in 0..1, the same for all images, that come nearest to the target.

    They minimise the squared error of `recombine` over all images, in float64, with
    SciPy's bounded least squares; with a region, over its pixels only. A component that
    is zero there has gain 1.
    """
    weight = np.ones(target.shape[:-1]) if region is None else region
    where = np.asarray(weight, bool)
    v = np.stack([np.asarray(v, np.float64)[where].ravel() for v in components], 1)
    wanted = np.asarray(target - residual, np.float64)[where].ravel() - v.sum(1)
    # The same minimum from M equations: of the triangular factor, not of all pixels.
    q, r = np.linalg.qr(v)
    # Bounds in which 0, no change, lies strictly, as the method needs.
    change = lsq_linear(r, q.T @ wanted, (-1, 1e-9)).x
    return np.clip(1 + change, 0, 1)
