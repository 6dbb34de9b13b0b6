"""The synthetic faces that `experiments.applications` measures on, decomposed."""

from typing import NamedTuple

import jax
import numpy as np

from bspec_jax import generator
from bspec_jax.data import faces
from bspec_jax.generator.network import Trained, to_signed
from experiments.class_transfer_data import balanced, ground_truth, labels_of_faces


class Faces(NamedTuple):
    """Some faces with their ground truth, and what the generator makes of them.

    indices: of the split, among the faces of the generator's classes.
    x: in -1..1.
    truth: all that they were rendered from.
    generated: f. residual: R.
    stacks: components by source: `responses` v_k and, where a diffusion makes them,
        `inputs` phi_k.
    """

    classes: tuple[str, ...]
    split: str
    indices: np.ndarray
    x: np.ndarray
    labels: np.ndarray
    truth: faces.Face
    generated: np.ndarray
    residual: np.ndarray
    stacks: dict[str, np.ndarray]

    def of(self, index: np.ndarray) -> "Faces":
        """Some of them."""
        return self._replace(
            indices=self.indices[index],
            x=self.x[index],
            labels=self.labels[index],
            truth=jax.tree.map(lambda leaf: leaf[index], self.truth),
            generated=self.generated[index],
            residual=self.residual[index],
            stacks={name: stack[:, index] for name, stack in self.stacks.items()},
        )

    def without(self, part: str) -> np.ndarray:
        """The same faces rendered without a part, in -1..1."""
        size = self.x.shape[1]
        return as_input(
            ground_truth(self.classes, self.split, self.indices, size, [part])
        )

    def seen(self) -> np.ndarray:
        """Where there is a face and no background, `[N, H, W]`."""
        return np.any(list(self.truth.masks.values()), 0)


def load(trained: Trained, split: str, count: int, seed: int) -> Faces:
    """About `count` faces of a split, as many of each class."""
    classes = tuple(trained.description["classes"])
    labels = labels_of_faces(classes, split)
    indices = balanced(labels, count, seed)
    indices = indices[np.argsort(labels[indices], kind="stable")]
    labels = labels[indices]
    size = trained.description["image_shape"][0]
    truth = ground_truth(classes, split, indices, size)
    x = as_input(truth)
    own = generator.decompose(trained.model, trained.params, x, labels)
    stacks = {"responses": own.components}
    if own.inputs is not None:
        stacks["inputs"] = own.inputs
    return Faces(
        classes, split, indices, x, labels, truth, own.image, own.residual, stacks
    )


def as_input(face: faces.Face) -> np.ndarray:
    """Rendered images as the generator reads them: bytes, in -1..1."""
    return to_signed(np.round(255 * face.image).astype(np.uint8))
