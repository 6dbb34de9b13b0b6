import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from typechecks import without_type_checks

from bspec_jax import adapters, sum_of_branches
from bspec_jax.classifier import branches
from bspec_jax.storage.errors import ArgumentError

SHAPE = (3, 7, 6, 2)  # of the images; odd and even, and not square
X = np.random.default_rng(0).normal(size=SHAPE)


def module(branch, widths, normalisation="none", num_classes=4, **options):
    return branches.make(
        branch, widths, num_classes, normalisation=normalisation, **options
    )


def drawn(made, x=X, seed=0):
    """Parameters and state, all of them random, also those that begin as a constant."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(made.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def convolved(x, kernel, stride=1):
    """SAME, one output pixel at a time."""
    height, width = (-(-n // stride) for n in x.shape[1:3])
    side = kernel.shape[0]
    x = np.pad(x, [(0, 0), *[(side // 2,) * 2] * 2, (0, 0)])
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            top, left = i * stride, j * stride
            window = x[:, top : top + side, left : left + side]
            y[:, i, j] = np.einsum("nhwc,hwco->no", window, kernel)
    return y


def normalised(x, norm):
    """BatchNorm by the statistics of the batch."""
    axes = tuple(range(x.ndim - 1))
    x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
    return x * norm["scale"] + norm.get("bias", 0)


@pytest.mark.parametrize(
    ("branch", "widths", "normalisation", "biases", "count"),
    [
        ("mlp", (), "none", True, 84 * 4 + 4),
        ("mlp", (7, 5), "none", True, 84 * 7 + 7 + 7 * 5 + 5 + 5 * 4 + 4),
        ("mlp", (7, 5), "none", False, 84 * 7 + 7 * 5 + 5 * 4),
        ("mlp", (7, 5), "batch", True, 84 * 7 + 14 + 7 * 5 + 10 + 5 * 4 + 4),
        ("mlp", (7, 5), "batch", False, 84 * 7 + 7 + 7 * 5 + 5 + 5 * 4),
        # 7 x 6 pixels, then 4 x 3, then 2 x 2.
        ("cnn", (5, 3), "none", True, 18 * 5 + 5 + 45 * 3 + 3 + 12 * 4 + 4),
        ("cnn", (5, 3), "batch", False, 18 * 5 + 5 + 45 * 3 + 3 + 12 * 4),
        ("cnn", (), "none", True, 84 * 4 + 4),
    ],
)
def test_parameters_written_out(branch, widths, normalisation, biases, count):
    made = module(branch, widths, normalisation, biases=biases)
    params = jax.eval_shape(made.init, jax.random.key(0), X)["params"]
    assert size(params) == count
    assert ("stem" in params) == bool(widths)


def test_a_resnet_without_normalisation_has_biases_in_place_of_scales_and_shifts():
    shapes = {
        options: jax.eval_shape(
            module("resnet", (2, 3, 4, 5), options[0], biases=options[1]).init,
            jax.random.key(0),
            X,
        )
        for options in [("batch", True), ("batch", False), ("none", True)]
    }
    # Of the stem, four convolutions a stage and three shortcuts.
    channels = 2 + 4 * (2 + 3 + 4 + 5) + 3 + 4 + 5
    with_both = size(shapes["batch", True]["params"])
    assert size(shapes["none", True]["params"]) == with_both - channels
    assert size(shapes["batch", False]["params"]) == with_both - channels - 4
    assert size(shapes["batch", True]["batch_stats"]) == 2 * channels


@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_a_perceptron_is_a_loop_of_products(x64, normalisation):
    made = module("mlp", (7, 5), normalisation)
    variables = drawn(made)
    params, h = variables["params"], X.reshape(3, -1)
    for name in ("stem", "layer_1"):
        h = h @ params[name]["kernel"] + params[name].get("bias", 0)
        if normalisation == "batch":
            h = normalised(h, params[f"{name}_norm"])
        h = leaky(h)
    state = [name for name in variables if name != "params"]
    assert state == ["batch_stats"] * (normalisation == "batch")
    features, _ = made.apply(variables, jnp.asarray(X), features=True, mutable=state)
    assert_allclose(features, h, rtol=1e-9)
    logits, _ = made.apply(variables, jnp.asarray(X), mutable=state)
    assert_allclose(
        logits, h @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-9
    )


def test_a_convolutional_branch_is_a_loop_over_pixels(x64):
    made = module("cnn", (5, 3))
    variables = drawn(made)
    params, h = variables["params"], X
    for name in ("stem", "layer_1"):
        h = leaky(convolved(h, params[name]["kernel"], 2) + params[name]["bias"])
    assert h.shape == (3, 2, 2, 3)
    h = h.reshape(3, -1)
    expected = h @ params["head"]["kernel"] + params["head"]["bias"]
    assert_allclose(made.apply(variables, jnp.asarray(X)), expected, rtol=1e-9)
    assert_allclose(made.apply(variables, jnp.asarray(X), features=True), h, rtol=1e-9)


def test_a_resnet_without_normalisation_is_a_loop_over_blocks(x64):
    made = module("resnet", (2, 3, 4, 5))
    variables = drawn(made)
    params = variables["params"]

    def conv(x, layer, stride=1):
        return convolved(x, layer["kernel"], stride) + layer["bias"]

    def relu(x):
        return np.maximum(x, 0)

    h = relu(conv(X, params["stem"]))
    for i, stride in enumerate((1, 1, 2, 1, 2, 1, 2, 1)):
        block = params[f"Block_{i}"]
        y = conv(relu(conv(h, block["Conv_0"], stride)), block["Conv_1"])
        h = relu(y + (conv(h, block["shortcut"], stride) if stride > 1 else h))
    expected = h.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    assert_allclose(made.apply(variables, jnp.asarray(X)), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("branch", "widths", "degree"),
    [("mlp", (), 1), ("mlp", (7,), 2), ("mlp", (7, 5, 6), 4), ("cnn", (5, 3), 3)],
)
def test_without_biases_a_response_is_homogeneous_in_every_layer(
    x64, branch, widths, degree
):
    made = module(branch, widths, biases=False)
    assert branches.degree(branch, widths, "none") == (degree, degree)
    params = drawn(made)["params"]
    v = made.apply({"params": params}, jnp.asarray(X))
    scaled = jax.tree.map(lambda leaf: 1.7 * leaf, params)
    larger = made.apply({"params": scaled}, jnp.asarray(X))
    assert_allclose(larger, 1.7**degree * v, rtol=1e-9)
    assert len(params) == degree
    for name in params:
        one = params | {name: scaled[name]}
        assert_allclose(made.apply({"params": one}, jnp.asarray(X)), 1.7 * v, rtol=1e-9)


@pytest.mark.parametrize(
    ("branch", "widths", "degree"),
    [
        ("mlp", (7, 5), 2),
        ("cnn", (5, 3), 2),
        ("mlp", (), 1),
        ("resnet", (2, 3, 4, 5), 2),
    ],
)
def test_with_batch_norm_only_the_last_scale_and_the_head_count(
    x64, branch, widths, degree
):
    made = module(branch, widths, "batch", biases=False)
    assert branches.degree(branch, widths, "batch") == (degree, degree)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 14, 14, 2)))
    variables = drawn(made, x)
    state = [name for name in variables if name != "params"]

    def respond(scale):
        scaled = jax.tree.map(lambda leaf: scale * leaf, variables["params"])
        return made.apply(variables | {"params": scaled}, x, mutable=state)[0]

    # Of weights of some size, so that BatchNorm's epsilon is nothing beside a variance.
    assert_allclose(respond(3e4), 3.0**degree * respond(1e4), rtol=1e-3)


def test_a_residual_response_grows_as_its_lowest_and_then_as_its_highest_degree(x64):
    """A polynomial of the layers' common scale, between changes of the ReLUs' signs."""
    made = module("resnet", (2, 3, 4, 5), biases=False)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 14, 14, 2)))
    params = drawn(made, x)["params"]

    @jax.jit
    def size(scale):
        scaled = jax.tree.map(lambda leaf: scale * leaf, params)
        return jnp.linalg.norm(made.apply({"params": scaled}, x))

    def slope(scale):
        return np.log2(size(2 * scale) / size(scale))

    lowest, highest = branches.degree("resnet", (2, 3, 4, 5), "none")
    assert_allclose(slope(1e-6), lowest, atol=1e-3)
    assert_allclose(slope(1e6), highest, atol=1e-3)
    assert (lowest, highest) == (5, 18)


def test_initial_weights():
    def kernels(made, shape):
        tree = jax.jit(made.init)(jax.random.key(1), jnp.zeros(shape))["params"]
        return {
            jax.tree_util.keystr(path[:-1], simple=True, separator="/"): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            if path[-1].key == "kernel"
        }

    found = kernels(module("mlp", (90, 80), last_scale=0.3), (1, 9, 9, 1))
    assert_allclose(found["stem"].std(), np.sqrt(2 / 81), rtol=0.05)
    assert_allclose(found["layer_1"].std(), np.sqrt(2 / 90), rtol=0.05)
    assert_allclose(found["head"].std(), 0.3 / np.sqrt(80), rtol=0.15)
    assert np.abs(found["stem"]).max() > 3 * found["stem"].std()  # not truncated
    found = kernels(module("cnn", (30, 40)), (1, 8, 8, 3))
    assert_allclose(found["stem"].std(), np.sqrt(2 / 27), rtol=0.1)
    assert_allclose(found["layer_1"].std(), np.sqrt(2 / 270), rtol=0.05)
    assert_allclose(found["head"].std(), 1 / np.sqrt(2 * 2 * 40), rtol=0.1)
    found = kernels(module("resnet", (20, 30, 30, 30)), (1, 8, 8, 3))
    assert_allclose(found["stem"].std(), np.sqrt(2 / 27), rtol=0.1)
    assert_allclose(found["Block_2/shortcut"].std(), np.sqrt(2 / 20), rtol=0.1)
    # An eighth of the variance, for eight blocks.
    assert_allclose(found["Block_3/Conv_0"].std(), np.sqrt(2 / 270 / 8), rtol=0.05)
    for i in range(8):
        assert_array_equal(found[f"Block_{i}/Conv_1"], 0)


@pytest.mark.parametrize("branch", ["mlp", "cnn", "resnet"])
def test_sums_of_them_have_a_gradient_in_every_kernel(branch):
    widths = (2, 3, 4, 5) if branch == "resnet" else (4, 3)
    net = sum_of_branches(adapters.from_linen(module(branch, widths)), 3)
    x = jnp.asarray(X, jnp.float32)
    params, state = jax.jit(net.init)(jax.random.key(2), x)
    assert state == {}

    def loss(params):
        f, _ = net.apply(params, state, x, train=True)
        return (f**2).sum()

    gradient = jax.jit(jax.grad(loss))(params)
    sizes = {
        jax.tree_util.keystr(path): float(np.abs(leaf).max())
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
    }
    zero = {path for path, largest in sizes.items() if not largest}
    # A block's first convolution moves once its second one has left zero.
    assert all("['Conv_0']" in path for path in zero)
    assert len(zero) == (16 if branch == "resnet" else 0)


@pytest.mark.parametrize(
    ("branch", "widths", "normalisation", "message"),
    [
        ("vgg", (1,), "none", "`branch` must be one of resnet, cnn, mlp, got 'vgg'"),
        ("mlp", (1,), "layer", "`normalisation` must be one of batch, none, got 'lay"),
        ("resnet", (1, 2), "batch", "`widths` of a resnet are those of 4 stages, got"),
    ],
)
def test_what_is_no_branch(branch, widths, normalisation, message):
    with without_type_checks(), pytest.raises(ArgumentError, match=message):
        branches.make(branch, widths, 10, normalisation=normalisation)
    with without_type_checks(), pytest.raises(ArgumentError, match=message):
        branches.degree(branch, widths, normalisation)
