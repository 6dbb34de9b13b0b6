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
from cells.installation import ROOT, StopError

# isort: split

# %%
RUN = ROOT / "docs" / "runs" / "faces_diffusion"
if not RUN.exists():
    raise StopError(
        "The network of this notebook is in docs/runs of a checkout: set REPOSITORY in "
        "the first cell to the address of your copy and run it again, or open the "
        "notebook in a checkout."
    )


# %%
from cells.controls import explore

# isort: split

# %%
# %matplotlib inline
import jax
import numpy as np
from IPython.display import display

from bspec_jax import figures, generator
from bspec_jax.components import segmentation
from bspec_jax.components.measures import psnr
from bspec_jax.components.recombination import perturb_components, recombine, remainder
from bspec_jax.components.segmentation import Choice
from bspec_jax.data import faces
from bspec_jax.generator.network import to_signed

trained = generator.load(RUN)
truth = faces.ground_truth("test", range(3), size=64)
x = to_signed(np.round(255 * truth.image).astype(np.uint8))
labels = faces.labels("test")[:3]  # cat, dog, tiger
images = [f"{i}: {faces.CLASSES[label]}" for i, label in enumerate(labels)]
branches = [f"k = {k}" for k in range(trained.spec.branches)]


def pictures(rows, columns):
    """Named rows of pictures with values in -1..1."""
    figure = figures.pictures(rows, columns)
    figure.set_dpi(140)
    return figure


# %% [markdown]
# ## Class transfer
#
# Held-out images, each rendered as every class.

# %%
transfers = generator.to_all_classes(trained.model, trained.params, x, 3)
rows = {"image": x}
rows |= {f"as {name}": y for name, y in zip(faces.CLASSES, transfers, strict=True)}
pictures(rows, images)

# %% [markdown]
# Along a row, ears, coat and colour of the eyes are those of the target class; along a
# column, background and position are those of the image.

# %% [markdown]
# ## Decomposition of a reconstruction
#
# With its own class as the target, the generator reconstructs an image. Below are the
# image x, its reconstruction f and the residual R.

# %%
own = generator.decompose(trained.model, trained.params, x, labels)
np.testing.assert_allclose(own.image, own.residual + own.components.sum(0), atol=1e-4)

print("PSNR of the reconstructions:", psnr(x, own.image).round(1), "dB")
pictures({"image x": x, "f": own.image, "R": own.residual}, images)

# %% [markdown]
# R is a blurred image, to which the branches add outlines and texture.
#
# Below are the components v_k of image 2 and the parts phi_k of the image that the
# branches read. Each picture is scaled to full contrast, since most are faint; grey is
# 0.


# %%
def stretched(pictures):
    """Scales each picture to fill -1..1."""
    return pictures / np.abs(pictures).max((1, 2, 3), keepdims=True)


rows = {"vₖ": stretched(own.components[:, 2]), "φₖ": stretched(own.inputs[:, 2])}
pictures(rows, branches)

# %% [markdown]
# Component 7 draws the stripes, and most others paint areas in one colour. The parts
# run from fine detail (k = 0) to coarse shapes (k = 8).
#
# ## The magnitude of each component
#
# A slider for the gain of each component, and the number of the image. First row: the
# components times their gains. Second row: R plus all of these components up to here.


# %%
def build_up(image=2, **gains):
    gains = np.array([gains.get(f"gain_{k}", 1.0) for k in range(len(branches))])
    scaled = gains[:, None, None, None] * own.components[:, image]
    sums = own.residual[image] + np.cumsum(scaled, 0)
    rows = {"gain · vₖ": scaled, "sum up to k": sums}
    display(pictures(rows, branches))


explore(
    build_up,
    image=(0, len(x) - 1),
    **{f"gain_{k}": (0.0, 2.0, 0.1) for k in range(len(branches))},
)

# %% [markdown]
# The sum is dark up to component 5. Component 6 brings light, and component 7 the
# stripes. The last picture is f.
#
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
    f"gain {gain:g}": recombine(own.residual, own.components, gains_with(4, gain))
    for gain in (0.0, 0.5, 1.0, 1.5)
}
np.testing.assert_allclose(sweep["gain 1"], own.image, atol=1e-4)
pictures(sweep, images)

# %% [markdown]
# Component 4 moves blue from the background into the face: without it, backgrounds are
# bluer and the dog is more orange.

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
changed = np.abs(edited - x).mean(-1)
inside, outside = changed[masks].mean(), changed[~masks].mean()
print(f"mean change in the masks: {inside:.2f}, elsewhere: {outside:.2f} (of -1..1)")
print("IoU with the true eyes:", segmentation.iou(masks, truth.masks["eyes"]).round(2))
rows = {
    "masks": overlaid,
    "everywhere": recombine(rest, own.inputs, gains),
    "in the eyes": edited,
}
pictures(rows, images)

# %% [markdown]
# Everywhere, the gain sharpens the coat as well. With the masks only the eyes change.
#
# ## Random gains
#
# Random gains of all components, which can augment a data set.

# %%
rest = remainder(x, own.components)
keys = jax.random.split(jax.random.key(0), 3)
rows = {
    f"draw {i}": perturb_components(key, rest, own.components, 0.1)
    for i, key in enumerate(keys)
}
pictures(rows, images)

# %% [markdown]
# Colours vary, most of all the background's, while outlines stay.
