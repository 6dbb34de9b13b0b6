import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from numpy.testing import assert_allclose
from objectives import problem, squared

from bspec_jax.adapters import from_linen, from_nnx
from bspec_jax.analysis import gradients, hessian
from bspec_jax.analysis.objective import Objective, frozen_responses
from bspec_jax.branching import Branch, from_functions, sum_of_branches
from bspec_jax.losses import squared_error

M, N, D = 3, 5, 2
SEQUENTIAL = pytest.mark.parametrize("sequential", [False, True])


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.tanh(nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x)))
        return nn.Dense(2)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(D, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(D, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(self.norm(x)))


def product(w, x):
    return x @ w


def counting(apply, change):
    """A branch without randomness, whose state goes through `change`."""

    def init(key, x):
        state = {"calls": jnp.zeros(()), "mean": jnp.ones(())}
        return jax.random.normal(key, (D, 2)), state

    return Branch(init, lambda w, state, x: (apply(w, x), change(state)))


NORM = {"use_running_average": True}
CHANGES = {
    "BatchNorm of Linen": (from_linen(LinenNet()), {}, "batch_stats/BatchNorm_0/mean"),
    "BatchNorm of NNX": (from_nnx(NnxNet, deterministic=True), {}, "norm/mean"),
    "dropout of NNX": (from_nnx(NnxNet, **NORM), {}, "dropout/rngs/count"),
    "an equal value": (
        counting(product, lambda s: {**s, "calls": s["calls"] * 1}),
        {},
        "calls",
    ),
    "two that are swapped": (
        counting(product, lambda s: {"calls": s["mean"], "mean": s["calls"]}),
        {},
        "calls",
    ),
    "one that is added": (counting(product, lambda s: {**s, "new": 0.0}), {}, "new"),
    "one that is lost": (counting(product, lambda s: {"mean": s["mean"]}), {}, "calls"),
    "under jit": (
        counting(product, jax.jit(lambda s: {**s, "mean": s["mean"] + 1})),
        {},
        "mean",
    ),
}


@SEQUENTIAL
@pytest.mark.parametrize(("branch", "kwargs", "path"), CHANGES.values(), ids=CHANGES)
def test_a_call_that_changes_the_state_is_refused(branch, kwargs, path, sequential):
    net = sum_of_branches(branch, M, sequential=sequential)
    x = jnp.linspace(-1, 2, N * D).reshape(N, D)
    params, state = net.init(jax.random.key(0), x)
    respond = frozen_responses(net, state, **kwargs)
    objective = Objective(respond, squared_error, x, jnp.zeros((N, 2)))
    for use in (
        lambda: respond(params, x[0]),
        lambda: jax.jit(jax.vmap(respond, (None, 0)))(params, x),
        lambda: jax.grad(objective.total)(params),
        lambda: hessian.blocks(objective, params),
        lambda: gradients.distributive_factor(respond, params, x),
    ):
        with pytest.raises(ValueError, match=f"changes the state at {path}: call"):
            use()
    unchecked = frozen_responses(net, state, check_state=False, **kwargs)
    v, _ = net.responses(params, state, x[:1], **kwargs)
    assert_allclose(unchecked(params, x[0]), v[:, 0], rtol=1e-5, atol=1e-6)


def scanned(state):
    """The state after a scan that carries it and changes nothing."""
    keep = jax.checkpoint(lambda carry, _: (carry, None))
    return jax.lax.scan(keep, state, None, length=3)[0]


@jax.custom_vjp
def kept(state):
    """The state, by a function with a derivative of its own."""
    return state


kept.defvjp(lambda state: (state, None), lambda _, cotangent: (cotangent,))

KEPT = {
    "Linen": (from_linen(LinenNet()), {"train": False}),
    "NNX": (from_nnx(NnxNet, deterministic=True, **NORM), {}),
    "plain": (counting(product, lambda s: s), {}),
    "through jit": (counting(product, jax.jit(dict)), {}),
    "through a scan": (counting(product, scanned), {}),
    "through a custom derivative": (counting(product, kept), {}),
}


@SEQUENTIAL
@pytest.mark.parametrize(("branch", "kwargs"), KEPT.values(), ids=KEPT)
def test_responses_with_a_state_that_stays(branch, kwargs, sequential):
    net = sum_of_branches(branch, M, sequential=sequential)
    x = jnp.linspace(-1, 2, N * D).reshape(N, D)
    params, state = net.init(jax.random.key(0), x)
    state = jax.tree.map(
        lambda s: s + 0.5 if jnp.issubdtype(s.dtype, jnp.floating) else s, state
    )
    respond = frozen_responses(net, state, **kwargs)
    expected, _ = net.responses(params, state, x, **kwargs)
    mapped = jax.vmap(respond, (None, 0), 1)
    for function in (mapped, jax.jit(mapped)):
        assert_allclose(function(params, x), expected, rtol=1e-5, atol=1e-5)
    for k in range(M):
        gradient = jax.grad(lambda p, k=k: (respond(p, x[1])[k] ** 2).sum())(params)
        expected = jax.grad(
            lambda p, k=k: (net.responses(p, state, x, **kwargs)[0][k, 1] ** 2).sum()
        )(params)
        for a, b in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
            assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_check_traces_the_branch_once():
    traces = []

    def apply(w, x):
        traces.append(1)
        return x @ w

    net = sum_of_branches(counting(apply, lambda s: s), M)
    params, state = net.init(jax.random.key(0), jnp.ones((1, D)))
    respond = jax.jit(frozen_responses(net, state))
    for scale in (1, 2):
        respond(params, scale * jnp.ones(D))
    assert len(traces) == 1


MASKED = from_functions(
    lambda key: jax.random.normal(key, (D, 2)),
    lambda w, x, mask=1.0, gain=1.0: jnp.tanh(x @ w) * mask * gain,
)


def masked_case():
    net = sum_of_branches(MASKED, M)
    x = jnp.linspace(-1, 2, N * D).reshape(N, D)
    mask = jnp.arange(N * 2.0).reshape(N, 2) - 3
    return net, net.init(jax.random.key(0))[0], x, mask


def test_keywords_of_the_example_and_shared_ones():
    net, params, x, mask = masked_case()
    gain = jnp.array([2.0, -1.0])
    axes = {"mask": 0, "gain": None}
    respond = frozen_responses(net, (), keyword_axes=axes, gain=gain)
    y = jnp.ones((N, 2))
    objective = Objective(respond, squared_error, (x, {"mask": mask}), y)
    f, _ = net.apply(params, (), x, mask=mask, gain=gain)
    assert_allclose(objective.total(params), squared_error(f, y), rtol=1e-6)
    h = hessian.blocks(objective, params).full()

    def loss(params):
        return squared_error(net.apply(params, (), x, mask=mask, gain=gain)[0], y)

    expected = jax.hessian(loss)(params).reshape(M, 2 * D, M, 2 * D)
    assert_allclose(h, expected, rtol=1e-4, atol=1e-3)


def test_keywords_that_every_example_would_get_whole():
    net, _, _, mask = masked_case()
    for bad in (mask, np.asarray(mask), {"a": mask}, jax.random.key(0), jnp.ones(1)):
        with pytest.raises(ValueError, match="would get the whole of mask") as error:
            frozen_responses(net, (), mask=bad)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="declared as part of the examples"):
        frozen_responses(net, (), keyword_axes={"mask": 0}, mask=mask)


