import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.adapters import from_linen, from_nnx
from bspec_jax.branching import from_functions, sum_of_branches

M = 4
SEQUENTIAL = pytest.mark.parametrize("sequential", [False, True])


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(5)(x))
        return nn.Dense(2)(nn.relu(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def take(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)


def assert_all_branches_differ(params):
    """Of every leaf that is not constant at initialisation (biases are)."""
    random = [p for p in jax.tree.leaves(params) if np.ptp(p) > 0]
    assert len(random) >= 2
    for leaf in random:
        flat = np.asarray(leaf).reshape(M, -1)
        assert np.unique(flat, axis=0).shape[0] == M


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (6, 3)) + 1


@SEQUENTIAL
def test_linen_equals_a_loop_over_the_module(x, sequential):
    module = LinenNet()
    net = sum_of_branches(from_linen(module), M, sequential=sequential)
    params, state = net.init(jax.random.key(0), x)
    assert_all_branches_differ(params)
    f, new_state = jax.jit(net.apply)(params, state, x)
    total = 0
    for k in range(M):
        out, updated = module.apply(
            {"params": take(params, k), **take(state, k)}, x, mutable=["batch_stats"]
        )
        total = total + out
        for a, b in zip(
            jax.tree.leaves(take(new_state, k)), jax.tree.leaves(updated), strict=True
        ):
            assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert_allclose(f, total, rtol=1e-4, atol=1e-5)


def test_linen_running_statistics_move_by_the_momentum(x):
    net = sum_of_branches(from_linen(LinenNet()), M)
    params, state = net.init(jax.random.key(0), x)
    _, after = net.apply(params, state, x, train=True)
    dense = params["Dense_0"]
    hidden = jnp.einsum("nd,mdc->mnc", x, dense["kernel"]) + dense["bias"][:, None]
    mean = after["batch_stats"]["BatchNorm_0"]["mean"]
    assert_allclose(mean, 0.1 * hidden.mean(1), rtol=1e-5, atol=1e-6)
    _, frozen = net.apply(params, after, x, train=False)
    jax.tree.map(assert_array_equal, frozen, after)


def test_linen_without_state_has_an_empty_state(x):
    net = sum_of_branches(from_linen(nn.Dense(2)), M)
    params, state = net.init(jax.random.key(0), x)
    assert state == {}
    f, state = net.apply(params, state, x)
    expected = jnp.einsum("nd,mdc->nc", x, params["kernel"]) + params["bias"].sum(0)
    assert state == {}
    assert_allclose(f, expected, rtol=1e-4, atol=1e-5)


class Noisy(nn.Module):
    """Draws of two streams, and variables that depend on one of them."""

    @nn.compact
    def __call__(self, x):
        self.variable("start", "s", lambda: jax.random.normal(self.make_rng("a"), (2,)))
        noise = jax.random.normal(self.make_rng("noise"), x.shape)
        return noise + nn.Dropout(0.5, deterministic=False)(x)


KEYS = {
    "typed": jax.random.key(5),
    "old": jax.random.PRNGKey(5),
    "streams": {"dropout": jax.random.key(5), "noise": jax.random.PRNGKey(6)},
}


@SEQUENTIAL
@pytest.mark.parametrize("rngs", KEYS.values(), ids=KEYS)
def test_linen_draws_are_of_each_branch_alone(x, rngs, sequential):
    module = Noisy()
    net = sum_of_branches(from_linen(module), M, sequential=sequential)
    params, state = net.init(jax.random.key(0), x, rngs=rngs)
    v, _ = jax.jit(net.responses)(params, state, x, rngs=rngs)
    own = jax.tree.map(lambda key: jax.random.split(key, M), rngs)
    expected = [module.apply(take(state, k), x, rngs=take(own, k)) for k in range(M)]
    assert_allclose(v, np.stack(expected), rtol=1e-5, atol=1e-6)
    f, _ = net.apply(params, state, x, rngs=rngs)
    assert_allclose(f, sum(expected), rtol=1e-5, atol=1e-5)
    assert np.unique(v.reshape(M, -1), axis=0).shape[0] == M
    assert np.unique(state["start"]["s"], axis=0).shape[0] == M


def test_linen_init_takes_the_streams_that_it_is_given(x):
    net = sum_of_branches(from_linen(Noisy()), M)
    key = jax.random.key(9)
    starts = []
    for seed in (0, 1):
        rngs = {"a": key, "noise": key, "dropout": key}
        _, state = net.init(jax.random.key(seed), x, rngs=rngs)
        starts.append(state["start"]["s"])
    assert_array_equal(*starts)


@SEQUENTIAL
def test_linen_branches_share_a_draw_where_that_is_said(x, sequential):
    module = nn.Dropout(0.5, deterministic=False)
    net = sum_of_branches(
        from_linen(module), M, keyword_axes={"rngs": None}, sequential=sequential
    )
    rngs = {"dropout": jax.random.key(5)}
    f, _ = net.apply({}, {}, x, rngs=rngs)
    assert_allclose(f, M * module.apply({}, x, rngs=rngs), rtol=1e-6)


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(2)(x)
        for scale in (1, 2):
            self.sow("seen", "h", scale * h)
        self.sow("total", "n", 1, reduce_fn=lambda a, b: a + b, init_fn=lambda: 0)
        return h


@SEQUENTIAL
def test_linen_collections_hold_what_the_last_call_sowed(x, sequential):
    net = sum_of_branches(from_linen(Sowing()), M, sequential=sequential)
    params, state = net.init(jax.random.key(0), x)

    def step(state, scale):
        v, new = net.responses(params, state, scale * x)
        return new, v

    last, v = jax.lax.scan(step, state, jnp.array([1.0, 3.0, -2.0]))
    assert jax.tree.structure(last) == jax.tree.structure(state)
    once, twice = last["seen"]["h"]
    assert_allclose(once, v[2], rtol=1e-5)
    assert_allclose(twice, 2 * v[2], rtol=1e-5)
    assert_array_equal(last["total"]["n"], np.full(M, 4))  # init is a call as well
    seen = state.pop("seen")
    assert len(seen["h"]) == 2
    assert list(net.apply(params, state, x)[1]) == ["total"]


@SEQUENTIAL
def test_linen_intermediates_are_recorded_from_init_on_or_refused(x, sequential):
    net = sum_of_branches(from_linen(nn.Dense(2)), M, sequential=sequential)
    params, state = net.init(jax.random.key(0), x, capture_intermediates=True)
    for scale in (1, 2, 3):
        v, after = net.responses(params, state, scale * x, capture_intermediates=True)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        state = after
    assert_allclose(state["intermediates"]["__call__"][0], v)
    with pytest.raises(ValueError, match=r"the call adds \['intermediates'\].* to the"):
        net.apply(params, {}, x, capture_intermediates=True)
    with pytest.raises(ValueError, match=r"^mutable is always the collections"):
        net.apply(params, {}, x, mutable=["intermediates"])


def test_nnx_module_with_a_list_and_a_plain_array(x):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.shift = jnp.arange(3.0)
            self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            for layer in self.layers:
                x = jnp.tanh(layer(x + self.shift))
            return x

    net = sum_of_branches(from_nnx(Net), M)
    params, state = net.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(0), M)
    expected = sum(Net(nnx.Rngs(key))(x) for key in keys)
    for apply in (net.apply, jax.jit(net.apply)):
        assert_allclose(apply(params, state, x)[0], expected, rtol=1e-5, atol=1e-6)


