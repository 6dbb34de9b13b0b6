import os
import string
import unicodedata

import pytest

from bspec_jax.storage.files import safe_names

NASTY = [
    *("A/B", "A_B", "a_b", "A\\B", "T-shirt/top", "..", ".", "", " ", "\0", "\n"),
    *("CON", "con.txt", "nul", "COM1", "aux .png", "~root", "-rf", ".hidden"),
    *("a", "A", "a.", "a ", "é", "e\u0301", "É", "ß", "ss", "SS", "猫", "\u017f", "s"),
    *("x" * 300, "x" * 299 + "y", "猫" * 300, "\ud800", "$5-$10", "50 %", "#1", "*?"),
]


def test_names_stay_distinct_and_are_files_everywhere(tmp_path):
    names = safe_names(NASTY)
    keys = [unicodedata.normalize("NFD", name).casefold() for name in names]
    assert len(set(keys)) == len(NASTY)
    for name in names:
        assert name.isprintable()
        assert not set('<>:"/\\|?*') & set(name)
        assert name[0] not in ".- ~"
        assert name[-1] not in " ."
        device = name.partition(".")[0].rstrip().upper()
        assert device not in {"CON", "NUL", "AUX", "COM1"}
        path = tmp_path / f"{name}_0001.png"
        assert path.parent == tmp_path
        path.write_text("")
    assert len(os.listdir(tmp_path)) == len(NASTY)  # noqa: PTH208


@pytest.mark.parametrize("name", ["cat", "T-shirt", "Ankle boot", "猫", "50 %", "$x_1"])
def test_a_name_that_is_a_file_name_is_kept(name):
    assert safe_names([name, "other"]) == [name, "other"]


def test_unsafe_characters_are_replaced():
    assert safe_names(["T-shirt/top", "A/B", "A_B", "a_b", "A_B_2", "NUL", ""]) == [
        *("T-shirt_top", "A_B", "A_B_2", "a_b_3", "A_B_2_2", "_NUL", "_"),
    ]
    for c in string.printable:
        (name,) = safe_names([f"a{c}b"])
        assert name in (f"a{c}b", "a_b")
