# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Gradient factors and Hessian blocks of your own model
#
# In a sum of branches f = sum_k v_k, the gradient of each parameter is a product of two
# factors: the *collaborative* factor dL/df, which all branches share, and the
# *distributive* factor dv_k/dtheta_k of one branch (section 5.1). The Hessian consists
# of blocks, and those of two different branches need first derivatives only (section
# 5.2).

# %%
import cells.installation  # noqa: F401

# isort: split

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn

from bspec_jax import (
    Objective,
    activity,
    adapters,
    collaborative_factor,
    distributive_factor,
    frozen_responses,
    sum_of_branches,
)
from bspec_jax.analysis import gradients, hessian, hessian_estimates, hessian_measures

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


def loss(f, y):  # of one example; the objective sums it over examples
    return (f - y) ** 2


objective = Objective(respond, loss, x, y)


# %% [markdown]
# ## The two factors

# %%
f, _ = net.apply(start, state, x)
collaborative = collaborative_factor(lambda f: loss(f, y).sum(), f)  # dL/df, [N]
distributive = distributive_factor(respond, start, x)  # leaves [M, N, ...]
product = gradients.gradient(distributive, collaborative)
jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    product,
    jax.grad(objective.total)(start),
)
print("their product equals the gradient")

# %% [markdown]
# ## Which factor vanishes during training?
#
# Below are the share of (parameter, example) pairs whose distributive factor, and the
# share of examples whose collaborative factor, is less than 0.001, 0.01 and 0.1 of its
# initial root mean square. Section 8 conjectures that the distributive factor vanishes.

# %%
optimizer = optax.adam(1e-2)


@jax.jit
def train(params):
    def step(carry, _):
        params, opt_state = carry
        gradient = jax.grad(lambda p: objective.total(p) / len(x))(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, 3000)[0][0]


trained = train(start)
scale = gradients.distributive_scale(respond, start, x)
scale_f = gradients.collaborative_scale(collaborative)
print("share below      0.001  0.01   0.1")
for name, params in (("start", start), ("trained", trained)):
    f, _ = net.apply(params, state, x)
    factor = collaborative_factor(lambda f: loss(f, y).sum(), f)
    print(f"{name}: loss {float(loss(f, y).mean()):.4f}")
    for factor_name, shares in (
        ("distributive", gradients.distributive_shares(respond, params, x, scale)),
        ("collaborative", gradients.collaborative_shares(factor, scale_f)),
    ):
        print(f"  {factor_name:14}", *(f"{share:5.2f}" for share in shares.tolist()))

# %% [markdown]
# Here it is the collaborative factor: the network fits its points, and dL/df vanishes
# with the error, while most distributive factors do not. `docs/hessian.md` shows the
# same measure on the paper's toys.
#
# ## The Hessian, block by block
#
# `hessian.blocks` computes the exact Hessian, `[M, P, M, P]`. Lines separate the blocks
# of different branches. The titles show the index S_H over the active branches: 1 for a
# block-diagonal Hessian, 0 for identical branches.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for ax, (name, params) in zip(
    axes, (("start", start), ("trained", trained)), strict=True
):
    h = hessian.blocks(objective, params).full()
    v, _ = net.responses(params, state, x)
    active = activity(v, rule="centred")
    index = hessian_measures.block_index(hessian_measures.block_norms(h), active)
    limit = np.quantile(np.abs(h), 0.99)
    matrix = np.asarray(h).reshape(M * h.shape[1], -1)
    image = ax.imshow(
        matrix,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        extent=(-0.5, M - 0.5, M - 0.5, -0.5),
    )
    for edge in np.arange(M - 1) + 0.5:
        ax.axhline(edge, color="0.6", lw=0.5)
        ax.axvline(edge, color="0.6", lw=0.5)
    ax.set(xlabel="branch $l$", ylabel="branch $k$", xticks=range(M), yticks=range(M))
    ax.set_title(f"{name}: $S_H$ = {index:.2f}", fontsize=10)
    figure.colorbar(image, ax=ax, label="second derivative of the loss")
plt.show()

# %% [markdown]
# At the start, the blocks on the diagonal hold lines of large entries that the others
# lack. They are in proportion to the error, and vanish with it: after training, blocks
# of two branches look like those of one. This Hessian has not become block diagonal.
#
# `jax.hessian` gives the same result with M times as many products:

# %%
dense = hessian.dense(objective, trained)
np.testing.assert_allclose(h, dense, atol=1e-3 * float(jnp.abs(dense).max()))
print("equal to the dense Hessian")

# %% [markdown]
# ## Branches that are too large
#
# Without the blocks, one can still estimate their norms from products with random
# vectors, with a standard error, and the spectrum of each diagonal block by the Lanczos
# algorithm (NaN where a block of low rank has no further values).

# %%
estimate = hessian_estimates.block_norms(objective, trained, key, probes=64)
norms = hessian_measures.block_norms(h)
deviation = jnp.abs(estimate.norms - norms) / estimate.standard_error
print(f"largest of {M * M} deviations: {float(deviation.max()):.1f} standard errors")

spectra = hessian_estimates.lanczos_spectra(objective, trained, key, num_products=20)
largest = np.nanmax(spectra, axis=1)
exact = [np.linalg.eigvalsh(np.asarray(h[k, :, k, :]))[-1] for k in range(M)]
for k in range(M):
    print(f"branch {k}: largest eigenvalue {largest[k]:.3f} (exact {exact[k]:.3f})")
np.testing.assert_allclose(largest, exact, rtol=1e-3)
