"""Windows of tables: split by their rows' event times, and the window as columns of results."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.pvalue import PCollection
from apache_beam.transforms.trigger import AccumulationMode
from apache_beam.transforms.window import FixedWindows, IntervalWindow, Sessions, SlidingWindows, WindowFn
from apache_beam.utils.timestamp import Duration, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ..event_times import WINDOW, Micros, event_times
from ..table_functions import take_rows
from .internals import ParDoInto
from .pre_aggregate import check_windowing


def accumulation_mode(*, discarding: bool) -> Any:
    """Beam's mode of panes: all rows of the window so far, or those since the last pane."""
    return AccumulationMode.DISCARDING if discarding else AccumulationMode.ACCUMULATING


def reach_of(windowfn: FixedWindows | SlidingWindows | Sessions) -> int:
    """How far the windows of a time reach from it, in microseconds; of sessions, ahead of any merge."""
    return int((windowfn.gap_size if isinstance(windowfn, Sessions) else windowfn.size).micros)


def first_ends(windowfn: FixedWindows | SlidingWindows | Sessions, times: Micros) -> Micros:
    """The end of the earliest window of each of times (n,), in microseconds; of sessions, ahead of any merge."""
    if isinstance(windowfn, Sessions):
        return times + windowfn.gap_size.micros
    size = windowfn.size.micros
    period = windowfn.period.micros if isinstance(windowfn, SlidingWindows) else size
    return times + period - (times - windowfn.offset.micros - size) % period


class WindowTables(beam.PTransform[PCollection[pa.Table], PCollection[pa.Table]]):
    """PCollection of ``pa.Table`` to tables in windows, split by the event times that the rows carry in a column.

    Column arithmetic, not an element per row: each table that comes out holds the rows of one table that are in one
    window, in their order. What groups them afterwards has the trigger and the lateness given here.

    A row is late as Beam has it: where the watermark has passed its window's end. So a stream's tables should have
    timestamps no later than their earliest row. For a watermark that does not follow the rows' own times, and may be
    ahead of them, ``max_out_of_orderness`` has the windows close that much later: Beam's windows are those of the event
    times, moved by so much. ``AddWindow`` and ``WriteWindows``, given the same, name them as they are.

    Args:
      windowfn: ``FixedWindows`` or ``SlidingWindows``.
      event_time: name of a column of timestamps or dates. Those without a zone are UTC.
      max_out_of_orderness: seconds.
      trigger, accumulation_mode, allowed_lateness: as of ``beam.WindowInto``.

    Raises:
      TypeError: other windows.
      ValueError: a windowing as ``PreCombinePerKey`` refuses.
      TypeError, ValueError: when the pipeline runs: a column of another type, a null, or a time beyond Beam's range.

    >>> rows = pa.table({"time": pa.array([0, 30, 60], pa.timestamp("s")), "x": [1.0, 2.0, 3.0]})
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     tables = pipeline | beam.Create([rows]) | WindowTables(FixedWindows(60), "time")
    ...     _ = tables | beam.Map(lambda table: print(table["x"].to_pylist()))
    [1.0, 2.0]
    [3.0]
    """

    def __init__(
        self, windowfn: WindowFn, event_time: str, *, max_out_of_orderness: float = 0.0, **windowing: Any
    ) -> None:
        super().__init__()
        if not isinstance(windowfn, FixedWindows | SlidingWindows):
            raise TypeError(f"expected fixed or sliding windows for tables, found {windowfn}")
        delay = Duration.of(max_out_of_orderness)
        self._split = _SplitByWindow(windowfn, event_time, delay)
        self._windowing = beam.WindowInto(moved_by(windowfn, delay), **windowing).windowing
        check_windowing(self._windowing)

    def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[pa.Table]:
        split = self._split
        tables: PCollection[pa.Table] = pcoll | "Split" >> ParDoInto(split, self._windowing, pa.Table)
        return tables


