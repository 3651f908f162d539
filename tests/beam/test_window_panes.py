"""Panes from Beam's state: early, on time and late ones, of windows and of sessions, whatever the number of parts.

TestStream runs on BundleBasedDirectRunner only. Early panes come by the clock there, not by the stream's own.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows, TimestampedValue, WindowFn
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfoTiming
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.beam import sessions, window_panes
from lse_stream.beam.window_states import WindowStates
from lse_stream.event_times import WINDOW
from lse_stream.state_column import STATE

ON_TIME, LATE, EARLY = PaneInfoTiming.ON_TIME, PaneInfoTiming.LATE, PaneInfoTiming.EARLY

# Key, value, event time.
Row = tuple[str, float, int]
# A key, and start and end of a window.
Place = tuple[str, int, int]

batches = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(-800, 800), st.integers(0, 40)), min_size=1, max_size=8),
    min_size=1,
    max_size=5,
)


def table_of(rows: Sequence[Row]) -> pa.Table:
    keys, values, times = zip(*rows, strict=True)
    return pa.table({"key": keys, "value": values, "time": pa.array(times, pa.timestamp("s"))})


class Collected:
    """What a pipeline gave; BundleBasedDirectRunner runs in this process."""

    found: ClassVar[list[tuple[Place, int, int, bytes]]] = []

    @classmethod
    def take(cls, element: tuple[int, pa.Table], pane: Any = beam.DoFn.PaneInfoParam) -> None:
        table = element[1]
        times = [table[name].cast(pa.timestamp("s", "UTC")).cast(pa.int64()).to_pylist() for name in WINDOW]
        for *place, state in zip(table["key"].to_pylist(), *times, table[STATE].to_pylist(), strict=True):
            cls.found.append((tuple(place), pane.timing, pane.index, state))


def run(steps: Sequence[list[Row] | int], windowfn: WindowFn, **options: Any) -> list[tuple[Place, int, int, bytes]]:
    """The panes of batches of rows, with watermarks between them, in the order in which they came."""
    stream: Any = test_stream.TestStream()
    for step in steps:
        if isinstance(step, int):
            stream = stream.advance_watermark_to(step)
        else:
            stream = stream.add_elements([TimestampedValue(table_of(step), min(time for *_, time in step))])
    stream = stream.advance_watermark_to_infinity()
    Collected.found = []
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        panes = pipeline | stream | WindowStates(["key"], "value", "time", windowfn, allowed_lateness=10**6, **options)
        panes | beam.Map(Collected.take)
    return Collected.found


def totals(rows: Sequence[Row], windowfn: WindowFn) -> dict[Place, bytes]:
    """What a batch job makes of rows."""
    states: dict[Place, LogSumExpAccumulator] = defaultdict(LogSumExpAccumulator)
    if isinstance(windowfn, Sessions):
        gap = windowfn.gap_size.micros // 10**6
        for key in {row[0] for row in rows}:
            mine = sorted((time, value) for other, value, time in rows if other == key)
            breaks = [i for i in range(1, len(mine)) if mine[i][0] >= mine[i - 1][0] + gap]
            for start, end in zip([0, *breaks], [*breaks, len(mine)], strict=True):
                states[key, mine[start][0], mine[end - 1][0] + gap].update([value for _, value in mine[start:end]])
    else:
        for key, value, time in rows:
            for window in windowfn.assign(WindowFn.AssignContext(Timestamp(time))):
                states[key, int(window.start), int(window.end)].add(value)
    return {place: state.to_bytes() for place, state in states.items()}


WINDOWS = [FixedWindows(10), pytest.param(SlidingWindows(10, 4, 1), marks=pytest.mark.engine), Sessions(5)]


@pytest.mark.parametrize("windowfn", WINDOWS, ids=lambda windowfn: type(windowfn).__name__)
@settings(max_examples=10)
@given(batches, st.lists(st.integers(1, 25), min_size=5, max_size=5), st.integers(1, 3))
def test_the_last_pane_is_the_batch_result(
    windowfn: WindowFn, batches: list[list[Row]], waits: list[int], num_shards: int
) -> None:
    steps: list[list[Row] | int] = []
    for i, batch in enumerate(batches):
        steps += [batch, sum(waits[: i + 1])]
    wanted = totals([row for batch in batches for row in batch], windowfn)
    last = {place: state for place, _, _, state in run(steps, windowfn, num_shards=num_shards)}
    # Of a session that grew there are panes of what it was, too.
    assert {place: last[place] for place in wanted} == wanted
    if not isinstance(windowfn, Sessions):
        assert last.keys() == wanted.keys()


@pytest.mark.parametrize("windowfn", WINDOWS, ids=lambda windowfn: type(windowfn).__name__)
@settings(max_examples=10)
@given(batches, st.lists(st.integers(1, 25), min_size=5, max_size=5))
def test_discarding_panes_together_have_each_row_once(
    windowfn: WindowFn, batches: list[list[Row]], waits: list[int]
) -> None:
    steps: list[list[Row] | int] = []
    for i, batch in enumerate(batches):
        steps += [batch, sum(waits[: i + 1])]
    rows = [row for batch in batches for row in batch]
    found: dict[Any, LogSumExpAccumulator] = defaultdict(LogSumExpAccumulator)
    wanted: dict[Any, LogSumExpAccumulator] = defaultdict(LogSumExpAccumulator)
    for states, pairs in (
        (found, [(place, state) for place, _, _, state in run(steps, windowfn, discarding=True)]),
        (wanted, list(totals(rows, windowfn).items())),
    ):
        for place, state in pairs:
            # Windows of sessions change as they grow: by key alone.
            states[place[0] if isinstance(windowfn, Sessions) else place].merge(LogSumExpAccumulator.from_bytes(state))
    assert {place: state.to_bytes() for place, state in found.items()} == {
        place: state.to_bytes() for place, state in wanted.items()
    }


@pytest.mark.parametrize("windowfn", [FixedWindows(10), Sessions(5)], ids=["fixed", "session"])
def test_panes_on_time_and_late(windowfn: WindowFn) -> None:
    steps: list[list[Row] | int] = [[("a", 1.0, 1), ("b", 1.0, 2)], 12, [("a", 2.0, 3)], 15, [("a", 3.0, 2)], 50]
    panes = [
        (place, timing, index, LogSumExpAccumulator.from_bytes(state).count)
        for place, timing, index, state in run(steps, windowfn)
    ]
    of_a = [pane for pane in panes if pane[0][0] == "a"]
    assert [pane[1:] for pane in of_a] == [(ON_TIME, 0, 1), (LATE, 1, 2), (LATE, 2, 3)]
    assert panes.count((("b", 0, 10) if isinstance(windowfn, FixedWindows) else ("b", 2, 7), ON_TIME, 0, 1)) == 1


def test_a_session_that_a_late_row_makes_longer_ends_anew() -> None:
    found = run([[("a", 1.0, 0)], 6, [("a", 2.0, 4)], 7, 30], Sessions(5))
    assert [pane[:3] for pane in found] == [(("a", 0, 5), ON_TIME, 0), (("a", 0, 9), ON_TIME, 1)]


@pytest.mark.parametrize("windowfn", [FixedWindows(10**6), Sessions(10**6)], ids=["fixed", "session"])
def test_many_parts_are_merged_as_they_come(monkeypatch: pytest.MonkeyPatch, windowfn: WindowFn) -> None:
    held: list[int] = []
    replace = window_panes.replace_parts

    def counted(parts: Any, new: list[bytes]) -> int:
        held.append(len(list(parts.read())))
        return replace(parts, new)

    for module in (window_panes, sessions):
        monkeypatch.setattr(module, "LEAST_TO_MERGE", 3000)
        monkeypatch.setattr(module, "replace_parts", counted)
    rows = [("a", float(i), i) for i in range(60)]
    found = run([[row] for row in rows], windowfn)
    assert {place: state for place, _, _, state in found} == totals(rows, windowfn)
    assert len(held) > 10
    assert max(held) < 10


@pytest.mark.parametrize("windowfn", [FixedWindows(10), Sessions(5)], ids=["fixed", "session"])
def test_early_panes_come_by_the_clock(windowfn: WindowFn) -> None:
    clock = int(Timestamp.now())
    stream: Any = test_stream.TestStream().advance_processing_time(clock)
    for seconds, batch in ((10, [("a", 1.0, 1)]), (100, [("a", 2.0, 2), ("b", 1.0, 3)]), (1000, [("a", 0.0, 4)])):
        stream = stream.add_elements([TimestampedValue(table_of(batch), 1)]).advance_processing_time(seconds)
    stream = stream.advance_watermark_to_infinity()
    Collected.found = []
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        panes = pipeline | stream | WindowStates(["key"], "value", "time", windowfn, early_firing=2)
        panes | beam.Map(Collected.take)
    of_a = [
        (timing, index, LogSumExpAccumulator.from_bytes(state).count)
        for place, timing, index, state in Collected.found
        if place[0] == "a"
    ]
    if isinstance(windowfn, FixedWindows):
        assert of_a == [(EARLY, 0, 1), (EARLY, 1, 2), (EARLY, 2, 3), (ON_TIME, 3, 3)]
    else:
        assert of_a == [(EARLY, 0, 1), (EARLY, 1, 2), (EARLY, 2, 3)]


def test_every_shard_of_a_window_comes_out_once_where_the_input_has_an_end() -> None:
    rows = [("a", 1.0, 1), ("b", 2.0, 12), ("c", 3.0, 13)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        tables = pipeline | beam.Create([table_of(rows[:1]), table_of(rows[1:])])
        states = tables | WindowStates(["key"], "value", "time", FixedWindows(10), num_shards=8)

        def shard_of(element: tuple[int, pa.Table], window: Any = beam.DoFn.WindowParam) -> Iterator[tuple[int, int]]:
            yield int(window.start), element[0]

        wanted = [(start, shard) for start in (0, 10) for shard in range(8)]
        assert_that(states | beam.FlatMap(shard_of), lambda found: _same(sorted(found), wanted))


def _same(found: object, wanted: object) -> None:
    assert found == wanted


def test_rows_of_sessions_that_come_too_late_are_dropped() -> None:
    """Those of which it is known: a timer at 115, 10 s after the end of the session, has gone off by then."""
    stream: Any = test_stream.TestStream().add_elements([TimestampedValue(table_of([("a", 1.0, 100)]), 100)])
    late = table_of([("a", 2.0, 1), ("a", 3.0, 94), ("a", 4.0, 104)])
    stream = stream.advance_watermark_to(200).add_elements([TimestampedValue(late, 1)]).advance_watermark_to_infinity()
    Collected.found = []
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        panes = pipeline | stream | WindowStates(["key"], "value", "time", Sessions(5), allowed_lateness=10)
        panes | beam.Map(Collected.take)
    assert [(place, LogSumExpAccumulator.from_bytes(state).count) for place, _, _, state in Collected.found] == [
        (("a", 100, 105), 1),
        (("a", 104, 109), 1),
    ]
