"""Shape from shading: normals from components, from R and from the plain image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from bspec_jax.components.shading import (
    fit_shading,
    mean_angular_error,
    normals_from_shading,
)
from experiments.applications.data import BLURS, Examples, mean_over_images
from experiments.applications.filtering import blurred

Shading = Float[np.ndarray, "N H W"]
Normals = Float[np.ndarray, "N H W 3"]


def shape_scores(train: Examples, test: Examples) -> dict[str, dict]:
    """Mean angular error of the normals from several shadings, in degrees.

    The relief and the damping, the width of the blur, and the component of a source are
    those of the lowest error on the training images. `flat` assumes a flat surface;
    `light` is the true diffuse light, a bound on what the method can do.
    """
    flat = np.zeros_like(test.truth.normals)
    flat[..., 2] = 1
    scores = {"flat": normal_errors(test, flat)}
    test_shadings = shadings(test)
    for name, candidates in shadings(train).items():
        fitted = fit_candidates(train, candidates)
        normals = fitted_normals(fitted, test_shadings[name])
        scores[name] = {**normal_errors(test, normals), **fitted}
    return scores


def shadings(examples: Examples) -> dict[str, dict[Any, Shading]]:
    """Candidates for a shading by name and, where there are several, by which."""
    images = {
        "image": {None: examples.x},
        "blur": {sigma: blurred(examples.x, sigma) for sigma in BLURS},
        "regenerated": {None: examples.generated},
        "residual": {None: examples.residual},
        **{source: dict(enumerate(stack)) for source, stack in examples.stacks.items()},
        "light": {None: examples.truth.diffuse},
    }
    return {
        name: {which: image.mean(-1) for which, image in candidates.items()}
        for name, candidates in images.items()
    }


def fit_candidates(train: Examples, candidates: Mapping[Any, Shading]) -> dict:
    """The candidate (`which`) and the settings of the lowest mean error on `train`."""
    truth, region = train.truth.normals, train.foreground()
    fits = {
        which: fit_shading(shading, truth, region)
        for which, shading in candidates.items()
    }
    which = min(fits, key=lambda which: fits[which].error)
    best = fits[which]
    return {
        "which": which,
        "relief": best.relief,
        "damping": best.damping,
        "chosen_at": best.error,
    }


def fitted_normals(fitted: Mapping, candidates: Mapping[Any, Shading]) -> Normals:
    """Normals from the candidate and with the settings of `fit_candidates`."""
    settings = {key: fitted[key] for key in ("relief", "damping")}
    return normals_from_shading(candidates[fitted["which"]], **settings)


def normal_errors(examples: Examples, normals: Normals) -> dict:
    """Angle to the true normals, in degrees: mean over the pixels of each face."""
    truth, region = examples.truth.normals, examples.foreground()
    return mean_over_images(mean_angular_error(normals, truth, region))
