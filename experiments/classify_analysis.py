"""What `experiments.classify` says of its networks, from their responses alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bspec_jax import contributions
from bspec_jax import specialization as sp
from bspec_jax.classifier import MAIN
from bspec_jax.losses import classification_floor, classification_loss
from bspec_jax.observations import average, evaluate
from bspec_jax.statistics import mean_interval

CONTROL = "control"


class Job(NamedTuple):
    """One network to train."""

    name: str
    branches: int
    repeat: int
    separate: bool  # the control: branches trained separately


class Responses(NamedTuple):
    """What the branches of a network say of the test examples, `[M, N, C]`."""

    trained: np.ndarray
    initial: np.ndarray


def analyse(
    jobs: Sequence[Job],
    responses: Mapping[str, Responses],
    labels: np.ndarray,
    num_classes: int,
) -> dict:
    """What results.json holds of the networks; those named are the main one's."""
    v = responses[MAIN].trained
    networks = [
        {**job._asdict(), **describe_network(responses[job.name].trained, labels)}
        for job in jobs
    ]
    main = {k: x for k, x in networks[0].items() if k not in Job._fields}
    ablation = contributions.ablation(v, labels, np.asarray(sp.active_branches(v)))
    present, energy = class_energy(v, labels)
    compared = {"trained": v, "before training": responses[MAIN].initial}
    if CONTROL in responses:
        compared["trained separately"] = responses[CONTROL].trained[: len(v)]
    enrichments = {name: enrich(v, labels, num_classes) for name, v in compared.items()}
    return main | {
        "ablation": ablation._asdict(),
        "enrichment": {
            **enrichments["trained"]._asdict(),
            "significant_pairs": {
                name: one.significant.sum() for name, one in enrichments.items()
            },
        },
        # Figures 8 and 16: the two largest branches, the three most shared classes.
        "selection": {
            "branches": ablation.order[:2],
            "classes": present[contributions.most_shared_classes(energy)[:3]],
        },
        "covariances": {name: sp.covariance(v) for name, v in compared.items()},
        "networks": networks,
        **observations(networks, responses, labels),
    }


def class_energy(v: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes that occur, and the branches' mean energy in each, `[M, classes]`."""
    present, regions = np.unique(labels, return_inverse=True)
    return present, np.asarray(sp.region_energy(v, regions, len(present)))


def enrich(v: np.ndarray, labels: np.ndarray, num_classes: int):
    """Which branches are responsible for which classes."""
    active = np.asarray(sp.active_branches(v))
    confidence = contributions.confidence(v, labels)
    return contributions.enrichment(confidence, labels, active, num_classes)


def describe_network(v: np.ndarray, labels: np.ndarray) -> dict:
    """What results.json says of one network."""
    num_classes, examples = v.shape[-1], np.arange(len(labels))
    f = v.sum(0)
    # For every --clamp by the paper's own loss, so that runs can be compared.
    loss = float(classification_loss(jnp.asarray(f), labels).mean())
    covariance = np.asarray(sp.covariance(v))
    energy = np.asarray(sp.example_energy(v))
    active = int(sp.active_branches(v).sum())
    return {
        "test_accuracy": contributions.accuracy(f, labels),
        "loss": loss,
        "excess_loss": loss - classification_floor(num_classes),
        "saturated": (np.abs(f) >= 1).all(-1).mean(),
        "saturated_coordinates": (np.abs(f) >= 1).mean(),
        "active": active,
        "silent": len(v) - active,
        "norms": np.asarray(sp.response_norms(v)),
        "covariance": covariance,
        "specialization_index": float(sp.specialization_index(covariance)),
        "class_outputs": contributions.class_means(
            v[:, examples, labels], labels, num_classes
        ),
        "class_norms": np.sqrt(contributions.class_means(energy, labels, num_classes)),
    }


def observations(
    networks: Sequence[dict], responses: Mapping[str, Responses], labels: np.ndarray
) -> dict:
    """Observations 1 to 6 over the M of the networks, with the measures behind them.

    Every measure is averaged over the repeats: converged, initial, and for the control,
    which is the first M branches of those that were trained separately. A region is a
    class. The networks of one repeat share a seed, and so the order of the data, which
    makes the interval of observation 6, for independent ones, too wide if anything.
    """
    sums = {(n["branches"], n["repeat"]): n for n in networks if not n["separate"]}
    branches = sorted({m for m, _ in sums})
    repeats = sorted({repeat for _, repeat in sums})
    apart = {n["repeat"]: n["name"] for n in networks if n["separate"]}

    def measured(stage: str, name: str | None, m: int) -> sp.Specialization:
        if name is None:  # no control: undefined
            return sp.Specialization(*[np.nan] * len(sp.Specialization._fields))
        v = getattr(responses[name], stage)[:m]
        return sp.measure(v, energy=class_energy(v, labels)[1])

    def over_all(stage, name_of):
        table = [[measured(stage, name_of(m, r), m) for r in repeats] for m in branches]
        fields = zip(*(zip(*row, strict=True) for row in table), strict=True)
        return average(sp.Specialization(*map(np.array, fields)))

    stages = {
        "converged": over_all("trained", lambda m, r: sums[m, r]["name"]),
        "initial": over_all("initial", lambda m, r: sums[m, r]["name"]),
        "control": over_all("trained", lambda m, r: apart.get(r)),
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
