"""What each branch contributes to a classification, from its responses `[M, N, C]`.

NumPy, on the host: f is a sum, so removing a branch only leaves out its term, and
everything here follows from the responses to the test examples. Numbers that depend on
responses that are not finite are NaN. Whatever takes labels raises ArgumentError unless
they are a class in 0..C-1 of each example.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import stats

from bspec_jax.classifier.checks import check_labels
from bspec_jax.losses import Clamp, limited


@np.errstate(invalid="ignore")
def confidence(
    responses: Float[np.ndarray, "M N C"], labels: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "M N"]:
    """v_k(x)_y minus its mean over classes; positive if branch k favours class y.

    Like a softmax, it ignores what a branch adds to all classes alike.
    Source: Figure 7.
    """
    check_labels(labels, *responses.shape[1:])
    true = responses[:, np.arange(len(labels)), labels]
    return true - responses.mean(-1)


def class_means(
    values: Float[np.ndarray, "M N"], labels: Int[np.ndarray, " N"], num_classes: int
) -> Float[np.ndarray, "M C"]:
    """Means of each branch over the examples of each class; NaN for an empty class."""
    check_labels(labels, values.shape[1], num_classes)
    with np.errstate(invalid="ignore"):
        return np.stack(
            [
                values[:, labels == c].sum(1) / (labels == c).sum()
                for c in range(num_classes)
            ],
            1,
        )


def accuracy(logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """Share of examples whose largest logit is that of their class."""
    check_labels(labels, *logits.shape)
    if not np.isfinite(logits).all():
        return math.nan
    return float((logits.argmax(-1) == labels).mean())


def probabilities(
    logits: Float[np.ndarray, "N C"], clamp: Clamp = "hard"
) -> Float[np.ndarray, "N C"]:
    """softmax(clamp f), the probabilities that the loss compares.

    With outputs limited to [-1, 1], none exceeds `surest`.
    """
    seen = np.asarray(limited(jnp.asarray(logits), clamp), float)
    weights = np.exp(seen - seen.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def surest(num_classes: int, clamp: Clamp = "hard") -> float:
    """The largest of `probabilities`: 0.45 for 10 classes and a clamp, 1 without."""
    if clamp == "none":
        return 1.0
    return math.exp(2) / (math.exp(2) + num_classes - 1)


class Ablation(NamedTuple):
    """Accuracies of a network with branches left out of the sum."""

    full: float
    without: list[float]  # each branch, `[M]`
    alone: list[float]  # each branch on its own, `[M]`
    without_silent: float  # all silent branches at once, but for their mean outputs
    order: list[int]  # branches by response norm, largest first
    kept: list[float]  # the first 1, 2 ... M of `order`, `[M]`

    @property
    def points_lost(self) -> Float[np.ndarray, " M"]:
        """Accuracy lost without each branch, in percentage points."""
        return 100 * (self.full - np.array(self.without))

    @property
    def alone_in_order(self) -> Float[np.ndarray, " M"]:
        """`alone`, in the order of `order` and `kept`."""
        return np.array(self.alone)[self.order]


@np.errstate(invalid="ignore")
def ablation(
    responses: Float[np.ndarray, "M N C"],
    labels: Int[np.ndarray, " N"],
    active: Bool[np.ndarray, " M"],
) -> Ablation:
    """Accuracy without each branch, with it alone, and without all silent branches.

    What all silent branches say together moves the sum, but is constant: of these, only
    what depends on the example is left out, as by `pruning.prune`.
    """
    f = responses.sum(0)
    silent = responses[~active].sum(0)
    order = np.argsort(-np.linalg.norm(responses, axis=(1, 2)), kind="stable")
    return Ablation(
        full=accuracy(f, labels),
        without=[accuracy(f - v, labels) for v in responses],
        alone=[accuracy(v, labels) for v in responses],
        without_silent=accuracy(f - silent + silent.mean(0), labels),
        order=order.tolist(),
        kept=[accuracy(total, labels) for total in np.cumsum(responses[order], 0)],
    )


class Enrichment(NamedTuple):
    """Which branches are responsible for which classes beyond chance, `[M, C]` each.

    The branch responsible for an example is the active one of largest confidence;
    there is none if no confidence is positive. All NaN if a confidence is not finite.
    """

    count: np.ndarray  # examples of the class for which the branch is responsible
    expected: np.ndarray  # the count if responsibility did not depend on the class
    p_value: np.ndarray  # probability of at least `count` under that hypothesis
    significant: np.ndarray  # at a given false discovery rate over all pairs


def enrichment(
    confidence: Float[np.ndarray, "M N"],
    labels: Int[np.ndarray, " N"],
    active: Bool[np.ndarray, " M"],
    num_classes: int,
    rate: float = 0.05,
) -> Enrichment:
    """Tests whether a branch is responsible for a class more often than by chance.

    Under the null hypothesis the responsible branch does not depend on the class: the
    count of a (branch, class) pair is hypergeometric (one-sided Fisher's exact test).
    Confidence knows the true class, so a branch that favours one class whatever the
    image passes the test: compare with a control.

    Args:
      rate: false discovery rate over all pairs.

    Source: Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995), p. 289.
    """
    check_labels(labels, confidence.shape[1], num_classes)
    if not np.isfinite(confidence).all():
        return Enrichment(*np.full((4, len(confidence), num_classes), math.nan))
    confidence = np.where(active[:, None], confidence, 0)
    counts = confidence.max(0) > 0
    responsible = np.eye(len(confidence), dtype=int)[confidence[:, counts].argmax(0)]
    of_class = np.eye(num_classes, dtype=int)[labels[counts]]  # [N, C]
    count = responsible.T @ of_class
    of_branch, in_class = responsible.sum(0)[:, None], of_class.sum(0)[None]
    total = max(counts.sum(), 1)
    p = stats.hypergeom.sf(count - 1, total, in_class, of_branch)
    adjusted = stats.false_discovery_control(p.ravel()).reshape(p.shape)
    expected = of_branch * in_class / total
    return Enrichment(count, expected, p, adjusted <= rate)


def log2_ratio(
    count: Num[np.ndarray, "M C"], expected: Float[np.ndarray, "M C"]
) -> Float[np.ndarray, "M C"]:
    """log2(count / expected) of an `Enrichment`; -inf for no example, NaN for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(count / expected)


