"""Columns of states: keys and values of every type, in every layout, against one accumulator per key."""

import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import sealed
from test_keys import (
    BOTH_KERNELS,
    EVERY_TYPE,
    LAID_OUT,
    OTHER_NAN,
    Layout,
    array,
    canonical,
    chunked,
    sliced,
    some_rows,
    with_strange_dictionary,
)

from lse_stream import LogSumExpAccumulator, StateError, state_column
from lse_stream._kernel import SUM
from lse_stream.scales import NATURAL
from lse_stream.state_column import StateType, states_from_arrow, states_to_arrow
from lse_stream.states.aggregations import LOGSUMEXP
from lse_stream.states.arrays import StateArray
from lse_stream.table_functions import (
    finalize,
    group_states,
    log_softmax_of_keys,
    merge_states,
    sort_by_keys,
    take_rows,
)

INF, NAN = math.inf, math.nan
DICTIONARY = pa.dictionary(pa.int8(), pa.string())

Key = tuple[Any, ...]


def records_to_arrow(records: np.ndarray, null: np.ndarray | None = None) -> pa.ChunkedArray:
    return states_to_arrow(StateArray(LOGSUMEXP, NATURAL, (records,), ()), null)


def records_from_arrow(column: pa.ChunkedArray | pa.Array, name: str = "state") -> tuple[np.ndarray, np.ndarray]:
    states, null = states_from_arrow(column, name)
    assert (states.aggregation, states.scale) == (LOGSUMEXP, NATURAL)
    return states.sums[0], np.zeros(len(states), np.bool_) if null is None else null


def record(*values: float) -> bytes:
    state: bytes = LogSumExpAccumulator(values).to_bytes()
    return state


def reference(keys: Sequence[Key], values: Sequence[float | None], skip_nulls: bool = True) -> dict[Key, bytes | None]:
    """The record of each key: one accumulator per key."""
    groups: dict[Key, list[float | None]] = {}
    for key, value in zip(keys, values, strict=True):
        groups.setdefault(key, []).append(value)
    return {
        key: None if None in group and not skip_nulls else record(*(float(x) for x in group if x is not None))
        for key, group in groups.items()
    }


def found(table: pa.Table, keys: Sequence[str]) -> dict[Key, bytes | None]:
    """The record of each key in a table, which has each key once."""
    records = table["state"].cast(pa.binary()).to_pylist()
    columns = [canonical(table[name]) for name in keys]
    result = dict(zip(zip(*columns, strict=True) if keys else [()], records, strict=True))
    assert len(result) == table.num_rows
    return result


