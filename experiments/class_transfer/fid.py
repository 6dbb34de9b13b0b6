"""The FID by torch-fidelity, with Inception weights that the user provides.

    pip install "bspec_jax[fid]"
    python -m experiments.class_transfer ... --inception-weights FILE

Nothing else needs torch-fidelity.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from bspec_jax.runs import FlagError
from bspec_jax.storage.errors import UserError
from bspec_jax.storage.optional import needs


def check(weights: Path) -> None:
    """Raises UserError without torch-fidelity, and FlagError without the weights."""
    for module in ("torch", "torch_fidelity"):
        needs(module, extra="fid")
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

    Raises:
      UserError: if torch-fidelity fails, as with weights that it cannot read.

    Source: Heusel et al., arXiv 1706.08500.
    """
    torch, torch_fidelity = (
        needs(module, extra="fid") for module in ("torch", "torch_fidelity")
    )

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

    try:
        metrics = torch_fidelity.calculate_metrics(
            input1=Images(real),
            input2=Images(fake),
            fid=True,
            feature_extractor_weights_path=str(weights),
            cuda=torch.cuda.is_available(),
            cache=False,
            verbose=False,
        )
    except Exception as error:  # of many kinds: unreadable weights, devices, memory
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"torch-fidelity cannot compute the FID ({reason})") from None
    return metrics["frechet_inception_distance"]
