"""Session windows: a table of sessions in Beam's state for each shard, given out pane by pane, and collected by day.

In windows of Beam's own each session would be an element, which costs a millisecond, and engines know no state.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import TimerSpec, on_timer
from apache_beam.transforms.window import FixedWindows, GlobalWindow, GlobalWindows, Sessions
from apache_beam.typehints.typehints import Tuple
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Duration, Timestamp
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming, WindowedValue

from ..event_times import WINDOW
from ..reduction import ColumnAggregation
from ..scales import NATURAL, Scale
from ..sessions import SessionTable, last_panes
from ..state_table import from_ipc, to_ipc
from ..states.aggregations import LOGSUMEXP
from ..table_functions import sort_by_keys
from .internals import ParDoInto
from .tables import pieces_of
from .window_panes import HELD, WindowPanes, next_tick, progress_param, replace_parts
from .windows import moved_by, tables_by_window

# Results of sessions are kept together by the day in which they end.
DAY = FixedWindows(86400)  # seconds

# Rows that a bundle reads before it sends their sessions on.
BUNDLE_ROWS = 1 << 20

# Panes at the ends of sessions come for all that end in the same second, in microseconds.
SECOND = 1_000_000

# Where the watermark is further ahead than was looked, it is looked so many times as far: 7 times for a year.
FARTHER = 16

# Seconds that a day's file waits for sessions that ended in it, beyond the lateness of their rows.
DAY_WAITS = 60.0


class SessionStates(beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]):
    """Tables of rows to (shard, table of keys, window and state), by pane, in the global window.

    A table has those sessions of a shard that have a pane at that moment: those that end within a second, those that
    rows came to after their end, and with ``early_firing`` all that have new rows. The first pane after the end is
    ON_TIME; a session that later rows make longer ends anew.

    Args:
      keys, value, event_time: names of columns.
      windowfn: ``Sessions``.
      scale: of the values.
      num_shards: into how many tables the keys are spread.
      early_firing: whole seconds of processing time.
      allowed_lateness: seconds. Rows of which a session of their own had ended so long ago are dropped, and counted as
        "late_rows".
      max_out_of_orderness: as of ``WindowTables``.
      discarding: a pane holds what came since the last one.
    """

    def __init__(
        self,
        keys: Sequence[str],
        value: str,
        event_time: str,
        windowfn: Sessions,
        *,
        scale: Scale | str = NATURAL,
        num_shards: int = 1,
        early_firing: int | None = None,
        allowed_lateness: float = 0.0,
        max_out_of_orderness: float = 0.0,
        discarding: bool = False,
    ) -> None:
        super().__init__()
        column = ColumnAggregation.of(LOGSUMEXP.name, scale, value)
        self._find = _FindSessions(list(keys), column, event_time, windowfn.gap_size.micros, num_shards)
        delay, lateness = (Duration.of(seconds).micros for seconds in (max_out_of_orderness, allowed_lateness))
        self._panes = partial(_SessionPanes, delay, lateness, early_firing, discarding=discarding)

    def expand(self, tables: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
        panes_of = self._panes(has_end=tables.is_bounded)
        panes: PCollection[tuple[int, pa.Table]] = (
            tables
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "Find" >> beam.ParDo(self._find).with_output_types(tuple[int, bytes])
            | "Panes" >> beam.ParDo(panes_of).with_output_types(tuple[int, pa.Table])
        )
        return panes


class _FindSessions(beam.DoFn):
    """Tables of rows to (shard, sessions), of a bundle few."""

    def __init__(self, keys: list[str], column: ColumnAggregation, event_time: str, gap: int, num_shards: int) -> None:
        self._keys, self._column, self._event_time, self._gap = keys, column, event_time, gap
        self._num_shards = num_shards

    def start_bundle(self) -> None:
        self._found: list[SessionTable] = []
        self._rows, self._earliest = 0, MAX_TIMESTAMP

    def process(self, table: pa.Table, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[WindowedValue]:
        self._found.append(SessionTable.find(table, self._keys, self._column, self._event_time, self._gap))
        self._rows += table.num_rows
        self._earliest = min(timestamp, self._earliest)
        if self._rows >= BUNDLE_ROWS:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._found:
            for shard, sessions in SessionTable.merge(self._found).split(self._num_shards):
                for piece in pieces_of(sessions):
                    yield WindowedValue((shard, piece.to_ipc()), self._earliest, (GlobalWindow(),))
        self.start_bundle()


class _Progress(NamedTuple):
    """Of a shard.

    Attributes:
      merged: how many of the parts that are held were there at the last merge.
      watermark: one that it has reached, in microseconds.
      reach: how far beyond the next panes it is looked whether the watermark is there too, in microseconds.
      is_ahead: whether it was.
    """

    merged: int = 0
    watermark: int = MIN_TIMESTAMP.micros
    reach: int = SECOND
    is_ahead: int = 0


_PROGRESS = progress_param(len(_Progress._fields))
# A timer tells that the watermark has reached its time, not how far it is: after a pause it may be months ahead. So
# there is a second one; each time that it goes off as well, it is set farther beyond the first.
_DUE_TIMER, _AHEAD_TIMER = TimerSpec("due", TimeDomain.WATERMARK), TimerSpec("ahead", TimeDomain.WATERMARK)
_DUE, _AHEAD = beam.DoFn.TimerParam(_DUE_TIMER), beam.DoFn.TimerParam(_AHEAD_TIMER)
# No names that timers of ``window_panes`` have: the embedded runner of Beam 2.77 mistakes the one for the other.
_MERGE_TIMER = TimerSpec("merge_sessions", TimeDomain.REAL_TIME)
_EARLY_TIMER = TimerSpec("early_sessions", TimeDomain.REAL_TIME)
_MERGE, _EARLY = beam.DoFn.TimerParam(_MERGE_TIMER), beam.DoFn.TimerParam(_EARLY_TIMER)


class _SessionPanes(beam.DoFn):
    def __init__(self, delay: int, lateness: int, early_firing: int | None, *, discarding: bool, has_end: bool) -> None:
        self._delay, self._lateness, self._has_end = delay, lateness, has_end
        self._early_firing, self._discarding = early_firing, discarding

    def setup(self) -> None:
        self._late = Metrics.counter("lse_stream", "late_rows")

    def process(
        self,
        element: tuple[int, bytes],
        held: Any = HELD,
        due: Any = _DUE,
        early: Any = _EARLY,
        merge: Any = _MERGE,
    ) -> None:
        # Nothing is read here, as by ``window_panes``. So this may move a timer that was to go off earlier; within a
        # second it is set again. Of input with an end all timers go off when all is there.
        held.add(element[1])
        due.set(self._due_of(SessionTable.from_ipc(element[1]).ends))
        if not self._has_end:
            merge.set(next_tick(1))
        if self._early_firing is not None:
            early.set(next_tick(self._early_firing))

    @on_timer(_DUE_TIMER)
    def at_due(
        self,
        shard: Any = beam.DoFn.KeyParam,
        time: Any = beam.DoFn.TimestampParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
        due: Any = _DUE,
        ahead: Any = _AHEAD,
        merge: Any = _MERGE,
    ) -> Iterator[WindowedValue]:
        now = _Progress(*(progress.read() or ()))
        now = now._replace(reach=now.reach if now.is_ahead else SECOND, is_ahead=0)
        merge.clear()
        yield from self._at_time(shard, time.micros, held, progress, now, due, ahead)

    @on_timer(_AHEAD_TIMER)
    def at_once(
        self,
        shard: Any = beam.DoFn.KeyParam,
        time: Any = beam.DoFn.TimestampParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
        due: Any = _DUE,
        ahead: Any = _AHEAD,
    ) -> Iterator[WindowedValue]:
        now = _Progress(*(progress.read() or ()))
        now = now._replace(reach=FARTHER * now.reach, is_ahead=1)
        yield from self._at_time(shard, time.micros, held, progress, now, due, ahead)

    @on_timer(_MERGE_TIMER)
    def at_merge(self, held: Any = HELD, progress: Any = _PROGRESS, due: Any = _DUE, ahead: Any = _AHEAD) -> None:
        now = _Progress(*(progress.read() or ()))
        if (sessions := self._sessions(held, now)) is not None:
            self._keep(held, progress, now, sessions, due, ahead)

    @on_timer(_EARLY_TIMER)
    def at_early_firing(
        self,
        shard: Any = beam.DoFn.KeyParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
        due: Any = _DUE,
        ahead: Any = _AHEAD,
    ) -> Iterator[WindowedValue]:
        now = _Progress(*(progress.read() or ()))
        if (sessions := self._sessions(held, now)) is not None:
            panes, sessions = self._fire(shard, sessions, sessions.is_new, now.watermark)
            yield from panes
            self._keep(held, progress, now, sessions, due, ahead)

    def _at_time(
        self, shard: int, time: int, held: Any, progress: Any, now: _Progress, due: Any, ahead: Any
    ) -> Iterator[WindowedValue]:
        """Gives the panes of sessions that end by a time, which the watermark has reached."""
        if (sessions := self._sessions(held, now)) is None:
            progress.write(now)
            return
        # What had ended, and became longer, ends anew.
        is_closed = sessions.is_closed & (sessions.ends + self._delay <= now.watermark)
        sessions = replace(sessions, is_closed=is_closed)
        now = now._replace(watermark=max(now.watermark, time))
        has_ended = sessions.ends + self._delay <= now.watermark
        panes, sessions = self._fire(shard, sessions, sessions.is_new & has_ended, now.watermark)
        yield from panes
        self._keep(held, progress, now, sessions, due, ahead)

    def _sessions(self, held: Any, now: _Progress) -> SessionTable | None:
        """Those that are held, without rows that came too late; None where there are none."""
        tables = [SessionTable.from_ipc(part) for part in held.read()]
        for i, table in enumerate(tables[now.merged :], now.merged):
            late = table.ends + self._delay + self._lateness <= now.watermark
            if late.any():
                self._late.inc(int(table.states.counts[late].sum()))
                tables[i] = table.take(np.flatnonzero(~late))
        return SessionTable.merge(tables) if tables else None

    def _keep(self, held: Any, progress: Any, now: _Progress, sessions: SessionTable, due: Any, ahead: Any) -> None:
        """Puts sessions in place of those that were held, without those that are done with, and sets the timers."""
        sessions = sessions.take(np.flatnonzero(sessions.ends + self._delay + self._lateness > now.watermark))
        parts = [piece.to_ipc() for piece in pieces_of(sessions)] if sessions.num_rows else []
        progress.write(now._replace(merged=replace_parts(held, parts)))
        if sessions.is_new.any():
            first = self._due_of(sessions.ends[sessions.is_new])
            due.set(first)
            ahead.set(Timestamp(micros=min(first.micros + now.reach, MAX_TIMESTAMP.micros)))
        elif sessions.num_rows:  # what is kept for late rows alone is deleted then
            due.set(self._due_of(sessions.ends.max() + self._lateness))

    def _due_of(self, ends: Any) -> Timestamp:
        """The end of the second in which the first session ends."""
        return Timestamp(micros=-(-int(np.min(ends) + self._delay) // SECOND) * SECOND)

    def _fire(
        self, shard: int, sessions: SessionTable, fires: Any, watermark: int
    ) -> tuple[list[WindowedValue], SessionTable]:
        """Panes of some sessions, a table for all that are the same of their session; and what is kept of all."""
        has_ended = sessions.ends + self._delay <= watermark
        after = np.where(sessions.is_closed, PaneInfoTiming.LATE, PaneInfoTiming.ON_TIME)
        timings = np.where(has_ended, after, PaneInfoTiming.EARLY)
        panes = []
        rows = np.flatnonzero(fires)
        for index, timing in {*zip(sessions.panes[rows].tolist(), timings[rows].tolist(), strict=True)}:
            part = sessions.take(rows[(sessions.panes[rows] == index) & (timings[rows] == timing)])
            time = Timestamp(micros=max(watermark, int(part.ends.max()) + self._delay))
            pane = PaneInfo(index == 0, False, timing, index, index)
            panes.append(WindowedValue((shard, part.to_arrow()), time, (GlobalWindow(),), pane))
        kept = replace(
            sessions,
            panes=sessions.panes + fires,
            is_new=sessions.is_new & ~fires,
            is_closed=has_ended & (sessions.is_closed | fires),
        )
        if self._discarding:
            kept = replace(kept, states=kept.states.emptied(fires))
        return panes, kept


class LastSessions(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[tuple[int, pa.Table]]]):
    """Panes of sessions to one table for each shard and day in which some end: of each session the last pane.

    A session that late rows made longer replaces those that it was made from, if they end in the same day.

    Args:
      keys, allowed_lateness, max_out_of_orderness: as of ``SessionStates``.
      discarding: likewise; all panes stay then.
    """

    def __init__(
        self, keys: Sequence[str], *, allowed_lateness: float, discarding: bool, max_out_of_orderness: float = 0.0
    ) -> None:
        super().__init__()
        self._delay = Duration.of(max_out_of_orderness)
        moved = moved_by(DAY, self._delay)
        self._windowing = beam.WindowInto(moved, allowed_lateness=allowed_lateness + DAY_WAITS).windowing
        self._panes = WindowPanes(_DayParts(list(keys), all_panes=discarding), discarding=discarding)

    def expand(self, sessions: PCollection[tuple[int, pa.Table]]) -> PCollection[tuple[int, pa.Table]]:
        split = ParDoInto(_SplitByDay(self._delay), self._windowing, Tuple[int, bytes])
        days: PCollection[tuple[int, pa.Table]] = sessions | "Days" >> split | "Last" >> self._panes
        return days


class _SplitByDay(beam.DoFn):
    def __init__(self, delay: Duration) -> None:
        self._delay = delay

    def process(self, element: tuple[int, pa.Table]) -> Iterator[WindowedValue]:
        shard, table = element
        for window, part in tables_by_window(DAY, table, WINDOW[1], self._delay):
            yield WindowedValue((shard, to_ipc(part)), window.max_timestamp(), (window,))


class _DayParts:
    """Panes of sessions that end in one day, as IPC streams."""

    table_type = pa.Table

    def __init__(self, keys: list[str], *, all_panes: bool) -> None:
        self._keys, self._all_panes = keys, all_panes

    def tables(self, shard: int, parts: Iterable[bytes]) -> Iterator[tuple[int, pa.Table]]:
        yield shard, self._table(parts)

    def merge(self, parts: Iterable[bytes]) -> list[bytes]:
        return [to_ipc(piece) for piece in pieces_of(self._table(parts))]

    def _table(self, parts: Iterable[bytes]) -> pa.Table:
        table = pa.concat_tables([from_ipc(part) for part in parts])
        if self._all_panes:
            return sort_by_keys(table, [*self._keys, *WINDOW], trusted=True)
        return last_panes(table, self._keys)
