"""Formatting of the summary tables that runs print."""

from collections.abc import Mapping, Sequence

from bspec_jax.analysis.verdicts import VERDICTS, verdict


def number(value: float | None, digits: int = 2) -> str:
    """Formats a number of results.json to so many decimals; null becomes a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def branch_in_words(branch: str, widths: Sequence, normalisation: str) -> str:
    """A branch as settings name it: its architecture, widths and normalisation."""
    normalised = "BatchNorm" if normalisation == "batch" else "unnormalised"
    return f"{' '.join(map(str, (branch, *widths)))}, {normalised}"


def observation_lines(
    observations: Mapping, columns: Sequence[str], *, verdicts: bool = True
) -> list[str]:
    """A heading, then one line per observation; where it needs one, a second line.

    Args:
      observations: records of `analysis.observations` by number, as in results.json.
      columns: keys of the numbers to show, such as "value" and "control".
      verdicts: False for a single network, of which nothing is decided.
    """
    heading = "".join(f"{name:>9}" for name in columns)
    lines = [f"{'observation':54}{heading}  limit"]
    for key, record in observations.items():
        numbers = "".join(f"{number(record[name], 3):>9}" for name in columns)
        line = f"{key:8} {record['claim']:45}{numbers}  {record['threshold']:5}"
        lines.append(line + f"  {verdict(record)}" * verdicts)
        if verdicts and (remark := remarks(record)):
            lines.append(f"{'':9}({remark})")
    return lines


def remarks(record: Mapping) -> str:
    """Why there is no verdict, or what else must be known of it; "" if nothing."""
    said = [record["regime"] and f"it needs {record['regime']}", record["reason"]]
    uncentred = record.get("uncentred")
    if uncentred and not uncentred["agrees"]:
        said.append(f"with constant outputs: {VERDICTS[uncentred['holds']]}")
    return "; ".join(filter(None, said))
