"""Log-softmax of elements and of tables: each row's value less the log-sum-exp of its key."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsDict, AsIter, AsSingleton, PCollection
from apache_beam.transforms.combiners import Count
from apache_beam.transforms.trigger import DefaultTrigger
from apache_beam.typehints.typehints import Tuple

from ..float64 import to_float_exact
from ..keyed_softmax import KeyedSoftmax, check_no_results
from ..keys import with_own_dictionaries
from ..plan import MAX_BROADCAST
from ..reduction import ColumnAggregation, Reduction, check_names
from ..scales import NATURAL
from ..state_column import STATE
from ..state_table import StateTable, from_ipc, split_by_shard, to_ipc
from ..states.aggregations import LOGSUMEXP
from ..states.results import subtract_log
from .combine_fns import LogSumExpCombineFn
from .exception_handling import HandlesExceptions
from .internals import key_and_value_types
from .tables import INNER_SHARDS, MAX_STATES, ROWS_TAG, STATES_TAG, ReduceTables

# Into how many shards rows and sums go at most to be joined. A table of 65,536 rows is cut into parts of 256 rows then,
# each of which costs 0.3 ms. With the default of ``max_broadcast`` that suffices for 256 million keys.
MAX_JOIN_SHARDS = 256


class _LogCombineFn(LogSumExpCombineFn):
    """Combines numbers to the log-sum-exp in three parts: max, and what is on top of it as a double-double."""

    def extract_output(self, accumulator: Any) -> tuple[float, float, float]:
        quotients = accumulator.states().quotients()
        return accumulator.max, quotients.log_high.item(), quotients.log_low.item()

    def default_type_hints(self) -> Any:
        return super().default_type_hints().with_output_types(tuple[float, float, float])


class LogSoftmax:
    """Transforms that give every row its logarithm of a softmax, ``x - LSE`` over all rows of its key.

    The sums of up to ``max_broadcast`` keys (of a window) are sent to every worker, which looks them up. Of more keys,
    rows and sums are shuffled to each other. The number of keys decides while the pipeline runs; the bits are the same.

    The input has an end, and one pane for each window: otherwise the sums would be those of whichever pane is there.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([("a", 7.0), ("a", -1000.0)]) | LogSoftmax.PerKey() | beam.Map(print)
    ('a', (7.0, 0.0))
    ('a', (-1000.0, -1007.0))
    """

    class PerKey(
        HandlesExceptions, beam.PTransform[PCollection[tuple[Any, Any]], PCollection[tuple[Any, tuple[Any, float]]]]
    ):
        """PCollection of (key, row) to a PCollection of (key, (row, log-softmax)), one for each, in no set order.

        It has the method ``with_exception_handling``, as ``beam.ParDo``.

        Args:
          max_broadcast: how many keys a worker holds at once.
          value: the number of a row; by default the row is the number.

        Raises:
          ValueError: ``max_broadcast`` is negative; an input without an end, with lateness or another trigger than the
            default.
        """

        def __init__(
            self, max_broadcast: int = MAX_BROADCAST, *, value: Callable[[Any], float] = lambda row: row
        ) -> None:
            super().__init__()
            self._max_broadcast = _check_broadcast(max_broadcast)
            self._value = value

        def check(self) -> Callable[[Any], object]:
            return partial(_check_row, self._value)

        def expand(self, pcoll: PCollection[tuple[Any, Any]]) -> PCollection[tuple[Any, tuple[Any, float]]]:
            _check_panes(pcoll)
            value, limit = self._value, self._max_broadcast
            # So that keys go by their own coder.
            key_type, row_type = key_and_value_types(pcoll.element_type)
            of_rows = Tuple[key_type, Tuple[row_type, float]]
            numbers = pcoll | "Value" >> beam.MapTuple(
                lambda key, row: (key, to_float_exact(value(row)))
            ).with_output_types(Tuple[key_type, float])
            logs = numbers | "Sum" >> beam.CombinePerKey(_LogCombineFn())
            keys = AsSingleton(logs | "Count" >> Count.Globally().without_defaults(), default_value=0)
            few, looked_up_rows = (
                part | f"Few{name}" >> beam.Filter(lambda _, keys, limit: keys <= limit, keys, limit)
                for name, part in (("Logs", logs), ("Rows", pcoll))
            )
            many, joined_rows = (
                part | f"Many{name}" >> beam.Filter(lambda _, keys, limit: keys > limit, keys, limit)
                for name, part in (("Logs", logs), ("Rows", pcoll))
            )
            looked_up = looked_up_rows | "Broadcast" >> beam.Map(
                lambda element, few: _with_log_softmax(element, value, few[element[0]]), AsDict(few)
            ).with_output_types(of_rows)
            shuffled = (
                {"rows": joined_rows, "log": many}
                | beam.CoGroupByKey()
                | "Shuffled" >> beam.FlatMap(_log_softmax_of_group, value).with_output_types(of_rows)
            )
            rows: PCollection[tuple[Any, tuple[Any, float]]] = (looked_up, shuffled) | beam.Flatten()
            return rows

    class PerKeyFromTables(HandlesExceptions, beam.PTransform[PCollection[pa.Table], PCollection[pa.Table]]):
        """PCollection of ``pa.Table`` to tables of the same rows, with columns "log_softmax" and "softmax" added.

        Up to ``max_broadcast`` keys, each table comes out as it went in, its rows in order. Of more keys, rows come out
        by shard: in each table those of one shard of one table that went in, in their order. Rows with a null value
        have null results. ``with_exception_handling``, as ``beam.ParDo``, puts tables with a fault aside whole.

        Args:
          keys, value, max_states: as of ``LogSumExp.PerKeyFromTables``.
          num_shards: into how many parts the keys are spread to be summed; there are as many or more to join them to
            the rows, so that each has ``max_broadcast`` keys, or some more as a hash spreads them.
          max_broadcast: how many keys a worker holds at once to look them up; beyond 256 times as many keys, a 256th.

        Raises:
          TypeError, ValueError: as ``LogSumExp.PerKeyFromTables``, and as ``PerKey`` here.
        """

        def __init__(
            self,
            keys: Sequence[str],
            value: str,
            *,
            num_shards: int = INNER_SHARDS,
            max_states: int = MAX_STATES,
            max_broadcast: int = MAX_BROADCAST,
        ) -> None:
            super().__init__()
            check_names(keys, others=[value, "log_softmax", "softmax"])
            self._keys, self._value, self._num_shards = list(keys), value, num_shards
            self._max_broadcast = _check_broadcast(max_broadcast)
            reduction = Reduction(tuple(keys), {STATE: ColumnAggregation(LOGSUMEXP, NATURAL, (value,))})
            self._sum = ReduceTables(reduction, num_shards=num_shards, max_states=max_states, is_sorted=False)

        def check(self) -> Callable[[Any], object]:
            return partial(_check_rows, self._sum.check)

        def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[pa.Table]:
            _check_panes(pcoll)
            keys, value, least, limit = self._keys, self._value, self._num_shards, self._max_broadcast
            states = pcoll | "Sum" >> self._sum
            counts = states | "Rows" >> beam.MapTuple(lambda _, table: table.num_rows)
            total = counts | "Count" >> beam.CombineGlobally(sum).without_defaults()
            # 0 where they are not joined, but looked up in what every worker has.
            shards = AsSingleton(total | "Shards" >> beam.Map(_join_shards, least, limit), default_value=0)
            few = states | "Few" >> beam.Filter(lambda _, shards: not shards, shards)
            looked_up = (
                pcoll
                | "LookUp" >> beam.Filter(lambda _, shards: not shards, shards)
                | "Broadcast" >> beam.ParDo(_BroadcastLogSoftmax(keys, value), AsIter(few)).with_output_types(pa.Table)
            )
            joined_states = states | "SplitStates" >> beam.FlatMap(_split_states, shards)
            joined_rows = pcoll | "SplitRows" >> beam.FlatMap(_split_rows, shards, keys)
            shuffled = (
                (joined_states, joined_rows)
                | "Join" >> beam.Flatten()
                | "GroupByShard" >> beam.GroupByKey()
                | "Shuffled" >> beam.FlatMap(_log_softmax_of_shard, keys, value).with_output_types(pa.Table)
            )
            tables: PCollection[pa.Table] = (looked_up, shuffled) | beam.Flatten()
            return tables


def _check_broadcast(max_broadcast: int) -> int:
    if max_broadcast < 0:
        raise ValueError(f"max_broadcast: expected 0 or more, found {max_broadcast}")
    return max_broadcast


def _check_panes(pcoll: PCollection[Any]) -> None:
    windowing = pcoll.windowing
    if not pcoll.is_bounded:
        raise ValueError("LogSoftmax: expected an input with an end, found one without")
    if windowing.triggerfn != DefaultTrigger() or windowing.allowed_lateness.micros:
        raise ValueError(
            "LogSoftmax: expected the default trigger and no lateness, as each window has one pane then, found "
            f"{windowing.triggerfn} and {windowing.allowed_lateness.micros / 1e6:g} s"
        )


def _check_row(value: Callable[[Any], float], element: tuple[Any, Any]) -> None:
    _, row = element
    to_float_exact(value(row))


def _check_rows(check: Callable[[pa.Table], None], table: pa.Table) -> None:
    check(table)
    check_no_results(table)


def _with_log_softmax(
    element: tuple[Any, Any], value: Callable[[Any], float], log: tuple[float, float, float]
) -> tuple[Any, tuple[Any, float]]:
    key, row = element
    x, maximum = to_float_exact(value(row)), log[0]
    if math.isfinite(x - maximum):
        return key, (row, subtract_log(x, *log))
    return key, (row, -math.inf if x < maximum else math.nan)


def _log_softmax_of_group(
    element: tuple[Any, dict[str, Any]], value: Callable[[Any], float]
) -> Iterator[tuple[Any, tuple[Any, float]]]:
    key, group = element
    for log in group["log"]:
        for row in group["rows"]:
            yield _with_log_softmax((key, row), value, log)


def _join_shards(num_keys: int, least: int, limit: int) -> int:
    """Into how many shards rows and sums are joined; 0 where the sums of all keys go to every worker."""
    return 0 if num_keys <= limit else max(least, min(MAX_JOIN_SHARDS, -(-num_keys // max(limit, 1))))


def _split_states(element: tuple[int, StateTable], num_shards: int) -> Iterator[tuple[int, bytes]]:
    _, states = element
    for shard, part in enumerate(states.split(num_shards) if num_shards else ()):
        if part.num_rows:
            yield shard, STATES_TAG + part.to_ipc()


def _split_rows(table: pa.Table, num_shards: int, keys: list[str]) -> Iterator[tuple[int, bytes]]:
    for shard, part in enumerate(split_by_shard(table, keys, num_shards) if num_shards else ()):
        if part.num_rows:
            yield shard, ROWS_TAG + to_ipc(with_own_dictionaries(part, keys))


def _log_softmax_of_shard(element: tuple[int, Iterable[bytes]], keys: list[str], value: str) -> Iterator[pa.Table]:
    # What a runner has of a group may be more than a worker holds: it is read once for the states, and once for the
    # rows, a table at a time.
    _, parts = element
    states = [StateTable.from_ipc(memoryview(part)[1:], trusted=True) for part in parts if part[:1] == STATES_TAG]
    softmax = KeyedSoftmax(StateTable.concat(states), keys, value)
    for part in parts:
        if part[:1] == ROWS_TAG:
            yield softmax(from_ipc(memoryview(part)[1:]))


class _BroadcastLogSoftmax(beam.DoFn):
    """Tables to tables with the columns added, by the states of all keys."""

    def __init__(self, keys: list[str], value: str) -> None:
        self._keys, self._value = keys, value

    def start_bundle(self) -> None:
        self._softmax: tuple[Any, KeyedSoftmax] | None = None

    def process(
        self, table: pa.Table, shards: Iterable[tuple[int, StateTable]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[pa.Table]:
        # Within a window of a bundle a side input is the same for every table.
        if self._softmax is None or self._softmax[0] != window:
            states = StateTable.concat([states for _, states in shards])
            self._softmax = window, KeyedSoftmax(states, self._keys, self._value)
        yield self._softmax[1](table)
