"""Session windows: a table of sessions in Beam's state for each shard, given out pane by pane, and collected by day.

In windows of Beam's own each session would be an element, which costs a millisecond, and engines know no state.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
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
from .window_panes import HELD, LEAST_TO_MERGE, ONLY_PANE, WindowPanes, progress_param, replace_parts
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

# No time at all, in microseconds.
NEVER = MAX_TIMESTAMP.micros


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
        self._panes = _SessionPanes(delay, lateness, early_firing, discarding=discarding)
        self._only, self._is_early = _OnlyPanes(delay), early_firing is not None

    def expand(self, tables: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
        found = (
            tables
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "Find" >> beam.ParDo(self._find).with_output_types(tuple[int, bytes])
        )
        dofn: beam.DoFn = self._panes
        if tables.is_bounded and not self._is_early:  # all are known at the end, without state and timers
            found, dofn = found | "Group" >> beam.GroupByKey(), self._only
        panes: PCollection[tuple[int, pa.Table]] = found | "Panes" >> beam.ParDo(dofn).with_output_types(
            tuple[int, pa.Table]
        )
        return panes


class _OnlyPanes(beam.DoFn):
    def __init__(self, delay: int) -> None:
        self._delay = delay

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[WindowedValue]:
        shard, parts = element
        for piece in pieces_of(SessionTable.merge([SessionTable.from_ipc(part) for part in parts])):
            time = Timestamp(micros=int(piece.ends.max()) + self._delay)
            yield WindowedValue((shard, piece.to_arrow()), time, (GlobalWindow(),), ONLY_PANE)


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
      merged, added: bytes of the sessions as they were merged last, and of those that came since.
      is_new: whether any came since an early pane was set up.
      watermark: one that it has reached, in microseconds.
      due: when the next panes are, in microseconds, by what is known without merging.
      reach: how far beyond that it is looked whether the watermark is there too, in microseconds.
      is_ahead: whether it was.
    """

    merged: int = 0
    added: int = 0
    is_new: int = 0
    watermark: int = MIN_TIMESTAMP.micros
    due: int = NEVER
    reach: int = SECOND
    is_ahead: int = 0


_PROGRESS = progress_param(len(_Progress._fields))
# No name that a timer of ``window_panes`` has: the embedded runner of Beam 2.77 mistakes the one for the other.
_EARLY_TIMER = TimerSpec("early_session", TimeDomain.REAL_TIME)
_EARLY = beam.DoFn.TimerParam(_EARLY_TIMER)
# A timer tells that the watermark has reached its time, not how far it is: after a pause it may be months ahead. So
# there is a second one; each time that it goes off as well, it is set farther beyond the first.
_DUE_TIMER, _AHEAD_TIMER = TimerSpec("due", TimeDomain.WATERMARK), TimerSpec("ahead", TimeDomain.WATERMARK)
_DUE, _AHEAD = beam.DoFn.TimerParam(_DUE_TIMER), beam.DoFn.TimerParam(_AHEAD_TIMER)