def draw(rngs):
    return jax.random.normal(rngs.params(), (3,))


class Layer(nnx.Module):
    """Adds what `fixed` of it is."""

    def __init__(self, rngs, fixed, pick=lambda fixed: fixed):
        self.layer = nnx.Linear(3, 3, rngs=rngs)
        self.fixed = fixed
        self.pick = pick

    def __call__(self, x):
        return self.layer(x) + self.pick(self.fixed)


class Outer(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.List([Layer(rngs, jnp.zeros(3)), Layer(rngs, draw(rngs))])

    def __call__(self, x):
        return self.inner[1](x)


PLAIN = {
    "an attribute": (lambda rngs: Layer(rngs, draw(rngs)), r"\['fixed'\] depends on"),
    "of few values": (
        lambda rngs: Layer(rngs, jax.random.bernoulli(rngs.params(), 0.0, (3,))),
        r"\['fixed'\] depends on the key",
    ),
    "nested": (Outer, r"\['inner'\]\[1\]\['fixed'\] depends on"),
    "in a list": (
        lambda rngs: Layer(rngs, nnx.List([1, jnp.ones(3), draw(rngs)]), sum),
        r"\['fixed'\]\[2\] depends on",
    ),
    "in NumPy": (
        lambda rngs: Layer(rngs, np.asarray(draw(rngs))),
        "random number out of JAX .* in place of NumPy",
    ),
    "of NumPy": (
        lambda rngs: Layer(rngs, np.random.default_rng().normal(size=3)),
        r"\['fixed'\] is drawn outside JAX",
    ),
    "a number": (
        lambda rngs: Layer(rngs, float(np.random.default_rng().normal())),
        r"\['fixed'\] is drawn outside JAX",
    ),
    "a parameter of NumPy": (
        lambda rngs: Layer(
            rngs, nnx.Param(np.random.default_rng().normal(size=3)), lambda p: p[...]
        ),
        r"\['fixed'\] is drawn outside JAX",
    ),
}


class Holder:
    def __init__(self, content):
        self.content = content


def added_by_closure(rngs):
    fixed = draw(rngs)
    return Layer(rngs, 0.0, lambda zero: zero + fixed)


def added_by_default(rngs):
    fixed = draw(rngs)
    return Layer(rngs, 0.0, lambda zero, fixed=fixed: zero + fixed)


def closed_over_itself(rngs):
    layer = Layer(rngs, 0.0)
    layer.pick = lambda zero: zero + layer.layer.bias[...]
    return layer


HIDDEN = {
    "of the module itself": (closed_over_itself, "pick"),
    "by a method": (
        lambda rngs: Layer(rngs, 0.0, nnx.Linear(3, 3, rngs=rngs).__call__),
        "pick",
    ),
    "in a closure": (added_by_closure, "pick"),
    "as a default argument": (
        added_by_default,
        "pick",
    ),
    "in a partial": (
        lambda rngs: Layer(rngs, 0.0, functools.partial(jnp.add, draw(rngs))),
        "pick",
    ),
    "in an object": (
        lambda rngs: Layer(rngs, Holder([draw(rngs)]), lambda held: held.content[0]),
        "fixed",
    ),
}
PLAIN |= {
    name: (make, rf"\['{attribute}'\] holds an array of this module")
    for name, (make, attribute) in HIDDEN.items()
}


@pytest.mark.parametrize(("make", "words"), PLAIN.values(), ids=PLAIN)
def test_nnx_arrays_that_would_be_shared_are_refused(make, words, x):
    net = sum_of_branches(from_nnx(make), M)
    for init in (net.init, jax.jit(net.init)):
        with pytest.raises(ValueError, match=words) as error:
            init(jax.random.key(0))
        assert "nnx.data(x)" in str(error.value)
        assert "\n" not in str(error.value)


WRAPPED = {
    "data": (lambda rngs: Layer(rngs, nnx.data(draw(rngs))), lambda s: s["fixed"]),
    "a list as data": (
        lambda rngs: Layer(rngs, nnx.data([draw(rngs)]), lambda fixed: fixed[0]),
        lambda s: s["fixed"][0],
    ),
    "a variable": (
        lambda rngs: Layer(rngs, nnx.Variable(draw(rngs)), lambda fixed: fixed[...]),
        lambda s: s["fixed"],
    ),
}


@SEQUENTIAL
@pytest.mark.parametrize(("make", "fixed"), WRAPPED.values(), ids=WRAPPED)
def test_nnx_arrays_that_are_wrapped_are_of_each_branch(make, fixed, sequential, x):
    net = sum_of_branches(from_nnx(make), M, sequential=sequential)
    params, state = net.init(jax.random.key(3))
    assert np.unique(fixed(state), axis=0).shape[0] == M
    keys = jax.random.split(jax.random.key(3), M)
    expected = np.stack([make(nnx.Rngs(key))(x) for key in keys])
    v, _ = net.responses(params, state, x)
    assert_allclose(v, expected, rtol=1e-5, atol=1e-6)


def test_nnx_constants_are_in_the_state_whoever_traces(x):
    def make(rngs):
        return Layer(rngs, jnp.arange(3.0) * 10)

    net = sum_of_branches(from_nnx(make), M)
    states = [init(jax.random.key(0))[1] for init in (net.init, jax.jit(net.init))]
    for state in states:
        assert list(state) == ["fixed"]
        assert_array_equal(state["fixed"], np.tile(np.arange(3.0) * 10, (M, 1)))


def test_nnx_closures_and_objects_that_hold_constants(x):
    def make(rngs):
        shift = jnp.arange(3.0)
        layer = Layer(rngs, Holder([jnp.ones(3)]), lambda h: h.content[0] + shift)
        layer.dropout = nnx.List([nnx.Dropout(0.5), jnp.tanh])
        return layer

    net = sum_of_branches(from_nnx(make), M)
    params, state = net.init(jax.random.key(0))
    v, _ = net.responses(params, state, x)
    expected = jnp.einsum("nd,mdc->mnc", x, params["layer"]["kernel"])
    assert_allclose(v, expected + jnp.arange(3.0) + 1, rtol=1e-5, atol=1e-5)


def test_nnx_constants_that_equal_nothing_or_are_keys(x):
    def make(rngs):
        layer = Layer(rngs, jnp.array([jnp.nan, 1.0, 2.0]))
        layer.key = jax.random.key(7)
        return layer

    net = sum_of_branches(from_nnx(make), M)
    params, state = net.init(jax.random.key(0))
    v, _ = net.responses(params, state, x)
    assert np.isnan(v[..., 0]).all()
    expected = jnp.einsum("nd,mdc->mnc", x, params["layer"]["kernel"]) + jnp.arange(3)
    assert_allclose(v[..., 1:], expected[..., 1:], rtol=1e-5, atol=1e-5)


def test_nnx_check_of_arrays_can_be_left_out(x):
    built = []

    def make(rngs):
        built.append(rngs)
        return Layer(rngs, draw(rngs))

    _, state = from_nnx(make, check_arrays=False).init(jax.random.key(1))
    assert len(built) == 2  # the template and this one
    assert_array_equal(state["fixed"], make(nnx.Rngs(jax.random.key(1))).fixed)


def test_nnx_trees_of_another_module(x):
    net = sum_of_branches(from_nnx(NnxNet), M)
    params, state = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"params lacks \['first'\]\['bias'\]"):
        net.apply({**params, "first": {"kernel": params["first"]["kernel"]}}, state, x)
    with pytest.raises(ValueError, match=r"the module has no place for \['more'\]"):
        net.apply(params, {**state, "more": jnp.ones(M)}, x)


