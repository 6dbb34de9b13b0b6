"""Copies a finished run without what its command makes again.

    python -m experiments.keep RUN docs/runs/NAME
    python -m experiments.keep RUN docs/runs/NAME --figures fig05_active fig17_sweep
    python -m experiments.keep RUN docs/runs/NAME --networks main --examples 1000

The copy holds config.json, environment.json, data.json if the run read any data, the
results that its figures need, and the figures. Numbers are rounded to 5 significant
digits, the parameters of networks to 12 significant bits, and figures are reduced to
256 colours. Metrics, arrays, checkpoints, samples and predictions are left out.
"""

import shutil
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jaxtyping import Float, UInt8
from PIL import Image

from bspec_jax.data.names import expanded
from bspec_jax.runs import (
    load_results,
    naming,
    one_line_when_stopped,
    parse_flags,
)
from bspec_jax.runs.folder import DATA
from bspec_jax.storage import checkpoints, files
from bspec_jax.storage.errors import UserError, in_one_line

NAME = "python -m experiments.keep"
EXAMPLES = "examples.npz"  # of a classify run: images and labels
DIGITS = 5  # significant, of the numbers in results.json
SIGNIFICANT_BITS = 12  # of parameters; float32 has 24
COLOURS = 256  # the most that a PNG palette holds
MANY_COLOURS = 8192  # with more, a quarter of the pixels give the palette
NOTE = "commit_success.txt"  # Orbax's; holds a path of the machine


def keep(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    into: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INTO")],
    networks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]")] = (),
    figures: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]")] = (),
    examples: int | None = None,
) -> None:
    """Copies a finished run without what its command makes again.

    Args:
      run: Folder of the run.
      into: Folder of the copy; must not exist.
      networks: Networks in checkpoints/ to add: parameters at the last step.
      figures: Figures to keep, such as fig05_active. Default: all. The others can be
        drawn again.
      examples: Number of test images and labels to add, of a classify run.
    """
    run, into = expanded(run), expanded(into)
    results = load_results(run)
    if into.exists():
        raise UserError(f"{into} exists already; choose another folder")
    networks_there = [path.name for path in (run / "checkpoints").glob("*/")]
    drawn = {path.stem: path for path in (run / "figures").glob("*.png")}
    _check_there(run, "network", networks, networks_there)
    _check_there(run, "figure", figures, drawn)
    into.parent.mkdir(parents=True, exist_ok=True)
    with naming(into), TemporaryDirectory(dir=into.parent) as temporary:
        copy = Path(temporary) / into.name
        (copy / "figures").mkdir(parents=True)
        for name in ("config.json", "environment.json", DATA):
            if name != DATA or (run / name).exists():
                shutil.copy(run / name, copy)
        files.write_json(copy / "results.json", _needed(run, results), compact=True)
        for name in sorted(figures or drawn):
            _copy_figure(drawn[name], copy / "figures" / f"{name}.png")
        if examples is not None:
            _copy_examples(run, copy, examples)
        for name in dict.fromkeys(networks):
            _copy_network(run / "checkpoints" / name, copy / "checkpoints" / name)
        copy.rename(into)
    size = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
    print(f"{into}: {size / 2**20:.1f} MiB")


def _needed(run: Path, results: dict) -> dict:
    """The results without arrays that no figure of the experiment shows."""
    name = files.read_json(run / "config.json", "run").get("experiment")
    try:
        draw = import_module(f"experiments.{name}.draw")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("experiments."):
            raise
        raise UserError(f"{run} is a run of {name}, which has no figures") from None
    try:
        needed = draw.needed(results) if hasattr(draw, "needed") else results
        # The flags stay exact.
        return rounded(needed, DIGITS) | {"config": results["config"]}
    except (KeyError, TypeError, IndexError, AttributeError):
        raise UserError(f"{run / 'results.json'} is damaged or incomplete") from None