def most_confident(
    confidence: Float[np.ndarray, " N"],
    labels: Int[np.ndarray, " N"],
    label: int,
    share: float,
) -> Int[np.ndarray, " top"]:
    """Examples of a class in the top `share` of one branch's confidence, best first.

    At least one. Source: Figures 8 (share .02) and 16 (.07).
    """
    of_class = np.flatnonzero(labels == label)
    order = np.argsort(-confidence[of_class], kind="stable")
    return of_class[order[: max(1, round(share * len(of_class)))]]


class MostConfident(NamedTuple):
    """The examples of one class in which one branch is most confident.

    examples: indices, most confident first.
    confidence: the branch's, in these examples.
    shared: number of them that are also in the top of another compared branch.
    """

    label: int
    branch: int
    examples: Int[np.ndarray, " top"]
    confidence: Float[np.ndarray, " top"]
    shared: int


def compare_most_confident(
    confidence: Float[np.ndarray, "M N"],
    labels: Int[np.ndarray, " N"],
    branches: Sequence[int],
    classes: Sequence[int],
    share: float,
) -> list[MostConfident]:
    """`most_confident` of some branches in some classes, and how far the tops overlap.

    In the order of `classes`, and of `branches` within a class.
    """
    compared = []
    for label in classes:
        tops = {
            k: most_confident(confidence[k], labels, label, share) for k in branches
        }
        for k in branches:
            top, others = tops[k], [tops[other] for other in tops if other != k]
            shared = int(np.isin(top, np.concatenate([[], *others])).sum())
            compared.append(MostConfident(label, k, top, confidence[k, top], shared))
    return compared


def sample_of_each(
    labels: Int[np.ndarray, " N"], count: int, seed: int = 0
) -> Int[np.ndarray, " K"]:
    """Indices of up to `count` random examples of each class, class by class."""
    rng = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        drawn.append(rng.choice(of_class, min(count, len(of_class)), replace=False))
    return np.concatenate(drawn)


def most_shared_classes(energy: Float[np.ndarray, "M C"]) -> Int[np.ndarray, " C"]:
    """Classes by the largest share of their energy in one branch, smallest first.

    Last are those without any energy, and those where it is not finite.
    """
    total = energy.sum(0)
    largest = np.ones(len(total))
    with np.errstate(invalid="ignore"):
        np.divide(energy.max(0), total, out=largest, where=total != 0)
    return np.argsort(largest, kind="stable")
