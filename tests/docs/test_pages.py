"""The examples of the README and of the pages run as they stand."""

import re

import pytest
from helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_examples_run_in_their_order(page):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(block, names)


def test_there_are_examples():
    assert sum("```python" in page.read_text() for page in PAGES) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_and_image_exists(page):
    text = page.read_text()
    paths = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    paths += re.findall(r'src="([^"]+)"', text)
    local = [path for path in paths if not path.startswith("http")]
    assert not [path for path in local if not (page.parent / path).exists()]


def test_the_pages_show_the_runs_that_are_kept():
    text = "".join(page.read_text() for page in PAGES)
    runs = [path.name for path in (ROOT / "docs" / "runs").iterdir()]
    assert runs
    assert not [name for name in runs if f"runs/{name}/figures/" not in text]


def test_contributing_names_what_exists():
    """The table of changes: every file, and what is to be found in it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+) \|$", text, re.M)
    assert len(rows) >= 8
    for row in rows:
        folder, *names = re.findall(r"`([^`]+)`", row)
        paths = [name for name in (folder, *names) if name.endswith(".py")]
        for path in paths:
            found = list(ROOT.glob(path.replace("NAME", "*")))
            assert found, path
        symbols = [name for name in names if not name.endswith(".py")]
        sources = "".join(
            source.read_text()
            for path in paths
            for source in ROOT.glob(path.replace("NAME", "*"))
        )
        assert all(symbol in sources for symbol in symbols), row
