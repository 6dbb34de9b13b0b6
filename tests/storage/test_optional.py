import sys

import pytest

from bspec_jax.storage.errors import UserError
from bspec_jax.storage.optional import needs


def test_a_module_that_is_there_is_imported():
    assert needs("json.decoder", extra="report") is sys.modules["json.decoder"]


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(UserError) as error:
        needs("grain", extra="generator")
    assert str(error.value) == (
        'grain is not installed: run `pip install "bspec_jax[generator]"`'
    )
    assert error.value.status == 1


def test_the_package_that_is_missing_is_named(tmp_path, monkeypatch):
    """Which may be one that the optional package itself imports."""
    (tmp_path / "half_there.py").write_text("import not_there_at_all.part")
    (tmp_path / "broken.py").write_text("raise ImportError('libx.so.1 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^not_there_at_all is not installed"):
        needs("half_there", extra="tfds")
    with pytest.raises(UserError, match=r"^broken cannot be imported \(libx.so.1 is"):
        needs("broken", extra="tfds")
