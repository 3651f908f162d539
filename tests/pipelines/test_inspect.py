"""The program ``inspect``: what it shows of columns of states, whole and damaged."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lse_stream import LogSumExpAccumulator
from lse_stream.state_column import StateType
from lse_stream.states.aggregations import AGGREGATIONS
from lse_stream.table_functions import group_states
from pipelines import loglik, parquet
from pipelines.inspect import main

TABLE = pa.table({"k": list("aabbcdefg"), "x": [1.0, 2.0, 3.0, 3.0, None, -1.0, 0.5, 0.0, 9.0], "w": [1.0] * 9})


def states_of(kind: str = "logsumexp", **options: Any) -> pa.Table:
    return group_states(TABLE, ["k"], ["x", "w"][: len(AGGREGATIONS[kind].inputs)], aggregation=kind, **options)


def write(path: Path, table: pa.Table, form: str = "parquet") -> str:
    if form == "parquet":
        pq.write_table(table, path)
    else:
        new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table)
    return str(path)


@pytest.mark.parametrize("form", ["parquet", "file", "stream"])
def test_what_a_column_holds(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "states", states_of(skip_nulls=False), form)
    assert main([path]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"{path}: 7 rows, columns k, state"
    assert lines[2] == "column 'state': version 2, aggregation logsumexp, scale natural"
    assert lines[3].startswith("7 states (1 null), ")
    header, first, _, third, *_, last = (line.split() for line in lines[5:])
    assert header == ["row", "k", "logsumexp", "count", "max", "logmeanexp", "bonus", "exp_bonus"]
    state = LogSumExpAccumulator([1.0, 2.0])
    shown = [state.value(), state.count, state.max, state.logmeanexp(), state.bonus(), state.exp_bonus()]
    assert first == ["0", "a", *(f"{value:.6g}" for value in shown)]
    assert third == ["2", "c", *["null"] * 6]
    assert last == ["..."]


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_every_kind_tells_its_results(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "states.parquet", states_of(kind))
    assert main([path]) == 0
    out = capsys.readouterr().out
    assert f"aggregation {kind}, scale natural" in out
    # There are examples here with two labels, which have no cross-entropy.
    results = [name for name in AGGREGATIONS[kind].results if name != "cross_entropy"]
    assert out.splitlines()[5].split() == ["row", "k", *results]
    assert ("no cross_entropy: state 0: expected targets that sum to 1" in out) == (kind == "cross_entropy")


def test_scales_and_several_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = states_of(scale="base 4")
    table = table.append_column("late", states_of()["state"])
    assert main([write(tmp_path / "states.parquet", table)]) == 0
    out = capsys.readouterr().out
    assert "column 'state': version 2, aggregation logsumexp, scale base 4" in out
    assert "column 'late': version 2, aggregation logsumexp, scale natural" in out


def test_a_column_that_lost_its_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = [chunk.storage for chunk in states_of()["state"].chunks]
    path = write(tmp_path / "plain.parquet", pa.table({"state": pa.chunked_array(storage)}))
    assert main([path]) == 0
    assert "aggregation logsumexp" in capsys.readouterr().out


def test_a_damaged_state_is_told_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = states_of()["state"].chunk(0).storage.to_pylist()
    records[3] = records[3][:-1] + b"\x7f"
    column = pa.ExtensionArray.from_storage(StateType(), pa.array(records, pa.binary()))
    path = write(tmp_path / "damaged.parquet", pa.table({"state": column}))
    assert main([path]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"inspect: error: {path}: column 'state', row 3: expected ")
    assert error.count("\n") == 1


def test_a_newer_version_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = states_of()["state"].chunk(0).storage
    column = pa.ExtensionArray.from_storage(StateType(7, "logsumexp", "natural"), storage)
    assert main([write(tmp_path / "newer.parquet", pa.table({"state": column}))]) == 1
    assert "found version 7, aggregation logsumexp" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"ARROW1 and no more", b"a,b\n1,2\n"])
def test_files_of_another_form(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"inspect: error: {path}: expected an undamaged Parquet or Arrow IPC file, found ")
    assert error.count("\n") == 1


def test_directories_and_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"season": [1, 1, 2], "level": [0.5, 1.0, 2.0]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    arguments = ["--input", str(tmp_path / "a.parquet"), "--value=level", "--key=season", "--quiet", "--state"]
    assert parquet.main([*arguments, f"--output={tmp_path / 'two'}", "--num_shards=2"]) == 0
    assert loglik.main([*arguments, f"--output={tmp_path / 'tables'}"]) == 0
    single = write(tmp_path / "states", states_of())
    assert main([str(tmp_path / "two"), str(tmp_path / "tables"), single]) == 0
    out = capsys.readouterr().out
    paths = [line.partition(":")[0] for line in out.splitlines() if line.startswith(str(tmp_path))]
    names = ["two/part-00000-of-00002", "two/part-00001-of-00002"]
    names += [f"tables/{name}/part-00000-of-00001" for name in ("overall", "totals")]
    assert paths == [*(str(tmp_path / f"{name}.parquet") for name in names), single]
    assert out.count("\n\n" + str(tmp_path)) == 4


def test_results_without_states_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
    output = tmp_path / "out"
    assert parquet.main(["--input", str(tmp_path / "a.parquet"), "--value=x", f"--output={output}", "--quiet"]) == 0
    assert main([str(output)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("by parquet ")
    assert second == f"{output}: no states, which --state writes; columns logsumexp, count, max"


def test_files_without_states_or_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (write(tmp_path / "a.parquet", TABLE), str(tmp_path)):
        assert main([path]) == 2
        expected = f"inspect: error: {path}: expected a column of states, found columns k, x, w\n"
        assert capsys.readouterr().err == expected
    assert main([str(tmp_path / "none.parquet")]) == 2
    assert "found FileNotFoundError" in capsys.readouterr().err


def test_it_is_a_command_that_needs_no_beam(tmp_path: Path) -> None:
    path = write(tmp_path / "states.parquet", states_of())
    program = f"import sys; from pipelines.inspect import main; main([{path!r}])"
    program += "; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0
    command = [sys.executable, "-m", "pipelines", "inspect", "--help"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0
    assert "examples:" in found.stdout
