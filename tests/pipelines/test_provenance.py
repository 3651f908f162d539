"""What results say of where they come from, and what a summary shows of odd keys."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from programs import BEAM, write

from lse_stream import __version__
from pipelines import parquet
from pipelines.__main__ import main
from pipelines.output import PROVENANCE


@pytest.mark.parametrize("runner", [["--threads=2", "--memory=1GB"], [BEAM]], ids=["here", "on Beam"])
def test_it_names_what_decides_results(tmp_path: Path, runner: list[str]) -> None:
    source = write(tmp_path / "a.parquet", {"k": ["a", "b"], "x": [1.0, 2.0]})
    options = ["--key=k", "--bin=x=1", "--key=x", "--value=x2", "--scale=db", "--where=x > 0", "--num_shards=2"]
    write(source, pa.table({"k": ["a", "b"], "x": [1.0, 2.0], "x2": [0.5, 1.5]}))
    output = tmp_path / "out"
    assert main(["parquet", f"--input={source}", *options, f"--output={output}", "--quiet", *runner]) == 0
    assert json.loads((output / PROVENANCE).read_text()) == {
        "program": "parquet",
        "version": __version__,
        "arguments": {
            "key": ["k", "x"],
            "bin": ["x=1"],
            "value": "x2",
            "scale": "decibel",
            "where": "x > 0",
            "num_shards": 2,
        },
        "input": [str(source)],
        "rows": 2,
    }


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["softmax", "--key=k", "--value=x"], 3),
        (["loglik", "--key=k", "--value=x"], 3),
        (["stream", "--source=replay", "--key=k", "--value=x", "--event_time=t", "--window=fixed:1h"], 3),
    ],
)
def test_every_program_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], rows: int
) -> None:
    times = pa.array([0, 1, 2], pa.timestamp("s"))
    source = write(tmp_path / "a.parquet", {"k": ["a", "b", "a"], "x": [1.0, 2.0, 3.0], "t": times})
    assert main([*arguments, f"--input={source}", f"--output={tmp_path / 'out'}", "--quiet"]) == 0
    found = json.loads((tmp_path / "out" / PROVENANCE).read_text())
    assert (found["program"], found["rows"], found["input"]) == (arguments[0], rows, [str(source)])
    capsys.readouterr()


def test_inspect_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"k": ["a"], "x": [1.0]})
    output = tmp_path / "out"
    assert parquet.main([f"--input={source}", "--key=k", "--value=x", "--state", f"--output={output}", "--quiet"]) == 0
    assert main(["inspect", str(output)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"by parquet {__version__} --key k --value x --state, of 1 row of {source}"


def test_odd_keys_in_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["null", None, "", "x" * 2_000_000, "a\nb", "plain"]
    source = write(tmp_path / "a.parquet", {"k": keys, "x": [1.0] * 6})
    assert parquet.main([f"--input={source}", "--key=k", "--value=x", f"--output={tmp_path / 'out'}"]) == 0
    lines = capsys.readouterr().out.splitlines()[4:]
    shown = sorted(line.split("  ")[0].strip() for line in lines)
    assert shown == sorted(["'null'", "null", "''", "x" * 57 + "...", "'a\\nb'", "plain"])
    assert max(map(len, lines)) < 120
