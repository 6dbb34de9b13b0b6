"""What mkdocs adds to the pages: the flag table of an experiment, from its Config.

`<!-- flags: NAME -->` becomes a table of the flags of `experiments.NAME`.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown, **_):
    """Called by mkdocs for each page."""
    return re.sub(r"<!-- flags: (\w+) -->", lambda m: table(m[1]), markdown)


def table(experiment):
    """The flags of an experiment, in Markdown: its own first."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    config = importlib.import_module(f"experiments.{experiment}.config").Config
    docs = {}
    for owner in config.__mro__[:-1]:
        docs = docs | {n: d for n, d in field_docs(owner).items() if n not in docs}
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    rows = [
        f"| `--{name.replace('_', '-')}` | `{_escaped(repr(defaults[name]))}` | {doc} |"
        for name, doc in docs.items()
    ]
    return "\n".join(["| flag | default | |", "|---|---|---|", *rows])


def field_docs(config):
    """The docstrings below the fields that a class declares itself, in one line each.

    The same that `--help` prints.
    """
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    docs = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and _is_text(after):
            docs[node.target.id] = _escaped(" ".join(after.value.value.split()))
    return docs


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _escaped(text):
    return text.replace("|", "\\|")
