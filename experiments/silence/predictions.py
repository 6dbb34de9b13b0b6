"""The predictions of docs/silence.md against the networks of a run.

Each row holds a prediction's measure in one setting, over seeds, and what was expected
before any run. It holds if the 95 % interval lies within the expected range, and fails
if it lies outside; otherwise it is undecided.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bspec_jax import data
from bspec_jax.analysis.silence import growth_ratio, silence_threshold
from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.data.augmentation import normalise
from bspec_jax.losses import classification_loss
from experiments.silence.cells import Cell
from experiments.silence.config import Config

ENOUGH = 5  # decay budget from which branches should be silent
THRESHOLD_EXAMPLES = 5000  # that lambda* is computed from
TRAINS = 0.5  # accuracy relative to the best network's
FITTED = 0.99  # training accuracy
ENOUGH_WITH_BATCH_NORM = 20
SHARES = ("silent share", "AUC")  # measures that lie in 0..1


class Prediction(NamedTuple):
    """What was expected: a measure within [low, high]."""

    claim: str
    measure: str
    low: float
    high: float


PREDICTIONS = {
    "1a": Prediction("degree 3 and more: silent", "silent share", 0.25, 1),
    "1b": Prediction("degree 1: never silent", "silent share", 0, 0),
    "2": Prediction("no decay: not silent", "silent share", 0, 0.05),
    "3a": Prediction("active count hardly grows", "active(32) / active(8)", 0, 1.5),
    "3b": Prediction(
        "without decay it does", "active(32) / active(8)", 3, float("inf")
    ),
    "4a": Prediction("silent layers fall as exp(-beta)", "slope", -1.1, -0.9),
    "4b": Prediction("silent responses as exp(-d beta)", "slope / degree", -1.1, -0.9),
    "5a": Prediction(
        "differences of squared layer norms fall as exp(-2 beta)",
        "slope / 2",
        -1.1,
        -0.9,
    ),
    "5b": Prediction("layers balance", "largest / smallest layer norm", 1, 1.1),
    "6a": Prediction("active: pull balances decay", "median ratio", 0.8, 1.25),
    "6b": Prediction("silent: no pull", "median ratio", -float("inf"), 0.2),
    "7": Prediction("one curve per degree", "difference of active shares", -0.15, 0.15),
    "8a": Prediction(
        "degree 2, decay below a third of lambda*: none silent", "silent share", 0, 0
    ),
    "8b": Prediction("beyond lambda*: all silent", "largest norm", 0, 1e-3),
    "9a": Prediction("BatchNorm, data not fitted: none silent", "silent share", 0, 0),
    "9b": Prediction("BatchNorm, data fitted: some silent", "silent share", 1e-6, 1),
    "10a": Prediction("norms at 5 % tell survivors", "AUC", 0.85, 1),
    "10b": Prediction("at the start they do not", "AUC", 0, 0.75),
    "11": Prediction("silent branches are worth nothing", "accuracy lost", -1, 1e-3),
    # Not among the predictions: what the failure of 11 led to.
    "11b": Prediction("their constants aside", "accuracy lost", -1, 1e-3),
}


def row(number: str, setting: str, values: Sequence[float]) -> dict[str, Any]:
    """A prediction in one setting.

    Args:
      values: of each seed; those that are NaN are undefined and do not count.
    """
    claim, measure, low, high = PREDICTIONS[number]
    values = np.asarray(values, float)
    bounds = (0, 1) if measure in SHARES else (-np.inf, np.inf)
    mean, interval = mean_interval(values, ~np.isnan(values), bounds)
    holds = None
    if np.isfinite(interval).all():
        if low <= interval[0] and interval[1] <= high:
            holds = True
        elif interval[1] < low or interval[0] > high:
            holds = False
    return {
        "prediction": number,
        "claim": claim,
        "setting": setting,
        "measure": measure,
        "expected": [low, high],
        "value": mean,
        "interval": interval,
        "seeds": int((~np.isnan(values)).sum()),
        "holds": holds,
    }


def evaluate(
    config: Config, cells: Sequence[Cell], limit: float
) -> list[dict[str, Any]]:
    """The rows of all predictions that these networks bear on.

    Args:
      limit: of `lambda_star`; any number without networks `of_degree_two`.
    """
    plain = [cell for cell in cells if cell.group.normalisation == "none"]
    at_rate = at_main_rate(config, plain)
    rows = [
        *degrees(config, at_rate),
        *without_decay(plain),
        *growth(config, at_rate),
        *one_curve(config, plain),
        *threshold(of_degree_two(config, plain), limit),
        *batch_norm(cells),
    ]
    for cell in at_rate:
        if cell.weight_decay == config.weight_decay and cell.group.degree >= 3:
            rows += silent_branches(config, cell)
    return sorted(rows, key=lambda row: list(PREDICTIONS).index(row["prediction"]))


def degrees(config: Config, cells: Sequence[Cell]) -> Iterator[dict]:
    """1: which degrees fall silent at the main M."""
    for cell in cells:
        if cell.group.branches == config.branches and cell.budget[-1] >= ENOUGH:
            if cell.group.degree >= 3:
                yield row("1a", setting(cell), cell.silent_share)
            elif cell.group.degree == 1:
                yield row("1b", setting(cell), cell.silent_share)


def without_decay(cells: Sequence[Cell]) -> Iterator[dict]:
    """2: networks without decay, at every rate, as far as they train."""
    best = max((np.nanmax(cell.trained.accuracy) for cell in cells), default=0)
    for cell in cells:
        trains = cell.trained.accuracy >= TRAINS * best
        if cell.weight_decay == 0 and trains.any():
            yield row("2", setting(cell), np.where(trains, cell.silent_share, np.nan))


def growth(config: Config, cells: Sequence[Cell]) -> Iterator[dict]:
    """3: active branches at M = 32 over those at M = 8 (four times as many)."""
    for number, decay in (("3a", config.weight_decay), ("3b", 0.0)):
        chosen = {
            cell.group.branches: cell
            for cell in cells
            if cell.weight_decay == decay and cell.group.depth == config.depth
        }
        if {8, 32} <= chosen.keys():
            yield row(number, setting(chosen[32]), chosen[32].active / chosen[8].active)


def one_curve(config: Config, cells: Sequence[Cell]) -> Iterator[dict]:
    """7: cells of one budget, whose decays and rates differ by a factor of four."""
    main = [
        cell
        for cell in cells
        if cell.group.branches == config.branches
        and cell.group.depth == config.depth
        and cell.init_scale == config.init_scale
        and cell.weight_decay
    ]
    for a, b in combinations(main, 2):
        same = np.isclose(a.budget[-1], b.budget[-1])
        if same and np.isclose(b.weight_decay / a.weight_decay, 4):
            difference = (a.active - b.active) / config.branches
            yield row("7", f"{setting(a)}; {setting(b)}", difference)


def threshold(of_two: Sequence[Cell], limit: float) -> Iterator[dict]:
    """8: decay below and beyond lambda*, at degree 2."""
    for cell in of_two:
        where = f"{setting(cell)}, lambda* = {limit:.3g}"
        if cell.weight_decay < limit / 3:
            yield row("8a", where, cell.silent_share)
        elif cell.weight_decay > limit:
            yield row("8b", where, cell.sizes.max(-1))


def at_main_rate(config: Config, cells: Sequence[Cell]) -> list[Cell]:
    """Those of the main learning rate and initial scale."""
    main = (config.learning_rate, config.init_scale)
    return [cell for cell in cells if (cell.learning_rate, cell.init_scale) == main]


def of_degree_two(config: Config, cells: Sequence[Cell]) -> list[Cell]:
    """Those of them with decay and without normalisation, whose degree is two."""
    return [
        cell
        for cell in at_main_rate(config, cells)
        if cell.group.degree == 2
        and cell.group.normalisation == "none"
        and cell.weight_decay
    ]


def batch_norm(cells: Sequence[Cell]) -> Iterator[dict]:
    """9: networks with BatchNorm and decay, by whether they fit their data."""
    for cell in cells:
        if cell.group.normalisation != "batch" or not cell.weight_decay:
            continue
        fitted = cell.records["train_accuracy"][-1].mean() >= FITTED
        if not fitted:
            yield row("9a", setting(cell), cell.silent_share)
        elif cell.budget[-1] >= ENOUGH_WITH_BATCH_NORM:
            yield row("9b", setting(cell), cell.silent_share)


def lambda_star(config: Config, dataset: data.Dataset) -> float:
    """`silence_threshold` of the training images, at an output of 0.

    The best constant output: with classes of equal size all its entries are equal, and
    only their differences matter.
    """
    images = jnp.asarray(dataset.train.images[:THRESHOLD_EXAMPLES])
    labels = dataset.train.labels[:THRESHOLD_EXAMPLES]
    x = normalise(images, dataset.mean, dataset.std).reshape(len(images), -1)
    if not config.skip_biases:
        x = jnp.pad(x, ((0, 0), (0, 1)), constant_values=1)
    f = jnp.zeros((len(labels), len(dataset.class_names)))
    factor = jax.grad(lambda f: classification_loss(f, labels).sum())(f)
    return float(silence_threshold(x, factor, jax.random.key(0)))


def silent_branches(config: Config, cell: Cell) -> Iterator[dict]:
    """4 to 6, 10 and 11: how the silent branches of a cell fall, and which they are."""
    where = setting(cell) + (", no biases" if config.skip_biases else ", with biases")
    silent, records = cell.is_silent(), cell.records
    late = cell.budget >= 0.8 * cell.budget[-1]
    x = cell.budget[late]

    def over(mask, values, reduce: Callable = np.mean):
        """One value for each seed, over the masked branches; NaN without any."""
        pairs = zip(mask, values, strict=True)
        return [reduce(v[m]) if m.any() else np.nan for m, v in pairs]

    with np.errstate(divide="ignore", invalid="ignore"):
        layers = slope(x, np.log(records["layer_norms"][late])).mean(-1)
        response = slope(x, np.log(records["centred_norms"][late]))
        first, second = np.triu_indices(records["layer_norms"].shape[-1], 1)
        squares = records["layer_norms"][late] ** 2
        gaps = np.abs(squares[..., first] - squares[..., second])
        balance = slope(x, np.log(gaps)).mean(-1)
    if config.skip_biases:
        yield row("4a", where, over(silent, layers))
        yield row("4b", where, over(silent, response / cell.group.degree))
        yield row("5a", where, over(silent, balance / 2))
    norms = records["layer_norms"][-1]
    yield row("5b", where, over(silent, norms.max(-1) / norms.min(-1)))
    last = slice(-cell.after(0.1), None)
    squared = records["squared_norm"][last].mean(0)
    ratio = growth_ratio(records["growth"][last].mean(0), squared, cell.weight_decay)
    yield row("6a", where, over(~silent, np.asarray(ratio), np.median))
    yield row("6b", where, over(silent, np.asarray(ratio), np.median))
    for number, share in (("10a", 0.05), ("10b", 0)):
        scores = records["norms"][cell.after(share)]
        yield row(number, where, cell.foretold_by(scores))
    full = cell.trained.accuracy
    yield row("11", where, full - cell.trained.accuracy_removed)
    yield row("11b", where, full - cell.trained.accuracy_pruned)


def slope(
    x: Float[np.ndarray, " R"], y: Float[np.ndarray, " R *rest"]
) -> Float[np.ndarray, " *rest"]:
    """Least-squares slope of y against x along the first axis."""
    x = x - x.mean()
    return np.tensordot(x, y, (0, 0)) / (x @ x)


def setting(cell: Cell) -> str:
    """A cell's setting, in words."""
    group = cell.group
    scale = "" if cell.init_scale == 1 else f", init {cell.init_scale:g}"
    plain = group.normalisation == "none"
    layers = "" if plain else f" of {group.depth} layers with BatchNorm"
    return (
        f"{group.branch}{layers}, degree {group.degree}, M = {group.branches}, decay "
        f"{cell.weight_decay:g}, rate {cell.learning_rate:g}{scale}, beta "
        f"{cell.budget[-1]:.3g}"
    )
