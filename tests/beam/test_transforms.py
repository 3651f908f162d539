"""The transforms on Beam's local runners: results, windows, and the traps of Beam that they avoid.

Never on DirectRunner, which tries to fetch a binary. TestStream runs on BundleBasedDirectRunner only.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.coders import FloatCoder
from apache_beam.coders.typecoders import registry
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.display import DisplayData
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterWatermark
from apache_beam.transforms.window import (
    FixedWindows,
    GlobalWindow,
    GlobalWindows,
    IntervalWindow,
    Sessions,
    SlidingWindows,
    TimestampedValue,
)
from apache_beam.typehints.decorators import TypeCheckError

from lse_stream.accumulators import (
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    ExactSumAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
)
from lse_stream.beam import (
    CrossEntropy,
    EffectiveSampleSize,
    ExactSum,
    Finalize,
    LogLikelihood,
    LogMeanExp,
    LogSoftmax,
    LogSumExp,
    WeightedLogSumExp,
)
from lse_stream.beam import tables as tables_module
from lse_stream.beam.internals import threaded_runner
from lse_stream.beam.softmax import _log_softmax_of_shard
from lse_stream.beam.tables import ROWS_TAG, SENT, STATES_TAG, ShardParts, _GroupBundle
from lse_stream.functions import log_softmax, softmax
from lse_stream.key_accumulators import RowReducer
from lse_stream.keys import shard_of_keys
from lse_stream.reduction import ColumnAggregation, Reduction
from lse_stream.state_column import STATE
from lse_stream.state_table import StateTable, from_ipc, to_ipc
from lse_stream.table_functions import finalize, group_states, log_softmax_of_keys, sort_by_keys
from lse_stream.testing import bits

WORKERS = PipelineOptions(direct_num_workers=3)


def logsumexp(values: Any) -> float:
    return LogSumExpAccumulator(values).value()


def check_bits(expected: Sequence[object]) -> Any:
    """A matcher for assert_that: exactly these outputs in any order, every bit (so NaN matches itself)."""
    wanted = sorted(bits(output) for output in expected)

    def check(found: list[object]) -> None:
        assert sorted(bits(output) for output in found) == wanted, f"expected {expected}, found {found}"

    return check


# --- numbers ---------------------------------------------------------------------------------------------------------


def globally() -> beam.CombineGlobally:  # as this type, since Beam's methods, which it inherits, have none
    return LogSumExp.Globally()


def per_key() -> beam.CombinePerKey:
    return LogSumExp.PerKey()


NUMBERS = [1.0, 2.0, 3.0, 300.0, -5.0]
PAIRS = [("a", 1.0), ("b", 2.0), ("a", 3.0), ("c", math.nan), ("b", 2.0)]
PER_KEY = [("a", logsumexp([1.0, 3.0])), ("b", logsumexp([2.0, 2.0])), ("c", math.nan)]


def test_globally() -> None:
    with beam.Pipeline(threaded_runner(), WORKERS) as pipeline:
        numbers = pipeline | beam.Create(NUMBERS)
        nothing = numbers | beam.Filter(lambda _: False)
        view = nothing | "View" >> globally().as_singleton_view()
        combined = {
            "plain": numbers | LogSumExp.Globally(),
            "fanout": numbers | "Fanout" >> globally().with_fanout(2),
            "nothing": nothing | "Nothing" >> LogSumExp.Globally(),
            "view": pipeline | "Once" >> beam.Create([0]) | beam.Map(lambda _, side: side, view),
            "no defaults": nothing | "NoDefaults" >> globally().without_defaults(),
        }
        total = logsumexp(NUMBERS)
        expected = {"plain": [total], "fanout": [total], "nothing": [-math.inf], "view": [-math.inf], "no defaults": []}
        for way, output in combined.items():
            assert_that(output, check_bits(expected[way]), way)


def test_per_key() -> None:
    with beam.Pipeline(threaded_runner(), WORKERS) as pipeline:
        pairs = pipeline | beam.Create(PAIRS)
        assert_that(pairs | LogSumExp.PerKey(), check_bits(PER_KEY), "plain")
        hot = pairs | "Hot" >> per_key().with_hot_key_fanout(lambda key: 3 if key == "a" else 1)
        assert_that(hot, check_bits(PER_KEY), "hot keys")


def test_outputs_are_coded_as_floats() -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    total = pipeline | beam.Create(NUMBERS) | LogSumExp.Globally()
    per_key = pipeline | "Pairs" >> beam.Create(PAIRS) | LogSumExp.PerKey()
    assert isinstance(registry.get_coder(total.element_type), FloatCoder)
    assert isinstance(registry.get_coder(per_key.element_type).value_coder(), FloatCoder)


def test_globally_in_windows_needs_without_defaults() -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    windowed = pipeline | beam.Create(NUMBERS) | beam.WindowInto(FixedWindows(10))
    with pytest.raises(ValueError, match="without_defaults"):
        windowed | LogSumExp.Globally()


@pytest.mark.parametrize("fanout", [None, 2])
def test_sliding_windows(fanout: int | None) -> None:
    # Fanout in sliding windows has had bugs in Beam: accumulators leaked into neighbouring windows.
    with beam.Pipeline(threaded_runner(), WORKERS) as pipeline:
        numbers = pipeline | beam.Create([TimestampedValue(float(time), time) for time in range(0, 20, 5)])
        totals = (
            numbers
            | beam.Map(lambda timed: timed)
            | beam.WindowInto(SlidingWindows(10, 5))
            | globally().without_defaults().with_fanout(fanout)
        )
        expected = [0.0, logsumexp([0.0, 5.0]), logsumexp([5.0, 10.0]), logsumexp([10.0, 15.0]), 15.0]
        assert_that(totals, check_bits(expected))


def test_late_panes_accumulate() -> None:
    numbers = (
        test_stream.TestStream()
        .add_elements([TimestampedValue(("a", 1.0), 1), TimestampedValue(("a", 300.0), 2)])
        .advance_watermark_to(11)
        .add_elements([TimestampedValue(("a", 300.0), 3)])
        .advance_watermark_to_infinity()
    )
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        panes = (
            pipeline
            | numbers
            | beam.WindowInto(
                FixedWindows(10),
                trigger=AfterWatermark(late=AfterCount(1)),
                accumulation_mode=AccumulationMode.ACCUMULATING,
                allowed_lateness=60,
            )
            | LogSumExp.PerKey()
        )
        expected = [("a", logsumexp([1.0, 300.0])), ("a", logsumexp([1.0, 300.0, 300.0]))]
        assert_that(panes, check_bits(expected))


# --- tables ----------------------------------------------------------------------------------------------------------


def readings(rows: int, seed: int = 0) -> pa.Table:
    """A table of two key columns with nulls and a value column with nulls, NaN and infinities."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(rows) < 0.02, rng.choice([np.nan, np.inf, -np.inf], rows), rng.normal(0, 100, rows))
    return pa.table(
        {
            "place": pa.array(rng.choice(["Oslo", "Rome", "Åre"], rows), mask=rng.random(rows) < 0.1),
            "day": pa.array(rng.integers(0, 30, rows), mask=rng.random(rows) < 0.1),
            "level": pa.array(values, mask=rng.random(rows) < 0.1),
        }
    )