def ipc(table: pa.Table) -> bytes:
    """Every byte of a table: schema, dictionaries, bitmaps, values."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    result: bytes = sink.getvalue().to_pybytes()
    return result


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data_type", "values", "layout"), LAID_OUT)
def test_keys_of_every_type(data_type: pa.DataType, values: list[Any], layout: Layout) -> None:
    rows, distinct = some_rows(data_type, values)
    x = np.random.default_rng(2).normal(size=len(rows)).tolist()
    x[::5] = [None] * len(x[::5])
    # Chunks of keys and of values need not end together.
    table = pa.table({"k": layout(rows, data_type), "x": chunked(x, pa.float64(), 5)})
    keys = [(key,) for key in canonical(array(rows, data_type))]
    for skip_nulls in (True, False):
        states = group_states(table, ["k"], "x", skip_nulls=skip_nulls)
        states.validate(full=True)
        assert states.schema == pa.schema([("k", data_type), ("state", StateType())])
        assert found(states, ["k"]) == reference(keys, x, skip_nulls)
        merged = merge_states([states.slice(1), states, states.slice(0, 1)], ["k"])
        assert merged.schema == states.schema
        assert found(merged, ["k"]) == reference(keys * 2, x * 2, skip_nulls)
        ordered = sort_by_keys(merged, ["k"])
        assert ordered.schema == states.schema
        assert canonical(ordered["k"]) == distinct
        assert found(ordered, ["k"]) == found(merged, ["k"])


@pytest.mark.parametrize(("data_type", "values", "layout"), LAID_OUT)
def test_one_sorted_table_whatever_the_order_and_the_layout(
    data_type: pa.DataType, values: list[Any], layout: Layout
) -> None:
    rows, _ = some_rows(data_type, values)
    x = np.random.default_rng(3).normal(size=len(rows))
    whole = sort_by_keys(group_states(pa.table({"k": array(rows, data_type), "x": x}), ["k"], "x"), ["k"])
    order = np.random.default_rng(4).permutation(len(rows))
    laid_out = pa.table({"k": layout([rows[i] for i in order], data_type), "x": x[order]})
    assert ipc(sort_by_keys(group_states(laid_out, ["k"], "x"), ["k"])) == ipc(whole)
    halves = [group_states(laid_out.slice(start, 20), ["k"], "x") for start in range(0, len(rows), 20)]
    assert ipc(sort_by_keys(merge_states(halves, ["k"]), ["k"])) == ipc(whole)
    assert ipc(sort_by_keys(whole, ["k"])) == ipc(whole)


@pytest.mark.parametrize(("data_type", "values"), EVERY_TYPE)
def test_keys_without_rows_and_null_alone(data_type: pa.DataType, values: list[Any]) -> None:
    some = pa.table({"k": array([*values, None], data_type), "x": [1.0] * (len(values) + 1)})
    no_chunks = pa.table({"k": pa.chunked_array([], data_type), "x": pa.chunked_array([], pa.float64())})
    for table in (some.slice(1, 0), no_chunks):
        states = group_states(table, ["k"], "x")
        for none in (states, merge_states(states, ["k"]), sort_by_keys(states, ["k"])):
            assert none.num_rows == 0
            assert none.schema.types == [data_type, StateType()]
        assert finalize(states).schema.types == [data_type, pa.float64(), pa.int64(), pa.float64()]
    alone = group_states(pa.table({"k": array([None, None], data_type), "x": [1.0, 2.0]}), ["k"], "x")
    assert found(alone, ["k"]) == {(None,): record(1.0, 2.0)}
    assert alone.schema.field("k").type == data_type


def test_zeros_and_nans_are_one_key_each() -> None:
    table = pa.table({"k": array([0.0, -0.0, NAN, OTHER_NAN], pa.float64()), "x": [1.0, 1.0, 2.0, 2.0]})
    states = sort_by_keys(group_states(table, ["k"], "x"), ["k"])
    assert states["k"].to_numpy().tobytes() == np.array([0.0, NAN]).tobytes()
    assert finalize(states)["count"].to_pylist() == [2, 2]


def test_dictionaries_that_repeat_differ_or_hold_nulls() -> None:
    chunks = [
        pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2], pa.int8()), ["b", "a", "b"]),
        pa.DictionaryArray.from_arrays(pa.array([1, 0, 0], pa.int8()), ["a", None]),
        pa.DictionaryArray.from_arrays(pa.array([], pa.int8()), ["never"]),
    ]
    table = pa.table({"k": pa.chunked_array(chunks), "x": [1.0] * 7})
    states = sort_by_keys(group_states(table, ["k"], "x"), ["k"])
    assert states["k"].to_pylist() == ["a", "b", None]
    assert finalize(states)["count"].to_pylist() == [3, 2, 2]
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
        rows = list(zip(*(canonical(columns[name]) for name in keys), strict=True))
        assert found(states, keys) == reference(rows, x)
        assert states.column_names == [*keys, "state"]


def test_no_key_columns_are_one_group() -> None:
    table = pa.table({"x": [1.0, None, 2.0]})
    assert found(group_states(table, [], "x"), []) == reference([()] * 3, [1.0, None, 2.0])
    nothing = finalize(group_states(table.slice(0, 0), [], "x"))
    assert nothing.to_pylist() == [{"logsumexp": -math.inf, "count": 0, "max": -math.inf}]
    merged = merge_states([group_states(table, [], "x")] * 3, [])
    assert finalize(merged)["count"].to_pylist() == [6]


# --- merges -----------------------------------------------------------------------------------------------------------

# Each draws keys and what a reference takes them for.
KEY_COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "s": (pa.string(), st.sampled_from(["a", "b", None])),
    "f": (pa.float32(), st.sampled_from([-0.0, 0.0, 1.5, NAN, OTHER_NAN, None])),
    "d": (DICTIONARY, st.sampled_from(["x", "y", None])),
    "i": (pa.int64(), st.sampled_from([-1, 0, 2**62])),
}
ANY_VALUE = st.one_of(st.none(), st.floats(-900, 900), st.sampled_from([INF, -INF, NAN, 1e300, 2.0**60]))
ROWS = st.lists(st.tuples(*(strategy for _, strategy in KEY_COLUMNS.values()), ANY_VALUE), max_size=30)
LAYOUTS_OF_ANY = st.sampled_from([array, chunked, sliced])


def laid_out(rows: Sequence[Key], layouts: Callable[[], Layout]) -> pa.Table:
    types = [*(data_type for data_type, _ in KEY_COLUMNS.values()), pa.float64()]
    columns = [layouts()([row[i] for row in rows], data_type) for i, data_type in enumerate(types)]
    return pa.table(columns, names=[*KEY_COLUMNS, "x"])


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
@settings(max_examples=50)
@given(st.data(), ROWS, st.booleans())
def test_any_split_layout_and_tree_of_merges_gives_the_same_bytes(
    data: st.DataObject, rows: list[Key], skip_nulls: bool
) -> None:
    keys = data.draw(st.lists(st.sampled_from(list(KEY_COLUMNS)), unique=True), label="keys")
    whole = sort_by_keys(group_states(laid_out(rows, lambda: array), keys, "x", skip_nulls=skip_nulls), keys)
    at = [list(KEY_COLUMNS).index(name) for name in keys]
    of_rows = [tuple(canonical([row[i] for i in at])) for row in rows]
    expected = reference(of_rows, [row[-1] for row in rows], skip_nulls)
    assert found(whole, keys) == (expected or ({} if keys else {(): record()}))

    left = data.draw(st.permutations(rows), label="permuted")
    parts: list[pa.Table] = []
    while left or not parts:
        size = data.draw(st.integers(1, max(len(left), 1)))
        table = laid_out(left[:size], lambda: data.draw(LAYOUTS_OF_ANY))
        parts.append(group_states(table, keys, "x", skip_nulls=skip_nulls))
        left = left[size:]
    parts.append(parts[0].slice(0, 0))
    while len(parts) > 1:
        count = data.draw(st.integers(2, len(parts)), label="merged")
        parts = [*parts[count:], merge_states(parts[:count], keys)]
    assert ipc(sort_by_keys(parts[0], keys)) == ipc(whole)


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
@settings(max_examples=50)
@given(st.data(), ROWS, st.booleans())
def test_merging_to_coarser_keys_is_grouping_by_them(data: st.DataObject, rows: list[Key], skip_nulls: bool) -> None:
    table = laid_out(rows, lambda: data.draw(LAYOUTS_OF_ANY))
    fine = group_states(table, list(KEY_COLUMNS), "x", skip_nulls=skip_nulls)
    keys = data.draw(st.lists(st.sampled_from(list(KEY_COLUMNS)), unique=True), label="keys")
    direct = group_states(table, keys, "x", skip_nulls=skip_nulls)
    assert ipc(sort_by_keys(merge_states(fine, keys), keys)) == ipc(sort_by_keys(direct, keys))


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
def test_many_rows_and_keys() -> None:
    rng = np.random.default_rng(5)
    n = 20_000
    x = rng.normal(size=n) * 100
    table = pa.table({"a": rng.integers(0, 300, n), "b": array(rng.choice(["u", "v", "w"], n).tolist(), DICTIONARY)})
    table = table.append_column("x", pa.array(x))
    states = group_states(table, ["a", "b"], "x")
    keys = list(zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True))
    assert found(states, ["a", "b"]) == reference(keys, x.tolist())
    parts = [group_states(table.slice(start, 700), ["a", "b"], "x") for start in range(0, n, 700)]
    assert ipc(sort_by_keys(merge_states(parts, ["a", "b"]), ["a", "b"])) == ipc(sort_by_keys(states, ["a", "b"]))


@pytest.mark.parametrize("keys", [[], ["i"], ["k", "i"]])
def test_a_record_batch_is_a_table(keys: list[str]) -> None:
    batch = pa.RecordBatch.from_pydict({"k": ["b", "a", "b"], "i": [3, 1, 3], "x": [0.0, None, 2.0]})
    table = pa.table(batch)
    assert ipc(group_states(batch, keys, "x")) == ipc(group_states(table, keys, "x"))
    assert ipc(sort_by_keys(batch, keys)) == ipc(sort_by_keys(table, keys))
    [states] = group_states(table, keys, "x").to_batches()
    assert ipc(finalize(states)) == ipc(finalize(pa.table(states)))
    assert ipc(merge_states(states, [])) == ipc(merge_states(pa.table(states), []))
    softmax = log_softmax_of_keys(batch, states, keys, "x")
    assert ipc(softmax) == ipc(log_softmax_of_keys(table, pa.table(states), keys, "x"))


@pytest.mark.parametrize("version", ["foo", "2", 2.0, None])
def test_a_version_is_an_integer(version: Any) -> None:
    with pytest.raises(TypeError, match=f"^version: expected an integer, found {version!r}$"):
        StateType(version)


def test_a_merge_takes_any_iterable_and_leaves_the_tables() -> None:
    states = group_states(pa.table({"k": [1, 2], "x": [1.0, 2.0]}), ["k"], "x")
    before = ipc(states)
    expected = {(1,): record(1.0, 1.0), (2,): record(2.0, 2.0)}
    for tables in ([states, states], (states, states), iter([states, states])):
        assert found(merge_states(tables, ["k"]), ["k"]) == expected
    assert found(merge_states(states, ["k"]), ["k"]) == found(states, ["k"])
    assert ipc(states) == before


def test_a_merge_goes_by_the_names_of_columns() -> None:
    states = group_states(pa.table({"k": [1], "j": ["a"], "x": [1.0]}), ["k", "j"], "x").rename_columns(["k", "j", "t"])
    noted = states.select(["t", "j", "k"]).append_column("note", pa.array(["left out"]))
    not_null = pa.schema(
        [pa.field("k", pa.int64(), nullable=False), states.schema.field("j"), states.schema.field("t")]
    )
    plain = states.set_column(2, "t", states["t"].cast(pa.binary()))
    tables = [states, noted, states.cast(not_null), plain, states.replace_schema_metadata({"a": "b"})]
    merged = merge_states(tables, ["j", "k"], state="t")
    assert merged.schema == pa.schema([("j", pa.string()), ("k", pa.int64()), ("t", StateType())])
    assert merged.schema.metadata is None
    assert merged["t"].cast(pa.binary()).to_pylist() == [record(*[1.0] * 5)]


def test_merge_refuses_tables_that_do_not_fit() -> None:
    states = group_states(pa.table({"k": [1], "x": [1.0]}), ["k"], "x")
    with pytest.raises(ValueError, match="at least one table"):
        merge_states([], ["k"])
    other = group_states(pa.table({"k": ["1"], "x": [1.0]}), ["k"], "x")
    with pytest.raises(TypeError, match="table 1, key column 'k': expected int64 as in table 0, found string"):
        merge_states([states, other], ["k"])
    with pytest.raises(KeyError, match="column 'z'"):
        merge_states(states, ["z"])
    with pytest.raises(TypeError, match="column 'k': expected states, as binary or large_binary, found int64"):
        merge_states(states, [], state="k")


# --- values -----------------------------------------------------------------------------------------------------------

NUMBERS = [
    *(getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(getattr(pa, f"float{bits}")() for bits in (16, 32, 64)),
]
VALUE_LAYOUTS: dict[str, Layout] = {
    "array": array,
    "chunked": chunked,
    "sliced": sliced,
    "dictionary": lambda values, data_type: array(values, pa.dictionary(pa.int8(), data_type)),
    "chunks of dictionaries": lambda values, data_type: chunked(values, pa.dictionary(pa.uint16(), data_type)),
    "strange dictionary": lambda values, data_type: with_strange_dictionary(
        values, pa.dictionary(pa.int8(), data_type)
    ),
}


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("layout", VALUE_LAYOUTS.values(), ids=VALUE_LAYOUTS.keys())
@pytest.mark.parametrize("data_type", NUMBERS, ids=str)
def test_values_of_every_type(data_type: pa.DataType, layout: Layout) -> None:
    least = 0 if str(data_type).startswith("uint") else -100
    values = [1, 2, None, 3, 127, None, least, 1] * 4
    keys = [(key,) for key in [0, 0, 0, 1, 1, 2, 0, 3] * 4]
    table = pa.table({"k": [key for (key,) in keys], "x": layout(values, data_type)})
    for skip_nulls in (True, False):
        assert found(group_states(table, ["k"], "x", skip_nulls=skip_nulls), ["k"]) == reference(
            keys, values, skip_nulls
        )


def test_the_extremes_of_every_type() -> None:
    extremes: list[tuple[pa.DataType, list[float]]] = [
        (pa.int8(), [-128, 127]),
        (pa.uint32(), [0, 2**32 - 1]),
        (pa.int64(), [-(2**53), 2**53]),
        (pa.uint64(), [2**53]),
        (pa.float16(), [-65504.0, 2.0**-24, -0.0, NAN, INF]),
        (pa.float32(), [-(2.0**127), 2.0**-149]),
        (pa.float64(), [-1.7e308, 5e-324, NAN]),
    ]
    for data_type, values in extremes:
        for value in values:
            states = group_states(pa.table({"x": array([value, value], data_type)}), [], "x")
            assert found(states, []) == {(): record(value, value)}


def test_values_that_are_all_null() -> None:
    for data_type in (pa.null(), *NUMBERS, pa.dictionary(pa.int8(), pa.float64()), pa.dictionary(pa.int8(), pa.null())):
        for column in (pa.nulls(3, data_type), pa.chunked_array([pa.nulls(1, data_type), pa.nulls(2, data_type)])):
            table = pa.table({"k": [1, 1, 2], "x": column})
            skipped = group_states(table, ["k"], "x")
            assert found(skipped, ["k"]) == {(1,): record(), (2,): record()}
            assert [row["logsumexp"] for row in finalize(skipped).to_pylist()] == [-INF, -INF]
            kept = group_states(table, ["k"], "x", skip_nulls=False)
            assert found(kept, ["k"]) == {(1,): None, (2,): None}


def test_a_null_inside_a_dictionary_is_null() -> None:
    values = pa.DictionaryArray.from_arrays([0, 1, 0], pa.array([2.0, None]))
    table = pa.table({"k": [1, 1, 2], "x": values})
    for skip_nulls in (True, False):
        states = group_states(table, ["k"], "x", skip_nulls=skip_nulls)
        assert found(states, ["k"]) == reference([(1,), (1,), (2,)], [2.0, None, 2.0], skip_nulls)


def test_nan_is_a_value_and_null_is_none() -> None:
    table = pa.table({"k": [1, 1, 2, 2], "x": array([NAN, 1.0, None, 1.0], pa.float64())})
    for skip_nulls in (True, False):
        nan, none = finalize(sort_by_keys(group_states(table, ["k"], "x", skip_nulls=skip_nulls), ["k"])).to_pylist()
        assert math.isnan(nan["logsumexp"])
        assert math.isnan(nan["max"])
        assert nan["count"] == 2
        results = (1.0, 1, 1.0) if skip_nulls else (None, None, None)
        assert tuple(none[name] for name in ("logsumexp", "count", "max")) == results


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (pa.array([1, 2**53 + 1]), ValueError, r"expected integers within \+-2\^53.*found 9007199254740993$"),
        (pa.array([None, -(2**53) - 1]), ValueError, "found -9007199254740993$"),
        (pa.array([2**64 - 1], pa.uint64()), ValueError, "found 18446744073709551615$"),
        (pa.array([0, 2**53 + 2]).dictionary_encode(), ValueError, "found 9007199254740994$"),
        (pa.array(["1"]), TypeError, "expected integers, float16, .*found Arrow type string$"),
        (pa.array([True]), TypeError, "found Arrow type bool$"),
        (pa.array([[1.0]]), TypeError, "found Arrow type list<item: double>$"),
        (pa.array([Decimal(1)]), TypeError, r"found Arrow type decimal128\(1, 0\)$"),
        (pa.array([0], pa.date32()), TypeError, r"found Arrow type date32\[day\]$"),
        (pa.array([0], pa.duration("s")), TypeError, r"found Arrow type duration\[s\]$"),
        (pa.array(["1"]).dictionary_encode(), TypeError, "found Arrow type dictionary<values=string, .*>$"),
        (pa.nulls(1, pa.dictionary(pa.int8(), pa.list_(pa.int8()))), TypeError, "found Arrow type dictionary<.*>$"),
        (pa.chunked_array([], pa.string()), TypeError, "found Arrow type string$"),
        (records_to_arrow(np.zeros(0, SUM)), TypeError, "found Arrow type lse_stream.state of version 2"),
    ],
    ids=lambda v: str(v.type) if isinstance(v, pa.Array | pa.ChunkedArray) else "",
)
def test_values_that_are_refused(values: Any, error: type[Exception], message: str) -> None:
    for keys in ([], ["k"]):
        with pytest.raises(error, match=f"^column 'x': .*{message}"):
            group_states(pa.table({"k": pa.nulls(len(values)), "x": values}), keys, "x")


def test_a_dictionary_may_hold_values_beyond_that_no_row_has() -> None:
    values = pa.DictionaryArray.from_arrays([0, 0], pa.array([1, 2**60]))
    assert found(group_states(pa.table({"x": values}), [], "x"), []) == {(): record(1.0, 1.0)}


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
def test_null_states_absorb() -> None:
    table = pa.table({"k": [1, 1, 2, 2], "x": array([1.0, None, 2.0, NAN], pa.float64())})
    states = group_states(table, ["k"], "x", skip_nulls=False)
    more = group_states(pa.table({"k": [1, 2], "x": [5.0, 6.0]}), ["k"], "x")
    for order in ([states, more], [more, states], [more, states, more], [merge_states([more, states], ["k"]), more]):
        results = finalize(sort_by_keys(merge_states(order, ["k"]), ["k"])).to_pylist()
        assert results[0] == {"k": 1, "logsumexp": None, "count": None, "max": None}
        assert math.isnan(results[1]["logsumexp"])
    assert finalize(merge_states([more, states], [])).to_pylist() == [{"logsumexp": None, "count": None, "max": None}]


# --- results ----------------------------------------------------------------------------------------------------------


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
def test_results_are_those_of_one_accumulator() -> None:
    groups: list[list[float]] = [[], [-INF], [INF, 1.0], [NAN, INF], [0.0] * 4, [1.0, 2.0, 3.0], [-0.0], [1e300, 1e300]]
    states = pa.table({"state": pa.array([record(*values) for values in groups], pa.binary())})
    results = finalize(states)
    assert results.schema == pa.schema([("logsumexp", pa.float64()), ("count", pa.int64()), ("max", pa.float64())])
    assert [results[name].null_count for name in results.column_names] == [0, 0, 0]
    alone = [LogSumExpAccumulator(values) for values in groups]
    assert results["logsumexp"].to_numpy().tobytes() == np.array([state.value() for state in alone]).tobytes()
    assert results["count"].to_pylist() == [0, 1, 2, 2, 4, 3, 1, 2]
    assert results["max"].to_numpy().tobytes() == np.array([state.max for state in alone]).tobytes()


def test_min_count() -> None:
    states = sort_by_keys(group_states(pa.table({"k": [1, 1, 2, 3], "x": [0.0, 0.0, 7.0, None]}), ["k"], "x"), ["k"])
    assert finalize(states)["logsumexp"].to_pylist() == [math.log(2), 7.0, -INF]
    assert finalize(states, min_count=1)["logsumexp"].to_pylist() == [math.log(2), 7.0, None]
    for min_count, results in ((2, [math.log(2), None, None]), (3, [None] * 3), (2**80, [None] * 3)):
        few = finalize(states, min_count=min_count)
        assert few["logsumexp"].to_pylist() == results
        assert few["count"].to_pylist() == [2, 1, 0]
        assert few["max"].to_pylist() == [0.0, 7.0, -INF]
    with pytest.raises(ValueError, match=r"^min_count: expected 0 or more, found -1$"):
        finalize(states, min_count=-1)


def test_terms_of_nothing_count_toward_min_count_and_nulls_do_not() -> None:
    states = group_states(pa.table({"x": [-INF, NAN, None]}), [], "x")
    assert finalize(states, min_count=2)["logsumexp"].null_count == 0
    assert finalize(states, min_count=3)["logsumexp"].null_count == 1


def test_results_stand_where_the_states_stood() -> None:
    states = pa.table({"a": [1], "total": pa.array([record(1.0, 1.0)], pa.binary()), "b": [None]})
    results = finalize(states, state="total")
    assert results.column_names == ["a", "logsumexp", "count", "max", "b"]
    assert results.drop_columns(["logsumexp", "count", "max"]) == states.drop_columns(["total"])
    for name in ("logsumexp", "count", "max"):  # the column that makes way may have the name of a result
        renamed = states.rename_columns(["a", name, "b"])
        assert finalize(renamed, state=name) == results


# --- names ------------------------------------------------------------------------------------------------------------

TABLE = pa.table({"k": [1], "x": [1.0], "count": [1], "l": [[1]], "s": [{"a": 1}], "state": [1], "max": [2.0]})
COLUMNS = re.escape(str(TABLE.column_names))


@pytest.mark.parametrize(
    ("keys", "value", "error", "message"),
    [
        (["z"], "x", KeyError, f"column 'z': expected once among the columns {COLUMNS}"),
        (["k"], "z", KeyError, f"column 'z': expected once among the columns {COLUMNS}"),
        ("k", "x", TypeError, "^keys: expected a sequence of column names, found the str 'k'$"),
        (["k", "k"], "x", ValueError, "^key column 'k': expected names that differ from each other and from "),
        (["k", "x"], "x", ValueError, "^key column 'x': expected names that differ .* 'x'"),
        (["state"], "x", ValueError, "^key column 'state': expected names that differ .*'state'"),
        (["logsumexp"], "x", ValueError, "^key column 'logsumexp': expected names that differ .*'logsumexp'"),
        (["count"], "x", ValueError, "^key column 'count': expected names that differ .*'count'"),
        (["max"], "x", ValueError, "^key column 'max': expected names that differ .*'max'"),
        (["l"], "x", TypeError, "^key column 'l': expected .*found list<item: int64>$"),
        (["k", "s"], "x", TypeError, "^key column 's': expected .*found struct<a: int64>$"),
    ],
)
def test_columns_that_are_refused(keys: Any, value: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        group_states(TABLE, keys, value)
    with pytest.raises(error, match=message):
        group_states(TABLE.slice(0, 0), keys, value)


def test_the_values_may_have_the_name_of_what_comes_of_them() -> None:
    for value in ("state", "count", "max"):
        assert found(group_states(TABLE, ["k"], value), ["k"]) == {(1,): record(TABLE[value][0].as_py())}


def test_a_column_that_is_there_twice_is_refused() -> None:
    table = pa.table([pa.array([1]), pa.array([2]), pa.array([1.0])], names=["k", "k", "x"])
    with pytest.raises(KeyError, match="column 'k': expected once"):
        group_states(table, ["k"], "x")
    states = pa.table([some_states(1)["state"]] * 2, names=["state", "state"])
    calls: list[Callable[[], object]] = [lambda: merge_states(states, []), lambda: finalize(states)]
    for call in calls:
        with pytest.raises(KeyError, match="column 'state': expected once"):
            call()


@pytest.mark.parametrize("name", ["logsumexp", "count", "max"])
def test_results_do_not_overwrite_columns(name: str) -> None:
    states = group_states(pa.table({"x": [1.0]}), [], "x").append_column(name, pa.array([1]))
    with pytest.raises(ValueError, match=f"column '{name}': expected a name other than the results"):
        finalize(states)


def test_columns_of_states_that_are_not_there_or_not_states() -> None:
    table = pa.table({"k": [1], "fixed": pa.array([record()], pa.binary(88))})
    calls: list[Callable[[str], object]] = [
        lambda name: finalize(table, state=name),
        lambda name: merge_states(table, [], state=name),
    ]
    for call in calls:
        with pytest.raises(KeyError, match=r"column 'z': expected once among the columns \['k', 'fixed'\]"):
            call("z")
        with pytest.raises(TypeError, match=r"^column 'k': expected states, as binary or large_binary, found int64$"):
            call("k")
        with pytest.raises(
            TypeError,
            match=r"^column 'fixed': expected states, as binary or large_binary, found fixed_size_binary\[88\]$",
        ):
            call("fixed")


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (["k", "k"], ValueError, "key column 'k': expected names that differ from each other and from ['state']"),
        (["state"], ValueError, "key column 'state': expected names that differ from each other and from ['state']"),
        ("k", TypeError, "keys: expected a sequence of column names, found the str 'k'"),
    ],
)
def test_keys_to_merge_by_that_are_refused(keys: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        merge_states(some_states(3), keys)


def test_keys_to_sort_by_that_are_refused() -> None:
    states = some_states(3)
    with pytest.raises(KeyError, match="column 'z': expected once among the columns"):
        sort_by_keys(states, ["z"])
    with pytest.raises(ValueError, match="key column 'k': expected names that differ"):
        sort_by_keys(states, ["k", "k"])
    with pytest.raises(TypeError, match="found the str 'k'"):
        sort_by_keys(states, "k")
    with pytest.raises(TypeError, match=r"key column 'state': expected .*found lse_stream.state of"):
        sort_by_keys(states, ["state"])


def test_sorting_takes_the_other_columns_along() -> None:
    table = pa.table(
        {
            "x": [1, 2, 3],
            "state": records_to_arrow(records_from_arrow(some_states(3)["state"])[0], np.array([False, True, False])),
            "k": array(["b", None, "a"], DICTIONARY),
            "list": [[1], [2], None],
        }
    )
    ordered = sort_by_keys(table, ["k"])
    assert ordered.column_names == ["k", "x", "state", "list"]
    rows = table.select(ordered.column_names).to_pylist()
    assert ordered.to_pylist() == [rows[2], rows[0], rows[1]]
    assert ordered.schema == table.select(ordered.column_names).schema


def test_rows_are_taken_as_arrow_takes_them() -> None:
    table = some_states(20).append_column("name", chunked([f"row {i}" for i in range(20)], pa.string()))
    rows = np.array([3, 19, 3, 0])
    for source in (table, table.slice(0, 0), pa.concat_tables([table.slice(7), table])):
        wanted = rows if source.num_rows else rows[:0]
        assert ipc(take_rows(source, wanted)) == ipc(source.take(pa.array(wanted)))


# --- state columns ----------------------------------------------------------------------------------------------------


def some_states(n: int = 50) -> pa.Table:
    rng = np.random.default_rng(3)
    table = pa.table({"k": np.arange(5 * n) % n, "x": rng.normal(size=5 * n)})
    return sort_by_keys(group_states(table, ["k"], "x"), ["k"])


def null_at_thirds(n: int = 50) -> pa.Table:
    """Some states, every third null."""
    states, _ = records_from_arrow(some_states(n)["state"])
    return pa.table({"k": range(n), "state": records_to_arrow(states, np.arange(n) % 3 == 0)})


@pytest.mark.parametrize(
    "states", [some_states(), some_states().slice(0, 0), null_at_thirds()], ids=["50", "0", "null"]
)
def test_states_survive_parquet_ipc_and_pickle(states: pa.Table, tmp_path: Path) -> None:
    pq.write_table(states, tmp_path / "states.parquet", row_group_size=20)
    with pa.ipc.new_file(str(tmp_path / "states.arrow"), states.schema) as writer:
        writer.write_table(states)
    for back in (
        pq.read_table(tmp_path / "states.parquet"),
        pa.ipc.open_file(str(tmp_path / "states.arrow")).read_all(),
        pa.ipc.open_stream(ipc(states)).read_all(),
        pickle.loads(pickle.dumps(states)),
    ):
        assert back.schema.field("state").type == StateType()
        assert back == states
        assert ipc(sort_by_keys(back, ["k"])) == ipc(states)
        assert ipc(finalize(back)) == ipc(finalize(states))
    if states.num_rows:
        assert pq.ParquetFile(tmp_path / "states.parquet").num_row_groups == 3


def test_without_this_package_states_are_plain_binary(tmp_path: Path) -> None:
    states = null_at_thirds(7)
    pq.write_table(states, tmp_path / "states.parquet")
    with pa.ipc.new_file(str(tmp_path / "states.arrow"), states.schema) as writer:
        writer.write_table(states)
    (tmp_path / "states.arrows").write_bytes(ipc(states))
    code = """
