"""Tables of states, however their rows came: in one call, batch by batch, or merged from many accumulators."""

import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import random_values
from model import sealed
from test_keys import (
    BOTH_KERNELS,
    EVERY_TYPE,
    NAN,
    OTHER_NAN,
    array,
    canonical,
    chunked,
    sliced,
    some_rows,
    with_strange_dictionary,
)
from test_table_functions import ipc

from lse_stream import StateError, key_accumulators
from lse_stream._kernel.constants import VERSION
from lse_stream.columns import value_type_of
from lse_stream.key_accumulators import RowAccumulator, StateAccumulator
from lse_stream.keys import shard_of_keys
from lse_stream.look_up import LookUp
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.state_column import StateType
from lse_stream.state_table import StateTable
from lse_stream.states.aggregations import AGGREGATIONS, leave_one_out

Rows = dict[str, list[Any]]
Draw = Callable[[np.random.Generator, int], list[Any]]

NAMES = {"value": "x", "weight": "w", "target": "t"}
SCALES = ("natural", "decibel", "base 4", "temperature 0.5")
AGGREGATES = {
    f"{aggregation.name}, {scale}": ColumnAggregation.of(
        aggregation.name, scale, [NAMES[role] for role in aggregation.inputs]
    )
    for aggregation in (*AGGREGATIONS.values(), leave_one_out(40))
    for scale in (SCALES if aggregation.has_scales else SCALES[:1])
}
EVERY_AGGREGATE = pytest.mark.parametrize("aggregation", AGGREGATES.values(), ids=AGGREGATES.keys())

DICTIONARY = pa.dictionary(pa.int16(), pa.string())


def choice(*pool: Any) -> Draw:
    return lambda rng, n: [pool[i] for i in rng.integers(0, len(pool), n)]


KEYS: dict[str, dict[str, tuple[pa.DataType, Draw]]] = {
    "none": {},
    "int64": {"i": (pa.int64(), choice(-(2**63), -1, 0, 1, 2**32, 2**63 - 1, *range(50, 60)))},
    "two": {
        "s": (pa.string(), choice("", "a", "a\0", "b", "a key longer than eight bytes", None)),
        "n": (pa.int32(), choice(-1, 0, 7, None)),
    },
    "dictionary": {"d": (DICTIONARY, choice("b", "a", "", "c", "z", None))},
    "float": {"f": (pa.float64(), choice(0.0, -0.0, NAN, OTHER_NAN, 1.5, -math.inf, None))},
}
EVERY_KEY = pytest.mark.parametrize("keys", KEYS)


def types_of(keys: str) -> dict[str, pa.DataType]:
    return {name: data_type for name, (data_type, _) in KEYS[keys].items()} | dict.fromkeys("xwt", pa.float64())


def random_rows(keys: str, rng: np.random.Generator, n: int) -> Rows:
    """Rows with nulls among keys and inputs; values of many shapes, NaN and infinities among them."""
    x = random_values(rng, n)
    strange = rng.random(n) < 0.05
    x[strange] = rng.choice([np.nan, np.inf, -np.inf, 1e300, 0.0], int(strange.sum()))
    w = np.where(rng.random(n) < 0.5, rng.normal(size=n) * 10.0 ** rng.integers(-30, 30), rng.integers(-2, 3, n))
    columns = {name: draw(rng, n) for name, (_, draw) in KEYS[keys].items()}
    for name, numbers in (("x", x), ("w", w), ("t", np.abs(w))):
        columns[name] = [None if null else v for v, null in zip(numbers.tolist(), rng.random(n) < 0.1, strict=True)]
    return columns


def rows_at(rows: Rows, at: Sequence[int]) -> Rows:
    return {name: [values[i] for i in at] for name, values in rows.items()}


def table_of(keys: str, rows: Rows, layout: Callable[..., Any] = array) -> pa.Table:
    return pa.table({name: layout(rows[name], data_type) for name, data_type in types_of(keys).items()})


def any_layout(rng: np.random.Generator) -> Callable[..., Any]:
    """Another one for each column."""

    def laid_out(values: Sequence[Any], data_type: pa.DataType) -> Any:
        layouts = [array, chunked, sliced, *([with_strange_dictionary] if pa.types.is_dictionary(data_type) else [])]
        return layouts[int(rng.integers(len(layouts)))](values, data_type)

    return laid_out


def reduction_of(keys: str, aggregates: Mapping[str, ColumnAggregation], *, skip_nulls: bool = True) -> Reduction:
    return Reduction(tuple(KEYS[keys]), aggregates, skip_nulls)


def whole_bytes(table: StateTable) -> bytes:
    """Every byte of the sorted table."""
    return ipc(table.sort().to_arrow())


