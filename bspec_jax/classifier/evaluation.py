"""Measures of trained classifiers, from their responses to the test images.

What depends on responses that are not finite is NaN, counts too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from bspec_jax.analysis import specialization as sp
from bspec_jax.analysis.observations import average, evaluate
from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.classifier import contributions
from bspec_jax.classifier.network import MAIN
from bspec_jax.losses import classification_floor, classification_loss

CONTROL = "control"  # the separately trained network that `MAIN` is compared with
SHOWN_BRANCHES = 2  # in Figures 8 and 16: those of the largest response
SHOWN_CLASSES = 3  # in Figure 8: those least carried by a single branch


class Job(NamedTuple):
    """One network to train.

    repeat: index of its seed.
    separate: whether it is a control, whose branches are trained separately.
    """

    name: str
    branches: int
    repeat: int
    separate: bool


class Responses(NamedTuple):
    """Responses of a network's branches to the test images, `[M, N, C]` each.

    trained: after training.
    initial: before training, with BatchNorm statistics of the training images.
    """

    trained: Float[np.ndarray, "M N C"]
    initial: Float[np.ndarray, "M N C"]


def analyse(
    jobs: Sequence[Job],
    responses: Mapping[str, Responses],
    labels: Int[np.ndarray, " N"],
    num_classes: int,
) -> dict:
    """All measures of an experiment's networks; top-level ones are the main network's.

    Args:
      responses: by name of the job, including `MAIN`.
    """
    responses = {
        name: Responses(*map(_nan_unless_finite, of)) for name, of in responses.items()
    }
    v = responses[MAIN].trained
    measured = {
        job.name: measure_network(responses[job.name].trained, labels) for job in jobs
    }
    networks = [{**job._asdict(), **measured[job.name]} for job in jobs]
    ablation = contributions.ablation(v, labels, active_branches(v))
    present, energy = _class_energy(v, labels)
    shared = contributions.most_shared_classes(energy)
    compared = {"trained": v, "before training": responses[MAIN].initial}
    if CONTROL in responses:
        compared["trained separately"] = responses[CONTROL].trained[: len(v)]
    enrichments = {
        name: _enrichment(v, labels, num_classes) for name, v in compared.items()
    }
    return measured[MAIN] | {
        "ablation": ablation._asdict(),
        "enrichment": {
            **enrichments["trained"]._asdict(),
            "significant_pairs": {
                name: pairs.significant.sum() for name, pairs in enrichments.items()
            },
        },
        "selection": {
            "branches": ablation.order[:SHOWN_BRANCHES],
            "classes": present[shared[:SHOWN_CLASSES]],
        },
        "covariances": {name: sp.covariance(v) for name, v in compared.items()},
        "networks": networks,
        **_observations(networks, responses, labels),
    }


def _class_energy(v: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes that occur, and each branch's mean energy in them, `[M, classes]`."""
    present, regions = np.unique(labels, return_inverse=True)
    return present, np.asarray(sp.region_energy(v, regions, len(present)))


def _enrichment(
    v: np.ndarray, labels: np.ndarray, num_classes: int
) -> contributions.Enrichment:
    active = active_branches(v)
    confidence = contributions.confidence(v, labels)
    return contributions.enrichment(confidence, labels, active, num_classes)


def activity(v: Float[np.ndarray, "M N *C"]) -> Float[np.ndarray, " M"]:
    """1 for an active branch, 0 for a silent one; NaN if the responses are not finite.

    See `specialization.active_branches`.
    """
    norms = sp.response_norms(v)[:, None]  # as of a single example
    return np.asarray(sp.measure(norms).branches.active)


def active_branches(v: Float[np.ndarray, "M N C"]) -> Bool[np.ndarray, " M"]:
    """Which branches are active; none is known to be if responses are not finite."""
    return activity(v) == 1


