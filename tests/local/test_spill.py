"""What memory does not hold: states by shard and sorted runs, in a file without a name, and what a full disk does."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from programs import check_fault, contents, write

from lse_stream.errors import DataError
from lse_stream.key_accumulators import RowReducer, StateReducer
from lse_stream.keys import shard_of_keys
from lse_stream.local import Watch
from lse_stream.local import spill as spilling
from lse_stream.local.partitions import Partitions
from lse_stream.local.spill import Runs, Spill
from lse_stream.local.units import run_threads
from lse_stream.parquet.sink import ShardWriter
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import AGGREGATIONS, LOGSUMEXP
from lse_stream.table_functions import sort_by_keys, take_rows
from pipelines.parquet import main

BLOCK = 8


@pytest.fixture
def spill(tmp_path: Path) -> Iterator[Spill]:
    found = Spill(str(tmp_path), Watch())
    yield found
    found.close()


def files_without_a_name() -> set[str]:
    """The directories of those that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            link = os.readlink(f"/proc/self/fd/{name}")
            if link.endswith(" (deleted)"):
                found.add(os.path.dirname(link))
    return found


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilling, "MERGED_ROWS", BLOCK)


def columns(n: int) -> dict[str, pa.Array]:
    """Columns of n different keys each, in disorder, a null among them; and some that do not tell keys apart alone."""
    rng = np.random.default_rng(0)
    words = [f"größer {i}" if i % 3 else f"{i}" for i in rng.permutation(n)]
    return {
        "integer": pa.array([None if i == 0 else int(i) - n // 2 for i in rng.permutation(n)], pa.int32()),
        "string": pa.array([None if i == 1 else word for i, word in enumerate(words)]),
        "dictionary": pa.array([None if i == 2 else word for i, word in enumerate(words)]).dictionary_encode(),
        "float": pa.array(rng.normal(size=n) * 1e6, mask=np.arange(n) == 3),
        "time": pa.array(rng.permutation(n), pa.timestamp("ns", "UTC")),
        "decimal": pa.array([None if i == 4 else int(i) for i in rng.permutation(n)]).cast(pa.decimal128(30, 2)),
        "null": pa.nulls(n),
        "boolean": pa.array([None if i % 7 == 0 else bool(i % 2) for i in rng.permutation(n)]),
        "few": pa.array([f"f{i}" if i else None for i in rng.integers(0, 4, n)]).dictionary_encode(),
    }


KEYS = [
    ["integer"],
    ["string"],
    ["dictionary"],
    ["float"],
    ["time"],
    ["decimal"],
    ["null", "integer"],
    ["few", "boolean", "null", "dictionary"],
    ["boolean", "string"],
]


def results(keys: list[str], n: int) -> pa.Table:
    """Key columns, and results beside them: numbers with nulls, and states."""
    rng = np.random.default_rng(1)
    found = columns(n)
    table = pa.table({name: found[name] for name in keys})
    value = pa.array(rng.normal(size=n), mask=rng.random(n) < 0.2)
    reduction = Reduction(("row",), {STATE: ColumnAggregation(LOGSUMEXP, NATURAL, ("value",))})
    states = StateTable.group(pa.table({"row": np.arange(n), "value": value}), reduction).to_arrow()
    return table.append_column("logsumexp", value).append_column(STATE, states.column(STATE))


def dealt(table: pa.Table, runs: int) -> list[pa.Table]:
    """The rows of a table, each to one of several."""
    to = np.random.default_rng(2).integers(0, runs, table.num_rows)
    return [take_rows(table, np.flatnonzero(to == i)) for i in range(runs)]


def file_of(folder: Path, name: str, keys: list[str], tables: Iterator[pa.Table] | list[pa.Table]) -> bytes:
    """What the tables are as a file of results: that depends on their rows alone."""
    folder = folder / name
    folder.mkdir()
    writer = None
    for table in tables:
        writer = writer or ShardWriter(str(folder), 1, 0, table.schema, keys=keys)
        writer.write(table)
    assert writer is not None
    return Path(writer.close()).read_bytes()


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [1, 2, 7])
@pytest.mark.parametrize("keys", KEYS, ids="-".join)
@pytest.mark.usefixtures("small_blocks")
def test_runs_merged_are_one_sorted_table(tmp_path: Path, spill: Spill, keys: list[str], runs: int) -> None:
    table = results(keys, 300)
    found = Runs(spill, keys, 1)
    for part in dealt(table, runs):
        found.add(part)
    merged = list(found.merged())
    assert len(merged) > 1
    assert max(part.num_rows for part in merged) <= runs * 2 * BLOCK
    expected = sort_by_keys(table, keys)
    assert pa.concat_tables(merged).to_pylist() == expected.to_pylist()
    assert merged[0].schema == expected.schema
    assert file_of(tmp_path, "merged", keys, merged) == file_of(tmp_path, "sorted", keys, [expected])


@pytest.mark.parametrize("block", [2, 3, 50, 1 << 14])
def test_runs_in_blocks_of_any_size(spill: Spill, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(spilling, "MERGED_ROWS", block)
    table = results(["string"], 200)
    found = Runs(spill, ["string"], 1)
    for part in dealt(table, 5):
        found.add(part)
    assert pa.concat_tables(list(found.merged())).to_pylist() == sort_by_keys(table, ["string"]).to_pylist()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("sizes", [[0], [0, 0, 0], [0, 100, 0], [1, 1, 1], [100, 1, 0], [7, 8, 9], [16, 17]], ids=str)
def test_runs_that_lie_after_one_another_or_are_empty(spill: Spill, sizes: list[int]) -> None:
    table = sort_by_keys(results(["integer"], sum(sizes)), ["integer"])
    found = Runs(spill, ["integer"], 1)
    start = 0
    for size in sizes:
        found.add(table.slice(start, size))
        start += size
    merged = list(found.merged())
    assert merged
    assert pa.concat_tables(merged).to_pylist() == table.to_pylist()
    assert merged[0].schema == table.schema


@pytest.mark.usefixtures("small_blocks")
def test_runs_whose_dictionaries_have_no_value_in_common(tmp_path: Path, spill: Spill) -> None:
    words = [f"w{i:03d}" for i in np.random.default_rng(3).permutation(200)]
    found = Runs(spill, ["k"], 1)
    for i in range(4):
        found.add(pa.table({"k": pa.array(words[i::4]).dictionary_encode(), "x": np.arange(50)}))
    whole = pa.table({"k": pa.array(words).dictionary_encode(), "x": np.arange(200) // 4})
    expected = sort_by_keys(whole, ["k"])
    assert file_of(tmp_path, "merged", ["k"], found.merged()) == file_of(tmp_path, "sorted", ["k"], [expected])


@pytest.mark.usefixtures("small_blocks")
def test_any_thread_may_add_a_run(spill: Spill) -> None:
    table = results(["dictionary"], 700)
    found = Runs(spill, ["dictionary"], 1)
    run_threads([partial(found.add, part) for part in dealt(table, 7)], Watch())
    assert pa.concat_tables(list(found.merged())).to_pylist() == sort_by_keys(table, ["dictionary"]).to_pylist()


# --- states -----------------------------------------------------------------------------------------------------------


def state_tables(keys: list[str]) -> list[StateTable]:
    """States of rows that several tables have the keys of, and of some keys that are null."""
    rng = np.random.default_rng(4)
    whole = columns(200)
    table = pa.table({name: whole[name] for name in keys}).take(rng.integers(0, 200, 2000))
    value = pa.array(rng.normal(size=2000) * 50, mask=rng.random(2000) < 0.05)
    aggregates = {
        kind: ColumnAggregation(AGGREGATIONS[kind], NATURAL, ("value",)) for kind in ("logsumexp", "log_likelihood")
    }
    reduction = Reduction(tuple(keys), aggregates, skip_nulls=False)
    return [StateTable.group(part, reduction) for part in dealt(table.append_column("value", value), 5)]


@pytest.mark.parametrize("memory", [1, 1 << 30], ids=["on disk", "in memory"])
@pytest.mark.parametrize("num_shards", [1, 3, 64])
@pytest.mark.parametrize("keys", [["integer"], ["few", "dictionary"], ["boolean", "null", "string"]], ids="-".join)
def test_states_are_found_by_shard(spill: Spill, keys: list[str], num_shards: int, memory: int) -> None:
    tables = state_tables(keys)
    partitions = Partitions(StateReducer(keys, trusted=True), num_shards, memory, spill)
    jobs = [partial(partitions.absorb, table, i % num_shards) for i, table in enumerate(tables)]
    run_threads([*jobs, partial(partitions.add, tables[:1], 0)], Watch())
    assert len(partitions) == num_shards
    assert partitions.spilled == (memory == 1)
    expected = StateTable.merge([*tables, tables[0]])
    found = []
    for shard in range(num_shards):
        merged = partitions.load(shard, keep=True)
        again = partitions.load(shard)
        assert again.to_arrow().to_pylist() == merged.to_arrow().to_pylist()
        assert set(shard_of_keys(merged.keys, keys, num_shards).tolist()) <= {shard}
        found.append(merged)
    assert sum(table.num_rows for table in found) == expected.num_rows
    whole = StateTable.concat(found).sort()
    assert whole.to_arrow().to_pylist() == expected.sort().to_arrow().to_pylist()
    assert any(column.null is not None and column.null.any() for column in whole.states.values())


@pytest.mark.parametrize("memory", [1, 30_000, 1 << 30], ids=["on disk", "in both", "in memory"])
def test_a_shard_may_be_loaded_by_many_threads_at_once(spill: Spill, memory: int) -> None:
    """Each finds the same; what is in memory is made into a table once."""
    tables = state_tables(["integer"])
    partitions = Partitions(StateReducer(["integer"], trusted=True), 1, memory, spill)
    for table in tables:
        partitions.absorb(table, 0)
    meeting = threading.Barrier(8, timeout=10)
    found = []

    def load() -> None:
        meeting.wait()
        found.append(partitions.load(0, keep=True).sort().to_arrow().to_pylist())

    run_threads([load] * 8, Watch())
    assert found == [StateTable.merge(tables).sort().to_arrow().to_pylist()] * 8


def test_rows_whose_dictionaries_have_too_many_values_together(spill: Spill) -> None:
    """Each has 120 that it does not use; int8 tells 128 apart."""
    data_type = pa.dictionary(pa.int8(), pa.string())
    rng = np.random.default_rng(5)
    tables = []
    for i in range(5):
        values = pa.array([*(f"unused {i} {j}" for j in range(120)), "a", "b", "c"])
        keys = pa.DictionaryArray.from_arrays(pa.array(rng.integers(120, 123, 300), pa.int8()), values)
        tables.append(pa.table({"k": keys, "x": rng.normal(size=300)}))
    reduction = Reduction(("k",), {STATE: ColumnAggregation(LOGSUMEXP, NATURAL, ("x",))})
    partitions = Partitions(RowReducer(reduction), 2, 1, spill)
    partitions.absorb(StateTable.group(tables[0], reduction), 0)
    partitions.add(tables[1:3], 0)
    partitions.add(tables[3:], 1)
    found = StateTable.concat([partitions.load(shard) for shard in range(2)]).sort()
    expected = StateTable.merge([StateTable.group(table, reduction) for table in tables]).sort()
    assert found.to_arrow().to_pylist() == expected.to_arrow().to_pylist()
    assert found.keys.schema.field("k").type == data_type
    runs = Runs(spill, ["k"], 1)
    for i, table in enumerate(tables):
        runs.add(table.slice(0, 1).append_column("n", pa.array([i])))
    assert sum(table.num_rows for table in runs.merged()) == len(tables)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_has_no_name(tmp_path: Path, spill: Spill) -> None:
    first, second = spill.write(b"one"), spill.write(b"and another")
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) in files_without_a_name()
    assert [spill.read(second), spill.read(first)] == [b"and another", b"one"]
    spill.close()
    assert str(tmp_path) not in files_without_a_name()


def test_blocks_of_many_threads_do_not_meet(tmp_path: Path) -> None:
    watch = Watch()
    spill = Spill(str(tmp_path), watch)
    data = [bytes([i]) * (1 + 977 * i) for i in range(40)]
    blocks: dict[int, spilling.Block] = {}

    def add(i: int) -> None:
        blocks[i] = spill.write(data[i])

    run_threads([partial(add, i) for i in range(40)], watch)
    assert [spill.read(blocks[i]) for i in range(40)] == data
    assert watch.spilled == sum(map(len, data))
    spill.close()


def test_a_disk_that_takes_a_part_at_a_time(spill: Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:1000], offset))
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, min(size, 700), offset))
    data = np.random.default_rng(5).bytes(5432)
    before, block = spill.write(b"before"), spill.write(data)
    assert (spill.read(before), spill.read(block)) == (b"before", data)


