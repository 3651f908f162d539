"""Panes of windows from parts, of which few are kept however many come: a state of each shard and window, and timers.

A grouping of Beam's keeps all elements of an accumulating window until the window ends, and merges all of them again
for each of its panes. Here the parts are merged as they come.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
from apache_beam.coders import BytesCoder, TupleCoder, VarIntCoder
from apache_beam.pvalue import PCollection
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.typehints.typehints import Tuple
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming, WindowedValue

# Parts are merged when those that came since are as large as what was merged before, and at least this large, in bytes:
# each byte is merged a few times at most, and there is never more than twice what is needed.
LEAST_TO_MERGE = 1 << 16


# What methods of a DoFn have by default, for Beam to give them: the parts of a shard.
HELD = beam.DoFn.StateParam(BagStateSpec("held", BytesCoder()))


def progress_param(integers: int) -> Any:
    """Likewise, of a tuple of so many integers."""
    return beam.DoFn.StateParam(ReadModifyWriteStateSpec("progress", TupleCoder([VarIntCoder()] * integers)))


class Parts(Protocol):
    """How the parts of a shard are merged, and what comes out of them."""

    @property
    def table_type(self) -> type:
        """That of the tables."""
        ...

    def merge(self, parts: Iterable[bytes], /) -> list[bytes]:
        """One part or more to few."""
        ...

    def tables(self, shard: int, parts: Iterable[bytes], /) -> Iterator[tuple[int, Any]]:
        """(shard, table) of one part or more."""
        ...

    def tables_and_parts(self, shard: int, parts: Iterable[bytes], /) -> tuple[list[tuple[int, Any]], list[bytes]]:
        """Likewise, and what they are merged to."""
        ...


class _Progress(NamedTuple):
    """Of a shard and window.

    Attributes:
      merged, added: bytes of the parts as they were merged last, and of those that came since.
      panes: how many there were.
      is_new: whether anything came since the last one.
      is_closed: whether there was one at the window's end.
    """

    merged: int = 0
    added: int = 0
    panes: int = 0
    is_new: int = 0
    is_closed: int = 0


class WindowPanes(beam.PTransform[PCollection[tuple[int, bytes]], PCollection[tuple[int, Any]]]):
    """(shard, part) in windows to (shard, table), by pane: what all parts so far give, or those since the last pane.

    Where the input has an end there is one, which needs neither state nor timers. Otherwise a pane comes when the
    watermark passes the window's end, then for every part that is late, and with ``early_firing`` so long after the
    first part since the last pane. The windows' own trigger is not looked at. Their lateness is: what comes later is
    dropped. The pane at the end is ON_TIME, even if all its rows were late.

    Args:
      parts: how they are merged.
      early_firing: whole seconds of processing time.
      discarding: a pane holds what came since the last one.
    """

    def __init__(self, parts: Parts, *, early_firing: int | None = None, discarding: bool = False) -> None:
        super().__init__()
        self._only, self._panes = _OnlyPane(parts), _Panes(parts, early_firing, discarding=discarding)
        self._is_early = early_firing is not None
        self._table_type = parts.table_type

    def expand(self, parts: PCollection[tuple[int, bytes]]) -> PCollection[tuple[int, Any]]:
        dofn: beam.DoFn = self._panes
        grouped: PCollection[Any] = parts
        if parts.is_bounded and not self._is_early:
            dofn, grouped = self._only, parts | "Group" >> beam.GroupByKey()
        tables: PCollection[tuple[int, Any]] = grouped | "Panes" >> beam.ParDo(dofn).with_output_types(
            Tuple[int, self._table_type]
        )
        return tables


# Of a window of which all has come.
ONLY_PANE = PaneInfo(True, False, PaneInfoTiming.ON_TIME, 0, 0)


class _OnlyPane(beam.DoFn):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def process(
        self, element: tuple[int, Iterable[bytes]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[WindowedValue]:
        for shard_and_table in self._parts.tables(*element):
            yield WindowedValue(shard_and_table, window.max_timestamp(), (window,), ONLY_PANE)


_PROGRESS = progress_param(len(_Progress._fields))
_END_TIMER, _EARLY_TIMER = TimerSpec("end", TimeDomain.WATERMARK), TimerSpec("early", TimeDomain.REAL_TIME)
_END, _EARLY = beam.DoFn.TimerParam(_END_TIMER), beam.DoFn.TimerParam(_EARLY_TIMER)


class _Panes(beam.DoFn):
    def __init__(self, parts: Parts, early_firing: int | None, *, discarding: bool) -> None:
        self._parts, self._early_firing, self._discarding = parts, early_firing, discarding

    def process(
        self,
        element: tuple[int, bytes],
        window: Any = beam.DoFn.WindowParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
        end: Any = _END,
        early: Any = _EARLY,
    ) -> Iterator[WindowedValue]:
        shard, part = element
        now = _Progress(*(progress.read() or ()))
        if not now.merged + now.added + now.panes:
            end.set(window.max_timestamp())
        held.add(part)
        if self._early_firing is not None and not now.is_new and not now.is_closed:
            early.set(Timestamp.now() + self._early_firing)
        now = now._replace(added=now.added + len(part), is_new=1)
        if now.is_closed:
            yield from self._fire(shard, window, held, progress, now, PaneInfoTiming.LATE)
            return
        if now.added > max(now.merged, LEAST_TO_MERGE):
            now = now._replace(merged=replace_parts(held, self._parts.merge(held.read())), added=0)
        progress.write(now)

    @on_timer(_END_TIMER)
    def at_end(
        self,
        shard: Any = beam.DoFn.KeyParam,
        window: Any = beam.DoFn.WindowParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
        early: Any = _EARLY,
    ) -> Iterator[WindowedValue]:
        now = _Progress(*(progress.read() or ()))._replace(is_closed=1)
        early.clear()
        yield from self._fire(shard, window, held, progress, now, PaneInfoTiming.ON_TIME)

    @on_timer(_EARLY_TIMER)
    def ahead_of_the_end(
        self,
        shard: Any = beam.DoFn.KeyParam,
        window: Any = beam.DoFn.WindowParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
    ) -> Iterator[WindowedValue]:
        now = _Progress(*(progress.read() or ()))
        if now.is_new and not now.is_closed:
            yield from self._fire(shard, window, held, progress, now, PaneInfoTiming.EARLY)

    def _fire(
        self, shard: int, window: Any, held: Any, progress: Any, now: _Progress, timing: int
    ) -> Iterator[WindowedValue]:
        """Gives a pane, where there is anything to give, and keeps what later panes hold too."""
        if now.is_new or now.merged:
            tables, parts = self._parts.tables_and_parts(shard, held.read())
            # The index among panes that are not early is not known to anybody: runners do not agree about it.
            pane = PaneInfo(now.panes == 0, False, timing, now.panes, now.panes)
            for shard_and_table in tables:
                yield WindowedValue(shard_and_table, window.max_timestamp(), (window,), pane)
            now = now._replace(merged=replace_parts(held, [] if self._discarding else parts), added=0)
            now = now._replace(panes=now.panes + 1, is_new=0)
        progress.write(now)


def replace_parts(held: Any, parts: list[bytes]) -> int:
    """Puts parts in place of those that were held; gives their bytes."""
    held.clear()
    for part in parts:
        held.add(part)
    return sum(map(len, parts))