class _SplitByWindow(beam.DoFn):
    def __init__(self, windowfn: FixedWindows | SlidingWindows, event_time: str, delay: Duration) -> None:
        self._windowfn, self._event_time, self._delay = windowfn, event_time, delay

    def process(self, table: pa.Table) -> Iterator[WindowedValue]:
        for window, part in tables_by_window(self._windowfn, table, self._event_time, self._delay):
            yield WindowedValue(part, window.max_timestamp(), (window,))


def moved_by(windowfn: FixedWindows | SlidingWindows, delay: Duration) -> WindowFn:
    """The same windows, so much later."""
    offset = Timestamp(micros=windowfn.offset.micros + delay.micros)
    if isinstance(windowfn, SlidingWindows):
        return SlidingWindows(windowfn.size, windowfn.period, offset)
    return FixedWindows(windowfn.size, offset)


def tables_by_window(
    windowfn: FixedWindows | SlidingWindows, table: pa.Table, event_time: str, delay: Duration
) -> Iterator[tuple[IntervalWindow, pa.Table]]:
    """The rows of each window, as the window is when it is moved by ``delay``."""
    found = list(split_by_window(windowfn, event_times(table.column(event_time), event_time)))
    order = [rows for _, rows in found if rows is not None]
    # All at once: to take some rows of a column of states, all of it is read.
    ordered = take_rows(table, np.concatenate(order)) if order else table
    start = 0
    for window, rows in found:
        part = ordered if rows is None else ordered.slice(start, rows.size)
        start += part.num_rows
        yield IntervalWindow(window.start + delay, window.end + delay), part


def split_by_window(
    windowfn: FixedWindows | SlidingWindows, times: Micros
) -> Iterator[tuple[IntervalWindow, npt.NDArray[np.int64] | None]]:
    """The windows of times (n,) in order, and for each the numbers of its rows, in order; None for all rows.

    They are the windows that ``windowfn.assign`` gives, time by time.
    """
    size = windowfn.size.micros
    period = windowfn.period.micros if isinstance(windowfn, SlidingWindows) else size
    last = times - (times - windowfn.offset.micros) % period
    if isinstance(windowfn, FixedWindows) and times.size and (last == last[0]).all():
        yield _window(int(last[0]), size), None
        return
    starts, rows = [], []
    for back in range(0, size, period):
        start = last - back
        inside = np.flatnonzero(start > times - size)
        starts.append(start[inside])
        rows.append(inside)
    start, row = np.concatenate([np.zeros(0, np.int64), *starts]), np.concatenate([np.zeros(0, np.int64), *rows])
    order = np.lexsort((row, start))
    start, row = start[order], row[order]
    ends = np.flatnonzero(np.diff(start, append=start[-1:] + 1))
    for first, end in zip([0, *(ends[:-1] + 1).tolist()], (ends + 1).tolist(), strict=False):
        yield _window(int(start[first]), size), row[first:end]


def _window(start: int, size: int) -> IntervalWindow:
    return IntervalWindow(Timestamp(micros=start), Timestamp(micros=start + size))


class AddWindow(beam.DoFn):
    """(shard, table) to (shard, table with the columns WINDOW), inserted at column ``position``.

    Windows are named as of ``WindowTables`` with that ``max_out_of_orderness``, seconds.
    """

    def __init__(self, position: int, *, max_out_of_orderness: float = 0.0) -> None:
        self._position, self._delay = position, Duration.of(max_out_of_orderness).micros

    def process(
        self, element: tuple[int, pa.Table], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[tuple[int, pa.Table]]:
        shard, table = element
        for i, (name, end) in enumerate(zip(WINDOW, (window.start, window.end), strict=True)):
            column = pa.repeat(pa.scalar(end.micros - self._delay, pa.timestamp("us", "UTC")), table.num_rows)
            table = table.add_column(self._position + i, name, column)
        yield shard, table
