"""Windows of streams: the last accumulating pane is the batch result, byte for byte, and so are merged discarding ones.

TestStream runs on BundleBasedDirectRunner only.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that
from apache_beam.transforms.trigger import (
    AccumulationMode,
    AfterAll,
    AfterAny,
    AfterCount,
    AfterEach,
    AfterProcessingTime,
    AfterWatermark,
    DefaultTrigger,
    Repeatedly,
)
from apache_beam.transforms.window import (
    FixedWindows,
    GlobalWindows,
    IntervalWindow,
    Sessions,
    SlidingWindows,
    TimestampCombiner,
    TimestampedValue,
    WindowFn,
)
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import PaneInfoTiming, WindowedValue
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.beam import LogLikelihood, LogSumExp, MergeStates, PreCombinePerKey
from lse_stream.beam.combine_fns import (
    CrossEntropyCombineFn,
    EffectiveSampleSizeCombineFn,
    LogLikelihoodCombineFn,
    LogSumExpCombineFn,
    MergeStatesCombineFn,
    ToStateCombineFn,
    WeightedLogSumExpCombineFn,
)
from lse_stream.beam.parquet_io import WriteShards, WriteWindows
from lse_stream.beam.pre_aggregate import PreAggregate
from lse_stream.beam.window_states import WindowStates
from lse_stream.beam.windows import WindowTables, first_ends, split_by_window
from lse_stream.errors import DataError
from lse_stream.event_times import WINDOW, event_times
from lse_stream.parquet.sink import write_shard
from lse_stream.state_column import STATE, states_from_arrow
from lse_stream.states.codec import encode_states

ACCUMULATING, DISCARDING = AccumulationMode.ACCUMULATING, AccumulationMode.DISCARDING
STATES = ToStateCombineFn(LogSumExpCombineFn())

# (key, value, event time), and how far the watermark is then.
Event = tuple[str, float, int]

events = st.lists(st.tuples(st.sampled_from("ab"), st.floats(-800, 800), st.integers(0, 40)), min_size=1, max_size=12)


@st.composite
def arrivals(draw: st.DrawFn) -> list[list[Event] | int]:
    """Batches of events, with watermarks (numbers, ascending) and seconds of processing time (negative) between."""
    found: list[list[Event] | int] = []
    watermark = 0
    for batch in draw(st.lists(events, min_size=1, max_size=4)):
        found.append(batch)
        if draw(st.booleans()):
            watermark += draw(st.integers(1, 25))
            found.append(watermark)
        if draw(st.booleans()):
            found.append(-draw(st.integers(1, 9)))
    return found


def stream_of(steps: Sequence[list[Any] | int]) -> Any:
    stream: Any = test_stream.TestStream()
    for step in steps:
        if isinstance(step, list):
            stream = stream.add_elements(step)
        elif step > 0:
            stream = stream.advance_watermark_to(step)
        else:
            stream = stream.advance_processing_time(-step)
    # Timers of processing time that are left keep the local runner waiting, now and then for ever.
    return stream.advance_processing_time(100).advance_watermark_to_infinity()


def timed(steps: Sequence[list[Event] | int]) -> list[list[Any] | int]:
    return [
        [TimestampedValue((key, value), time) for key, value, time in step] if isinstance(step, list) else step
        for step in steps
    ]


Pane = tuple[str, IntervalWindow, int, bytes]


class Collected:
    """What a pipeline gave; BundleBasedDirectRunner runs in this process."""

    found: ClassVar[list[Pane]] = []

    @classmethod
    def take(
        cls, pane: tuple[str, Any], window: Any = beam.DoFn.WindowParam, info: Any = beam.DoFn.PaneInfoParam
    ) -> None:
        key, state = pane
        cls.found.append((key, window, info.index, state.to_bytes()))


def run(steps: Sequence[list[Any] | int], windowing: Any, *transforms: Any) -> list[Pane]:
    """The panes that come of a stream, in the order in which they came."""
    Collected.found = []
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        output = pipeline | stream_of(steps) | windowing
        for transform in transforms:
            output |= transform
        output | beam.Map(Collected.take)
    return Collected.found


def assigned(windowfn: WindowFn, time: int) -> list[Any]:
    return list(windowfn.assign(WindowFn.AssignContext(Timestamp(time))))


def kept(
    steps: Sequence[list[Event] | int], windowfn: WindowFn, lateness: int
) -> dict[tuple[str, IntervalWindow], bytes]:
    """The batch result of every key and window over the elements that come in time, by Beam's own rule."""
    states: dict[tuple[str, IntervalWindow], LogSumExpAccumulator] = defaultdict(LogSumExpAccumulator)
    watermark = Timestamp(-(10**9))
    for step in steps:
        if isinstance(step, int):
            watermark = max(watermark, Timestamp(step)) if step > 0 else watermark
            continue
        for key, value, time in step:
            for window in assigned(windowfn, time):
                if window.end + lateness >= watermark:  # as trigger.py of Beam has it
                    states[key, window].add(value)
    return {place: state.to_bytes() for place, state in states.items()}