def measure_network(
    v: Float[np.ndarray, "M N C"], labels: Int[np.ndarray, " N"]
) -> dict:
    """Accuracy, loss, activity and class means of one network."""
    num_classes, examples = v.shape[-1], np.arange(len(labels))
    v = _nan_unless_finite(v)
    f = v.sum(0)
    # 1 where an output is at or beyond the clamp, 0 elsewhere.
    outside = np.where(np.isnan(f), np.nan, np.abs(f) >= 1)
    # The paper's loss whatever clamp the training used, so that runs compare.
    loss = float(classification_loss(jnp.asarray(f), labels).mean())
    covariance = np.asarray(sp.covariance(v))
    energy = np.asarray(sp.example_energy(v))
    active = activity(v).sum()
    return {
        "test_accuracy": contributions.accuracy(f, labels),
        "loss": loss,
        "excess_loss": loss - classification_floor(num_classes),
        "saturated": outside.min(-1).mean(),
        "saturated_coordinates": outside.mean(),
        "active": whole(active),
        "silent": whole(len(v) - active),
        "norms": np.asarray(sp.response_norms(v)),
        "covariance": covariance,
        "specialization_index": float(sp.specialization_index(covariance)),
        "class_outputs": contributions.class_means(
            v[:, examples, labels], labels, num_classes
        ),
        "class_norms": np.sqrt(contributions.class_means(energy, labels, num_classes)),
    }


def _nan_unless_finite(v: np.ndarray) -> np.ndarray:
    """NaN for infinities: sums of these warn, and comparisons lose them."""
    return v if np.isfinite(v).all() else np.where(np.isfinite(v), v, np.nan)


def whole(count: np.floating) -> int | float:
    """A count as an int; NaN stays."""
    return math.nan if np.isnan(count) else int(count)


def _observations(
    networks: Sequence[dict], responses: Mapping[str, Responses], labels: np.ndarray
) -> dict:
    """Observations 1 to 6 over M, with the measures behind them.

    Measures are means over repeats of the converged and the initial networks, and of
    the control: the first M of the separately trained branches. A region is a class.
    The networks of a repeat share a seed, hence the order of the data, so the interval
    of observation 6, meant for independent networks, is if anything too wide.
    """
    sums = {(n["branches"], n["repeat"]): n for n in networks if not n["separate"]}
    branches = sorted({m for m, _ in sums})
    repeats = sorted({repeat for _, repeat in sums})
    controls = {n["repeat"]: n["name"] for n in networks if n["separate"]}

    def measured(stage: str, name: str | None, m: int) -> sp.Specialization:
        if name is None:  # without a control its measures are undefined
            return sp.Specialization(*[np.nan] * len(sp.Specialization._fields))
        v = getattr(responses[name], stage)[:m]
        _, energy = _class_energy(v, labels)
        return sp.measure(v, energy=energy)

    def mean_over_repeats(stage, name_of):
        table = [[measured(stage, name_of(m, r), m) for r in repeats] for m in branches]
        fields = {
            field: np.array([[getattr(entry, field) for entry in row] for row in table])
            for field in sp.Specialization._fields
        }
        return average(sp.Specialization(**fields))

    stages = {
        "converged": mean_over_repeats("trained", lambda m, r: sums[m, r]["name"]),
        "initial": mean_over_repeats("initial", lambda m, r: sums[m, r]["name"]),
        "control": mean_over_repeats("trained", lambda m, r: controls.get(r)),
    }
    accuracy, interval = mean_interval(
        [[sums[m, r]["test_accuracy"] for r in repeats] for m in branches]
    )
    return {
        "observations": evaluate(branches, **stages, success_interval=interval),
        "measures": stages,
        "sweep": {
            "branches": branches,
            "repeats": len(repeats),
            "test_accuracy": accuracy,
            "test_accuracy_interval": interval,
            "active": stages["converged"]["num_active"]["mean"],
            "silent": stages["converged"]["num_silent"]["mean"],
            "control_active": stages["control"]["num_active"]["mean"],
        },
    }
