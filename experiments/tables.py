"""Lines of the tables that end a run."""

from collections.abc import Mapping, Sequence

from bspec_jax.analysis.observations import VERDICTS


def number(value: float | None, digits: int = 2) -> str:
    """A number of results.json; null is a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def observation_lines(observations: Mapping, columns: Sequence[str]) -> list[str]:
    """A line for each observation with these of its numbers, and a heading."""
    numbers = "".join(f"{name:>9}" for name in columns)
    lines = [f"{'observation':43}{numbers}  limit"]
    for key, item in observations.items():
        numbers = "".join(f"{number(item[name], 3):>9}" for name in columns)
        lines.append(
            f"{key} {item['claim']:41}{numbers}  {item['threshold']:5}  "
            f"{VERDICTS[item['holds']]}"
        )
    return lines