class Stat(nnx.Variable):
    pass


class NnxSowing(nnx.Module):
    def __init__(self, rngs, kind=nnx.Intermediate):
        self.kind = kind
        self.layer = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        h = self.layer(x)
        self.sow(self.kind, "h", h)
        return h


@SEQUENTIAL
@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_nnx_sown_values_are_lost_or_refused(x, sequential):
    net = sum_of_branches(from_nnx(NnxSowing), M, sequential=sequential)
    params, state = net.init(jax.random.key(0))
    for _ in range(2):
        v, state = net.responses(params, state, x)
        assert state == {}
    kernel, bias = params["layer"]["kernel"], params["layer"]["bias"]
    expected = jnp.einsum("nd,mdc->mnc", x, kernel) + bias[:, None]
    assert_allclose(v, expected, rtol=1e-5, atol=1e-5)
    branch = from_nnx(lambda rngs: NnxSowing(rngs, Stat))
    net = sum_of_branches(branch, M, sequential=sequential)
    with pytest.raises(ValueError, match=r"adds \['h'\].* whose structure must not"):
        net.apply(params, state, x)


class NnxDropout(nnx.Module):
    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs):
        return self.dropout(x, rngs=rngs)


@SEQUENTIAL
def test_nnx_draws_from_a_key_are_of_each_branch_alone(x, sequential):
    net = sum_of_branches(from_nnx(NnxDropout), M, sequential=sequential)
    v, _ = net.responses({}, {}, x, rngs=jax.random.key(2))
    keys = jax.random.split(jax.random.key(2), M)
    expected = [nnx.Dropout(0.5)(x, rngs=key) for key in keys]
    assert_allclose(v, np.stack(expected), rtol=1e-6)
    assert np.unique(v.reshape(M, -1), axis=0).shape[0] == M
    with pytest.raises(ValueError, match="rngs must be a random key"):
        net.apply({}, {}, x, rngs=nnx.Rngs(2))


