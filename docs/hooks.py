"""What mkdocs adds to the pages: the flags of an experiment, from its Config.

`<!-- flags: NAME -->` becomes a table of the flags of `experiments/NAME.py` and of
those that every experiment has.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHARED = ROOT / "bspec_jax" / "run.py"


def on_page_markdown(markdown, **_):
    """What mkdocs calls for each page."""
    return re.sub(r"<!-- flags: (\w+) -->", lambda m: table(m[1]), markdown)


def table(experiment):
    """The flags of an experiment, in Markdown."""
    rows = [*fields(ROOT / "experiments" / f"{experiment}.py"), *fields(SHARED)]
    lines = [f"| `--{name}` | `{default}` | {doc} |" for name, default, doc in rows]
    return "\n".join(["| flag | default | |", "|---|---|---|", *lines])


def fields(path):
    """Name, default and documentation of the fields of a module's Config."""
    module = ast.parse(path.read_text()).body
    (config,) = (
        node
        for node in module
        if isinstance(node, ast.ClassDef) and node.name in ("Config", "RunConfig")
    )
    constants = {
        node.targets[0].id: node.value
        for node in module
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node, after in zip(config.body, config.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and _is_text(after):
            name = node.target.id.replace("_", "-")
            doc = " ".join(after.value.value.split()).replace("|", "\\|")
            default = ast.unparse(constants.get(ast.unparse(node.value), node.value))
            yield name, default.replace("|", "\\|"), doc


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
