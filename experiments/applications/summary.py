"""The tables that end a run of `experiments.applications`."""

from collections.abc import Sequence
from statistics import fmean

from experiments.applications.draw import sources
from experiments.tables import number


def summary(results: dict) -> str:
    """A table for each application."""
    lines = []
    if "editing" in results:
        lines += editing_lines(results)
    if "filtering" in results:
        lines += filtering_lines(results["filtering"])
    if "shape" in results:
        lines += shape_lines(results["shape"])
    if "augmentation" in results:
        lines += augmentation_lines(results["augmentation"])
    return "\n".join(lines)


def editing_lines(results: dict) -> list[str]:
    editing = results["editing"]
    lines = [
        f"editing: share of the change in the true {results['config']['part']} "
        f"(chance {number(editing['chance'])}, IoU of the masks "
        f"{number(results['segmentation']['iou'])}; "
        f"{results['segmentation']['converged']} of {results['examples']} borders "
        "converged)"
    ]
    for source in sources(editing):
        rows = editing[source]
        everywhere, inside = (
            number(mean_of_defined([row[place]["mean"] for row in rows]))
            for place in ("everywhere", "inside")
        )
        lowest = min(row["class_kept"] for row in rows)
        lines.append(
            f"  {source:12} everywhere {everywhere}, inside the masks "
            f"{inside}; class kept {number(lowest)} at least"
        )
    return lines


def mean_of_defined(values: Sequence[float | None]) -> float | None:
    """The mean of what is not null; null if all is."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def filtering_lines(filtering: dict) -> list[str]:
    lines = [
        "filtering: against the faces rendered without the part",
        f"  {'':8} {'':22} {'PSNR':>6} {'SSIM':>6} {'PSNR in the part':>16}",
    ]
    for part, scores in filtering.items():
        for name, row in scores["methods"].items():
            values = (row[key]["mean"] for key in ("psnr", "ssim", "psnr_inside"))
            psnr, ssim, inside = map(number, values)
            lines.append(f"  {part:8} {name:22} {psnr:>6} {ssim:>6} {inside:>16}")
    return lines


def shape_lines(shape: dict) -> list[str]:
    lines = ["shape: mean angular error of the normals, degrees"]
    rows = (f"  {name:12} {number(row['mean'], 1)}" for name, row in shape.items())
    return [*lines, *rows]


def augmentation_lines(augmentation: dict) -> list[str]:
    lines = []
    for labels, kinds in augmentation.items():
        lines.append(f"augmentation: {labels} labels per class")
        for kind, row in kinds.items():
            low, high = (number(bound, 3) for bound in row["gain_interval"])
            lines.append(
                f"  {kind:12} accuracy {row['accuracy']:.3f}, gain "
                f"{row['gain']:+.3f} ({low} to {high})"
            )
    return lines