def last(panes: Sequence[Pane]) -> dict[tuple[str, IntervalWindow], bytes]:
    return {(key, window): state for key, window, _, state in panes}


def merged(panes: Sequence[Pane]) -> dict[tuple[str, IntervalWindow], bytes]:
    states: dict[tuple[str, IntervalWindow], LogSumExpAccumulator] = defaultdict(LogSumExpAccumulator)
    for key, window, _, state in panes:
        states[key, window].merge(LogSumExpAccumulator.from_bytes(state))
    return {place: state.to_bytes() for place, state in states.items()}


TRIGGERS = {
    "default": DefaultTrigger(),
    "early and late": AfterWatermark(early=AfterCount(1), late=AfterCount(1)),
    # Of processing time, repeated triggers keep the local runner busy for ever.
    "repeated": Repeatedly(AfterCount(1)),
}
# How a key's states are summed: at once, or by way of states per bundle and partial pane.
WAYS: dict[str, list[Any]] = {
    "combined": [lambda: beam.CombinePerKey(STATES)],
    "reduced": [lambda: PreCombinePerKey(LogSumExpCombineFn()), lambda: MergeStates.PerKey(STATES)],
    "partial panes": [
        lambda: PreCombinePerKey(LogSumExpCombineFn(), pre_aggregate=2),
        lambda: MergeStates.PerKey(STATES),
    ],
}


@pytest.mark.parametrize("way", ["combined", "reduced"])
@pytest.mark.parametrize(
    "windowfn",
    [FixedWindows(10), pytest.param(SlidingWindows(10, 4, 1), marks=pytest.mark.engine)],
    ids=["fixed", "sliding"],
)
@settings(max_examples=10)
@given(arrivals(), st.sampled_from(sorted(TRIGGERS)), st.sampled_from([0, 7, 1000]))
def test_panes_are_the_batch_result(
    way: str, windowfn: WindowFn, steps: list[list[Event] | int], trigger: str, lateness: int
) -> None:
    wanted = kept(steps, windowfn, lateness)
    for mode, total in ((ACCUMULATING, last), (DISCARDING, merged)):
        windowing = beam.WindowInto(
            windowfn, trigger=TRIGGERS[trigger], accumulation_mode=mode, allowed_lateness=lateness
        )
        assert total(run(timed(steps), windowing, *[make() for make in WAYS[way]])) == wanted


# Some streams with triggers of processing time keep the local runner busy for ever: not these.
PARTIAL: list[list[list[Event] | int]] = [
    [[("a", 1.0, 1), ("b", 2.0, 3)], -3, [("a", 300.0, 2)], 5, [("a", 0.5, 9), ("a", 7.0, 12)], 30, [("b", 1.0, 8)]],
    [
        [("a", 1.0, 5), ("a", 2.0, 8)],
        -5,
        12,
        [("a", 3.0, 4), ("b", 4.0, 19)],
        -2,
        [("b", 5.0, 19)],
        25,
        [("a", 6.0, 7)],
    ],
]


@pytest.mark.parametrize("steps", PARTIAL)
@pytest.mark.parametrize("trigger", sorted(TRIGGERS))
@pytest.mark.parametrize("lateness", [0, 1000])
def test_partial_panes_are_the_batch_result(steps: list[list[Event] | int], trigger: str, lateness: int) -> None:
    windowfn = FixedWindows(10)
    for mode, total in ((ACCUMULATING, last), (DISCARDING, merged)):
        windowing = beam.WindowInto(
            windowfn, trigger=TRIGGERS[trigger], accumulation_mode=mode, allowed_lateness=lateness
        )
        found = run(timed(steps), windowing, *[make() for make in WAYS["partial panes"]])
        assert total(found) == kept(steps, windowfn, lateness)


