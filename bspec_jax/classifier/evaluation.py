"""Measures of trained classifiers, from their responses to the test images.

What depends on responses that are not finite is NaN, counts too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from bspec_jax.analysis import specialization as sp
from bspec_jax.analysis.averages import average_stages
from bspec_jax.analysis.observations import evaluate
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
    *,
    seed: int = 0,
    regime: str | None = None,
) -> dict:
    """All measures of an experiment's networks; top-level ones are the main network's.

    Args:
      responses: by name of the job, including `MAIN`.
      seed: of the permutations behind the null correlation.
      regime: what the networks lack of the paper's (`verdicts.missing_regime`).
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
        **_observations(networks, responses, labels, seed, regime),
    }


def _class_energy(v: ArrayLike, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes that occur, and each branch's mean energy in them, `[M, classes]`."""
    present, regions = np.unique(labels, return_inverse=True)
    return present, np.asarray(sp.region_energy(v, regions, len(present)))


def _enrichment(
    v: np.ndarray, labels: np.ndarray, num_classes: int
) -> contributions.Enrichment:
    active = active_branches(v)
    confidence = contributions.confidence(v, labels)
    return contributions.enrichment(confidence, labels, active, num_classes)


def active_branches(v: Float[np.ndarray, "M N C"]) -> Bool[np.ndarray, " M"]:
    """Which branches are active by the centred rule; none if that is not known."""
    return np.asarray(sp.activity(v, rule="centred")) == 1


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
    active, centred, by_variance = (
        np.asarray(sp.activity(v, rule=rule)).sum()
        for rule in ("norm", "centred", "variance")
    )
    return {
        "test_accuracy": contributions.accuracy(f, labels),
        "loss": loss,
        "excess_loss": loss - classification_floor(num_classes),
        "saturated": outside.min(-1).mean(),
        "saturated_coordinates": outside.mean(),
        "active": whole(active),
        "silent": whole(len(v) - active),
        "active_centred": whole(centred),
        "active_variance": whole(by_variance),
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


class _Table(NamedTuple):
    """The networks of a sweep: rows are values of M, ascending, columns are repeats.

    names: of the networks.
    controls: of the separately trained network of each repeat; None without one.
    """

    branches: list[int]
    names: list[list[str]]
    controls: list[str | None]

    def of(self, value: Callable[[int, int], Any]) -> np.ndarray:
        """`value(row, column)` of each network."""
        rows, columns = range(len(self.branches)), range(len(self.controls))
        return np.array([[value(i, r) for r in columns] for i in rows])


def _observations(
    networks: Sequence[dict],
    responses: Mapping[str, Responses],
    labels: np.ndarray,
    seed: int,
    regime: str | None,
) -> dict:
    """Observations 1 to 6 over M, with the measures behind them.

    The networks of a repeat share a seed, hence the order of the data.
    """
    sums = {(n["branches"], n["repeat"]): n for n in networks if not n["separate"]}
    controls = {n["repeat"]: n["name"] for n in networks if n["separate"]}
    branches, repeats = (sorted(set(values)) for values in zip(*sums, strict=True))
    names = [[sums[m, r]["name"] for r in repeats] for m in branches]
    table = _Table(branches, names, [controls.get(r) for r in repeats])
    measures = {
        rule: _stages(table, responses, labels, rule, jax.random.key(seed))
        for rule in ("centred", "norm")
    }
    accuracies = table.of(lambda i, r: sums[branches[i], repeats[r]]["test_accuracy"])
    accuracy, interval = mean_interval(accuracies, bounds=(0, 1))
    success = {"values": accuracies}
    centred, norm = (stages["converged"]["num_active"] for stages in measures.values())
    return {
        "observations": evaluate(branches, measures, success, regime=regime),
        "measures": measures,
        "sweep": {
            "branches": branches,
            "repeats": len(repeats),
            "test_accuracy": accuracy,
            "test_accuracy_interval": interval,
            "active": norm["mean"],
            "active_interval": norm["interval"],
            "active_centred": centred["mean"],
            "active_centred_interval": centred["interval"],
            "silent": measures["centred"]["converged"]["num_silent"]["mean"],
            "control_active": measures["centred"]["control"]["num_active"]["mean"],
        },
    }


def _stages(
    table: _Table,
    responses: Mapping[str, Responses],
    labels: np.ndarray,
    rule: sp.ActivityRule,
    key: Key[Array, ""],
) -> dict:
    """Means over repeats by one rule; see `averages.average_stages`.

    The control is the first M of the separately trained branches. A region is a class.
    """

    def trained(i, r):
        return responses[table.names[i][r]].trained

    def initial(i, r):
        return responses[table.names[i][r]].initial

    def control(i, r):
        name = table.controls[r]
        return name and responses[name].trained[: table.branches[i]]

    def null(i, r):
        own = jax.random.fold_in(jax.random.fold_in(key, table.branches[i]), r)
        return sp.null_correlation(trained(i, r), own, rule=rule)

    measured = (
        table.of(lambda i, r, of=of: _measure(of(i, r), labels, rule))
        for of in (trained, initial, control)
    )
    stages = (sp.Specialization(*np.moveaxis(values, -1, 0)) for values in measured)
    return average_stages(*stages, table.of(null) if rule == "centred" else None)


def _measure(
    v: np.ndarray | None, labels: np.ndarray, rule: sp.ActivityRule
) -> sp.Specialization:
    """Measures by class; undefined without responses."""
    if v is None:
        return sp.Specialization(*[np.nan] * len(sp.Specialization._fields))
    _, energy = _class_energy(sp.regional(v, rule), labels)
    return sp.measure(v, energy=energy, rule=rule)
