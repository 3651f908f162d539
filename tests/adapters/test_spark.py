"""States on Spark, with two workers in parallel: the bytes of ``lse_stream.group_states`` on all rows.

Run with ``-m engine``, in an environment with ``--group spark``, where Java is. With LSE_STREAM_REQUIRE_ENGINES=1 in
the environment what is missing is a failure.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import random_values

import lse_stream
from lse_stream.adapters.spark import finalize, group_states, merge_states, state_metadata

pytestmark = pytest.mark.engine

KEYS: list[list[str]] = [["k"], ["s", "k"], ["f"], ["at", "d", "b"], []]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    missing = [name for name, found in (("java", shutil.which("java")), ("pyspark", find_spec("pyspark"))) if not found]
    if missing:
        reason = f"no {' and no '.join(missing)} here"
        if os.environ.get("LSE_STREAM_REQUIRE_ENGINES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYSPARK_PYTHON", sys.executable)
        settings = {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "3",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
            "spark.sql.execution.arrow.maxRecordsPerBatch": "500",
        }
        session = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


def rows(n: int = 6000) -> pa.Table:
    """Keys of many types with nulls, and values, some null, whose plain sum depends on its order."""
    rng = np.random.default_rng(0)
    x = np.concatenate([random_values(rng, n // 20) for _ in range(20)])
    x[::97], x[::89] = np.nan, np.inf
    base = datetime(2026, 1, 1, tzinfo=UTC)
    return pa.table(
        {
            "k": pa.array(rng.integers(0, 300, n), mask=rng.random(n) < 0.05),
            "s": pa.array(rng.choice(["a", "b", "", "ß"], n), mask=rng.random(n) < 0.1),
            "f": rng.choice([0.0, -0.0, 1.5, np.nan, -np.inf], n),
            "at": pa.array([base + timedelta(hours=int(i)) for i in rng.integers(0, 3, n)], pa.timestamp("us", "UTC")),
            "d": pa.array([Decimal(int(i)) / 10 for i in rng.integers(0, 3, n)], pa.decimal128(10, 1)),
            "b": rng.random(n) < 0.5,
            "x": pa.array(x, mask=rng.random(n) < 0.1),
            "w": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.1),
            "i": pa.array(rng.integers(-500, 500, n), pa.int32()),
        }
    )


@pytest.fixture(scope="module")
def frame(spark: Any) -> Any:
    return spark.createDataFrame(rows()).repartition(5)


def assert_same(found: Any, expected: pa.Table, keys: Sequence[str]) -> None:
    """The same rows, and the same bytes of states: NaN is equal here."""
    table = lse_stream.sort_by_keys(found.toArrow(), keys)
    ordered = lse_stream.sort_by_keys(expected, keys)
    if "state" in ordered.column_names:
        position = ordered.column_names.index("state")
        ordered = ordered.set_column(position, "state", ordered.column("state").cast(pa.binary()))
    assert table.column_names == ordered.column_names
    assert table.schema.types == ordered.schema.types
    assert str(table.to_pylist()) == str(ordered.to_pylist())


@pytest.mark.parametrize("keys", KEYS, ids=",".join)
def test_states_have_the_bytes_of_all_rows_grouped_at_once(frame: Any, keys: list[str]) -> None:
    states = group_states(frame, keys, "x")
    assert states.columns == [*keys, "state"]
    assert_same(states, lse_stream.group_states(rows(), keys, "x"), keys)


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("x", {"scale": "decibel"}),
        ("i", {"scale": "magnitude"}),
        (["x", "w"], {"aggregation": "weighted_logsumexp"}),
        ("i", {"aggregation": "log_likelihood"}),
        ("i", {"aggregation": "leave_one_out 200"}),
        ("d", {"aggregation": "exact_sum 2"}),
    ],
)
def test_aggregations_and_scales(frame: Any, value: str | list[str], options: dict[str, Any]) -> None:
    states = group_states(frame, ["s"], value, **options)
    expected = lse_stream.group_states(rows(), ["s"], value, **options)
    assert_same(states, expected, ["s"])
    assert states.schema["state"].metadata == state_metadata(**options)
    assert_same(merge_states(states.unionByName(states), []), lse_stream.merge_states([expected, expected], []), [])
    assert_same(finalize(states), lse_stream.finalize(expected), ["s"])


def test_stored_states_merge_to_coarser_keys(frame: Any, spark: Any, tmp_path: Path) -> None:
    group_states(frame, ["s", "k"], ["x", "w"], aggregation="weighted_logsumexp").write.parquet(
        str(tmp_path / "states")
    )
    merged = merge_states(spark.read.parquet(str(tmp_path / "states")), ["k"])
    expected = lse_stream.group_states(rows(), ["k"], ["x", "w"], aggregation="weighted_logsumexp")
    assert_same(merged, expected, ["k"])
    assert_same(finalize(merged, min_count=3), lse_stream.finalize(expected, min_count=3), ["k"])


def test_states_from_elsewhere(spark: Any) -> None:
    table = rows()
    states = lse_stream.group_states(table, ["s"], "x", scale="decibel", skip_nulls=False)
    plain = states.set_column(1, "state", states.column("state").cast(pa.binary()))
    frame = spark.createDataFrame(plain).withMetadata("state", state_metadata(scale="decibel"))
    assert_same(merge_states(frame, ["s"]), states, ["s"])
    assert_same(
        finalize(frame, ["logsumexp", "bonus"]), lse_stream.finalize(states, results=["logsumexp", "bonus"]), ["s"]
    )
    natural = lse_stream.group_states(table, ["s"], "x")
    plain = natural.set_column(1, "state", natural.column("state").cast(pa.binary()))
    assert_same(merge_states(spark.createDataFrame(plain), []), lse_stream.merge_states(natural, []), [])


def test_no_rows(frame: Any, spark: Any) -> None:
    for nothing in (frame.limit(0), spark.createDataFrame([], frame.schema), frame.where("x is null")):
        assert [row.asDict() for row in finalize(group_states(nothing, [], "x")).collect()] == [
            {"logsumexp": -np.inf, "count": 0, "max": -np.inf}
        ]
    states = group_states(frame.limit(0), ["k"], "x")
    assert finalize(merge_states(states, ["k"])).count() == 0
    assert merge_states(states, []).count() == 1


def test_the_shuffle_has_states_alone(frame: Any) -> None:
    """The plan: rows are reduced on the side of the shuffle where they are read."""
    plan = group_states(frame, ["b"], "x")._jdf.queryExecution().executedPlan().toString()
    after, _, before = plan.partition("Exchange hashpartitioning(b")
    assert after.count("MapInArrow") == 1
    assert before.count("MapInArrow") == 1


def test_errors_come_before_a_job_runs(frame: Any) -> None:
    fails = frame.selectExpr("s", "int(raise_error('a row was read')) as k", "x", "array(k) as l", "x as state")
    states = group_states(frame, ["k"], "x")
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (KeyError, "column 'q': expected once among the columns", lambda: group_states(fails, ["q"], "x")),
        (KeyError, "column 'q': expected once among the columns", lambda: group_states(fails, ["k"], "q")),
        (TypeError, "column 's': expected integers, float16", lambda: group_states(fails, ["k"], "s")),
        (TypeError, "key column 'l': expected integers", lambda: group_states(fails, ["l"], "x")),
        (TypeError, "keys: expected a sequence of column names", lambda: group_states(fails, "k", "x")),
        (ValueError, "key column 'state': expected names that differ", lambda: group_states(fails, ["state"], "x")),
        (ValueError, "aggregation: expected ", lambda: group_states(fails, ["k"], "x", aggregation="mode")),
        (TypeError, "expected a DataFrame of PySpark, found Table", lambda: group_states(rows(), ["k"], "x")),
        (KeyError, "column 'state': expected once", lambda: finalize(frame)),
        (TypeError, "column 'state': expected states, as binary, found double", lambda: merge_states(fails, ["k"])),
        (ValueError, "results: expected some of logsumexp, ", lambda: finalize(states, ["median"])),
        (ValueError, "column 'max': expected a name other", lambda: finalize(states.withColumnRenamed("k", "max"))),
        (ValueError, "aggregation: expected ", lambda: state_metadata("mode")),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
    later = lse_stream.StateType(version=9)
    unknown = states.withMetadata("state", {"lse_stream.state": later.__arrow_ext_serialize__().decode()})
    with pytest.raises(lse_stream.StateError, match="expected states of version 2, found version 9"):
        finalize(unknown)


def test_what_is_wrong_with_a_row_ends_the_job(frame: Any) -> None:
    from pyspark.errors import PythonException

    with pytest.raises(PythonException, match=r"column 'x': expected integers within \+-2\^53"):
        group_states(frame.selectExpr("1L << 60 as x"), [], "x").collect()
    weighted = group_states(frame, ["k"], ["x", "w"], aggregation="weighted_logsumexp")
    mistaken = weighted.withMetadata("state", state_metadata())
    for result in (finalize(mistaken), merge_states(mistaken, ["k"])):
        with pytest.raises(PythonException, match="column 'state', row 0: expected version 2, aggregation 0"):
            result.collect()
    damaged = group_states(frame, ["k"], "x").selectExpr("k", "substring(state, 1, 80) as state")
    with pytest.raises(PythonException, match="column 'state', row 0: expected "):
        merge_states(damaged, ["k"]).collect()