@pytest.mark.parametrize("way", ["combined", "reduced"])
@settings(max_examples=6)
@given(events, st.randoms())
def test_sessions_are_the_batch_result_whatever_the_order(way: str, rows: list[Event], random: Any) -> None:
    random.shuffle(rows)
    middle = random.randrange(len(rows) + 1)
    found = run(
        timed([rows[:middle], -4, rows[middle:]]), beam.WindowInto(Sessions(5)), *[make() for make in WAYS[way]]
    )
    wanted: dict[tuple[str, IntervalWindow], bytes] = {}
    for key in {row[0] for row in rows}:
        mine = sorted((time, value) for other, value, time in rows if other == key)
        breaks = [i for i in range(1, len(mine)) if mine[i][0] >= mine[i - 1][0] + 5]
        for start, end in zip([0, *breaks], [*breaks, len(mine)], strict=True):
            session = IntervalWindow(mine[start][0], mine[end - 1][0] + 5)
            wanted[key, session] = LogSumExpAccumulator([value for _, value in mine[start:end]]).to_bytes()
    assert last(found) == wanted
    assert len(found) == len(wanted)


def test_a_late_row_joins_two_sessions() -> None:
    steps: list[list[Event] | int] = [[("a", 1.0, 0), ("a", 300.0, 8)], 30, [("a", 2.0, 4)]]
    windowing = beam.WindowInto(
        Sessions(5),
        trigger=AfterWatermark(late=AfterCount(1)),
        accumulation_mode=ACCUMULATING,
        allowed_lateness=1000,
    )
    for way in ("combined", "reduced"):
        found = last(run(timed(steps), windowing, *[make() for make in WAYS[way]]))
        whole = found.pop(("a", IntervalWindow(0, 13)))
        assert whole == LogSumExpAccumulator([1.0, 300.0, 2.0]).to_bytes()
        assert merged([(key, IntervalWindow(0, 13), 0, state) for (key, _), state in found.items()]) == {
            ("a", IntervalWindow(0, 13)): LogSumExpAccumulator([1.0, 300.0]).to_bytes()
        }


def test_what_comes_too_late_is_what_the_counts_lack() -> None:
    steps: list[list[Event] | int] = [[("a", 1.0, 1), ("b", 2.0, 2)], 12, [("a", 3.0, 3)], 40, [("a", 4.0, 4)]]
    windowing = beam.WindowInto(
        FixedWindows(10),
        trigger=AfterWatermark(late=AfterCount(1)),
        accumulation_mode=ACCUMULATING,
        allowed_lateness=20,
    )
    found = last(run(timed(steps), windowing, *[make() for make in WAYS["partial panes"]]))
    counts = {key: LogSumExpAccumulator.from_bytes(state).count for (key, _), state in found.items()}
    assert counts == {"a": 2, "b": 1}  # of four rows one was dropped


def test_values_by_pane() -> None:
    # The siblings, and the transform that gives values: early, on time, late.
    steps: list[Any] = [[TimestampedValue(("a", 1.0), 1)], -5, [TimestampedValue(("a", 2.0), 2)], 11]
    steps += [[TimestampedValue(("a", 3.0), 3)]]
    for transform in (LogSumExp.PerKey(), LogLikelihood.PerKey()):
        with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
            panes = (
                pipeline
                | stream_of(steps)
                | beam.WindowInto(
                    FixedWindows(10),
                    trigger=AfterWatermark(early=AfterProcessingTime(3), late=AfterCount(1)),
                    accumulation_mode=ACCUMULATING,
                    allowed_lateness=60,
                )
                | transform
                | beam.Values()
                | beam.Map(lambda result: getattr(result, "logsumexp", result))
            )
            wanted = [LogSumExpAccumulator(range(1, n)).value() for n in (2, 3, 4)]
            assert_that(panes, lambda found, wanted=wanted: _same(sorted(found), wanted))


def _same(found: list[Any], wanted: list[Any]) -> None:
    assert found == wanted


