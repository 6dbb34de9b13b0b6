# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Gradient factors and Hessian blocks of a model of your own
#
# For a sum of branches f = sum_k v_k the gradient of each parameter is a product of two
# factors: the *collaborative* one, dL/df, which all branches share, and a
# *distributive* one, dv_k/dtheta_k, of the branch alone (section 5.1). The Hessian has
# blocks: those of different branches need first derivatives only (section 5.2).

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
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn

from bspec_jax import (
    adapters,
    collaborative_factor,
    distributive_factor,
    frozen_responses,
    sum_of_branches,
)
from bspec_jax.analysis import gradients, hessian, hessian_measures
from bspec_jax.analysis.hessian_estimates import estimate_block_norms, lanczos_spectra

M = 6


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(6)(x)))[..., 0]


key = jax.random.key(0)
x = jax.random.uniform(key, (64, 2), minval=-2, maxval=2)
y = jnp.sin(2 * x[:, 0]) * x[:, 1]
net = sum_of_branches(adapters.from_linen(Net()), M)
start, state = net.init(key, x)
respond = frozen_responses(net, state)  # (params, one example) -> [M, ...]


def loss(f, y):  # of one example; the total is a sum over examples
    return (f - y) ** 2


# %% [markdown]
# ## The two factors

# %%
f, _ = net.apply(start, state, x)
collaborative = collaborative_factor(lambda f: loss(f, y).sum(), f)  # dL/df, [N]
distributive = distributive_factor(respond, start, x)  # leaves [M, N, ...]
product = gradients.gradient(distributive, collaborative)
whole = jax.grad(lambda params: loss(net.apply(params, state, x)[0], y).sum())(start)
jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), product, whole
)
print("their product is the gradient")

# %% [markdown]
# ## Which of them vanishes while it trains?
#
# The share of (parameter, example) pairs, and of examples, whose factor is below a
# hundredth of its root mean square at the start. Section 8 conjectures that it is the
# distributive one.

# %%
optimizer = optax.adam(1e-2)


@jax.jit
def train(params):
    def step(carry, _):
        params, opt_state = carry
        gradient = jax.grad(lambda p: loss(net.apply(p, state, x)[0], y).mean())(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, 3000)[0][0]


trained = train(start)
scale = gradients.distributive_scale(respond, start, x)
scale_f = gradients.collaborative_scale(collaborative)
for name, params in (("start", start), ("trained", trained)):
    f, _ = net.apply(params, state, x)
    factor = collaborative_factor(lambda f: loss(f, y).sum(), f)
    pairs = gradients.distributive_shares(respond, params, x, scale)
    examples = gradients.collaborative_shares(factor, scale_f)
    print(
        f"{name:8} loss {float(loss(f, y).mean()):.4f}  thresholds "
        f"{gradients.THRESHOLDS}: distributive {np.round(pairs, 2)}, "
        f"collaborative {np.round(examples, 2)}"
    )

# %% [markdown]
# Here it is the collaborative one: the network fits its points, and dL/df vanishes with
# the error, while most distributive factors stay. `docs/hessian.md` has the same of the
# paper's toys.
#
# ## The Hessian, block by block
#
# `[M, P, M, P]`, exact. The control regroups the same parameters at random.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6))
for ax, (name, params) in zip(
    axes, (("start", start), ("trained", trained)), strict=True
):
    h = hessian.hessian_blocks(respond, loss, params, x, y).full()
    size = h.shape[0] * h.shape[1]
    ratio = hessian_measures.offdiagonal_ratio(hessian_measures.block_norms(h))
    control = hessian_measures.expected_control_ratio(h)
    limit = np.quantile(np.abs(h), 0.99)
    picture = np.asarray(h).reshape(size, size)
    ax.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_title(f"{name}: ratio {ratio:.2f}, at random {control:.2f}")
    ax.axis("off")
plt.show()

# %% [markdown]
# Training does not make this Hessian block diagonal: relative to the diagonal blocks,
# those of different branches grow to what parameters regrouped at random have.
#
# The same by `jax.hessian`, which needs M times as many products:

# %%
dense = hessian.dense_hessian(respond, loss, trained, x, y)
np.testing.assert_allclose(h, dense, atol=1e-3 * float(jnp.abs(dense).max()))
print("equal to the dense Hessian")

# %% [markdown]
# ## Where a branch is too large
#
# Block norms from random products, with their standard error, and the spectrum of every
# branch's own block by Lanczos (NaN where a block of low rank has no more values).

# %%
estimate = estimate_block_norms(respond, loss, trained, x, y, key, probes=64)
exact = hessian_measures.block_norms(h)
beyond = jnp.abs(estimate.norms - exact) / estimate.standard_error
print(f"largest deviation: {float(beyond.max()):.1f} standard errors of {M * M} blocks")

spectra = lanczos_spectra(respond, loss, trained, x, y, key, num_products=20)
largest = np.nanmax(spectra, axis=1)
own = [np.linalg.eigvalsh(np.asarray(h[k, :, k, :]))[-1] for k in range(M)]
for k in range(M):
    print(f"branch {k}: largest eigenvalue {largest[k]:.3f} (exact {own[k]:.3f})")
np.testing.assert_allclose(largest, own, rtol=1e-3)
