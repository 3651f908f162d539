"""Files of one dataset that differ harmlessly, as pandas, Polars, DuckDB and pyarrow write them: the same bytes."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import BEAM, BOTH, Bad, check_bad, check_fault, contents, write

from pipelines import parquet
from pipelines.__main__ import main


def rows(n: int = 300) -> pa.Table:
    rng = np.random.default_rng(3)
    return pa.table(
        {
            "name": [f"näme {i}" for i in rng.integers(0, 9, n)],
            "number": rng.integers(-3, 4, n),
            "at": pa.array(rng.integers(0, 10**15, n) // 10**9 * 10**9, pa.timestamp("us", "UTC")),
            "x": rng.normal(0, 30, n).astype(np.float32).astype(np.float64),
            "list": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=3 * n)), 3),
            "label": rng.integers(0, 3, n),
            "observation": np.arange(n) // 2,
        }
    )


def by_pandas(table: pa.Table, path: Path) -> None:
    frame = table.to_pandas()
    frame["name"] = frame["name"].astype("category")
    frame.to_parquet(path)


def by_polars(table: pa.Table, path: Path) -> None:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame.write_parquet(path)


def by_duckdb(table: pa.Table, path: Path) -> None:
    with duckdb.connect() as connection:
        connection.register("rows", table)
        connection.execute(f"copy rows to '{path}' (format parquet)")


def by_pyarrow(table: pa.Table, path: Path) -> None:
    """With other types, in another order, with one more column."""
    table = table.set_column(0, "name", table["name"].cast(pa.string_view()))
    table = table.set_column(1, "number", table["number"].cast(pa.int32()))
    table = table.set_column(2, "at", table["at"].cast(pa.timestamp("ns", "+00:00")))
    table = table.set_column(3, "x", table["x"].cast(pa.float32()))
    pq.write_table(table.append_column("more", table["x"]).select([*table.column_names[::-1], "more"]), path)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "pandas": by_pandas,
    "polars": by_polars,
    "duckdb": by_duckdb,
}

PROGRAMS = {
    "parquet": ["parquet", "--key=name", "--value=x"],
    "loglik": ["loglik", "--key=name", "--value=x", "--observation=observation", "--inner=logsumexp"],
    "lists": ["loglik", "--key=name", "--value=list", "--observation=observation", "--inner=logmeanexp"],
    "cross_entropy": ["cross_entropy", "--key=name", "--logits=list", "--label=label"],
}


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("name", PROGRAMS)
def test_whoever_writes_the_bytes_are_the_same(tmp_path: Path, name: str, runner: list[str]) -> None:
    program, *arguments = PROGRAMS[name]
    table = rows()

    def run(folder: str) -> dict[str, bytes]:
        output = tmp_path / f"{folder}_out"
        assert (
            main([program, f"--input={tmp_path / folder}", *arguments, f"--output={output}", "--quiet", *runner]) == 0
        )
        return contents(output)

    found = {}
    (tmp_path / "mixed").mkdir()
    for i, (writer, write_to) in enumerate(WRITERS.items()):
        (tmp_path / writer).mkdir()
        write_to(table, tmp_path / writer / "a.parquet")
        write_to(table.slice(100 * i, 100), tmp_path / "mixed" / f"{writer}.parquet")
        found[writer] = run(writer)
    found["mixed"] = run("mixed")
    assert all(files == found["polars"] for files in found.values())


def hive_of_pyarrow(table: pa.Table, folder: Path) -> None:
    pq.write_to_dataset(table, folder, partition_cols=["name"])


def hive_of_pandas(table: pa.Table, folder: Path) -> None:
    table.to_pandas().to_parquet(folder, partition_cols=["name"])


def hive_of_polars(table: pa.Table, folder: Path) -> None:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame.write_parquet(folder, partition_by="name")


def hive_of_duckdb(table: pa.Table, folder: Path) -> None:
    with duckdb.connect() as connection:
        connection.register("rows", table)
        connection.execute(f"copy rows to '{folder}' (format parquet, partition_by (name))")


def tiny_files(table: pa.Table, folder: Path) -> None:
    """As many as rows, and as many without one."""
    for i in range(table.num_rows):
        write(folder / f"{i}.parquet", table.slice(i, 1))
        write(folder / f"{i}.empty.parquet", table.slice(i, 0))


def mixed(table: pa.Table, folder: Path) -> None:
    folder.mkdir()
    third = table.num_rows // 3
    for i, (writer, write_to) in enumerate(WRITERS.items()):
        write_to(table.slice(i * third, third), folder / f"{writer}.parquet")
    write(folder / "none.parquet", table.slice(0, 0))


LAYOUTS = {
    layout.__name__: layout
    for layout in (hive_of_pyarrow, hive_of_pandas, hive_of_polars, hive_of_duckdb, tiny_files, mixed)
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "runner"), [*((name, []) for name in PROGRAMS), ("parquet", [BEAM])])
def test_however_files_are_laid_out_the_bytes_are_the_same(
    tmp_path: Path, name: str, runner: list[str], layout: str
) -> None:
    program, *arguments = PROGRAMS[name]
    table = rows(501)
    found = {}
    LAYOUTS[layout](table, tmp_path / layout)
    write(tmp_path / "whole.parquet", table)
    for source in (layout, "whole.parquet"):
        output = tmp_path / f"of {source}"
        given = [f"--input={tmp_path / source}", *arguments, f"--output={output}", "--num_shards=2", "--quiet"]
        assert main([program, *given, *(runner if source == layout else [])]) == 0
        found[source] = contents(output)
    assert found[layout] == found["whole.parquet"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_however_files_are_laid_out_rows_have_the_same_softmax(tmp_path: Path, layout: str) -> None:
    table = rows(501).select(["name", "number", "x", "observation"])
    LAYOUTS[layout](table, tmp_path / layout)
    write(tmp_path / "whole.parquet", table)
    found = []
    for source in (layout, "whole.parquet"):
        output = tmp_path / f"of {source}"
        arguments = ["--key=name", "--value=x", "--quiet", f"--output={output}"]
        assert main(["softmax", f"--input={tmp_path / source}", *arguments]) == 0
        of_rows = pq.read_table(output).select(["name", "x", "observation", "softmax", "log_softmax"])
        found.append(of_rows.sort_by([("observation", "ascending"), ("x", "ascending")]).to_pylist())
    assert found[0] == found[1]


@pytest.mark.engine  # it is large
def test_one_row_group_of_ten_million_rows(tmp_path: Path) -> None:
    n = 10_000_000
    rng = np.random.default_rng(11)
    table = pa.table({"name": rng.integers(0, 50, n).astype(np.int16), "x": rng.normal(size=n).astype(np.float32)})
    write(tmp_path / "one.parquet", table, row_group_size=n)
    write(tmp_path / "many.parquet", table, row_group_size=100_000)
    for kind in ("logsumexp", "exact_sum"):
        for source in ("one", "many"):
            output = tmp_path / kind / source
            arguments = ["--key=name", "--value=x", f"--kind={kind}", "--state", "--quiet", f"--output={output}"]
            assert main(["parquet", f"--input={tmp_path / source}.parquet", *arguments]) == 0
        assert contents(tmp_path / kind / "one") == contents(tmp_path / kind / "many")


@pytest.mark.parametrize("runner", BOTH)
def test_types_are_unified(tmp_path: Path, runner: list[str]) -> None:
    table = rows()
    by_pyarrow(table.slice(0, 150), tmp_path / "in.b.parquet")
    for i, (writer, write_to) in enumerate(WRITERS.items()):
        write_to(table.slice(150 + 50 * i, 50), tmp_path / f"in.{writer}.parquet")
    write(tmp_path / "in.null.parquet", {name: pa.nulls(3) for name in table.column_names})
    options = ["--key=name", "--key=number", "--key=at", "--value=x", "--quiet", *runner]
    assert parquet.main([f"--input={tmp_path / 'in.*.parquet'}", *options, f"--output={tmp_path / 'mixed'}"]) == 0
    at = table["at"].cast(pa.timestamp("ns", "UTC"))
    nulls = pa.table(
        {name: pa.nulls(3, field.type) for name, field in zip(table.column_names, table.schema, strict=True)}
    )
    whole = pa.concat_tables([table, nulls]).set_column(2, "at", pa.chunked_array([*at.chunks, pa.nulls(3, at.type)]))
    one = write(tmp_path / "whole.parquet", whole)
    assert parquet.main([f"--input={one}", *options, f"--output={tmp_path / 'one'}"]) == 0
    assert contents(tmp_path / "mixed") == contents(tmp_path / "one")
    schema = pq.read_schema(tmp_path / "mixed" / "part-00000-of-00001.parquet")
    assert schema.types[:3] == [pa.string(), pa.int64(), pa.timestamp("ns", "UTC")]


def test_softmax_of_mixed_files(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", {"k": ["a", "b"], "x": pa.array([1, 2], pa.int8()), "n": [1, 2]})
    second = {"n": pa.array([3], pa.int32()), "x": [0.5], "k": pa.array(["a"], pa.large_string())}
    write(tmp_path / "in" / "b.parquet", second)
    arguments = ["softmax", f"--input={tmp_path / 'in'}", "--key=k", "--value=x", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--quiet"]) == 0
    found = pq.read_table(tmp_path / "out")
    assert found.select(["k", "x", "n"]).to_pydict() == {"k": ["a", "b", "a"], "x": [1.0, 2.0, 0.5], "n": [1, 2, 3]}
    assert found["softmax"].to_pylist() == [
        pytest.approx(1 / (1 + np.exp(-0.5))),
        1.0,
        pytest.approx(1 / (1 + np.exp(0.5))),
    ]


def test_the_hive_layout_of_polars(tmp_path: Path) -> None:
    """Which has the columns of the directories in the files, too."""
    frame = pl.DataFrame({"day": [1, 1, 2], "name": ["a/b", "c", "c"], "x": [1.0, 2.0, 3.0]})
    frame.write_parquet(tmp_path / "in", partition_by=["day", "name"])
    for path in (tmp_path / "in").rglob("*.parquet"):  # whether it has, in this version
        table = pq.ParquetFile(path).read()
        if "day" not in table.column_names:
            day = int(path.parent.parent.name.removeprefix("day="))
            write(path, table.append_column("day", pa.array([day] * table.num_rows)))
    write(tmp_path / "one.parquet", frame.to_arrow())
    options = ["--key=day", "--key=name", "--value=x", "--quiet"]
    assert parquet.main([f"--input={tmp_path / 'in'}", *options, f"--output={tmp_path / 'hive'}"]) == 0
    assert parquet.main([f"--input={tmp_path / 'one.parquet'}", *options, f"--output={tmp_path / 'one'}"]) == 0
    assert contents(tmp_path / "hive") == contents(tmp_path / "one")


def test_suffixes_and_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, suffix in enumerate(("parquet", "PARQUET", "parq", "pq", "csv")):
        write(tmp_path / "in" / f"{i}.{suffix}", {"x": [float(i)]})
    (tmp_path / "in" / "again.parquet").symlink_to("0.parquet")
    (tmp_path / "link").symlink_to("in")
    arguments = ["--input", str(tmp_path / "in"), str(tmp_path / "link"), "--value=x", f"--output={tmp_path / 'out'}"]
    assert parquet.main(arguments) == 0
    assert capsys.readouterr().out.startswith("4 rows (0 null) of 4 files: ")


FILES: dict[str, Any] = {
    "in/a.parquet": {"k": ["a"], "x": [1.0], "n": [1]},
    "in/b.parquet": {"k": [2], "x": [1.0], "n": pa.array([2**60], pa.int64())},
    "in/c.parquet": {"k": ["c"], "x": [1.0], "n": [0.5]},
    "hive/day=1/a.parquet": {"day": [1, 2], "x": [1.0, 2.0]},
    "hive/day=x/b.parquet": {"day": [1], "x": [1.0]},
}
BASE = "--value x --output out"
BAD: dict[str, tuple[Bad, int]] = {
    "text and integers": (
        (
            FILES,
            f"--input in/a.parquet in/b.parquet in/c.parquet --key k {BASE}",
            ["in/b.parquet", "'k'", "as in", "in/a.parquet"],
        ),
        2,
    ),
    "an integer beyond float64": (
        (
            FILES,
            f"--input in/b.parquet in/c.parquet --key n {BASE}",
            ["in/b.parquet, row group 0, column 'n': expected", "double"],
        ),
        1,
    ),
    "a directory that says other than the file": (
        (
            FILES,
            f"--input hive/day=1 --key day {BASE}",
            ["hive/day=1/a.parquet", "'day': expected '1'", "found 2 in the file"],
        ),
        2,
    ),
    "a directory of another type": (
        (
            FILES,
            f"--input hive/day=x --key day {BASE}",
            ["hive/day=x/b.parquet", "'day': expected 'x'", "found 1 in the file"],
        ),
        2,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    bad, status = BAD[name]
    check_bad(parquet.main, "parquet", tmp_path, capsys, bad, status)


def test_nested_columns_booleans_and_decimals(tmp_path: Path) -> None:
    nested = pa.array(
        [{"k": "a", "deep": {"x": True}}, {"k": "b", "deep": {"x": False}}, {"k": "a", "deep": None}, None],
        pa.struct({"k": pa.string(), "deep": pa.struct({"x": pa.bool_()})}),
    )
    price = pa.array([Decimal("0.1"), Decimal("12345678901234567.89"), None, Decimal("1")], pa.decimal128(20, 2))
    source = write(tmp_path / "a.parquet", {"nest": nested, "price": price, "odd name, 'x'": [1, 1, 2, 2]})
    common = [f"--input={source}", "--quiet", "--overwrite", f"--output={tmp_path / 'out'}"]

    def found(*options: str) -> list[dict[str, Any]]:
        assert parquet.main([*common, *options]) == 0
        rows: list[dict[str, Any]] = pq.read_table(tmp_path / "out").to_pylist()
        return rows

    booleans = found("--key=nest.k", "--value=nest.deep.x", "--result=max")
    assert booleans == [
        {"nest.k": "a", "max": 1.0, "count": 1},
        {"nest.k": "b", "max": 0.0, "count": 1},
        {"nest.k": None, "max": -np.inf, "count": 0},
    ]
    decimals = found("--key=odd name, 'x'", "--value=price", "--result=max")
    assert [row["max"] for row in decimals] == [12345678901234567.89, 1.0]
    [row] = found("--value=price", "--where=nest.k = 'a' and price < 0.11", "--result=max")
    assert row == {"max": 0.1, "count": 1}
    [row] = found("--value=price", "--where=\"odd name, 'x'\" = 2", "--result=count")
    assert row == {"count": 1}


def test_a_field_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"nest": [{"k": 1}], "x": [1.0]})
    assert parquet.main([f"--input={source}", "--key=nest.j", "--value=x", f"--output={tmp_path / 'out'}"]) == 2
    check_fault(
        capsys.readouterr().err, ["a.parquet: column 'nest.j': expected once in the file, found columns nest, x"]
    )
