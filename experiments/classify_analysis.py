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
from bspec_jax.statistics import rate_interval

CONTROL = "control"


class Job(NamedTuple):
    """One network to train."""

    name: str
    branches: int
    repeat: int
    separate: bool  # the control: branches trained separately


class Responses(NamedTuple):
    """What the branches of a network say, `[M, N, C]`, of the first N test examples."""

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
    active = np.asarray(sp.active_branches(v))
    confidence = contributions.confidence(v, labels)
    enrichment = contributions.enrichment(confidence, labels, num_classes)
    ablation = contributions.ablation(v, labels, active)
    energy = np.asarray(sp.region_energy(v, labels, num_classes))
    covariances = {
        "trained": main["covariance"],
        "before training": sp.covariance(responses[MAIN].initial),
    }
    if CONTROL in responses:
        apart = responses[CONTROL].trained[: len(v)]
        covariances["trained separately"] = sp.covariance(apart)
    return main | {
        "ablation": ablation._asdict(),
        "enrichment": enrichment._asdict(),
        # Figures 8 and 16: the two largest branches, the three most shared classes.
        "selection": {
            "branches": ablation.order[:2],
            "classes": contributions.most_shared_classes(energy)[:3],
        },
        "covariances": covariances,
        "networks": networks,
        **observations(jobs, responses, labels, num_classes),
    }


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
    jobs: Sequence[Job], responses: Mapping[str, Responses], labels, num_classes: int
) -> dict:
    """Observations 1 to 6 over the M of the jobs, with the measures behind them.

    Every measure is averaged over the repeats: converged, initial, and for the control,
    which is the first M branches of those that were trained separately. A region is a
    class.
    """
    sums = {(job.branches, job.repeat): job.name for job in jobs if not job.separate}
    branches = sorted({m for m, _ in sums})
    repeats = sorted({repeat for _, repeat in sums})
    apart = {job.repeat: job.name for job in jobs if job.separate}

    def measured(stage: str, name: str | None, m: int) -> sp.Specialization:
        if name is None:  # no control: undefined
            return sp.Specialization(*[np.nan] * len(sp.Specialization._fields))
        v = getattr(responses[name], stage)[:m]
        energy = sp.region_energy(v, labels[: v.shape[1]], num_classes)
        return sp.measure(v, energy=energy)

    def over_all(stage, name_of):
        table = [[measured(stage, name_of(m, r), m) for r in repeats] for m in branches]
        fields = zip(*(zip(*row, strict=True) for row in table), strict=True)
        return average(sp.Specialization(*map(np.array, fields)))

    stages = {
        "converged": over_all("trained", lambda m, r: sums[m, r]),
        "initial": over_all("initial", lambda m, r: sums[m, r]),
        "control": over_all("trained", lambda m, r: apart.get(r)),
    }
    correct = [
        [responses[sums[m, r]].trained.sum(0).argmax(-1) == labels for r in repeats]
        for m in branches
    ]
    _, interval = rate_interval(np.reshape(correct, (len(branches), -1)))
    found = evaluate(branches, **stages, success_interval=interval)
    if len(repeats) == 1:  # whatever Wilson's interval says of a single network
        found = {number: {**item, "holds": None} for number, item in found.items()}
    return {
        "observations": found,
        "measures": stages,
        "sweep": {
            "branches": branches,
            "repeats": len(repeats),
            "active": stages["converged"]["num_active"]["mean"],
            "silent": stages["converged"]["num_silent"]["mean"],
            "control_active": stages["control"]["num_active"]["mean"],
        },
    }
