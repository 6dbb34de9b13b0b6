"""What each branch contributes to a classification, from the responses v `[M, N, C]`.

NumPy, on the host: everything follows from the responses to the test examples alone,
since f is a sum and a branch is removed by leaving its term out.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats


def confidence(
    responses: Float[np.ndarray, "M N C"], labels: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "M N"]:
    """v_k(x)_y less its mean over classes: positive where branch k says the true class.

    What a branch adds to every class alike does not count, as in the softmax.
    Source: Figure 7.
    """
    true = responses[:, np.arange(len(labels)), labels]
    return true - responses.mean(-1)


def class_means(
    values: Float[np.ndarray, "M N"], labels: Int[np.ndarray, " N"], num_classes: int
) -> Float[np.ndarray, "M C"]:
    """Mean of each branch's values over the examples of each class; NaN for none."""
    with np.errstate(invalid="ignore"):
        return np.stack(
            [
                values[:, labels == c].sum(1) / (labels == c).sum()
                for c in range(num_classes)
            ],
            1,
        )


def accuracy(f: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """Share of examples whose largest output is that of their class."""
    return float((f.argmax(-1) == labels).mean())


class Ablation(NamedTuple):
    """Accuracies of the same network with some branches left out of the sum."""

    full: float
    without: list[float]  # each branch, `[M]`
    alone: list[float]  # only that branch, `[M]`
    without_silent: float  # all silent branches at once
    order: list[int]  # branches by response norm, largest first
    kept: list[float]  # the first 1, 2 ... M of that order, `[M]`


def ablation(
    responses: Float[np.ndarray, "M N C"],
    labels: Int[np.ndarray, " N"],
    active: Bool[np.ndarray, " M"],
) -> Ablation:
    """Accuracy without each branch, with it alone, and without all that are silent."""
    f = responses.sum(0)
    order = np.argsort(-np.linalg.norm(responses, axis=(1, 2)), kind="stable")
    return Ablation(
        full=accuracy(f, labels),
        without=[accuracy(f - v, labels) for v in responses],
        alone=[accuracy(v, labels) for v in responses],
        without_silent=accuracy(responses[active].sum(0), labels),
        order=order.tolist(),
        kept=[accuracy(total, labels) for total in np.cumsum(responses[order], 0)],
    )


class Enrichment(NamedTuple):
    """Which branches are responsible for which classes beyond chance, `[M, C]` each.

    Of the active branches, that of the largest confidence is responsible for an
    example; none is where no confidence is positive.
    """

    count: np.ndarray  # examples of the class that the branch is responsible for
    expected: np.ndarray  # by chance, if responsibility did not depend on the class
    p_value: np.ndarray  # of so many or more
    significant: np.ndarray  # at a false discovery rate of 5 % over all pairs


def enrichment(
    confidence: Float[np.ndarray, "M N"],
    labels: Int[np.ndarray, " N"],
    active: Bool[np.ndarray, " M"],
    num_classes: int,
    rate: float = 0.05,
) -> Enrichment:
    """Tests every (branch, class) pair for more examples than chance would give it.

    Under the null hypothesis the responsible branch does not depend on the class: the
    count of a pair is hypergeometric (one-sided Fisher's test). Pairs are significant
    at a false discovery rate of `rate` (Benjamini and Hochberg, J. R. Stat. Soc. B 57
    (1995), p. 289). Confidence knows the true class, so that a branch which always
    says one class, whatever the image, passes: compare with a control.
    """
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


def most_shared_classes(energy: Float[np.ndarray, "M C"]) -> Int[np.ndarray, " C"]:
    """Classes by the share of their energy that one branch carries, smallest first."""
    total = energy.sum(0)
    largest = np.divide(energy.max(0), total, out=np.ones(len(total)), where=total > 0)
    return np.argsort(largest, kind="stable")
