# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Decomposing and editing an image
#
# The class-transfer generator renders an image x as class y by a sum,
# f(x, y) = R(x) + sum_k v_k(x, y), of a smooth residual R and M = 9 branches. Each
# component v_k is an image of its own, which can be inspected, amplified or removed.
# The network is that of the run `docs/runs/faces_diffusion`, trained on synthetic
# faces.

# %%
# In a checkout this finds the project; in Colab it clones and installs it.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # the address of your copy of the project, such as https://...
parents = (Path.cwd(), *Path.cwd().parents)
clone = Path.cwd() / "bspec_jax_checkout"
ROOT = next((path for path in parents if (path / "colabs").is_dir()), clone)
if importlib.util.find_spec("bspec_jax") is None:
    if not ROOT.exists():
        assert REPOSITORY, "set REPOSITORY, or run this in a checkout"
        subprocess.run(["git", "clone", "-q", REPOSITORY, ROOT], check=True)
    command = [sys.executable, "-m", "pip", "install", "-q", f"{ROOT}[colab]"]
    subprocess.run(command, check=True)

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

from bspec_jax import generator
from bspec_jax.components import segmentation
from bspec_jax.components.measures import psnr
from bspec_jax.components.recombination import perturb_components, recombine, remainder
from bspec_jax.components.segmentation import Choice
from bspec_jax.data import faces
from bspec_jax.generator.network import to_signed

trained = generator.load(ROOT / "docs" / "runs" / "faces_diffusion")
truth = faces.ground_truth("test", range(6), size=64)
x = to_signed(np.round(255 * truth.image).astype(np.uint8))
labels = faces.labels("test")[:6]  # cat, dog, tiger, cat, dog, tiger


def show(rows):
    """Draws named rows of pictures with values in -1..1."""
    width = max(len(row) for row in rows.values())
    size = (1.1 * width + 1.2, 1.1 * len(rows))
    _, axes = plt.subplots(len(rows), width, figsize=size, squeeze=False)
    for row_axes, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax in row_axes:
            ax.axis("off")
        for ax, picture in zip(row_axes, pictures, strict=False):
            ax.imshow(np.clip((np.asarray(picture) + 1) / 2, 0, 1))
        row_axes[0].text(-5, 32, name, ha="right", va="center")
    plt.show()


# %% [markdown]
# ## Class transfer
#
# Held-out images, each rendered as every class.

# %%
transfers = generator.to_all_classes(trained.model, trained.params, x, 3)
rows = {"image": x}
rows |= {f"as {name}": y for name, y in zip(faces.CLASSES, transfers, strict=True)}
show(rows)

# %% [markdown]
# ## Decomposition of a reconstruction
#
# With its own class as the target, the generator reconstructs an image. Below are the
# image x, its reconstruction f and the residual R; the components v_k; and the parts
# phi_k of the image that the branches read. Components and parts are stretched to full
# contrast, since most are faint.

# %%
own = generator.decompose(trained.model, trained.params, x, labels)
np.testing.assert_allclose(own.image, own.residual + own.components.sum(0), atol=1e-4)


def stretched(pictures):
    """Scales each picture to -1..1."""
    low, high = (f(pictures, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    return 2 * (pictures - low) / (high - low) - 1


show(
    {
        "x, f, R": [x[2], own.image[2], own.residual[2]],
        "$v_k$": stretched(own.components[:, 2]),
        r"$\varphi_k$": stretched(own.inputs[:, 2]),
    }
)
print("PSNR of the reconstructions:", psnr(x, own.image).round(1), "dB")

# %% [markdown]
# ## Changing the gain of one component
#
# Component 4 removed, halved, unchanged and amplified (Figure 13). A gain of 1 gives
# the reconstruction itself.


# %%
def gains_with(component, gain):
    """Gains of 1, except for one component."""
    gains = np.ones(len(own.components), np.float32)
    gains[component] = gain
    return gains


sweep = {
    f"{gain:g} $v_4$": recombine(own.residual, own.components, gains_with(4, gain))
    for gain in (0.0, 0.5, 1.0, 1.5)
}
show(sweep)
np.testing.assert_allclose(sweep["1 $v_4$"], own.image, atol=1e-4)

# %% [markdown]
# ## Editing the eyes alone
#
# The parts phi_k locate the eyes without labels (appendix F; `experiments.segment`
# selected the components used here). Inside the eyes, the first part gets a gain of 3.
# The remainder, which is the image minus all parts, replaces R, so that gains of 1
# would give the image itself.

# %%
masks = segmentation.segment(own.inputs, Choice((3, 8), (6, 8), dark=True, level=0.7))
overlaid = np.where(masks[..., None], np.array([1.0, -0.7, -0.7]), x)
rest, gains = remainder(x, own.inputs), gains_with(0, 3.0)
edited = recombine(rest, own.inputs, gains, masks)
show(
    {
        "masks": overlaid,
        "everywhere": recombine(rest, own.inputs, gains),
        "in the eyes": edited,
    }
)
changed = np.abs(edited - x).mean(-1)
inside, outside = changed[masks].mean(), changed[~masks].mean()
print(f"mean change in the masks: {inside:.2f}, elsewhere: {outside:.2f} (of -1..1)")
print("IoU with the true eyes:", segmentation.iou(masks, truth.masks["eyes"]).round(2))

# %% [markdown]
# ## Random gains
#
# Random gains of all components, which can augment a data set.

# %%
rest = remainder(x, own.components)
keys = jax.random.split(jax.random.key(0), 3)
show(
    {
        f"draw {i}": perturb_components(key, rest, own.components, 0.1)
        for i, key in enumerate(keys)
    }
)