LINEN, NNX = nn.Dense(2), nnx.Linear(3, 2, rngs=nnx.Rngs(0))
EQUINOX = eqx.nn.Linear(3, 2, key=jax.random.key(0))
MISTAKES = {
    "sum of a Linen module": (lambda: sum_of_branches(LINEN, 2), "use.*from_linen"),
    "sum of a Linen class": (lambda: sum_of_branches(nn.Dense, 2), "use.*from_linen"),
    "sum of an NNX module": (lambda: sum_of_branches(NNX, 2), r"use.*from_nnx\(make"),
    "sum of an Equinox module": (lambda: sum_of_branches(EQUINOX, 2), "eqx.filter"),
    "sum of a function": (lambda: sum_of_branches(np.tanh, 2), "use from_functions"),
    "sum of nothing": (lambda: sum_of_branches(None, 2), "use from_functions"),
    "sum of branches": (
        lambda: sum_of_branches([from_linen(LINEN)] * 2, 2),
        "share one architecture, so give one Branch",
    ),
    "sum of a pair": (lambda: sum_of_branches((np.sin, np.cos), 2), "from_functions"),
    "sum of a sum": (
        lambda: sum_of_branches(sum_of_branches(from_linen(LINEN), 2), 2),
        "it is a sum already",
    ),
    "a Linen class": (lambda: from_linen(nn.Dense), r"class Dense: use from_linen"),
    "NNX as Linen": (lambda: from_linen(NNX), r"use.*from_nnx\(make"),
    "an NNX class as Linen": (lambda: from_linen(NnxNet), r"use.*from_nnx\(make"),
    "a function as Linen": (lambda: from_linen(np.tanh), "use from_functions"),
    "an NNX instance": (lambda: from_nnx(NNX), r"from_nnx\(lambda rngs: Net\("),
    "Linen as NNX": (lambda: from_nnx(LINEN), "use.*from_linen"),
    "Equinox as NNX": (lambda: from_nnx(EQUINOX), "eqx.filter"),
    "a number as NNX": (lambda: from_nnx(3), r"from_nnx\(lambda rngs: Net\("),
    "a function that makes Linen": (
        lambda: from_nnx(lambda rngs: LINEN).init(jax.random.key(0)),
        "must return an NNX module.*from_linen",
    ),
    "parameters as init": (
        lambda: from_functions({"w": 1}, np.tanh),
        "init must be a function, got an instance of dict",
    ),
    "a module as apply": (
        lambda: from_functions(np.tanh, LINEN),
        "apply must be a function, got an instance of Dense: use adapters.from_linen",
    ),
}


