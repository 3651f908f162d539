"""A transform of tables of rows to states by key and window: fixed and sliding windows, and sessions."""

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection
from apache_beam.transforms.trigger import AfterCount, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import Sessions, WindowFn

from ..scales import NATURAL, Scale
from .sessions import SessionStates
from .transforms import LogSumExp
from .windows import AddWindow, WindowTables, accumulation_mode


class WindowStates(beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]):
    """Tables of rows to (shard, table of keys, window and state), in windows, by pane.

    Fixed and sliding windows have one table per shard and pane, of all keys; sessions one per key, in shard 0. Panes
    come when the watermark passes a window's end, then for every late arrival, and with ``early_firing`` before.

    Args:
      keys, value, event_time: names of columns.
      windowfn: fixed, sliding or session windows.
      scale, num_shards, pre_aggregate: as of ``LogSumExp.PerKeyFromTables``.
      early_firing: whole seconds of processing time.
      allowed_lateness: seconds of event time.
      max_out_of_orderness: as of ``WindowTables``.
      discarding: a pane holds what came since the last one, not all of its window.
    """

    def __init__(
        self,
        keys: Sequence[str],
        value: str,
        event_time: str,
        windowfn: WindowFn,
        *,
        scale: Scale | str = NATURAL,
        num_shards: int = 1,
        pre_aggregate: int | None = None,
        early_firing: int | None = None,
        allowed_lateness: float = 0.0,
        max_out_of_orderness: float = 0.0,
        discarding: bool = False,
    ) -> None:
        super().__init__()
        early = None if early_firing is None else AfterProcessingTime(early_firing)
        windowing: dict[str, Any] = {
            "trigger": AfterWatermark(early=early, late=AfterCount(1)),
            "accumulation_mode": accumulation_mode(discarding=discarding),
            "allowed_lateness": allowed_lateness,
            "max_out_of_orderness": max_out_of_orderness,
        }
        self._steps: list[tuple[str, beam.PTransform[Any, Any]]]
        if isinstance(windowfn, Sessions):
            sessions = SessionStates(
                keys, value, event_time, windowfn, scale=scale, pre_aggregate=pre_aggregate, **windowing
            )
            self._steps = [("Sessions", sessions)]
            return
        states = LogSumExp.PerKeyFromTables(
            keys, value, scale=scale, num_shards=num_shards, pre_aggregate=pre_aggregate
        )
        self._steps = [
            ("Window", WindowTables(windowfn, event_time, **windowing)),
            ("LogSumExp", states),
            ("AddWindow", beam.ParDo(AddWindow(len(keys), max_out_of_orderness=max_out_of_orderness))),
        ]

    def expand(self, tables: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
        for label, step in self._steps:
            tables = tables | label >> step
        states: PCollection[tuple[int, pa.Table]] = tables
        return states
