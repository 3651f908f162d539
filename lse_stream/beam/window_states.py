"""A transform of tables of rows to states by key and window: fixed and sliding windows, and sessions."""

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import Sessions, WindowFn

from ..key_accumulators import RowReducer
from ..reduction import ColumnAggregation, Reduction
from ..scales import NATURAL, Scale
from ..state_column import STATE
from ..states.aggregations import LOGSUMEXP
from .sessions import SessionStates
from .tables import ShardParts, ToArrow, ToShards
from .window_panes import WindowPanes
from .windows import AddWindow, WindowTables


class WindowStates(beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]):
    """Tables of rows to (shard, table of keys, window and state), by pane.

    Of fixed and sliding windows a table has all keys of the shard, and is in its window; of sessions it has those that
    have a pane at the moment, and is in the global window. Panes come when the watermark passes a window's end, then
    for every late arrival, and with ``early_firing`` before. However many there are, and however long a window is, one
    state is kept of each key and window, in Beam's state.

    Args:
      keys, value, event_time: names of columns.
      windowfn: fixed, sliding or session windows.
      scale, num_shards: as of ``LogSumExp.PerKeyFromTables``.
      early_firing: whole seconds of processing time, from the first new row to a pane.
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
        early_firing: int | None = None,
        allowed_lateness: float = 0.0,
        max_out_of_orderness: float = 0.0,
        discarding: bool = False,
    ) -> None:
        super().__init__()
        self._steps: list[tuple[str, beam.PTransform[Any, Any]]]
        times: dict[str, Any] = {"allowed_lateness": allowed_lateness, "max_out_of_orderness": max_out_of_orderness}
        panes: dict[str, Any] = {"early_firing": early_firing, "discarding": discarding}
        if isinstance(windowfn, Sessions):
            sessions = SessionStates(
                keys, value, event_time, windowfn, scale=scale, num_shards=num_shards, **panes, **times
            )
            self._steps = [("Sessions", sessions)]
            return
        column = ColumnAggregation.of(LOGSUMEXP.name, scale, value)
        reducer = RowReducer(Reduction(tuple(keys), {STATE: column}))
        self._steps = [
            ("Window", WindowTables(windowfn, event_time, **times)),
            ("ToShards", ToShards(reducer, num_shards=num_shards)),
            ("Merge", WindowPanes(ShardParts(reducer), **panes)),
            ("ToArrow", ToArrow()),
            ("AddWindow", beam.ParDo(AddWindow(len(keys), max_out_of_orderness=max_out_of_orderness))),
        ]

    def expand(self, tables: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
        for label, step in self._steps:
            tables = tables | label >> step
        states: PCollection[tuple[int, pa.Table]] = tables
        return states
