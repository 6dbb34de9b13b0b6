"""Measures of a generator: transfers, fidelity, and what its branches show."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bspec_jax.analysis import specialization as sp
from bspec_jax.analysis.averages import average_stages
from bspec_jax.analysis.observations import evaluate
from bspec_jax.analysis.specialization import Specialization
from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.classifier.evaluation import whole
from bspec_jax.components import measures
from bspec_jax.components.pictures import Pictures
from bspec_jax.data import Selection, Split
from bspec_jax.data.faces import Face
from bspec_jax.generator import network
from bspec_jax.generator.diffusion import spectrum
from bspec_jax.generator.network import (
    ClassTransfer,
    Decomposition,
    to_signed,
)
from bspec_jax.generator.recogniser import Recogniser
from bspec_jax.generator.transfers import Fid, Transfers, transfer_scores
from bspec_jax.trees import Tree

Images = Float[np.ndarray, "N H W C"]
Components = Float[np.ndarray, "M N H W C"]
PICTURES = 3  # of each class, that `monitor` returns
# What `monitor` computes exactly as `analyse` does.
SCORES = ("transfer_accuracy", "kept", "frechet", "psnr", "ssim")


def count_parameters(generator: Tree, discriminator: Tree) -> dict[str, int]:
    """Numbers of parameters: of one branch, the generator and the discriminator."""

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    num_branches = len(jax.tree.leaves(generator["branches"])[0])
    return {
        "branch": count(generator["branches"]) // num_branches,
        "generator": count(generator),
        "discriminator": count(discriminator),
    }


def monitor(
    model: ClassTransfer, params: Tree, examples: Split, recogniser: Recogniser
) -> tuple[dict, Pictures]:
    """What a training logs of its generator, and three pictures per class.

    A name means the same as in `analyse`, of fewer images.
    """
    x, labels = to_signed(examples.images), examples.labels
    num_classes = len(recogniser.classes)
    own = network.decompose(model, params, x, labels)
    transfers = network.to_all_classes(model, params, x, num_classes)
    scores = fidelity(x, own) | transfer_scores(
        Transfers(x, labels, own.residual, transfers), recogniser, None
    )
    norms = np.asarray(sp.response_norms(own.components))
    log = {
        **{name: scores[name] for name in SCORES},
        "norms": norms,
        "active": whole(_active(norms).sum()),
        "image_std": x.std(),
        "image_variation": measures.total_variation(x).mean(),
        "residual_std": own.residual.std(),
        "residual_variation": measures.total_variation(own.residual).mean(),
        "input_std": None if own.inputs is None else own.inputs.std((1, 2, 3, 4)),
    }
    first = slice(PICTURES * num_classes)
    few = jax.tree.map(lambda leaf: leaf[..., first, :, :, :], (own, transfers))
    return log, _to_pictures(x[first], labels[first], *few)


def make_pictures(
    model: ClassTransfer, params: Tree, examples: Split, num_classes: int
) -> Pictures:
    """Decomposes images, and transfers each to every class."""
    x, labels = to_signed(examples.images), examples.labels
    return _to_pictures(
        x,
        labels,
        network.decompose(model, params, x, labels),
        network.to_all_classes(model, params, x, num_classes),
    )


def _to_pictures(x, labels, own: Decomposition, transfers) -> Pictures:
    inputs = own.components[:0] if own.inputs is None else own.inputs
    return Pictures(
        x, labels, own.residual, own.image, transfers, own.components, inputs
    )


def analyse(
    model: ClassTransfer,
    params: Tree,
    initial: Tree,
    data: Selection,
    recogniser: Recogniser,
    diffusion_step: float,
    fid: Fid | None = None,
) -> dict:
    """All measures of a trained generator on the test images, by their names in JSON.

    Args:
      initial: its parameters before training.
      diffusion_step: time step of the diffusion, for its spectrum.
      fid: computes the FID; left out by default.
    """
    x, labels = to_signed(data.test.images), data.test.labels
    truth = data.ground_truth()
    own = network.decompose(model, params, x, labels)
    start = network.decompose(model, initial, x, labels).components
    to_class = network.to_all_classes(model, params, x, len(recogniser.classes))
    transfers = Transfers(x, labels, own.residual, to_class)
    return {
        **transfer_scores(transfers, recogniser, fid),
        **fidelity(x, own),
        **branch_scores(own.components),
        "initial": branch_scores(start) | {"part_scores": part_scores(start, truth)},
        "part_scores": part_scores(own.components, truth),
        "layer_scores": layer_scores(own.components, truth),
        "observations": observations(own.components, start, truth),
        "subsets": _subsets(own.components),
        "roughness": measures.roughness(own.components),
        **input_scores(own, diffusion_step),
    }


def fidelity(x: Images, own: Decomposition) -> dict:
    """How close re-generations and R are to the input, and how smooth R is."""
    image = np.clip(own.image, -1, 1)
    return {
        "psnr": measures.psnr(x, image).mean(),
        "psnr_residual": measures.psnr(x, own.residual).mean(),
        "ssim": measures.ssim(x, image).mean(),
        "ssim_residual": measures.ssim(x, own.residual).mean(),
        "std": {
            "input": x.std((1, 2, 3)).mean(),
            "residual": own.residual.std((1, 2, 3)).mean(),
            "generated": image.std((1, 2, 3)).mean(),
        },
        "total_variation": {
            "input": measures.total_variation(x).mean(),
            "residual": measures.total_variation(own.residual).mean(),
            "generated": measures.total_variation(image).mean(),
        },
    }


def branch_scores(v: Components) -> dict:
    """Energy, covariance and index of the components."""
    covariance = np.asarray(sp.covariance(v))
    norms = np.asarray(sp.response_norms(v))
    active = _active(norms)
    rho = np.asarray(sp.correlation(jnp.asarray(covariance)))
    mean_rho, pairs = sp.mean_correlation(jnp.asarray(rho), jnp.asarray(active))
    return {
        "active": whole(active.sum()),
        "silent": whole((1 - active).sum()),
        "norms": norms,
        "energy_share": energy_share(norms),
        "covariance": covariance,
        "correlation": rho,
        "mean_correlation": float(mean_rho) if pairs != 0 else None,
        "specialization_index": float(sp.specialization_index(covariance)),
    }


def _active(norms: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """Activity from norms: as of a single example."""
    return np.asarray(sp.activity(norms[:, None]))


def _subsets(v: Components) -> list[Sequence[int]]:
    """The smooth and the rough half; a single component has one half.

    Without any for components that are not finite, which have no order.
    """
    halves = measures.default_subsets(v) if np.isfinite(v).all() else ()
    return [half for half in halves if len(half)]


def energy_share(norms: Float[np.ndarray, "*K M"]) -> Float[np.ndarray, "*K M"]:
    """Share of each component in the sum of squared norms over components.

    0 where no component has any energy.
    """
    largest = norms.max(-1, keepdims=True)  # by which no square over- or underflows
    with np.errstate(invalid="ignore"):
        energy = (norms / np.where(largest == 0, 1, largest)) ** 2
        return energy / np.where(largest == 0, 1, energy.sum(-1, keepdims=True))


def input_scores(own: Decomposition, diffusion_step: float) -> dict:
    """The diffusion's components: standard deviations and the spectrum S(t)."""
    if own.inputs is None:
        return {"input_std": None, "spectrum": None}
    inputs = jnp.asarray(own.inputs)
    mean = np.asarray(spectrum(inputs, diffusion_step)).mean(1)
    return {
        "input_std": own.inputs.std((1, 2, 3, 4)),
        "spectrum": mean / inputs[0, 0].size,
    }


