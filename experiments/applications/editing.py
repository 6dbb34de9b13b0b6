"""Editing, filtering and shape from shading, as `experiments.applications` scores them.

What can be chosen is chosen on training faces, and scored on held-out ones.
"""

import itertools
from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np

from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.components.measures import RANGE, psnr, ssim
from bspec_jax.components.recombination import fit_gains, recombine, remainder
from bspec_jax.components.shading import angular_error, normals_from_shading
from bspec_jax.generator.diffusion import blur
from experiments.applications_data import Faces
from experiments.recogniser import Recogniser

REMOVABLE = ("eyes", "nose", "whiskers", "ears")
CHANGED = 2 / 255  # of a channel in 0..1: less is not seen as a change
BLURS = (0.5, 1.0, 2.0, 4.0, 8.0)  # pixels
RELIEFS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
DAMPINGS = (0.001, 0.003, 0.01, 0.03, 0.1)


def scored(values: np.ndarray) -> dict:
    """The mean over images that have a value, its interval, and how many they are."""
    values = np.asarray(values, np.float64)
    have = np.isfinite(values)
    mean, interval = mean_interval(np.where(have, values, 0), have)
    return {"mean": mean, "interval": interval, "images": int(have.sum())}


def editing(
    config, faces: Faces, masks: np.ndarray, recogniser: Recogniser
) -> dict[str, dict]:
    """Each component with another gain, inside the segmented region and everywhere.

    Of each source and component: `everywhere` and `inside`, the share of the change's
    energy that falls in the true part; `class_kept`, how many edited faces (inside) are
    taken for what they were.
    """
    truth = faces.truth.masks[config.part]
    found = {"chance": truth.mean(), "classes_right": kept(recogniser, faces, faces.x)}
    for source, stack in faces.stacks.items():
        edit = partial(recombine, remainder(faces.x, stack), stack)
        # Not x itself, from which it differs by rounding: where nothing changes is a 0.
        before = np.asarray(edit(np.ones(len(stack), np.float32)))
        found[source] = []
        for component in np.eye(len(stack), dtype=bool):
            gains = np.where(component, config.gain, 1).astype(np.float32)
            everywhere, inside = (
                np.asarray(edit(gains, region)) for region in (None, masks)
            )
            change = (inside - before)[masks]
            found[source].append(
                {
                    "everywhere": scored(share_inside(everywhere - before, truth)),
                    "inside": scored(share_inside(inside - before, truth)),
                    "change": rms(change) / RANGE,
                    "class_kept": kept(recogniser, faces, inside),
                    "class_kept_everywhere": kept(recogniser, faces, everywhere),
                }
            )
    return found


def rms(values: np.ndarray) -> float:
    """Root mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def share_inside(change: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Of each image's change the share of energy in a mask; 0 where nothing changes."""
    energy = (change**2).sum(-1)
    total = energy.sum((1, 2))
    return (energy * masks).sum((1, 2)) / np.where(total > 0, total, 1)


def kept(recogniser: Recogniser, faces: Faces, images: np.ndarray) -> float:
    """How many are taken for their class."""
    right = recogniser.recognise(np.clip(images, -1, 1)) == faces.labels
    return float(right.mean())


def filtering(config, train: Faces, test: Faces) -> dict[str, dict]:
    """Components attenuated to remove a part, against the faces rendered without it.

    The gains, in 0..1, are those nearest to the training faces without the part: of all
    pixels (`everywhere`), or of those that the part changes, where they then count
    (`inside`). Beside them nothing done, the re-generation, and a blur.
    """
    return {part: filtered(config, train, test, part) for part in REMOVABLE}