class _SessionPanes(beam.DoFn):
    def __init__(self, delay: int, lateness: int, early_firing: int | None, *, discarding: bool) -> None:
        self._delay, self._lateness = delay, lateness
        self._early_firing, self._discarding = early_firing, discarding

    def setup(self) -> None:
        self._late = Metrics.counter("lse_stream", "late_rows")

    def process(
        self,
        element: tuple[int, bytes],
        held: Any = HELD,
        progress: Any = _PROGRESS,
        due: Any = _DUE,
        early: Any = _EARLY,
    ) -> None:
        _, part = element
        now = _Progress(*(progress.read() or ()))
        sessions = SessionTable.from_ipc(part)
        late = sessions.ends + self._delay + self._lateness <= now.watermark
        if late.any():
            self._late.inc(int(sessions.states.counts[late].sum()))
            sessions = sessions.take(np.flatnonzero(~late))
            part = sessions.to_ipc()
        if not sessions.num_rows:
            return
        if self._early_firing is not None and not now.is_new:
            early.set(Timestamp.now() + self._early_firing)
        held.add(part)
        now = now._replace(added=now.added + len(part), is_new=1)
        if (first := self._due_of(sessions.ends)) < now.due:
            now = now._replace(due=first)
            due.set(Timestamp(micros=first))
        if now.added > max(now.merged, LEAST_TO_MERGE):
            now = self._keep(held, now, self._merged(held))
        progress.write(now)

    @on_timer(_DUE_TIMER)
    def at_due(
        self,
        shard: Any = beam.DoFn.KeyParam,
        time: Any = beam.DoFn.TimestampParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
        due: Any = _DUE,
        ahead: Any = _AHEAD,
        early: Any = _EARLY,
    ) -> Iterator[WindowedValue]:
        yield from self._at_time(shard, time.micros, held, progress, due, ahead, early, is_ahead=False)

    @on_timer(_AHEAD_TIMER)
    def at_once(
        self,
        shard: Any = beam.DoFn.KeyParam,
        time: Any = beam.DoFn.TimestampParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
        due: Any = _DUE,
        ahead: Any = _AHEAD,
        early: Any = _EARLY,
    ) -> Iterator[WindowedValue]:
        yield from self._at_time(shard, time.micros, held, progress, due, ahead, early, is_ahead=True)

    @on_timer(_EARLY_TIMER)
    def ahead_of_the_end(
        self,
        shard: Any = beam.DoFn.KeyParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
    ) -> Iterator[WindowedValue]:
        now = _Progress(*(progress.read() or ()))._replace(is_new=0)
        if now.merged + now.added:
            sessions = self._merged(held)
            panes, sessions = self._fire(shard, sessions, sessions.is_new, now.watermark)
            yield from panes
            now = self._keep(held, now, sessions)
        progress.write(now)

    def _at_time(
        self, shard: int, time: int, held: Any, progress: Any, due: Any, ahead: Any, early: Any, *, is_ahead: bool
    ) -> Iterator[WindowedValue]:
        """Gives the panes of sessions that end by a time, which the watermark has reached, and sets the next times."""
        now, has_new = _Progress(*(progress.read() or ())), False
        before, reach = now.watermark, now.reach if is_ahead or now.is_ahead else SECOND
        reach = FARTHER * reach if is_ahead else reach
        now = now._replace(watermark=max(before, time), due=NEVER, reach=reach, is_ahead=int(is_ahead))
        if now.merged + now.added:
            sessions = self._merged(held)
            # What had ended, and became longer, ends anew.
            is_closed = sessions.is_closed & (sessions.ends + self._delay <= before)
            sessions = replace(sessions, is_closed=is_closed)
            has_ended = sessions.ends + self._delay <= now.watermark
            panes, sessions = self._fire(shard, sessions, sessions.is_new & has_ended, now.watermark)
            yield from panes
            sessions = sessions.take(np.flatnonzero(sessions.ends + self._delay + self._lateness > now.watermark))
            now = self._keep(held, now, sessions)
            has_new = bool(sessions.is_new.any())
            if has_new:
                first = self._due_of(sessions.ends[sessions.is_new])
                now = now._replace(due=first)
                ahead.set(Timestamp(micros=min(first + now.reach, NEVER)))
            elif sessions.num_rows:  # what is kept for late rows alone is deleted then
                now = now._replace(due=self._due_of(sessions.ends.max() + self._lateness))
        if now.due < NEVER:
            due.set(Timestamp(micros=now.due))
        if now.is_new and not has_new:
            # At the end of a stream that is drained, Flink waits for ever for a timer of the clock that is left.
            early.clear()
            now = now._replace(is_new=0)
        progress.write(now)

    def _due_of(self, ends: Any) -> int:
        """The end of the second in which the first session ends."""
        return -(-int(np.min(ends) + self._delay) // SECOND) * SECOND

    def _merged(self, held: Any) -> SessionTable:
        return SessionTable.merge([SessionTable.from_ipc(part) for part in held.read()])

    def _keep(self, held: Any, now: _Progress, sessions: SessionTable) -> _Progress:
        parts = [piece.to_ipc() for piece in pieces_of(sessions)] if sessions.num_rows else []
        return now._replace(merged=replace_parts(held, parts), added=0)

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
        table = pa.concat_tables([from_ipc(part) for part in parts])
        if self._all_panes:
            yield shard, sort_by_keys(table, [*self._keys, *WINDOW], trusted=True)
        else:
            yield shard, last_panes(table, self._keys)

    def merge(self, parts: Iterable[bytes]) -> list[bytes]:
        return self.tables_and_parts(0, parts)[1]

    def tables_and_parts(self, shard: int, parts: Iterable[bytes]) -> tuple[list[tuple[int, pa.Table]], list[bytes]]:
        [(_, table)] = self.tables(shard, parts)
        return [(shard, table)], [to_ipc(piece) for piece in pieces_of(table)]
