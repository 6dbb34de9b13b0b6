"""Text from runs, such as names of classes and folders, in Markdown: shown as it is."""

import re

from bspec_jax.data.names import shown

# What begins markup anywhere in a line; `_` does at the edge of a word.
MARKUP = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![^\W_])_|_(?![^\W_])")


def plain(text: object) -> str:
    """A text on one line, none of which is markup."""
    return MARKUP.sub(r"\\\g<0>", shown(text))


def code(text: object, *, in_table: bool = False) -> str:
    """A text on one line as code; in a table, `|` would end the cell."""
    line = shown(text)
    if in_table:
        line = line.replace("|", r"\|")
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    # One space at each end is not part of the code, and parts it from the fence.
    pad = " " if line.strip() != line or "`" in (line[:1], line[-1:]) else ""
    return f"{fence}{pad}{line}{pad}{fence}"
