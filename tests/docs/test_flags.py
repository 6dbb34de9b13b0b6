import ast
import dataclasses
import importlib
import re
import sys
from pathlib import PurePath

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import hooks

PAGES = {
    match[1]: page
    for page in sorted((ROOT / "docs").glob("*.md"))
    for match in re.finditer(r"<!-- flags: (\w+) -->", page.read_text())
}


def config_of(name):
    return importlib.import_module(f"experiments.{name}.config").Config


def test_every_experiment_has_a_page_with_its_flags():
    configs = (ROOT / "experiments").glob("*/config.py")
    assert set(PAGES) == {path.parent.name for path in configs}
    for name, page in PAGES.items():
        assert page.stem == name


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_every_flag_and_its_default(name):
    expected = {
        field.name.replace("_", "-"): field.default
        for field in dataclasses.fields(config_of(name))
    }
    table = hooks.on_page_markdown(PAGES[name].read_text())
    rows = re.findall(r"^\| `--([a-z0-9-]+)` \| `(.*?)` \| .{8,} \|$", table, re.M)
    assert {flag: ast.literal_eval(default) for flag, default in rows} == expected
    assert len(rows) == len(expected)
    assert not any(isinstance(default, PurePath) for default in expected.values())


def test_flags_are_declared_once():
    """What several experiments have is in a class that they share."""
    owners = {}
    for name in PAGES:
        for owner in config_of(name).__mro__[:-1]:
            for field in hooks.field_docs(owner):
                owners.setdefault(field, set()).add(owner)
    # Of another meaning or default in each experiment.
    shared = {"branches", "trials", "steps", "dataset", "image_size", "test_examples"}
    shared |= {"batch_size", "learning_rate", "log_every", "checkpoint_every"}
    shared |= {"branch", "depth", "normalisation", "sweep_branches", "repeats"}
    shared |= {"weight_decay", "train_examples", "init_scale"}
    shared |= {"checkpoint", "images", "choose_examples", "part", "skip_flip"}
    assert {name for name, of in owners.items() if len(of) > 1} <= shared
