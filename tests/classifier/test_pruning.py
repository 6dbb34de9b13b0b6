import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax import classifier
from bspec_jax.classifier.pruning import prune
from bspec_jax.storage.errors import ArgumentError

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 3, 1), np.uint8)


def trained(**fields):
    spec = classifier.ClassifierSpec(
        widths=(5,),
        branches=4,
        classes=("a", "b", "c"),
        image_shape=(4, 3, 1),
        mean=(0.4,),
        std=(0.3,),
        branch="mlp",
        normalisation="none",
        **fields,
    )
    network = classifier.build(spec)
    params, _ = network.init(jax.random.key(0), jnp.zeros((1, 4, 3, 1)))
    head = params["head"]
    if spec.biases:
        head["bias"] = jnp.arange(12.0).reshape(4, 3)
    # The second and the last branch are silent: constants, of more than nothing.
    quiet = jnp.array([1.0, 0, 1, 0])[:, None, None]
    return classifier.Classifier(
        network,
        params | {"head": head | {"kernel": head["kernel"] * quiet}},
        {},
        spec,
        7,
    )


ACTIVE = np.array([True, False, True, False])


def test_what_silent_branches_say_becomes_a_bias():
    whole = trained()
    pruned = prune(whole, ACTIVE, IMAGES)
    assert (pruned.spec.branches, pruned.step) == (2, 7)
    v, left = whole.responses(IMAGES), pruned.responses(IMAGES)
    assert_allclose(left.sum(0), v.sum(0), rtol=1e-5)
    assert_allclose(left[1], v[2], rtol=1e-5)
    constant = np.arange(12).reshape(4, 3)[[1, 3]].sum(0)
    assert_allclose(left[0], v[0] + constant, rtol=1e-5)
    assert_allclose(whole.params["head"]["bias"][0], [0, 1, 2])  # as it was


def test_means_are_those_of_the_images():
    """Of a branch that is not quite constant, only its mean stays."""
    whole = trained()
    active = np.array([True, True, False, True])
    left = prune(whole, active, IMAGES[:4]).responses(IMAGES).sum(0)
    v = whole.responses(IMAGES)
    mean = v[2, :4].mean(0)
    assert v[2].std(0).max() > 0.1
    assert_allclose(left, v[active].sum(0) + mean, rtol=1e-4)


def test_without_biases_silent_branches_are_left_out():
    whole = trained(biases=False)
    left = prune(whole, ACTIVE, IMAGES).responses(IMAGES)
    assert_allclose(left, whole.responses(IMAGES)[ACTIVE], rtol=1e-4, atol=1e-6)


def test_something_must_be_left():
    with pytest.raises(ArgumentError, match="`active` names no branch"):
        prune(trained(), np.zeros(4, bool), IMAGES)
