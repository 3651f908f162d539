"""Windows on the command line, and the graph from rows to states by key and window."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows, TimestampedValue, WindowFn
from apache_beam.utils.timestamp import Duration, Timestamp

from lse_stream.accumulator import LogSumExpAccumulator, ScaledLogSumExpAccumulator
from lse_stream.arrow import finalise, sort_by_keys
from lse_stream.combine_fn import LogSumExpCombineFn, StatesCombineFn
from lse_stream.keys import encode_keys, one_by_one
from lse_stream.scales import NATURAL, Scale
from lse_stream.state_column import STATE, states_to_arrow
from lse_stream.state_table import from_ipc, to_ipc
from lse_stream.transforms import LogSumExp, MergeStates, ReducePerKey
from lse_stream.values import widen_scalar
from lse_stream.windows import WindowTables, event_times

from .command import UsageError

# The columns of a window's times.
WINDOW = ("window_start", "window_end")

# Sessions are of one key each; their results are kept together by the day in which they end.
DAY = FixedWindows(86400)

_UNITS = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(rf"(\d+)({'|'.join(_UNITS)})")
_MOST_SECONDS = timedelta(days=36525).total_seconds()

FORMS = "fixed:1h, sliding:1h/10m or session:30m"


def parse_duration(option: str, text: str) -> float:
    """The seconds of a duration such as "90s", "15m", "1h", "2d", "1w" or "500ms".

    Raises:
      UsageError: it cannot be read, or is more than a century.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--{option} {text}: expected a whole number and a unit of {', '.join(_UNITS)}, such as 30m, found {text!r}"
        )
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > _MOST_SECONDS:
        raise UsageError(f"--{option} {text}: expected at most 100 years, found more")
    return seconds


def parse_window(text: str) -> WindowFn:
    """The windows that --window names, aligned to 1970-01-01 00:00 UTC (so those of a week begin on Thursdays).

    Raises:
      UsageError: it cannot be read.
    """
    form, _, lengths = text.partition(":")
    durations = [parse_duration("window", length) for length in lengths.split("/")] if lengths else []
    if not all(durations):
        raise UsageError(f"--window {text}: expected durations of more than 0, found 0")
    match form, durations:
        case "fixed", [size]:
            return FixedWindows(_exactly(size))
        case "sliding", [size, period]:
            if period > size:
                raise UsageError(f"--window {text}: expected a period no longer than the size, or rows fall between")
            return SlidingWindows(_exactly(size), _exactly(period))
        case "session", [gap]:
            return Sessions(_exactly(gap))
    raise UsageError(f"--window {text}: expected {FORMS}, found {text!r}")


def _exactly(seconds: float) -> Duration:
    return Duration(micros=round(seconds * 1e6))


def total(
    tables: PCollection[pa.Table],
    keys: Sequence[str],
    value: str,
    event_time: str,
    windowfn: WindowFn,
    *,
    scale: Scale | str = NATURAL,
    num_shards: int = 1,
    partial_panes: int | None = None,
    early_firing: int | None = None,
    allowed_lateness: float = 0.0,
    discarding: bool = False,
) -> PCollection[tuple[int, pa.Table]]:
    """Adds the graph from tables of rows to states: (shard, table of keys, window and state), in windows, by pane.

    Fixed and sliding windows have one table per shard and pane, of all keys; sessions one per key, in shard 0. Panes
    come when the watermark passes a window's end, then for every late arrival, and with ``early_firing`` before.

    Args:
      tables: with the columns that are named.
      keys, value, event_time: names of columns.
      windowfn: fixed, sliding or session windows.
      scale, num_shards, partial_panes: as of ``LogSumExp.PerKeyOfTables``.
      early_firing: whole seconds of processing time.
      allowed_lateness: seconds of event time.
      discarding: a pane holds what came since the last one, not all of its window.
    """
    windowing: dict[str, Any] = {
        "trigger": AfterWatermark(
            early=None if early_firing is None else AfterProcessingTime(early_firing), late=AfterCount(1)
        ),
        "accumulation_mode": _mode(discarding=discarding),
        "allowed_lateness": allowed_lateness,
    }
    if not isinstance(windowfn, Sessions):
        shards: PCollection[tuple[int, pa.Table]] = (
            tables
            | "Window" >> WindowTables(windowfn, event_time, **windowing)
            | "LogSumExp"
            >> LogSumExp.PerKeyOfTables(keys, value, scale=scale, num_shards=num_shards, partial_panes=partial_panes)
            | "AddWindow" >> beam.ParDo(_AddWindow(len(keys)))
        )
        return shards
    combine_fn = LogSumExpCombineFn(scale)
    sessions: PCollection[tuple[int, pa.Table]] = (
        tables
        | "Rows" >> beam.FlatMap(_rows, list(keys), value, event_time).with_output_types(tuple[bytes, float])
        | "Window" >> beam.WindowInto(windowfn, **windowing)
        | "Reduce" >> ReducePerKey(combine_fn, partial_panes=partial_panes)
        | "LogSumExp" >> MergeStates.PerKey(StatesCombineFn(combine_fn))
        | "ToTable" >> beam.MapTuple(_to_table)
        | "AddWindow" >> beam.ParDo(_AddWindow(len(keys)))
    )
    return sessions


