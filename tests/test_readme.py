"""The README's examples run as they stand."""

import re

from helpers import ROOT


def test_the_python_examples_run_in_their_order(capsys):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert "num_active" in capsys.readouterr().out
    assert names["norms"].shape == (16, 16)


def test_every_image_exists():
    text = (ROOT / "README.md").read_text()
    paths = re.findall(r"\]\((docs/[^)]*)\)", text)
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]
