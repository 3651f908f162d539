"""The pages: every command and every example on them does what they say, and their sentences are short."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from examples import FENCE, START, blocks_of, commands_of, run_block
from programs import ROOT

from lse_stream.states.aggregations import AGGREGATIONS, leave_one_out
from pipelines.__main__ import PROGRAMS, main

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def words_of(line: str) -> list[str]:
    """Without the time it took, and the widths of columns, which go by all rows."""
    return re.sub(r"[\d.]+ s$", "", line).split()


def check_printed(found: str, expected: str) -> None:
    """What is expected was printed; "..." stands for lines that are left out."""
    lines = [words_of(line) for line in found.splitlines()]
    start = 0
    for part in re.split(r"^\.\.\.$", expected, flags=re.MULTILINE):
        wanted = [words_of(line) for line in part.strip("\n").splitlines()]
        places = [i for i in range(start, len(lines) + 1) if lines[i : i + len(wanted)] == wanted]
        assert places, f"expected\n{part}\nfound\n{found}"
        start = places[0] + len(wanted)


@EVERY_PAGE
def test_examples_run_in_their_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    printed = ""
    for block in blocks_of(page):
        if block.needs:
            printed = block.text
        elif block.language in ("sh", "python"):
            printed = run_block(block, names)
        elif not block.language:
            check_printed(printed, block.text)
        else:
            assert block.language == "text" or block.language.startswith("{"), (
                f"a block of {block.language}: how is it run?"
            )


@EVERY_PAGE
def test_options_of_commands_that_are_not_run_exist(page: Path) -> None:
    for block in blocks_of(page):
        for command in commands_of(block) if block.needs and block.language == "sh" else ():
            if start := START.match(command):
                program, *arguments = shlex.split(command[start.end() :].partition(" -- ")[0])
                of_beam = any(argument.startswith("--runner") for argument in arguments)
                given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
                assert given <= options_of(program) | (BEAMS_OPTIONS if of_beam else set()), command


def options_of(program: str) -> set[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([program, "--help"])
    return set(re.findall(r"--[a-z_]+", out.getvalue()))


BEAMS_OPTIONS = {f"--{name}" for name in PipelineOptions([]).get_all_options()} | {"--runner"}


def test_every_program_has_an_example() -> None:
    commands = "\n".join(command for page in PAGES for block in blocks_of(page) for command in commands_of(block))
    assert set(re.findall(r"(?:pipelines\.|lse-stream )(\w+)", commands)) >= set(PROGRAMS)


# --- language ---------------------------------------------------------------------------------------------------------

MOST_WORDS = 30


def sentences_of(text: str) -> Iterator[str]:
    """The sentences outside of tables, headings and fences; what a colon introduces is one of its own."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*[*|#-]|\s*\d+\. )", FENCE.sub("", text)):
        prose = re.sub(r"^([*-]|\d+\.) ", "", paragraph.strip())
        if not prose or prose.startswith(("|", "#", "!!!", "---", ":::")):
            continue
        prose = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "Code", prose))
        yield from re.split(r"(?<=[.?!])\s+(?=[A-Z(*])|(?<=[:;])\s+", prose.replace("\n", " "))


@EVERY_PAGE
def test_sentences_are_short(page: Path) -> None:
    long = [
        sentence for sentence in sentences_of(page.read_text()) if len(re.findall(r"\S*\w\S*", sentence)) > MOST_WORDS
    ]
    assert not long


# --- tables -----------------------------------------------------------------------------------------------------------


def test_results_of_aggregations_are_listed() -> None:
    text = (ROOT / "docs" / "what-for-what.md").read_text()
    for aggregation in (*AGGREGATIONS.values(), leave_one_out(1)):
        assert f"| {', '.join(aggregation.results)} |" in text, aggregation.name
