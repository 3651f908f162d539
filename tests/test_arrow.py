"""Columns of states: keys and values of every type, in every layout, against one accumulator per key."""

import datetime as dt
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_stream import LogSumExpAccumulator, StateError
from lse_stream.arrow import (
    StateType,
    finalise,
    group_states,
    merge_states,
    sort_by_keys,
    states_from_arrow,
    states_to_arrow,
)
from lse_stream.keys import shard_of_keys

NAN = math.nan
DICTIONARY = pa.dictionary(pa.int8(), pa.string())

# Values in ascending order: the order in which sorted tables must have them.
KEYS: list[tuple[pa.DataType, list[Any]]] = [
    *((getattr(pa, f"int{bits}")(), [-(2 ** (bits - 1)), -1, 0, 2 ** (bits - 1) - 1]) for bits in (8, 16, 32, 64)),
    *((getattr(pa, f"uint{bits}")(), [0, 1, 2 ** (bits - 1) - 1]) for bits in (8, 16, 32, 64)),
    (pa.float16(), [np.float16(-2), np.float16(0.5), np.float16(NAN)]),
    (pa.float32(), [-math.inf, -1.5, 0.0, 2.0, NAN]),
    (pa.float64(), [-math.inf, -1e300, 0.0, 5e-324, math.inf, NAN]),
    (pa.bool_(), [False, True]),
    (pa.string(), ["", "Z", "a", "größer", "日本"]),
    (pa.large_string(), ["", "a", "b"]),
    (pa.string_view(), ["", "a", "a long string that is not inlined"]),
    (pa.binary(), [b"", b"\x00", b"\xff"]),
    (pa.large_binary(), [b"a", b"b"]),
    (pa.binary_view(), [b"a", b"b"]),
    (pa.binary(3), [b"abc", b"abd"]),
    (pa.date32(), [dt.date(1969, 1, 1), dt.date(2024, 2, 29)]),
    (pa.date64(), [dt.date(1969, 1, 1), dt.date(2024, 2, 29)]),
    (pa.time32("s"), [dt.time(1), dt.time(2)]),
    (pa.time64("us"), [dt.time(1), dt.time(2, 3, 4, 5)]),
    (pa.timestamp("us"), [dt.datetime(1960, 1, 1), dt.datetime(2024, 1, 1)]),
    (
        pa.timestamp("ms", "Europe/Berlin"),
        [dt.datetime(2023, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)],
    ),
    (pa.duration("ms"), [dt.timedelta(-1), dt.timedelta(1)]),
    (pa.decimal32(5, 2), [Decimal("-1.50"), Decimal("2.00")]),
    (pa.decimal64(10, 2), [Decimal("-1.50"), Decimal("2.00")]),
    (pa.decimal128(20, 2), [Decimal("-1.50"), Decimal("2.00")]),
    (pa.decimal256(50, 2), [Decimal("-1.50"), Decimal("2.00")]),
    (DICTIONARY, ["a", "b", "c"]),
    (pa.dictionary(pa.int32(), pa.int64(), ordered=True), [-5, 7]),
]
KEY_IDS = [str(data_type) for data_type, _ in KEYS]


