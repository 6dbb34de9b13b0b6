"""The figures of a finished run."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from bspec_jax import figures
from bspec_jax.analysis.averages import summary
from bspec_jax.analysis.silence import earliest_silence
from bspec_jax.storage import files


def draw(results: dict) -> dict[str, Figure]:
    """All figures, by file name; those that a run lacks the networks for are absent."""
    cells, config = results["cells"], results["config"]
    drawn = {"silence_norms": figures.silence_norms(results["example"])}
    if curves := by_degree(cells, config):
        drawn["silence_budget"] = figures.silence_against_budget(curves)
    if rows := by_branches(cells, config):
        drawn["fig05_active"] = figures.silence_against_branches(rows)
    if results["threshold"]:
        drawn["silence_threshold"] = figures.silence_threshold(results["threshold"])
    if grid := by_decay_and_rate(cells, config):
        drawn["silence_heat_map"] = figures.silence_heat_map(grid)
    return drawn


def chosen(cells: Sequence[Mapping], config: Mapping, *free: str) -> list[Mapping]:
    """The cells whose settings are the main ones, but for those that are `free`."""
    main = {
        "branches": config["branches"],
        "depth": config["depth"],
        "normalisation": config["normalisation"],
        "decay": config["weight_decay"],
        "learning_rate": config["learning_rate"],
        "init_scale": config["init_scale"],
    }
    fixed = {name: value for name, value in main.items() if name not in free}
    return [cell for cell in cells if fixed.items() <= cell.items()]


def by_degree(cells: Sequence[Mapping], config: Mapping) -> dict[str, dict]:
    """Active share along training with the main decay, and at the end with others."""
    curves = {}
    for cell in sorted(chosen(cells, config, "depth"), key=lambda c: c["depth"]):
        others = chosen(cells, config | {"depth": cell["depth"]}, "decay")
        active = share([c["active_centred"] for c in others], cell["branches"])
        degree = cell["degree"]
        curves[f"degree {degree}"] = cell["along_training"] | {
            "earliest": earliest_silence(degree),
            "ends": {
                "decay_budget": [c["decay_budget"] for c in others],
                "active_share": active["mean"],
                "active_share_interval": active["interval"],
            },
        }
    return curves


def by_branches(cells: Sequence[Mapping], config: Mapping) -> dict[str, dict]:
    """Active and silent branches against M, with the main decay and without any."""
    rows = {}
    for decay in sorted({0.0, config["weight_decay"]}):
        of_decay = chosen(cells, config | {"weight_decay": decay}, "branches")
        of_decay = sorted(of_decay, key=lambda cell: cell["branches"])
        if len(of_decay) > 1:
            m = np.array([cell["branches"] for cell in of_decay])
            active = [np.array(c["active_centred"], float) for c in of_decay]
            silent = [n - a for n, a in zip(m, active, strict=True)]
            name = f"weight decay {decay:g}" if decay else "no weight decay"
            rows[name] = {
                "branches": m.tolist(),
                "active": shown(active),
                "silent": shown(silent),
            }
    return rows


def by_decay_and_rate(cells: Sequence[Mapping], config: Mapping) -> dict | None:
    """Active share and accuracy over decays and rates; None without several rates."""
    grid = {
        (cell["decay"], cell["learning_rate"]): cell
        for cell in chosen(cells, config, "decay", "learning_rate")
    }
    decays, rates = (sorted({pair[axis] for pair in grid}) for axis in (0, 1))
    if len(rates) == 1 or len(decays) == 1:
        return None
    active, accuracy = (
        [[np.mean(np.array(grid[d, r][key], float)) for r in rates] for d in decays]
        for key in ("active_centred", "accuracy")
    )
    return {
        "decays": decays,
        "learning_rates": rates,
        "active_share": np.array(active) / config["branches"],
        "accuracy": accuracy,
    }


def share(active: Sequence, branches: int) -> dict[str, list]:
    """The share of active branches, for each list over seeds."""
    return shown(np.array(active, float) / branches, 1)


def shown(values: Sequence, most: float = np.inf) -> dict[str, list]:
    """Mean and 95 % interval over the last axis, of values in 0..most."""
    return files.to_json(summary(np.array(values), True, (0, most)))
