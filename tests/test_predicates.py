"""Conditions on rows: against DuckDB, against statistics, at the edges of types; and what is wrong with them."""

import pickle
import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_stream.parquet.statistics import ranges_of
from lse_stream.predicates import Condition

FIRST = datetime(2020, 1, 31, 23, 59, 59)

COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], st.SearchStrategy[str]]] = {
    "i": (pa.int64(), st.integers(-3, 3), st.sampled_from(["-1", "0", "2", "2.5", "-0.5", "1e3"])),
    "u": (pa.uint8(), st.integers(0, 4), st.sampled_from(["-1", "0", "3", "300", "1.5"])),
    "x": (pa.float64(), st.sampled_from([-1.5, -0.0, 0.0, 0.1, 2.0]), st.sampled_from(["0.1", "0", "-1.5", "2", "9"])),
    "d": (
        pa.decimal128(5, 2),
        st.integers(-300, 300).map(lambda n: Decimal(n) / 100),
        st.sampled_from(["0", "1.25", "-3", "0.5"]),
    ),
    "s": (
        pa.string(),
        st.sampled_from(["", "Amy", "Bob", "it's", "Zoë", "😀"]),
        st.sampled_from(["'Amy'", "''", "'it''s'", "'Zoë'", "'zz'"]),
    ),
    "b": (pa.bool_(), st.booleans(), st.sampled_from(["true", "false"])),
    "t": (
        pa.timestamp("us"),
        st.integers(-2, 2).map(lambda n: FIRST + timedelta(seconds=n)),
        st.sampled_from(
            ["timestamp '2020-02-01'", "timestamp '2020-01-31 23:59:59'", "timestamp '2021-01-01 00:00:00.5'"]
        ),
    ),
    "day": (
        pa.date32(),
        st.integers(-2, 2).map(lambda n: date(2020, 2, 1) + timedelta(days=n)),
        st.sampled_from(["date '2020-02-01'", "date '1999-12-31'"]),
    ),
}
COMPARATORS = ["<", "<=", ">", ">=", "=", "!=", "<>"]


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(COLUMNS)))
    literal = COLUMNS[name][2]
    match draw(st.integers(0, 4)):
        case 0:
            return f"{name} is {draw(st.sampled_from(['', 'not ']))}null"
        case 1:
            values = ", ".join(draw(st.lists(literal, min_size=1, max_size=3)))
            return f"{name} {draw(st.sampled_from(['', 'not ']))}in ({values})"
        case 2 if name == "b":
            return name
        case 3:
            return f"{draw(literal)} {draw(st.sampled_from(COMPARATORS))} {name}"
    return f"{name} {draw(st.sampled_from(COMPARATORS))} {draw(literal)}"


conditions = st.recursive(
    comparisons(),
    lambda parts: st.one_of(
        parts.map(lambda part: f"not ({part})"),
        st.tuples(parts, parts).map(" and ".join),
        st.tuples(parts, parts).map(" or ".join),
        parts.map(lambda part: f"({part})"),
    ),
    max_leaves=5,
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    n = draw(st.integers(0, 6))
    columns = {
        name: pa.array(draw(st.lists(st.none() | values, min_size=n, max_size=n)), data_type)
        for name, (data_type, values, _) in COLUMNS.items()
    }
    return pa.table(columns)


def chosen(table: pa.Table, condition: str) -> list[bool | None]:
    predicate = pickle.loads(pickle.dumps(Condition(condition).of(table.schema)))
    found: list[bool | None] = predicate.mask(table).to_pylist()
    return found


@given(tables(), conditions)
def test_it_is_what_duckdb_says(table: pa.Table, condition: str) -> None:
    with duckdb.connect() as connection:
        connection.register("rows", table)
        expected = [value for (value,) in connection.execute(f"select {condition} from rows").fetchall()]
    assert chosen(table, condition) == expected


@given(tables(), conditions, st.booleans())
def test_nothing_comes_out_that_statistics_exclude(table: pa.Table, condition: str, as_dictionary: bool) -> None:
    if as_dictionary:
        table = table.set_column(4, "s", table.column("s").dictionary_encode())
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=2)
    file = pq.ParquetFile(pa.BufferReader(sink.getvalue()))
    predicate = Condition(condition).of(file.schema_arrow)
    for i in range(file.num_row_groups):
        known = ranges_of(file.metadata, i, file.schema_arrow, file.schema_arrow.names)
        rows = file.read_row_group(i)
        assert set(predicate.mask(rows).to_pylist()) <= predicate.outcomes(known)
        assert predicate.outcomes({}) >= predicate.outcomes(known)


