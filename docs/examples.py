"""What stands between the fences of a page, and how it is run: by the tests, and for the pictures of the site."""

import contextlib
import doctest
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.__main__ import main

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Ways to start a program, from a clone and installed.
FROM_CLONE = r"(?:uv run (?:--no-dev |--extra \w+ )*)?"
START = re.compile(rf"^(?:pip install uv && )?{FROM_CLONE}(?:lse-stream |python -m pipelines\.)")
# What runs the examples itself.
TESTS = re.compile(r"uv run pytest")


class Block(NamedTuple):
    """What stands between fences.

    Attributes:
      language: "sh", "python" or another; nothing for what is printed.
      needs: what the machine needs to run it, as its title says; nothing where it is run.
    """

    language: str
    needs: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in their order."""
    found = []
    for information, text in FENCE.findall(page.read_text()):
        language = information.split(" ")[0]
        title = re.search(r'title="needs ([^"]*)"', information)
        found.append(Block(language, title[1] if title else "", text))
    return found


def commands_of(block: Block) -> list[str]:
    """The commands of a block, each in one line."""
    lines = block.text.replace("\\\n", "").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def run_command(command: str) -> str:
    """What a command prints. Raises RuntimeError where it fails, or warns."""
    if TESTS.search(command):
        return ""
    if start := START.match(command):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(shlex.split(command[start.end() :]))
        if status or err.getvalue():
            raise RuntimeError(f"{command}: exit status {status}, {err.getvalue()}")
        return out.getvalue()
    command = re.sub(rf"^{FROM_CLONE}python ", f"{shlex.quote(sys.executable)} ", command)
    run = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    if run.returncode:
        raise RuntimeError(f"{command}: {run.stderr}")
    return run.stdout


def run_block(block: Block, names: dict[str, Any]) -> str:
    """What a block of commands, of which the last counts, or of Python prints."""
    if block.language == "python":
        return run_python(block.text, names)
    printed = ""
    for command in commands_of(block):
        printed = run_command(command)
    return printed


def run_python(text: str, names: dict[str, Any]) -> str:
    """What an example prints. Raises RuntimeError where an interactive session shows other values."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if ">>>" not in text:
            exec(compile(text, "example", "exec"), names)
            return out.getvalue()
        test = doctest.DocTestParser().get_doctest(text, names, "example", None, None)
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
    if result.failed:
        raise RuntimeError(out.getvalue())
    names |= test.globs
    return ""
