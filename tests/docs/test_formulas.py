"""The formulas of the pages: each converts, and text with dollars stays text."""

import re
import sys
from types import SimpleNamespace

import pytest
from helpers import ROOT

pytest.importorskip("math_core", reason="the site needs the extra docs")
import markdown

sys.path.insert(0, str(ROOT / "docs"))
import formulas

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.DOTALL)
V_K = "<math><msub><mi>v</mi><mi>k</mi></msub></math>"


def html(text):
    """As on the site."""
    extensions = ["tables", "pymdownx.superfences", formulas.Formulas()]
    return markdown.markdown(text, extensions=extensions)


def found(page):
    """The formulas of a page, block or not."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    return [a or b for a, b in re.findall(formulas.FORMULA, text, re.DOTALL)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_formula_converts_and_no_dollar_is_left(page):
    text = CODE.sub("", html(page.read_text()))
    assert text.count("<math") == len(found(page))
    assert "$" not in text


def test_there_are_formulas():
    counts = {page.stem: len(found(page)) for page in PAGES}
    assert counts["silence"] > 80
    assert counts["theory"] > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_formulas_mean_the_same_on_github(page):
    """It takes a backslash before punctuation as an escape."""
    assert not [tex for tex in found(page) if re.search(r"\\[^A-Za-z]", tex)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so $v_k$, *and* ($v_k$)", f"<p>so {V_K}, <em>and</em> ({V_K})</p>"),
        ("`$v_k$` and $v_k$", f"<p><code>$v_k$</code> and {V_K}</p>"),
        ("$5 or $6, or US$7$", "<p>$5 or $6, or US$7$</p>"),
        (r"\$v_k$", r"<p>\$v_k$</p>"),
        ("$v_k\n$", "<p>$v_k\n$</p>"),
        ("$$v_k$$", V_K.replace("<math>", '<math display="block">')),
        ("$$\nv_k\n$$", V_K.replace("<math>", '<math display="block">')),
        ("| $v_k$ |\n|---|", f"<th>{V_K}</th>"),
        ("```\n$v_k$\n```", "<code>$v_k$\n</code>"),
        (r"$\frac{y}{x}$", "<mfrac><mi>y</mi><mi>x</mi></mfrac>"),
        ("$a*b*c$", "<mi>c</mi></math>"),  # no emphasis
    ],
)
def test_what_is_a_formula(text, expected):
    assert expected in html(text)


@pytest.mark.parametrize(
    "tex", [r"\foo", r"\frac{a", "a}", "a_", "a^2^3", r"\begin{foo}a\end{foo}"]
)
def test_what_is_not_tex_is_an_error(tex):
    with pytest.raises(ValueError, match=f"the formula {re.escape(repr(tex))} is not"):
        html(f"${tex}$")


def test_mkdocs_gets_the_extension():
    config = formulas.on_config(SimpleNamespace(markdown_extensions=["tables"]))
    extensions = config.markdown_extensions
    assert V_K in markdown.markdown("$v_k$", extensions=extensions)
