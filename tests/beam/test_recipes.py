"""The recipes of ``docs/beam-recipes.md`` print what stands below them."""

import re
import subprocess
import sys

from programs import ROOT

RECIPES = re.findall(
    r"```python\n(.*?)```\n\n```\n(.*?)```", (ROOT / "docs" / "beam-recipes.md").read_text(), re.DOTALL
)


def test_each_recipe_prints_what_stands_below_it() -> None:
    """One after another in one process, as Beam takes seconds to import."""
    assert len(RECIPES) == 3
    code = "\n".join(code for code, _ in RECIPES)
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "".join(printed for _, printed in RECIPES)
