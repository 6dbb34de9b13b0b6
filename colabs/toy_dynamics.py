# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Toy dynamics
#
# The network is a sum of M single neurons, $v_k(x) = \mathrm{leaky}(w_k x + b_k)$,
# fitted to four points by gradient descent. Which branch ends up fitting which point,
# and how many fit none?
#
# Two of the pictures have sliders, which take effect when released. Branches are
# numbered from 0, and branch k has the same colour everywhere.

# %%
import cells.installation  # noqa: F401

# isort: split

# %%
from cells.controls import explore

# isort: split

# %%
import functools

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display
from matplotlib.animation import FuncAnimation

from bspec_jax import active_branches, toys
from bspec_jax.toys import measures, sweeps

CONTROLS = {
    "task": list(toys.TASKS),
    "num_branches": (1, 40),
    "learning_rate": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2],
    "negative_slope": (0.0, 0.5, 0.01),
    "init": ["normal", "uniform"],
    "init_scale": (0.1, 3.0, 0.1),
}
GREYS = (14, 15)  # of tab20; grey is for silent branches
HUES = [plt.cm.tab20(i) for i in (*range(0, 20, 2), *range(1, 20, 2)) if i not in GREYS]
STYLES = [{"color": hue, "ls": ls} for ls in ("-", "-.", ":") for hue in HUES]

# %% [markdown]
# ## One training run, step by step
#
# Each line joins the responses of one branch to the four points. Silent branches, whose
# response norm at the end is below 10 % of the largest, are grey.

# %%
EVERY = 20  # steps between recorded frames


def train(
    task="toy2",
    num_branches=8,
    learning_rate=0.02,
    negative_slope=0.01,
    init="normal",
    init_scale=1.0,
    seed=4,
):
    """The task's points, and the responses to them during training, `[S, M, N]`."""
    x, y = (np.array(values) for values in toys.TASKS[task])
    network = toys.toy_network(
        num_branches, negative_slope=negative_slope, init=init, init_scale=init_scale
    )
    params, _ = network.init(toys.trial_key(jax.random.key(0), num_branches, seed))
    rates = {"learning_rate": learning_rate, "negative_slope": negative_slope}
    responses = toys.record(params, x, y, steps=4000, every=EVERY, **rates)
    order = np.argsort(x, kind="stable")
    return x[order], y[order], np.asarray(responses)[..., order]


def draw(ax, x, y, responses, frame):
    active = np.asarray(active_branches(responses[-1]))
    ax.plot(x, responses[frame, ~active].T, ".-", color="0.8")
    for k in np.flatnonzero(active):
        ax.plot(x, responses[frame, k], marker=".", label=f"branch {k}", **STYLES[k])
    ax.plot([], [], ".-", color="0.8", label=f"{(~active).sum()} silent")
    ax.plot(x, responses[frame].sum(0), "--", color="black", label="sum $f$")
    ax.plot(x, y, "o", color="black", label="targets")
    ax.set(xlabel="$x$", ylabel="response $v_k(x)$", ylim=(-0.6, 1.6))
    ax.set_title(f"step {EVERY * frame}", fontsize=9)


@functools.wraps(train)  # the same arguments, with the same defaults
def animate(**settings):
    x, y, responses = train(**settings)
    if not np.isfinite(responses).all():
        print("This run diverges: try a smaller learning rate.")
        return
    frames = np.unique(np.geomspace(1, len(responses), 25).astype(int) - 1)
    figure, ax = plt.subplots(figsize=(6.2, 3.2), dpi=80, layout="constrained")

    def show(frame):
        ax.clear()
        draw(ax, x, y, responses, frame)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    animation = FuncAnimation(figure, show, frames=frames, interval=200)
    player = HTML(animation.to_jshtml(default_mode="once"))
    plt.close(figure)
    display(player)


explore(animate, **CONTROLS, seed=(0, 100))

# %% [markdown]
# Four of the frames, for reading without running:

# %%
x, y, responses = train()
figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), sharey=True, layout="constrained")
for ax, frame in zip(axes, (0, 5, 25, 200), strict=True):
    draw(ax, x, y, responses, frame)
    ax.label_outer()
figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8)
plt.show()

# %% [markdown]
# Branch 4 takes over the point at -1, and branch 5 the other three. Branch 2 adds a
# little at -1; the other branches fall silent.
#
# ## Many training runs
#
# Trains 1000 networks in one compiled computation. How often does training succeed (the
# squared error falls below $10^{-4}$), and how many branches are active at the end?


# %%
def train_many(
    task="toy2",
    num_branches=8,
    learning_rate=0.02,
    negative_slope=0.01,
    init="normal",
    init_scale=1.0,
):
    table = sweeps.settings(
        task=task,
        num_branches=num_branches,
        learning_rate=learning_rate,
        negative_slope=negative_slope,
        init_scale=init_scale,
        trial=range(1000),
    )
    trained = sweeps.train(sweeps.init_trials(jax.random.key(0), table, init=init))
    rates = measures.success_rates(trained, (1,))
    counts = measures.measure_trials(trained).num_active[~trained.diverged]
    (rate,), ((low, high),) = rates["success_rate"], rates["success_interval"]
    _, ax = plt.subplots(figsize=(5, 2.6))
    ax.hist(counts, np.arange(num_branches + 2) - 0.5, rwidth=0.85, color="0.4")
    ax.set(xlabel=f"active branches of {num_branches}", ylabel="networks")
    title = f"success rate {rate:.2f} (95 %: {low:.2f} to {high:.2f})"
    if trained.diverged.any():
        title += f"; {trained.diverged.sum()} diverged"
    ax.set_title(title, fontsize=9)
    plt.show()


explore(train_many, **CONTROLS)

# %% [markdown]
# Nearly all networks succeed, mostly with two to four active branches.
#
# ## Varying M
#
# How do success and the number of active branches depend on M (Figures 3 and 4)?

# %%
branches = [2, 3, 5, 8, 12, 20, 30]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for task, style in zip(toys.TASKS, ("o-", "s--"), strict=True):
    table = sweeps.settings(
        task=task, num_branches=branches, learning_rate=0.02, trial=range(300)
    )
    trained = sweeps.train(sweeps.init_trials(jax.random.key(0), table))
    rates = measures.success_rates(trained, (len(branches),))
    means = measures.measure_means(trained, (len(branches),))
    active = means["num_active"]["mean"]
    left.plot(branches, rates["success_rate"], style, color="black", label=task)
    right.plot(branches, active, style, color="black", label=task)
left.set(xlabel="branches M", ylabel="success rate", ylim=(0, 1.05))
right.set(xlabel="branches M", ylabel="active branches, mean", ylim=(0, None))
left.legend()
right.legend()
plt.show()

# %% [markdown]
# Left: with more branches, training succeeds more often. Right: only a few branches
# stay active, however many there are.
