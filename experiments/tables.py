"""Formatting of the summary tables that runs print."""

from collections.abc import Mapping, Sequence

from bspec_jax.analysis.observations import VERDICTS


def number(value: float | None, digits: int = 2) -> str:
    """Formats a number of results.json to so many decimals; null becomes a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def observation_lines(
    observations: Mapping, columns: Sequence[str], *, verdicts: bool = True
) -> list[str]:
    """A heading, then one line per observation.

    Args:
      observations: records of `analysis.observations` by number, as in results.json.
      columns: keys of the numbers to show, such as "value" and "control".
      verdicts: False for a single network, of which nothing is decided.
    """
    heading = "".join(f"{name:>9}" for name in columns)
    lines = [f"{'observation':43}{heading}  limit"]
    for key, record in observations.items():
        numbers = "".join(f"{number(record[name], 3):>9}" for name in columns)
        line = f"{key} {record['claim']:41}{numbers}  {record['threshold']:5}"
        lines.append(line + f"  {VERDICTS[record['holds']]}" * verdicts)
    return lines