def full(free: int) -> Callable[..., int]:
    """A disk on which there is room for so many writes."""
    pwrite, lock = os.pwrite, threading.Lock()
    left = [free]

    def write_some(*arguments: Any) -> int:
        with lock:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(*arguments)

    return write_some


def test_a_full_disk_is_told_with_its_directory(tmp_path: Path, spill: Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", full(1))
    spill.write(b"there is room for this")
    with pytest.raises(DataError) as raised:
        spill.write(b"and none for this")
    assert str(raised.value).startswith(f"{tmp_path}: expected room for states that memory does not hold, ")
    assert "No space left on device" in str(raised.value)


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/none: expected room .*FileNotFoundError"):
        Spill(str(tmp_path / "none"), Watch()).write(b"a")


# --- through a program ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many keys that 1 MB does not hold their states."""
    rng = np.random.default_rng(6)
    table = {"k": rng.integers(0, 20_000, 40_000), "v": rng.normal(size=40_000)}
    return write(tmp_path_factory.mktemp("source") / "a.parquet", table, row_group_size=5000)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("free", [0, 1, 70, 500])
def test_a_full_disk_in_mid_run(
    tmp_path: Path,
    source: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    threads: int,
) -> None:
    monkeypatch.setattr("lse_stream.parquet.scan.TABLE_ROWS", 4000)
    monkeypatch.setattr("lse_stream.local.engine.LEAST_SHARDS", 256)  # so that it is not whole after 500 writes
    (tmp_path / "temp").mkdir()
    (tmp_path / "results").mkdir()
    argv = ["--input", str(source), "--key=k", "--value=v", "--output", str(tmp_path / "results" / "out"), "--quiet"]
    monkeypatch.setattr(os, "pwrite", full(free))
    assert main([*argv, "--memory=1MB", f"--threads={threads}", "--temp", str(tmp_path / "temp")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    check_fault(captured.err, [f"{tmp_path / 'temp'}: expected room", "No space left on device"])
    assert list((tmp_path / "temp").iterdir()) == []
    assert list((tmp_path / "results").iterdir()) == []


def test_a_full_disk_while_results_are_merged(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier results stay."""
    argv = ["--input", str(source), "--key=k", "--value=v", "--output", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 0
    before = contents(tmp_path)

    def add(self: Runs, _: pa.Table) -> None:
        monkeypatch.setattr(os, "pwrite", full(0))
        self._spill.write(b"a run")

    monkeypatch.setattr(Runs, "add", add)
    assert main([*argv, "--memory=1MB", "--overwrite"]) == 1
    check_fault(capsys.readouterr().err, [f"{tmp_path}: expected room"])
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("temp", [None, "temp"])
def test_a_program_puts_aside_beside_its_output_or_in_temp_without_a_name(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, temp: str | None
) -> None:
    (tmp_path / "temp").mkdir()
    (tmp_path / "results").mkdir()
    place = tmp_path / (temp or "results")
    seen = set()
    spill_write = Spill.write

    def watched(self: Spill, data: bytes) -> spilling.Block:
        block = spill_write(self, data)
        names = tuple(sorted(path.name for path in (*tmp_path.glob("temp/*"), *tmp_path.glob("results/*"))))
        seen.add((str(place) in files_without_a_name(), names))
        return block

    monkeypatch.setattr(Spill, "write", watched)
    argv = ["--input", str(source), "--key=k", "--value=v", "--output", str(tmp_path / "results" / "out"), "--quiet"]
    assert main([*argv, "--memory=1MB", "--threads=1", *(["--temp", str(place)] if temp else [])]) == 0
    [(is_there, [aside])] = seen
    assert is_there
    assert aside.startswith(".out_incomplete-")
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["out"]