import sys, pyarrow as pa, pyarrow.parquet as pq
parquet, file, stream = *sys.argv[1:3], open(sys.argv[3], "rb")
tables = [pq.read_table(parquet), pa.ipc.open_file(file).read_all(), pa.ipc.open_stream(stream).read_all()]
for table in tables:
    column = table["state"]
    print(column.type, [None if row is None else row.hex() for row in column.to_pylist()])
assert "lse_stream" not in sys.modules
pq.write_table(tables[0], parquet)
"""
    files = [str(tmp_path / f"states.{suffix}") for suffix in ("parquet", "arrow", "arrows")]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    records = [row.hex() if row else None for row in states["state"].cast(pa.binary()).to_pylist()]
    assert run.stdout == f"binary {records}\n" * 3
    # What it wrote is of states again here.
    assert pq.read_table(files[0]) == states


def test_states_load_from_any_binary_column_chunked_sliced_and_with_nulls() -> None:
    for table in (some_states(), null_at_thirds()):
        column = table["state"]
        expected, null = records_from_arrow(column)
        assert null.tolist() == [row is None for row in column.to_pylist()]
        storage = column.chunk(0).storage
        records = [(row or record())[8:] for row in storage.to_pylist()]  # a record is a head and the sum
        assert [expected[i : i + 1].tobytes() for i in range(50)] == records
        chunks = [storage[:7], storage[7:7], storage[7:19], storage[19:]]
        for same in (
            column.chunk(0),
            storage,
            storage.cast(pa.large_binary()),
            pa.array(storage.to_pylist(), pa.binary()),
            pa.chunked_array(chunks),
            pa.chunked_array([pa.ExtensionArray.from_storage(StateType(), chunk) for chunk in chunks]),
        ):
            for start, end in ((0, 50), (5, 14), (9, 10), (49, 50), (20, 20)):
                states, nulls = records_from_arrow(same[start:end])
                assert states.dtype == SUM
                assert states.tobytes() == expected[start:end].tobytes()
                assert nulls.tolist() == null[start:end].tolist()


def test_no_states_and_nulls_alone() -> None:
    for data_type in (StateType(), pa.binary(), pa.large_binary()):
        for column in (pa.chunked_array([], data_type), pa.nulls(0, data_type)):
            states, null = records_from_arrow(column)
            assert states.size == null.size == 0
            assert states.dtype == SUM
        states, null = records_from_arrow(pa.nulls(2, data_type))
        assert states.tobytes() == record()[8:] * 2
        assert null.tolist() == [True, True]
    assert records_to_arrow(states[:0]).type == StateType()
    assert len(records_to_arrow(states[:0])) == 0
    assert records_to_arrow(states, np.zeros(2, np.bool_)).null_count == 0
    assert records_to_arrow(states, null).to_pylist() == [None, None]


def test_states_beyond_the_offsets_of_one_chunk_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    table = null_at_thirds()
    states, null = records_from_arrow(table["state"])
    assert state_column._CHUNK_WORDS * 8 < 2**31 <= (state_column._CHUNK_WORDS + 1) * 8
    monkeypatch.setattr(state_column, "_CHUNK_WORDS", 87)
    column = records_to_arrow(states, null)
    assert [len(chunk) for chunk in column.chunks] == [7] * 7 + [1]
    column.validate(full=True)
    assert column.combine_chunks().equals(table["state"].combine_chunks())
    chunks = table.set_column(1, "state", column)
    assert ipc(sort_by_keys(merge_states([chunks, chunks], ["k"]), ["k"])) == ipc(merge_states([table, table], ["k"]))
    assert ipc(finalize(chunks)) == ipc(finalize(table))


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
def test_records_may_start_at_any_byte() -> None:
    rows = pa.array([b"x", record(1.0), record(2.0, 3.0)], pa.binary())[1:]
    assert rows.buffers()[2].address % 8 != 1 == np.frombuffer(rows.buffers()[1], np.int32)[1]
    assert records_from_arrow(rows)[0].flags.aligned
    table = pa.table({"k": [1, 2], "state": rows})
    assert found(merge_states(table, ["k"]), ["k"]) == {(1,): record(1.0), (2,): record(2.0, 3.0)}
    assert found(merge_states(table, []), []) == {(): record(1.0, 2.0, 3.0)}
    assert finalize(table)["count"].to_pylist() == [1, 2]


def edited(field: str, value: Any) -> bytes:
    """A good record but for one field; its check fits."""
    good = record(1.0, 2.0)
    state = np.frombuffer(good[8:], SUM).copy()
    state[field] = value
    return sealed(good[:8] + state.tobytes())


def with_byte(place: int, value: int) -> bytes:
    """A record with another byte, without a check that fits."""
    return record(1.0)[:place] + bytes([value]) + record(1.0)[place + 1 :]


DAMAGED = {
    "short": (record(1.0)[:-1], "expected a multiple of 8 bytes, found 87"),
    "long": (record(1.0) + b"\0", "expected a multiple of 8 bytes, found 89"),
    "nothing": (b"", "expected a record, found 0 bytes"),
    "version": (with_byte(0, 1), "expected version 2, .*, found version 1, .*"),
    "aggregation": (
        with_byte(1, 1),
        r"expected .* aggregation 0 \(logsumexp\), .*, found .* aggregation 1 \(weighted_logsumexp\), .*",
    ),
    "scale": (with_byte(2, 3), r"expected .* scale 0 \(natural\), found .* scale 3 \(decibel\)"),
    "check": (with_byte(4, 7), "expected a record as it was written, found a damaged one"),
    "bytes": (with_byte(16, 7), "expected a record as it was written, found a damaged one"),
    "count": (edited("count", -1), "expected a count of 0 or more, found count -1"),
    "max": (edited("max", -0.0), "expected a max .*, found max -0.0"),
    "ties": (edited("ties", 3), "expected ties from 1 to the count, .*, found ties 3"),
    "second": (edited("second", 2.0), "expected a second .*, found second 2.0"),
    "limbs": (edited("limbs", 0), "expected limbs .*, found limbs .*"),
    "zeros": (bytes(88), "expected version 2, .*, found version 0, .*"),
}


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("damaged", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_state_is_named_by_column_and_row(damaged: bytes, message: str) -> None:
    good = record(1.0)
    rows = [good, None, good, None, damaged, damaged, None]
    plain = pa.array(rows, pa.binary())
    columns: list[tuple[Any, int]] = [
        (plain, 4),
        (plain.cast(pa.large_binary()), 4),
        (pa.ExtensionArray.from_storage(StateType(), plain), 4),
        (plain[2:], 2),
        (pa.chunked_array([rows[:2], [], rows[2:]], pa.binary()), 4),
        (pa.chunked_array([plain[1:3], plain[3:]]), 3),
        (pa.array([row for row in rows if row is not None], pa.binary()), 2),
    ]
    for column, row in columns:
        table = pa.table({"k": range(len(column)), "total": column})
        calls = [
            partial(finalize, table, state="total"),
            partial(merge_states, [table.slice(0, 1), table], ["k"], state="total"),
            partial(records_from_arrow, column, "total"),
        ]
        for call in calls:
            with pytest.raises(StateError, match=f"^(table 1, )?column 'total', row {row}: {message}$") as caught:
                call()
            assert caught.value.row == row


@pytest.mark.parametrize("change", [{"version": 1}, {"aggregation": "weighted"}, {"scale": "furlong"}])
def test_columns_of_another_version_load_and_are_refused_in_use(change: dict[str, Any], tmp_path: Path) -> None:
    [(name, value)] = change.items()
    for rows in ([], [b"of another size"], [None]):
        column = pa.ExtensionArray.from_storage(StateType(**change), pa.array(rows, pa.binary()))
        pq.write_table(pa.table({"k": pa.nulls(len(rows)), "state": column}), tmp_path / "other.parquet")
        table = pq.read_table(tmp_path / "other.parquet")
        assert table["state"].type == StateType(**change)
        assert table["state"].cast(pa.binary()).to_pylist() == rows
        calls: list[Callable[[pa.Table], object]] = [
            finalize,
            lambda table: merge_states(table, ["k"]),
            lambda table: sort_by_keys(table, ["k"]),
            lambda table: records_from_arrow(table["state"]),
        ]
        for call in calls:
            with pytest.raises(StateError, match=f"^column 'state': expected states of .*found .*{name} {value}"):
                call(table)


def test_metadata_says_what_the_records_are_and_may_say_more_in_later_versions() -> None:
    said = {"version": 2, "aggregation": "logsumexp", "scale": "natural"}
    assert json.loads(StateType().__arrow_ext_serialize__()) == said
    assert StateType().extension_name == "lse_stream.state"
    assert StateType().storage_type == pa.binary()
    assert StateType() == StateType()
    assert hash(StateType()) == hash(StateType())
    later = json.dumps({**said, "version": 3, "unit": "new"}).encode()
    assert StateType.__arrow_ext_deserialize__(pa.binary(), later) == StateType(version=3)
    field = pa.field("state", pa.binary(), metadata={
        "ARROW:extension:name": "lse_stream.state", "ARROW:extension:metadata": later,
    })  # fmt: skip
    table = pa.ipc.open_stream(ipc(pa.table({"k": [1], "state": [b"?"]}, schema=pa.schema([("k", pa.int64()), field]))))
    with pytest.raises(StateError, match="found version 3, aggregation logsumexp, scale natural"):
        finalize(table.read_all())


@pytest.mark.parametrize("change", [{"version": 1}, {"aggregation": "weighted"}, {"scale": "decibel"}])
def test_columns_of_different_versions_do_not_become_one(change: dict[str, Any]) -> None:
    ours, other = (pa.table({"state": pa.nulls(1, data_type)}) for data_type in (StateType(), StateType(**change)))
    assert StateType() != StateType(**change)
    assert ours.schema != other.schema
    with pytest.raises(pa.ArrowInvalid, match="Schema at index 1 was different"):
        pa.concat_tables([ours, other])
    with pytest.raises(
        StateError, match=r"^table 1, (column 'state': expected states|states of two scales do not merge)"
    ):
        merge_states([ours, other], [])


def stored_as(data_type: pa.DataType, metadata: bytes) -> pa.Table:
    """A table as another program may write it: our extension's name over another storage type."""
    field = pa.field("state", data_type, metadata={
        "ARROW:extension:name": "lse_stream.state", "ARROW:extension:metadata": metadata,
    })  # fmt: skip
    column = pa.array([record(1.0), None, record(2.0, 3.0)], pa.binary()).cast(data_type)
    table = pa.table([pa.array([1, 2, 3]), column], schema=pa.schema([("k", pa.int64()), field]))
    return pa.ipc.open_stream(ipc(table)).read_all()


