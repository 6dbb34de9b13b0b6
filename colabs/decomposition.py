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
# The class-transfer generator is a sum, f(x, y) = R(x) + sum_k v_k(x, y): an image is
# shown as one of class y by M = 9 branches over a smooth R. What each of them adds is a
# picture in place, which one can look at, amplify and leave out. This is the run
# `docs/runs/faces_diffusion` of the README: parameters alone, 4 MB.

# %%
# In a checkout this finds the project; in Colab it fetches it from REPOSITORY.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # the address of your copy of the project, such as https://...
above = (Path.cwd(), *Path.cwd().parents)
fetched = Path.cwd() / "bspec_jax_checkout"
ROOT = next((p for p in above if (p / "colabs").is_dir()), fetched)
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
    """Rows of pictures in -1..1, by name."""
    width = max(len(row) for row in rows.values())
    size = (1.1 * width + 1.2, 1.1 * len(rows))
    _, axes = plt.subplots(len(rows), width, figsize=size, squeeze=False)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.axis("off")
        for ax, picture in zip(line, row, strict=False):
            ax.imshow(np.clip((np.asarray(picture) + 1) / 2, 0, 1))
        line[0].text(-5, 32, name, ha="right", va="center")
    plt.show()


# %% [markdown]
# ## Class transfer

# %%
transfers = generator.to_all_classes(trained.model, trained.params, x, 3)
rows = {"image": x}
rows |= {f"as a {n}": to for n, to in zip(faces.CLASSES, transfers, strict=True)}
show(rows)

# %% [markdown]
# ## The parts of a re-generation
#
# The picture and its re-generation, R, the components v_k that the branches add
# (stretched, since most are faint), and the parts phi_k of the image that they read.

# %%
own = generator.decompose(trained.model, trained.params, x, labels)
np.testing.assert_allclose(own.image, own.residual + own.components.sum(0), atol=1e-4)


def stretched(pictures):
    """Each to fill -1..1."""
    low, high = (f(pictures, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    return 2 * (pictures - low) / (high - low) - 1


show(
    {
        "x, f, R": [x[2], own.image[2], own.residual[2]],
        "$v_k$": stretched(own.components[:, 2]),
        r"$\varphi_k$": stretched(own.inputs[:, 2]),
    }
)
print("PSNR of the re-generations:", psnr(x, own.image).round(1), "dB")

# %% [markdown]
# ## One component with other gains
#
# What branch 4 adds to the re-generation, left out, halved and amplified (Figure 13); a
# gain of 1 gives the re-generation itself.


# %%
def gain_of(component, gain):
    """Gains of 1, and another of one component."""
    gains = np.ones(len(own.components), np.float32)
    gains[component] = gain
    return gains


sweep = {
    f"{gain:g} $v_4$": recombine(own.residual, own.components, gain_of(4, gain))
    for gain in (0.0, 0.5, 1.0, 1.5)
}
show(sweep)
np.testing.assert_allclose(sweep["1 $v_4$"], own.image, atol=1e-4)

# %% [markdown]
# ## Only in the eyes
#
# Components tell where the eyes are, without labels (appendix F; the choice is the one
# that `experiments.segment` finds). The first part of the image that the branches read
# counts three times: with the remainder for R, which is what these parts do not add up
# to, gains of 1 would give the image itself.

# %%
masks = segmentation.segment(own.inputs, Choice((3, 8), (6, 8), dark=True, level=0.7))
overlaid = np.where(masks[..., None], np.array([1.0, -0.7, -0.7]), x)
rest, gains = remainder(x, own.inputs), gain_of(0, 3.0)
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
print(f"changed in the masks: {inside:.2f}, elsewhere: {outside:.2f} (of -1..1)")
print("IoU with the true eyes:", segmentation.iou(masks, truth.masks["eyes"]).round(2))

# %% [markdown]
# ## Varied at random
#
# All gains drawn anew, to augment data.

# %%
rest = remainder(x, own.components)
keys = jax.random.split(jax.random.key(0), 3)
show(
    {
        f"draw {i}": perturb_components(key, rest, own.components, 0.1)
        for i, key in enumerate(keys)
    }
)
