"""``python -m pipelines.parquet`` end to end, on real files: values, bytes, faults, kills, stores, and what it says."""

import decimal
import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import mpmath
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.combiners import ToList
from programs import BEAM, IN_PROCESSES, ROOT, check_bad, check_fault, cli, contents, damage, parts, place, split, write
from stores import Store

from lse_stream import LogSumExpAccumulator
from lse_stream.parquet import scan as scanning
from lse_stream.state_column import StateType
from lse_stream.table_functions import finalize, merge_states, sort_by_keys
from pipelines import loglik, output
from pipelines.options import Parser
from pipelines.parquet import build, main

RESULTS = ["logsumexp", "count", "max"]


def sample(n: int = 4000) -> pa.Table:
    """Rows with a string key and an integer key, nulls in key and value, and values of many magnitudes."""
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "model": pa.array(rng.choice(np.array(["small", "large", "größer", "", None], object), n), pa.string()),
            "fold": pa.array(rng.integers(-2, 20, n), pa.int32()),
            "value": pa.array(rng.normal(size=n) * rng.choice([1e-3, 1.0, 50.0, 1e6], n), mask=rng.random(n) < 0.05),
            "unused": pa.array(np.arange(n)),
        }
    )


def total(folder: Path, source: Path, *arguments: str) -> pa.Table:
    """The result of a run with ``--value value``, all parts of it."""
    argv = ["--input", str(source), "--value", "value", "--output", str(folder), "--quiet", *arguments]
    assert main(argv) == 0
    return pa.concat_tables(parts(folder))


def expected(table: pa.Table, keys: Sequence[str]) -> list[dict[str, Any]]:
    """What the program should give: one accumulator per key, ascending, nulls last."""
    groups: dict[tuple[Any, ...], LogSumExpAccumulator] = {}
    for row in table.to_pylist():
        group = groups.setdefault(tuple(row[key] for key in keys), LogSumExpAccumulator())
        if row["value"] is not None:
            group.add(row["value"])
    rows = []
    for key in sorted(groups, key=lambda key: [(x is None, x.encode() if isinstance(x, str) else x) for x in key]):
        state = groups[key]
        results = {"logsumexp": state.value(), "count": state.count, "max": state.max}
        rows.append(dict(zip(keys, key, strict=True)) | results)
    return rows


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [["fold"], ["model", "fold"], ["fold", "model"]], ids="-".join)
def test_results_are_the_accumulators_of_each_key(tmp_path: Path, keys: list[str]) -> None:
    table = sample()
    source = split(tmp_path / "in", table, 3, row_group_size=500)
    found = total(tmp_path / "out", source, *(f"--key={key}" for key in keys))
    fields = [*map(table.schema.field, keys), ("logsumexp", pa.float64()), ("count", pa.int64()), ("max", pa.float64())]
    assert found.schema == pa.schema(fields)
    assert found.to_pylist() == expected(table, keys)


def test_results_are_near_the_true_values(tmp_path: Path) -> None:
    table = pa.table({"k": [0, 0, 0, 0, 0, 1, 1, 2], "value": [1.0, 2, 3, 4, 5, -1000.5, -1000.25, 0.1]})
    found = total(tmp_path / "out", write(tmp_path / "a.parquet", table), "--key", "k")["logsumexp"].to_pylist()
    with mpmath.workprec(2000):
        for k, result in enumerate(found):
            terms = [row["value"] for row in table.to_pylist() if row["k"] == k]
            exact = mpmath.log(mpmath.fsum(map(mpmath.exp, terms)))
            assert abs(result - exact) <= 0.51 * np.spacing(max(abs(result), 1.0))
    assert len(found) == 3
    assert found[0] == 5.451914395937593


def test_without_keys_there_is_one_row(tmp_path: Path) -> None:
    table = sample()
    assert total(tmp_path / "out", write(tmp_path / "a.parquet", table)).to_pylist() == expected(table, [])


def test_shards_hold_each_key_once_and_may_be_empty(tmp_path: Path) -> None:
    table = sample().filter(pa.array(np.arange(4000) < 3))
    source = write(tmp_path / "a.parquet", table)
    one = total(tmp_path / "one", source, "--key", "fold")
    total(tmp_path / "five", source, "--key", "fold", "--num_shards", "5")
    assert [path.name for path in sorted((tmp_path / "one").glob("*.parquet"))] == ["part-00000-of-00001.parquet"]
    names = [f"part-0000{i}-of-00005.parquet" for i in range(5)]
    assert [path.name for path in sorted((tmp_path / "five").glob("*.parquet"))] == names
    five = parts(tmp_path / "five")
    assert sum(shard.num_rows == 0 for shard in five) >= 2  # three keys
    assert all(shard.schema == one.schema for shard in five)
    assert sort_by_keys(pa.concat_tables(five), ["fold"]) == one


