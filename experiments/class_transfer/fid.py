"""The FID by torch-fidelity, with Inception weights that the user provides.

    pip install -e ".[fid]"
    python -m experiments.class_transfer ... --inception-weights FILE

Nothing else needs torch-fidelity.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from bspec_jax.runs import FlagError


def check(weights: Path) -> None:
    """Raises FlagError if the FID cannot be computed."""
    if not find_spec("torch_fidelity"):
        raise FlagError('--inception-weights needs `pip install -e ".[fid]"`')
    if not weights.is_file():
        raise FlagError(f"--inception-weights: no file {weights}")


def fid(
    real: UInt8[np.ndarray, "N H W C"],
    fake: UInt8[np.ndarray, "K H W C"],
    weights: Path,
) -> float:
    """Frechet distance of two sets of images in the features of Inception-v3.

    Args:
      weights: of `inception-v3-compat`, as torch-fidelity reads them.

    Source: Heusel et al., arXiv 1706.08500.
    """
    import torch
    import torch_fidelity

    def to_tensors(images):
        colour = np.broadcast_to(images, (*images.shape[:-1], 3))
        return [torch.from_numpy(a.transpose(2, 0, 1).copy()) for a in colour]

    class Images(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = to_tensors(images)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    metrics = torch_fidelity.calculate_metrics(
        input1=Images(real),
        input2=Images(fake),
        fid=True,
        feature_extractor_weights_path=str(weights),
        cuda=torch.cuda.is_available(),
        cache=False,
        verbose=False,
    )
    return metrics["frechet_inception_distance"]