def grouped(keys: str, aggregation: ColumnAggregation, seed: int, n: int = 120) -> StateTable:
    rng = np.random.default_rng(seed)
    return StateTable.group(table_of(keys, random_rows(keys, rng, n)), reduction_of(keys, {"state": aggregation}))


def accumulated(keys: str, rows: Rows, reduction: Reduction, rng: np.random.Generator) -> StateTable:
    """The table by way of batches in any order, over some accumulators, of which one may have had nothing."""
    n = len(rows["x"])
    order = rng.permutation(n).tolist()
    cuts = np.sort(rng.integers(0, n + 1, rng.integers(0, 8))).tolist()
    accumulators = [RowAccumulator(reduction) for _ in range(rng.integers(1, 5))]
    laid_out = any_layout(rng)
    for start, end in pairwise([0, *cuts, n]):
        accumulator = accumulators[int(rng.integers(len(accumulators)))]
        accumulator.add(table_of(keys, rows_at(rows, order[start:end]), laid_out))
        if rng.random() < 0.3:
            accumulator.table()  # it may be looked at, and goes on
    merged = StateAccumulator(reduction.keys)
    for i in rng.permutation(len(accumulators)).tolist():
        table = accumulators[i].table()
        if table is None:
            assert len(accumulators[i]) == 0
            continue
        assert table.num_rows == len(accumulators[i])
        assert accumulators[i].nbytes > 0 or not table.num_rows
        merged.add(table)
        if rng.random() < 0.3:
            merged.table()
    found = merged.table()
    assert found is not None
    assert len(merged) == found.num_rows
    return found


