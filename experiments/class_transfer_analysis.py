"""What `experiments.class_transfer` measures: transfers, fidelity, branches, parts."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import decomposition, generator
from bspec_jax import specialization as sp
from bspec_jax.data import faces
from bspec_jax.data.images import Split
from bspec_jax.generator import ClassTransfer, to_bytes, to_signed
from bspec_jax.generator_training import TrainState
from bspec_jax.models.diffusion import spectrum
from bspec_jax.statistics import mean_interval
from experiments import inception
from experiments.class_transfer_data import Data, ground_truth
from experiments.recogniser import Recogniser

LAYERS = ("albedo", "diffuse", "specular", "height", "normal_x", "normal_y")


def count_parameters(state: TrainState) -> dict:
    """Numbers of parameters, of a branch and of all."""

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    branches = state.average["branches"]
    num_branches = len(jax.tree.leaves(branches)[0])
    return {
        "branch": count(branches) // num_branches,
        "generator": count(state.average),
        "discriminator": count(state.discriminator),
    }


def look(
    model: ClassTransfer, params, examples: Split, recogniser: Recogniser
) -> tuple[dict, dict]:
    """What is logged of a generator while it trains, and what its samples show."""
    x, labels = to_signed(examples.images), examples.labels
    num_classes = len(recogniser.trained.description["classes"])
    own = generator.decompose(model, params, x, labels)
    transfers = generator.to_all_classes(model, params, x, num_classes)
    hits = [recogniser.recognise(t) == c for c, t in enumerate(transfers)]
    other = np.arange(num_classes)[:, None] != labels
    norms = np.asarray(sp.response_norms(own.components))
    features = recogniser.features(x), recogniser.features(transfers[other])
    found = {
        "transfer_accuracy": np.stack(hits)[other].mean(),
        "kept": np.stack(hits)[~other].mean(),
        "frechet": decomposition.frechet_distance(*features),
        "psnr": decomposition.psnr(x, own.image).mean(),
        "ssim": decomposition.ssim(x, np.clip(own.image, -1, 1)).mean(),
        "norms": norms,
        "active": int(sp.active_branches(own.components).sum()),
        "image_std": x.std(),
        "image_variation": decomposition.total_variation(x).mean(),
        "residual_std": own.residual.std(),
        "residual_variation": decomposition.total_variation(own.residual).mean(),
        "input_std": None if own.inputs is None else own.inputs.std((1, 2, 3, 4)),
    }
    first = slice(0, 3 * num_classes)
    samples = {
        "images": x[first],
        "labels": labels[first],
        "residual": own.residual[first],
        "generated": own.image[first],
        "transfers": transfers[:, first],
    }
    return found, samples


def analyse(
    model: ClassTransfer,
    params,
    initial,
    data: Data,
    recogniser: Recogniser,
    step: float,
    inception_weights: Path | None,
) -> dict:
    """What results.json holds of a trained generator, on the test images.

    Args:
      initial: its parameters before training.
      step: of the diffusion.
    """
    x, labels = to_signed(data.test.images), data.test.labels
    truth = None
    if data.name == "faces":
        size = data.test.images.shape[1]
        truth = ground_truth(data.class_names, "test", data.test_indices, size)
    own = generator.decompose(model, params, x, labels)
    start = generator.decompose(model, initial, x, labels)
    return {
        **transfer_scores(model, params, x, labels, own, recogniser, inception_weights),
        **fidelity(x, own),
        **branch_scores(own.components),
        "initial": branch_scores(start.components)
        | {"part_scores": part_scores(start.components, truth)},
        "part_scores": part_scores(own.components, truth),
        "layer_scores": layer_scores(own.components, truth),
        "subsets": decomposition.default_subsets(own.components),
        "roughness": decomposition.roughness(own.components),
        **input_scores(own, step),
    }


def transfer_scores(
    model: ClassTransfer,
    params,
    x: np.ndarray,
    labels: np.ndarray,
    own: generator.Decomposition,
    recogniser: Recogniser,
    inception_weights: Path | None,
) -> dict:
    """How often images become what they are to become, and how real they look.

    rates: `[from, to]`, the share of images of a class that are recognised as another
    when transferred to it, and as their own on the diagonal. The Frechet distances are
    in the features of the classifier, between transfers to a class from all others and
    the test images of that class, mean over classes; between R of those others and
    them; and, of real images, between two halves of a class.
    """
    num_classes = len(recogniser.trained.description["classes"])
    seen = recogniser.recognise(x), recogniser.recognise(own.residual)
    real, residual = recogniser.features(x), recogniser.features(own.residual)
    rates = np.zeros((num_classes, num_classes))
    rates_residual = np.zeros_like(rates)
    distances, fids = [], []
    fakes = generator.to_all_classes(model, params, x, num_classes)
    for target, fake in enumerate(fakes):
        hit = recogniser.recognise(fake) == target
        for source in range(num_classes):
            of = labels == source
            rates[source, target] = hit[of].mean()
            rates_residual[source, target] = (seen[1][of] == target).mean()
        of, others = labels == target, labels != target
        halves = np.array_split(real[of], 2)
        distances.append(
            [
                decomposition.frechet_distance(real[of], features)
                for features in (recogniser.features(fake[others]), residual[others])
            ]
            + [decomposition.frechet_distance(*halves)]
        )
        if inception_weights:
            of_real = np.asarray(to_bytes(x[of]))
            fids.append(
                [
                    inception.fid(of_real, np.asarray(to_bytes(a)), inception_weights)
                    for a in (fake[others], own.residual[others])
                ]
            )
    other = ~np.eye(num_classes, dtype=bool)
    frechet = np.mean(distances, 0)
    fid = np.mean(fids, 0) if fids else (None, None)
    return {
        "recogniser_accuracy": (seen[0] == labels).mean(),
        "transfer_accuracy": rates[other].mean(),
        "transfer_accuracy_residual": rates_residual[other].mean(),
        "kept": rates[~other].mean(),
        "kept_residual": rates_residual[~other].mean(),
        "rates": rates,
        "rates_residual": rates_residual,
        "frechet": frechet[0],
        "frechet_residual": frechet[1],
        "frechet_real": frechet[2],
        "fid": fid[0],
        "fid_residual": fid[1],
    }


def fidelity(x: np.ndarray, own: generator.Decomposition) -> dict:
    """How near re-generations and R are to the input, and how smooth R is."""
    image = np.clip(own.image, -1, 1)
    return {
        "psnr": decomposition.psnr(x, image).mean(),
        "psnr_residual": decomposition.psnr(x, own.residual).mean(),
        "ssim": decomposition.ssim(x, image).mean(),
        "ssim_residual": decomposition.ssim(x, own.residual).mean(),
        "std": {
            "input": x.std((1, 2, 3)).mean(),
            "residual": own.residual.std((1, 2, 3)).mean(),
            "generated": image.std((1, 2, 3)).mean(),
        },
        "total_variation": {
            "input": decomposition.total_variation(x).mean(),
            "residual": decomposition.total_variation(own.residual).mean(),
            "generated": decomposition.total_variation(image).mean(),
        },
    }


def branch_scores(v: np.ndarray) -> dict:
    """Energy, covariance and index of the components."""
    covariance = np.asarray(sp.covariance(v))
    active = np.asarray(sp.active_branches(v))
    norms = np.asarray(sp.response_norms(v))
    rho = np.asarray(sp.correlation(jnp.asarray(covariance)))
    mean_rho, pairs = sp.mean_correlation(jnp.asarray(rho), jnp.asarray(active))
    return {
        "active": int(active.sum()),
        "silent": int((~active).sum()),
        "norms": norms,
        "energy_share": norms**2 / (norms**2).sum(),
        "covariance": covariance,
        "correlation": rho,
        "mean_correlation": float(mean_rho) if pairs else None,
        "specialization_index": float(sp.specialization_index(covariance)),
    }


def input_scores(own: generator.Decomposition, step: float) -> dict:
    """The diffusion's components: their deviation and the spectrum S(t)."""
    if own.inputs is None:
        return {"input_std": None, "spectrum": None}
    inputs = jnp.asarray(own.inputs)
    return {
        "input_std": own.inputs.std((1, 2, 3, 4)),
        "spectrum": np.asarray(spectrum(inputs, step)).mean(1) / inputs[0, 0].size,
    }


def part_scores(v: np.ndarray, truth: faces.Face | None) -> dict:
    """For each part the enrichment of each component, mean over images, interval."""
    if truth is None:
        return {}
    return {
        part: _summary(decomposition.part_enrichment(v, mask))
        for part, mask in truth.masks.items()
    }


def layer_scores(v: np.ndarray, truth: faces.Face | None) -> dict:
    """For each rendered layer its correlation with each component."""
    if truth is None:
        return {}
    layers = (
        truth.albedo,
        truth.diffuse,
        truth.specular,
        truth.height[..., None],
        truth.normals[..., :1],
        truth.normals[..., 1:2],
    )
    return {
        name: _summary(decomposition.layer_correlation(v, layer))
        for name, layer in zip(LAYERS, layers, strict=True)
    }


def _summary(values: np.ndarray) -> dict[str, Sequence]:
    mean, interval = mean_interval(values, np.isfinite(values))
    return {"mean": mean, "interval": interval}
