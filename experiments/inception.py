"""The FID by torch-fidelity, with Inception weights that the user has.

pip install -e ".[fid]"
python -m experiments.class_transfer ... --inception-weights FILE
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bspec_jax.storage.errors import FlagError


def check(weights: Path) -> None:
    """Raises FlagError if the FID cannot be computed."""
    if not find_spec("torch_fidelity"):
        raise FlagError('--inception-weights needs `pip install -e ".[fid]"`')
    if not weights.is_file():
        raise FlagError(f"--inception-weights: no file {weights}")


def fid(real: np.ndarray, fake: np.ndarray, weights: Path) -> float:
    """Frechet distance of the features of Inception-v3, of bytes `[N, H, W, C]`.

    Args:
      weights: of `inception-v3-compat`, as torch-fidelity reads them.

    Source: Heusel et al., arXiv 1706.08500.
    """
    import torch
    import torch_fidelity

    def as_dataset(images):
        colour = np.broadcast_to(images, (*images.shape[:-1], 3))
        return [torch.from_numpy(a.transpose(2, 0, 1).copy()) for a in colour]

    class Images(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = as_dataset(images)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    found = torch_fidelity.calculate_metrics(
        input1=Images(real),
        input2=Images(fake),
        fid=True,
        feature_extractor_weights_path=str(weights),
        cuda=torch.cuda.is_available(),
        cache=False,
        verbose=False,
    )
    return found["frechet_inception_distance"]