@pytest.mark.parametrize(("call", "words"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_no_branch_is_told_its_adapter(call, words):
    with pytest.raises(TypeError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def evaluation_of_nnx(params, state, x):
    hidden = x @ params["first"]["kernel"] + params["first"]["bias"]
    scale = params["norm"]["scale"] / jnp.sqrt(state["norm"]["var"] + 1e-5)
    hidden = (hidden - state["norm"]["mean"]) * scale + params["norm"]["bias"]
    return jax.nn.relu(hidden) @ params["last"]["kernel"] + params["last"]["bias"]


@SEQUENTIAL
def test_nnx_evaluation_equals_the_formula(x, sequential):
    branch = from_nnx(NnxNet, use_running_average=True, deterministic=True)
    net = sum_of_branches(branch, M, sequential=sequential)
    params, state = net.init(jax.random.key(0))
    assert_all_branches_differ(params)
    f, after = jax.jit(net.apply)(params, state, x)
    expected = sum(
        evaluation_of_nnx(take(params, k), take(state, k), x) for k in range(M)
    )
    assert_allclose(f, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(assert_array_equal, after["norm"], state["norm"])


def test_nnx_training_updates_statistics_and_draws_dropout_per_branch(x):
    train = sum_of_branches(from_nnx(NnxNet), M)
    params, state = train.init(jax.random.key(0))
    # Equal parameters in all branches: only the dropout can tell them apart.
    params = jax.tree.map(lambda p: jnp.broadcast_to(p[:1], p.shape), params)
    v, after = train.responses(params, state, x)
    again, _ = train.responses(params, after, x)
    assert np.unique(np.asarray(v).reshape(M, -1), axis=0).shape[0] == M
    assert not np.allclose(v, again)
    hidden = jnp.einsum("nd,mdc->mnc", x, params["first"]["kernel"])
    assert_allclose(after["norm"]["mean"], 0.1 * hidden.mean(1), rtol=1e-5, atol=1e-6)


def test_nnx_gradient_has_the_tree_of_the_parameters(x):
    branch = from_nnx(NnxNet, use_running_average=True, deterministic=True)
    net = sum_of_branches(branch, M)
    params, state = net.init(jax.random.key(0))
    gradient = jax.grad(lambda p: (net.apply(p, state, x)[0] ** 2).sum())(params)

    def loop(params):
        each = (evaluation_of_nnx(take(params, k), take(state, k), x) for k in range(M))
        return (sum(each) ** 2).sum()

    expected = jax.grad(loop)(params)
    jax.tree.map(
        lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-3), gradient, expected
    )


def test_equinox_module_as_an_example(x):
    """The Equinox example of the pages: arrays are parameters, all else is kept."""

    def make(key):
        return eqx.nn.MLP(in_size=3, out_size=2, width_size=5, depth=1, key=key)

    static = eqx.filter(make(jax.random.key(0)), eqx.is_array, inverse=True)

    def init(key):
        return eqx.filter(make(key), eqx.is_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    net = sum_of_branches(from_functions(init, apply), M)
    params, state = net.init(jax.random.key(0))
    assert_all_branches_differ(params)
    f, _ = jax.jit(net.apply)(params, state, x)
    keys = jax.random.split(jax.random.key(0), M)
    expected = sum(jax.vmap(make(key))(x) for key in keys)
    assert_allclose(f, expected, rtol=1e-5, atol=1e-6)
