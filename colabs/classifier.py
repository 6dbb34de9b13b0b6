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
# A classifier that is a sum of M = 16 small perceptrons, f(x) = sum_k v_k(x), was
# trained with a loss on the sum alone, and with weight decay. Which branch contributes
# to which class, and which branches are silent? The network is that of the run
# `docs/runs/classify`, trained on Fashion-MNIST at 14 pixels.

# %%
from cells.installation import ROOT, StopError

# isort: split

# %%
RUN = ROOT / "docs" / "runs" / "classify"
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
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from bspec_jax import classifier, figures, measure
from bspec_jax.analysis import specialization as sp
from bspec_jax.classifier import contributions
from bspec_jax.classifier.pruning import prune

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
    drawn = ax.imshow(rows, cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto")
    ax.axhline(M - 0.5, color="black")
    ax.set_yticks(range(M + 1), [*range(M), "sum"], fontsize=7)
    ax.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=7)
    ax.set(xlabel="class", ylabel="branch $k$")
    ax.label_outer()
figure.colorbar(drawn, ax=axes[1], label="response $v_k(x)$", extend="both")
plt.show()

# %% [markdown]
# The sum is largest for the true class. Few branches contribute much of it, and which
# ones depends on the image; most rows are empty in all three.

# %% [markdown]
# ## Measures of specialization
#
# How many branches are active, how strongly their responses correlate, and the entropy
# of a branch's energy over the classes (1 if it responds to all classes equally).
# `docs/classify.md` compares these numbers with the untrained network and with branches
# that are trained separately. The rule "centred" removes each branch's constant output
# first: it is all that a silent branch has.

# %%
energy = sp.region_energy(sp.regional(v, "centred"), labels, len(classes))
measures = measure(v, energy=energy, rule="centred")
print(measures)

# %%
figure = figures.branch_covariances({"responses after training": sp.covariance(v)})
figure.axes[-1].set_ylabel("covariance")
display(figure)

# %% [markdown]
# Silent branches are empty rows. In the others the diagonal dominates: the responses of
# two branches have little in common.
#
# ## Which branch is confident in which class?
#
# The confidence of branch k in the true class y is v_k(x)_y minus the mean of v_k(x)
# over the classes. Each column is an image.

# %%
confidence = contributions.confidence(v, labels)
sample = contributions.sample_of_each(labels, 20)
figures.branch_confidence(classes, confidence[:, sample], labels[sample])

# %% [markdown]
# Active branches are confident in one or two classes, and silent ones in none.
#
# The two branches that are most confident in a class, and the images of this class in
# which they are most confident, in descending order. Choose another class:


# %%
def most_confident(name="Bag"):
    of_class = np.flatnonzero(labels == classes.index(name))
    best = np.argsort(-confidence[:, of_class].mean(1))[:2]
    rows = {}
    for k in best:
        order = of_class[np.argsort(-confidence[k, of_class])][:12]
        top, last = confidence[k, order[[0, -1]]]
        rows[f"branch {k}: {top:.2f} to {last:.2f}"] = images[order] / 127.5 - 1
    display(figures.pictures(rows, range(1, 13)))


explore(most_confident, name=list(classes))

# %% [markdown]
# Branch 11 is most confident in bags with handles. Branch 6 takes bags of any shape,
# with a tenth of that confidence.
#
# ## Which branches are dispensable?
#
# Since f is a sum, removing a branch means omitting its term. Left: the accuracy lost
# without each branch. Right: the accuracy of the sum of the branches with the largest
# response norms, and of each of them alone.

# %%
active = np.asarray(sp.active_branches(v, rule="centred"))
ablation = contributions.ablation(v, labels, active)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.bar(range(M), ablation.points_lost, color="0.4")
left.set(xlabel="branch $k$", ylabel="accuracy lost, percentage points")
left.set_xticks(range(M), range(M), fontsize=7)
right.plot(ablation.kept, "o-", color="black", label="sum up to this branch")
right.plot(ablation.alone_in_order, "s:", color="0.4", label="this branch alone")
right.set_xticks(range(M), ablation.order, fontsize=7)
right.set(xlabel="branch $k$, by response norm", ylabel="accuracy", ylim=(0, 1))
right.legend()
plt.show()

# %% [markdown]
# Left: each active branch is needed, and no silent one is. Right: no branch alone is
# right for a quarter of the images, and the seven largest do as well as all sixteen.

# %% [markdown]
# ## A smaller network
#
# Branches are rows of every parameter, so that indexing the stacked trees yields a
# network of fewer branches. `prune` does that, and adds the constant outputs of the
# branches it leaves out to a bias.

# %%
pruned = prune(trained, active, images)
f = pruned.responses(images).sum(0)
print(f"accuracy of all {M} branches: {ablation.full:.3f}")
print(f"of the {active.sum()} active ones: {contributions.accuracy(f, labels):.3f}")
