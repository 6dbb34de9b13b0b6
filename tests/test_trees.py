import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bspec_jax.trees import leaf_paths, ravel_branches, select_leaves

TREE = {
    "Conv_0": {"bias": jnp.zeros(2), "kernel": jnp.ones((2, 3))},
    "Conv_01": {"kernel": jnp.full((2, 3), 5.0)},
    "list": [jnp.arange(2.0), jnp.arange(2.0) + 7],
}


def test_paths():
    expected = ["Conv_0/bias", "Conv_0/kernel", "Conv_01/kernel", "list/0", "list/1"]
    assert leaf_paths(TREE) == expected


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        (["Conv_0/kernel"], ["Conv_0/kernel"]),
        (["Conv_0"], ["Conv_0/bias", "Conv_0/kernel"]),  # and not Conv_01
        (["*/kernel"], ["Conv_0/kernel", "Conv_01/kernel"]),
        (["list/1", "Conv_0/bias"], ["list/1", "Conv_0/bias"]),
    ],
)
def test_selection(patterns, paths):
    chosen, restore = select_leaves(TREE, patterns)
    assert sorted(chosen) == sorted(paths)
    changed = restore({path: leaf + 100 for path, leaf in chosen.items()})
    for path, old, new in zip(leaf_paths(TREE), flat(TREE), flat(changed), strict=True):
        assert_array_equal(new, old + 100 * (path in paths))


def flat(tree):
    return [*tree["Conv_0"].values(), tree["Conv_01"]["kernel"], *tree["list"]]


def test_a_pattern_that_matches_nothing_lists_the_leaves():
    with pytest.raises(ValueError, match=r"no leaf matches 'Dense'.*Conv_01/kernel"):
        select_leaves(TREE, ["Conv_0", "Dense"])


def test_one_vector_for_each_branch():
    params = {"b": jnp.array([1.0, 2.0]), "w": jnp.arange(6.0).reshape(2, 3) + 10}
    flat, unravel = ravel_branches(params)
    assert_array_equal(flat, [[1, 10, 11, 12], [2, 13, 14, 15]])
    again = unravel(flat)
    assert_array_equal(again["w"], params["w"])
    assert_array_equal(again["b"], params["b"])


def test_patterns_that_choose_nothing_and_paths_that_are_not_unique():
    assert list(select_leaves(TREE, "Conv_0/bias")[0]) == ["Conv_0/bias"]
    with pytest.raises(ValueError, match="name at least one leaf of Conv_0/bias"):
        select_leaves(TREE, [])
    with pytest.raises(ValueError, match="paths are not unique: a/b, a/b"):
        select_leaves({"a": {"b": jnp.zeros(1)}, "a/b": jnp.zeros(1)}, ["a/b"])


def test_integer_leaves_have_no_derivative():
    with pytest.raises(ValueError, match="count is int32, which has no derivative"):
        ravel_branches({"count": jnp.arange(2)})


ODD = {
    "a[b]": jnp.full(2, 1.0),
    "ab": jnp.full(2, 2.0),
    "*": {"w": jnp.full(2, 3.0)},
    "?": jnp.full(2, 4.0),
}


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a[b]", ["a[b]"]),  # and not ab, which it matches
        ("a[bc]", ["ab"]),
        ("*", ["*/w"]),  # and not everything
        ("*/", ["*/w"]),
        ("?", ["?"]),
        ("??", ["ab"]),
    ],
)
def test_a_name_is_itself_before_it_is_a_pattern(pattern, paths):
    assert list(select_leaves(ODD, pattern)[0]) == paths


def test_leaves_put_back_under_a_name_that_is_not_there():
    _, restore = select_leaves(TREE, "Conv_0")
    with pytest.raises(ValueError, match="there is no leaf 'Conv_0/bais'; the leaves"):
        restore({"Conv_0/bais": jnp.ones(2)})


def test_vectors_of_leaves_of_no_size_and_of_two_types():
    params = {
        "none": jnp.zeros((2, 0)),
        "short": jnp.array([[1.0], [2.0]], jnp.bfloat16),
        "w": jnp.array([[3.0, 4.0], [5.0, 6.0]]),
    }
    for promotion in ("standard", "strict"):
        with jax.numpy_dtype_promotion(promotion):
            flat, unravel = ravel_branches(params)
            again = unravel(flat)
        assert_array_equal(flat, [[1, 3, 4], [2, 5, 6]])
        assert again["none"].shape == (2, 0)
        assert again["short"].dtype == jnp.bfloat16
    flat, _ = ravel_branches({"none": np.zeros((2, 0))})
    assert flat.shape == (2, 0)


@pytest.mark.parametrize(
    "params", [{}, {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, {"a": jnp.ones(())}]
)
def test_leaves_without_a_common_axis_of_branches(params):
    with pytest.raises(ValueError, match="leaves must share the leading axis M"):
        ravel_branches(params)
