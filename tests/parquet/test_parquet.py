"""Which files are meant, what their footers must say, the tables that are read, and the files that are written."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from lse_stream.beam.parquet_io import ROWS_READ, ReadTables, WriteShards, rows_read
from lse_stream.errors import DataError, InputError
from lse_stream.files import open_file
from lse_stream.parquet import scan as scanning
from lse_stream.parquet import sink
from lse_stream.parquet.scan import Dataset, find_files, scan
from lse_stream.parquet.sink import write_shard
from lse_stream.parquet.source import RowGroupReader
from lse_stream.state_column import StateType
from lse_stream.table_functions import group_states, sort_by_keys


def write(path: Path, columns: dict[str, Any], **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def read(dataset: Dataset, check: Callable[[list[pa.Table]], None]) -> beam.runners.runner.PipelineResult:
    """Runs ``ReadTables`` and hands all tables to ``check``."""
    pipeline = beam.Pipeline(FnApiRunner())
    assert_that(pipeline | ReadTables(dataset), check)
    result = pipeline.run()
    result.wait_until_finish()
    return result


def rows(tables: Sequence[pa.Table]) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for table in tables for row in table.to_pylist())


# --- which files ------------------------------------------------------------------------------------------------------

TREE = [
    "a.parquet",
    "b.parquet",
    "c.csv",
    ".hidden.parquet",
    "_part.parquet",
    "day=1/x.parquet",
    "day=1/_SUCCESS",
    "day=2/deep/y.parquet",
    "_day=3/z.parquet",
    "_incomplete-1/x.parquet",
    ".staging/x.parquet",
    "odd[1].parquet",
]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["a.parquet"], ["a.parquet"]),
        (["c.csv"], ["c.csv"]),  # given in full, it is meant
        ([".hidden.parquet"], [".hidden.parquet"]),
        (["_incomplete-1"], ["_incomplete-1/x.parquet"]),
        (["day=1"], ["day=1/x.parquet"]),
        (["day=2/"], ["day=2/deep/y.parquet"]),
        (["*.parquet"], ["a.parquet", "b.parquet", "odd[1].parquet"]),
        (["*.csv"], ["c.csv"]),
        (["day=*"], ["day=1/x.parquet", "day=2/deep/y.parquet"]),
        (["day=*/*"], ["day=1/x.parquet", "day=2/deep/y.parquet"]),
        (["?.parquet", "[ab].parquet"], ["a.parquet", "b.parquet"]),
        (["**/y.parquet"], ["day=2/deep/y.parquet"]),
        (["odd[1].parquet"], ["odd[1].parquet"]),
        (
            ["odd[1].parquet", "a.parquet", "./a.parquet", "."],
            ["_day=3/z.parquet", "a.parquet", "b.parquet", "day=1/x.parquet", "day=2/deep/y.parquet", "odd[1].parquet"],
        ),
    ],
    ids=" ".join,
)
def test_find_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patterns: list[str], found: list[str]) -> None:
    for name in TREE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    expected = sorted(str(tmp_path / name) for name in found)
    assert find_files(patterns) == expected
    assert find_files([str(tmp_path / pattern) for pattern in patterns]) == expected


def test_a_hidden_directory_above_the_given_one_does_not_hide(tmp_path: Path) -> None:
    path = write(tmp_path / ".cache" / "_x" / "in" / "a.parquet", {"v": [1.0]})
    for pattern in (tmp_path / ".cache" / "_x", tmp_path / ".cache" / "_x" / "*" / "*.parquet"):
        assert find_files([str(pattern)]) == [path]


@pytest.mark.parametrize("pattern", ["none.parquet", "none/", "*.none", "empty", ""])
def test_nothing_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.parquet", {"v": [1.0]})
    with pytest.raises(InputError, match="expected a file, a directory or a glob of Parquet files, found none"):
        find_files([path, pattern])


# --- footers ----------------------------------------------------------------------------------------------------------


def test_scan_counts_and_types(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "k=1" / "a.parquet", {"v": [1.0, 2.0, 3.0], "other": [1, 2, 3]}, row_group_size=2),
        write(tmp_path / "k=2" / "b.parquet", {"v": pa.nulls(0, pa.float64())}),
        write(tmp_path / "k=2" / "c.parquet", {"other": ["x"], "v": [4.0]}),
    ]
    dataset = scan([str(tmp_path)], ["k"], ["v"])
    assert (dataset.num_files, dataset.num_rows, dataset.values) == (3, 4, ("v",))
    assert dataset.reading.file_schema.names == ["v"]
    assert dataset.reading.partition == (pa.field("k", pa.int64()),)
    groups = [(group.path, group.index, group.partition) for group in dataset.row_groups]
    assert groups == [(paths[0], 0, (1,)), (paths[0], 1, (1,)), (paths[1], None, (2,)), (paths[2], 0, (2,))]


def test_a_directory_above_counts_only_if_it_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "run=7" / "in" / "a.parquet", {"k": [1], "v": [1.0]})
    assert scan([path], ["k"], ["v"]).reading.partition == ()
    assert scan([path], ["run"], ["v"]).row_groups[0].partition == (7,)


@pytest.mark.parametrize(
    "value_type", [pa.int8(), pa.uint64(), pa.float16(), pa.bool_(), pa.decimal128(5, 2), pa.null()], ids=str
)
def test_values_of_every_type_are_taken(tmp_path: Path, value_type: pa.DataType) -> None:
    path = write(tmp_path / "a.parquet", {"v": pa.nulls(1, value_type)})
    assert scan([path], [], ["v"]).num_rows == 1


@pytest.mark.parametrize(
    "value_type",
    [pa.string(), pa.date32(), pa.timestamp("us"), pa.list_(pa.float64())],
    ids=str,
)
def test_values_of_no_other_type_are(tmp_path: Path, value_type: pa.DataType) -> None:
    path = write(tmp_path / "a.parquet", {"v": pa.nulls(1, value_type)})
    with pytest.raises(InputError, match=r"a\.parquet: value column 'v': expected integers, .* found ") as raised:
        scan([path], [], ["v"])
    assert str(value_type).split("<")[0] in str(raised.value)


def test_the_first_fault_in_the_order_of_paths_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"k": [1], "v": [1.0]})
    write(tmp_path / "b.parquet", {"k": ["x"], "v": [1.0]})
    write(tmp_path / "c.parquet", {"k": ["x"]})
    for _ in range(5):
        with pytest.raises(
            InputError, match=r"b\.parquet: column 'k': expected int64 as in .*a\.parquet, found string"
        ):
            scan([str(tmp_path)], ["k"], ["v"])


# --- reading ----------------------------------------------------------------------------------------------------------


def test_tables_hold_all_rows_in_the_columns_asked_for(tmp_path: Path) -> None:
    for day in (1, 2):
        columns = {
            "other": ["x"] * 5,
            "v": [float(day * 10 + i) for i in range(5)],
            "k": [f"{day}{i}" for i in range(5)],
        }
        write(tmp_path / f"day={day}" / "a.parquet", columns, row_group_size=2)
    dataset = scan([str(tmp_path)], ["k", "day"], ["v"])

    def check(tables: list[pa.Table]) -> None:
        assert {table.num_rows for table in tables} == {1, 2}  # of 5 in row groups of 2
        assert {name for table in tables for name in table.column_names} == {"k", "day", "v"}
        found = rows([table.select(["k", "day", "v"]) for table in tables])
        assert found == [(f"{day}{i}", day, float(day * 10 + i)) for day in (1, 2) for i in range(5)]

    before = rows_read.read()
    result = read(dataset, check)
    assert rows_read.read() - before == 10
    [counter] = result.metrics().query(MetricsFilter().with_name(ROWS_READ))["counters"]
    assert counter.committed == 10


def test_a_row_group_larger_than_a_table_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "TABLE_ROWS", 64)
    path = write(tmp_path / "a.parquet", {"v": np.arange(1000.0)})
    assert pq.read_metadata(path).num_row_groups == 1

    def check(tables: list[pa.Table]) -> None:
        assert len(tables) == 16
        assert max(table.num_rows for table in tables) == 64
        assert rows(tables) == [(float(i),) for i in range(1000)]

    read(scan([path], [], ["v"]), check)


def test_a_file_without_rows_gives_a_table_without_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "k=x" / "a.parquet", {"v": pa.nulls(0, pa.float32())})

    def check(tables: list[pa.Table]) -> None:
        [table] = tables
        assert table.num_rows == 0
        assert {field.name: field.type for field in table.schema} == {"k": pa.string(), "v": pa.float32()}

    read(scan([path], ["k"], ["v"]), check)


def test_a_dictionary_column_is_read_as_one(tmp_path: Path) -> None:
    keys = pa.array(["x", "y", None, "x"]).dictionary_encode()
    path = write(tmp_path / "a.parquet", {"k": keys, "v": [1.0, 2.0, 3.0, 4.0]})

    def check(tables: list[pa.Table]) -> None:
        [table] = tables
        assert pa.types.is_dictionary(table.schema.field("k").type)
        assert table["k"].to_pylist() == ["x", "y", None, "x"]

    read(scan([path], ["k"], ["v"]), check)


def damaged(tmp_path: Path, row_group: int, column: int) -> str:
    """A file in whose column chunk some bytes differ from those written."""
    columns = {"k": [f"key {i}" for i in range(400)], "v": np.random.default_rng(0).normal(size=400)}
    path = write(tmp_path / "a.parquet", columns, row_group_size=100, write_page_checksum=True, use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(row_group).column(column)
    data = bytearray(Path(path).read_bytes())
    # Well into the values, so that only the checksum tells.
    data[chunk.data_page_offset + chunk.total_compressed_size - 20] ^= 0xFF
    Path(path).write_bytes(data)
    return path


@pytest.mark.parametrize(("row_group", "column", "name"), [(0, 0, "k"), (3, 1, "v"), (2, 0, "k")])
def test_a_damaged_page_is_told_by_place(tmp_path: Path, row_group: int, column: int, name: str) -> None:
    dataset = scan([damaged(tmp_path, row_group, column)], ["k"], ["v"])
    reader = RowGroupReader(dataset.reading)
    group = dataset.row_groups[row_group]
    with pytest.raises(DataError, match=rf"a\.parquet, row group {row_group}, column '{name}': expected .*CRC"):
        list(reader.tables([group]))
    others = [other for other in dataset.row_groups if other is not group]
    assert sum(table.num_rows for other in others for table in reader.tables([other])) == 300
    reader.close()


def test_a_damaged_page_of_a_column_that_is_not_needed_does_not_matter(tmp_path: Path) -> None:
    dataset = scan([damaged(tmp_path, 1, 0)], [], ["v"])
    read(dataset, lambda tables: None if sum(table.num_rows for table in tables) == 400 else pytest.fail("rows lost"))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (pa.array([0, 2**53, -(2**53), -(2**53) - 1]), "found -9007199254740993"),
        (pa.array([None, 2**53 + 1, 2**60]), "found 9007199254740993"),
        (pa.array([2**64 - 1], pa.uint64()), "found 18446744073709551615"),
        (pa.array([1, 2**53 + 1]).dictionary_encode(), "found 9007199254740993"),
    ],
    ids=["negative", "after a null", "uint64", "dictionary"],
)
def test_an_integer_that_no_float_holds_is_told_by_place(tmp_path: Path, values: pa.Array, found: str) -> None:
    path = write(tmp_path / "a.parquet", {"v": values})
    dataset = scan([path], [], ["v"])
    [group] = dataset.row_groups
    reader = RowGroupReader(dataset.reading)
    with pytest.raises(
        DataError, match=r"a\.parquet, row group 0, column 'v': expected integers within \+-2\^53"
    ) as raised:
        list(reader.tables([group]))
    assert str(raised.value).endswith(found)
    reader.close()


def test_open_file_reads_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with open_file(str(tmp_path / "a")) as file:
        file.seek(4)
        assert (file.read(2), file.size()) == (b"45", 10)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_shards(folder: Path, shards: list[tuple[int, pa.Table]]) -> None:
    folder.mkdir()
    with beam.Pipeline(FnApiRunner()) as pipeline:
        paths = pipeline | beam.Create(shards) | WriteShards(str(folder), len(shards))
        expected = sorted(str(folder / f"part-{i:05}-of-{len(shards):05}.parquet") for i, _ in shards)

        def check(paths: list[str]) -> None:
            assert sorted(paths) == expected

        assert_that(paths, check)
    assert sorted(map(str, folder.iterdir())) == expected


def test_shards_are_written(tmp_path: Path) -> None:
    table = pa.table({"k": ["b", "a", "b"], "v": [1.0, None, 1.0]})
    states = sort_by_keys(group_states(table, ["k"], "v"), ["k"])
    write_shards(tmp_path / "out", [(1, states), (0, states.slice(0, 0))])
    empty, full = (pq.read_table(path) for path in sorted((tmp_path / "out").iterdir()))
    assert empty.schema == full.schema
    assert empty.num_rows == 0
    assert full.schema.field("state").type == StateType()
    assert full.combine_chunks() == states.combine_chunks()


def test_equal_rows_give_equal_files_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = sort_by_keys(group_states(pa.table({"k": np.arange(100), "v": np.arange(100.0)}), ["k"], "v"), ["k"])
    monkeypatch.setattr(sink, "OUTPUT_ROW_GROUP", 40)
    splits = {"one": [100], "two": [31, 69], "many": [1, 0, 39, 41, 19], "groups": [40, 40, 20]}
    for name, sizes in splits.items():
        (tmp_path / name).mkdir()
        tables = [states.slice(sum(sizes[:i]), size) for i, size in enumerate(sizes)]
        # A bundle that is tried again writes over what it wrote.
        for _ in range(2):
            path = write_shard(str(tmp_path / name), 1, 0, tables, states.schema)
        file = pq.ParquetFile(path)
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [40, 40, 20]
        assert file.read().combine_chunks() == states.combine_chunks()
    assert len({next((tmp_path / name).iterdir()).read_bytes() for name in splits}) == 1


def test_any_damage_to_values_that_we_wrote_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    table = pa.table({"k": rng.integers(0, 200, 5000), "s": [f"key {i}" for i in rng.integers(0, 9, 5000)]})
    states = group_states(table.append_column("v", pa.array(rng.normal(size=5000))), ["k", "s"], "v")
    path = Path(write_shard(str(tmp_path), 1, 0, [states], states.schema))
    data = path.read_bytes()
    group = pq.read_metadata(path).row_group(0)
    dataset = scan([str(path)], ["k", "s"], [], {"state": lambda _: None})
    for column in map(group.column, range(group.num_columns)):
        start = column.dictionary_page_offset or column.data_page_offset
        for place in rng.integers(start, start + column.total_compressed_size, 40):
            damaged = bytearray(data)
            damaged[place] ^= 1 << rng.integers(0, 8)
            path.write_bytes(damaged)
            try:
                found = pa.concat_tables(RowGroupReader(dataset.reading).tables(dataset.row_groups))
            except DataError:
                continue
            # A bit of a page's header may be without meaning to the reader.
            assert found.equals(states.select(found.column_names)), (column.path_in_schema, place)


def test_a_file_that_was_discarded_is_not_put_in_place(tmp_path: Path) -> None:
    writer = sink.ShardWriter(str(tmp_path), 1, 0, pa.schema({"x": pa.int64()}))
    writer.write(pa.table({"x": [1]}))
    writer.discard()
    with pytest.raises(DataError, match="found that it was discarded"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = group_states(pa.table({"v": [1.0]}), [], "v")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    found = r"part-00000-of-00001\.parquet: expected a file that can be written, found OSError: disk full"
    with pytest.raises(DataError, match=found):
        write_shard(str(tmp_path), 1, 0, [states], states.schema)
    assert list(tmp_path.iterdir()) == []


def test_a_huge_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    n = 4_000_000
    path = tmp_path / "a.parquet"
    columns = {"k": np.arange(n), "x": np.random.default_rng(0).normal(size=n)}
    pq.write_table(pa.table(columns), path, row_group_size=n, use_dictionary=False, compression="none")
    dataset = scan([str(path)], ["k"], ["x"])
    [row_group] = dataset.row_groups
    before = pa.total_allocated_bytes()
    reader = RowGroupReader(dataset.reading)
    held = [pa.total_allocated_bytes() - before for _ in reader.tables([row_group])]
    reader.close()
    assert len(held) > 1
    assert 0 < max(held) < path.stat().st_size


def test_rows_that_become_many_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.zeros(100), "y": np.zeros(100)}), tmp_path / "a.parquet")
    dataset = scan([str(tmp_path)], [], ["x", "y"])
    wide = dataset.widen(2, 50)
    assert (wide.num_rows, wide.rows_read, wide.reading.table_rows) == (100, 200, 25)
    reader = RowGroupReader(wide.reading)
    assert [table.num_rows for table in reader.tables(list(wide.row_groups))] == [25] * 4
    reader.close()
    assert dataset.widen(1000, 50).reading.table_rows == 1
    assert dataset.widen(1, 1 << 30).reading.table_rows == dataset.reading.table_rows


@pytest.mark.parametrize("has_footers", [True, False], ids=["at hand", "read anew"])
@pytest.mark.parametrize("again", [[1.0, 2.0], [1.0, 2.0, 3.0], []], ids=["rewritten", "longer", "empty"])
def test_a_file_that_has_changed_since_it_was_scanned(tmp_path: Path, again: list[float], has_footers: bool) -> None:
    path = write(tmp_path / "a.parquet", {"v": [1.0, 2.0]})
    dataset = scan([str(path)], [], ["v"])
    os.utime(path, ns=(0, 0))
    write(Path(path), {"v": pa.array(again, pa.float64())})
    known: dict[str, Any] = {"footers": dataset.footers, "stamps": dataset.stamps} if has_footers else {}
    reader = RowGroupReader(dataset.reading, **known)
    if again == [1.0, 2.0] and not has_footers:  # as another worker sees it
        assert [table.num_rows for table in reader.tables(dataset.row_groups)] == [2]
    else:
        with pytest.raises(DataError, match=r"a\.parquet: expected the file as it was when the run began"):
            list(reader.tables(dataset.row_groups))
    reader.close()


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"v": np.zeros(200_000)})
    dataset = scan([str(path)], [], ["v"])
    reader = RowGroupReader(dataset.reading, footers=dataset.footers, stamps=dataset.stamps)
    tables = reader.tables(dataset.row_groups)
    next(tables)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="found that it has changed since"):
        list(tables)
    reader.close()
