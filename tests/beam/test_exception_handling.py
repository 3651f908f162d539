"""Bad elements and tables go to an output of their own, and all others to the results."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.error_handling import CollectingErrorHandler
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from lse_stream.accumulators import LogLikelihoodAccumulator, LogSumExpAccumulator
from lse_stream.beam import (
    CrossEntropy,
    EffectiveSampleSize,
    ExactSum,
    LogLikelihood,
    LogMeanExp,
    LogSoftmax,
    LogSumExp,
    LogSumExpCombineFn,
    MergeStates,
    PreCombinePerKey,
    WeightedLogSumExp,
)
from lse_stream.key_accumulators import RowReducer, StateReducer
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.state_column import STATE
from lse_stream.table_functions import finalize, group_states, log_softmax_of_keys, merge_states, sort_by_keys

# --- elements ---------------------------------------------------------------------------------------------------------

NUMBERS = [1.5, 2, -math.inf, np.float32(0.5)]
NO_NUMBERS = ["1.5", None, 2**53 + 1, 1j, (1.0, 2.0), [1.0]]
PAIRS = [(0.5, 2.0), (1, -1)]
NO_PAIRS = [(1.0, math.inf), 1.0, ("1", 2.0), (1.0, None)]


def elements_of(bad: list[Any]) -> list[str]:
    """What is in the output of bad elements, as Beam has them."""
    for _, (error, message, trace) in bad:
        assert issubclass(error, Exception)
        assert message.startswith(error.__name__)
        assert error.__name__ in trace[-1]
    return sorted(repr(element) for element, _ in bad)


def check_bad(expected: list[Any]) -> Callable[[list[Any]], None]:
    def check(found: list[Any]) -> None:
        assert elements_of(found) == sorted(map(repr, expected))

    return check


@pytest.mark.parametrize(
    ("family", "good", "bad"),
    [
        (LogSumExp, NUMBERS, NO_NUMBERS),
        (LogMeanExp, NUMBERS, NO_NUMBERS),
        (LogLikelihood, NUMBERS, NO_NUMBERS),
        (EffectiveSampleSize, NUMBERS, NO_NUMBERS),
        (ExactSum, NUMBERS, NO_NUMBERS),
        (WeightedLogSumExp, PAIRS, NO_PAIRS),
        (CrossEntropy, [(0.5, 1), (1.0, False)], [(1.0, "label"), (1.0, math.nan), None]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_elements_that_are_no_numbers_are_put_aside(family: Any, good: list[Any], bad: list[Any]) -> None:
    mixed = [*bad[:1], *good, *bad[1:]]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        plain = pipeline | "Good" >> beam.Create(good)
        expected = beam.pvalue.AsList(plain | "Expected" >> family.Globally())
        found, aside = (
            pipeline | "Mixed" >> beam.Create(mixed) | "Handled" >> family.Globally().with_exception_handling()
        )
        assert_that(aside, check_bad(bad), label="bad")
        same = found | beam.Map(lambda found, expected: repr([found]) == repr(expected), expected)
        assert_that(same, equal_to([True]), label="good")
        keyed, keyed_aside = (
            pipeline
            | "Pairs" >> beam.Create([("k", element) for element in mixed])
            | "PerKey" >> family.PerKey().with_exception_handling()
        )
        assert_that(keyed_aside, check_bad([("k", element) for element in bad]), label="bad of keys")
        same = keyed | "Keys" >> beam.Map(lambda pair, expected: repr([pair[1]]) == repr(expected), expected)
        assert_that(same, equal_to([True]), label="good of keys")


def test_options_are_those_of_beam() -> None:
    pairs = [("a", 0.0), ("a", "b"), ("a", 0.0)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        made = pipeline | beam.Create(pairs)
        with CollectingErrorHandler() as errors:
            totals = made | "Handler" >> LogSumExp.PerKey().with_exception_handling(error_handler=errors)
            assert_that(totals, equal_to([("a", math.log(2))]), label="totals")
        assert_that(errors.output(), check_bad([("a", "b")]), label="errors")
        handled = made | "Both" >> LogSumExp.Globally().with_exception_handling()
        assert handled._fields == ("good", "bad")
    pipeline = beam.Pipeline(FnApiRunner())
    _ = pipeline | beam.Create(pairs) | LogSumExp.PerKey().with_exception_handling(threshold=0.1)
    with pytest.raises(Exception, match="exceeded threshold"):
        pipeline.run()
    pipeline = beam.Pipeline(FnApiRunner())
    _ = pipeline | beam.Create(pairs) | LogSumExp.PerKey().with_exception_handling(exc_class=ValueError)
    with pytest.raises(Exception, match="expected a real number, found str"):
        pipeline.run()


def test_windows_stay_of_both_outputs() -> None:
    def window(element: Any, window: Any = beam.DoFn.WindowParam) -> tuple[Any, float]:
        return element, float(window.start)

    with beam.Pipeline(FnApiRunner()) as pipeline:
        pairs = pipeline | beam.Create([("a", 1.0, 3), ("a", "b", 14), ("a", 2.0, 15)])
        stamped = pairs | beam.Map(lambda row: TimestampedValue(row[:2], row[2])) | beam.WindowInto(FixedWindows(10))
        totals, bad = stamped | LogSumExp.PerKey().with_exception_handling()
        found = totals | "Windows" >> beam.Map(window)
        assert_that(found, equal_to([(("a", 1.0), 0.0), (("a", 2.0), 10.0)]), label="good")
        bad_in_windows = bad | "Bad windows" >> beam.Map(
            lambda pair, w=beam.DoFn.WindowParam: (pair[0], float(w.start))
        )
        assert_that(bad_in_windows, equal_to([(("a", "b"), 10.0)]), label="bad")


def test_states_and_rows_of_keys_are_put_aside() -> None:
    states = [("a", LogSumExpAccumulator([1.0])), ("a", LogLikelihoodAccumulator([1.0])), ("a", "state")]
    fn = LogSumExpCombineFn()
    with beam.Pipeline(FnApiRunner()) as pipeline:
        merged, bad = pipeline | "States" >> beam.Create(states) | MergeStates.PerKey(fn).with_exception_handling()
        assert_that(merged, equal_to([("a", 1.0)]), label="merged")
        assert_that(bad, check_bad(states[1:]), label="bad states")
        rows = pipeline | "Rows" >> beam.Create([("a", 0.0), ("a", None), ("b", "c"), ("a", 0.0)])
        parts, bad = rows | PreCombinePerKey(fn).with_exception_handling()
        assert_that(parts | "Merge" >> MergeStates.PerKey(fn), equal_to([("a", math.log(2))]), label="combined")
        assert_that(bad, check_bad([("a", None), ("b", "c")]), label="bad elements")
        logs, bad = rows | LogSoftmax.PerKey().with_exception_handling()
        assert_that(logs, equal_to([("a", (0.0, -math.log(2)))] * 2), label="logs")
        assert_that(bad, check_bad([("a", None), ("b", "c")]), label="bad rows")


# --- tables -----------------------------------------------------------------------------------------------------------

GOOD = [pa.table({"k": [i, i + 1, None], "x": [i * 0.5, None, 1.0], "w": [1.0, 2.0, 3.0]}) for i in range(6)]
BAD = {
    "no column": pa.table({"k": [1], "y": [1.0]}),
    "no key": pa.table({"x": [1.0], "w": [1.0]}),
    "no numbers": pa.table({"k": [1], "x": ["1"], "w": [1.0]}),
    "large integers": pa.table({"k": [1, 2], "x": [1, 2**53 + 1], "w": [1.0, 1.0]}),
    "lists as keys": pa.table({"k": [[1]], "x": [1.0], "w": [1.0]}),
    "a column twice": pa.table([[1], [1.0], [1.0], [1.0]], names=["k", "x", "x", "w"]),
}
BAD_WEIGHT = pa.table({"k": [1], "x": [1.0], "w": [math.inf]})


def reducer(value: str | list[str], aggregation: str) -> RowReducer:
    return RowReducer(Reduction(("k",), {STATE: ColumnAggregation.of(aggregation, "natural", value)}))


@contextmanager
def raised() -> Iterator[list[str]]:
    found: list[str] = []
    try:
        yield found
    except Exception as error:
        found.append(repr(error))


@pytest.mark.parametrize(
    "table", [*BAD.values(), BAD_WEIGHT, "no table", *GOOD], ids=[*BAD, "weight", "no table", *"012345"]
)
@pytest.mark.parametrize(("value", "aggregation"), [("x", "logsumexp"), (["x", "w"], "weighted_logsumexp")])
def test_a_check_raises_what_adding_a_table_raises(table: Any, value: Any, aggregation: str) -> None:
    reduce = reducer(value, aggregation)
    with raised() as by_check:
        reduce.check(table)
    with raised() as by_adding:
        reduce.accumulator().add(reduce.prepare(table))
    assert by_check == by_adding
    is_good = any(table is good for good in GOOD) or (table is BAD_WEIGHT and aggregation == "logsumexp")
    assert bool(by_check) != is_good


def check_tables(expected: list[pa.Table]) -> Callable[[list[Any]], None]:
    def check(found: list[Any]) -> None:
        tables = [table for table, (error, message, _) in found if message.startswith(error.__name__)]
        assert len(tables) == len(expected)
        for table in tables:
            assert sum(table.equals(other) for other in expected) == 1

    return check


@pytest.mark.parametrize("num_shards", [1, 3])
def test_bad_tables_go_aside_whole(num_shards: int) -> None:
    bad = list(BAD.values())
    mixed = [table for i, good in enumerate(GOOD) for table in (good, *bad[i : i + 1])]
    expected = sort_by_keys(group_states(pa.concat_tables(GOOD), ["k"], "x"), ["k"])

    def check(found: list[tuple[int, pa.Table]]) -> None:
        assert sorted(shard for shard, _ in found) == list(range(num_shards))
        merged = sort_by_keys(pa.concat_tables([table for _, table in found]), ["k"])
        assert finalize(merged).equals(finalize(expected))

    with beam.Pipeline(FnApiRunner()) as pipeline:
        reduce = LogSumExp.PerKeyFromTables(["k"], "x", num_shards=num_shards)
        shards, aside = pipeline | beam.Create(mixed) | reduce.with_exception_handling()
        assert_that(shards, check, label="good")
        assert_that(aside, check_tables(bad), label="bad")


def test_bad_tables_of_states_go_aside_whole() -> None:
    states = [group_states(table, ["k"], "x") for table in GOOD]
    cut = pa.table({"k": [1], "state": pa.array([b"no state"])})
    bad = [cut, GOOD[0], states[0].drop_columns(["k"])]
    expected = sort_by_keys(merge_states(states, ["k"]), ["k"])

    def check(found: list[tuple[int, pa.Table]]) -> None:
        [(_, table)] = found
        assert finalize(table).equals(finalize(expected))

    with beam.Pipeline(FnApiRunner()) as pipeline:
        merge = MergeStates.PerKeyFromTables(["k"])
        shards, aside = pipeline | beam.Create([bad[0], *states, *bad[1:]]) | merge.with_exception_handling()
        assert_that(shards, check, label="good")
        assert_that(aside, check_tables(bad), label="bad")


@pytest.mark.parametrize("max_broadcast", [100, 2])
def test_bad_tables_of_a_softmax_go_aside_whole(max_broadcast: int) -> None:
    bad = [*BAD.values(), pa.table({"k": [1], "x": [1.0], "softmax": [1.0]})]
    whole = pa.concat_tables(GOOD)
    expected = log_softmax_of_keys(whole, group_states(whole, ["k"], "x"), ["k"], "x").to_pylist()

    def check(found: list[pa.Table]) -> None:
        rows = [row for table in found for row in table.to_pylist()]
        assert sorted(map(repr, rows)) == sorted(map(repr, expected))

    with beam.Pipeline(FnApiRunner()) as pipeline:
        softmax = LogSoftmax.PerKeyFromTables(["k"], "x", max_broadcast=max_broadcast)
        tables, aside = pipeline | beam.Create([*bad[:3], *GOOD, *bad[3:]]) | softmax.with_exception_handling()
        assert_that(tables, check, label="good")
        assert_that(aside, check_tables(bad), label="bad")


def test_a_check_of_states_raises_what_adding_a_table_raises() -> None:
    reduce = StateReducer(["k"], trusted=False)
    states = group_states(GOOD[0], ["k"], "x")
    reduce.check(states)
    with pytest.raises(KeyError, match="column 'k'"):
        reduce.check(states.drop_columns(["k"]))
    with pytest.raises(TypeError, match="key column 'k'"):
        reduce.check(states.set_column(0, "k", pa.array([[1]] * 3)))