# --- any way to the same states ---------------------------------------------------------------------------------------


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
@EVERY_KEY
@EVERY_AGGREGATE
@pytest.mark.parametrize("seed", range(2))
def test_any_split_order_and_merge_gives_the_states_of_all_rows(
    keys: str, aggregation: ColumnAggregation, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng([seed, len(keys), aggregation.aggregation.code])
    rows = random_rows(keys, rng, int(10 ** rng.uniform(0, 2.2)))
    for skip_nulls in (True, False):
        reduction = reduction_of(keys, {"state": aggregation}, skip_nulls=skip_nulls)
        expected = whole_bytes(StateTable.group(table_of(keys, rows), reduction))
        # Exact sums are added up at once, now and then, or at the end, and rows of many groups wait to be sorted; other
        # states know no such difference.
        exact = aggregation.aggregation.exact
        for waiting, many_groups, most in ((1, 1 << 11, 1), (30, 1, 256), (1 << 16, 3, 180)) if exact else ((1, 1, 1),):
            monkeypatch.setattr(key_accumulators, "LEAST_WAITING", waiting)
            monkeypatch.setattr(key_accumulators, "MANY_GROUPS", many_groups)
            monkeypatch.setattr(key_accumulators, "MOST_WAITING", most)
            monkeypatch.setattr(key_accumulators, "WAITING_PER_VALUE", 0.25)
            monkeypatch.setattr(key_accumulators, "SORTED_TOGETHER", 50)
            assert whole_bytes(accumulated(keys, rows, reduction, rng)) == expected


@EVERY_AGGREGATE
def test_rows_of_many_groups_wait_and_are_sorted(aggregation: ColumnAggregation) -> None:
    """By the true limits: some batches wait, and some are in runs."""
    rng = np.random.default_rng(8)
    n, groups = 200_000, 3000
    keys = rng.integers(0, groups, n)
    keys[50_000:100_000].sort()
    table = pa.table({"i": keys, "x": rng.normal(size=n), "w": rng.normal(size=n), "t": rng.random(n)})
    reduction = Reduction(("i",), {"state": aggregation})
    accumulator = RowAccumulator(reduction)
    for start in range(0, n, 25_000):
        accumulator.add(table.slice(start, 25_000))
    found = accumulator.table()
    assert found is not None
    assert whole_bytes(found) == whole_bytes(StateTable.group(table.take(rng.permutation(n)), reduction))


@EVERY_KEY
@EVERY_AGGREGATE
def test_merge_gives_what_the_accumulator_gives(keys: str, aggregation: ColumnAggregation) -> None:
    rng = np.random.default_rng(5)
    rows = random_rows(keys, rng, 150)
    reduction = reduction_of(keys, {"state": aggregation}, skip_nulls=False)
    whole = StateTable.group(table_of(keys, rows), reduction)
    parts = [
        StateTable.group(table_of(keys, rows_at(rows, range(start, end))), reduction)
        for start, end in pairwise([0, 40, 40, 41, 100, 150])
    ]
    concatenated = StateTable.concat(parts[::-1])
    assert concatenated.num_rows == sum(part.num_rows for part in parts)
    assert whole_bytes(StateTable.merge(parts)) == whole_bytes(StateTable.merge([concatenated])) == whole_bytes(whole)
    accumulator = StateAccumulator(reduction.keys)
    accumulator.add(concatenated)  # each key some times in one table
    merged = accumulator.table()
    assert merged is not None
    assert whole_bytes(merged) == whole_bytes(whole)


@EVERY_KEY
@pytest.mark.parametrize("skip_nulls", [True, False])
def test_aggregates_side_by_side_equal_each_alone(keys: str, skip_nulls: bool) -> None:
    rng = np.random.default_rng(6)
    rows = random_rows(keys, rng, 150)
    together = reduction_of(keys, AGGREGATES, skip_nulls=skip_nulls)
    assert together.columns == [*KEYS[keys], "x", "w", "t"]
    tables = [StateTable.group(table_of(keys, rows), together), accumulated(keys, rows, together, rng)]
    tables += [StateTable.merge(tables[0].split(3)), StateTable.from_ipc(tables[1].to_ipc())]
    names = list(KEYS[keys])
    for name, aggregation in AGGREGATES.items():
        alone = StateTable.group(table_of(keys, rows), reduction_of(keys, {name: aggregation}, skip_nulls=skip_nulls))
        for table in tables:
            assert list(table.states) == list(AGGREGATES)
            assert ipc(table.sort().to_arrow().select([*names, name])) == whole_bytes(alone)
            found, expected = (one.sort().finalize(["count", "max"], state=name) for one in (table, alone))
            # By value: what stands in memory where a result is null does not count.
            assert found.schema == expected.schema
            assert [*map(canonical, found.columns)] == [*map(canonical, expected.columns)]


@EVERY_AGGREGATE
def test_a_null_makes_the_state_of_its_key_null_unless_nulls_are_skipped(aggregation: ColumnAggregation) -> None:
    rng = np.random.default_rng(7)
    rows = random_rows("int64", rng, 60)
    # Some keys without a null, and one with nothing else.
    for name in aggregation.values:
        rows[name] = [1.0 if i in (0, 1, 2**32) else v for i, v in zip(rows["i"], rows[name], strict=True)]
        rows[name] = [None if i == -1 else v for i, v in zip(rows["i"], rows[name], strict=True)]
    pairs = zip(rows["i"], zip(*(rows[name] for name in aggregation.values), strict=True), strict=True)
    with_null = {key for key, values in pairs if None in values}
    assert -1 in with_null
    assert not with_null & {0, 1, 2**32}
    for skip_nulls in (True, False):
        reduction = reduction_of("int64", {"state": aggregation}, skip_nulls=skip_nulls)
        expected = set() if skip_nulls else with_null
        for table in (
            StateTable.group(table_of("int64", rows), reduction),
            accumulated("int64", rows, reduction, rng),
        ):
            held = table.to_arrow()
            assert set(held["i"].to_pylist()) == set(rows["i"])
            null = {key for key, state in zip(*held.to_pydict().values(), strict=True) if state is None}
            assert null == expected
            results = table.finalize(["count", aggregation.aggregation.columns[-1]], min_count=0).to_pylist()
            assert {row["i"] for row in results if row["count"] is None} == expected
            counts = {row["i"]: row["count"] for row in results}
            assert counts[-1] == (0 if skip_nulls else None)


def test_no_rows_and_no_tables() -> None:
    for keys in KEYS:
        for name, aggregation in AGGREGATES.items():
            reduction = reduction_of(keys, {name: aggregation})
            nothing = table_of(keys, random_rows(keys, np.random.default_rng(0), 0))
            assert RowAccumulator(reduction).table() is None
            assert StateAccumulator(reduction.keys).table() is None
            rows, states = RowAccumulator(reduction), StateAccumulator(reduction.keys)
            rows.add(nothing)
            found = rows.table()
            assert found is not None
            # Without keys no rows are a group too.
            assert found.num_rows == len(rows) == (0 if KEYS[keys] else 1)
            states.add(found)
            states.add(found)
            merged = states.table()
            assert merged is not None
            expected = whole_bytes(StateTable.group(nothing, reduction))
            assert whole_bytes(found) == whole_bytes(merged) == expected
            assert whole_bytes(StateTable.from_ipc(found.to_ipc())) == expected
            assert [part.num_rows for part in found.split(3)] == [found.num_rows, 0, 0]


def test_an_accumulator_grows_as_its_keys_do() -> None:
    accumulator = RowAccumulator(reduction_of("int64", {"state": AGGREGATES["logsumexp, natural"]}))
    sizes = [accumulator.nbytes]
    for n in (10, 5000, 100_000):
        accumulator.add(pa.table({"i": np.arange(n), "x": np.ones(n)}))
        sizes.append(accumulator.nbytes)
    assert sizes[0] == 0
    assert sizes == sorted(set(sizes))
    assert len(accumulator) == 100_000
    table = accumulator.table()
    assert table is not None
    assert table.nbytes >= 88 * table.num_rows


# --- bytes there and back ---------------------------------------------------------------------------------------------


@EVERY_KEY
@EVERY_AGGREGATE
def test_bytes_and_arrow_give_the_table_back(keys: str, aggregation: ColumnAggregation) -> None:
    names = list(KEYS[keys])
    rng = np.random.default_rng(8)
    rows = random_rows(keys, rng, 80)
    for skip_nulls in (True, False):
        table = StateTable.group(
            table_of(keys, rows), reduction_of(keys, {"state": aggregation}, skip_nulls=skip_nulls)
        )
        held = table.to_arrow()
        held.validate(full=True)
        assert held.schema.names == [*names, "state"]
        assert held.schema.field("state").type == StateType(
            VERSION, aggregation.aggregation.name, aggregation.scale.name
        )
        whole = whole_bytes(table)
        for trusted in (False, True):
            back = StateTable.from_arrow(held, names, trusted=trusted)
            assert ipc(back.to_arrow()) == ipc(held)
            for compression in ("zstd", "lz4"):
                again = StateTable.from_ipc(table.to_ipc(compression=compression), trusted=trusted)
                assert again.keys.schema == table.keys.schema
                assert whole_bytes(again) == whole
                # In the same order, too.
                assert [canonical(again.keys[name]) for name in names] == [
                    canonical(table.keys[name]) for name in names
                ]
                assert again.to_arrow()["state"].to_pylist() == held["state"].to_pylist()
        # Columns that are not asked for are left out; chunks need not end together.
        more = pa.concat_tables([held.slice(0, 1), held.slice(1)]).append_column("more", pa.nulls(held.num_rows))
        assert whole_bytes(StateTable.from_arrow(more, names)) == whole


def edited(table: StateTable, row: int, edit: Callable[[bytearray], object]) -> pa.Table:
    """The table with the record of a row edited."""
    held = table.to_arrow()
    records = [bytearray(record) for record in held["state"].to_pylist()]
    edit(records[row])
    chunk = pa.ExtensionArray.from_storage(held["state"].type, pa.array(map(bytes, records), pa.binary()))
    return held.set_column(held.num_columns - 1, "state", chunk)


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
@EVERY_AGGREGATE
def test_a_damaged_byte_is_refused_unless_trusted(aggregation: ColumnAggregation) -> None:
    table, row = grouped("int64", aggregation, 9), 5

    def damage(record: bytearray) -> None:
        record[40] ^= 1

    def break_a_rule(record: bytearray) -> None:
        record[15] ^= 0x80  # the sign of the count
        record[:] = sealed(bytes(record))

    for edit, message in (
        (damage, "expected a record as it was written"),
        (break_a_rule, "expected a count of 0 or more"),
    ):
        bad = edited(table, row, edit)
        with pytest.raises(StateError, match=rf"column 'state', row {row}: {message}") as caught:
            StateTable.from_arrow(bad, ["i"])
        assert caught.value.row == row
    believed = StateTable.from_arrow(bad, ["i"], trusted=True)
    assert ipc(believed.to_arrow()) == ipc(bad) != ipc(table.to_arrow())
    stream = believed.to_ipc()
    with pytest.raises(StateError, match=rf"column 'state', row {row}: expected a count of 0 or more") as caught:
        StateTable.from_ipc(stream)
    assert caught.value.row == row
    assert ipc(StateTable.from_ipc(stream, trusted=True).to_arrow()) == ipc(bad)


EXACT = [aggregation for aggregation in AGGREGATIONS.values() if aggregation.exact]


@pytest.mark.parametrize("aggregation", EXACT, ids=lambda aggregation: aggregation.name)
def test_a_damaged_exact_sum_is_refused_unless_trusted(aggregation: Any) -> None:
    table = StateTable.group(
        pa.table({"i": [1, 2], "x": [1.0, 2.0], "w": [1.0, 1.0], "t": [1.0, 1.0]}),
        reduction_of("int64", {"state": AGGREGATES[f"{aggregation.name}, natural"]}),
    )

    def cut_off(record: bytearray) -> None:
        record[-8:] = bytes(8)  # the last word of the last sum, which then stands for none
        record[:] = sealed(bytes(record))

    bad = edited(table, 1, cut_off)
    with pytest.raises(StateError, match="column 'state', row 1: expected a canonical exact sum"):
        StateTable.from_arrow(bad, ["i"])
    assert ipc(StateTable.from_arrow(bad, ["i"], trusted=True).to_arrow()) == ipc(bad)


def test_bytes_of_another_kind_or_a_missing_column_are_refused_even_if_trusted() -> None:
    held = grouped("int64", AGGREGATES["logsumexp, natural"], 9).to_arrow()
    chunk = pa.ExtensionArray.from_storage(StateType(aggregation="weighted_logsumexp"), held["state"].chunk(0).storage)
    wrong = held.set_column(1, "state", chunk)
    for trusted in (False, True):
        with pytest.raises(StateError, match="column 'state', row 0: expected version 2, aggregation 1"):
            StateTable.from_arrow(wrong, ["i"], trusted=trusted)
        with pytest.raises(KeyError, match="column 'gone': expected once"):
            StateTable.from_arrow(held, ["gone"], trusted=trusted)
        with pytest.raises(KeyError, match="column 'gone': expected once"):
            StateTable.from_arrow(held, ["i"], ["gone"], trusted=trusted)
        with pytest.raises(TypeError, match="column 'i': expected states, as binary"):
            StateTable.from_arrow(held, [], ["i"], trusted=trusted)


# --- parts of tables --------------------------------------------------------------------------------------------------


@EVERY_KEY
@EVERY_AGGREGATE
def test_each_key_is_in_the_shard_of_its_hash(keys: str, aggregation: ColumnAggregation) -> None:
    table = grouped(keys, aggregation, 10)
    names = list(KEYS[keys])
    for n in (1, 2, 7, 40):
        parts = table.split(n)
        assert len(parts) == n
        assert sum(part.num_rows for part in parts) == table.num_rows
        for shard, part in enumerate(parts):
            assert part.keys.schema == table.keys.schema
            assert set(shard_of_keys(part.keys, names, n).tolist()) <= {shard}
            if n == 2:  # a part is a table like any other
                assert whole_bytes(StateTable.from_ipc(part.to_ipc())) == whole_bytes(part)
        assert whole_bytes(StateTable.concat(parts)) == whole_bytes(table)
        if not names:
            assert parts[0].num_rows == 1


@EVERY_KEY
def test_rows_of_one_shard_keep_their_order(keys: str) -> None:
    table = grouped(keys, AGGREGATES["log_likelihood, natural"], 11)
    whole = table.to_arrow().to_pylist()
    for part in table.split(2):
        places = [whole.index(row) for row in part.to_arrow().to_pylist() if not has_nan(row)]
        assert places == sorted(places)


def has_nan(row: dict[str, Any]) -> bool:
    return any(isinstance(value, float) and math.isnan(value) for value in row.values())


@EVERY_KEY
@EVERY_AGGREGATE
def test_rows_by_number_and_rows_that_follow_each_other(keys: str, aggregation: ColumnAggregation) -> None:
    rng = np.random.default_rng(12)
    reduction = reduction_of(keys, {"state": aggregation}, skip_nulls=False)
    table = StateTable.group(table_of(keys, random_rows(keys, rng, 40)), reduction)
    n = table.num_rows
    held = table.to_arrow()
    records = held["state"].to_pylist()
    names = list(KEYS[keys])
    columns = [canonical(held[name]) for name in names]
    for rows in (rng.permutation(n), np.arange(n)[::-1].copy(), rng.integers(0, n, 3 * n), np.zeros(0, np.int64)):
        taken = table.take(rows)
        assert taken.num_rows == rows.size
        assert taken.to_arrow()["state"].to_pylist() == [records[i] for i in rows]
        assert [canonical(taken.keys[name]) for name in names] == [[column[i] for i in rows] for column in columns]
    for start in range(n + 1):
        for rows_of_it in {0, 1, n - start} if start < n else {0}:
            part = table.slice(start, rows_of_it)
            end = start + rows_of_it
            assert part.num_rows == rows_of_it
            assert part.to_arrow()["state"].to_pylist() == records[start:end]
            assert [canonical(part.keys[name]) for name in names] == [column[start:end] for column in columns]
            # A slice is a table like any other. Without keys even nothing merges to one state.
            if names or rows_of_it:
                assert whole_bytes(StateTable.merge([part, part.slice(0, 0)])) == whole_bytes(part)
    halves = [table.slice(0, n // 2), table.slice(n // 2, n - n // 2)]
    assert whole_bytes(StateTable.merge(halves)) == whole_bytes(table)


@pytest.mark.parametrize(("data_type", "values"), EVERY_TYPE)
def test_keys_of_every_type_in_parts_and_in_batches(data_type: pa.DataType, values: list[Any]) -> None:
    rows, distinct = some_rows(data_type, values)
    table = pa.table({"k": array(rows, data_type), "x": np.arange(len(rows)) * 0.5})
    reduction = Reduction(("k",), {"state": AGGREGATES["log_likelihood, natural"]})
    whole = StateTable.group(table, reduction)
    expected = whole_bytes(whole)
    assert canonical(whole.sort().keys["k"]) == distinct
    accumulator = RowAccumulator(reduction)
    for start in range(0, table.num_rows, 7):
        accumulator.add(table.slice(start, 7))
    in_batches = accumulator.table()
    assert in_batches is not None
    merged = StateAccumulator(["k"])
    for part in whole.split(3):
        # Arrow writes dictionaries of dictionaries to a stream, and cannot read them.
        merged.add(part if pa.types.is_dictionary(value_type_of(data_type)) else StateTable.from_ipc(part.to_ipc()))
    from_parts = merged.table()
    assert from_parts is not None
    for found in (in_batches, from_parts, whole.take(np.arange(whole.num_rows)[::-1].copy())):
        assert found.keys.schema == pa.schema([("k", data_type)])
        assert whole_bytes(found) == expected
    assert LookUp(whole.sort().keys, len(distinct)).rows(table).tolist() == [distinct.index(k) for k in canonical(rows)]


def test_a_part_has_only_its_own_values_of_a_dictionary_with_it() -> None:
    table = grouped("dictionary", AGGREGATES["logsumexp, natural"], 20)
    part = table.slice(1, 2)
    held = StateTable.from_ipc(part.to_ipc()).keys["d"].chunk(0)
    assert held.dictionary.to_pylist() == [value for value in part.keys["d"].to_pylist() if value is not None]
    assert len(held.dictionary) < len(table.keys["d"].chunk(0).dictionary)


@EVERY_AGGREGATE
@pytest.mark.parametrize("skip_nulls", [True, False])
def test_coarser_keys_have_the_states_of_their_rows(aggregation: ColumnAggregation, skip_nulls: bool) -> None:
    rng = np.random.default_rng(13)
    rows = random_rows("two", rng, 150)
    table = table_of("two", rows)
    reduction = reduction_of("two", {"state": aggregation}, skip_nulls=skip_nulls)
    fine = StateTable.group(table, reduction)
    parts = [StateTable.group(table.slice(start, 50), reduction) for start in (0, 50, 100)]
    for keys in (["s"], ["n"], ["n", "s"], []):
        coarse = Reduction(tuple(keys), {"state": aggregation}, skip_nulls)
        expected = whole_bytes(StateTable.group(table, coarse))
        assert whole_bytes(StateTable.merge([fine], keys)) == whole_bytes(StateTable.merge(parts, keys)) == expected
        accumulator = StateAccumulator(keys)
        for part in parts:
            accumulator.add(part)
        merged = accumulator.table()
        assert merged is not None
        assert merged.keys.column_names == keys
        assert whole_bytes(merged) == expected
    with pytest.raises(KeyError, match="column 'gone'"):
        StateTable.merge([fine], ["gone"])


@EVERY_KEY
def test_a_table_never_changes(keys: str) -> None:
    rows = random_rows(keys, np.random.default_rng(14), 100)
    for aggregation in AGGREGATES.values():
        reduction = reduction_of(keys, {"state": aggregation})
        accumulator, merged = RowAccumulator(reduction), StateAccumulator(reduction.keys)
        accumulator.add(table_of(keys, rows_at(rows, range(50))))
        of_rows = accumulator.table()
        assert of_rows is not None
        merged.add(of_rows)
        of_states = merged.table()
        assert of_states is not None
        # What is added later is not in the tables of before.
        accumulator.add(table_of(keys, rows_at(rows, range(50, 100))))
        merged.add(of_rows)
        before = StateTable.group(table_of(keys, rows_at(rows, range(50))), reduction)
        assert whole_bytes(of_rows) == whole_bytes(of_states) == whole_bytes(before)
        twice = merged.table()
        assert twice is not None
        assert whole_bytes(twice) == whole_bytes(StateTable.merge([before, before]))


# --- tables that do not go together -----------------------------------------------------------------------------------


def refused(one: StateTable, other: StateTable, error: type[Exception], message: str) -> None:
    """All ways to put two tables together refuse it."""
    pattern = re.escape(message)
    with pytest.raises(error, match=pattern):
        one.check_alike(other)
    with pytest.raises(error, match=f"table 2, .*{pattern}"):
        StateTable.concat([one, one, other])
    with pytest.raises(error, match=f"table 1, .*{pattern}"):
        StateTable.merge([one, other])
    accumulator = StateAccumulator(one.keys.column_names)
    accumulator.add(one)
    with pytest.raises(error, match=pattern):
        accumulator.add(other)
    after = accumulator.table()
    assert after is not None
    assert whole_bytes(after) == whole_bytes(one)


@EVERY_KEY
def test_states_of_two_aggregations_or_scales_are_refused(keys: str) -> None:
    first = grouped(keys, AGGREGATES["logsumexp, natural"], 15)
    first.check_alike(grouped(keys, AGGREGATES["logsumexp, natural"], 16))
    for aggregation in [name for name in AGGREGATIONS if name != "logsumexp"]:
        other = grouped(keys, AGGREGATES[f"{aggregation}, natural"], 15)
        refused(first, other, StateError, f"states of two aggregations do not merge: logsumexp and {aggregation}")
    for scale, name in (("decibel", "decibel"), ("base 4", "base 4.0"), ("temperature 0.5", "temperature 0.5")):
        other = grouped(keys, AGGREGATES[f"logsumexp, {scale}"], 15)
        refused(first, other, StateError, f"states of two scales do not merge: natural and {name}")


def test_keys_of_two_types_are_refused() -> None:
    def of(data_type: pa.DataType, values: list[Any]) -> StateTable:
        table = pa.table({"k": array(values, data_type), "x": [1.0] * len(values)})
        return StateTable.group(table, Reduction(("k",), {"state": AGGREGATES["logsumexp, natural"]}))

    for one, values, other, others in (
        (pa.int64(), [1], pa.int32(), [1]),
        (pa.string(), ["a"], pa.large_string(), ["a"]),
        (pa.string(), ["a"], DICTIONARY, ["a"]),
        (DICTIONARY, ["a"], pa.dictionary(pa.int8(), pa.string()), ["a"]),
        (pa.timestamp("us"), [1], pa.timestamp("us", "UTC"), [1]),
        (pa.string(), ["a"], pa.int64(), [1]),
    ):
        message = f"key column 'k': expected {one} as in table 0, found {other}"
        refused(of(one, values), of(other, others), TypeError, message)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([1, 2]), pa.array([1.0, 1.5])),
        (pa.array([1.0, 1.5]), pa.array([1, 2])),
        (pa.array([1, 2]), pa.array([1, 2], pa.timestamp("us"))),
        (pa.array([1, 2]), pa.array([True, False])),
        (pa.array([1, 2]), pa.array(["a", "b"])),
        (pa.array([1, 2], pa.decimal128(5, 0)), pa.array([1, 2], pa.decimal128(5, 1))),
    ],
    ids=lambda array: str(array.type),
)
def test_rows_with_keys_of_another_type_are_refused(first: pa.Array, second: pa.Array) -> None:
    # Their images would be taken for those of the first type: 1.0 for the integer of its bits.
    accumulator = RowAccumulator(Reduction(("k",), {"state": AGGREGATES["logsumexp, natural"]}))
    accumulator.add(pa.table({"k": first, "x": [1.0, 2.0]}))
    with pytest.raises(TypeError, match="key column 'k'"):
        accumulator.add(pa.table({"k": second, "x": [1.0, 2.0]}))