def array(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(data_type):
        plain = pa.array(values, data_type.value_type).dictionary_encode()
        indices = plain.indices.cast(data_type.index_type)
        return pa.DictionaryArray.from_arrays(indices, plain.dictionary, ordered=data_type.ordered)
    if pa.types.is_float16(data_type):
        values = [None if value is None else np.float16(value) for value in values]
    return pa.array(values, data_type, from_pandas=False)


def canonical(value: Any) -> Any:
    """A key as the reference groups by it."""
    return "NaN" if isinstance(value, float | np.floating) and math.isnan(value) else value


def reference(keys: list[tuple[Any, ...]], values: list[float | None]) -> dict[tuple[Any, ...], bytes]:
    states: dict[tuple[Any, ...], LogSumExpAccumulator] = {}
    for key, value in zip(keys, values, strict=True):
        state = states.setdefault(tuple(map(canonical, key)), LogSumExpAccumulator())
        if value is not None:
            state.add(float(value))
    return {key: state.to_bytes() for key, state in states.items()}


def found(table: pa.Table, keys: Sequence[str]) -> dict[tuple[Any, ...], bytes]:
    states, null = states_from_arrow(table["state"])
    assert not null.any()
    rows = zip(*(table[name].to_pylist() for name in keys), strict=True) if keys else [()]
    result = {tuple(map(canonical, row)): states[i : i + 1].tobytes() for i, row in enumerate(rows)}
    assert len(result) == table.num_rows
    return result


LAYOUTS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "plain": lambda table: table,
    "chunked": lambda table: pa.concat_tables([table.slice(i, 7) for i in range(0, max(table.num_rows, 1), 7)]),
    "sliced": lambda table: pa.concat_tables([table.slice(0, 3), table, table.slice(1, 2)]).slice(3, table.num_rows),
    "combined": lambda table: table.combine_chunks(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("data_type", "values"), KEYS, ids=KEY_IDS)
def test_keys_of_every_type(data_type: pa.DataType, values: list[Any], layout: str) -> None:
    rng = np.random.default_rng(1)
    for nulls in ([], [None]):
        pool = [*values, *nulls]
        chosen = [pool[i] for i in rng.integers(0, len(pool), 40)] + pool
        x = rng.normal(size=len(chosen)).tolist()
        table = LAYOUTS[layout](pa.table({"k": array(chosen, data_type), "x": x}))
        states = group_states(table, ["k"], "x")
        assert states.schema.field("k").type == data_type
        assert found(states, ["k"]) == reference([(key,) for key in chosen], x)
        ordered = sort_by_keys(states, ["k"])
        assert ordered.schema == states.schema
        expected = table["k"].to_pylist()[-len(pool) :]
        assert list(map(canonical, ordered["k"].to_pylist())) == list(map(canonical, expected))
        assert found(ordered, ["k"]) == found(states, ["k"])


@pytest.mark.parametrize(("data_type", "values"), KEYS, ids=KEY_IDS)
def test_keys_without_rows_and_null_alone(data_type: pa.DataType, values: list[Any]) -> None:
    empty = pa.table({"k": array(values, data_type), "x": [1.0] * len(values)}).slice(1, 0)
    for table in (empty, pa.table({"k": pa.chunked_array([], data_type), "x": pa.chunked_array([], pa.float64())})):
        states = sort_by_keys(group_states(table, ["k"], "x"), ["k"])
        assert states.num_rows == 0
        assert states.schema.types == [data_type, StateType()]
        assert shard_of_keys(states, ["k"], 3).size == 0
    alone = group_states(pa.table({"k": array([None, None], data_type), "x": [1.0, 2.0]}), ["k"], "x")
    assert alone["k"].to_pylist() == [None]
    assert found(alone, ["k"]) == reference([(None,), (None,)], [1.0, 2.0])


def test_zeros_and_nans_are_one_key_each() -> None:
    other_nan = np.array([0xFFF8000000000123], np.uint64).view(np.float64)[0]
    keys = pa.array(np.array([0.0, -0.0, NAN, other_nan]), from_pandas=False)
    states = sort_by_keys(group_states(pa.table({"k": keys, "x": [1.0, 1.0, 2.0, 2.0]}), ["k"], "x"), ["k"])
    assert states["k"].to_numpy().tobytes() == np.array([0.0, NAN]).tobytes()
    assert finalise(states)["count"].to_pylist() == [2, 2]


def test_dictionaries_that_repeat_differ_or_hold_nulls() -> None:
    chunks = [
        pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2], pa.int8()), ["b", "a", "b"]),
        pa.DictionaryArray.from_arrays(pa.array([1, 0, 0], pa.int8()), ["a", None]),
        pa.DictionaryArray.from_arrays(pa.array([], pa.int8()), ["never"]),
    ]
    table = pa.table({"k": pa.chunked_array(chunks), "x": [1.0] * 7})
    states = sort_by_keys(group_states(table, ["k"], "x"), ["k"])
    assert states["k"].to_pylist() == ["a", "b", None]
    assert finalise(states)["count"].to_pylist() == [3, 2, 2]
    assert states["k"].chunk(0).dictionary.to_pylist() == ["a", "b"]