# --- states as elements -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("combine_fn", "elements"),
    [
        (LogSumExpCombineFn(), [1.0, 300.0, -5.0]),
        (LogSumExpCombineFn("decibel"), [60.0, 60.0, 30.0]),
        (LogLikelihoodCombineFn(), [1.0, 300.0, -5.0]),
        (EffectiveSampleSizeCombineFn(), [1.0, 3.0, -5.0]),
        (WeightedLogSumExpCombineFn(), [(1.0, 0.5), (2.0, -0.25), (3.0, 1.0)]),
        (CrossEntropyCombineFn(), [(1.0, 0), (2.0, 1), (3.0, 0)]),
    ],
)
def test_states_of_every_kind_are_merged_as_if_combined_at_once(combine_fn: Any, elements: list[Any]) -> None:
    states, merge = ToStateCombineFn(combine_fn), MergeStatesCombineFn(combine_fn)
    parts = []
    for part in (elements[:1], elements[1:]):
        accumulator = states.create_accumulator()
        for element in part:
            accumulator = states.add_input(accumulator, element)
        parts.append(states.extract_output(accumulator))
    total, whole = merge.create_accumulator(), combine_fn.create_accumulator()
    for accumulator in parts:
        total = merge.add_input(total, accumulator)
    for element in elements:
        whole = combine_fn.add_input(whole, element)
    assert total.to_bytes() == whole.to_bytes()
    assert merge.extract_output(total) == combine_fn.extract_output(whole)


def test_states_are_coded_as_records() -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    pairs = pipeline | beam.Create([("a", 1.0)])
    for output in (
        pairs | PreCombinePerKey(LogSumExpCombineFn(), pre_aggregate=1),
        pairs | "States" >> beam.CombinePerKey(STATES),
    ):
        coder = beam.coders.typecoders.registry.get_coder(output.element_type)
        assert len(coder.encode(("a", LogSumExpAccumulator([1.0] * 1000)))) <= 88 + 4


