"""The README's commands print what stands below them."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from programs import ROOT

from pipelines.__main__ import main

# A command, and what it prints; "..." stands for lines that are left out.
BLOCKS = re.findall(
    r"```sh\n([^`]*?python -m pipelines\.[^`]*?)```\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
)
NAMES = [re.findall(r"pipelines\.(\w+)", command)[-1] for command, _ in BLOCKS]


def test_every_program_has_one() -> None:
    assert set(NAMES) == {"compare", "cross_entropy", "loglik", "parquet", "rollup", "softmax", "stream", "typhoon"}


def words_of(line: str) -> list[str]:
    """Without the time it took, and the widths of columns, which go by all rows."""
    return re.sub(r"[\d.]+ s$", "", line).split()


@pytest.mark.parametrize(("command", "printed"), BLOCKS, ids=NAMES)
def test_what_a_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, printed: str
) -> None:
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    for line in command.replace("\\\n", "").splitlines():
        _, module, arguments = line.partition("python -m pipelines.")
        assert module
        assert main(shlex.split(arguments)) == 0
        out, err = capsys.readouterr()
        assert err == ""
    found = [words_of(line) for line in out.splitlines()]
    start = 0
    for part in re.split(r"^\.\.\.$", printed, flags=re.MULTILINE):
        lines = [words_of(line) for line in part.strip("\n").splitlines()]
        places = [i for i in range(start, len(found)) if found[i : i + len(lines)] == lines]
        assert places, part
        start = places[0] + len(lines)


def test_the_second_command_gives_the_bytes_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    [second] = re.findall(r"```sh\n([^`]*--runner=FnApiRunner[^`]*diff[^`]*)```", text)
    command, difference, *_ = second.replace("\\\n", "").splitlines()
    first = next(command for command, _ in BLOCKS if "pipelines.parquet" in command).replace("\\\n", "")
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    for line in (first, command):
        assert main(shlex.split(line.partition("python -m pipelines.")[2])) == 0
    compared = subprocess.run(shlex.split(difference), capture_output=True, text=True)
    assert (compared.returncode, compared.stdout) == (0, "")
