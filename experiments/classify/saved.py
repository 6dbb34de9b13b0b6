"""The arrays of a run: its test images, and each network's responses to them.

    examples.npz              images and labels
    predictions/NETWORK.npz   responses after and before training

A kept copy of a run has no predictions, which its network computes again; one without
a network has no test images either.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from bspec_jax import classifier
from bspec_jax.classifier import contributions
from bspec_jax.classifier.evaluation import Job, Responses
from bspec_jax.data import Split
from bspec_jax.storage import files


def responses_path(workdir: Path, network: str) -> Path:
    """The file of a network's responses to the test images."""
    return workdir / "predictions" / f"{network}.npz"


def save_responses(workdir: Path, network: str, responses: Responses) -> None:
    """Writes the responses of one network."""
    path = responses_path(workdir, network)
    path.parent.mkdir(exist_ok=True)
    files.save_arrays(path, responses._asdict())


def load_responses(
    workdir: Path, job: Job, num_examples: int, num_classes: int
) -> Responses:
    """Reads the responses of one network.

    Raises:
      UserError: if the file is damaged, or of another network.
    """
    expected = np.empty((job.branches, num_examples, num_classes))
    path = responses_path(workdir, job.name)
    return Responses(
        **files.load_arrays(path, dict.fromkeys(Responses._fields, expected))
    )


def examples_path(workdir: Path) -> Path:
    """The file of the test images and their labels."""
    return workdir / "examples.npz"


def save_examples(workdir: Path, test: Split) -> None:
    """Writes the test images and their labels."""
    files.save_arrays(examples_path(workdir), test._asdict(), compressed=True)


class Examples(NamedTuple):
    """Test images, and the main network's confidence in their true classes."""

    images: UInt8[np.ndarray, "N H W channels"]
    labels: Int[np.ndarray, " N"]
    confidence: Float[np.ndarray, "M N"]


def load_examples(workdir: Path) -> Examples | None:
    """Reads the test images, and the main network's responses or else the network.

    Returns None in a kept copy without test images.

    Raises:
      UserError: if a file is damaged, or there are neither responses nor a network.
    """
    if not examples_path(workdir).exists():
        return None
    like = dict.fromkeys(Split._fields)
    images, labels = Split(**files.load_arrays(examples_path(workdir), like))
    path = responses_path(workdir, classifier.MAIN)
    if path.exists():
        v = files.load_arrays(path, {"trained": None})["trained"]
    else:
        v = classifier.load(workdir).responses(images)
    return Examples(images, labels, contributions.confidence(v, labels))
