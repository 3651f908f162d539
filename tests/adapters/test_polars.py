"""States in groups of Polars: the bytes of ``group_states``, in both engines of Polars."""

from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from rows import NAN, OPTIONS, bits, expected, some_rows, values, whole

from lse_stream import LogSumExpAccumulator, group_states
from lse_stream.adapters.polars import logmeanexp, logsumexp, lse_merge, lse_state, lse_value

TABLE = some_rows()
FRAME = pl.DataFrame(TABLE)
# Rows in several chunks.
CHUNKED = pl.concat([FRAME[:1], FRAME[1:9_000], FRAME[9_000:]], rechunk=False)


def by_key(frame: pl.DataFrame) -> dict[Any, Any]:
    keys, found = frame
    result = dict(zip(keys.to_list(), found.to_list(), strict=True))
    assert len(result) == frame.height
    return result


@pytest.mark.parametrize(("aggregation", "scale"), OPTIONS)
def test_states_are_those_of_group_states(aggregation: str, scale: str) -> None:
    found = CHUNKED.group_by("k").agg(lse_state("x", aggregation=aggregation, scale=scale))
    assert found.schema == {"k": pl.Int64, "x": pl.Binary}
    assert by_key(found) == expected(TABLE, aggregation=aggregation, scale=scale)


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_lazy_frames(engine: Any) -> None:
    lazy = CHUNKED.lazy().group_by("k")
    assert by_key(lazy.agg(lse_state(pl.col("x")).alias("state")).collect(engine=engine)) == expected(TABLE)
    assert bits(by_key(lazy.agg(logsumexp("x")).collect(engine=engine))) == bits(values(TABLE))
    found = lazy.agg(logmeanexp("x", scale="decibel")).collect(engine=engine)
    assert bits(by_key(found)) == bits(values(TABLE, "logmeanexp", scale="decibel"))


def test_several_expressions_beside_those_of_polars() -> None:
    found = FRAME.group_by("k").agg(
        logsumexp(pl.col("x")).alias("lse"),
        lse_state(pl.col("x").filter(pl.col("w") > 0)).alias("positive"),
        pl.len(),
    )
    assert bits(by_key(found.select("k", "lse"))) == bits(values(TABLE))
    positive = expected(pa.table(FRAME.filter(pl.col("w") > 0)))
    assert by_key(found.select("k", "positive")) == positive
    assert found["len"].sum() == FRAME.height


def test_two_inputs() -> None:
    found = FRAME.group_by("k").agg(lse_state(pl.struct("x", "w"), aggregation="weighted_logsumexp"))
    assert by_key(found) == expected(TABLE, ["x", "w"], aggregation="weighted_logsumexp")


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("x", [1, None, 3], dtype=pl.Int8),
        pl.Series("x", [1, 2**53, 3], dtype=pl.UInt64),
        pl.Series("x", [1.5, NAN, None], dtype=pl.Float32),
        pl.Series("x", [None, None, None]),
    ],
    ids=lambda column: str(column.dtype),
)
def test_every_type(column: pl.Series) -> None:
    frame = pl.DataFrame({"k": [1, 1, 2], "x": column})
    assert by_key(frame.group_by("k").agg(lse_state("x"))) == expected(pa.table(frame))


def test_decimals_are_summed_exactly() -> None:
    frame = pl.DataFrame({"k": [1, 1], "x": [Decimal("0.10"), Decimal("12345678901234567.25")]})
    found = frame.group_by("k").agg(lse_state("x", aggregation="exact_sum 2"))
    assert by_key(found) == expected(pa.table(frame), aggregation="exact_sum 2")


def test_all_rows_windows_and_no_rows() -> None:
    assert FRAME.select(lse_state("x")).item() == whole(TABLE)
    assert FRAME.clear().select(lse_state("x")).item() == LogSumExpAccumulator().to_bytes()
    assert FRAME.clear().group_by("k").agg(lse_state("x")).schema == {"k": pl.Int64, "x": pl.Binary}
    windows = FRAME.select("k", lse_state("x").over("k"))
    assert windows.height == FRAME.height
    assert by_key(windows.unique()) == expected(TABLE)


def test_states_of_two_calls_merge_to_those_of_one() -> None:
    stored = pl.concat(
        [part.group_by("k").agg(lse_state("x").alias("state")) for part in (FRAME[:7_000], FRAME[7_000:])]
    )
    assert by_key(stored.group_by("k").agg(lse_merge("state"))) == expected(TABLE)
    assert stored.select(lse_merge("state")).item() == whole(TABLE)
    found = stored.group_by("k").agg(lse_value(lse_merge("state")))
    assert bits(by_key(found)) == bits(values(TABLE))
    counts = stored.select(lse_value("state", result="count"))
    assert counts.schema == {"state": pl.Int64}
    assert counts.sum().item() == len(TABLE) - TABLE["x"].null_count


def test_columns_of_states_of_arrow() -> None:
    parts = [group_states(table, ["k"], "x") for table in (TABLE[:7_000], TABLE[7_000:])]
    frame = pl.DataFrame(pa.concat_tables(parts))
    assert by_key(frame.group_by("k").agg(lse_merge("state"))) == expected(TABLE)


def test_missing_states() -> None:
    one = LogSumExpAccumulator([1.0, 2.0]).to_bytes()
    frame = pl.DataFrame({"k": [1, 1, 2], "state": [None, one, None]})
    assert by_key(frame.group_by("k").agg(lse_merge("state"))) == {1: one, 2: None}
    assert frame.select(lse_value("state", result="max"))["state"].to_list() == [None, 2.0, None]
    assert pl.DataFrame({"state": [None]}).select(lse_merge("state")).item() is None


def test_what_is_wrong_is_said() -> None:
    groups = FRAME.with_columns(text=pl.lit("a"), large=pl.lit(2**60)).group_by("k")
    with pytest.raises(TypeError, match=r"lse_state: column 'value': expected integers, float16.* found .*string"):
        groups.agg(lse_state("text"))
    with pytest.raises(ValueError, match=r"logsumexp: column 'value': expected integers within .* found 1152921504"):
        groups.agg(logsumexp("large"))
    with pytest.raises(ValueError, match=r"lse_state: aggregation: expected logsumexp, .* found 'sum'"):
        groups.agg(lse_state("x", aggregation="sum"))
    with pytest.raises(ValueError, match=r"lse_state: expected value and weight for weighted_logsumexp, found 1 col"):
        groups.agg(lse_state("x", aggregation="weighted_logsumexp"))
    with pytest.raises(TypeError, match=r"lse_merge: column 'state': expected states, as binary"):
        groups.agg(lse_merge("x"))
    frame = pl.DataFrame({"state": [None, b"abc"]})
    with pytest.raises(ValueError, match=r"lse_value: column 'state', row 1: expected a multiple of 8 bytes, found 3"):
        frame.select(lse_value("state"))
    with pytest.raises(ValueError, match=r"lse_value: results: expected some of logsumexp, .* found 'median'"):
        FRAME.select(lse_value(lse_state("x"), result="median"))
