# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The combinator in your own code
#
# A branch is a pair of pure functions, `init` and `apply`. `sum_of_branches` turns it
# into a sum of M branches, whose parameters are stacked on a leading axis M and which
# run as one batched computation.

# %%
from cells.installation import StopError

# isort: split

# %%
from cells.controls import explore

# isort: split

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from flax import nnx

from bspec_jax import adapters, from_functions, measure, sum_of_branches
from bspec_jax.conv import conv_general_dilated

M = 8
key = jax.random.key(0)
x = jax.random.normal(key, (32, 3))


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


# %% [markdown]
# ## Plain functions


# %%
def init(key):
    return {"w": jax.random.normal(key, (3, 2)), "b": jnp.zeros(2)}


def apply(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


net = sum_of_branches(from_functions(init, apply), M)
params, state = net.init(key)
v, _ = net.responses(params, state, x)
f, _ = net.apply(params, state, x)
print(shapes(params), v.shape, f.shape)
np.testing.assert_allclose(f, v.sum(0), atol=1e-6)
np.testing.assert_allclose(v[3], apply(jax.tree.map(lambda p: p[3], params), x), 1e-5)

# %% [markdown]
# What becomes of each branch when the sum is trained? Here the first output learns
# sin(2 x_0), and the second x_1 x_2. The picture shows the first output along x_0, the
# other inputs being 0. The sliders set the number of branches and the training step.

# %%
STEPS = 500
points = jax.random.normal(jax.random.key(1), (256, 3))
targets = jnp.stack([jnp.sin(2 * points[:, 0]), points[:, 1] * points[:, 2]], 1)
line = jnp.linspace(-2, 2, 81)[:, None] * jnp.array([1.0, 0.0, 0.0])
optimizer = optax.adam(3e-2)
COLOURS = plt.cm.tab20([*range(0, 20, 2), *range(1, 20, 2)])  # of each branch


@functools.cache
def train(num_branches):
    """The network, its parameters before each step, and the losses."""
    net = sum_of_branches(from_functions(init, apply), num_branches)

    def loss(params):
        return ((net.apply(params, (), points)[0] - targets) ** 2).mean()

    def step(carry, _):
        params, opt_state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), (params, value)

    params, _ = net.init(key)
    start = params, optimizer.init(params)
    history, losses = jax.jit(lambda: jax.lax.scan(step, start, length=STEPS + 1)[1])()
    return net, history, losses


def draw(num_branches=M, step=STEPS):
    net, history, losses = train(num_branches)
    v, _ = net.responses(jax.tree.map(lambda leaf: leaf[step], history), (), line)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.2), width_ratios=(1, 2), layout="constrained"
    )
    left.semilogy(losses, "o-", color="0.4", markevery=[step])
    left.set(xlabel="step", ylabel="loss", title=f"loss {losses[step]:.3f}")
    for k, response in enumerate(v[..., 0]):
        right.plot(line[:, 0], response, color=COLOURS[k], label=f"branch {k}")
    right.plot(line[:, 0], v[..., 0].sum(0), "--", color="black", label="sum $f$")
    right.plot(line[:, 0], jnp.sin(2 * line[:, 0]), ":", color="0.4", label="target")
    right.set(xlabel="$x_0$", ylabel="first output of $v_k$", title=f"step {step}")
    figure.legend(loc="outside right upper", fontsize=8)
    plt.show()


explore(draw, num_branches=(1, 20), step=(0, STEPS))

# %% [markdown]
# Each branch bends in a place of its own, and the sum follows the target, worst at the
# ends. Every branch is needed for that: `measure` finds none silent.

# %%
net, history, _ = train(M)
params = jax.tree.map(lambda leaf: leaf[-1], history)
print(measure(net.responses(params, state, points)[0]))

# %% [markdown]
# ## Flax Linen, with BatchNorm
#
# Running statistics are a second tree, stacked in the same way. On a CPU, gradients of
# convolutions are slow under `vmap`. This project's `conv_general_dilated` computes
# them branch by branch there.


# %%
class Net(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        y = nn.Conv(4, (3, 3), conv_general_dilated=conv_general_dilated)(images)
        y = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(y))
        return nn.Dense(5)(y.mean((1, 2)))


images = jax.random.normal(key, (16, 8, 8, 3))
linen = sum_of_branches(adapters.from_linen(Net()), M)
params, state = linen.init(key, images)
f, new_state = linen.apply(params, state, images, train=True)
print(f.shape, shapes(state))

# %% [markdown]
# ## Flax NNX

# %%
nnx_net = sum_of_branches(
    adapters.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs)), M
)
params, state = nnx_net.init(key)
print("NNX", nnx_net.apply(params, state, x)[0].shape)

# %% [markdown]
# ## One input per branch, and a residual
#
# `in_axes=0` gives branch k the k-th input, and `residual` is added to the sum.

# %%
inputs, residual = jax.random.normal(key, (M, 32, 3)), x[:, :2]
separate = sum_of_branches(from_functions(init, apply), M, in_axes=0)
params, state = separate.init(key)
f, _ = separate.apply(params, state, inputs, residual=residual)
by_hand = residual + sum(
    apply(jax.tree.map(lambda p, k=k: p[k], params), inputs[k]) for k in range(M)
)
np.testing.assert_allclose(f, by_hand, atol=1e-5)

# %% [markdown]
# ## Saving memory
#
# `sequential=True` runs one branch at a time and recomputes it in the backward pass,
# for the same values and gradients with less memory.


# %%
class Wide(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.tanh(nn.Dense(256)(x))
        return nn.Dense(2)(x)


big = jax.random.normal(key, (512, 3))
gradients = {}
for sequential in (False, True):
    wide = sum_of_branches(adapters.from_linen(Wide()), M, sequential=sequential)
    params, _ = wide.init(key, big)

    def loss(params, wide=wide):
        return (wide.apply(params, {}, big)[0] ** 2).sum()

    compiled = jax.jit(jax.grad(loss)).lower(params).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    gradients[sequential] = compiled(params)
    print(f"sequential={sequential}: {memory:.1f} MiB of temporary memory")
_ = jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2),
    gradients[False],
    gradients[True],
)

# %% [markdown]
# ## Sharding over devices
#
# The leading axis of every parameter holds the branches; sharding it distributes them
# over devices. (Here there may be a single device.)

# %%
mesh = jax.make_mesh((jax.device_count(),), ("branches",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("branches"))
params, state = net.init(key)
placed = jax.device_put(params, sharding)
f, _ = jax.jit(net.apply)(placed, state, x)
np.testing.assert_allclose(f, net.apply(params, state, x)[0], atol=1e-6)
print(jax.tree.leaves(placed)[0].sharding)

# %% [markdown]
# ## Equinox

# %%
import importlib.util

if importlib.util.find_spec("equinox") is None:
    raise StopError("This cell needs Equinox: `pip install equinox`")
import equinox as eqx


def make(key):
    return eqx.nn.MLP(3, 2, 16, 1, key=key)


_, static = eqx.partition(make(key), eqx.is_array)
equinox_net = sum_of_branches(
    from_functions(
        lambda key: eqx.filter(make(key), eqx.is_array),
        lambda params, x: jax.vmap(eqx.combine(params, static))(x),
    ),
    M,
)
params, state = equinox_net.init(key)
print("Equinox", equinox_net.apply(params, state, x)[0].shape)
