"""The engine of this process: the same bytes for any layout of the rows, any threads, and in memory or on disk."""

import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import contents, write

from lse_stream.local import LocalEngine, Watch, ordering
from lse_stream.local import engine as local
from lse_stream.local.spill import Block, Spill
from lse_stream.parquet import scan as scanning
from lse_stream.parquet.scan import scan
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import LOGSUMEXP
from lse_stream.table_functions import take_rows

EXAMPLES, ROWS = 20_000, 40_000

LAYOUTS = ("whole", "tiny", "shuffled", "many")

# What is run: layout, threads, and whether states are to be put aside; any two of these meet in each list of runs.
Run = tuple[str, int, bool]
RUNS: list[Run] = [
    ("whole", 1, False),
    ("whole", 2, True),
    ("whole", 7, False),
    ("tiny", 1, True),
    ("tiny", 2, False),
    ("tiny", 7, True),
    ("shuffled", 1, False),
    ("shuffled", 2, True),
    ("shuffled", 7, True),
    ("many", 1, True),
    ("many", 2, False),
    ("many", 7, False),
]
FEWER: list[Run] = [
    ("whole", 2, False),
    ("tiny", 7, True),
    ("shuffled", 1, True),
    ("many", 2, True),
    ("many", 7, False),
]


def test_any_two_of_what_is_varied_meet() -> None:
    assert {run[:2] for run in RUNS} == set(product(LAYOUTS, (1, 2, 7)))
    assert {run[1:] for run in RUNS} == set(product((1, 2, 7), (False, True)))
    assert {(layout, spilled) for layout, _, spilled in RUNS} == set(product(LAYOUTS, (False, True)))


def sample() -> pa.Table:
    """Rows of examples, two each, by model and fold; values with nulls and of many magnitudes, and logits without."""
    rng = np.random.default_rng(0)
    example = np.arange(ROWS) // 2
    model = [f"größer {i}" if i % 50 else None for i in range(1000)]
    magnitude = rng.choice([1e-3, 1.0, 50.0, 1e6], ROWS)
    table = pa.table(
        {
            "row": np.arange(ROWS),
            "model": pa.array(model).dictionary_encode().take(pa.array(example % 1000)),
            "fold": pa.array(example % 5, pa.int8()),
            "example": example,
            "class": np.arange(ROWS) % 2,
            "value": pa.array(rng.normal(size=ROWS) * magnitude, mask=rng.random(ROWS) < 0.05),
            "logit": rng.normal(size=ROWS) * magnitude,
        }
    )
    return table.take(rng.permutation(ROWS))


def lay_out(folder: Path, table: pa.Table) -> Path:
    """The rows of a table in each of LAYOUTS."""
    rng, n = np.random.default_rng(1), table.num_rows
    write(folder / "whole" / "a.parquet", table, row_group_size=n)
    write(folder / "tiny" / "a.parquet", table, row_group_size=20)
    shuffled = take_rows(table, rng.permutation(n))
    for i in range(5):
        part = take_rows(shuffled, np.arange(i, n, 5))
        write(folder / "shuffled" / f"{i}.parquet", part, row_group_size=1000)
    ends = np.sort(rng.integers(0, n, 100))  # some files may have a row, or none
    for i, (start, end) in enumerate(zip([0, *ends], [*ends, n], strict=True)):
        write(folder / "many" / f"{i}.parquet", table.slice(start, end - start))
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("rows"), sample())


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    """States of the rows by example, class and model."""
    folder = tmp_path_factory.mktemp("states")
    keys = ["--key=example", "--key=class", "--key=model"]
    argv = ["--input", str(rows / "whole"), *keys, "--value=value", "--state", "--output", str(folder / "out")]
    assert import_module("pipelines.parquet").main([*argv, "--quiet"]) == 0
    return lay_out(folder / "in", pq.read_table(folder / "out", partitioning=None))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of the examples, in files of their own."""
    folder = tmp_path_factory.mktemp("labels")
    example = np.random.default_rng(2).permutation(EXAMPLES)
    table = pa.table({"example": example, "label": example % 7 % 2})
    for i in range(3):
        write(folder / f"{i}.parquet", table.slice(i * 7000, 7000), row_group_size=900)
    return folder


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes are put aside, each time."""
    found: list[int] = []
    spill_write = Spill.write

    def watched(self: Spill, data: bytes) -> Block:
        found.append(len(data))
        return spill_write(self, data)

    monkeypatch.setattr(Spill, "write", watched)
    return found


