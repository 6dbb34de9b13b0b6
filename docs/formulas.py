"""What mkdocs adds to the pages: formulas in TeX, as MathML, which needs no script.

`$...$` within a line, and `$$...$$` for one on lines of its own, as GitHub reads them.
A formula that is not TeX ends the build.
"""

from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from math_core import LatexError, LatexToMathML

# No space inside the dollars of a line, no letter before and no digit after them:
# "$5 or $6" is text.
FORMULA = r"(?<![\\$\w])(?:\$\$(.+?)\$\$|\$(?![\s$])([^$\n]+?)(?<!\s)\$(?!\d))"
CONVERTER = LatexToMathML(fancy_error=False)


def on_config(config):
    """Called by mkdocs once."""
    config.markdown_extensions.append(Formulas())
    return config


class Formulas(Extension):
    """The extension of Python-Markdown."""

    def extendMarkdown(self, md):  # noqa: N802
        """After code (190), which is left alone, and before escapes (180)."""
        md.inlinePatterns.register(Formula(FORMULA, md), "formula", 185)


class Formula(InlineProcessor):
    """Puts MathML in the place of a formula."""

    def handleMatch(self, m, data):  # noqa: N802
        """The MathML, and the part of the text that it replaces."""
        block, inline = m.groups()
        html = mathml(block or inline, bool(block))
        return self.md.htmlStash.store(html), m.start(), m.end()


def mathml(tex, block):
    """A formula as MathML; browsers centre one that is a block.

    Raises:
      ValueError: it is not TeX, with the place.
    """
    try:
        return CONVERTER.convert_with_local_state(tex, displaystyle=block)
    except LatexError as error:
        raise ValueError(f"the formula {tex!r} is not TeX: {error}") from None