def rounded(value: Any, digits: int) -> Any:
    """JSON with its floats at so many significant digits; anything else stays."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def with_palette(image: Image.Image) -> Image.Image:
    """The image in the palette of `COLOURS` colours that suits it.

    Without dithering, which would add noise to flat areas. An image of few colours
    stays exact.
    """
    image = image.convert("RGB")
    source = image
    if image.getcolors(MANY_COLOURS) is None:  # k-means takes long
        source = image.resize(
            ((image.width + 1) // 2, (image.height + 1) // 2), Image.Resampling.NEAREST
        )
    # Maximum coverage keeps rare colours, such as those of eyes, which median cut
    # averages away; k-means then evens out the steps of gradients.
    chosen = source.quantize(
        COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
    )
    palette = np.float32(chosen.getpalette()).reshape(-1, 3)
    # Not by Pillow, whose search of a palette ignores the low bits: white turns grey.
    reduced = Image.fromarray(_nearest(np.asarray(image), palette))
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced


def _nearest(
    image: UInt8[np.ndarray, "H W 3"], palette: Float[np.ndarray, "colours 3"]
) -> UInt8[np.ndarray, "H W"]:
    """Index of the palette's colour that is nearest to each pixel."""
    place = np.array([2**16, 2**8, 1])
    codes, where = np.unique(image @ place, return_inverse=True)
    colours = np.float32(codes[:, None] // place % 2**8)
    squares = (palette**2).sum(1)
    nearest = [
        (squares - 2 * part @ palette.T).argmin(1)
        for part in np.array_split(colours, len(colours) // 1024 + 1)
    ]
    return np.concatenate(nearest).astype(np.uint8)[where].reshape(image.shape[:2])


def with_significant_bits(leaf: np.ndarray, bits: int) -> np.ndarray:
    """Rounds float32 to so many significant bits, a relative error of 2^-bits at most.

    The other bits are 0 and compress well. Other types are returned as they are.
    """
    if leaf.dtype != np.float32:
        return leaf
    mantissa, exponent = np.frexp(leaf)  # 1/2 <= |mantissa| < 1
    scale = np.float32(2**bits)
    return np.ldexp(np.rint(mantissa * scale) / scale, exponent)


def _check_there(
    run: Path, what: str, wanted: Sequence[str], there: Collection[str]
) -> None:
    for name in wanted:
        if name not in there:
            has = ", ".join(sorted(there)) or "none"
            raise UserError(f"{run} has no {what} {name}; it has {has}")


def _copy_figure(path: Path, to: Path) -> None:
    try:
        with Image.open(path) as image:
            reduced = with_palette(image)
    except (OSError, SyntaxError):  # the latter is Pillow's for a damaged file
        raise UserError(f"{path} is damaged; redraw it by --figures-only") from None
    reduced.save(to, optimize=True)


def _copy_examples(run: Path, copy: Path, count: int) -> None:
    if count < 1:
        raise UserError(f"--examples must be at least 1, got {count}", status=2)
    if not (run / EXAMPLES).exists():
        raise UserError(f"{run} has no {EXAMPLES}; only runs of classify do")
    arrays = files.load_arrays(run / EXAMPLES)
    if count > (most := min(map(len, arrays.values()))):
        raise UserError(f"--examples must be at most {most}, got {count}", status=2)
    first = {name: array[:count] for name, array in arrays.items()}
    files.save_arrays(copy / EXAMPLES, first, compressed=True)


def _copy_network(folder: Path, to: Path) -> None:
    """Parameters and state of the last step, without what only training needs."""
    folder, step = checkpoints.find(folder, folder.name)
    like = checkpoints.saved_shapes(folder, step, "model")
    (model,) = checkpoints.restore(folder, step, model=like)
    model = jax.tree.map(
        lambda leaf: with_significant_bits(np.asarray(leaf), SIGNIFICANT_BITS), model
    )
    checkpoints.save(to, step, model=model)
    shutil.copy(folder / checkpoints.SPEC, to)
    written = to / f"{step}"
    checksums = files.read_json(written / checkpoints.CHECKSUMS, "checksums")
    for path in written.iterdir():  # Orbax's, of the time of writing
        if path.is_file():
            path.unlink()
    (written / "model" / NOTE).unlink(missing_ok=True)
    left = {name: checksums[name] for name in checksums if (written / name).exists()}
    files.write_json(written / checkpoints.CHECKSUMS, left)


def main() -> None:
    """Runs the command; when stopped, it leaves nothing behind."""

    def when_stopped():
        return "stopped; nothing is kept"

    with in_one_line(NAME), one_line_when_stopped(NAME, when_stopped):
        parse_flags(keep, NAME, __doc__)


if __name__ == "__main__":
    main()
