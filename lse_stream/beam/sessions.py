"""Session windows: rows grouped as elements, as sessions are of one key each; and their results collected by day."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection
from apache_beam.transforms.trigger import AfterCount, AfterWatermark
from apache_beam.transforms.window import FixedWindows, Sessions, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from ..accumulators import LogSumExpAccumulator
from ..event_times import WINDOW, event_times
from ..float64 import to_float_exact
from ..keys import encode_keys, one_by_one
from ..scales import NATURAL, Scale
from ..state_column import STATE, states_to_arrow
from ..state_table import from_ipc, to_ipc
from ..table_functions import finalize, sort_by_keys
from .combine_fns import LogSumExpCombineFn, ToStateCombineFn
from .pre_aggregate import PreCombinePerKey
from .transforms import MergeStates
from .windows import AddWindow, WindowTables, accumulation_mode

# Results of sessions are kept together by the day in which they end.
DAY = FixedWindows(86400)  # seconds


class SessionStates(beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]):
    """Tables of rows to (0, table of keys, window and state), one for each session and pane.

    Args:
      keys, value, event_time: names of columns.
      windowfn: ``Sessions``.
      scale: of the values.
      pre_aggregate: as of ``PreCombinePerKey``.
      max_out_of_orderness: as of ``WindowTables``.
      windowing: further arguments of ``beam.WindowInto``.
    """

    def __init__(
        self,
        keys: Sequence[str],
        value: str,
        event_time: str,
        windowfn: Sessions,
        *,
        scale: Scale | str = NATURAL,
        pre_aggregate: int | None = None,
        max_out_of_orderness: float = 0.0,
        **windowing: Any,
    ) -> None:
        super().__init__()
        self._columns, self._delay = (list(keys), value, event_time), max_out_of_orderness
        self._window_into = beam.WindowInto(windowfn, **windowing)
        self._combine_fn, self._pre_aggregate = LogSumExpCombineFn(scale), pre_aggregate

    def expand(self, tables: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
        keys, value, event_time = self._columns
        states: PCollection[tuple[int, pa.Table]] = (
            tables
            | "Rows"
            >> beam.FlatMap(_rows, keys, value, event_time, Duration.of(self._delay)).with_output_types(
                tuple[bytes, float]
            )
            | "Window" >> self._window_into
            | "PreCombine" >> PreCombinePerKey(self._combine_fn, pre_aggregate=self._pre_aggregate)
            | "LogSumExp" >> MergeStates.PerKey(ToStateCombineFn(self._combine_fn))
            | "ToTable" >> beam.MapTuple(_to_table)
            | "AddWindow" >> beam.ParDo(AddWindow(len(keys), max_out_of_orderness=self._delay))
        )
        return states


def _rows(
    table: pa.Table, keys: list[str], value: str, event_time: str, delay: Duration
) -> Iterator["TimestampedValue[tuple[bytes, float]]"]:
    """((keys, value) that long after its event time) for each row with a value; the keys as a stream of one row."""
    times = event_times(table.column(event_time), event_time).tolist()
    codes, distinct = encode_keys(table, keys)
    coded = [to_ipc(key) for key in one_by_one(distinct)] if keys else [b""]
    for code, number, micros in zip(codes.tolist(), table.column(value).to_pylist(), times, strict=True):
        if number is not None:
            yield TimestampedValue((coded[code], to_float_exact(number)), Timestamp(micros=micros) + delay)


def _to_table(key: bytes, state: LogSumExpAccumulator) -> tuple[int, pa.Table]:
    column = states_to_arrow(state.states())
    return 0, from_ipc(key).append_column(STATE, column) if key else pa.table({STATE: column})


class LastSessions(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[tuple[int, pa.Table]]]):
    """Sessions, as tables, to one table for each day in which some end: of each session the last pane.

    A session that late rows made longer replaces those that it was made from, if they end in the same day.
    """

    def __init__(
        self, keys: Sequence[str], *, allowed_lateness: float, discarding: bool, max_out_of_orderness: float = 0.0
    ) -> None:
        super().__init__()
        self._keys = list(keys)
        self._windowing: dict[str, Any] = {
            "max_out_of_orderness": max_out_of_orderness,
            "trigger": AfterWatermark(late=AfterCount(1)),
            "accumulation_mode": accumulation_mode(discarding=discarding),
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
        counts = finalize(table.select([STATE]))["count"].to_pylist()
        kept: list[int] = []
        for i, code in enumerate(codes.tolist()):
            if kept and codes[kept[-1]] == code and starts[i] < ends[kept[-1]]:
                if counts[i] >= counts[kept[-1]]:
                    kept[-1] = i
            else:
                kept.append(i)
        table = table.take(kept)
    yield shard, table