def observations(
    v: Components, initial: Components, truth: Face | None
) -> dict[int, dict]:
    """Observations 1 to 5 of a single generator; a region is a part of the faces.

    There is no control, and a single network has no interval, so that no verdict is
    decided. Empty without a ground truth: observations need regions.

    Args:
      v, initial: components after and before training.
    """
    if truth is None:
        return {}
    undefined = Specialization(*[np.nan] * len(Specialization._fields))

    def measured(v, rule):
        energy = part_energy(np.asarray(sp.regional(v, rule)), truth.masks)
        return sp.measure(v, energy=energy, rule=rule)

    def stages(rule):
        null = sp.null_correlation(v, jax.random.key(0), rule=rule)
        of_one = (measured(v, rule), measured(initial, rule), undefined, null)
        return average_stages(*jax.tree.map(lambda leaf: np.array([[leaf]]), of_one))

    return evaluate([len(v)], {rule: stages(rule) for rule in ("centred", "norm")})


def part_energy(
    v: Components, masks: Mapping[str, Bool[np.ndarray, "N H W"]]
) -> Float[np.ndarray, "M parts"]:
    """Mean of ||v_k||^2 over the pixels of each part, in all images together.

    A part that is seen in no image is left out.
    """
    energy = (v**2).sum(-1)
    seen = [mask for mask in masks.values() if mask.any()]
    return np.stack([energy[:, mask].mean(1) for mask in seen], 1)


def part_scores(v: Components, truth: Face | None) -> dict[str, dict]:
    """Enrichment of each component in each part: means over images, and intervals."""
    if truth is None:
        return {}
    return {
        part: _summary(v, measures.part_enrichment(v, mask))
        for part, mask in truth.masks.items()
    }


def layer_scores(v: Components, truth: Face | None) -> dict[str, dict]:
    """Correlation of each component with each rendered layer, as `part_scores`."""
    if truth is None:
        return {}
    layers = {
        "albedo": truth.albedo,
        "diffuse": truth.diffuse,
        "specular": truth.specular,
        "height": truth.height[..., None],
        "normal_x": truth.normals[..., :1],
        "normal_y": truth.normals[..., 1:2],
    }
    return {
        name: _summary(v, measures.layer_correlation(v, layer))
        for name, layer in layers.items()
    }


def _summary(v: Components, values: Float[np.ndarray, "M N"]) -> dict[str, Any]:
    """Means over the images where the value is defined; NaN if v is not finite."""
    undefined = np.isnan(values) & np.isfinite(v).all((2, 3, 4))
    mean, interval = mean_interval(values, ~undefined)
    return {"mean": mean, "interval": interval}
