"""Functions for the SQL of DuckDB: the bytes of ``group_states``, for types, layouts and numbers of threads."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rows import NAN, OPTIONS, bits, expected, some_rows, values, whole

from lse_stream import LogSumExpAccumulator
from lse_stream.adapters.duckdb import register

# More groups than DuckDB hands over at once.
TABLE = some_rows(keys=5_000)
ONE = LogSumExpAccumulator([1.0, 2.0]).to_bytes()


@pytest.fixture
def connection() -> Iterator[Any]:
    with duckdb.connect() as connection:
        register(connection)
        connection.register("rows", TABLE)
        yield connection


def by_key(relation: Any) -> dict[Any, Any]:
    rows = relation.fetchall()
    result = dict(rows)
    assert len(result) == len(rows)
    return result


@pytest.mark.parametrize(("aggregation", "scale"), OPTIONS)
def test_states_are_those_of_group_states(connection: Any, aggregation: str, scale: str) -> None:
    found = connection.sql(f"select k, lse_state(list(x), '{aggregation}', '{scale}') from rows group by k")
    assert found.types[1] == "BLOB"
    assert by_key(found) == expected(TABLE, aggregation=aggregation, scale=scale)


@pytest.mark.parametrize("threads", [1, 4])
def test_row_groups_and_threads(connection: Any, threads: int, tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "rows.parquet", row_group_size=3_000)
    connection.execute(f"set threads = {threads}")
    rows = f"from '{tmp_path}/rows.parquet' group by k"
    assert by_key(connection.sql(f"select k, lse_state(list(x)) {rows}")) == expected(TABLE)
    assert bits(by_key(connection.sql(f"select k, logsumexp(list(x)) {rows}"))) == bits(values(TABLE))
    means = by_key(connection.sql(f"select k, logmeanexp(list(x), 'decibel') {rows}"))
    assert bits(means) == bits(values(TABLE, "logmeanexp", scale="decibel"))


@pytest.mark.parametrize(
    "settings",
    [
        ["arrow_large_buffer_size"],
        ["arrow_output_list_view"],
        ["arrow_large_buffer_size", "arrow_output_list_view", "produce_arrow_string_view"],
    ],
    ids="+".join,
)
def test_every_layout_of_arrow(connection: Any, settings: list[str]) -> None:
    for setting in settings:
        connection.execute(f"set {setting} = true")
    if "produce_arrow_string_view" in settings:
        connection.execute("set arrow_output_version = '1.5'")
    connection.execute("create view states as select k, k % 7 as m, lse_state(list(x)) as state from rows group by k")
    assert by_key(connection.sql("select k, state from states")) == expected(TABLE)
    merged = by_key(connection.sql("select m, lse_merge(list(state)) from states group by m"))
    remainders = pa.table({"k": pa.array(TABLE["k"].to_numpy() % 7), "x": TABLE["x"]})
    assert merged == expected(remainders)
    found = connection.sql("select k, lse_value(state, 'logsumexp') from states")
    assert bits(by_key(found)) == bits(values(TABLE))


def test_nulls_and_empty_lists(connection: Any) -> None:
    def one(expression: str) -> Any:
        return connection.execute(f"select {expression}").fetchall()[0][0]

    empty = LogSumExpAccumulator().to_bytes()
    for null in ("null", "null::double[]"):
        for function in ("logsumexp", "logmeanexp", "lse_state", "lse_merge"):
            assert one(f"{function}({null})") is None
    assert one("lse_value(null, 'count')") is None
    for nothing in ("[]", "[null]", "[null]::double[]", "[]::integer[]"):
        assert one(f"logsumexp({nothing})") == one(f"logmeanexp({nothing})") == -math.inf
        assert one(f"lse_state({nothing})") == empty
    for nothing in ("[]", "[null]", "[null]::blob[]"):
        assert one(f"lse_merge({nothing})") is None
    assert one("lse_value(lse_state([]::decimal(9, 2)[], 'exact_sum 2'), 'min')") is None
    lists = "(values ([0::double, null, 0]), (null), ([]), (['nan'::double, 1]), ([7::double])) as t(x)"
    found = connection.sql(f"select logsumexp(x) from {lists}").fetchall()
    assert str(found) == f"[({math.log(2)},), (None,), (-inf,), (nan,), (7.0,)]"
    none = "(select x from rows where k < 0)"
    assert connection.sql(f"select lse_state(list(x)), lse_state(coalesce(list(x), [])) from {none}").fetchall() == [
        (None, empty)
    ]


def test_null_rows_among_arrays_of_one_size(connection: Any) -> None:
    arrays = "(values ([1, 2]::double[2]), (null), ([null, 3])) as t(x)"
    found = connection.sql(f"select lse_state(x) from {arrays}").fetchall()
    assert found == [(ONE,), (None,), (LogSumExpAccumulator([3.0]).to_bytes(),)]


@pytest.mark.parametrize("data_type", ["tinyint", "uinteger", "bigint", "float", "double"])
def test_every_type(connection: Any, data_type: str) -> None:
    rows = f"select i % 3 as k, (i % 50)::{data_type} as x from range(500) as t(i)"
    table = connection.sql(rows).to_arrow_table()
    found = connection.sql(f"select k, lse_state(list(x)) from ({rows}) group by k")
    assert by_key(found) == expected(table)


def test_two_inputs_and_decimals(connection: Any) -> None:
    found = connection.sql("select k, lse_state(list({'x': x, 'w': w}), 'weighted_logsumexp') from rows group by k")
    assert by_key(found) == expected(TABLE, ["x", "w"], aggregation="weighted_logsumexp")
    rows = "select i % 3 as k, (i / 100)::decimal(38, 2) as x from range(500) as t(i)"
    found = connection.sql(f"select k, lse_state(list(x), 'exact_sum 2') from ({rows}) group by k")
    assert by_key(found) == expected(connection.sql(rows).to_arrow_table(), aggregation="exact_sum 2")
    total = f"select lse_value(lse_state(list(x), 'exact_sum 2'), 'sum') from ({rows})"
    assert connection.sql(total).fetchall() == [(1247.5,)]


def test_states_of_two_calls_merge_to_those_of_one(connection: Any) -> None:
    for part, condition in (("one", "w < 0.3"), ("two", "w >= 0.3")):
        connection.execute(
            f"create table {part} as select k, lse_state(list(x)) s from rows where {condition} group by k"
        )
    stored = "(from one union all from two)"
    assert by_key(connection.sql(f"select k, lse_merge(list(s)) from {stored} group by k")) == expected(TABLE)
    assert connection.sql(f"select lse_merge(list(s)) from {stored}").fetchall() == [(whole(TABLE),)]
    counts = connection.sql(f"select sum(lse_value(s, 'count')) from {stored}").fetchall()
    assert counts == [(len(TABLE) - TABLE["x"].null_count,)]
    assert str(connection.execute("select lse_merge([null, ?, ?])", [ONE, None]).fetchall()) == str([(ONE,)])
    assert connection.execute("select lse_value(?)", [ONE]).fetchall() == [(LogSumExpAccumulator([1, 2]).value(),)]


def test_registered_again_and_in_other_connections() -> None:
    with duckdb.connect() as connection:
        for _ in range(3):
            register(connection)
        with connection.cursor() as other:
            register(other)
            assert other.sql("select logsumexp([5])").fetchall() == [(5.0,)]
        with duckdb.connect() as another:
            register(another)
            assert another.sql("select logsumexp([5])").fetchall() == [(5.0,)]
        assert connection.sql("select logsumexp([5])").fetchall() == [(5.0,)]


def test_a_name_that_is_taken() -> None:
    with duckdb.connect() as connection:
        connection.execute("create macro logsumexp(x) as x")
        with pytest.raises(duckdb.CatalogException, match="logsumexp"):
            register(connection)


def test_what_is_wrong_is_said(connection: Any) -> None:
    damaged = bytearray(ONE)
    damaged[40] ^= 1
    in_decibel = LogSumExpAccumulator([1.0], scale="decibel").to_bytes()
    for query, arguments, said in (
        ("logsumexp(1.5)", [], r"logsumexp: expected lists, such as list\(x\), found decimal128\(2, 1\)"),
        ("logsumexp([1.5])", [], r"logsumexp: column 'value': expected integers, float16, .* found .*decimal128"),
        ("logsumexp(['a'])", [], r"logsumexp: column 'value': expected integers, float16, .* found .*string"),
        (
            "lse_state([9007199254740993])",
            [],
            r"lse_state: column 'value': expected integers within .*9007199",
        ),
        ("lse_state([1], 'sum')", [], r"lse_state: aggregation: expected logsumexp, .* found 'sum'"),
        (
            "lse_state([1], 'weighted_logsumexp')",
            [],
            r"lse_state: expected value and weight for weighted",
        ),
        ("lse_state([1], 'logsumexp', 'bel')", [], r"lse_state: .*scale.*bel"),
        (
            "lse_value(lse_state([1]), null)",
            [],
            r"lse_value: expected one text for all rows .* found \[None\]",
        ),
        ("lse_state([1], 2)", [], r"lse_state: expected one text for all rows as an option, found \[2\]"),
        ("logsumexp()", [], r"logsumexp"),
        ("logsumexp([1], 'natural', 'b')", [], r"logsumexp: .*from 1 to 2 positional arguments but 3 were given"),
        ("lse_value(?)", [b"abc"], r"lse_value: column 'state', row 0: expected a multiple of 8 bytes, found 3"),
        ("lse_merge([null, ?])", [bytes(damaged)], r"lse_merge: column 'state', row 1: "),
        ("lse_merge([?, ?])", [ONE, in_decibel], r"lse_merge: column 'state', row 1: .*scale"),
        ("lse_value(?, 'median')", [ONE], r"lse_value: results: expected some of logsumexp, .* found 'median'"),
        ("lse_value([1])", [], r"lse_value: column 'state': expected states, as binary"),
    ):
        with pytest.raises(duckdb.Error, match=said):
            connection.execute(f"select {query}", arguments).fetchall()


def test_nan_is_a_value(connection: Any) -> None:
    found = connection.sql("select lse_state(list(x)) from (values ('nan'::double), (null), (1)) as t(x)").fetchall()
    assert found == [(LogSumExpAccumulator([NAN, 1.0]).to_bytes(),)]
