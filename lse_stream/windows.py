"""Windows of streams: tables split by their rows' event times, and partial panes, which keep state small."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import PCollection
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import FixedWindows, IntervalWindow, SlidingWindows, WindowFn
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from .arrow import take_rows

Micros = npt.NDArray[np.int64]

# Microseconds since 1970 within which Beam's timestamps lie, with room for the windows around them.
_CENTURY = 100 * 366 * 86_400_000_000
EARLIEST, LATEST = MIN_TIMESTAMP.micros + _CENTURY, MAX_TIMESTAMP.micros - _CENTURY


class ParDoInto(beam.ParDo):
    """ParDo with a windowing that is not its input's, such as one trigger after another.

    The elements' windows are those that the DoFn gives them, where ``beam.WindowInto`` would assign new ones.
    """

    def __init__(self, dofn: beam.DoFn, windowing: Windowing, element_type: Any) -> None:
        beam.ParDo.__init__(self, dofn)
        self._windowing = windowing
        beam.ParDo.with_output_types(self, element_type)

    def get_windowing(self, _: Any) -> Windowing:
        return self._windowing


class _Same(beam.DoFn):
    def __init__(self) -> None:
        beam.DoFn.__init__(self)

    def process(self, element: Any) -> Iterator[Any]:
        yield element


class PartialPanes(beam.PTransform[PCollection[tuple[Any, Any]], PCollection[tuple[Any, Any]]]):
    """(key, part) to (key, part), where the parts of a key that arrive within some seconds are merged to one.

    Windows, trigger and lateness are those of the input again afterwards. Runners keep every element of a grouping
    until its trigger fires, accumulating ones until the window ends. Put this ahead of the grouping, and it keeps one
    part for each pane in which the key occurred, however many elements there were.

    Args:
      merge: makes one part of some, at least one.
      every: whole seconds of processing time between the panes of a key.

    Raises:
      ValueError: not whole seconds, or none.
    """

    def __init__(self, merge: Callable[[Iterable[Any]], Any], every: int) -> None:
        super().__init__()
        if not (isinstance(every, int) and every > 0):  # Beam's trigger knows no fractions
            raise ValueError(f"seconds between partial panes: expected a whole number of 1 or more, found {every}")
        self._merge = merge
        self._every = every

    def expand(self, pcoll: PCollection[tuple[Any, Any]]) -> PCollection[tuple[Any, Any]]:
        outer = pcoll.windowing
        inner = Windowing(
            outer.windowfn,
            # On time as well, so that the last part is not late for the grouping that follows.
            AfterWatermark(early=AfterProcessingTime(self._every), late=AfterCount(1)),
            AccumulationMode.DISCARDING,
            outer.timestamp_combiner,
            outer.allowed_lateness.micros / 1e6,
        )
        held = ParDoInto(_Same(), inner, pcoll.element_type)
        merge = ParDoInto(_MergeParts(self._merge), outer, pcoll.element_type)
        merged: PCollection[tuple[Any, Any]] = pcoll | "Hold" >> held | "Group" >> beam.GroupByKey() | "Merge" >> merge
        return merged


class _MergeParts(beam.DoFn):
    def __init__(self, merge: Callable[[Iterable[Any]], Any]) -> None:
        self._merge = merge

    def process(self, element: tuple[Any, Iterable[Any]]) -> Iterator[tuple[Any, Any]]:
        key, parts = element
        held = list(parts)
        if held:  # a runner may fire a pane with nothing in it
            yield key, self._merge(held)


class WindowTables(beam.PTransform[PCollection[pa.Table], PCollection[pa.Table]]):
    """PCollection of ``pa.Table`` to tables in windows, split by the event times that the rows carry in a column.

    Column arithmetic, not an element per row: each table that comes out holds the rows of one table that are in one
    window, in their order. What groups them afterwards has the trigger and the lateness given here.

    A row is late as Beam has it: where the watermark has passed its window's end. So a stream's tables should have
    timestamps no later than their earliest row.

    Args:
      windowfn: ``FixedWindows`` or ``SlidingWindows``.
      event_time: name of a column of timestamps or dates. Those without a zone are UTC.
      trigger, accumulation_mode, allowed_lateness: as of ``beam.WindowInto``.

    Raises:
      TypeError: other windows.
      TypeError, ValueError: when the pipeline runs: a column of another type, a null, or a time beyond Beam's range.
    """

    def __init__(self, windowfn: WindowFn, event_time: str, **windowing: Any) -> None:
        super().__init__()
        if not isinstance(windowfn, FixedWindows | SlidingWindows):
            raise TypeError(f"expected fixed or sliding windows for tables, found {windowfn}")
        self._windowfn = windowfn
        self._windowing = beam.WindowInto(windowfn, **windowing).windowing
        self._event_time = event_time

    def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[pa.Table]:
        split = _SplitByWindow(self._windowfn, self._event_time)
        tables: PCollection[pa.Table] = pcoll | "Split" >> ParDoInto(split, self._windowing, pa.Table)
        return tables


class _SplitByWindow(beam.DoFn):
    def __init__(self, windowfn: FixedWindows | SlidingWindows, event_time: str) -> None:
        self._windowfn = windowfn
        self._event_time = event_time

    def process(self, table: pa.Table) -> Iterator[WindowedValue]:
        times = event_times(table.column(self._event_time), self._event_time)
        for window, rows in split_by_window(self._windowfn, times):
            part = table if rows is None else take_rows(table, rows)
            yield WindowedValue(part, window.max_timestamp(), (window,))


def event_times(column: pa.ChunkedArray, name: str) -> Micros:
    """The times of a column (n,) as microseconds since 1970, rounded down.

    Raises:
      TypeError: neither timestamps nor dates.
      ValueError: a null, or a time beyond Beam's range; row and value named.
    """
    check_event_time(column.type, name)
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise ValueError(f"column {name!r}, row {row}: expected an event time, found null")
    data_type = column.type
    if pa.types.is_date(data_type):
        column = column.cast(pa.timestamp("s" if data_type == pa.date32() else "ms"))
    numbers: Micros = pc.cast(column, pa.int64()).to_numpy()
    unit = column.type.unit
    if unit == "ns":
        return numbers // 1000
    micros = {"s": 1_000_000, "ms": 1000, "us": 1}[unit]
    beyond = (numbers < EARLIEST // micros) | (numbers > LATEST // micros)
    if beyond.any():
        row = int(beyond.argmax())
        raise ValueError(
            f"column {name!r}, row {row}: expected a time that Beam can hold, up to 292,000 years from 1970, "
            f"found {numbers[row]} {unit} since then"
        )
    return numbers * micros


def check_event_time(data_type: pa.DataType, name: str) -> None:
    """Raises TypeError for a column that holds neither timestamps nor dates."""
    if not (pa.types.is_timestamp(data_type) or pa.types.is_date(data_type)):
        raise TypeError(f"column {name!r}: expected timestamps or dates as event times, found {data_type}")


def split_by_window(
    windowfn: FixedWindows | SlidingWindows, times: Micros
) -> Iterator[tuple[IntervalWindow, npt.NDArray[np.int64] | None]]:
    """The windows of times (n,) in order, and for each the numbers of its rows, in order; None for all rows.

    The same windows as ``windowfn.assign`` gives, time by time.
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