def test_special_values_and_nulls(tmp_path: Path) -> None:
    inf, nan = float("inf"), float("nan")
    values: dict[str, list[float | None]]
    values = {"empty": [None, None], "-inf": [-inf, None], "+inf": [inf, 1.0], "nan": [nan, inf], "one": [2.0]}
    rows = [(key, value) for key, terms in values.items() for value in terms]
    table = pa.table({"k": [key for key, _ in rows], "value": pa.array([value for _, value in rows], pa.float64())})
    source = write(tmp_path / "a.parquet", table)

    def results(*arguments: str) -> dict[str, list[Any]]:
        found = total(tmp_path / "out", source, "--key", "k", "--overwrite", *arguments).to_pylist()
        return {row["k"]: [None if (x := row[name]) is None else str(x) for name in RESULTS] for row in found}

    found = results()
    assert found == {
        "+inf": ["inf", "2", "inf"],
        "-inf": ["-inf", "1", "-inf"],
        "empty": ["-inf", "0", "-inf"],
        "nan": ["nan", "2", "nan"],
        "one": ["2.0", "1", "2.0"],
    }
    nothing = [None, None, None]
    assert results("--no-skip_nulls") == found | {"empty": nothing, "-inf": nothing}
    assert results("--min_count", "1") == found | {"empty": [None, "0", "-inf"]}
    assert results("--min_count", "2") == {
        key: row if row[1] == "2" else [None, *row[1:]] for key, row in found.items()
    }


@pytest.mark.parametrize("value_type", [pa.null(), pa.int64(), pa.float32()], ids=str)
def test_values_that_are_all_null(tmp_path: Path, value_type: pa.DataType) -> None:
    source = write(tmp_path / "a.parquet", {"k": [1, 2, 1], "value": pa.nulls(3, value_type)})
    found = total(tmp_path / "out", source, "--key", "k").to_pylist()
    assert [(row["k"], row["logsumexp"], row["count"]) for row in found] == [(1, -np.inf, 0), (2, -np.inf, 0)]


def test_files_without_rows(tmp_path: Path) -> None:
    table = sample(100)
    empty = table.slice(0, 0)
    folder = tmp_path / "in"
    for name, rows in (("a", empty), ("b", table), ("c", empty)):
        write(folder / f"{name}.parquet", rows)
    assert total(tmp_path / "some", folder, "--key", "fold").to_pylist() == expected(table, ["fold"])
    (folder / "b.parquet").unlink()

    none = total(tmp_path / "none", folder, "--key", "fold", "--num_shards", "2", "--state")
    assert len(parts(tmp_path / "none")) == 2
    assert (none.num_rows, none.schema.names) == (0, ["fold", *RESULTS, "state"])
    assert none.schema.field("fold").type == pa.int32()
    assert total(tmp_path / "global", folder).to_pylist() == [{"logsumexp": -np.inf, "count": 0, "max": -np.inf}]