def test_states_load_from_the_storage_types_that_others_write() -> None:
    ours = pa.table({"k": [1, 2, 3], "state": [record(1.0), None, record(2.0, 3.0)]})
    for data_type in (pa.large_binary(), pa.binary_view()):
        other = stored_as(data_type, StateType().__arrow_ext_serialize__())
        assert other["state"].type.storage_type == data_type
        assert finalize(other).equals(finalize(ours))
        assert found(merge_states([other, ours], ["k"]), ["k"]) == found(merge_states([ours, ours], ["k"]), ["k"])
    table = stored_as(pa.binary(), StateType().__arrow_ext_serialize__())
    strings = pa.ExtensionArray.from_storage(StateType(storage_type=pa.string()), pa.nulls(3, pa.string()))
    with pytest.raises(TypeError, match=r"^column 'state': expected states, as binary .* of string$"):
        finalize(table.set_column(1, "state", strings))


@pytest.mark.parametrize("metadata", [b"", b"{}", b"[1]", b'{"version": "new", "aggregation": 1, "scale": 2}', b"\xff"])
def test_a_column_of_damaged_metadata_loads_and_is_refused_in_use(metadata: bytes) -> None:
    table = stored_as(pa.binary(), metadata)
    assert table.num_rows == 3
    with pytest.raises(StateError, match=r"^column 'state': expected states .* found version 0, aggregation unknown"):
        finalize(table)