def filtered(config, train: Faces, test: Faces, part: str) -> dict:
    wanted = {"train": train.without(part), "test": test.without(part)}
    where = {
        "train": changed(train.x, wanted["train"]),
        "test": changed(test.x, wanted["test"]),
    }
    having = where["test"].any((1, 2))
    results = {"images": int(having.sum()), "methods": {}}

    def score(name: str, images: np.ndarray, **more) -> None:
        compared = images[having], wanted["test"][having], where["test"][having]
        results["methods"][name] = {**removal(*compared), **more}

    score("nothing", test.x)
    score("regenerated", test.generated)
    for place in ("everywhere", "inside"):
        regions = where if place == "inside" else dict.fromkeys(where)
        sigma = max(
            BLURS,
            key=lambda sigma, region=regions["train"]: psnr(
                blurred(train.x, sigma, region), wanted["train"]
            ).mean(),
        )
        images = blurred(test.x, sigma, regions["test"])
        score(f"blur_{place}", images, sigma=sigma)
        for source, stack in test.stacks.items():
            few = train.stacks[source]
            if config.attenuate:
                gains = np.ones(len(stack))
                gains[list(config.attenuate)] = config.attenuation
            else:
                rest = remainder(train.x, few)
                gains = fit_gains(rest, few, wanted["train"], regions["train"])
            rest = remainder(test.x, stack)
            images = recombine(rest, stack, gains, regions["test"])
            score(f"{source}_{place}", np.asarray(images), gains=gains)
    return results


def blurred(
    x: np.ndarray, sigma: float, region: np.ndarray | None = None
) -> np.ndarray:
    """Images that are blurred, everywhere or in a region."""
    smooth = np.asarray(blur(jnp.asarray(x), sigma))
    return smooth if region is None else np.where(region[..., None], smooth, x)


def changed(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The pixels that a part changes, `[N, H, W]`."""
    return (np.abs(x - wanted) > RANGE * CHANGED).any(-1)


def removal(images: np.ndarray, wanted: np.ndarray, where: np.ndarray) -> dict:
    """How near images are to those without a part: in all, and where it was."""
    images = np.clip(images, -1, 1)
    square = ((images - wanted) ** 2).mean(-1)
    error = (square * where).sum((1, 2)) / where.sum((1, 2))
    return {
        "psnr": scored(psnr(images, wanted)),
        "ssim": scored(ssim(images, wanted)),
        "psnr_inside": scored(10 * np.log10(RANGE**2 / np.maximum(error, 1e-12))),
    }


def shape(train: Faces, test: Faces) -> dict[str, dict]:
    """Mean angular error of the normals from several shadings, in degrees.

    For each of them relief and damping, for the blur its width, and for a source its
    component are the best on the training faces. `flat` knows nothing; `light` is the
    true diffuse light, the best that the method can do.
    """
    flat = np.zeros_like(test.truth.normals)
    flat[..., 2] = 1
    found, held_out = {"flat": scored(errors(test, flat))}, shadings(test)
    for name, candidates in shadings(train).items():
        fits = {which: fit_normals(train, one) for which, one in candidates.items()}
        which = min(fits, key=lambda one: fits[one]["chosen_at"])
        chosen = {"which": which, **fits[which]}
        normals = normals_by(chosen, held_out[name])
        found[name] = {**scored(errors(test, normals)), **chosen}
    return found


def normals_by(chosen: Mapping, candidates: Mapping[object, np.ndarray]) -> np.ndarray:
    """The normals of the candidate and the settings that were chosen."""
    settings = {key: chosen[key] for key in ("relief", "damping")}
    return normals_from_shading(candidates[chosen["which"]], **settings)


def shadings(faces: Faces) -> dict[str, dict[object, np.ndarray]]:
    """For each name the candidates for a shading, grey images `[N, H, W]`."""
    colour = {
        "image": {None: faces.x},
        "blur": {sigma: blurred(faces.x, sigma) for sigma in BLURS},
        "regenerated": {None: faces.generated},
        "residual": {None: faces.residual},
        **{source: dict(enumerate(stack)) for source, stack in faces.stacks.items()},
        "light": {None: faces.truth.diffuse},
    }
    return {
        name: {which: one.mean(-1) for which, one in candidates.items()}
        for name, candidates in colour.items()
    }


def fit_normals(faces: Faces, shading: np.ndarray) -> dict:
    """The relief and the damping that come nearest to the true normals."""

    def error(settings):
        normals = normals_from_shading(shading, relief=settings[0], damping=settings[1])
        return errors(faces, normals).mean()

    tried = {one: error(one) for one in itertools.product(RELIEFS, DAMPINGS)}
    best = min(tried, key=tried.get)
    return {"relief": best[0], "damping": best[1], "chosen_at": tried[best]}


def errors(faces: Faces, normals: np.ndarray) -> np.ndarray:
    """Mean angle between the normals and the true ones, over each face, in degrees."""
    seen = faces.seen()
    angle = angular_error(normals, faces.truth.normals)
    return (angle * seen).sum((1, 2)) / seen.sum((1, 2))
