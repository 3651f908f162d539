"""What the site has beside the pages: options of each program, the drawing of the parts, pictures of programs."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

from drawing import draw

from pipelines.__main__ import PROGRAMS, main

SAMPLES = Path(__file__).resolve().parent.parent / "pipelines" / "samples"

# Pictures by name, and the programs that draw them.
PICTURES = {
    "storms.svg": [["typhoon", "1", "2", "3", "4", "5", "--picture=storms.svg"]],
    "compared.svg": [
        [
            *("loglik", f"--input={SAMPLES}/diabetes_draws.parquet", "--key=model", "--observation=patient"),
            *("--value=log_likelihood", "--inner=logmeanexp", "--loo", "--per_observation"),
            *("--picture=pareto_k.svg", "--output=models"),
        ],
        ["compare", "--input=models", "--model=model", "--output=compared", "--picture=compared.svg"],
    ],
}


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
            for commands in PICTURES.values():
                for command in commands:
                    printed(command)
        finally:
            os.chdir(before)
        return {path.name: path.read_text() for path in Path(directory).glob("*.svg")}


def printed(arguments: list[str]) -> str:
    """What a program prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        status = main(arguments)
        if status:
            raise RuntimeError(f"{' '.join(arguments)}: exit status {status}")
    return out.getvalue()
