"""What a run uses of its data, in lines for its start."""

from collections import Counter

from bspec_jax.data.listing import in_words
from bspec_jax.data.names import shown
from bspec_jax.data.selection import Selection
from bspec_jax.data.sources import Dataset

MOST_CLASSES = 40  # that get a line each


def describe(data: Dataset | Selection) -> list[str]:
    """A table of the images of each class: how many are used, how many left out, why.

    An example is left out if it is not drawn or cannot be read; a file, if it is not an
    example (see `Source.left_out`). Beyond 40 classes, only the totals.
    """
    used = {name: data.source.count(labels) for name, labels in data.used().items()}
    reasons = _left_out(data, sum(used.values()))
    rows = [
        (shown(name), *(counts[label] for counts in used.values()), reasons[name])
        for label, name in enumerate(data.class_names)
    ]
    if len(rows) > MOST_CLASSES:
        rows = []
    totals = (int(counts.sum()) for counts in used.values())
    rows.append(("all", *totals, sum(reasons.values(), Counter())))
    width = max(len(data.name), *(len(row[0]) for row in rows))
    lines = [
        f"{data.name:{width}} "
        + " ".join(f"{name:>10}" for name in used)
        + "  left out"
    ]
    for name, *counts, left_out in rows:
        numbers = " ".join(f"{count:10}" for count in counts)
        lines.append(f"{name:{width}} {numbers}  {_in_words(left_out)}")
    return lines


def _left_out(data, used) -> dict[str, Counter]:
    """By class, and "" for files of no class, how much is left out for which reason."""
    source, unreadable = data.source, data.unreadable_of_class()
    stored = source.count_of(source.train) + source.count_of(source.test)
    reasons = {"": Counter(source.left_out.get("", {}))}
    for label, name in enumerate(data.class_names):
        rest = stored[label] - used[label] - unreadable[label]
        reasons[name] = Counter(source.left_out.get(name, {}))
        reasons[name] += Counter(
            {"not drawn": int(rest), "unreadable": int(unreadable[label])}
        )
    return reasons


def _in_words(reasons: Counter) -> str:
    total = sum(reasons.values())
    return f"{total} ({in_words(reasons)})" if total else "0"
