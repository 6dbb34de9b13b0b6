"""The images that `experiments.applications` scores on: rendered, and decomposed."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from bspec_jax import generator, runs
from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.data import sources
from bspec_jax.data.faces import Face
from bspec_jax.data.images import Part, Source, of_classes
from bspec_jax.data.selection import balanced
from bspec_jax.generator import GeneratorSpec, Trained, to_signed
from bspec_jax.storage.errors import UserError

BLURS = (0.5, 1.0, 2.0, 4.0, 8.0)  # pixels; candidate widths of the blur as baseline


class Examples(NamedTuple):
    """Images with a ground truth, and what a generator makes of them.

    part: that they belong to.
    indices: `[N]`, in the part.
    x: `[N, H, W, C]` in -1..1.
    labels: `[N]`, indices of the generator's classes.
    truth: what they were rendered from.
    generated: f, `[N, H, W, C]`.
    residual: R, `[N, H, W, C]`.
    stacks: components `[M, N, H, W, C]` by source: `responses` v_k and, where a
        diffusion makes them, `inputs` phi_k.
    """

    part: Part
    indices: Int[np.ndarray, " N"]
    x: Float[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]
    truth: Face
    generated: Float[np.ndarray, "N H W C"]
    residual: Float[np.ndarray, "N H W C"]
    stacks: dict[str, Float[np.ndarray, "M N H W C"]]

    def select(self, index: Int[np.ndarray, " K"]) -> "Examples":
        """The examples at `index`."""
        return self._replace(
            indices=self.indices[index],
            x=self.x[index],
            labels=self.labels[index],
            truth=jax.tree.map(lambda leaf: leaf[index], self.truth),
            generated=self.generated[index],
            residual=self.residual[index],
            stacks={name: stack[:, index] for name, stack in self.stacks.items()},
        )

    def without(self, removed: str) -> Float[np.ndarray, "N H W C"]:
        """The same images rendered without a part of the face, in -1..1."""
        return as_input(self.part.ground_truth(self.indices, [removed]))

    def foreground(self) -> Bool[np.ndarray, "N H W"]:
        """The pixels of any part, which have normals."""
        return np.any(list(self.truth.masks.values()), 0)


def rendered_source(checkpoint: Path, spec: GeneratorSpec) -> Source:
    """The data set and classes of a generator, if they have a ground truth.

    Raises:
      UserError: if they have none, or faces are no longer rendered as they were.
    """
    try:
        source = sources.find(spec.dataset or "", None, spec.image_shape[0])
    except UserError:  # files that are not here: rendered images need none
        source = None
    if source is None or source.train.ground_truth is None:
        raise UserError(
            f"{checkpoint} was trained on {spec.dataset or 'unknown data'}, which has "
            "no ground truth to score applications by: train a generator on the "
            "synthetic faces"
        )
    source = of_classes(source, spec.classes)
    runs.check_trained_on(checkpoint, generator.MAIN, source.identity)
    return source


def draw_examples(trained: Trained, part: Part, count: int, seed: int) -> Examples:
    """About `count` random examples, equally many of each class, class by class."""
    labels = part.labels()
    indices = balanced(labels, count, seed)
    indices = indices[np.argsort(labels[indices], kind="stable")]
    labels = labels[indices]
    truth = part.ground_truth(indices)
    x = as_input(truth)
    own = generator.decompose(trained.model, trained.params, x, labels)
    stacks = {"responses": own.components}
    if own.inputs is not None:
        stacks["inputs"] = own.inputs
    return Examples(part, indices, x, labels, truth, own.image, own.residual, stacks)


def as_input(face: Face) -> Float[np.ndarray, "N H W C"]:
    """Rendered images as a generator reads them: rounded to bytes, in -1..1."""
    return to_signed(np.round(255 * face.image).astype(np.uint8))


def mean_over_images(values: Float[np.ndarray, " N"]) -> dict:
    """Mean and 95 % interval over images with a finite value, and their number."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    mean, interval = mean_interval(np.where(finite, values, 0), finite)
    return {"mean": mean, "interval": interval, "images": int(finite.sum())}