# What is sure of rows whose values are from 1 to 5, without null; and of others.
@pytest.mark.parametrize(
    ("condition", "outcomes"),
    [
        ("i > 5", {False}),
        ("i > 4", {True, False}),
        ("i >= 1", {True}),
        ("i < 1.5", {True, False}),
        ("i = 6", {False}),
        ("i = 3", {True, False}),
        ("i = 2.5", {False}),
        ("i != 0", {True}),
        ("i in (0, 6)", {False}),
        ("i not in (0, 6)", {True}),
        ("i is null", {False}),
        ("i > 5 and s = 'x'", {False}),
        ("i > 5 or s = 'x'", {True, False, None}),
        ("not (i > 0)", {False}),
        # NaN may be among the values of x, and is told by no statistics.
        ("x > 5", {False}),
        ("x <= 5", {True, False}),
        ("not (x <= 5)", {True, False}),
        ("x != 9", {True}),
        ("x in (9)", {False}),
        ("n is not null", {False}),
        ("n > 0", {None}),
        ("n > 0 or n is null", {True}),
        ("long = 'a'", {True, False}),
    ],
)
def test_what_statistics_tell(condition: str, outcomes: set[bool | None]) -> None:
    table = pa.table(
        {
            "i": [1, 5, 3],
            "x": [1.0, 5.0, np.nan],
            "s": ["a", "z", None],
            "n": pa.array([None, None, None], pa.int64()),
            "long": ["b" * 64, "c" * 64, "c" * 64],
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    file = pq.ParquetFile(pa.BufferReader(sink.getvalue()))
    known = ranges_of(file.metadata, 0, table.schema, table.column_names)
    assert Condition(condition).of(table.schema).outcomes(known) == outcomes


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "condition", "expected"),
    [
        (pa.array([NAN, 1.0]), "v > 0", [False, True]),
        (pa.array([NAN, 1.0]), "not v > 0", [True, False]),
        (pa.array([NAN, 1.0]), "v != 1", [True, False]),
        (pa.array([NAN, 1.0]), "v in (1, 2)", [False, True]),
        (pa.array([0.0, -0.0, 5e-324]), "v in (0)", [True, True, False]),
        (pa.array([0.0, -0.0, 5e-324]), "v = -0.0", [True, True, False]),
        (pa.array([INF, 1e308]), "v > 1e308", [True, False]),
        # Rounded to the type of the column, and once.
        (pa.array([0.1], pa.float32()), "v = 0.1", [True]),
        (pa.array([1 + 2**-23], pa.float32()), "v = 1.00000005960464477539062501", [True]),
        (pa.array([np.float16(0.1)], pa.float16()), "v in (0.1)", [True]),
        # Integers are not rounded.
        (pa.array([2**53, 2**53 + 1]), "v > 9007199254740992", [False, True]),
        (pa.array([2**63 - 1]), "v < 9223372036854775807.5", [True]),
        (pa.array([2**64 - 1], pa.uint64()), "v = 18446744073709551615", [True]),
        (pa.array([0, None], pa.uint8()), "v >= -1", [True, None]),
        (pa.array([0, None], pa.int8()), "v = 1000", [False, None]),
        (pa.array([0, None], pa.int8()), "v != 1000", [True, None]),
        (pa.array([0, None], pa.int8()), "v in (1000)", [False, None]),
        (pa.array([Decimal("1.005")], pa.decimal128(38, 3)), "v > 1.0049", [True]),
        (pa.array([Decimal("1.005")], pa.decimal32(5, 3)), "v in (1.005, 1.0051)", [True]),
        (pa.array([Decimal("1.005")], pa.decimal64(5, 3)), "v = 1.0051", [False]),
        # Times by their instant, to the nanosecond.
        (pa.array([1], pa.timestamp("ns", "UTC")), "v > '1970-01-01 00:00:00.000000000'", [True]),
        (pa.array([1], pa.timestamp("ns", "Asia/Tokyo")), "v = '1970-01-01T09:00:00.000000001+09:00'", [True]),
        (pa.array([1], pa.timestamp("s")), "v <= '1970-01-01T00:00:01.5Z'", [True]),
        (pa.array([1, 2], pa.date32()), "v < '1970-01-02 12:00'", [True, False]),
        (pa.array([86_400_000, 172_800_000], pa.date64()), "v = date '1970-01-02'", [True, False]),
        (pa.array(["b", None], pa.string_view()), "v in ('b')", [True, None]),
        (pa.array(["b", None], pa.large_string()), "v >= 'a'", [True, None]),
        (pa.array(["b", None, "a"]).dictionary_encode(), "v = 'b'", [True, None, False]),
        (pa.nulls(1), "v > 1 or v in ('a') or v is null", [True]),
        (pa.nulls(1), "not v = 'a'", [None]),
        (pa.array([b"a", None]), "v is not null", [True, False]),
    ],
)
def test_edges_of_types(values: pa.Array, condition: str, expected: list[bool | None]) -> None:
    assert chosen(pa.table({"v": values}), condition) == expected