def test_more_values_than_a_merged_dictionary_can_index() -> None:
    tables = [
        group_states(pa.table({"k": array([f"{i}-{j}" for j in range(100)], DICTIONARY), "x": [0.0] * 100}), ["k"], "x")
        for i in range(2)
    ]
    with pytest.raises(ValueError, match=r"key column .k.: expected at most .* as int8 can index, found 200"):
        merge_states(tables, ["k"])


def test_several_key_columns() -> None:
    rng = np.random.default_rng(2)
    n = 3000
    columns = {
        "a": [None if v == 3 else int(v) for v in rng.integers(0, 4, n)],
        "b": [["x", "y", None][v] for v in rng.integers(0, 3, n)],
        "c": rng.choice([0.5, NAN, -1.0], n).tolist(),
    }
    x = rng.normal(size=n).tolist()
    table = pa.table({**columns, "x": x})
    for keys in (["a", "b"], ["c", "a", "b"], ["b", "c"]):
        states = group_states(table, keys, "x")
        rows = list(zip(*(columns[name] for name in keys), strict=True))
        assert found(states, keys) == reference(rows, x)
        assert states.column_names == [*keys, "state"]


def test_no_key_columns_are_one_group() -> None:
    table = pa.table({"x": [1.0, None, 2.0]})
    assert found(group_states(table, [], "x"), []) == reference([()] * 3, [1.0, None, 2.0])
    nothing = finalise(group_states(table.slice(0, 0), [], "x"))
    assert nothing.to_pylist() == [{"logsumexp": -math.inf, "count": 0, "max": -math.inf}]
    merged = merge_states([group_states(table, [], "x")] * 3, [])
    assert finalise(merged)["count"].to_pylist() == [6]


# --- merges -----------------------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        st.sampled_from([-0.0, 0.0, 1.5, NAN, None]),
        st.one_of(st.none(), st.floats(-900, 900), st.sampled_from([math.inf, -math.inf, NAN, 1e300])),
    ),
    max_size=40,
)


def as_table(rows: list[tuple[Any, Any, Any]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    types = (pa.string(), pa.float64(), pa.float64())
    return pa.table([array(c, t) for c, t in zip(columns, types, strict=True)], names=["k", "f", "x"])


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    result: bytes = sink.getvalue().to_pybytes()
    return result


@given(ROWS, st.randoms(use_true_random=False), st.booleans())
def test_any_split_and_merge_gives_the_same_table(rows: list[Any], random: Any, skip_nulls: bool) -> None:
    keys = ["k", "f"]
    whole = sort_by_keys(group_states(as_table(rows), keys, "x", skip_nulls=skip_nulls), keys)
    shuffled = rows[:]
    random.shuffle(shuffled)
    parts = [group_states(as_table([]), keys, "x")]
    while shuffled:
        size = random.randint(1, len(shuffled))
        parts.append(group_states(as_table(shuffled[:size]), keys, "x", skip_nulls=skip_nulls))
        del shuffled[:size]
    while len(parts) > 1:
        count = random.randint(2, len(parts))
        parts = [*parts[count:], merge_states(parts[:count], keys)]
    assert ipc(sort_by_keys(parts[0], keys)) == ipc(whole)
    coarse = merge_states(whole, ["k"])
    direct = group_states(as_table(rows), ["k"], "x", skip_nulls=skip_nulls)
    assert ipc(sort_by_keys(coarse, ["k"])) == ipc(sort_by_keys(direct, ["k"]))


def test_merge_refuses_tables_that_do_not_fit() -> None:
    states = group_states(pa.table({"k": [1], "x": [1.0]}), ["k"], "x")
    with pytest.raises(ValueError, match="at least one table"):
        merge_states([], ["k"])
    other = group_states(pa.table({"k": ["1"], "x": [1.0]}), ["k"], "x")
    with pytest.raises(TypeError, match="table 1, key column 'k': expected int64 as in table 0, found string"):
        merge_states([states, other], ["k"])
    with pytest.raises(KeyError, match="column 'z'"):
        merge_states(states, ["z"])
    with pytest.raises(TypeError, match="column 'k': expected states, found int64"):
        merge_states(states, [], state="k")


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "data_type",
    [*(getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)), pa.float16(), pa.float32(),
     pa.float64(), pa.dictionary(pa.int8(), pa.float64()), pa.dictionary(pa.int16(), pa.int32())],
    ids=str,
)  # fmt: skip
def test_values_of_every_type(data_type: pa.DataType, layout: str) -> None:
    values: list[float | None] = [1, 2, None, 3, 5, None, 7, 1] * 4
    keys = [0, 0, 0, 1, 1, 2, 0, 1] * 4
    table = LAYOUTS[layout](pa.table({"k": keys, "x": array(values, data_type)}))
    assert found(group_states(table, ["k"], "x"), ["k"]) == reference([(key,) for key in keys], values)


