"""What the site has beside the pages: options of each program, the drawing of the parts, pictures of programs."""

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

from drawing import draw
from examples import blocks_of, run_block, run_command

from pipelines.__main__ import PROGRAMS, main

ROOT = Path(__file__).resolve().parent.parent
# Commands whose pictures the pages show, beside those that the stories draw themselves.
PICTURES = """
lse-stream typhoon 1 2 3 4 5 --picture=storms.svg
lse-stream loglik --input=pipelines/samples/diabetes_draws.parquet --key=model --observation=patient \
    --value=log_likelihood --inner=logmeanexp --loo --per_observation --picture=pareto_k.svg --output=models
lse-stream compare --input=models --model=model --output=compared --picture=compared.svg
"""


def make(docs: Path) -> None:
    """Writes what is made beside the pages."""
    (docs / "reference" / "programs.md").write_text(programs_page())
    folder = docs / "pictures"
    folder.mkdir(exist_ok=True)
    (folder / "architecture.svg").write_text(draw())
    for name, picture in pictures().items():
        (folder / name).write_text(picture)


def programs_page() -> str:
    """The help of every program."""
    parts = ["# Programs", "What `--help` of each says."]
    for program in PROGRAMS:
        parts += [f"## {program}", f"```text\n{printed([program, '--help']).strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def pictures() -> dict[str, str]:
    """The pictures by name."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            (Path(directory) / "pipelines").symlink_to(ROOT / "pipelines")
            for command in PICTURES.replace("\\\n", "").split("\n"):
                if command:
                    run_command(command)
            for story in sorted((ROOT / "docs" / "stories").glob("*.md")):
                run_story(story)
            return {path.name: path.read_text() for path in Path(directory).glob("*.svg")}
        finally:
            os.chdir(before)


def run_story(page: Path) -> None:
    """Runs the examples of a page; the tests compare what they print."""
    names: dict[str, Any] = {"__name__": "example"}
    for block in blocks_of(page):
        if block.language in ("sh", "python"):
            run_block(block, names)


def printed(arguments: list[str]) -> str:
    """What a program prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(arguments)
    return out.getvalue()