def _mode(*, discarding: bool) -> Any:
    return AccumulationMode.DISCARDING if discarding else AccumulationMode.ACCUMULATING


class _AddWindow(beam.DoFn):
    """(shard, table) to the same with the window as columns, behind so many columns of keys."""

    def __init__(self, position: int) -> None:
        self._position = position

    def process(
        self, element: tuple[int, pa.Table], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[tuple[int, pa.Table]]:
        shard, table = element
        for i, (name, end) in enumerate(zip(WINDOW, (window.start, window.end), strict=True)):
            column = pa.repeat(pa.scalar(end.micros, pa.timestamp("us", "UTC")), table.num_rows)
            table = table.add_column(self._position + i, name, column)
        yield shard, table


def _rows(
    table: pa.Table, keys: list[str], value: str, event_time: str
) -> Iterator["TimestampedValue[tuple[bytes, float]]"]:
    """((keys, value) at its event time) for each row with a value; the keys as a stream of one row."""
    times = event_times(table.column(event_time), event_time).tolist()
    codes, distinct = encode_keys(table, keys)
    coded = [to_ipc(key) for key in one_by_one(distinct)] if keys else [b""]
    for code, number, micros in zip(codes.tolist(), table.column(value).to_pylist(), times, strict=True):
        if number is not None:
            yield TimestampedValue((coded[code], widen_scalar(number)), Timestamp(micros=micros))


def _to_table(key: bytes, state: LogSumExpAccumulator | ScaledLogSumExpAccumulator) -> tuple[int, pa.Table]:
    column = states_to_arrow(state.states())
    return 0, from_ipc(key).append_column(STATE, column) if key else pa.table({STATE: column})


class LastSessions(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[tuple[int, pa.Table]]]):
    """Sessions, as tables, to one table for each day in which some end: of each session the last pane.

    A session that late rows have made longer takes the place of those that it came from, if they end in the same day.
    """

    def __init__(self, keys: Sequence[str], *, allowed_lateness: float, discarding: bool) -> None:
        super().__init__()
        self._keys = list(keys)
        self._windowing = {
            "trigger": AfterWatermark(late=AfterCount(1)),
            "accumulation_mode": _mode(discarding=discarding),
            "allowed_lateness": allowed_lateness,
        }
        self._last = not discarding

    def expand(self, sessions: PCollection[tuple[int, pa.Table]]) -> PCollection[tuple[int, pa.Table]]:
        days: PCollection[tuple[int, pa.Table]] = (
            sessions
            | "Tables" >> beam.Values()
            | "Days" >> WindowTables(DAY, WINDOW[1], **self._windowing)
            | "ToIpc" >> beam.Map(lambda table: (0, to_ipc(table))).with_output_types(tuple[int, bytes])
            | "Group" >> beam.GroupByKey()
            | "Last" >> beam.FlatMapTuple(partial(_last_sessions, self._keys, self._last))
        )
        return days


def _last_sessions(keys: list[str], last: bool, shard: int, streams: Iterable[bytes]) -> Iterator[tuple[int, pa.Table]]:
    tables = [from_ipc(stream) for stream in streams]
    if not tables:
        return
    table = pa.concat_tables(tables)
    table = sort_by_keys(table, [*keys, *WINDOW])
    if last:
        codes, _ = encode_keys(table, keys)
        starts, ends = (table[name].cast(pa.int64()).to_pylist() for name in WINDOW)
        counts = finalise(table.select([STATE]))["count"].to_pylist()
        kept: list[int] = []
        for i, code in enumerate(codes.tolist()):
            if kept and codes[kept[-1]] == code and starts[i] < ends[kept[-1]]:
                if counts[i] >= counts[kept[-1]]:
                    kept[-1] = i
            else:
                kept.append(i)
        table = table.take(kept)
    yield shard, table
