import pytest

from bspec_jax import run
from bspec_jax.errors import FlagError, UserError, in_one_line


def test_the_exit_status_of_each():
    assert UserError("no data").status == 1
    assert UserError("no data", status=3).status == 3
    assert FlagError("bad flag").status == 2
    assert str(FlagError("bad flag")) == "bad flag"


def test_run_knows_them_by_the_same_names():
    assert run.UserError is UserError
    assert run.FlagError is FlagError


def test_a_command_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as end, in_one_line("a command"):
        raise FlagError("bad flag")
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "a command: bad flag\n")
    with pytest.raises(SystemExit) as end, in_one_line("a command"):
        raise PermissionError(13, "Permission denied", "a/file")
    assert end.value.code == 1
    assert capsys.readouterr() == ("", "a command: a/file: Permission denied\n")
    with pytest.raises(ValueError, match="a bug"), in_one_line("a command"):
        raise ValueError("a bug")
