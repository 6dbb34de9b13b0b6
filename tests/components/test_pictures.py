import inspect

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax.components.pictures import Pictures
from bspec_jax.components.recombination import recombine


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    components = rng.normal(size=(3, 2, 4, 4, 1)).astype(np.float32)
    residual = rng.normal(size=(2, 4, 4, 1)).astype(np.float32)
    return Pictures(
        images=residual,
        labels=np.array([0, 1]),
        residual=residual,
        generated=residual + components.sum(0),
        transfers=residual[None].repeat(2, 0),
        components=components,
        inputs=components[:0],
    )


@pytest.mark.parametrize("gain", [-1, 0, 1, 2.5])
def test_a_gain_is_that_of_the_recombination(pictures, gain):
    gains = np.array([1, gain, 1], np.float32)
    expected = recombine(pictures.residual, pictures.components, gains)
    assert_allclose(pictures.with_gain(1, gain), expected, rtol=1e-5, atol=1e-6)


def test_a_subset_is_summed(pictures):
    v = pictures.components
    assert_allclose(pictures.sum_of((0, 2)), v[0] + v[2])
    assert_allclose(pictures.residual + pictures.sum_of((0, 1, 2)), pictures.generated)


@pytest.mark.parametrize("component", [-1, 3, True])
def test_a_component_must_exist(pictures, component):
    with pytest.raises(ValueError, match="components must be"):
        inspect.unwrap(Pictures.with_gain)(pictures, component, 2)
    with pytest.raises(ValueError, match="components must be"):
        inspect.unwrap(Pictures.sum_of)(pictures, [0, component])


def test_a_component_is_summed_once(pictures):
    with pytest.raises(ValueError, match=r"components must differ, got \[0, 2, 0\]"):
        pictures.sum_of([0, 2, 0])
