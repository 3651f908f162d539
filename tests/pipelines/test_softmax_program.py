"""``python -m pipelines.softmax`` end to end: values, order, columns that stay, broadcast and join, bytes, faults."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from programs import BEAM, IN_PROCESSES, check_bad, check_fault, cli, contents, parts, split, write

from lse_stream import list_functions, plan
from lse_stream.parquet import scan as scanning
from lse_stream.parquet.source import RowGroupReader
from pipelines.softmax import main


def sample(n: int = 2000) -> pa.Table:
    rng = np.random.default_rng(1)
    value = rng.normal(0, 10, n)
    value[rng.random(n) < 0.02] = -np.inf
    return pa.table(
        {
            "row": np.arange(n),
            "k": pa.array([f"k{i}" if i else None for i in rng.integers(0, 300, n)]).dictionary_encode(),
            "value": pa.array(value, mask=rng.random(n) < 0.05),
            "tags": pa.array([[f"t{i}"] * (i % 3) for i in range(n)]),
            "when": pa.array(np.arange(n), pa.timestamp("ns", "UTC")),
            "nested": pa.array([{"a": i, "b": str(i)} for i in range(n)]),
        }
    )


def run(folder: Path, source: object, *arguments: str) -> pa.Table:
    argv = ["--input", str(source), "--output", str(folder), "--value=value", "--quiet", *arguments]
    assert main(argv) == 0
    return pa.concat_tables(parts(folder))


def test_values_order_and_columns(tmp_path: Path) -> None:
    table = sample()
    source = split(tmp_path / "in", table, 3, row_group_size=200)
    found = run(tmp_path / "out", source, "--key=k")
    originals = pa.concat_tables([pq.read_table(path, partitioning=None) for path in sorted(source.iterdir())])
    assert found.schema.names == [*table.schema.names, "log_softmax", "softmax"]
    assert found.drop_columns(["log_softmax", "softmax"]) == originals.cast(
        found.drop_columns(["log_softmax", "softmax"]).schema
    )
    groups: dict[Any, list[float]] = defaultdict(list)
    for row in table.select(["k", "value"]).to_pylist():
        if row["value"] is not None:
            groups[row["k"]].append(row["value"])
    with mpmath.workprec(200):
        totals = {key: mpmath.log(mpmath.fsum(map(mpmath.exp, values))) for key, values in groups.items()}
        for row in found.select(["k", "value", "log_softmax", "softmax"]).to_pylist():
            if row["value"] is None:
                assert row["log_softmax"] is row["softmax"] is None
                continue
            true = row["value"] - totals[row["k"]]
            if row["value"] == -math.inf:
                assert (row["log_softmax"], row["softmax"]) == (-math.inf, 0.0)
                continue
            assert abs(row["log_softmax"] - true) <= 0.52 * np.spacing(max(abs(row["log_softmax"]), 2**-5))
            assert abs(row["softmax"] - mpmath.exp(true)) <= 0.52 * np.spacing(row["softmax"])


def test_states_broadcast_or_joined_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = split(tmp_path / "in", sample(), 3, row_group_size=200)
    monkeypatch.setattr(plan, "PART_ROWS", 400)
    always = ["--key=k", "--overwrite"]
    run(tmp_path / "out", source, *always)
    first = contents(tmp_path / "out")
    assert list(first) == [f"part-0000{i}-of-00006.parquet" for i in range(6)]
    for workers in (
        [BEAM],
        [BEAM, "--max_broadcast=1"],
        [BEAM, "--max_broadcast=299"],
        ["--memory=1MB"],
        ["--threads=7"],
    ):
        run(tmp_path / "out", source, *always, *workers)
        assert contents(tmp_path / "out") == first


@pytest.mark.engine
def test_bytes_do_not_depend_on_workers_or_the_order_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = split(tmp_path / "in", sample(600), 3, row_group_size=100)
    run(tmp_path / "out", source, "--key=k")
    first = contents(tmp_path / "out")
    paths = sorted(map(str, source.iterdir()), reverse=True)
    always = ["--output", str(tmp_path / "out"), "--value=value", "--key=k", "--overwrite", "--quiet"]
    assert main(["--input", *paths, *always, BEAM, "--direct_running_mode=in_memory"]) == 0
    assert contents(tmp_path / "out") == first
    process = cli("softmax", "--input", source, *always, *IN_PROCESSES, "--max_broadcast=1")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert contents(tmp_path / "out") == first
    monkeypatch.setattr(scanning, "TABLE_ROWS", 64)  # tables are cut otherwise, and so are row groups of the output
    found = run(tmp_path / "small", source, "--key=k")
    whole = pa.concat_tables(parts(tmp_path / "out"))
    assert found.to_pylist() == whole.to_pylist()


def test_wide_rows_are_read_in_tables_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=1000 * 200)), 200)
    source = write(tmp_path / "a.parquet", {"value": rng.normal(size=1000), "wide": wide})
    monkeypatch.setattr(scanning, "TABLE_BYTES", 100 * 1600)
    dataset = scanning.scan([str(source)], [], ["value"], all_columns=True)
    assert 80 <= dataset.reading.table_rows <= 110
    assert dataset.select(["value"]).reading.table_rows == dataset.reading.table_rows
    reader = RowGroupReader(dataset.reading)
    tables = [table.num_rows for group in dataset.row_groups for table in reader.tables([group])]
    assert max(tables) == dataset.reading.table_rows
    reader.close()
    assert run(tmp_path / "out", source)["wide"].to_pylist() == wide.to_pylist()


def test_without_keys_all_rows_are_one_group(tmp_path: Path) -> None:
    source = split(tmp_path / "in", pa.table({"value": [1.0, 2.0, 3.0, 4.0]}), 2)
    found = run(tmp_path / "out", source, BEAM, "--max_broadcast=1")
    assert sum(found["softmax"].to_pylist()) == pytest.approx(1.0, rel=1e-15)
    assert found["value"].to_pylist() == [1.0, 3.0, 2.0, 4.0]


def test_columns_of_directories_become_columns(tmp_path: Path) -> None:
    for day in (1, 2):
        write(tmp_path / "in" / f"day={day}" / "a.parquet", {"k": [1, 2], "value": [0.0, float(day)]})
    found = run(tmp_path / "by_k", tmp_path / "in", "--key=k")
    assert found.schema.names == ["k", "value", "day", "log_softmax", "softmax"]
    assert found["day"].to_pylist() == [1, 1, 2, 2]
    assert found["softmax"].to_pylist()[0] == 0.5
    found = run(tmp_path / "by_day", tmp_path / "in", "--key=day")
    assert found["softmax"].to_pylist()[:2] == [1 / (1 + math.e), pytest.approx(math.e / (1 + math.e), rel=1e-15)]


def test_columns_that_must_not_be_null_in_some_files(tmp_path: Path) -> None:
    table = pa.table({"k": [1, 1], "value": [0.0, 0.0]})
    required = pa.schema([field.with_nullable(False) for field in table.schema], metadata={"made": "elsewhere"})
    for name, schema in (("a", required), ("b", table.schema), ("c", required)):
        write(tmp_path / "in" / f"{name}.parquet", table.cast(schema))
    for limit in (1, 2):
        found = run(tmp_path / f"out{limit}", tmp_path / "in", "--key=k", f"--max_broadcast={limit}")
        assert found["softmax"].to_pylist() == [pytest.approx(1 / 6, rel=1e-15)] * 6


def test_files_without_rows(tmp_path: Path) -> None:
    table = sample(50)
    for name, rows in (("a", table.slice(0, 0)), ("b", table), ("c", table.slice(0, 0))):
        write(tmp_path / "in" / f"{name}.parquet", rows)
    for limit in ("1", "1000"):
        run(tmp_path / f"out{limit}", tmp_path / "in", "--key=k", f"--max_broadcast={limit}")
        assert [part.num_rows for part in parts(tmp_path / f"out{limit}")] == [0, 50, 0]
    assert contents(tmp_path / "out1") == contents(tmp_path / "out1000")
    (tmp_path / "in" / "b.parquet").unlink()
    assert run(tmp_path / "nothing", tmp_path / "in", "--key=k").num_rows == 0


def test_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = split(tmp_path / "in", sample(), 3)
    assert main(["--input", str(source), "--key=k", "--value=value", "--output", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2,000 rows of 3 files to 3 files, ")
    assert lines[3].split() == ["row", "k", "value", "tags", "when", "nested", "log_softmax", "softmax"]
    assert lines[-1] == "... and 1,992 more"


FILES = {"in/a.parquet": {"k": ["a", "b"], "v": [1.0, 2.0]}}
BASE = "--input in --key k --value v --output out"
BAD: dict[str, Any] = {
    "a limit below 1": (FILES, f"{BASE} --max_broadcast=0", ["--max_broadcast", "found 0"]),
    "no such value": (FILES, BASE.replace("value v", "value x"), ["in/a.parquet", "column 'x'", "columns k, v"]),
    "the column is there": (
        {"in/a.parquet": FILES["in/a.parquet"] | {"softmax": [1, 2]}},
        BASE,
        ["in/a.parquet", "found column 'softmax'"],
    ),
    "more columns in one file": (
        FILES | {"in/b.parquet": FILES["in/a.parquet"] | {"more": [1, 2]}},
        BASE,
        ["in/b.parquet", "expected the columns of", "found more: more"],
    ),
    "fewer columns in one file": (FILES | {"in/b.parquet": {"v": [1.0]}}, BASE, ["in/b.parquet", "column 'k'"]),
    "the key has the name of a result": (FILES, f"{BASE} --key softmax", ["--key softmax", "log_softmax"]),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "softmax", tmp_path, capsys, BAD[name])


def test_faults_found_in_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = ({"in/a.parquet": {"k": [1], "v": [2**60]}}, BASE, ["in/a.parquet, row group 0, column 'v'", "2^53"])
    check_bad(main, "softmax", tmp_path, capsys, bad, status=1)


@pytest.mark.parametrize("runner", [[], [BEAM]], ids=["here", "on Beam"])
@pytest.mark.parametrize("lists", ["list", "large", "fixed"])
def test_each_list_is_a_group_of_its_own(tmp_path: Path, lists: str, runner: list[str]) -> None:
    rows: list[Any] = [[0.5, 1.0, None], [], [7.0], None] * 30
    data_type = {
        "list": pa.list_(pa.float64()),
        "large": pa.large_list(pa.float32()),
        "fixed": pa.list_(pa.float64(), 2),
    }[lists]
    if lists == "fixed":  # of which Parquet and Arrow have no nulls in common
        rows = [[0.0, 1.0], [5.0, 5.0], [2.0, -1e300]] * 40
    table = pa.table({"id": np.arange(len(rows)), "logits": pa.array(rows, data_type)})
    source = write(tmp_path / "a.parquet", table, row_group_size=7)
    arguments = [f"--input={source}", "--value=logits", f"--output={tmp_path / 'out'}", "--quiet"]
    assert main([*arguments, "--where=id != 3", *runner]) == 0
    found = pq.read_table(tmp_path / "out")
    kept = table.filter(pc.not_equal(table["id"], 3))
    for name, function in (("log_softmax", list_functions.log_softmax), ("softmax", list_functions.softmax)):
        assert found[name].to_pylist() == function(kept["logits"]).to_pylist()
    assert found.select(["id", "logits"]).to_pydict() == kept.to_pydict()


def test_lists_have_no_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"k": [1], "x": [[1.0]]})
    assert main([f"--input={source}", "--key=k", "--value=x", f"--output={tmp_path / 'out'}"]) == 2
    check_fault(capsys.readouterr().err, ["--key: expected none where --value x is lists, found k"], "softmax")