def test_columns_with_each_other() -> None:
    table = pa.table(
        {
            "i": pa.array([1, 2, None], pa.int8()),
            "x": [1.5, 2.0, 1.0],
            "at": pa.array([0, 10**9, 5], pa.timestamp("ns", "UTC")),
            "day": pa.array([0, 0, 0], pa.date32()),
        }
    )
    assert chosen(table, "i < x") == [True, False, None]
    assert chosen(table, "at >= day and i = x") == [False, True, None]


@pytest.mark.parametrize(
    ("left", "right", "condition", "expected"),
    [
        (pa.array([2**53 + 1, None]), pa.array([1.0, 2.0]), "a > b", [True, None]),
        (pa.array([2**63 + 5, 0], pa.uint64()), pa.array([-1, 0]), "a > b", [True, False]),
        (pa.array([0, 10**9], pa.timestamp("ns")), pa.array([2932532, 0], pa.date32()), "a < b", [True, False]),
        (pa.array([0, 1], pa.timestamp("ns", "UTC")), pa.array([10**12, 0], pa.timestamp("s")), "a < b", [True, False]),
        (
            pa.array([Decimal("1.5"), Decimal(2)], pa.decimal128(38, 30)),
            pa.array([Decimal(2), Decimal(2)], pa.decimal128(38, 0)),
            "a = b or a < b",
            [True, True],
        ),
        (pa.array([Decimal("1.5")], pa.decimal128(5, 1)), pa.array([2], pa.int64()), "a < b", [True]),
        (pa.nulls(2), pa.nulls(2), "a = b", [None, None]),
        (pa.nulls(2), pa.array([1, 2]), "a = b or b = 2", [None, True]),
        (pa.array(["a", "b"]), pa.array(["b", "a"], pa.string_view()), "a < b", [True, False]),
        (pa.array([NAN, 1.0]), pa.array([NAN, 1.0], pa.float32()), "a = b", [False, True]),
    ],
)
def test_columns_of_two_types(left: pa.Array, right: pa.Array, condition: str, expected: list[bool | None]) -> None:
    table = pa.table({"a": left, "b": right})
    assert chosen(table, condition) == expected