KEYS = {
    "dictionary": pa.array(["b", "a", None, "b"]).dictionary_encode(),
    "timestamp": pa.array([1, -5, None, 1], pa.timestamp("ns", "Europe/Berlin")),
    "decimal": pa.array([decimal.Decimal("1.50"), decimal.Decimal("-2"), None, decimal.Decimal("1.5")]),
    "date": pa.array([20000, 10, None, 20000], pa.date32()),
    "bool": pa.array([True, False, None, True]),
    "binary": pa.array([b"\xff", b"", None, b"\xff"]),
    "float": pa.array([0.0, -1.5, None, -0.0]),
    "uint64": pa.array([2**64 - 1, 0, None, 2**64 - 1], pa.uint64()),
    "null": pa.nulls(4),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_come_out_in_the_type_they_had(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.table({"k": KEYS[name], "value": [1.0, 2.0, 3.0, 1.0]})
    source = write(tmp_path / "a.parquet", table)
    as_read = pa.string() if name == "dictionary" else pq.read_table(source).schema.field("k").type
    assert main(["--input", str(source), "--key=k", "--value=value", "--output", str(tmp_path / "out")]) == 0
    assert "logsumexp" in capsys.readouterr().out  # the preview can show it
    [found] = parts(tmp_path / "out")
    assert found.schema.field("k").type == as_read
    keys = [table["k"][0].as_py()] if name == "null" else [table["k"][i].as_py() for i in (1, 0, 2)]
    assert found["k"].to_pylist() == keys
    assert found["count"].to_pylist() == ([4] if name == "null" else [1, 2, 1])


@pytest.mark.parametrize(
    ("folders", "key_type", "keys"),
    [
        (["k=10", "k=9", "k=-1"], pa.int64(), [-1, 9, 10]),
        (["k=b/extra=1", "k=a/extra=2"], pa.string(), ["a", "b"]),
        (["k=10", "k=x", "k=9"], pa.string(), ["10", "9", "x"]),
        (["k=a%2Fb%20%3D", "k=%C3%A9"], pa.string(), ["a/b =", "é"]),
        (["k=7", "k=__HIVE_DEFAULT_PARTITION__"], pa.int64(), [7, None]),
        (["k=x", "k=__HIVE_DEFAULT_PARTITION__", "k=null"], pa.string(), ["null", "x", None]),
        (["k=1_000", "k=2"], pa.string(), ["1_000", "2"]),
        (["k=9223372036854775807"], pa.int64(), [2**63 - 1]),
        (["k=9223372036854775808"], pa.string(), ["9223372036854775808"]),
        (["k=1", "k=01"], pa.int64(), [1]),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_directories_give_keys(tmp_path: Path, folders: list[str], key_type: pa.DataType, keys: list[Any]) -> None:
    for i, folder in enumerate(folders):
        write(tmp_path / "in" / folder / "a.parquet", {"value": [float(i), 0.5], "other": [i, i]})
    found = total(tmp_path / "out", tmp_path / "in", "--key", "k")
    assert found.schema.field("k").type == key_type
    assert found["k"].to_pylist() == keys
    assert sum(found["count"].to_pylist()) == 2 * len(folders)


def test_keys_from_a_directory_and_from_files_together(tmp_path: Path) -> None:
    table = sample(300)
    for fold in set(table["fold"].to_pylist()):
        rows = table.filter(pa.compute.equal(table["fold"], fold)).drop_columns("fold")
        write(tmp_path / "in" / f"fold={fold}" / "a.parquet", rows)
    found = total(tmp_path / "out", tmp_path / "in", "--key=model", "--key=fold")
    assert found.to_pylist() == expected(table, ["model", "fold"])


def test_states_of_two_halves_merge_to_those_of_the_whole(tmp_path: Path) -> None:
    table = sample()
    keys = ["model", "fold"]

    def states_of(name: str, rows: pa.Table) -> pa.Table:
        return total(tmp_path / name, write(tmp_path / f"{name}.parquet", rows), "--key=model", "--key=fold", "--state")

    whole = states_of("whole", table)
    halves = [states_of("left", table.slice(0, 1500)), states_of("right", table.slice(1500))]
    assert whole.schema.names == [*keys, *RESULTS, "state"]
    assert whole.schema.field("state").type == StateType()
    merged = sort_by_keys(merge_states([half.select([*keys, "state"]) for half in halves], keys), keys)
    assert merged["state"].combine_chunks() == whole["state"].combine_chunks()
    assert finalize(merged) == whole.drop_columns("state")


# --- bytes ------------------------------------------------------------------------------------------------------------

COMPOUND = ["--key=model", "--key=fold", "--state", "--num_shards=3"]


def test_bytes_depend_on_the_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = sample(2000)
    backwards = table.take(np.arange(table.num_rows)[::-1])
    whole = write(tmp_path / "whole.parquet", table)
    seven = split(tmp_path / "seven", backwards, 7, row_group_size=200)

    def bytes_of(source: Path, *arguments: str) -> dict[str, bytes]:
        total(tmp_path / "out", source, *COMPOUND, "--overwrite", *arguments)
        return contents(tmp_path / "out")

    first = bytes_of(whole)
    assert list(first) == [f"part-0000{i}-of-00003.parquet" for i in range(3)]
    assert bytes_of(whole) == first
    for threads in (1, 2, 7):
        assert bytes_of(seven, f"--threads={threads}") == first
    assert bytes_of(write(tmp_path / "backwards.parquet", backwards)) == first
    assert bytes_of(write(tmp_path / "small.parquet", table, row_group_size=61)) == first
    assert bytes_of(seven, BEAM, "--direct_num_workers=1") == first
    assert bytes_of(seven, BEAM, "--direct_num_workers=2") == first
    assert bytes_of(seven, BEAM, "--direct_running_mode=in_memory") == first
    with monkeypatch.context() as patched:
        patched.setattr(scanning, "TABLE_ROWS", 64)  # a row group that does not fit into one table
        assert bytes_of(whole) == first


@pytest.mark.engine
def test_worker_processes_give_the_same_bytes(tmp_path: Path) -> None:
    source = split(tmp_path / "in", sample(), 4)
    total(tmp_path / "threads", source, *COMPOUND)
    arguments = [*COMPOUND, "--value=value", *IN_PROCESSES]
    process = cli("parquet", "--input", source, "--output", tmp_path / "processes", *arguments, "--quiet")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert contents(tmp_path / "processes") == contents(tmp_path / "threads")


def test_the_graph_is_of_use_to_other_programs(tmp_path: Path) -> None:
    table = sample(500)
    source = write(tmp_path / "a.parquet", table)
    dataset = scanning.scan([str(source)], ["fold"], ["value"])
    (tmp_path / "out").mkdir()
    result = tmp_path / "paths"
    with beam.Pipeline(FnApiRunner(), PipelineOptions()) as pipeline:
        paths = build(pipeline, dataset, str(tmp_path / "out"), keys=["fold"], num_shards=2)
        paths | ToList() | beam.Map(lambda paths: result.write_text("\n".join(sorted(paths))))
    assert result.read_text().splitlines() == [str(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    found = sort_by_keys(pa.concat_tables(parts(tmp_path / "out")), ["fold"])
    assert found.to_pylist() == expected(table, ["fold"])


# --- what is wrong before any work ------------------------------------------------------------------------------------

GOOD = {"k": ["a", "b"], "v": [1.0, 2.0]}
FILES = {"in/a.parquet": GOOD}
BASE = "--input in --key k --value v --output out"
TO = BASE.removesuffix("out")


def parquet_bytes(table: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue()


TWICE = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["v", "v"])

# name: (files, command line, what the message says)
BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "no --input": (FILES, "--value v --output out", ["--input"]),
    "no --value": (FILES, "--input in --output out", ["--value"]),
    "no --output": (FILES, "--input in --value v", ["--output"]),
    "option without its value": (FILES, f"{BASE} --key", ["--key", "expected one argument"]),
    "unknown option": (FILES, f"{BASE} --keys k", ["--keys"]),
    "abbreviated option": (FILES, f"{BASE} --num_shard 2", ["--num_shard"]),
    "word too many": (FILES, f"{BASE} surplus", ["surplus"]),
    "no shards": (FILES, f"{BASE} --num_shards 0", ["--num_shards", "1 or more", "found 0"]),
    "more shards than anybody reads": (FILES, f"{BASE} --num_shards 10001", ["10,000 or fewer", "found 10001"]),
    "more threads than there can be": (FILES, f"{BASE} --threads 10001", ["10,000 or fewer", "found 10001"]),
    "shards not a number": (FILES, f"{BASE} --num_shards two", ["--num_shards", "'two'"]),
    "negative min_count": (FILES, f"{BASE} --min_count=-1", ["--min_count", "0 or more", "found -1"]),
    "workers not a number": (FILES, f"{BASE} {BEAM} --direct_num_workers=two", ["--direct_num_workers", "'two'"]),
    "unknown runner": (FILES, f"{BASE} --runner Nobody", ["--runner Nobody", "FlinkRunner"]),
    "runner of no module": (FILES, f"{BASE} --runner no.such.Runner", ["--runner no.such.Runner"]),
    "DaskRunner": (FILES, f"{BASE} --runner DaskRunner", ["DaskRunner", "wrong results", "FlinkRunner"]),
    "key is the value": (FILES, "--input in --key v --value v --output out", ["--key v", "--value"]),
    "key twice": (FILES, f"{BASE} --key k", ["--key k", "once"]),
    "key like a result": ({"in/a.parquet": GOOD | {"count": [1, 2]}}, f"{BASE} --key count", ["--key count"]),
    "empty glob": (FILES, BASE.replace("in ", "in/*.pq "), ["in/*.pq", "expected", "found none"]),
    "no such file": (FILES, BASE.replace("in ", "in in/b.parquet "), ["in/b.parquet", "expected", "found none"]),
    "directory without Parquet": ({"in/a.csv": b"k,v\n"}, BASE, ["in", "expected", "found none"]),
    "hidden files only": ({"in/.a.parquet": GOOD, "in/_b/c.parquet": GOOD}, BASE, ["in", "expected", "found none"]),
    "unknown file system": (FILES, BASE.replace("in ", "nope://in "), ["nope://in", "expected", "filesystem"]),
    "not Parquet": (FILES | {"in/b.parquet": b"k,v\na,1\n" * 9}, BASE, ["in/b.parquet", "Parquet", "magic bytes"]),
    "empty file": (FILES | {"in/b.parquet": b""}, BASE, ["in/b.parquet", "Parquet", "0 bytes"]),
    "truncated": (FILES | {"in/b.parquet": parquet_bytes(GOOD)[:-20]}, BASE, ["in/b.parquet", "readable Parquet"]),
    "key missing": (FILES | {"in/b.parquet": {"v": [1.0]}}, BASE, ["in/b.parquet", "'k'", "found columns v"]),
    "value missing": ({"in/a.parquet": {"k": [1]}}, BASE, ["in/a.parquet", "'v'", "found columns k"]),
    "value in a directory": ({"in/v=1/a.parquet": {"k": [1]}}, BASE, ["in/v=1/a.parquet", "'v'", "found columns k"]),
    "column twice": ({"in/a.parquet": TWICE}, "--input in --value v --output out", ["in/a.parquet", "'v'", "2 times"]),
    "value string": ({"in/a.parquet": GOOD | {"v": ["1", "2"]}}, BASE, ["in/a.parquet", "'v'", "floats", "string"]),
    "nested key": ({"in/a.parquet": GOOD | {"k": [[1], [2]]}}, BASE, ["in/a.parquet", "'k'", "strings", "list<"]),
    "keys differ": (
        FILES | {"in/b.parquet": {"k": [1], "v": [1.0]}},
        BASE,
        ["in/b.parquet", "'k'", "string as in", "in/a.parquet", "found int64"],
    ),
    "values differ": (
        FILES | {"in/b.parquet": {"k": ["a"], "v": ["1"]}},
        BASE,
        ["in/b.parquet", "'v'", "double as in", "in/a.parquet", "found string"],
    ),
    "in path and file": (
        {"in/k=1/a.parquet": GOOD},
        BASE,
        ["in/k=1/a.parquet", "'k'", "'1' as in the path", "in the file"],
    ),
    "in path or file": (
        {"in/k=1/a.parquet": {"v": [1.0]}, "in/k=2/b.parquet": GOOD},
        BASE,
        ["in/k=2/b.parquet", "'k'", "in the path", "found in the file"],
    ),
    "not in every path": (
        {"in/k=1/a.parquet": {"v": [1.0]}, "in/b.parquet": {"v": [1.0]}},
        BASE,
        ["in/b.parquet", "'k'", "k=...", "found none"],
    ),
    "output has results": (FILES | {"out/part-00000-of-00001.parquet": GOOD}, BASE, ["--output out", "--overwrite"]),
    "output has other files": (FILES | {"out/notes": b"mine"}, f"{BASE} --overwrite", ["--output out", "found notes"]),
    "output has the input": (FILES, TO + "in --overwrite", ["--output in", "found a.parquet"]),
    "output is a file": (FILES | {"out": b"mine"}, f"{BASE} --overwrite", ["--output out", "directory"]),
    "output below a file": (FILES, TO + "in/a.parquet/out", ["--output in/a.parquet/out", "expected"]),
    "output name too long": (FILES, TO + "o" * 255, ["--output", "expected", "too long"]),
    "output on no file system": (FILES, TO + "nope://out", ["--output nope://out", "filesystem"]),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "parquet", tmp_path, capsys, BAD[name])


def test_the_good_command_line_of_these_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place(FILES, tmp_path)
    assert main(BASE.split()) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
@pytest.mark.parametrize(("path", "mode", "fragment"), [("in/a.parquet", 0, "in/a.parquet"), (".", 0o500, "--output")])
def test_places_without_permission(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    mode: int,
    fragment: str,
) -> None:
    place(FILES, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / path).stat().st_mode
    (tmp_path / path).chmod(mode)
    try:
        assert main(BASE.split()) == 2
    finally:
        (tmp_path / path).chmod(before)
    check_fault(capsys.readouterr().err, [fragment, "expected", "Permission denied"])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# --- what goes wrong in mid-run ---------------------------------------------------------------------------------------


def check_damaged_page(folder: Path, status: int, out: str, error: str) -> None:
    assert (status, out) == (1, "")
    check_fault(error, ["in/1.parquet, row group 2, column 'fold'", "expected", "found"])
    assert "[while running" not in error
    assert "--traceback" not in error  # which is offered for a fault that we do not know
    assert [path.name for path in folder.iterdir()] == ["in"]


def test_a_damaged_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = split(tmp_path / "in", sample(2000), 2, row_group_size=200, write_page_checksum=True)
    damage(source / "1.parquet", row_group=2, column=1)
    argv = ["--input", str(source), "--key=model", "--key=fold", "--value=value", "--output", str(tmp_path / "out")]
    status = main(argv)
    captured = capsys.readouterr()
    check_damaged_page(tmp_path, status, captured.out, captured.err)


@pytest.mark.engine
@pytest.mark.parametrize("workers", [[BEAM], IN_PROCESSES], ids=["here", "processes"])
def test_a_damaged_page_on_beam(tmp_path: Path, workers: list[str]) -> None:
    source = split(tmp_path / "in", sample(2000), 2, row_group_size=200, write_page_checksum=True)
    damage(source / "1.parquet", row_group=2, column=1)
    argv = ["--input", str(source), "--key=model", "--key=fold", "--value=value", "--output", str(tmp_path / "out")]
    process = cli("parquet", *argv, *workers, "--quiet")
    check_damaged_page(tmp_path, process.returncode, process.stdout, process.stderr)


@pytest.mark.parametrize("value_type", [pa.int64(), pa.uint64()], ids=str)
def test_an_integer_that_no_float_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value_type: pa.DataType
) -> None:
    values = [2**53, 0, 1, 2**53 + 1, 5, 6]
    source = write(tmp_path / "a.parquet", {"value": pa.array(values, value_type)}, row_group_size=2)
    assert main(["--input", str(source), "--value=value", "--output", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    check_fault(captured.err, ["a.parquet, row group 1, column 'value'", "2^53", "found 9007199254740993"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_file_that_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "a.parquet", {"value": [1.0]})

    def stage(directory: str) -> str:
        source.unlink()
        return output.stage(directory)

    monkeypatch.setattr("pipelines.run.stage", stage)
    assert main(["--input", str(source), "--value=value", "--output", str(tmp_path / "out")]) == 1
    check_fault(capfd.readouterr().err, ["a.parquet, row group 0", "expected", "found FileNotFoundError"])
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_appears_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "a.parquet", {"value": [1.0]})
    theirs = tmp_path / "out" / "part-00000-of-00001.parquet"

    def publish(staging: str, directory: str, *, overwrite: bool) -> None:
        write(theirs, {"theirs": [1]})
        output.publish(staging, directory, overwrite=overwrite)

    monkeypatch.setattr("pipelines.run.publish", publish)
    assert main(["--input", str(source), "--value=value", "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    check_fault(error, ["--output", "(or --overwrite)"])
    assert "--traceback" not in error
    assert pq.read_table(theirs).column_names == ["theirs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "out"]


def test_traceback_shows_all(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", {"value": [2**60]})
    with pytest.raises(Exception, match="row group 0") as raised:
        main(["--input", str(source), "--value=value", "--output", str(tmp_path / "out"), "--traceback"])
    assert "self._check_integers(chosen)" in str(raised.getrepr())
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


# --- earlier results --------------------------------------------------------------------------------------------------


def test_overwrite_replaces_results_whole(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", sample(200))
    total(tmp_path / "out", source, "--key=fold", "--num_shards=4")
    total(tmp_path / "out", source, "--key=model", "--num_shards=2", "--overwrite")
    total(tmp_path / "new", source, "--key=model", "--num_shards=2")
    assert contents(tmp_path / "out") == contents(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "new", "out"]


def test_a_failed_run_leaves_earlier_results(tmp_path: Path) -> None:
    good = write(tmp_path / "a.parquet", {"value": [1.0]})
    bad = write(tmp_path / "b.parquet", {"value": [2**60]})
    total(tmp_path / "out", good)
    before = contents(tmp_path)
    assert main(["--input", str(bad), "--value=value", "--output", str(tmp_path / "out"), "--overwrite"]) == 1
    assert contents(tmp_path) == before


def test_output_into_an_empty_directory_a_new_one_and_through_a_link(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", {"value": [1.0]})
    empty, link = tmp_path / "elsewhere" / "empty", tmp_path / "link"
    empty.mkdir(parents=True)
    link.symlink_to(empty)
    total(link, source)
    assert link.is_symlink()
    assert len(parts(empty)) == 1
    # Beside where it leads, which may be another disk than the link's: a rename must do.
    staging = output.stage(str(link))
    assert Path(staging).parent == empty.parent
    output.discard(staging)
    total(tmp_path / "new" / "below" / "out", source)
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_the_input_may_be_earlier_results(tmp_path: Path) -> None:
    total(tmp_path / "first", write(tmp_path / "a.parquet", sample(200)), "--key=fold", "--key=model")
    argv = ["--input", str(tmp_path / "first"), "--key=fold", "--value=logsumexp", "--output", str(tmp_path / "second")]
    assert main(argv) == 0
    [first], [second] = parts(tmp_path / "first"), parts(tmp_path / "second")
    assert second["fold"].to_pylist() == first["fold"].unique().to_pylist()


@pytest.mark.parametrize("output", ["first", "first/again", "."])
def test_the_output_lies_apart_from_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    source = write(tmp_path / "first" / "part-00000-of-00001.parquet", sample(200))
    argv = ["--input", str(source.parent), "--key=fold", "--value=value", "--output", str(tmp_path / output)]
    assert main([*argv, "--overwrite"]) == 2
    assert f"--output {tmp_path / output}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["first", source.name]


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes seconds to read, for its many row groups: one file by many names."""
    rng = np.random.default_rng(1)
    table = pa.table({"key": rng.integers(0, 50, 20_000), "value": rng.normal(size=20_000)})
    folder = tmp_path_factory.mktemp("long")
    first = write(folder / "0.parquet", table, row_group_size=10)
    for i in range(1, 40):
        os.link(first, folder / f"{i}.parquet")
    return folder


def read_until(terminal: int, pattern: str | None) -> str:
    """What is written to a terminal, until the pattern appears or, by default, its other side is closed."""
    text = ""
    while pattern is None or not re.search(pattern, text):
        try:
            data = os.read(terminal, 4096)
        except OSError:  # how Linux tells the end
            break
        text += data.decode()
    return text


@pytest.mark.engine
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_of_reading(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, long_input: Path, how: signal.Signals
) -> None:
    # Not among the results, and not in the machine's own, where Beam's folder would stay after a kill.
    environment = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("temporary"))}
    arguments = ["--key=key", "--value=value", "--output", str(tmp_path / "out")]
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "pipelines.parquet", "--input", str(long_input), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=slave, stdout=subprocess.PIPE, text=True
    ) as process:
        os.close(slave)
        seen = read_until(master, r" of 800,000 rows \(\d+%\)")
        # Only now: rows are being read, and not all of them are.
        process.send_signal(how)
        seen += read_until(master, None)
        printed, _ = process.communicate(timeout=60)
    os.close(master)
    assert re.search(r" of 800,000 rows \(\d+%\)", seen)
    assert "Traceback" not in seen
    assert printed == ""
    left = [path.name for path in tmp_path.iterdir()]
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert seen.endswith("parquet: interrupted (SIGINT); no output was written\r\n")
        assert left == []
        assert os.listdir(environment["TMPDIR"]) == []
    else:
        assert process.returncode == -signal.SIGKILL
        assert len(left) == 1
        assert left[0].startswith(".out_incomplete-")

    whole = write(tmp_path / "whole" / "a.parquet", pq.read_table(long_input))
    total(tmp_path / "fresh", whole, "--key=key")
    assert main(["--input", str(whole), *arguments]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("call", ["publish", "discard"])
def test_killed_just_before_and_after_the_result_is_in_place(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, call: str
) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("temporary"))}
    source = write(tmp_path / "in" / "a.parquet", sample(100))
    program = (
        "import os, signal, sys; from pipelines import parquet, run; "
        f"run.{call} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL); parquet.main(sys.argv[1:])"
    )
    arguments = ["--input", str(source), "--key=fold", "--value=value", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert process.returncode == -signal.SIGKILL
    total(tmp_path / "fresh", source, "--key=fold")
    if call == "publish":
        assert not (tmp_path / "out").exists()
        assert main(arguments) == 0
    # Input at the place where a killed run left something: it is not read.
    total(tmp_path / "again", tmp_path / "in", "--key=fold")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh") == contents(tmp_path / "again")


# --- file systems that are not local ----------------------------------------------------------------------------------


def test_input_and_output_on_a_store_of_objects(
    tmp_path: Path, store: type[Store], capsys: pytest.CaptureFixture[str]
) -> None:
    table = sample(1000)
    for path in sorted(split(tmp_path / "in", table, 3).iterdir()):
        store.objects[f"testfs://bucket/in/day={path.stem}/a.parquet"] = path.read_bytes()
    store.objects["testfs://bucket/in/_SUCCESS"] = b""
    store.objects["testfs://bucket/in/_incomplete-0/a.parquet"] = b"not whole"
    store.objects["testfs://bucket/out/_incomplete-0/part-00000-of-00002.parquet"] = b"of a killed run"
    inputs = dict(store.objects)

    def argv(source: str) -> list[str]:
        return ["--input", source, "--key=fold", "--value=value", "--num_shards=2", "--output=testfs://bucket/out"]

    total(tmp_path / "local", tmp_path / "in", "--key=fold", "--num_shards=2")
    results = {f"testfs://bucket/out/{name}": data for name, data in contents(tmp_path / "local").items()}
    whole = results | {"testfs://bucket/out/_SUCCESS": b""}

    assert main(argv("testfs://bucket/in")) == 0
    assert "results in testfs://bucket/out" in capsys.readouterr().out
    assert without_provenance(store) == inputs | whole
    assert store.journal[-1] == "create testfs://bucket/out/_SUCCESS"

    before = len(store.journal)
    assert main(argv("testfs://bucket/in")) == 2
    left, error = capsys.readouterr().err.splitlines(keepends=True)
    assert left == "left where it is, as its run may go on elsewhere: testfs://bucket/out/_incomplete-0\n"
    check_fault(error, ["--output testfs://bucket/out", "--overwrite"])
    assert len(store.journal) == before

    # The mark goes first and comes last, so that it never vouches for a mixture.
    for source in ("testfs://bucket/in/", "testfs://bucket/in/day=*/*.parquet", "testfs://bucket/in/*/a.parquet"):
        del store.journal[:]
        assert main([*argv(source), "--overwrite"]) == 0
        assert without_provenance(store) == inputs | whole
        final = [entry for entry in store.journal if not re.match(r"(create|delete) \S+/_incomplete-", entry)]
        assert final[0] == "delete testfs://bucket/out/_SUCCESS"
        assert final[-1] == "create testfs://bucket/out/_SUCCESS"
        assert sum(entry.startswith("rename") for entry in final) == 3


def without_provenance(store: type[Store]) -> dict[str, bytes]:
    """What is there, but for what says where results come from, which names the input."""
    assert f"testfs://bucket/out/{output.PROVENANCE}" in store.objects
    return {name: data for name, data in store.objects.items() if not name.endswith(output.PROVENANCE)}


def test_several_tables_on_a_store_of_objects(tmp_path: Path, store: type[Store]) -> None:
    source = write(tmp_path / "a.parquet", {"k": [1, 1, 2], "o": [1, 1, 1], "v": [0.0, 1.0, 2.0]})
    always = ["--key=k", "--observation=o", "--value=v", "--inner=logsumexp", "--input", str(source)]
    assert loglik.main([*always, "--per_observation", "--output", str(tmp_path / "out"), "--quiet"]) == 0
    local = {f"testfs://bucket/out/{name}": data for name, data in contents(tmp_path / "out").items()}
    assert loglik.main([*always, "--per_observation", "--output", "testfs://bucket/out"]) == 0
    assert without_provenance(store) == local | {"testfs://bucket/out/_SUCCESS": b""}
    assert store.journal[-1] == "create testfs://bucket/out/_SUCCESS"
    # Without a table that was there before.
    assert loglik.main([*always, "--output", "testfs://bucket/out", "--overwrite"]) == 0
    assert sorted(without_provenance(store)) == sorted(
        [*(name for name in local if "observations" not in name), "testfs://bucket/out/_SUCCESS"]
    )


def test_a_store_that_fails_while_results_are_put_in_place(
    store: type[Store], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.objects["testfs://bucket/in/a.parquet"] = parquet_bytes(GOOD)
    argv = ["--input", "testfs://bucket/in", "--key=k", "--value=v", "--output=testfs://bucket/out", "--num_shards=2"]
    assert main(argv) == 0
    whole = dict(store.objects)

    def rename(self: Store, source_file_names: list[str], destination_file_names: list[str]) -> None:
        self.objects[destination_file_names[0]] = self.objects.pop(source_file_names[0])
        raise OSError("the line is down")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "rename", rename)
        capsys.readouterr()
        assert main([*argv, "--overwrite"]) == 1
    check_fault(capsys.readouterr().err, ["the line is down"])
    # What is there is not vouched for, and does not stand in the way of the next run.
    [left] = store.objects.keys() - {"testfs://bucket/in/a.parquet"}
    assert left.startswith("testfs://bucket/out/")
    assert main([*argv, "--overwrite"]) == 0
    assert store.objects == whole


def test_faults_on_a_store_of_objects(
    store: type[Store], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--input", "testfs://bucket/in", "--value=value", "--output", "testfs://bucket/out"]
    assert main(argv) == 2
    check_fault(capsys.readouterr().err, ["testfs://bucket/in: expected a file", "found none"])

    store.objects["testfs://bucket/in/a.parquet"] = b"PAR1"
    assert main(argv) == 2
    check_fault(capsys.readouterr().err, ["testfs://bucket/in/a.parquet", "readable Parquet"])

    store.objects["testfs://bucket/in/a.parquet"] = parquet_bytes({"value": [1, 2**53 + 1]})
    objects = dict(store.objects)
    assert main(argv) == 1
    check_fault(capsys.readouterr().err, ["testfs://bucket/in/a.parquet, row group 0, column 'value'"])
    assert store.objects == objects

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(Store, "_list", forbidden)
    assert main(argv) == 2
    check_fault(capsys.readouterr().err, ["testfs://bucket/in", "can be listed", "not yours"])


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.table({"k": ["a", "a", None, "", "two\nlines"], "value": [1.0, 1.0, None, -np.inf, 3.0]})
    source = write(tmp_path / "a.parquet", table)
    argv = ["--input", str(source), "--key=k", "--value=value", "--output", str(tmp_path / "out")]
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert re.fullmatch(r"5 rows \(1 null\) of 1 file: 4 keys in 1 file, \d+\.\d s", lines[0])
    assert lines[1:] == [
        f"results in {tmp_path / 'out'}",
        "",
        "k             logsumexp  count   max     bonus",
        "''                 -inf      1  -inf      null",
        "a               1.69315      2     1  0.693147",
        "'two\\nlines'          3      1     3         0",
        "null               -inf      0  -inf      null",
    ]
    assert main([*argv, "--overwrite", "--no-skip_nulls", "--num_shards=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"5 rows \(1 key with a null\) of 1 file: 4 keys in 2 files, \d+\.\d s", lines[0])


def test_the_summary_of_many_keys_and_of_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"k": np.arange(1500), "value": np.zeros(1500)})
    argv = ["--input", str(source), "--key=k", "--value=value", "--output"]
    assert main([*argv, str(tmp_path / "out"), "--num_shards=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1,500 rows (0 null) of 1 file: 1,500 keys in 3 files, ")
    assert len(lines) == 3 + 1 + 8 + 1
    assert lines[-1] == "... and 1,492 more"

    write(source, {"k": pa.nulls(0, pa.int64()), "value": pa.nulls(0, pa.float64())})
    assert main([*argv, str(tmp_path / "none")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0 rows (0 null) of 1 file: 0 keys in 1 file, ")
    assert len(lines) == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_of_the_summary_who_goes_away(tmp_path: Path, unbuffered: str) -> None:
    source = write(tmp_path / "a.parquet", {"value": [1.0]})
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["--input", str(source), "--value=value", "--output", str(tmp_path / "out")]
    process = subprocess.run(
        [sys.executable, "-m", "pipelines.parquet", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"")
    assert len(parts(tmp_path / "out")) == 1


def test_a_standard_output_that_is_full(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", {"value": [1.0]})
    arguments = ["--input", str(source), "--value=value", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-m", "pipelines.parquet", *arguments]
    with open("/dev/full", "w", encoding="ascii") as full:
        process = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 1
    check_fault(process.stderr, ["standard output: expected to take the summary", "No space left"])
    assert len(parts(tmp_path / "out")) == 1  # what was asked for is in place


def test_the_summary_of_times_that_python_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(
        tmp_path / "a.parquet",
        {
            "a": pa.array([1], pa.timestamp("ns", "Europe/Berlin")),
            "b": pa.array([1], pa.time64("ns")),
            "c": pa.array([4 * 10**17], pa.timestamp("us")),  # in the year 14645
            "value": [1.0],
        },
    )
    keys = ["--key=a", "--key=b", "--key=c"]
    assert main(["--input", str(source), *keys, "--value=value", "--output", str(tmp_path / "out")]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("1970-01-01 00:00:00.000000001Z  00:00:00.000000001  ")


def test_all_cores_are_used_in_threads() -> None:
    argv = ["--input=a", "--value=v", "--output=out"]

    def direct(*arguments: str) -> DirectOptions:
        beam_options: PipelineOptions = Parser("parquet", "", "").parse([*argv, BEAM, *arguments]).beam
        return beam_options.view_as(DirectOptions)

    assert Parser("parquet", "", "").parse(argv).beam is None
    assert Parser("parquet", "", "").parse(argv).threads == len(os.sched_getaffinity(0))
    assert direct().direct_running_mode == "multi_threading"
    assert direct().direct_num_workers == len(os.sched_getaffinity(0))
    assert direct("--direct_running_mode", "in_memory").direct_running_mode == "in_memory"
    assert direct("--direct_num_workers=7").direct_num_workers == 7


# Stops at the first attempt to reach another machine or to start another program.
OFFLINE = """
import runpy, sys
def refuse(event, arguments):
    away = event == "socket.connect" and arguments[1][0] not in ("127.0.0.1", "::1", "localhost")
    if away or event in ("urllib.Request", "http.client.connect", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        print("refused", event, arguments, file=sys.stderr)
        raise SystemExit(3)
sys.addaudithook(refuse)
runpy.run_module("pipelines.parquet", run_name="__main__", alter_sys=True)
"""


def test_a_normal_run_says_its_result_alone_and_leaves_nothing_else(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", sample(100))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    arguments = ["--input", source, "--key=fold", "--value=value", "--output", tmp_path / "out"]
    process = subprocess.run(
        [sys.executable, "-c", OFFLINE, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("100 rows ")
    assert list(temporary.iterdir()) == []


def test_progress_on_a_terminal(tmp_path: Path, long_input: Path) -> None:
    command = [sys.executable, "-m", "pipelines.parquet", "--input", str(long_input)]
    command += ["--key=key", "--value=value", "--output", str(tmp_path / "out")]
    master, slave = pty.openpty()
    with subprocess.Popen(command, cwd=ROOT, stderr=slave, stdout=subprocess.PIPE, text=True) as process:
        os.close(slave)
        seen = read_until(master, None)
        printed, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0
    assert printed.startswith("800,000 rows ")
    # One line, written over and over, and wiped at the end.
    assert "\n" not in seen
    assert seen.endswith("\r\x1b[K")
    lines = [line for line in re.split("\r|\x1b\\[K", seen) if line]
    line = r"[\d,]+ of 800,000 rows \(\d+%\), [\d,]+ rows/s, \d+ s left"
    assert any(re.fullmatch(line, text) for text in lines)
    rest = r"running, \d+ s|800,000 rows read, (reading|merging|writing), \d+ s"
    assert all(re.fullmatch(f"{line}|{rest}", text) for text in lines)


def test_progress_in_a_log(
    tmp_path: Path, long_input: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.run.IN_LOG", 0.2)
    argv = ["--input", str(long_input), "--key=key", "--value=value", "--output", str(tmp_path / "out")]
    assert main(argv) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(re.fullmatch(r"[\d,]+ of 800,000 rows \(\d+%\), [\d,]+ rows/s, \d+ s left", line) for line in lines)
    assert not any("\r" in line or "\x1b" in line for line in lines)