def test_keys_and_counts_of_other_types_are_told() -> None:
    table = pa.table({"k": [1], "x": [0.0]})
    wrong: list[Any] = [None, 5]
    for keys in wrong:
        with pytest.raises(TypeError, match=f"keys: expected a sequence of column names, found the .* {keys}"):
            group_states(table, keys, "x")
    text: Any = "a"
    number: Any = np.int64(2)
    with pytest.raises(TypeError, match="min_count: expected an integer, found 'a'"):
        finalize(group_states(table, ["k"], "x"), min_count=text)
    assert finalize(group_states(table, ["k"], "x"), min_count=number)["logsumexp"].to_pylist() == [None]


# --- tables of others -------------------------------------------------------------------------------------------------


def others_of(table: pa.Table) -> dict[str, Any]:
    """The same rows as other packages have them."""
    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow.dataset as ds

    class Stream:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return table.__arrow_c_stream__(requested_schema)

    return {
        "pandas": pd.DataFrame({name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}),
        "polars": pl.from_arrow(table),
        "duckdb": duckdb.from_arrow(table),
        "dataset": ds.dataset(table),
        "batch": table.combine_chunks().to_batches()[0],
        "stream": Stream(),
    }


def test_tables_of_others_are_taken() -> None:
    table = pa.table({"k": ["a", "b", "a"], "x": [1.0, np.nan, 2.0]})
    expected = finalize(sort_by_keys(group_states(table, ["k"], "x"), ["k"]))
    for name, other in others_of(table).items():
        states = group_states(other, ["k"], "x")
        assert finalize(sort_by_keys(states, ["k"]))["count"].to_pylist() == expected["count"].to_pylist(), name
        softmax = log_softmax_of_keys(other, states, ["k"], "x")
        assert softmax["softmax"][0].as_py() == pytest.approx(1 / (1 + np.e)), name
    states = group_states(table, ["k"], "x")
    by_polars = others_of(states)["polars"]
    assert finalize(merge_states(by_polars, []))["count"].to_pylist() == [3]
    assert finalize(merge_states([by_polars, states], []))["count"].to_pylist() == [6]


@pytest.mark.parametrize("table", [None, 5, [1, 2], "a.parquet", np.zeros(3), {"k": [1]}])
def test_what_is_no_table_is_refused(table: Any) -> None:
    found = f"expected a table of pyarrow, a DataFrame, .* found {type(table).__name__}"
    with pytest.raises(TypeError, match=found):
        group_states(table, [], "x")
    with pytest.raises(TypeError, match=found):
        finalize(table)