@pytest.fixture(autouse=True)
def many_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few rows have many tables, for many threads; but not so many shards that all time goes into them."""
    monkeypatch.setattr(scanning, "TABLE_ROWS", 3000)
    monkeypatch.setattr(local, "LEAST_SHARDS", 16)
    monkeypatch.setattr(local, "MOST_SHARDS", 16)


Output = Callable[[Run, Sequence[str]], dict[str, bytes]]


@pytest.fixture
def output(tmp_path: Path, writes: list[int]) -> Output:
    """Runs a program in one way; gives its files, once it is sure that states were put aside, or that none were."""

    def output_of(run: Run, argv: Sequence[str]) -> dict[str, bytes]:
        layout, threads, spilled = run
        program, source, *more = argv
        del writes[:]
        always = ["--input", f"{source}/{layout}", "--output", str(tmp_path / "out"), "--overwrite", "--quiet"]
        memory = "--memory=1MB" if spilled else "--memory=4GB"
        main = import_module(f"pipelines.{program}").main
        assert main([*always, f"--threads={threads}", memory, *more]) == 0
        assert bool(writes) == spilled
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        return contents(tmp_path / "out")

    return output_of


def check_same(output: Output, runs: Sequence[Run], argv: Sequence[str]) -> dict[str, bytes]:
    first = output(runs[0], argv)
    for run in runs[1:]:
        found = output(run, argv)
        assert found.keys() == first.keys(), run
        assert [name for name in first if found[name] != first[name]] == [], run
    return first


# --- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_shards", [1, 3])
def test_parquet(output: Output, rows: Path, num_shards: int) -> None:
    keys = ["--key=model", "--key=example"]
    argv = ["parquet", str(rows), *keys, "--value=value", f"--num_shards={num_shards}", "--state"]
    files = check_same(output, RUNS if num_shards == 1 else FEWER, argv)
    assert len(files) == num_shards


def test_parquet_with_nulls_that_count_and_a_least_count(output: Output, rows: Path) -> None:
    more = ["--no-skip_nulls", "--min_count=2", "--num_shards=3"]
    check_same(output, FEWER, ["parquet", str(rows), "--key=example", "--value=value", *more])


def test_parquet_without_keys_needs_no_disk(output: Output, rows: Path) -> None:
    runs = [(layout, threads, False) for layout, threads, _ in FEWER]
    check_same(output, runs, ["parquet", str(rows), "--value=value", "--memory=1MB"])


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize(
    "inner",
    [["--inner=logsumexp"], ["--inner=logmeanexp", "--waic", "--per_observation"]],
    ids=["logsumexp", "waic"],
)
def test_loglik(output: Output, rows: Path, inner: list[str], num_shards: int) -> None:
    columns = ["--key=fold", "--observation=example", "--value=logit"]
    argv = ["loglik", str(rows), *columns, *inner, f"--num_shards={num_shards}"]
    files = check_same(output, FEWER, argv)
    assert any(name.startswith("observations/") for name in files) == ("--per_observation" in inner)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_cross_entropy(output: Output, rows: Path, labels: Path, num_shards: int) -> None:
    columns = ["--key=fold", "--example=example", "--value=logit", "--class=class", "--label=label"]
    argv = ["cross_entropy", str(rows), *columns, "--labels", str(labels), f"--num_shards={num_shards}"]
    check_same(output, FEWER, argv)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_rollup(output: Output, states: Path, num_shards: int) -> None:
    argv = ["rollup", str(states), "--key=model", "--key=example", f"--num_shards={num_shards}", "--state"]
    files = check_same(output, FEWER, argv)
    assert len(files) == num_shards


def test_rollup_is_what_one_job_over_the_rows_gives(output: Output, rows: Path, states: Path) -> None:
    rolled = output(("shuffled", 2, True), ["rollup", str(states), "--key=example"])
    assert rolled == output(("tiny", 7, False), ["parquet", str(rows), "--key=example", "--value=value"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_softmax(output: Output, rows: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output follows the files of the input."""
    monkeypatch.setattr("lse_stream.plan.PART_ROWS", 16_000)
    argv = ["softmax", str(rows), "--key=model", "--key=example", "--value=logit"]
    runs = [(layout, threads, spilled) for threads, spilled in ((1, False), (2, True), (7, False), (7, True))]
    if layout == "many":  # of which each asks for shards of its own
        runs = [(layout, threads, False) for threads in (1, 7)]
    files = check_same(output, runs, argv)
    assert len(files) == {"whole": 1, "tiny": 3, "shuffled": 5, "many": 101}[layout]


@pytest.mark.parametrize("sizes", [(1, 40, 20_000), (0, 20_000)], ids=str)
def test_softmax_of_files_of_a_few_rows_or_none(
    output: Output, rows: Path, tmp_path: Path, sizes: Sequence[int]
) -> None:
    """Every part finds the states of its own keys."""
    table = pq.read_table(rows / "whole", partitioning=None)
    folder = tmp_path.parent / f"{tmp_path.name}-few"
    for i, size in enumerate(sizes):
        write(folder / "few" / f"{i}.parquet", table.slice(1000 * i, size))
    runs = [("few", 1, False), ("few", 1, True), ("few", 7, True)]
    check_same(output, runs, ["softmax", str(folder), "--key=example", "--value=value"])