KEYS = ["place", "day"]
READINGS = readings(2000)


def to_bytes(table: pa.Table) -> bytes:
    """Schema, chunks and values, as bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def cut(table: pa.Table, pieces: int, seed: int) -> list[pa.Table]:
    """The rows in another order, as slices of one table: pieces of any size, empty ones too."""
    rng = np.random.default_rng(seed)
    permuted = table.take(rng.permutation(table.num_rows))
    ends = [*sorted(rng.integers(0, table.num_rows + 1, pieces - 1)), table.num_rows]
    return [permuted.slice(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]


def expected_shards(table: pa.Table, num_shards: int, keys: Sequence[str] = KEYS, value: str = "level") -> list[Any]:
    """What must come out, computed without Beam and in one piece."""
    states = group_states(table, keys, value)
    shards = shard_of_keys(states, keys, num_shards)
    return [(n, to_bytes(sort_by_keys(states.filter(pa.array(shards == n)), keys))) for n in range(num_shards)]


def check_shards(expected: list[tuple[int, bytes]]) -> Any:
    """A matcher for assert_that: these shards, byte for byte."""

    def check(found: list[tuple[int, pa.Table]]) -> None:
        coded = sorted((shard, to_bytes(table)) for shard, table in found)
        assert [shard for shard, _ in coded] == [shard for shard, _ in expected]
        assert coded == expected

    return check


def test_tables_give_the_totals_per_key() -> None:
    by_key: dict[Any, list[float]] = {}
    for row in READINGS.to_pylist():
        values = by_key.setdefault((row["place"], row["day"]), [])
        if row["level"] is not None:
            values.append(row["level"])

    def check(found: list[tuple[int, pa.Table]]) -> None:
        [(shard, table)] = found
        assert (shard, table.column_names) == (0, [*KEYS, "state"])
        rows = finalize(table).to_pylist()
        keys = [(row["place"], row["day"]) for row in rows]
        order = [(place is None, (place or "").encode(), day is None, day) for place, day in keys]
        assert order == sorted(order)
        assert set(keys) == set(by_key)
        assert len(keys) == len(by_key)
        for key, row in zip(keys, rows, strict=True):
            assert bits(row["logsumexp"]) == bits(logsumexp(by_key[key]))
            assert row["count"] == len(by_key[key])

    with beam.Pipeline(FnApiRunner()) as pipeline:
        tables = pipeline | beam.Create(cut(READINGS, 5, seed=1))
        assert_that(tables | LogSumExp.PerKeyFromTables(KEYS, "level"), check)


@pytest.mark.parametrize(
    ("options", "max_states"),
    [(None, 1), (None, 60), (WORKERS, 60), (WORKERS, 1 << 20)],
    ids=["one bundle that sends each table", "one that flushes", "three that flush", "three that do not"],
)
def test_tables_cut_in_any_way_give_the_same_bytes(options: PipelineOptions | None, max_states: int) -> None:
    with beam.Pipeline(FnApiRunner() if options is None else threaded_runner(), options) as pipeline:
        for num_shards, pieces in ((1, 5), (3, 20)):
            shards = (
                pipeline
                | f"Create {pieces}" >> beam.Create(cut(READINGS, pieces, seed=pieces))
                | f"Combine {pieces}"
                >> LogSumExp.PerKeyFromTables(KEYS, "level", num_shards=num_shards, max_states=max_states)
            )
            assert_that(shards, check_shards(expected_shards(READINGS, num_shards)), f"Check {pieces}")


def test_counters_tell_what_is_reduced_and_what_is_shuffled() -> None:
    values = [None if i % 100 == 0 else float(i) for i in range(1000)]
    tables = [pa.table({"k": [i % 5 for i in range(1000)], "x": values})] * 3
    pipeline = beam.Pipeline(FnApiRunner())
    _ = pipeline | beam.Create(tables) | LogSumExp.PerKeyFromTables(["k"], "x", num_shards=4)
    found = pipeline.run().metrics().query()["counters"]
    counters = {each.key.metric.name: each.committed for each in found if each.key.metric.namespace == "lse_stream"}
    assert (counters["rows_reduced"], counters["nulls"]) == (3000, 30)
    assert "rows_shuffled" not in counters
    assert 5 <= counters["states_shuffled"] <= 15  # by bundle
    assert counters["states_shuffled"] * 88 < counters["bytes_shuffled"] < 20_000


def test_a_runner_shows_what_tables_are_reduced_to() -> None:
    transform = LogSumExp.PerKeyFromTables(["k"], "x", scale="decibel", num_shards=4, skip_nulls=False)
    shown = {item.key: item.value for item in DisplayData.create_from(transform).items}
    assert shown == {
        "aggregation": "logsumexp",
        "keys": "k",
        "values": "x",
        "scale": "decibel",
        "num_shards": 4,
        "skip_nulls": False,
    }


@pytest.mark.parametrize("bundles", [1, 3])
def test_without_keys_only_the_first_shard_has_a_row(bundles: int) -> None:
    def check(shards: list[tuple[int, pa.Table]]) -> None:
        found = {shard: finalize(table).to_pylist() for shard, table in shards}
        assert found == {0: [{"logsumexp": 2.0 + math.log(2.0), "count": 2, "max": 2.0}], 1: [], 2: []}

    tables = [pa.table({"x": values}) for values in ([2.0], [2.0], pa.nulls(0, pa.float64()))]
    with beam.Pipeline(FnApiRunner(), options=PipelineOptions(direct_num_workers=bundles)) as pipeline:
        shards = pipeline | beam.Create(tables) | beam.Reshuffle() | LogSumExp.PerKeyFromTables([], "x", num_shards=3)
        assert_that(shards, check)


@pytest.mark.engine
def test_tables_on_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where the workers find this module
    processes = PipelineOptions(direct_running_mode="multi_processing", direct_num_workers=2)
    with beam.Pipeline(FnApiRunner(), processes) as pipeline:
        tables = pipeline | beam.Create(cut(READINGS, 6, seed=2))
        shards = tables | LogSumExp.PerKeyFromTables(KEYS, "level", num_shards=2, max_states=60)
        assert_that(shards, check_shards(expected_shards(READINGS, 2)))


@pytest.mark.parametrize("keys", [[], ["day"]], ids=["no keys", "a key"])
@pytest.mark.parametrize("rows", [0, 3])
def test_every_shard_comes_out(keys: list[str], rows: int) -> None:
    table = READINGS.slice(0, rows)
    expected = expected_shards(table, 4, keys)
    assert sum(pa.ipc.open_stream(data).read_all().num_rows for _, data in expected) < 4
    with beam.Pipeline(threaded_runner(), WORKERS) as pipeline:
        shards = pipeline | beam.Create([table]) | LogSumExp.PerKeyFromTables(keys, "level", num_shards=4)
        assert_that(shards, check_shards(expected))


def test_no_tables_give_no_shards() -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        tables = pipeline | beam.Create([READINGS]) | beam.Filter(lambda _: False)
        assert_that(tables | LogSumExp.PerKeyFromTables(KEYS, "level"), equal_to([]))


def test_tables_with_skip_nulls_false() -> None:
    with beam.Pipeline(threaded_runner(), WORKERS) as pipeline:
        tables = pipeline | beam.Create(cut(READINGS, 7, seed=3))

        def check(found: list[tuple[int, pa.Table]]) -> None:
            [(_, table)] = found
            states = sort_by_keys(group_states(READINGS, KEYS, "level", skip_nulls=False), KEYS)
            assert 0 < states["state"].null_count < states.num_rows
            assert to_bytes(table) == to_bytes(states)

        assert_that(tables | LogSumExp.PerKeyFromTables(KEYS, "level", skip_nulls=False), check)


def test_tables_in_windows() -> None:
    # Windows of 10 s, sliding by 5 s, so that each table is in two; one worker, so that a bundle spans windows.
    tables = [readings(200, seed) for seed in range(4)]
    timed = [(0, tables[0]), (6, tables[1]), (11, tables[2]), (12, tables[3])]
    expected = {
        start: expected_shards(pa.concat_tables([table for time, table in timed if start <= time < start + 10]), 2)
        for start in (-5, 0, 5, 10)
    }

    def shard_in_window(shard: Any, window: Any = beam.DoFn.WindowParam, time: Any = beam.DoFn.TimestampParam) -> Any:
        assert window.start <= time < window.end
        return int(window.start), (shard[0], to_bytes(shard[1]))

    with beam.Pipeline(FnApiRunner()) as pipeline:
        for max_states in (50, 1 << 20):
            shards = (
                pipeline
                | f"Create {max_states}" >> beam.Create(timed)
                | f"Stamp {max_states}" >> beam.Map(lambda row: TimestampedValue(row[1], row[0]))
                | f"Window {max_states}" >> beam.WindowInto(SlidingWindows(10, 5))
                | f"Combine {max_states}"
                >> LogSumExp.PerKeyFromTables(KEYS, "level", num_shards=2, max_states=max_states)
                | f"Code {max_states}" >> beam.Map(shard_in_window)
            )
            assert_that(
                shards | f"Global {max_states}" >> beam.WindowInto(GlobalWindows()),
                equal_to([(start, shard) for start in expected for shard in expected[start]]),
                f"Check {max_states}",
            )


def test_late_tables() -> None:
    early, late = READINGS.slice(0, 500), READINGS.slice(500)
    tables = (
        test_stream.TestStream()
        .add_elements([TimestampedValue(early, 1)])
        .advance_watermark_to(11)
        .add_elements([TimestampedValue(late, 2)])
        .advance_watermark_to_infinity()
    )
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        panes = (
            pipeline
            | tables
            | beam.WindowInto(
                FixedWindows(10),
                trigger=AfterWatermark(late=AfterCount(1)),
                accumulation_mode=AccumulationMode.ACCUMULATING,
                allowed_lateness=60,
            )
            | LogSumExp.PerKeyFromTables(KEYS, "level")
        )
        assert_that(panes, check_shards(sorted(expected_shards(early, 1) + expected_shards(READINGS, 1))))


def test_merging_windows_are_refused() -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    sessions = pipeline | beam.Create([READINGS]) | beam.WindowInto(Sessions(10))
    with pytest.raises(ValueError, match=r"windows that do not merge, found .*Sessions"):
        sessions | LogSumExp.PerKeyFromTables(KEYS, "level")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keys": "day"}, TypeError, "keys: expected a sequence of column names, found the str 'day'"),
        ({"keys": ["day", "day"]}, ValueError, "key column 'day': expected names that differ"),
        ({"keys": ["level"]}, ValueError, "key column 'level': expected names that differ"),
        ({"keys": ["state"]}, ValueError, "key column 'state': expected names that differ"),
        ({"num_shards": 0}, ValueError, "num_shards: expected 1 or more, found 0"),
        ({"max_states": 0}, ValueError, "max_states: expected 1 or more, found 0"),
    ],
)
def test_bad_arguments_are_refused_at_construction(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LogSumExp.PerKeyFromTables(**{"keys": KEYS, "value": "level", **arguments})


# --- one bundle ------------------------------------------------------------------------------------------------------


def pluralize(start: int, rows: int) -> pa.Table:
    return pa.table({"key": np.arange(start, start + rows), "x": np.zeros(rows)})


def contents_of(*keys: str, skip_nulls: bool = True) -> RowReducer:
    aggregate = ColumnAggregation.of("logsumexp", "natural", "x")
    return RowReducer(Reduction(keys, {STATE: aggregate}, skip_nulls))


def table_sent(element: bytes) -> pa.Table:
    """The table behind the tag."""
    return from_ipc(element[1:])


def rows_sent(outputs: list[Any]) -> int:
    return sum(table_sent(output.value[1]).num_rows for output in outputs if output.value[0] != SENT)


@pytest.mark.parametrize("rows", [10, 60, 200])
def test_a_bundle_of_many_keys_flushes_and_goes_on(rows: int) -> None:
    fn = _GroupBundle(contents_of("key"), 2, 100)
    fn.start_bundle()
    sent: list[Any] = []
    for start in range(0, 1200, rows):
        sent += fn.process(pluralize(start, rows), GlobalWindow())
        assert start + rows - rows_sent(sent) <= 100
    assert rows_sent(sent) > 1000
    sent += fn.finish_bundle()
    assert rows_sent(sent) == 1200
    assert {output.value[0] for output in sent} == {0, 1, SENT}


def test_a_bundle_of_few_keys_is_sent_once() -> None:
    fn = _GroupBundle(contents_of("key"), 1, 100)
    fn.start_bundle()
    windows = [IntervalWindow(0, 10), IntervalWindow(10, 20)]
    for number in range(100):
        assert not list(fn.process(pluralize(0, 15), windows[number % 2]))
    sent = list(fn.finish_bundle())
    assert [output.windows for output in sent] == [(windows[0],), (windows[1],)]
    assert rows_sent(sent) == 30


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("skip_nulls", [True, False])
def test_rows_are_shuffled_where_states_would_be_longer(num_shards: int, skip_nulls: bool) -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "unused": np.arange(40_000),
            "name": pa.array([f"n{i}" for i in rng.integers(0, 30_000, 40_000)]).dictionary_encode(),
            "key": rng.integers(0, 3, 40_000),
            "x": pa.array(rng.normal(0, 100, 40_000), mask=rng.random(40_000) < 0.01),
        }
    )
    keys = ["name", "key"]
    contents = contents_of(*keys, skip_nulls=skip_nulls)
    fn = _GroupBundle(contents, num_shards, 500)
    fn.start_bundle()
    sent: list[Any] = []
    for start in range(0, 40_000, 1000):
        sent += fn.process(table.slice(start, 1000), GlobalWindow())
    sent += fn.finish_bundle()
    streams: dict[int, list[bytes]] = {shard: [] for shard in range(num_shards)}
    for output in sent:
        streams.setdefault(output.value[0], []).append(output.value[1])
    schemas = [table_sent(stream).schema.names for stream in streams[0]]
    # Now and then it is tried whether states have become the shorter.
    assert 25 <= schemas.count(["name", "key", "x"]) <= 36
    assert schemas.count(["name", "key", "state"]) >= 4
    merged = [pair for shard, parts in streams.items() for pair in ShardParts(contents).tables(shard, parts)]
    assert sorted(shard for shard, _ in merged) == list(range(num_shards))
    shards = [shard.to_arrow() for _, shard in merged]
    expected = group_states(table, keys, "x", skip_nulls=skip_nulls)
    assert sort_by_keys(pa.concat_tables(shards), keys) == sort_by_keys(expected, keys)


def test_states_are_shuffled_again_once_they_are_shorter() -> None:
    fn = _GroupBundle(contents_of("key"), 1, 1500)
    fn.start_bundle()
    for start in range(0, 20_000, 1000):
        list(fn.process(pluralize(start, 1000), GlobalWindow()))
    few = pa.table({"key": np.zeros(1000, np.int64), "x": np.zeros(1000)})
    sent = [output for _ in range(40) for output in fn.process(few, GlobalWindow())]
    assert len(sent) <= 8


def test_a_bundle_that_is_tried_again_starts_empty() -> None:
    fn = _GroupBundle(contents_of("key"), 1, 100)
    for _ in range(2):
        fn.start_bundle()
        assert not list(fn.process(pluralize(0, 15), GlobalWindow()))
    [output] = fn.finish_bundle()
    [state] = set(table_sent(output.value[1])["state"].to_pylist())
    assert LogSumExpAccumulator.from_bytes(state).count == 1


def test_a_shard_of_many_batches() -> None:
    reduction = contents_of("key")._reduction
    parts = (b"S" + StateTable.group(pluralize(number % 50, 50), reduction).to_ipc() for number in range(200))
    [(shard, table)] = ShardParts(contents_of("key")).tables(7, parts)
    assert shard == 7
    assert table.keys["key"].to_pylist() == list(range(99))
    assert sum(table.finalize()["count"].to_pylist()) == 200 * 50


def test_a_bundle_sends_only_shards_that_hold_something_and_every_shard_comes_out_once() -> None:
    contents = contents_of("key")
    sent: dict[int, list[bytes]] = {}
    sizes = []
    for bundle in range(5):
        fn = _GroupBundle(contents, 64, 1 << 20)
        fn.start_bundle()
        assert not list(fn.process(pluralize(bundle % 3, 1), GlobalWindow()))
        outputs = list(fn.finish_bundle())
        assert len(outputs) == 2
        sizes += [len(output.value[1]) for output in outputs]
        for output in outputs:
            sent.setdefault(output.value[0], []).append(output.value[1])
    assert max(sizes) < 1000
    parts = ShardParts(contents)
    for merged in (False, True):  # as they are, and as of a partial pane
        streams = {shard: parts.merge(each) for shard, each in sent.items()} if merged else sent
        found = [pair for shard, each in streams.items() for pair in parts.tables(shard, each)]
        assert sorted(shard for shard, _ in found) == list(range(64))
        assert sorted(key for _, table in found for key in table.keys["key"].to_pylist()) == [0, 1, 2]
        assert len({str(table.keys.schema) for _, table in found}) == 1


def test_no_rows_at_all_give_every_shard() -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        shards = (
            pipeline | beam.Create([READINGS.slice(0, 0)]) | LogSumExp.PerKeyFromTables(KEYS, "level", num_shards=3)
        )
        assert_that(
            shards | beam.MapTuple(lambda shard, table: (shard, table.num_rows)), equal_to([(i, 0) for i in range(3)])
        )


def test_what_is_shuffled_is_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "ELEMENT_BYTES", 10_000)
    contents = contents_of("key")
    fn = _GroupBundle(contents, 2, 1 << 20)
    fn.start_bundle()
    assert not list(fn.process(pluralize(0, 3000), GlobalWindow()))
    sent = list(fn.finish_bundle())
    assert max(table_sent(output.value[1]).nbytes for output in sent if output.value[0] != SENT) < 12_000
    for shard in range(2):
        streams = [output.value[1] for output in sent if output.value[0] == shard]
        assert len(streams) > 10
        parts = ShardParts(contents)
        again = parts.merge(streams)
        assert len(again) > 10
        tables = [table.to_arrow() for each in (streams, again) for _, table in parts.tables(shard, each)]
        assert tables[0] == tables[1]


# --- the traps of Beam -----------------------------------------------------------------------------------------------
# 1, 5, 9: below. 2, 11, 12: elements are tables, never rows, and nothing batches elements. 3, 4: no file sink of Beam
# is used. 6: the size of a pickled accumulator, in test_combine_fn. 7: test_outputs_are_coded_as_floats. 8: results are
# compared as bits; test_globally_in_windows_needs_without_defaults; test_sliding_windows. 10: contract.py.


class _RowsOfShards(beam.DoFn):
    """Has process_batch and no process, so Beam loses what a finish_bundle before it emits."""

    def __init__(self) -> None:
        beam.DoFn.__init__(self)

    def process_batch(self, batch: list[tuple[int, pa.Table]]) -> Iterator[list[int]]:
        yield [table.num_rows for _, table in batch]

    def infer_output_type(self, _: object) -> type[int]:
        return int


def test_shards_arrive_in_a_dofn_of_batches() -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        shards = pipeline | beam.Create([READINGS]) | LogSumExp.PerKeyFromTables(KEYS, "level", num_shards=2)
        expected = [pa.ipc.open_stream(data).read_all().num_rows for _, data in expected_shards(READINGS, 2)]
        assert_that(shards | beam.ParDo(_RowsOfShards()), equal_to(expected))


@pytest.mark.parametrize(
    "keys",
    [pa.array(range(50_000)), pa.array([f"key {i:05}" for i in range(50_000)]).dictionary_encode()],
    ids=["plain", "dictionary"],
)
def test_a_shard_is_shuffled_without_the_rest_of_its_table(keys: pa.Array) -> None:
    table = pa.table({"key": keys, "x": np.zeros(50_000)})
    for piece, largest in ((table.slice(500, 10), 4000), (table, 10_000)):
        fn = _GroupBundle(contents_of("key"), 500, 1 << 20)
        fn.start_bundle()
        assert not list(fn.process(piece, GlobalWindow()))
        sent = list(fn.finish_bundle())
        assert rows_sent(sent) == piece.num_rows
        assert all(len(output.value[1]) < largest for output in sent)
        [(_, shard)] = ShardParts(contents_of("key")).tables(0, [sent[0].value[1]])
        assert len(shard.to_ipc()) < largest


def test_what_is_shuffled_is_coded_as_bytes() -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    pipeline | beam.Create([READINGS]) | LogSumExp.PerKeyFromTables(KEYS, "level")
    graph = pipeline.to_runner_api().components
    [shuffle] = [step for step in graph.transforms.values() if step.unique_name.endswith("/GroupByShard")]
    [shuffled] = shuffle.inputs.values()
    coder = graph.coders[graph.pcollections[shuffled].coder_id]
    parts = [graph.coders[part].spec.urn for part in coder.component_coder_ids]
    assert [coder.spec.urn, *parts] == ["beam:coder:kv:v1", "beam:coder:varint:v1", "beam:coder:bytes:v1"]


@pytest.mark.parametrize(
    "keys",
    [
        pa.DictionaryArray.from_arrays(pa.array([2, 1, None, 2]), ["unused", "a", "b"]),
        pa.array(["b", "a", None, "b"], pa.large_string()),
        pa.array([2, 1, None, 2], pa.timestamp("us", "Europe/Oslo")),
        pa.array([2**64 - 1, 1, None, 2**64 - 1], pa.uint64()),
        pa.array([2, 1, None, 2], pa.date32()),
        pa.array([2, 1, None, 2], pa.decimal128(9, 2)),
    ],
    ids=lambda keys: str(keys.type),
)
def test_key_types_that_the_schemas_of_beam_refuse(keys: Any) -> None:
    table = pa.table({"key": keys, "x": [1.0, 2.0, 3.0, 4.0]})

    def check(found: list[tuple[int, pa.Table]]) -> None:
        [(_, shard)] = found
        assert shard.schema.field("key").type == keys.type
        assert shard["key"].to_pylist() == [keys[1].as_py(), keys[0].as_py(), None]
        assert finalize(shard)["logsumexp"].to_pylist() == [2.0, logsumexp([1.0, 4.0]), 3.0]

    with beam.Pipeline(threaded_runner(), WORKERS) as pipeline:
        tables = pipeline | beam.Create([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
        assert_that(tables | LogSumExp.PerKeyFromTables(["key"], "x"), check)


def test_record_batches_are_refused_before_the_run() -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    batches = pipeline | beam.Create(READINGS.to_batches())
    with pytest.raises(TypeCheckError, match="Table"):
        batches | LogSumExp.PerKeyFromTables(KEYS, "level")


# --- the other aggregations -------------------------------------------------------------------------------------------

KEYED = [(key, float(x)) for key, x in zip("abc" * 30, np.random.default_rng(6).normal(size=90) * 9, strict=True)]


def of_key(key: str) -> list[float]:
    return [x for k, x in KEYED if k == key]


def test_every_family_has_globally_and_per_key() -> None:
    def accumulated(make: Any, weigh: bool = False) -> list[tuple[str, Any]]:
        return [(key, make(of_key(key), [1.0] + [0.0] * 29) if weigh else make(of_key(key))) for key in "abc"]

    pairs = [(key, (x, float(i < 3))) for i, (key, x) in enumerate(KEYED)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        numbers, weighted = pipeline | beam.Create(KEYED), pipeline | "Pairs" >> beam.Create(pairs)
        families: list[tuple[Any, Any, list[tuple[str, Any]]]] = [
            (LogMeanExp, numbers, accumulated(lambda x: LogSumExpAccumulator(x).logmeanexp())),
            (LogLikelihood, numbers, accumulated(lambda x: LogLikelihoodAccumulator(x).value())),
            (EffectiveSampleSize, numbers, accumulated(lambda x: EffectiveSampleSizeAccumulator(x).value())),
            (ExactSum, numbers, accumulated(lambda x: ExactSumAccumulator(x).value())),
            (WeightedLogSumExp, weighted, accumulated(lambda x, w: WeightedLogSumExpAccumulator(x, w).value(), True)),
            (CrossEntropy, weighted, accumulated(lambda x, t: CrossEntropyAccumulator(x, t).value(), True)),
        ]
        for family, elements, expected in families:
            name = family.__name__
            found = elements | f"{name} per key" >> family.PerKey()
            assert_that(found, check_bits(expected), label=f"{name} per key, checked")
            of_a = (
                elements | f"{name} a" >> beam.Filter(lambda element: element[0] == "a") | f"{name} v" >> beam.Values()
            )
            total = of_a | f"{name} globally" >> family.Globally()
            assert_that(total, check_bits([expected[0][1]]), label=f"{name} globally, checked")


@pytest.mark.parametrize("family", [WeightedLogSumExp, LogLikelihood, EffectiveSampleSize, CrossEntropy, ExactSum])
def test_tables_of_every_kind_are_as_grouped_at_once(family: Any) -> None:
    aggregation = family.PerKeyFromTables.AGGREGATION
    names = ["x", "t"][: len(aggregation.inputs)]
    x = np.random.default_rng(2).normal(size=300)
    table = pa.table({"k": np.arange(300) % 37, "x": x, "t": (np.arange(300) < 37) * 1.0})
    expected = sort_by_keys(group_states(table, ["k"], names, aggregation=aggregation.name), ["k"])
    tables = [table.slice(i, 70) for i in range(0, 300, 70)]

    def check(found: list[tuple[int, pa.Table]]) -> None:
        merged = sort_by_keys(pa.concat_tables([part for _, part in found]), ["k"])
        assert merged.combine_chunks().equals(expected.combine_chunks())
        assert finalize(merged).equals(finalize(expected))

    with beam.Pipeline(FnApiRunner()) as pipeline:
        assert_that(
            pipeline | beam.Create(tables) | family.PerKeyFromTables(["k"], names, num_shards=3, max_states=20), check
        )


def test_tables_of_decimals_are_totalled_exactly() -> None:
    amounts = pa.array([Decimal("9999999999999999999999.99"), Decimal("0.01"), None, Decimal("-1.50")])
    tables = [pa.table({"k": ["a", "a"], "x": amounts[i : i + 2]}) for i in (0, 2)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        states = pipeline | beam.Create(tables) | ExactSum.PerKeyFromTables(["k"], "x", digits=2)
        found = states | Finalize(["sum", "min"]) | beam.MapTuple(lambda _, table: table.to_pylist())
        expected = {"k": "a", "sum": Decimal("9999999999999999999998.50"), "min": Decimal("-1.50")}
        assert_that(found, equal_to([[expected]]))


# --- log-softmax ------------------------------------------------------------------------------------------------------

ROWS = [*KEYED, ("a", math.inf), ("c", -math.inf), ("d", -math.inf), ("e", 2.5)]


def expected_rows() -> list[tuple[str, tuple[float, float]]]:
    expected = []
    for key in "abcde":
        x = [v for k, v in ROWS if k == key]
        expected += [(key, (v, float(log))) for v, log in zip(x, log_softmax(x), strict=True)]
    return expected


@pytest.mark.parametrize("max_broadcast", [5, 4, 0])
def test_log_softmax_per_key(max_broadcast: int) -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = pipeline | beam.Create(ROWS)
        assert_that(rows | LogSoftmax.PerKey(max_broadcast), check_bits(expected_rows()))
        named = rows | beam.MapTuple(lambda key, x: (key, {"logit": x}))
        found = named | "Named" >> LogSoftmax.PerKey(max_broadcast, value=lambda row: row["logit"])
        expected = [(key, ({"logit": x}, log)) for key, (x, log) in expected_rows()]
        assert_that(found, check_bits(expected), label="of rows")


@pytest.mark.parametrize("max_broadcast", [5, 0])
def test_log_softmax_goes_by_window(max_broadcast: int) -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        stamped = pipeline | beam.Create([("a", 1.0, 0), ("a", 2.0, 5), ("a", 7.0, 15)])
        rows = stamped | beam.Map(lambda row: TimestampedValue(row[:2], row[2])) | beam.WindowInto(FixedWindows(10))
        first, second = log_softmax([1.0, 2.0]).tolist()
        expected = [("a", (1.0, first)), ("a", (2.0, second)), ("a", (7.0, 0.0))]
        assert_that(rows | LogSoftmax.PerKey(max_broadcast), check_bits(expected))


def test_keys_and_rows_of_log_softmax_go_by_their_own_coders() -> None:
    rows = beam.Pipeline(FnApiRunner()) | beam.Create([("a", 1)])
    coder = registry.get_coder((rows | LogSoftmax.PerKey()).element_type)
    assert coder.encode(("a", (1, -0.5))) == b"\x01a\x01" + FloatCoder().encode(-0.5)


@pytest.mark.parametrize(
    ("transform", "row"),
    [(LogSoftmax.PerKey(), ("a", 1.0)), (LogSoftmax.PerKeyFromTables(["k"], "x"), pa.table({"k": [1], "x": [1.0]}))],
)
def test_log_softmax_refuses_what_has_several_panes(transform: Any, row: Any) -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    rows = pipeline | beam.Create([row])
    late = beam.WindowInto(FixedWindows(10), allowed_lateness=60)
    early = beam.WindowInto(
        FixedWindows(10),
        trigger=AfterWatermark(late=AfterCount(1)),
        accumulation_mode=AccumulationMode.ACCUMULATING,
    )
    for label, window in (("late", late), ("early", early)):
        with pytest.raises(ValueError, match="LogSoftmax: expected the default trigger and no lateness"):
            rows | f"Window {label}" >> window | f"Softmax {label}" >> transform
    endless = pipeline | PeriodicImpulse() | "Rows" >> beam.Map(lambda _: row).with_output_types(rows.element_type)
    with pytest.raises(ValueError, match="LogSoftmax: expected an input with an end, found one without"):
        endless | "Softmax" >> transform


def test_log_softmax_of_nothing_is_nothing() -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        nothing = pipeline | beam.Create([]).with_output_types(tuple[str, float])
        assert_that(nothing | LogSoftmax.PerKey(), equal_to([]))


@pytest.mark.parametrize("max_broadcast", [10, 0])
@pytest.mark.parametrize("keys", [["k", "s"], []], ids=["keys", "total"])
def test_log_softmax_of_tables(max_broadcast: int, keys: list[str]) -> None:
    n = 200
    rng = np.random.default_rng(1)
    x = pa.array(rng.normal(size=n) * 20, mask=rng.random(n) < 0.1)
    table = pa.table({"id": range(n), "k": np.arange(n) % 3, "s": ["p", None] * (n // 2), "x": x})
    tables = [table.slice(0, 0), table.slice(0, 120), table.slice(120)]
    groups: dict[Any, list[int]] = {}
    for row in table.to_pylist():
        if row["x"] is not None:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row["id"])
    logs: list[float | None] = [None] * n
    shares: list[float | None] = [None] * n
    for ids in groups.values():
        values = [x[i].as_py() for i in ids]
        for i, log, share in zip(ids, log_softmax(values).tolist(), softmax(values).tolist(), strict=True):
            logs[i], shares[i] = log, share

    def check(found: list[pa.Table]) -> None:
        for part in found:
            assert part.column_names == [*table.column_names, "log_softmax", "softmax"]
            ids = part["id"].to_pylist()
            assert ids == sorted(ids)
        if max_broadcast:
            assert sorted(part.num_rows for part in found) == [0, 80, 120]
        rows = pa.concat_tables(found).sort_by("id")
        assert rows.select(table.column_names).equals(table)
        assert bits(rows["log_softmax"].to_pylist()) == bits(logs)
        assert bits(rows["softmax"].to_pylist()) == bits(shares)

    with beam.Pipeline(FnApiRunner()) as pipeline:
        transform = LogSoftmax.PerKeyFromTables(keys, "x", num_shards=2, max_broadcast=max_broadcast)
        assert_that(pipeline | beam.Create(tables) | transform, check)


@pytest.mark.parametrize("max_broadcast", [100, 10])
@pytest.mark.parametrize("key_type", [pa.int64(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_there_are_as_many_shards_as_hold_the_keys(key_type: pa.DataType, max_broadcast: int) -> None:
    n, num_keys = 2000, 100
    column = pa.array([None, *range(num_keys - 1)] * (n // num_keys))
    if key_type != pa.int64():
        column = column.cast(pa.string()).cast(key_type)
    rows = pa.table({"id": range(n), "k": column, "x": np.random.default_rng(1).normal(size=n)})
    expected = log_softmax_of_keys(rows, group_states(rows, ["k"], "x"), ["k"], "x")
    stamped = [(rows.slice(0, 700), 5), (rows.slice(700), 5), (rows.slice(0, 0), 5), (rows, 15)]

    def check(found: list[tuple[IntervalWindow, pa.Table]]) -> None:
        if max_broadcast == num_keys:
            assert sorted(table.num_rows for _, table in found) == [0, 700, 1300, n]
        else:  # of three tables with rows, by 10 shards each
            assert len(found) == 30
            assert max(len(set(table["k"].to_pylist())) for _, table in found) < 2 * max_broadcast
        for start in (0, 10):
            tables = [table for window, table in found if window.start == start]
            for column, found_column in zip(expected.columns, pa.concat_tables(tables).sort_by("id"), strict=True):
                assert found_column.type == column.type
                assert bits(found_column.to_pylist()) == bits(column.to_pylist())

    with beam.Pipeline(FnApiRunner()) as pipeline:
        softmax_of_tables = LogSoftmax.PerKeyFromTables(["k"], "x", num_shards=1, max_broadcast=max_broadcast)
        tables = pipeline | beam.Create(stamped) | beam.MapTuple(TimestampedValue).with_output_types(pa.Table)
        found = tables | beam.WindowInto(FixedWindows(10)) | softmax_of_tables
        by_window = found | beam.Map(lambda table, window=beam.DoFn.WindowParam: (window, table))
        assert_that(by_window, check)


class _Part(bytes):
    """An element of a shuffle that counts how many there are of its like in memory."""

    alive: ClassVar[int] = 0

    def __init__(self, _: bytes) -> None:
        _Part.alive += 1

    def __del__(self) -> None:
        _Part.alive -= 1


class _Group:
    """The values of a key as a runner gives those that it does not hold: read anew whenever they are iterated."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return (_Part(part) for part in self._parts)


def test_rows_of_a_shard_stream_past_the_states() -> None:
    tables = [pa.table({"k": np.arange(50) % 7, "x": np.arange(50) * 0.5 + i}) for i in range(20)]
    whole = pa.concat_tables(tables)
    states = group_states(whole, ["k"], "x")
    rows = [ROWS_TAG + to_ipc(table) for table in tables]
    of_states = STATES_TAG + StateTable.from_arrow(states, ["k"]).to_ipc()
    group = _Group([*rows[:10], of_states, *rows[10:]])
    found = []
    for table in _log_softmax_of_shard((0, group), ["k"], "x"):
        assert _Part.alive <= 1
        found.append(table)
    assert len(found) == len(tables)
    assert pa.concat_tables(found).equals(log_softmax_of_keys(whole, states, ["k"], "x"))


def test_a_broadcast_of_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_broadcast: expected 0 or more, found -1"):
        LogSoftmax.PerKey(-1)
