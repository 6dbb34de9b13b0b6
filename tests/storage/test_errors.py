import io
import warnings

import pytest

from bspec_jax.storage.errors import ArgumentError, UserError, in_one_line, notify


def test_the_exit_status_of_each():
    assert UserError("no data").status == 1
    assert UserError("no data", status=3).status == 3
    assert ArgumentError("`size` is bad").status == 2
    assert str(ArgumentError("`size` is bad")) == "`size` is bad"
    assert isinstance(ArgumentError("`size` is bad"), ValueError)


def test_a_command_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as end, in_one_line("a command"):
        raise ArgumentError("bad flag")
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "a command: bad flag\n")
    with pytest.raises(SystemExit) as end, in_one_line("a command"):
        raise PermissionError(13, "Permission denied", "a/file")
    assert end.value.code == 1
    assert capsys.readouterr() == ("", "a command: a/file: Permission denied\n")
    with pytest.raises(KeyError, match="a bug"), in_one_line("a command"):
        raise KeyError("a bug")
    with pytest.raises(ValueError, match="another"), in_one_line("a command"):
        raise ValueError("another bug")


def test_arguments_are_printed_as_flags(capsys):
    with pytest.raises(SystemExit), in_one_line("a command", ["image_size", "x"]):
        raise ArgumentError("`image_size` 3: see `load`, x and `image_sizes`")
    line = "a command: --image-size 3: see `load`, x and `image_sizes`\n"
    assert capsys.readouterr().err == line


def test_notices_are_lines_and_other_warnings_are_not_touched(capsys):
    with in_one_line("a command", ["image_size"]):
        for _ in range(2):
            notify("`image_size` is\nsmall")
    assert capsys.readouterr().err == 2 * "a command: --image-size is small\n"
    with pytest.warns(DeprecationWarning, match="old"), in_one_line("a command"):
        warnings.warn("old", DeprecationWarning, stacklevel=1)


def test_what_the_terminal_cannot_show_is_escaped(capsys, monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, "ascii"))
    with in_one_line("a command"):
        print("runs/caf\xe9 \udcff", flush=True)
    assert buffer.getvalue() == b"runs/caf\\xe9 \\udcff\n"


def test_a_message_of_several_lines_becomes_one(capsys):
    with pytest.raises(SystemExit), in_one_line("a command"):
        raise UserError("bad\n   name")
    assert capsys.readouterr().err == "a command: bad name\n"
