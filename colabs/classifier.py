# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Specialization of a trained classifier
#
# A classifier that is a sum of M = 16 slim ResNets, f(x) = sum_k v_k(x), was trained
# with a loss on the sum alone. Which branch contributes to which class, and which
# branches are dispensable? The network is that of the run `docs/runs/classify`, trained
# on Fashion-MNIST.

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
import dataclasses

import jax
import matplotlib.pyplot as plt
import numpy as np

from bspec_jax import classifier, figures, measure
from bspec_jax.analysis import specialization as sp
from bspec_jax.classifier import contributions

RUN = ROOT / "docs" / "runs" / "classify"
trained = classifier.load(RUN)
classes = trained.spec.classes
with np.load(RUN / "examples.npz") as examples:
    images, labels = examples["images"][:1000], examples["labels"][:1000]

v = trained.responses(images)  # of every branch, [M, N, C]
f = v.sum(0)
M = len(v)
print(f"responses {v.shape}; accuracy {contributions.accuracy(f, labels):.3f}")

# %% [markdown]
# ## How the branches add up
#
# Responses to three images: each row is a branch, each column a class, and the last row
# is the sum. The loss clamps the sum to [-1, 1]; outside it has no gradient.

# %%
chosen = [int(np.flatnonzero(labels == c)[0]) for c in (0, 5, 8)]
figure, axes = plt.subplots(
    2, 3, figsize=(11, 5.4), height_ratios=(1, 4), layout="constrained"
)
for top, ax, i in zip(*axes, chosen, strict=True):
    top.imshow(images[i, ..., 0], cmap="gray")
    top.set_title(classes[labels[i]])
    top.axis("off")
    rows = np.concatenate([v[:, i], f[None, i]])
    ax.imshow(rows, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    ax.axhline(M - 0.5, color="black")
    ax.set_yticks(range(M + 1), [*range(M), "sum"], fontsize=7)
    ax.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=7)
plt.show()

# %% [markdown]
# ## Measures of specialization
#
# How many branches are active, how strongly their responses correlate, and the entropy
# of a branch's energy over the classes (1 if it responds to all classes equally).
# `docs/classify.md` compares these numbers with the untrained network and with branches
# that are trained separately.

# %%
measures = measure(v, energy=sp.region_energy(v, labels, len(classes)))
for name in ("num_active", "num_silent", "correlation", "index", "entropy"):
    print(f"{name:11} {float(getattr(measures, name)):.2f}")

# %%
figures.branch_covariances({"covariance of the branches": sp.covariance(v)})

# %% [markdown]
# ## Which branch is confident in which class?
#
# The confidence of branch k in the true class y is v_k(x)_y minus the mean of v_k(x)
# over the classes. Each column is an image.

# %%
confidence = contributions.confidence(v, labels)
sample = contributions.sample_of_each(labels, 20)
figures.branch_confidence(classes, confidence[:, sample], labels[sample])

# %% [markdown]
# The two branches that are most confident in a class, and the images of this class in
# which they are most confident:

# %%
LABEL = 8  # bags; try another
best = np.argsort(-confidence[:, labels == LABEL].mean(1))[:2]
tops = contributions.compare_most_confident(confidence, labels, best, [LABEL], 0.15)
blocks = [top._asdict() | {"images": images[top.examples]} for top in tops]
figures.most_confident_images(classes, blocks, 0.15)

# %% [markdown]
# ## Which branches are dispensable?
#
# Since f is a sum, removing a branch means omitting its term. Left: the accuracy lost
# without each branch. Right: the accuracy of the sum of the branches with the largest
# response norms, and of each of them alone.

# %%
ablation = contributions.ablation(v, labels, np.asarray(sp.active_branches(v)))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.bar(range(M), ablation.points_lost)
left.set(xlabel="branch", ylabel="accuracy lost, percentage points")
right.plot(range(1, M + 1), ablation.kept, "o-", label="sum of the first")
right.plot(range(1, M + 1), ablation.alone_in_order, "s:", label="alone")
right.set(xlabel="branches by response norm", ylabel="accuracy", ylim=(0, 1))
right.legend()
plt.show()

# %% [markdown]
# ## A smaller network
#
# Branches are rows of every parameter, so that indexing the stacked trees yields a
# network of fewer branches, whose output is the sum of just those branches.

# %%
largest = np.array(ablation.order[: M // 2])
params, stats = jax.tree.map(
    lambda leaf: leaf[largest], (trained.params, trained.batch_stats)
)
spec = dataclasses.replace(trained.spec, branches=len(largest))
responses = classifier.predict(
    classifier.build(spec), params, stats, images[:250], spec.pixels
)
np.testing.assert_allclose(responses, v[largest, :250], atol=1e-3)
print(f"accuracy of all {M} branches: {ablation.full:.3f}")
print(f"of the {len(largest)} largest: {ablation.kept[len(largest) - 1]:.3f}")