# Numbers would be taken for offsets into strings: in a process of its own, as it may end it.
NUMBERS_AS_STRINGS = """
import pyarrow as pa
from lse_stream.key_accumulators import RowAccumulator
from lse_stream.reduction import ColumnAggregation, Reduction

accumulator = RowAccumulator(Reduction(("k",), {"state": ColumnAggregation.of("logsumexp", "natural", "x")}))
accumulator.add(pa.table({"k": ["a", "b"], "x": [1.0, 2.0]}))
try:
    accumulator.add(pa.table({"k": [2**40, 1], "x": [1.0, 2.0]}))
except TypeError as error:
    print(error)
"""


def test_rows_with_numbers_in_place_of_strings_are_refused() -> None:
    run = subprocess.run([sys.executable, "-c", NUMBERS_AS_STRINGS], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "key column 'k'" in run.stdout


# --- rows by their keys -----------------------------------------------------------------------------------------------


@EVERY_KEY
@pytest.mark.parametrize("layout", [array, chunked, sliced])
def test_rows_are_found_by_their_keys(keys: str, layout: Callable[..., Any]) -> None:
    if not KEYS[keys]:
        return
    rng = np.random.default_rng(17)
    table = table_of(keys, random_rows(keys, rng, 200), layout)
    reduction = reduction_of(keys, {"state": AGGREGATES["logsumexp, natural"]})
    held = StateTable.group(table, reduction).sort().keys
    names = held.column_names
    places = {key: i for i, key in enumerate(zip(*(canonical(held[name]) for name in names), strict=True))}
    expected = [places[key] for key in zip(*(canonical(table[name]) for name in names), strict=True)]
    look_up = LookUp(held, held.num_rows)
    for call in (look_up.find, look_up.rows):
        found = call(table)
        assert found.dtype == np.int32
        assert found.tolist() == expected
    assert look_up.find(table.slice(0, 0)).size == look_up.rows(table.slice(0, 0)).size == 0
    some = [i for i in range(held.num_rows) if i % 2]
    fewer = LookUp(held.take(some), len(some))
    assert fewer.find(table).tolist() == [some.index(i) if i in some else -1 for i in expected]
    assert fewer.find(table).tolist() == fewer.find(table).tolist()  # what is not there is not added


@EVERY_KEY
@pytest.mark.parametrize("layout", [array, chunked, sliced])
def test_rows_are_found_in_whatever_order_the_keys_are_held(keys: str, layout: Callable[..., Any]) -> None:
    if not KEYS[keys]:
        return
    rng = np.random.default_rng(18)
    table = table_of(keys, random_rows(keys, rng, 200), layout)
    sorted_keys = StateTable.group(table, reduction_of(keys, {"state": AGGREGATES["logsumexp, natural"]})).sort().keys
    # Dictionaries keep their values in the order in which they were.
    for rows in (np.arange(sorted_keys.num_rows)[::-1], rng.permutation(sorted_keys.num_rows)):
        held = sorted_keys.take(pa.array(rows))
        columns = [canonical(held[name]) for name in held.column_names]
        places = {key: i for i, key in enumerate(zip(*columns, strict=True))}
        expected = [places[key] for key in zip(*(canonical(table[name]) for name in held.column_names), strict=True)]
        assert LookUp(held, held.num_rows).rows(table).tolist() == expected


@pytest.mark.parametrize(
    "dictionary",
    [
        pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int16()), ["a", "b"]),
        pa.DictionaryArray.from_arrays(pa.array([None, 0], pa.int16()), ["b"]),
        pa.DictionaryArray.from_arrays(pa.array([2, 0], pa.int16()), ["a", "unused", "b"]),
    ],
    ids=["reversed", "null first", "unused value"],
)
def test_a_dictionary_is_held_by_its_rows_and_not_by_its_values(dictionary: pa.DictionaryArray) -> None:
    look_up = LookUp(pa.table({"k": dictionary}), 2)
    assert look_up.find(pa.table({"k": dictionary})).tolist() == [0, 1]
    assert look_up.find(pa.table({"k": pa.array([*dictionary.to_pylist()[::-1], "unused"])})).tolist() == [1, 0, -1]