def test_names() -> None:
    table = pa.table({"a b": [1], 'say "x"': [2], "order": [3], "date": [4], "a.b": [5], "naïve": [6], "In": [7]})
    assert chosen(table, '"a b" = 1 AND "say ""x""" = 2 And order=3 and date = 4 and a.b = 5 and naïve = 6') == [True]
    assert chosen(table, '"In" = 7') == [True]
    assert Condition("b > 1 or (not a is null and b < 2)").columns == ("b", "a")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "expected more at its end"),
        ("i >", "expected more at its end"),
        ("i > 1 and", "expected more at its end"),
        ("i > 1 & i < 3", "expected 'and' at character 7, found '& i < 3'"),
        ("i > 1 || i < 3", "expected 'or' at character 7"),
        ("i = null", "expected 'is null' or 'is not null' at character 5, found 'null'"),
        ("i like 3", "expected a comparison, 'in' or 'is null' at character 3, found 'like 3'"),
        ("i between 1 and 3", "expected two comparisons, as in x >= 1 and x <= 2 at character 3"),
        ("s = 'Amy", "expected a string that ends in ' at character 5"),
        ("i > 1)", "at character 6, found ')'"),
        ("(i > 1", "expected ) at its end"),
        ("at > 2024-03-31", "expected a date or time in '...' at character 10, found '-03-31'"),
        ("1 < i < 3", "at character 7, found '< 3'"),
        ("i in ()", "at character 7, found ')'"),
        ("__import__('os')", "at character 11"),
        ("i > 3x", "at character"),
        ("not " * 5000 + "i = 1", "expected fewer parts within each other"),
    ],
)
def test_what_cannot_be_read(condition: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Condition(condition)


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (
            "seson > 1",
            KeyError,
            "column 'seson': expected once, found columns season, name, at, ok, held (nearest: season)",
        ),
        (
            'name = "Amy"',
            KeyError,
            "column 'Amy': expected once, found columns season, name, at, ok, held (a string is in '...')",
        ),
        ("season > 'x'", TypeError, "column 'season' of int64: expected a number, found 'x'"),
        ("name > 2", TypeError, "column 'name' of string: expected a string in '...', found 2"),
        ("name in ('a', 2)", TypeError, "column 'name' of string: expected a string in '...', found 2"),
        ("ok = 1", TypeError, "column 'ok' of bool: expected true or false, found 1"),
        ("season", TypeError, "column 'season' of int64: expected a comparison, found the column alone"),
        ("Season > 1", KeyError, "(nearest: season)"),
        ("at > 5", TypeError, "column 'at' of timestamp[us]: expected a date or time in '...', found 5"),
        ("at > 'noon'", ValueError, "column 'at': expected a date or time such as '2020-01-31'"),
        ("at > '2020-02-30'", ValueError, "column 'at': expected a date or time such as '2020-01-31'"),
        ("held = 1", TypeError, "column 'held': expected numbers, strings, booleans, times to compare, found binary"),
        ("1 < 2", TypeError, "expected a column on one side of <"),
        ("season = name", TypeError, "columns 'season' and 'name': expected one type, found numbers, strings"),
        ("season > 1e999999999999", ValueError, "column 'season' of int64: expected a number in its range"),
        ("season > 1e99999999999999999999", ValueError, "expected a number that a column can hold, found 1e9999"),
    ],
)
def test_what_does_not_fit_the_columns(condition: str, error: type[Exception], message: str) -> None:
    schema = pa.schema(
        {"season": pa.int64(), "name": pa.string(), "at": pa.timestamp("us"), "ok": pa.bool_(), "held": pa.binary()}
    )
    with pytest.raises(error) as caught:
        Condition(condition).of(schema)
    assert message in caught.value.args[0]
