"""Scores of class transfers: recognition rates and Frechet distances."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from bspec_jax.components import measures
from bspec_jax.generator.network import to_bytes
from bspec_jax.generator.recogniser import Recogniser

FEWEST_FOR_FRECHET = 4  # test images of a class: both halves need a covariance

# `(real, fake) -> FID`, of bytes `[N, H, W, C]`.
Fid = Callable[[UInt8[np.ndarray, "..."], UInt8[np.ndarray, "..."]], float]


class Transfers(NamedTuple):
    """Test images, and what a generator makes of them.

    x: `[N, H, W, C]`, in -1..1.
    labels: `[N]`.
    residual: R, `[N, H, W, C]`.
    to_class: the images as every class, `[classes, N, H, W, C]`.
    """

    x: Float[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]
    residual: Float[np.ndarray, "N H W C"]
    to_class: Float[np.ndarray, "classes N H W C"]


def transfer_scores(
    transfers: Transfers, recogniser: Recogniser, fid: Fid | None
) -> dict:
    """How often images are recognised as their target class, and how real they look.

    rates: `[from, to]`, the share of images of a class that are recognised as the
    target after transfer, and as their own class on the diagonal; `_residual`: the same
    of R alone. Frechet distances are in the features of the recogniser, means over
    classes: between transfers to a class from all others and the test images of that
    class; between R of those others and them; and, for real images, between two halves
    of a class. They are NaN if a class has fewer than `FEWEST_FOR_FRECHET` test images.
    What depends on images that are not finite, or on classes without one, is NaN.
    """
    transfers = _clipped(transfers)
    recognised = recogniser.recognise(transfers.x)
    rates, rates_residual = _recognition_rates(transfers, recogniser)
    frechet, frechet_residual, frechet_real = _frechet_distances(transfers, recogniser)
    fid_transfers, fid_residual = _fids(transfers, fid) if fid else (None, None)
    own = np.eye(len(rates), dtype=bool)
    return {
        "recogniser_accuracy": _rate(recognised, transfers.labels),
        "transfer_accuracy": rates[~own].mean(),
        "transfer_accuracy_residual": rates_residual[~own].mean(),
        "kept": rates[own].mean(),
        "kept_residual": rates_residual[own].mean(),
        "rates": rates,
        "rates_residual": rates_residual,
        "frechet": frechet,
        "frechet_residual": frechet_residual,
        "frechet_real": frechet_real,
        "fid": fid_transfers,
        "fid_residual": fid_residual,
    }


def _clipped(transfers: Transfers) -> Transfers:
    """With all pixels in -1..1, as they are seen, however far a generator went."""
    x, labels, *generated = transfers
    return Transfers(x, labels, *(np.clip(images, -1, 1) for images in generated))


def _rate(recognised, target):
    """Share of images recognised as their target; NaN if there is none, or one is NaN.

    Args:
      recognised: classes, -1 for an image that is not finite.
    """
    if not len(recognised) or (recognised < 0).any():
        return np.nan
    return (recognised == target).mean()


def _recognition_rates(transfers, recogniser):
    """Rates `[from, to]` of the transfers, and of R alone."""
    classes = range(len(transfers.to_class))
    residual = recogniser.recognise(transfers.residual)
    rates, rates_residual = np.zeros((2, len(classes), len(classes)))
    for target, fake in enumerate(transfers.to_class):
        recognised = recogniser.recognise(fake)
        for source in classes:
            members = transfers.labels == source
            rates[source, target] = _rate(recognised[members], target)
            rates_residual[source, target] = _rate(residual[members], target)
    return rates, rates_residual


def _frechet_distances(transfers, recogniser):
    """Means over classes: of transfers, of R, and of two halves of the real images."""
    counts = np.bincount(transfers.labels, minlength=len(transfers.to_class))
    if counts.min() < FEWEST_FOR_FRECHET:
        return (np.nan,) * 3
    real = recogniser.features(transfers.x)
    residual = recogniser.features(transfers.residual)
    distances = []
    for target, fake in enumerate(transfers.to_class):
        own = transfers.labels == target
        halves = np.array_split(real[own], 2)
        pairs = (
            (real[own], recogniser.features(fake[~own])),
            (real[own], residual[~own]),
            halves,
        )
        distances.append([measures.frechet_distance(*pair) for pair in pairs])
    return np.mean(distances, 0)


def _fids(transfers, fid):
    """Means over classes: of transfers, and of R."""
    generated = np.isfinite(transfers.to_class).all()
    if not (generated and np.isfinite(transfers.residual).all()):
        return np.nan, np.nan
    values = []
    for target, fake in enumerate(transfers.to_class):
        own = transfers.labels == target
        real, generated, residual = (
            np.asarray(to_bytes(images))
            for images in (transfers.x[own], fake[~own], transfers.residual[~own])
        )
        values.append([fid(real, generated), fid(real, residual)])
    return np.mean(values, 0)
