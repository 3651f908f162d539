"""States in groups of pandas: the bytes of ``group_states``, for every dtype."""

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from rows import INF, NAN, OPTIONS, bits, expected, some_rows, values, whole

from lse_stream import LogSumExpAccumulator, StateError, merge_states
from lse_stream.adapters.pandas import logmeanexp, logsumexp, lse_merge, lse_state, lse_value

TABLE = some_rows()
# Nulls stay nulls there.
FRAME = TABLE.to_pandas(types_mapper=pd.ArrowDtype)


@pytest.mark.parametrize(("aggregation", "scale"), OPTIONS)
def test_states_are_those_of_group_states(aggregation: str, scale: str) -> None:
    found = FRAME.groupby("k")["x"].agg(lse_state, aggregation=aggregation, scale=scale)
    assert found.to_dict() == expected(TABLE, aggregation=aggregation, scale=scale)


def test_results_of_groups() -> None:
    table = TABLE.filter(TABLE["x"].is_valid())
    groups = table.to_pandas().groupby("k")["x"]
    assert bits(groups.agg(logsumexp).to_dict()) == bits(values(table))
    assert bits(groups.agg(logsumexp, scale="decibel").to_dict()) == bits(values(table, scale="decibel"))
    several = groups.agg([logsumexp, logmeanexp, lse_state])
    assert several["lse_state"].to_dict() == expected(table)
    assert bits(several["logmeanexp"].to_dict()) == bits(values(table, "logmeanexp"))


@pytest.mark.parametrize(
    ("series", "same"),
    [
        (pd.Series([1.0, NAN, -INF]), [1.0, NAN, -INF]),
        (pd.Series([1.0, 2.0], dtype="float32"), [1.0, 2.0]),
        (pd.Series([1, 2, 3]), [1.0, 2.0, 3.0]),
        (pd.Series([1, None, 3], dtype="Int64"), [1.0, 3.0]),
        (pd.Series([1.5, None], dtype="Float64"), [1.5]),
        (pd.Series(pa.array([NAN, None, 2.0]), dtype=pd.ArrowDtype(pa.float64())), [NAN, 2.0]),
        (pd.Series([3, 3, 4], dtype="category"), [3.0, 3.0, 4.0]),
        (pd.Series([], dtype="float64"), []),
        (pd.Series([None, None], dtype="Int64"), []),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_every_dtype(series: Any, same: list[float]) -> None:
    state = LogSumExpAccumulator(same)
    assert lse_state(series) == state.to_bytes()
    assert bits({0: logsumexp(series)}) == bits({0: state.value()})


def test_nan_in_a_nullable_array_is_a_value() -> None:
    series = pd.Series([0.0, 1.0, None], dtype="Float64") / pd.Series([0.0, 1.0, 1.0], dtype="Float64")
    assert series.isna().tolist() == [False, False, True]  # 0 / 0 is NaN, and no null
    assert lse_state(series) == LogSumExpAccumulator([NAN, 1.0]).to_bytes()


def test_groups_that_are_not_there() -> None:
    frame = pd.DataFrame({"k": pd.Categorical(["a", "a"], categories=["a", "b"]), "x": [0.0, 1.0]})
    groups = frame.groupby("k", observed=False)["x"]
    assert groups.agg(logsumexp).to_dict()["b"] == -INF
    assert groups.agg(lse_state).to_dict()["b"] == LogSumExpAccumulator().to_bytes()


def test_states_of_two_calls_merge_to_those_of_one() -> None:
    parts = [part.groupby("k")["x"].agg(lse_state) for part in (FRAME[:7_000], FRAME[7_000:])]
    stored = pd.concat(parts)
    assert stored.groupby(level=0).agg(lse_merge).to_dict() == expected(TABLE)
    assert lse_merge(stored) == lse_merge(stored.sample(frac=1.0, random_state=1)) == whole(TABLE)
    assert bits(lse_value(stored.groupby(level=0).agg(lse_merge)).to_dict()) == bits(values(TABLE))
    frame = stored.rename("state").reset_index()
    assert merge_states(frame, [])["state"].cast(pa.binary()).to_pylist() == [whole(TABLE)]


def test_missing_states() -> None:
    one = LogSumExpAccumulator([1.0, 2.0]).to_bytes()
    for missing in (None, NAN, pd.NA):
        assert lse_merge(pd.Series([missing, one])) == one
        assert lse_merge(pd.Series([missing], dtype=object)) is None
        assert lse_value(missing) is None
    assert lse_merge(pd.Series([], dtype=object)) is None
    arrow = pd.Series(pa.array([one, None]), dtype=pd.ArrowDtype(pa.binary()))
    assert lse_merge(arrow) == one
    assert lse_value(arrow, "count").tolist()[0] == 2


def test_results_of_states() -> None:
    states = pd.Series([LogSumExpAccumulator([1.0, 2.0]).to_bytes(), None], index=["a", "b"], name="s")
    found = lse_value(states, "max")
    assert (found.name, found.index.tolist()) == ("s", ["a", "b"])
    assert found["a"] == 2.0
    assert pd.isna(found["b"])
    counts = lse_value(states[:1], "count")
    assert counts.dtype == "int64"
    assert lse_value(states["a"], "count") == 2


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(TypeError, match=r"lse_state: expected a series of pandas, found list"):
        lse_state([1.0])
    with pytest.raises(TypeError, match=r"logsumexp: column 'value': expected integers, float16.* found .*string"):
        FRAME.assign(x="a").groupby("k")["x"].agg(logsumexp)
    with pytest.raises(ValueError, match=r"logsumexp: column 'value': expected integers within .* found 1152921504"):
        logsumexp(pd.Series([2**60]))
    with pytest.raises(ValueError, match=r"lse_state: aggregation: expected logsumexp, .* found 'sum'"):
        lse_state(pd.Series([1.0]), aggregation="sum")
    with pytest.raises(ValueError, match=r"lse_state: expected value and weight for weighted_logsumexp, found 1 col"):
        lse_state(pd.Series([1.0]), aggregation="weighted_logsumexp")
    record = bytearray(LogSumExpAccumulator([1.0]).to_bytes())
    record[40] ^= 1
    with pytest.raises(StateError, match=r"lse_merge: column 'state', row 1: "):
        lse_merge(pd.Series([None, bytes(record)]))
    with pytest.raises(StateError, match=r"lse_value: column 'state', row 0: expected a multiple of 8 bytes, found 3"):
        lse_value(b"abc")
    with pytest.raises(TypeError, match=r"lse_merge: column 'state': expected states, as binary .* found double"):
        lse_merge(pd.Series([1.0]))
    with pytest.raises(StateError, match=r"lse_merge: column 'state', row 1: .*scale"):
        lse_merge(pd.Series([lse_state(pd.Series([1.0])), lse_state(pd.Series([1.0]), scale="decibel")]))
    with pytest.raises(ValueError, match=r"lse_value: results: expected some of logsumexp, .* found 'median'"):
        lse_value(lse_state(pd.Series([1.0])), "median")
