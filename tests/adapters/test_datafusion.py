"""Aggregate functions of DataFusion: the bytes of ``group_states``, however rows are partitioned and batched."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionConfig, SessionContext, col
from rows import NAN, OPTIONS, bits, expected, some_rows, values, whole

from lse_stream import LogSumExpAccumulator, group_states
from lse_stream.adapters.datafusion import logmeanexp, logsumexp, lse_merge, lse_state, lse_state_of_list, register

TABLE = some_rows()
ONE = LogSumExpAccumulator([1.0, 2.0]).to_bytes()


def context_of(table: pa.Table = TABLE, partitions: int = 3, batch: int = 1_000) -> Any:
    """A context with functions, and a table "rows" in partitions of batches."""
    context = SessionContext(SessionConfig().with_target_partitions(partitions).with_batch_size(batch))
    register(context)
    size = max(1, -(-len(table) // partitions))
    parts = [table.slice(i * size, size).to_batches(batch) for i in range(partitions)]
    empty = pa.RecordBatch.from_pylist([], table.schema)
    context.register_record_batches("rows", [part or [empty] for part in parts])
    return context


def rows_of(context: Any, query: str) -> list[tuple[Any, ...]]:
    table = context.sql(query).to_arrow_table()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def by_key(context: Any, query: str) -> dict[Any, Any]:
    rows = rows_of(context, query)
    result: dict[Any, Any] = dict(rows)
    assert len(result) == len(rows)
    return result


@pytest.mark.parametrize(
    ("aggregation", "scale"), [*OPTIONS[:2], *(pytest.param(*each, marks=pytest.mark.engine) for each in OPTIONS[2:])]
)
def test_states_are_those_of_group_states(aggregation: str, scale: str) -> None:
    context = context_of()
    context.register_udaf(lse_state(aggregation=aggregation, scale=scale))
    found = by_key(context, "select k, lse_state(x) from rows group by k")
    assert found == expected(TABLE, aggregation=aggregation, scale=scale)


@pytest.mark.parametrize(("partitions", "batch"), [(1, 8192), (1, 100), (2, 1_000), (5, 333)])
def test_partitions_and_batches(partitions: int, batch: int) -> None:
    context = context_of(partitions=partitions, batch=batch)
    assert by_key(context, "select k, lse_state(x) from rows group by k") == expected(TABLE)
    assert rows_of(context, "select lse_state(x) from rows") == [(whole(TABLE),)]
    assert bits(by_key(context, "select k, logsumexp(x) from rows group by k")) == bits(values(TABLE))
    means = by_key(context, "select k, logmeanexp(x) from rows group by k")
    assert bits(means) == bits(values(TABLE, "logmeanexp"))


@pytest.mark.parametrize(("aggregation", "scale"), OPTIONS)
def test_states_of_lists(aggregation: str, scale: str) -> None:
    context = context_of()
    context.register_udf(lse_state_of_list(aggregation=aggregation, scale=scale))
    found = by_key(context, "select k, lse_state_of_list(array_agg(x)) from rows group by k")
    assert found == expected(TABLE, aggregation=aggregation, scale=scale)
    assert rows_of(context, "select lse_state_of_list(array_agg(x)) from rows where k < 0") == [(None,)]


@pytest.mark.parametrize("data_type", [pa.int8(), pa.int64(), pa.float32()], ids=str)
def test_lists_of_every_type(data_type: pa.DataType) -> None:
    table = pa.table({"k": [1, 1, 2], "x": pa.array([1, None, 3], pa.int8()).cast(data_type)})
    found = by_key(context_of(table), "select k, lse_state_of_list(array_agg(x)) from rows group by k")
    assert found == expected(table)


def test_partial_and_final_aggregation_are_steps_of_the_plan() -> None:
    plan = context_of().sql("select k, lse_state(x) from rows group by k").execution_plan().display_indent()
    assert "mode=Partial" in plan
    assert "mode=FinalPartitioned" in plan


def test_row_groups_of_files(tmp_path: Path) -> None:
    for i in range(3):
        part = TABLE.slice(i * 7_000, 7_000)
        pq.write_table(part, tmp_path / f"{i}.parquet", row_group_size=2_000)
    context = context_of()
    context.register_parquet("files", str(tmp_path))
    assert by_key(context, "select k, lse_state(x) from files group by k") == expected(TABLE)


def test_functions_of_frames() -> None:
    frame = context_of().table("rows")
    found = frame.aggregate([col("k")], [logsumexp(scale="decibel")(col("x")), logmeanexp()(col("x"))])
    keys, levels, means = found.to_arrow_table().columns
    assert bits(dict(zip(keys.to_pylist(), levels.to_pylist(), strict=True))) == bits(values(TABLE, scale="decibel"))
    assert bits(dict(zip(keys.to_pylist(), means.to_pylist(), strict=True))) == bits(values(TABLE, "logmeanexp"))


def test_two_inputs() -> None:
    context = context_of()
    context.register_udaf(lse_state(aggregation="weighted_logsumexp", name="weighted_state"))
    found = by_key(context, "select k, weighted_state(x, w) from rows group by k")
    assert found == expected(TABLE, ["x", "w"], aggregation="weighted_logsumexp")


def test_no_rows_nulls_and_nan() -> None:
    context, empty = context_of(), LogSumExpAccumulator().to_bytes()
    none = "from rows where k < 0"
    assert rows_of(context, f"select lse_state(x), logsumexp(x), logmeanexp(x) {none}") == [
        (empty, -math.inf, -math.inf)
    ]
    assert rows_of(context, f"select k, lse_state(x) {none} group by k") == []
    assert rows_of(context, "select lse_state(cast(null as double))") == [(empty,)]
    assert rows_of(context, "select lse_state(x) from (values (1.0), (null), (cast('nan' as double))) as t(x)") == [
        (LogSumExpAccumulator([NAN, 1.0]).to_bytes(),)
    ]
    assert rows_of(context, "select lse_merge(cast(null as bytea)), lse_value(cast(null as bytea), 'max')") == [
        (None, None)
    ]
    assert by_key(context, "select k, lse_state(x) filter (where w > 0) from rows group by k") == {
        **dict.fromkeys(expected(TABLE), empty),
        **expected(TABLE.filter(pa.compute.greater(TABLE["w"], 0.0))),
    }


@pytest.mark.parametrize("data_type", [pa.int8(), pa.uint32(), pa.int64(), pa.float16(), pa.float32()], ids=str)
def test_every_type(data_type: pa.DataType) -> None:
    table = pa.table({"k": [1, 1, 2], "x": pa.array([1, None, 3], pa.int8()).cast(data_type)})
    assert by_key(context_of(table), "select k, lse_state(x) from rows group by k") == expected(table)


@pytest.mark.parametrize("file_of_states", [False, True])
def test_states_of_two_calls_merge_to_those_of_one(file_of_states: bool, tmp_path: Path) -> None:
    context = context_of()
    parts = [
        context.sql(f"select k, lse_state(x) as state from rows where {condition} group by k").to_arrow_table()
        for condition in ("w < 0.3", "w >= 0.3")
    ]
    stored = pa.concat_tables(parts)
    if file_of_states:  # which DataFusion reads as views
        pq.write_table(stored, tmp_path / "states.parquet", row_group_size=50)
        context.register_parquet("stored", str(tmp_path / "states.parquet"))
    else:
        context.register_record_batches("stored", [stored[:100].to_batches(), stored[100:].to_batches(17)])
    assert by_key(context, "select k, lse_merge(state) from stored group by k") == expected(TABLE)
    assert rows_of(context, "select lse_merge(state) from stored") == [(whole(TABLE),)]
    merged = "(select k, lse_merge(state) as state from stored group by k)"
    assert bits(by_key(context, f"select k, lse_value(state, 'logsumexp') from {merged}")) == bits(values(TABLE))
    (count,) = rows_of(context, "select sum(lse_value(state, 'count')) from stored")
    assert count == (len(TABLE) - TABLE["x"].null_count,)
    assert rows_of(context, "select lse_value(state, 'max') from stored where k < 0") == []


def test_columns_of_states_of_arrow() -> None:
    states = pa.concat_tables([group_states(part, ["k"], "x") for part in (TABLE[:7_000], TABLE[7_000:])])
    context = context_of(states.combine_chunks())
    assert by_key(context, "select k, lse_merge(state) from rows group by k") == expected(TABLE)


def test_registered_again() -> None:
    context = context_of()
    for _ in range(2):
        register(context)
    assert rows_of(context, "select logsumexp(5.0)") == [(5.0,)]


def test_what_is_wrong_is_said() -> None:
    damaged = bytearray(ONE)
    damaged[40] ^= 1
    in_decibel = LogSumExpAccumulator([1.0], scale="decibel").to_bytes()
    context = context_of(
        pa.table({"k": [1, 1, 2, 3], "state": [ONE, in_decibel, bytes(damaged), b"abc"]}), partitions=1
    )
    for query, said in (
        ("select lse_merge(state) from rows where k = 1", r"lse_merge: column 'state', row 1: .*scale"),
        ("select lse_merge(state) from rows where k = 2", r"lse_merge: column 'state', row 0: "),
        ("select lse_value(state, 'max') from rows where k = 3", r"lse_value: column 'state', row 0: .* found 3"),
        ("select lse_value(state, 'median') from rows limit 1", r"lse_value: results: expected some .* found 'median'"),
        ("select lse_state('a')", r"lse_state"),
    ):
        with pytest.raises(Exception, match=said):
            rows_of(context, query)
    with pytest.raises(ValueError, match=r"aggregation: expected logsumexp, .* found 'sum'"):
        lse_state(aggregation="sum")
    with pytest.raises(ValueError, match="aggregation: expected"):
        lse_state_of_list(aggregation="sum")
    with pytest.raises(ValueError, match="scale"):
        logsumexp(scale="bel")
    with pytest.raises(ValueError, match="scale: expected natural"):
        lse_state(aggregation="exact_sum", scale="decibel")
    assert lse_merge(name="another").name == "another"
