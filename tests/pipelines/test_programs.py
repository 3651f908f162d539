"""What holds of every program: the command of all, the help, and that its first example runs as it stands."""

import shlex
from importlib import import_module
from pathlib import Path

import pytest
from programs import ROOT, check_fault, write

from lse_stream import __version__
from pipelines.__main__ import PROGRAMS, main


def help_of(program: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exited:
        import_module(f"pipelines.{program}").main(["--help"])
    assert exited.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_teaches(program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(program, capsys)
    assert "examples:" in text
    assert text.count(f"  python -m pipelines {program}") >= 2
    assert ("--overwrite" in text) == (program != "inspect")  # which writes nothing
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_first_example_of_the_help_runs(
    tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory of its own, to which the samples are linked."""
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(program, capsys).replace("\\\n", "").partition("examples:\n")[2].partition("\n\n")[0]
    commands = [line for line in text.splitlines() if line.startswith("  python -m pipelines")]
    assert commands[-1].startswith(f"  python -m pipelines {program}")
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert main(shlex.split(command)[3:]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert len(out.splitlines()) > 3


def test_the_command_of_all_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--help"]) == 0
    captured = capsys.readouterr()
    assert all(f"  {program} " in captured.out for program in PROGRAMS)
    assert captured.err == ""
    assert main(["--version"]) == 0
    with pytest.raises(SystemExit, match="0"):
        main(["parquet", "--version"])
    assert capsys.readouterr().out == 2 * f"lse-stream {__version__}\n"
    for argv, found in (([], "none"), (["parket"], "'parket'")):
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"expected a program ({', '.join(PROGRAMS)}), found {found}" in captured.err.splitlines()[0]
    source = write(tmp_path / "a.parquet", {"value": [1.0]})
    argv = ["parquet", "--input", str(source), "--value=value", "--output", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 0
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    check_fault(captured.err, ["--overwrite"])