def test_the_states_of_many_keys_are_merged_by_all_threads(
    output: Output, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["parquet", str(rows), "--key=model", "--key=example", "--value=value", "--num_shards=3"]
    one_by_one = check_same(output, [("whole", 2, False), ("many", 7, False)], argv)
    monkeypatch.setattr(local, "MANY_KEYS", 100)
    assert check_same(output, [("whole", 2, False), ("tiny", 7, False), ("many", 2, False)], argv) == one_by_one


def test_tables_of_the_usual_size(output: Output, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["parquet", str(rows), "--key=example", "--value=value"]
    first = output(("many", 2, True), argv)
    monkeypatch.setattr(scanning, "TABLE_ROWS", 1 << 16)
    assert check_same(output, [("whole", 2, True), ("shuffled", 2, False)], argv) == first


def test_the_number_of_shards_on_disk_shapes_nothing(
    output: Output, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["parquet", str(rows), "--key=example", "--value=value", "--num_shards=3"]
    first = output(("shuffled", 2, True), argv)
    for least, most in ((1, 1), (100, 4096)):
        monkeypatch.setattr(local, "LEAST_SHARDS", least)
        monkeypatch.setattr(local, "MOST_SHARDS", most)
        assert output(("tiny", 2, True), argv) == first


@pytest.mark.parametrize("spilled", [False, True])
def test_keys_of_small_dictionaries(output: Output, tmp_path: Path, spilled: bool) -> None:
    """Of each file another one, that has more values than its rows use: together more than int8 tells apart."""
    rng = np.random.default_rng(3)
    folder = tmp_path.parent / f"{tmp_path.name}-in"
    for i in range(4):
        values = pa.array([*(f"unused {i} {j}" for j in range(100)), *(f"k{j}" for j in range(10, 30))])
        keys = pa.DictionaryArray.from_arrays(pa.array(rng.integers(100, 120, 5000), pa.int8()), values)
        table = pa.table({"k": keys, "example": np.arange(5000), "x": rng.normal(size=5000)})
        write(folder / "dictionaries" / f"{i}.parquet", table, row_group_size=1000)
        plain = table.set_column(0, "k", keys.dictionary_decode())
        write(folder / "strings" / f"{i}.parquet", plain, row_group_size=1000)
    argv = [str(folder), "--key=k", "--key=example", "--value=x"]
    for program in ("parquet", "softmax"):
        found = check_same(output, [("dictionaries", 1, spilled), ("dictionaries", 7, spilled)], [program, *argv])
        strings = output(("strings", 2, False), [program, *argv])
        for name in strings.keys() - {"_SUCCESS"}:
            of_dictionaries, of_strings = (pq.read_table(pa.BufferReader(files[name])) for files in (found, strings))
            in_rows = pa.dictionary(pa.int8(), pa.string())
            assert of_dictionaries.schema.field("k").type == (in_rows if program == "softmax" else pa.string())
            assert of_dictionaries.to_pylist() == of_strings.to_pylist()


# --- steps ------------------------------------------------------------------------------------------------------------


def together(number: int) -> Callable[[pa.Table], pa.Table]:
    """Makes each of so many threads wait, at its first table, until all have one."""
    meeting = threading.Barrier(number, timeout=10)
    met: set[int] = set()

    def wait(table: pa.Table) -> pa.Table:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            meeting.wait()
        return table

    return wait


@pytest.fixture
def engines(tmp_path: Path) -> Callable[[int], LocalEngine]:
    def engine(threads: int) -> LocalEngine:
        return LocalEngine(threads=threads, memory=1 << 30, temp=str(tmp_path), watch=Watch())

    return engine


def test_a_fault_in_one_thread_ends_all(tmp_path: Path, rows: Path, engines: Callable[[int], LocalEngine]) -> None:
    engine = engines(7)
    wait = together(3)
    tables = 0

    def fail(table: pa.Table) -> pa.Table:
        nonlocal tables
        tables += 1
        if tables > 3:
            raise ValueError("of one table")
        return wait(table)

    states = engine.reduce(
        "Reduce",
        engine.map("Fail", engine.read("Read", scan([str(rows / "tiny")], ["example"], ["value"])), fail),
        Reduction(("example",), {STATE: ColumnAggregation(LOGSUMEXP, NATURAL, ("value",))}),
    )
    (tmp_path / "out").mkdir()
    engine.write("Write", engine.finish("Finish", states, StateTable.finalize), ["example"], str(tmp_path / "out"))
    before = threading.active_count()
    with pytest.raises(ValueError, match="of one table"):
        engine.run()
    assert threading.active_count() == before
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("options", [["--key=example"], ["--key=example", "--where=example < 0"]], ids=["rows", "none"])
def test_row_groups_that_threads_sort_give_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: Path, options: list[str]
) -> None:
    argv = ["--input", str(rows / "many"), *options, "--value=value", "--state", "--quiet"]
    parquet = import_module("pipelines.parquet")
    assert parquet.main([*argv, "--threads=1", f"--output={tmp_path / 'one'}"]) == 0
    monkeypatch.setattr(ordering, "MANY_ROWS", 1)
    monkeypatch.setattr(ordering, "OUTPUT_ROW_GROUP", 999)
    assert parquet.main([*argv, "--threads=2", f"--output={tmp_path / 'two'}"]) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