def test_a_bundle_of_many_keys_sends_them_on() -> None:
    pairs = [(i % 50, float(i)) for i in range(500)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        found = (
            pipeline
            | beam.Create(pairs)
            | PreCombinePerKey(LogSumExpCombineFn(), max_states=7)
            | MergeStates.PerKey(LogSumExpCombineFn())
        )
        wanted = [(key, LogSumExpAccumulator([v for k, v in pairs if k == key]).value()) for key in range(50)]
        assert_that(found, lambda found: _same(sorted(found), wanted))


def test_shards_of_windows_which_would_replace_each_other_are_refused() -> None:
    shards = beam.Pipeline(FnApiRunner()) | beam.Create([(0, pa.table({"x": [1]}))])
    for name, windowing in (
        ("fixed", beam.WindowInto(FixedWindows(5))),
        ("panes", beam.WindowInto(GlobalWindows(), **COUNTING_PANES)),
    ):
        with pytest.raises(ValueError, match="expected the global window with the default trigger, found"):
            shards | name >> windowing | f"Write {name}" >> WriteShards("out", 1)


COUNTING_PANES: dict[str, Any] = {
    "trigger": Repeatedly(AfterCount(1)),
    "accumulation_mode": AccumulationMode.ACCUMULATING,
}
AT_EARLIEST: dict[str, Any] = {"timestamp_combiner": TimestampCombiner.OUTPUT_AT_EARLIEST}
COUNTING = [
    Repeatedly(AfterCount(2)),
    AfterWatermark(early=AfterCount(2)),
    AfterWatermark(late=AfterAny(AfterCount(1), AfterCount(3))),
    AfterEach(AfterWatermark(), Repeatedly(AfterAll(AfterProcessingTime(1), AfterCount(2)))),
]


@pytest.mark.parametrize(
    ("windowing", "message"),
    [
        (AT_EARLIEST, "OUTPUT_AT_EOW"),
        *(({"trigger": trigger}, "does not count elements beyond 1, found .*Count") for trigger in COUNTING),
    ],
)
def test_a_windowing_in_which_a_reduction_would_show_is_refused(windowing: dict[str, Any], message: str) -> None:
    windowing = {"accumulation_mode": AccumulationMode.DISCARDING, **windowing}
    pipeline = beam.Pipeline(FnApiRunner())
    for rows, transform in (
        (("a", 1.0), PreCombinePerKey(LogSumExpCombineFn())),
        (table_of([("a", 1.0, 1)]), LogSumExp.PerKeyFromTables(["k"], "x")),
    ):
        name = type(transform).__name__
        windows = beam.WindowInto(FixedWindows(5), **windowing)
        created = pipeline | f"{name} rows" >> beam.Create([rows]) | f"{name} windows" >> windows
        with pytest.raises(ValueError, match=message):
            created | transform
    with pytest.raises(ValueError, match=message):
        WindowTables(FixedWindows(5), "time", **windowing)


@pytest.mark.parametrize("every", [0, -1, 2.5])
def test_pre_aggregation_of_no_time_is_refused(every: Any) -> None:
    with pytest.raises(ValueError, match=r"pre_aggregate: expected a whole number of 1 or more, found"):
        PreCombinePerKey(LogSumExpCombineFn(), pre_aggregate=every)
    with pytest.raises(ValueError, match=r"pre_aggregate: expected"):
        PreAggregate(list, every)


# --- tables -----------------------------------------------------------------------------------------------------------

KEYS = ["key"]


def table_of(rows: Sequence[Event]) -> pa.Table:
    keys, values, times = zip(*rows, strict=True)
    return pa.table(
        {
            "key": pa.array(keys),
            "value": pa.array(values, pa.float64()),
            "time": pa.array([time * 1000 for time in times], pa.timestamp("ms")),
        }
    )


def states_by_key(shard: tuple[int, pa.Table]) -> Iterator[tuple[str, LogSumExpAccumulator]]:
    _, table = shard
    for key, record in zip(table["key"].to_pylist(), table[STATE].to_pylist(), strict=True):
        yield key, LogSumExpAccumulator.from_bytes(record)


@pytest.mark.parametrize(
    "windowfn",
    [FixedWindows(10), pytest.param(SlidingWindows(10, 4, 1), marks=pytest.mark.engine)],
    ids=["fixed", "sliding"],
)
@settings(max_examples=8)
@given(arrivals(), st.sampled_from([0, 7, 1000]))
def test_tables_in_windows_are_the_batch_result(
    windowfn: WindowFn, steps: list[list[Event] | int], lateness: int
) -> None:
    tables: list[list[Any] | int] = [
        [TimestampedValue(table_of(step), min(time for *_, time in step))] if isinstance(step, list) else step
        for step in steps
    ]
    wanted = kept(steps, windowfn, lateness)
    for mode, total in ((ACCUMULATING, last), (DISCARDING, merged)):
        windowing = WindowTables(
            windowfn,
            "time",
            trigger=TRIGGERS["early and late"],
            accumulation_mode=mode,
            allowed_lateness=lateness,
        )
        combine = LogSumExp.PerKeyFromTables(KEYS, "value", num_shards=2)
        found = run(tables, windowing, combine, beam.FlatMap(states_by_key))
        assert total(found) == wanted


@pytest.mark.parametrize(
    ("windowfn", "ends", "name"),
    [(FixedWindows(10), 10, (0, 10)), (SlidingWindows(10, 5), 5, (-5, 5)), (Sessions(10), 13, (3, 14))],
    ids=["fixed", "sliding", "session"],
)
@pytest.mark.parametrize("delay", [0.0, 6.5])
def test_windows_close_later_than_a_watermark_that_is_ahead(
    windowfn: Any, ends: int, name: tuple[int, int], delay: float
) -> None:
    """Of two rows the second comes 6 s after the first window of the first one ended."""
    rows, more = ([TimestampedValue(table_of([("a", value, time)]), time)] for value, time in ((1.0, 3), (2.0, 4)))
    windowing = WindowStates(["key"], "value", "time", windowfn, allowed_lateness=100.0, max_out_of_orderness=delay)

    def named(
        shard: tuple[int, pa.Table], window: Any = beam.DoFn.WindowParam, pane: Any = beam.DoFn.PaneInfoParam
    ) -> Iterator[tuple[Any, Any]]:
        [start], [end] = (shard[1][column].cast(pa.int64()).to_pylist() for column in WINDOW)
        if not isinstance(windowfn, Sessions):
            assert (window.start.micros, window.end.micros) == (start + delay * 1e6, end + delay * 1e6)
        for _, state in states_by_key(shard):
            yield (start / 1e6, end / 1e6, pane.timing), state

    panes = run([rows, ends + 6, more], windowing, beam.FlatMap(named))
    places: list[tuple[Any, bytes]] = [(place, state) for place, _, _, state in panes]
    timing, state = [(place[2], state) for place, state in places if place[:2] == name][-1]
    assert state == LogSumExpAccumulator([1.0, 2.0]).to_bytes()
    # A session that became longer ends anew.
    is_late = not delay and not isinstance(windowfn, Sessions)
    assert timing == (PaneInfoTiming.LATE if is_late else PaneInfoTiming.ON_TIME)


def test_tables_are_split_into_one_per_window() -> None:
    rows = [("a", float(i), i % 37) for i in range(1000)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        sizes = (
            pipeline
            | beam.Create([table_of(rows)])
            | WindowTables(FixedWindows(10), "time")
            | beam.Map(lambda table, window=beam.DoFn.WindowParam: (int(window.start), table.num_rows))
        )
        wanted = [(start, sum(start <= time < start + 10 for *_, time in rows)) for start in (0, 10, 20, 30)]
        assert_that(sizes, lambda found: _same(sorted(found), wanted))


micros = st.integers(-(10**15), 10**15)


@given(
    st.lists(micros, max_size=20),
    st.integers(1, 10**10),
    st.integers(1, 40),
    st.integers(0, 10**9),
    st.booleans(),
)
def test_windows_are_those_that_beam_assigns(
    times: list[int], size: int, overlap: int, offset: int, sliding: bool
) -> None:
    from apache_beam.utils.timestamp import Duration

    period = Duration(micros=max(1, size // overlap))
    start = Timestamp(micros=offset)
    windowfn = (
        SlidingWindows(Duration(micros=size), period, start) if sliding else FixedWindows(Duration(micros=size), start)
    )
    wanted: dict[IntervalWindow, list[int]] = defaultdict(list)
    for row, time in enumerate(times):
        for window in windowfn.assign(WindowFn.AssignContext(Timestamp(micros=time))):
            wanted[window].append(row)
    found = [
        (window, list(range(len(times))) if rows is None else rows.tolist())
        for window, rows in split_by_window(windowfn, np.array(times, np.int64))
    ]
    assert found == sorted(wanted.items(), key=lambda item: item[0].start)
    ends = [min(window.end.micros for window, rows in wanted.items() if row in rows) for row in range(len(times))]
    assert first_ends(windowfn, np.array(times, np.int64)).tolist() == ends


def test_event_times_of_every_type() -> None:
    time = datetime(2017, 9, 5, 12, 30, 0, 123456, UTC)
    wanted = [int(time.timestamp()) * 1_000_000 + 123456]
    for data_type, lost in (("us", 1), ("ns", 1), ("ms", 1000), ("s", 1_000_000)):
        column = pa.array([wanted[0] // lost * (1000 if data_type == "ns" else 1)], pa.int64())
        timestamps = pa.chunked_array([column.cast(pa.timestamp(data_type, "Europe/Oslo"))])
        assert event_times(timestamps, "time").tolist() == [wanted[0] // lost * lost]
    below = pa.chunked_array([pa.array([-1], pa.timestamp("ns"))])
    assert event_times(below, "time").tolist() == [-1]
    for date_type in (pa.date32(), pa.date64()):
        days = pa.chunked_array([pa.array([date(1970, 1, 3)], date_type)])
        assert event_times(days, "time").tolist() == [2 * 86_400_000_000]


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (pa.array([1]), TypeError, r"column 'time': expected timestamps or dates as event times, found int64"),
        (
            pa.array([0, None], pa.timestamp("s")),
            ValueError,
            r"column 'time', row 1: expected an event time, found null",
        ),
        (
            pa.array([0, MAX_TIMESTAMP.micros // 1000], pa.timestamp("ms")),
            ValueError,
            r"column 'time', row 1: expected a time that Beam can hold.* found 9223372036854775 ms",
        ),
        (pa.array([2**62], pa.timestamp("s")), ValueError, r"column 'time', row 0: expected a time that Beam can hold"),
        (pa.array([-(2**63)], pa.timestamp("us")), ValueError, r"row 0: expected a time that Beam can hold"),
    ],
)
def test_event_times_that_cannot_be(column: pa.Array, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        event_times(pa.chunked_array([column]), "time")


def test_sessions_of_tables_are_refused() -> None:
    with pytest.raises(TypeError, match="expected fixed or sliding windows for tables"):
        WindowTables(Sessions(5), "time")


# --- files ------------------------------------------------------------------------------------------------------------


class InManyWindows(beam.DoFn):
    """Emits a table in each of some windows, all in the end of one bundle."""

    def __init__(self) -> None:
        beam.DoFn.__init__(self)

    def process(self, starts: list[int]) -> None:
        self._starts = starts

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for start in self._starts:
            window = IntervalWindow(start, start + 10)
            yield WindowedValue((0, pa.table({"start": [start] * 3})), window.max_timestamp(), (window,))


@pytest.mark.parametrize("each_pane", [False, True])
def test_windows_that_close_in_one_bundle_are_a_file_each(tmp_path: Path, each_pane: bool) -> None:
    # Beam's own sinks lose rows here: one has a single window for all, the other a single file.
    starts = list(range(-20, 100, 10))
    with beam.Pipeline(FnApiRunner()) as pipeline:
        tables = pipeline | beam.Create([starts]) | beam.ParDo(InManyWindows())
        tables | WriteWindows(str(tmp_path), 1, each_pane=each_pane)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [pq.read_table(tmp_path / name)["start"].to_pylist() for name in names] == [[start] * 3 for start in starts]
    pane = "pane-00000-[0-9a-f]{16}-" if each_pane else ""
    assert re.fullmatch(f"19691231T235940-19691231T235950-{pane}part-00000-of-00001.parquet", names[0])


def test_names_sort_by_window_to_the_microsecond(tmp_path: Path) -> None:
    starts = [Timestamp(micros=micros) for micros in (999_999, 1_000_000, 1_000_001, 1_500_000, 2_000_000)]

    def windowed(_: int) -> Iterator[Any]:
        for i, start in enumerate(starts):
            window = IntervalWindow(start, start + 1)
            yield WindowedValue((0, pa.table({"i": [i]})), window.max_timestamp(), (window,))

    with beam.Pipeline(FnApiRunner()) as pipeline:
        pipeline | beam.Create([0]) | beam.FlatMap(windowed) | WriteWindows(str(tmp_path), 1)
    assert [pq.read_table(path)["i"][0].as_py() for path in sorted(tmp_path.iterdir())] == list(range(len(starts)))


def test_years_before_0_keep_their_sign(tmp_path: Path) -> None:
    seconds = np.datetime64("-1970-01-01", "s").astype(int).item()
    with beam.Pipeline(FnApiRunner()) as pipeline:
        tables = pipeline | beam.Create([[0, seconds]]) | beam.ParDo(InManyWindows())
        tables | WriteWindows(str(tmp_path), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "-19700101T000000--19700101T000010-part-00000-of-00001.parquet",
        "19700101T000000-19700101T000010-part-00000-of-00001.parquet",
    ]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"file/part-00000-of-00001.parquet: expected a file that can be written, found"
    ):
        write_shard(str(tmp_path / "file"), 1, 0, pa.schema([]), [])


def test_a_further_pane_replaces_the_file(tmp_path: Path) -> None:
    steps: list[Any] = [
        [TimestampedValue(table_of([("a", 1.0, 1)]), 1)],
        11,
        [TimestampedValue(table_of([("a", 2.0, 2)]), 2)],
    ]
    windowing = WindowTables(
        FixedWindows(10),
        "time",
        trigger=AfterWatermark(late=AfterCount(1)),
        accumulation_mode=ACCUMULATING,
        allowed_lateness=60,
    )
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        shards = pipeline | stream_of(steps) | windowing | LogSumExp.PerKeyFromTables(KEYS, "value")
        shards | WriteWindows(str(tmp_path), 1)
    [path] = tmp_path.iterdir()
    states, _ = states_from_arrow(pq.read_table(path)[STATE])
    assert encode_states(states)[0].tobytes() == LogSumExpAccumulator([1.0, 2.0]).to_bytes()