def test_a_dictionary_and_its_values_find_each_other() -> None:
    texts = ["b", "a", None, "c"]
    plain, encoded = (pa.table({"k": array(texts, data_type)}) for data_type in (pa.string(), DICTIONARY))
    for held in (plain.slice(0, 2), encoded.slice(0, 2)):
        for table in (plain, encoded):
            assert LookUp(held, 2).find(table).tolist() == [0, 1, -1, -1]


def test_a_key_that_is_not_there_is_named() -> None:
    held = pa.table({"s": ["a", "b", None], "n": pa.array([1, 2, None], pa.int32())})
    look_up = LookUp(held, 3, what="centre")
    asked = pa.table({"n": pa.array([2, 1, None], pa.int32()), "s": ["b", "b", "a"], "more": [0, 0, 0]})
    assert look_up.find(asked).tolist() == [1, -1, -1]
    message = re.escape("expected one centre for every key, found none for s='b', n=1")
    with pytest.raises(KeyError, match=message):
        look_up.rows(asked)
    with pytest.raises(KeyError, match=re.escape("found none for s='a', n=None")):
        look_up.rows(asked.slice(2))
    with pytest.raises(KeyError, match="column 's'"):
        look_up.find(asked.drop_columns(["s"]))
    wrong = asked.set_column(0, "n", pa.array([2, 1, 0], pa.int64()))
    with pytest.raises(TypeError, match="key column 'n': expected int32 as in the centres, found int64"):
        look_up.find(wrong)


