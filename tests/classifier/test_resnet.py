import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax import adapters, sum_of_branches
from bspec_jax.classifier.branches import resnet


def num_parameters(model, shape):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("widths", "count"),
    [("paper", 80_973), ("wide8", 82_578), ("resnet18", 11_173_962), ("tiny", 2_128)],
)
def test_parameter_counts(widths, count):
    model = resnet.ResNet(resnet.WIDTHS[widths])
    assert num_parameters(model, (1, 32, 32, 3)) == count
    # One channel less: 9 widths in the stem; other classes: the last width and a bias.
    grey = num_parameters(model.clone(num_classes=12), (1, 28, 28, 1))
    first, *_, last = resnet.WIDTHS[widths]
    assert grey == count - 2 * 9 * first + 2 * (last + 1)


def test_sixteen_branches_have_the_papers_size():
    net = sum_of_branches(adapters.from_linen(resnet.ResNet()), 16)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 1_295_568


@pytest.mark.slow
def test_it_is_the_same_network_with_plain_convolutions(x64):
    x = jax.random.normal(jax.random.key(0), (3, 9, 7, 2))

    def outcome(**options):
        model = resnet.ResNet(resnet.WIDTHS["tiny"], num_classes=4, **options)
        net = sum_of_branches(adapters.from_linen(model), 2)
        params, state = jax.jit(net.init)(jax.random.key(1), x)

        def loss(params):
            f, new_state = net.apply(params, state, x, train=True)
            return (jnp.sin(f) ** 2).sum(), (f, new_state)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    ours = outcome()
    expected = outcome(conv_general_dilated=jax.lax.conv_general_dilated)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), ours, expected)
    (_, (f, _)), gradient = ours
    assert f.shape == (3, 4)
    assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradient))


def test_strides_statistics_and_the_last_layers_scale():
    x = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    model = resnet.ResNet(resnet.WIDTHS["tiny"], last_scale=0.05)

    @jax.jit
    def run(key):
        variables = model.init(key, x)
        _, updates = model.apply(variables, x, mutable=["batch_stats"])
        _, shapes = model.apply(
            variables,
            x,
            train=False,
            capture_intermediates=True,
            mutable="intermediates",
        )
        usual = model.clone(last_scale=1.0).init(key, x)
        return variables, usual, updates["batch_stats"], shapes["intermediates"]

    variables, usual, statistics, seen = run(jax.random.key(1))
    sizes = [seen[f"Block_{i}"]["__call__"][0].shape[1:] for i in range(8)]
    assert sizes == [
        (32, 32, 2),
        (32, 32, 2),
        (16, 16, 3),
        (16, 16, 3),
        (8, 8, 4),
        (8, 8, 4),
        (4, 4, 5),
        (4, 4, 5),
    ]
    mean = statistics["stem_norm"]["mean"]
    stem = seen["stem"]["__call__"][0]
    assert_allclose(mean, 0.1 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    ratio = variables["params"]["head"]["kernel"] / usual["params"]["head"]["kernel"]
    assert_allclose(ratio, 0.05, rtol=1e-5)
