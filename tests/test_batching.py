import pytest

from bspec_jax.batching import batches_of_one_shape


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (5, 2, [([0, 1], 2), ([2, 3], 2), ([4, 0], 1)]),
        (4, 2, [([0, 1], 2), ([2, 3], 2)]),
        (2, 5, [([0, 1, 0, 1, 0], 2)]),
        (0, 3, []),
    ],
)
def test_the_last_batch_is_filled_up(count, size, expected):
    found = [(i.tolist(), kept) for i, kept in batches_of_one_shape(count, size)]
    assert found == expected


@pytest.mark.parametrize(
    ("count", "size", "words"),
    [
        (3, 0, "size must be at least 1, got 0"),
        (-1, 2, "count must be at least 0, got -1"),
        (3, True, "size must be a whole number, got True"),
    ],
)
def test_batches_of_nothing(count, size, words):
    with pytest.raises(ValueError, match=words):
        list(batches_of_one_shape(count, size))