def test_a_key_that_is_there_twice_is_named() -> None:
    for keys, row in (
        (["a", "b", "c", "b", "b"], "k='b'"),
        (["a", None, "b", None], "k=None"),
        ([NAN, OTHER_NAN], "k=nan"),
    ):
        data_type = pa.float64() if NAN in keys else pa.string()
        for layout in (array, chunked):
            held = pa.table({"k": layout(keys, data_type)})
            with pytest.raises(ValueError, match=f"expected one rate for every key, found more for {row}$"):
                LookUp(held, len(keys), what="rate")
    held = pa.table({"k": array(["a", "b", "b"], DICTIONARY)})
    with pytest.raises(ValueError, match="expected one state for every key, found more for k='b'"):
        LookUp(held, 3)


def test_without_keys_there_is_one_row() -> None:
    nothing = pa.table({})
    table = pa.table({"x": [1.0, 2.0, 3.0]})
    look_up = LookUp(nothing, 1)
    assert look_up.find(table).tolist() == look_up.rows(table).tolist() == [0, 0, 0]
    assert look_up.rows(table.slice(0, 0)).size == 0
    for n in (0, 2):
        with pytest.raises(ValueError, match=f"expected one prior where there are no keys, found {n}"):
            LookUp(nothing, n, what="prior")


def test_many_threads_look_rows_up() -> None:
    rng = np.random.default_rng(19)
    keys = pa.table({"i": np.arange(5000) * 7, "s": [str(i) for i in range(5000)]})
    look_up = LookUp(keys, 5000)
    tables = [keys.take(pa.array(rng.integers(0, 5000, 3000))) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(look_up.rows, tables))
    assert [rows.tolist() for rows in found] == [[i // 7 for i in table["i"].to_pylist()] for table in tables]
