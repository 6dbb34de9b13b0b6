from bspec_jax import run
from bspec_jax.errors import FlagError, UserError


def test_the_exit_status_of_each():
    assert UserError("no data").status == 1
    assert UserError("no data", status=3).status == 3
    assert FlagError("bad flag").status == 2
    assert str(FlagError("bad flag")) == "bad flag"


def test_run_knows_them_by_the_same_names():
    assert run.UserError is UserError
    assert run.FlagError is FlagError