def test_values_that_are_all_null() -> None:
    for data_type in (pa.null(), pa.float64(), pa.int32(), pa.dictionary(pa.int8(), pa.float64())):
        table = pa.table({"k": [1, 1, 2], "x": pa.nulls(3, data_type)})
        skipped = finalise(sort_by_keys(group_states(table, ["k"], "x"), ["k"]))
        assert skipped.to_pydict() == {
            "k": [1, 2],
            "logsumexp": [-math.inf] * 2,
            "count": [0, 0],
            "max": [-math.inf] * 2,
        }
        kept = finalise(group_states(table, ["k"], "x", skip_nulls=False))
        assert kept["logsumexp"].null_count == 2


def test_a_null_inside_a_dictionary_is_null() -> None:
    values = pa.DictionaryArray.from_arrays([0, 1, 0], pa.array([2.0, None]))
    table = pa.table({"k": [1, 1, 2], "x": values})
    assert found(group_states(table, ["k"], "x"), ["k"]) == reference([(1,), (1,), (2,)], [2.0, None, 2.0])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (pa.array([1, 2**53 + 1]), ValueError, "column 'x': .*within .*found 9007199254740993"),
        (pa.array([2**64 - 1], pa.uint64()), ValueError, "column 'x': .*found 18446744073709551615"),
        (pa.array(["1"]), TypeError, "column 'x': expected integers.*found .*string"),
        (pa.array([True]), TypeError, "column 'x': .*found .*bool"),
        (pa.array([[1.0]]), TypeError, "column 'x': .*found .*list"),
        (pa.array([Decimal(1)]), TypeError, "column 'x': .*found .*decimal"),
    ],
    ids=["int64", "uint64", "string", "bool", "list", "decimal"],
)
def test_values_that_are_refused(values: pa.Array, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        group_states(pa.table({"x": values}), [], "x")


def test_null_states_absorb() -> None:
    table = pa.table({"k": [1, 1, 2, 2], "x": [1.0, None, 2.0, NAN]})
    states = group_states(table, ["k"], "x", skip_nulls=False)
    more = group_states(pa.table({"k": [1, 2], "x": [5.0, 6.0]}), ["k"], "x")
    for order in ([states, more], [more, states], [more, states, more]):
        results = finalise(sort_by_keys(merge_states(order, ["k"]), ["k"])).to_pylist()
        assert results[0] == {"k": 1, "logsumexp": None, "count": None, "max": None}
        assert math.isnan(results[1]["logsumexp"])
        assert results[1]["count"] == 2 + len(order) - 1


def test_min_count() -> None:
    states = sort_by_keys(group_states(pa.table({"k": [1, 1, 2, 3], "x": [0.0, 0.0, 7.0, None]}), ["k"], "x"), ["k"])
    assert finalise(states)["logsumexp"].to_pylist() == [math.log(2), 7.0, -math.inf]
    assert finalise(states, min_count=1)["logsumexp"].to_pylist() == [math.log(2), 7.0, None]
    results = finalise(states, min_count=2)
    assert results["logsumexp"].to_pylist() == [math.log(2), None, None]
    assert results["count"].to_pylist() == [2, 1, 0]
    assert results["max"].to_pylist() == [0.0, 7.0, -math.inf]
    with pytest.raises(ValueError, match="min_count: expected 0 or more, found -1"):
        finalise(states, min_count=-1)


# --- names ------------------------------------------------------------------------------------------------------------

TABLE = pa.table({"k": [1], "x": [1.0], "count": [1], "l": [[1]], "s": [{"a": 1}]})


@pytest.mark.parametrize(
    ("keys", "value", "error", "message"),
    [
        (["z"], "x", KeyError, "column 'z'"),
        (["k"], "z", KeyError, "column 'z'"),
        ("k", "x", TypeError, "keys: expected a sequence of column names, found the str 'k'"),
        (["k", "k"], "x", ValueError, "key column 'k'"),
        (["x"], "x", ValueError, "key column 'x'"),
        (["count"], "x", ValueError, "key column 'count'"),
        (["l"], "x", TypeError, "key column 'l': expected .*found list"),
        (["s"], "x", TypeError, "key column 's': expected .*found struct"),
    ],
)
def test_columns_that_are_refused(keys: Any, value: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        group_states(TABLE, keys, value)


def test_a_column_that_is_there_twice_is_refused() -> None:
    table = pa.table([pa.array([1]), pa.array([2]), pa.array([1.0])], names=["k", "k", "x"])
    with pytest.raises(KeyError, match="column 'k': expected once"):
        group_states(table, ["k"], "x")


def test_results_do_not_overwrite_columns() -> None:
    states = group_states(pa.table({"x": [1.0]}), [], "x").append_column("max", pa.array([1]))
    with pytest.raises(ValueError, match="'max'"):
        finalise(states)


# --- state columns ----------------------------------------------------------------------------------------------------


def some_states(n: int = 50) -> pa.Table:
    rng = np.random.default_rng(3)
    table = pa.table({"k": rng.integers(0, n, 5 * n), "x": rng.normal(size=5 * n)})
    return sort_by_keys(group_states(table, ["k"], "x"), ["k"])


def test_states_survive_parquet_and_ipc(tmp_path: Path) -> None:
    states = some_states()
    pq.write_table(states, tmp_path / "states.parquet")
    with pa.ipc.new_file(str(tmp_path / "states.arrow"), states.schema) as writer:
        writer.write_table(states)
    for back in (
        pq.read_table(tmp_path / "states.parquet"),
        pa.ipc.open_file(str(tmp_path / "states.arrow")).read_all(),
        pa.ipc.open_stream(ipc(states)).read_all(),
    ):
        assert back.schema.field("state").type == StateType()
        assert ipc(back) == ipc(states)
    code = (
        "import sys, pyarrow.parquet as pq\n"
        f"t = pq.read_table({str(tmp_path / 'states.parquet')!r})\n"
        "assert 'lse_stream' not in sys.modules\n"
        "print(t['state'].type, len(t['state'][0].as_py()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "binary 80\n"


def test_states_as_plain_binary_slices_and_with_nulls() -> None:
    states = some_states()
    expected, _ = states_from_arrow(states["state"])
    storage = states["state"].chunk(0).storage
    for column in (storage, storage.cast(pa.large_binary()), pa.chunked_array([storage[:7], storage[7:]])):
        assert states_from_arrow(column)[0].tobytes() == expected.tobytes()
    assert states_from_arrow(states["state"].slice(5, 9))[0].tobytes() == expected[5:14].tobytes()
    assert states_from_arrow(pa.chunked_array([], StateType()))[0].size == 0
    mask = np.arange(expected.size) % 3 == 0
    with_nulls = states_to_arrow(expected, mask)
    assert with_nulls.null_count == mask.sum()
    for column in (with_nulls, pa.array(with_nulls.to_pylist(), pa.binary())):
        found_states, null = states_from_arrow(column)
        assert (null == mask).all()
        assert found_states[~mask].tobytes() == expected[~mask].tobytes()
        assert (found_states[mask]["count"] == 0).all()


def test_damaged_states_are_named() -> None:
    good = LogSumExpAccumulator([1.0]).to_bytes()
    newer = b"\x02" + good[1:]
    for rows, message in (
        ([good, None, good[:-1]], "column 'total', row 2: expected a state of 80 bytes, found 79"),
        ([good, None, newer], "column 'total', row 2: expected version 1, found version 2"),
        ([good, good[:16] + bytes(64)], "column 'total', row 1: expected .* found limbs"),
    ):
        for column in (pa.array(rows, pa.binary()), pa.chunked_array([rows[:1], rows[1:]], pa.binary())):
            with pytest.raises(StateError, match=message) as caught:
                finalise(pa.table({"total": column}), state="total")
            assert caught.value.row == len(rows) - 1


@pytest.mark.parametrize("change", [{"version": 2}, {"kind": "weighted"}, {"scale": "decibel"}])
def test_columns_of_another_version_load_and_are_refused_in_use(change: dict[str, Any], tmp_path: Path) -> None:
    column = pa.ExtensionArray.from_storage(StateType(**change), pa.array([], pa.binary()))
    pq.write_table(pa.table({"state": column}), tmp_path / "other.parquet")
    table = pq.read_table(tmp_path / "other.parquet")
    [(name, value)] = change.items()
    with pytest.raises(StateError, match=f"column 'state': expected states of version 1, .*found .*{name} {value}"):
        finalise(table)
    assert json.loads(StateType().__arrow_ext_serialize__())["version"] == 1


# --- shards -----------------------------------------------------------------------------------------------------------

# (type, keys, their shards of 1000), computed once: a change would move stored keys to other files.
SHARDS: list[tuple[pa.DataType, list[Any], list[int]]] = [
    (pa.int64(), [0, 1, -1, 2**40, None], [55, 158, 767, 996, 535]),
    (pa.float64(), [0.0, 1.5, NAN, math.inf, None], [55, 358, 463, 993, 535]),
    (pa.string(), ["", "a", "größer", None], [55, 189, 566, 535]),
    (pa.binary(), [b"", b"a"], [55, 189]),
    (pa.bool_(), [False, True], [55, 158]),
    (pa.decimal128(10, 2), [Decimal("1.50"), Decimal("-2.00")], [23, 454]),
    (pa.timestamp("us"), [dt.datetime(2024, 1, 1)], [79]),
    (pa.date32(), [dt.date(2024, 1, 1)], [692]),
]


@pytest.mark.parametrize(("data_type", "values", "shards"), SHARDS, ids=[str(case[0]) for case in SHARDS])
def test_shards_never_change(data_type: pa.DataType, values: list[Any], shards: list[int]) -> None:
    assert shard_of_keys(pa.table({"k": array(values, data_type)}), ["k"], 1000).tolist() == shards


def test_shards_depend_on_the_value_alone() -> None:
    def shards(*columns: pa.Array) -> list[int]:
        names = [str(i) for i in range(len(columns))]
        result: list[int] = shard_of_keys(pa.table(list(columns), names=names), names, 64).tolist()
        return result

    numbers = [3, None, -7, 100]
    assert shards(array(numbers, pa.int8())) == shards(array(numbers, pa.int64())) == shards(array(numbers, pa.int16()))
    texts = ["x", None, "yy", "x"]
    expected = shards(array(texts, pa.string()))
    for data_type in (pa.large_string(), pa.string_view(), DICTIONARY):
        assert shards(array(texts, data_type)) == expected
    assert expected[0] == expected[3]
    assert shards(pa.array([0.0, -0.0]))[0] == shards(pa.array([0.0, -0.0]))[1]
    assert shards(array(numbers, pa.int64()), array(texts, pa.string())) != expected
    assert shard_of_keys(pa.table({"k": [1, 2]}), [], 5).tolist() == [0, 0]


def test_keys_spread_evenly() -> None:
    for keys in (pa.array(np.arange(20_000)), pa.array(np.arange(20_000) * 0.5), pa.array(map(str, range(20_000)))):
        sizes = np.bincount(shard_of_keys(pa.table({"k": keys}), ["k"], 16), minlength=16)
        # 20,000 / 16 = 1,250, with a standard deviation of 34
        assert 1_000 < sizes.min() <= sizes.max() < 1_500