def test_examples_that_do_not_fit_the_axes():
    net, params, x, mask = masked_case()
    respond = frozen_responses(net, (), keyword_axes={"mask": 0})
    for bad, words in (
        (x[0], "must be a tuple of 2.* and a dict of mask"),
        ((x[0], mask[0]), "must end in a dict of mask"),
        ((x[0], {"mas": mask[0]}), "must end in a dict of mask"),
    ):
        with pytest.raises(ValueError, match=words):
            respond(params, bad)
    # Two inputs in one array would be taken apart.
    with pytest.raises(ValueError, match="must be a tuple of 2, an input for each"):
        frozen_responses(net, (), example_axis=(0, 0))(params, x[:2])
    with pytest.raises(ValueError, match="not a bool"):
        frozen_responses(net, (), example_axis=True)


def test_an_input_without_an_axis_of_examples():
    net, params, x, _ = masked_case()
    respond = frozen_responses(
        net, (), example_axis=(0, None), keyword_axes={"gain": None}
    )
    v = jax.vmap(respond, (None, 0))(params, (x, jnp.arange(N) + 1.0))
    expected = net.responses(params, (), x, (jnp.arange(N) + 1.0)[:, None])[0]
    assert_allclose(v.swapaxes(0, 1), expected, rtol=1e-6)


