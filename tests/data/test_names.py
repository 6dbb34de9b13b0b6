import unicodedata

import numpy as np
import pytest

from bspec_jax.data import sources
from bspec_jax.data.images import Part, Source, Split, of_classes
from bspec_jax.data.names import position, shown
from bspec_jax.storage.errors import ArgumentError


def source_of(*class_names):
    """A set with one image of each class, whose value is the class."""
    labels = np.arange(len(class_names), dtype=np.int32)

    def read(indices):
        return Split(np.uint8(labels[indices])[:, None, None, None], labels[indices])

    part = Part(len(labels), read, lambda: labels)
    return Source("set", part, part, class_names)


def test_a_class_is_taken_as_it_is_written():
    chosen = of_classes(source_of("A", "a", "b"), ["a", "B"])
    assert chosen.class_names == ("a", "b")
    assert chosen.train.read(np.arange(2)).images.ravel().tolist() == [1, 2]
    assert chosen.identity["train"] == [1, 1]


def test_another_spelling_counts_where_it_is_clear():
    composed = unicodedata.normalize("NFC", "Kätzchen")
    apart = unicodedata.normalize("NFD", "Kätzchen")
    assert composed != apart
    names = ("T-shirt/top", apart, "train", "two words")
    for name, at in (
        ("t-shirt/TOP", 0),
        (composed, 1),
        (composed.upper(), 1),
        ("Train", 2),
        ("two words", 3),
        ("twowords", None),
    ):
        assert position(name, names) == at
    assert position(composed, (apart, composed)) == 1
    with pytest.raises(ValueError, match="STRASSE may be Straße or strasse"):
        position("STRASSE", ("Straße", "strasse"))
    with pytest.raises(ArgumentError, match="`classes`: ONE may be One or one: give"):
        of_classes(source_of("One", "one", "two"), ["ONE", "two"])
    with pytest.raises(ArgumentError, match="names one twice"):
        of_classes(source_of("One", "one", "two"), ["one", "one"])


def test_a_data_set_is_found_by_another_spelling():
    assert sources.find("Faces").name == "faces"


def test_what_cannot_be_printed_is_escaped():
    assert shown("Kätzchen 1.png") == "Kätzchen 1.png"
    assert shown("two\nlines\udcff") == "two\\nlines\\udcff"
