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
# Cells with sliders update within seconds.

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
import ipywidgets as widgets
import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display
from matplotlib.animation import FuncAnimation

from bspec_jax import active_branches, toys
from bspec_jax.toys import measures, sweeps

START = {
    "task": "toy2",
    "num_branches": 8,
    "learning_rate": 0.02,
    "negative_slope": 0.01,
    "init": "normal",
    "init_scale": 1.0,
}


def slider(name, low, high, step=None, kind=widgets.FloatSlider):
    """A slider that takes effect when the mouse button is released."""
    options = {} if step is None else {"step": step}
    return kind(START[name], min=low, max=high, continuous_update=False, **options)


def controls():
    return {
        "task": widgets.Dropdown(options=list(toys.TASKS), value=START["task"]),
        "num_branches": slider("num_branches", 1, 40, kind=widgets.IntSlider),
        "learning_rate": slider("learning_rate", -3, -0.5, kind=widgets.FloatLogSlider),
        "negative_slope": slider("negative_slope", 0, 0.5, 0.01),
        "init": ["normal", "uniform"],
        "init_scale": slider("init_scale", 0.1, 3, 0.1),
    }


# %% [markdown]
# ## One training run, step by step
#
# Lines are branches, the dashed black line is their sum, and the dots are the targets.
# Grey branches are silent at the end: the norm of their responses is below 10 % of the
# largest.

# %%
EVERY = 20  # steps between recorded frames


def train(task, num_branches, learning_rate, negative_slope, init, init_scale, seed):
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
    for k in np.argsort(active, kind="stable"):  # active branches on top
        ax.plot(x, responses[frame, k], color="C0" if active[k] else "0.8")
    ax.plot(x, responses[frame].sum(0), "--", color="black")
    ax.plot(x, y, "o", color="black")
    ax.set(xlabel="x", ylim=(-0.6, 1.6))
    ax.set_title(f"step {EVERY * frame}; {active.sum()} active at the end", fontsize=9)


def animate(**settings):
    x, y, responses = train(**settings)
    frames = np.unique(np.geomspace(1, len(responses), 25).astype(int) - 1)
    figure, ax = plt.subplots(figsize=(5, 3.2), dpi=80, layout="constrained")

    def show(frame):
        ax.clear()
        draw(ax, x, y, responses, frame)

    animation = FuncAnimation(figure, show, frames=frames, interval=200)
    player = HTML(animation.to_jshtml(default_mode="once"))
    plt.close(figure)
    display(player)


widgets.interactive(
    animate, **controls(), seed=widgets.IntSlider(4, continuous_update=False)
)

# %% [markdown]
# Four of the frames, for reading without running:

# %%
x, y, responses = train(**START, seed=4)
_, axes = plt.subplots(1, 4, figsize=(11, 2.6), sharey=True)
for ax, frame in zip(axes, (0, 5, 25, 200), strict=True):
    draw(ax, x, y, responses, frame)
plt.show()

# %% [markdown]
# ## Many training runs
#
# Trains 1000 networks in one compiled computation. How often does training succeed (the
# squared error falls below $10^{-4}$), and how many branches are active at the end?


# %%
def train_many(init, trials, **values):
    table = sweeps.settings(**values, trial=range(trials))
    trained = sweeps.train(sweeps.init_trials(jax.random.key(0), table, init=init))
    rates = measures.success_rates(trained, (1,))
    counts = measures.measure_trials(trained).num_active
    low, high = rates["success_interval"][0]
    _, ax = plt.subplots(figsize=(5, 2.6))
    ax.hist(counts, np.arange(trained.w.shape[0] + 2) - 0.5, rwidth=0.85)
    m = values["num_branches"]
    ax.set(xlabel=f"active branches of {m}", ylabel="networks", xlim=(-0.5, m + 0.5))
    rate = rates["success_rate"][0]
    ax.set_title(f"success rate {rate:.2f} (95 %: {low:.2f} to {high:.2f})")
    plt.show()


widgets.interactive(train_many, **controls(), trials=widgets.fixed(1000))

# %% [markdown]
# ## Varying M
#
# How do success and the number of active branches depend on M (Figures 3 and 4)?

# %%
branches = [2, 3, 5, 8, 12, 20, 30]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
for task in toys.TASKS:
    table = sweeps.settings(
        task=task, num_branches=branches, learning_rate=0.02, trial=range(300)
    )
    trained = sweeps.train(sweeps.init_trials(jax.random.key(0), table))
    rates = measures.success_rates(trained, (len(branches),))
    means = measures.measure_means(trained, (len(branches),))
    left.plot(branches, rates["success_rate"], "o-", label=task)
    right.plot(branches, means["num_active"]["mean"], "o-", label=task)
left.set(xlabel="M", ylabel="success rate")
right.set(xlabel="M", ylabel="active branches", ylim=(0, None))
left.legend()
plt.show()