def test_one_output_of_several():
    branch = from_functions(
        lambda key: jax.random.normal(key, (D, 2)),
        lambda w, x: {"logits": jnp.tanh(x @ w), "more": (x, x @ w)},
    )
    net = sum_of_branches(branch, M)
    params, _ = net.init(jax.random.key(0))
    x = jnp.linspace(-1, 2, N * D).reshape(N, D)
    respond = frozen_responses(net, ())
    with pytest.raises(TypeError, match="not a dict of logits, more/0, more/1: sel"):
        respond(params, x[0])
    for output, expected in (
        (lambda v: v["logits"], jnp.tanh(x @ params)),
        (lambda v: v["more"][1], x @ params),
    ):
        chosen = frozen_responses(net, (), output=output)
        v = jax.vmap(chosen, (None, 0), 1)(params, x)
        assert_allclose(v, expected, rtol=1e-5, atol=1e-6)
    pair = Objective(lambda p, x: (p @ x, p), squared_error, x, jnp.zeros(N))
    with pytest.raises(TypeError, match=r"not a tuple of 0, 1: select one"):
        pair.total(params.swapaxes(1, 2))


def test_responses_that_lack_an_axis():
    branch = from_functions(lambda key: jnp.ones(D), lambda w, x: (x @ w).mean())
    net = sum_of_branches(branch, M)
    params, _ = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"\(3,\), and not \[M, 1, ...\] with M = 3"):
        frozen_responses(net, ())(params, jnp.ones(D))
    # The sum over the branches is taken already; a sum over C would follow.
    respond = lambda params, x: (params * x).sum(0)  # noqa: E731
    objective = Objective(respond, squared_error, jnp.ones((N, D)), jnp.ones(N))
    with pytest.raises(
        ValueError, match=r"responses of all branches .* not shape \(2,\)"
    ):
        objective.total(params)


def test_a_branch_is_no_network():
    with pytest.raises(TypeError, match="sum_of_branches, got an instance of Branch"):
        frozen_responses(MASKED, ())


def test_examples_and_targets_of_different_numbers(x64):
    objective, params = problem(squared, 2)
    for examples, targets in (
        (objective.examples[:4], objective.targets),
        (objective.examples, objective.targets[:1]),
        (objective.examples, jnp.float64(1.0)),
        ({"a": objective.examples, "b": objective.examples[:2]}, objective.targets),
    ):
        wrong = Objective(objective.respond, objective.loss, examples, targets)
        for use in (wrong.total, lambda params, o=wrong: hessian.blocks(o, params)):
            with pytest.raises(ValueError, match="must have the same leading axis N"):
                use(params)


def test_no_examples(x64):
    objective, params = problem(squared, 2)
    with pytest.raises(ValueError, match="there are no examples to sum the loss over"):
        objective.slice(slice(0)).total(params)
    none = Objective(objective.respond, objective.loss, {}, objective.targets)
    with pytest.raises(ValueError, match="there are no examples: give arrays"):
        none.total(params)


def test_a_loss_that_is_no_scalar(x64):
    objective, params = problem(lambda f, y: f, 2)
    with pytest.raises(ValueError, match=r"must be a scalar, not \(3,\): sum it"):
        objective.total(params)


def test_short_floats_are_summed_in_float32():
    """In bfloat16, 256 + 1 is 256."""
    branch = from_functions(lambda key: jnp.ones((), jnp.bfloat16), lambda w, x: w * x)
    net = sum_of_branches(branch, 257)
    params, state = net.init(jax.random.key(0))
    x = jnp.ones(300, jnp.bfloat16)
    y = jnp.zeros(300)
    objective = Objective(frozen_responses(net, state), lambda f, y: f - y, x, y)
    total = objective.total(params)
    assert total.dtype == jnp.float32
    assert total == 257 * 300


def test_strict_promotion_of_types_and_ranks():
    net, params, x, mask = masked_case()
    respond = frozen_responses(net, (), keyword_axes={"mask": 0})
    objective = Objective(respond, squared_error, (x, {"mask": mask}), mask)
    expected = objective.total(params)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert_allclose(objective.total(params), expected)
