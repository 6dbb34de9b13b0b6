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
# A classifier that is a sum of M = 16 slim ResNets, f(x) = sum_k v_k(x), was trained on
# the loss of the sum alone. Which branch says what, and which can be missed? This is
# the run `docs/runs/classify` of the README: Fashion-MNIST, parameters alone, 5 MB.

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

from bspec_jax import classifier, figures, measure
from bspec_jax.analysis import specialization as sp
from bspec_jax.classifier import contributions

RUN = ROOT / "docs" / "runs" / "classify"
trained = classifier.load(RUN)
classes = trained.description["classes"]
with np.load(RUN / "examples.npz") as examples:
    images, labels = examples["images"][:2000], examples["labels"][:2000]

v = trained.responses(images)  # of every branch: [M, N, C]
f = v.sum(0)
M = len(v)
print("responses", v.shape, "; accuracy of the sum", contributions.accuracy(f, labels))

# %% [markdown]
# ## How an answer comes about
#
# Three images; each row is a branch, each column a class, and the last row their sum.
# Beyond -1 and 1 the loss clamps the sum, so that nothing pulls it back.

# %%
chosen = [int(np.flatnonzero(labels == c)[0]) for c in (0, 5, 8)]
figure, axes = plt.subplots(
    2, 3, figsize=(11, 5.4), height_ratios=(1, 4), layout="constrained"
)
for above, ax, i in zip(*axes, chosen, strict=True):
    above.imshow(images[i, ..., 0], cmap="gray")
    above.set_title(classes[labels[i]])
    above.axis("off")
    rows = np.concatenate([v[:, i], f[None, i]])
    ax.imshow(rows, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    ax.axhline(M - 0.5, color="black")
    ax.set_yticks(range(M + 1), [*range(M), "sum"], fontsize=7)
    ax.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=7)
plt.show()

# %% [markdown]
# ## How the branches divide the work
#
# Who is active, how alike the branches are, and the entropy of a branch's energy over
# the classes (1: it responds to all alike). `docs/classify.md` compares these with the
# network before training, and with branches that are trained separately.

# %%
found = measure(v, energy=sp.region_energy(v, labels, len(classes)))
for name in ("num_active", "num_silent", "correlation", "index", "entropy"):
    print(f"{name:11} {float(getattr(found, name)):.2f}")

# %%
figures.branch_covariances({"covariance of the branches": sp.covariance(v)})

# %% [markdown]
# ## Which branch is sure of which class?
#
# Confidence of branch k in the true class y: v_k(x)_y less its mean over the classes.

# %%
confidence = contributions.confidence(v, labels)
figures.branch_confidence(classes, confidence, labels)

# %% [markdown]
# The images of a class that its two surest branches are most sure of:

# %%
LABEL = 8  # bags; try another
surest = np.argsort(-confidence[:, labels == LABEL].mean(1))[:2]
figures.most_confident_images(
    classes, surest, [LABEL], 0.15, images, labels, confidence
)

# %% [markdown]
# ## Which branches can be missed?
#
# Since f is a sum, a branch is removed by leaving its term out.

# %%
ablation = contributions.ablation(v, labels, np.asarray(sp.active_branches(v)))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.bar(range(M), 100 * (ablation.full - np.array(ablation.without)))
left.set(title="accuracy lost without a branch", xlabel="branch", ylabel="points")
right.plot(range(1, M + 1), ablation.kept, "o-", label="the largest, in the sum")
alone = np.array(ablation.alone)[ablation.order]
right.plot(range(1, M + 1), alone, "s:", label="each alone")
right.set(title="accuracy", xlabel="branches by response norm", ylim=(0, 1))
right.legend()
plt.show()

# %% [markdown]
# ## A smaller network
#
# Branches are rows of every parameter, so that a network of some of them is an index
# into the stacked trees. It answers as the sum of those branches does.

# %%
largest = np.array(ablation.order[: M // 2])
params, stats = jax.tree.map(
    lambda leaf: leaf[largest], (trained.params, trained.batch_stats)
)
small = classifier.build(trained.description["widths"], len(largest), len(classes))
few = classifier.predict(small, params, stats, images[:250], trained.pixels)
np.testing.assert_allclose(few, v[largest, :250], atol=1e-3)
print(
    f"{len(largest)} of {M} branches: accuracy {ablation.kept[len(largest) - 1]:.3f}, "
    f"of {ablation.full:.3f}"
)
