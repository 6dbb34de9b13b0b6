import ast
import dataclasses
import importlib
import re
import sys

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import hooks

PAGES = {
    match[1]: page
    for page in sorted((ROOT / "docs").glob("*.md"))
    for match in re.finditer(r"<!-- flags: (\w+) -->", page.read_text())
}


def test_every_experiment_has_a_page_with_its_flags():
    modules = (ROOT / "experiments").glob("*.py")
    named = {m.stem for m in modules if "class Config(" in m.read_text()}
    assert set(PAGES) == named
    for name, page in PAGES.items():
        assert page.stem == name


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_every_flag_and_its_default(name):
    config = importlib.import_module(f"experiments.{name}").Config
    expected = {
        field.name.replace("_", "-"): field.default
        for field in dataclasses.fields(config)
    }
    shown = hooks.on_page_markdown(PAGES[name].read_text())
    rows = re.findall(r"^\| `--([a-z0-9-]+)` \| `(.*?)` \| .{8,} \|$", shown, re.M)
    assert {flag: ast.literal_eval(default) for flag, default in rows} == expected
    assert len(rows) == len(expected)
