"""Panes of windows from parts, of which few are kept however many come: a state of each shard and window, and timers.

A grouping of Beam's keeps all elements of an accumulating window until the window ends, and merges all of them again
for each of its panes. Here the parts are merged every few seconds.
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

# Seconds of processing time, after which the parts that came are merged to few.
MERGE_EVERY = 5

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


def next_tick(seconds: int) -> Timestamp:
    """The end of a stretch of the clock. A timer that is set to it again and again goes off once."""
    return Timestamp((int(Timestamp.now()) // seconds + 1) * seconds)


class _Progress(NamedTuple):
    """Of a shard and window.

    Attributes:
      merged: how many of the parts that are held were there at the last merge.
      panes: how many there were.
      is_new: whether there is anything among those that no pane had.
      is_closed: whether there was a pane at the window's end.
    """

    merged: int = 0
    panes: int = 0
    is_new: int = 0
    is_closed: int = 0


class WindowPanes(beam.PTransform[PCollection[tuple[int, bytes]], PCollection[tuple[int, Any]]]):
    """(shard, part) in windows to (shard, table), by pane: what all parts so far give, or those since the last pane.

    A pane comes when the watermark passes the window's end, then for parts that are late, and with ``early_firing`` so
    often by the clock, if there is anything new. The windows' own trigger is not looked at. Their lateness is: what
    comes later is dropped. The pane at the end is ON_TIME, even if all its rows were late.

    Args:
      parts: how they are merged.
      early_firing: whole seconds of processing time.
      discarding: a pane holds what came since the last one.
    """

    def __init__(self, parts: Parts, *, early_firing: int | None = None, discarding: bool = False) -> None:
        super().__init__()
        self._arguments: dict[str, Any] = {"parts": parts, "early_firing": early_firing, "discarding": discarding}

    def expand(self, parts: PCollection[tuple[int, bytes]]) -> PCollection[tuple[int, Any]]:
        panes = _Panes(**self._arguments, has_end=parts.is_bounded)
        table_type = self._arguments["parts"].table_type
        tables: PCollection[tuple[int, Any]] = parts | beam.ParDo(panes).with_output_types(Tuple[int, table_type])
        return tables


_PROGRESS = progress_param(len(_Progress._fields))
_END_TIMER, _EARLY_TIMER = TimerSpec("end", TimeDomain.WATERMARK), TimerSpec("early", TimeDomain.REAL_TIME)
_MERGE_TIMER = TimerSpec("merge", TimeDomain.REAL_TIME)
_END, _EARLY, _MERGE = (beam.DoFn.TimerParam(timer) for timer in (_END_TIMER, _EARLY_TIMER, _MERGE_TIMER))


class _Panes(beam.DoFn):
    def __init__(self, parts: Parts, early_firing: int | None, *, discarding: bool, has_end: bool) -> None:
        self._parts, self._early_firing, self._discarding = parts, early_firing, discarding
        # Of input with an end the clock is nobody's concern, and some runners do not have it.
        merges = not has_end and (early_firing is None or early_firing > MERGE_EVERY)
        self._merge_every = MERGE_EVERY if merges else None

    def process(
        self,
        element: tuple[int, bytes],
        window: Any = beam.DoFn.WindowParam,
        held: Any = HELD,
        end: Any = _END,
        early: Any = _EARLY,
        merge: Any = _MERGE,
    ) -> None:
        # Nothing is read here: on Flink that takes a bundle as long as a thousand rows.
        held.add(element[1])
        end.set(window.max_timestamp())
        if self._early_firing is not None:
            early.set(next_tick(self._early_firing))
        if self._merge_every is not None:
            merge.set(next_tick(self._merge_every))

    @on_timer(_END_TIMER)
    def at_end(
        self,
        shard: Any = beam.DoFn.KeyParam,
        window: Any = beam.DoFn.WindowParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
        early: Any = _EARLY,
        merge: Any = _MERGE,
    ) -> Iterator[WindowedValue]:
        early.clear()
        merge.clear()
        now, parts = self._now(held, progress)
        timing = PaneInfoTiming.LATE if now.is_closed else PaneInfoTiming.ON_TIME
        yield from self._fire(shard, window, held, progress, parts, now._replace(is_closed=1), timing)

    @on_timer(_EARLY_TIMER)
    def at_early_firing(
        self,
        shard: Any = beam.DoFn.KeyParam,
        window: Any = beam.DoFn.WindowParam,
        held: Any = HELD,
        progress: Any = _PROGRESS,
    ) -> Iterator[WindowedValue]:
        now, parts = self._now(held, progress)
        if now.is_new and not now.is_closed:
            yield from self._fire(shard, window, held, progress, parts, now, PaneInfoTiming.EARLY)

    @on_timer(_MERGE_TIMER)
    def at_merge(self, held: Any = HELD, progress: Any = _PROGRESS) -> None:
        now, parts = self._now(held, progress)
        if len(parts) > now.merged:
            progress.write(now._replace(merged=replace_parts(held, self._parts.merge(parts))))

    def _now(self, held: Any, progress: Any) -> tuple[_Progress, list[bytes]]:
        now, parts = _Progress(*(progress.read() or ())), list(held.read())
        return (now._replace(is_new=1) if len(parts) > now.merged else now), parts

    def _fire(
        self, shard: int, window: Any, held: Any, progress: Any, parts: list[bytes], now: _Progress, timing: int
    ) -> Iterator[WindowedValue]:
        """Gives a pane, where there is anything to give, and keeps what later panes hold too."""
        if parts:
            parts = self._parts.merge(parts)
            # The index among panes that are not early is not known to anybody: runners do not agree about it.
            pane = PaneInfo(now.panes == 0, False, timing, now.panes, now.panes)
            for shard_and_table in self._parts.tables(shard, parts):
                yield WindowedValue(shard_and_table, window.max_timestamp(), (window,), pane)
            merged = replace_parts(held, [] if self._discarding else parts)
            now = now._replace(merged=merged, panes=now.panes + 1, is_new=0)
        progress.write(now)


def replace_parts(held: Any, parts: list[bytes]) -> int:
    """Puts parts in place of those that were held; gives their number."""
    held.clear()
    for part in parts:
        held.add(part)
    return len(parts)
