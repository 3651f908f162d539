"""The kinds of states as Beam transforms, named in the manner of ``beam.combiners.Mean``."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsDict, AsIter, AsSingleton, PCollection
from apache_beam.transforms.combiners import Count
from apache_beam.transforms.window import BoundedWindow, TimestampCombiner
from apache_beam.typehints.trivial_inference import key_value_types
from apache_beam.typehints.typehints import Tuple
from apache_beam.utils.windowed_value import WindowedValue

from .arrow import Shares, finalise
from .beam.tables import MAX_STATES, MergeTables, ReduceTables
from .combine_fn import (
    CrossEntropyCombineFn,
    EffectiveSampleSizeCombineFn,
    LogLikelihoodCombineFn,
    LogMeanExpCombineFn,
    LogSumExpCombineFn,
    MergeStatesCombineFn,
    StateCombineFn,
    StatesCombineFn,
    WeightedLogSumExpCombineFn,
)
from .keys import with_own_dictionaries
from .plan import MAX_BROADCAST
from .scales import NATURAL, Scale
from .state_column import STATE
from .state_table import Aggregate, Reduction, StateTable, check_names, from_ipc, split_by_shard, to_ipc
from .states import CROSS_ENTROPY, EFFECTIVE_SAMPLE_SIZE, LOG_LIKELIHOOD, LOGSUMEXP, WEIGHTED_LOGSUMEXP, less_log
from .values import widen_scalar
from .windows import PartialPanes


class _PerKeyOfTables(beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]):
    """PCollection of ``pa.Table`` to (shard, ``pa.Table``), exactly one per window and shard.

    Each table that comes out holds the key columns and "state", one row per key, sorted by key, and is the same
    whatever the order, size and bundling of the tables that went in. ``lse_stream.arrow.finalise`` turns it into
    results. A window that no table reached has no shards, as nothing tells their schema; one empty table does.

    Rows are reduced to states per table, then per bundle, and only then shuffled, as Arrow batches. Where nearly every
    row of large tables has a key of its own, the rows are shuffled as they are, which are shorter.

    Args:
      keys: names of the key columns; none for one global row.
      value: name of the column of numbers; of values and weights, or of logits and targets, where the kind has both.
      scale: a ``Scale`` or its name, where the kind knows others than the natural one.
      num_shards: into how many tables the keys are spread, by a hash that is the same on every machine. One worker
        holds all keys of a shard: allow 700 bytes per key.
      skip_nulls: False makes the state of a key that has a null value null.
      max_states: how many distinct keys a bundle holds before it sends them on and starts afresh. As many as the
        default allows take up to 0.6 GB per worker thread.
      partial_panes: for streams: whole seconds of processing time, within which the states of a shard are merged to one
        part before the input's trigger sees them. A runner keeps one part for each such pane, not one per bundle.

    Raises:
      TypeError, ValueError: an argument is not as above, or column names collide.
      ValueError: the input has merging windows (sessions), which would merge by shard and not by key.
      Faults in the tables are raised as by ``group_states`` and ``merge_states`` when the pipeline runs.
    """

    KIND: ClassVar[str]

    def __init__(
        self,
        keys: Sequence[str],
        value: str | Sequence[str],
        *,
        scale: Scale | str = NATURAL,
        num_shards: int = 1,
        skip_nulls: bool = True,
        max_states: int = MAX_STATES,
        partial_panes: int | None = None,
    ) -> None:
        super().__init__()
        aggregate = Aggregate.of(self.KIND, scale, value)
        check_names(keys, others=[*aggregate.values, STATE, *aggregate.kind.columns])
        reduction = Reduction(tuple(keys), {STATE: aggregate}, skip_nulls)
        self._reduce = ReduceTables(
            reduction, num_shards=num_shards, max_states=max_states, partial_panes=partial_panes
        )

    def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
        tables: PCollection[tuple[int, pa.Table]] = pcoll | "Reduce" >> self._reduce | "ToArrow" >> _ToArrow()
        return tables


class _ToArrow(beam.PTransform[PCollection[tuple[int, StateTable]], PCollection[tuple[int, pa.Table]]]):
    def expand(self, shards: PCollection[tuple[int, StateTable]]) -> PCollection[tuple[int, pa.Table]]:
        tables: PCollection[tuple[int, pa.Table]] = shards | beam.MapTuple(
            lambda shard, states: (shard, states.to_arrow())
        ).with_output_types(tuple[int, pa.Table])
        return tables


class MergeStates:
    """Transforms that merge states, of one kind and scale, exactly as if all rows behind them had been combined."""

    class PerKeyOfTables(beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]):
        """PCollection of ``pa.Table`` with key columns and "state" to (shard, ``pa.Table``), exactly one per shard.

        Further columns are left out: name fewer keys to merge to coarser ones. What comes out is what
        ``LogSumExp.PerKeyOfTables``, or that of the states' kind, would give for the rows.

        Args:
          keys, num_shards, max_states, partial_panes: as of ``LogSumExp.PerKeyOfTables``.

        Raises: as ``LogSumExp.PerKeyOfTables``, and as ``merge_states`` when the pipeline runs.
        """

        def __init__(
            self,
            keys: Sequence[str],
            *,
            num_shards: int = 1,
            max_states: int = MAX_STATES,
            partial_panes: int | None = None,
        ) -> None:
            super().__init__()
            check_names(keys, others=[STATE])
            self._merge = MergeTables(keys, num_shards=num_shards, max_states=max_states, partial_panes=partial_panes)

        def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
            tables: PCollection[tuple[int, pa.Table]] = pcoll | "Merge" >> self._merge | "ToArrow" >> _ToArrow()
            return tables

    class PerKey(beam.CombinePerKey):
        """PCollection of (key, accumulator) to a PCollection of (key, result), one per key.

        Args:
          combine_fn: that of the accumulators; its result comes out. ``StatesCombineFn`` of it gives states.
        """

        def __init__(self, combine_fn: StateCombineFn) -> None:
            super().__init__(MergeStatesCombineFn(combine_fn))


class ReducePerKey(beam.PTransform[PCollection[tuple[Any, Any]], PCollection[tuple[Any, Any]]]):
    """PCollection of (key, element) to (key, accumulator), some per key, for ``MergeStates.PerKey`` to finish.

    Together they give what ``beam.CombinePerKey(combine_fn)`` gives, pane by pane, in any windows. Where a runner does
    not combine ahead of a stream's shuffle, as Flink, it keeps the elements until the window ends; so it keeps states.

    Args:
      combine_fn: such as ``LogSumExpCombineFn()``.
      partial_panes: whole seconds of processing time between the states of a key that reach the final grouping; None
        for one per bundle.
      max_states: how many keys and windows a bundle holds before it sends them on.

    Raises:
      ValueError: the input's windowing has timestamps of its output other than the window's end.
    """

    def __init__(
        self, combine_fn: StateCombineFn, *, partial_panes: int | None = None, max_states: int = 1 << 17
    ) -> None:
        super().__init__()
        self._combine_fn = combine_fn
        merge = partial(_merge_accumulators, StatesCombineFn(combine_fn))
        self._partial = PartialPanes(merge, partial_panes) if partial_panes is not None else None
        self._max_states = max_states

    def expand(self, pcoll: PCollection[tuple[Any, Any]]) -> PCollection[tuple[Any, Any]]:
        if pcoll.windowing.timestamp_combiner != TimestampCombiner.OUTPUT_AT_EOW:
            raise ValueError("expected the timestamp combiner OUTPUT_AT_EOW, Beam's default, found another")
        key_type, _ = key_value_types(pcoll.element_type)
        state_type = type(self._combine_fn.create_accumulator())
        states: PCollection[tuple[Any, Any]] = pcoll | "ReduceBundle" >> beam.ParDo(
            _ReduceBundle(self._combine_fn, self._max_states)
        ).with_output_types(Tuple[key_type, state_type])
        return states if self._partial is None else states | "PartialPanes" >> self._partial


def _merge_accumulators(combine_fn: StateCombineFn, accumulators: Iterable[Any]) -> Any:
    return combine_fn.merge_accumulators(accumulators)


class _ReduceBundle(beam.DoFn):
    """(key, element) to (key, accumulator), one per key and window of the bundle."""

    def __init__(self, combine_fn: StateCombineFn, max_states: int) -> None:
        self._combine_fn = combine_fn
        self._max_states = max_states

    def start_bundle(self) -> None:
        self._states: dict[tuple[BoundedWindow, Any], Any] = {}

    def process(self, element: tuple[Any, Any], window: Any = beam.DoFn.WindowParam) -> Iterator[WindowedValue]:
        key, value = element
        place = window, key
        state = self._states.get(place)
        if state is None:
            if len(self._states) == self._max_states:
                yield from self.finish_bundle()
            state = self._states[place] = self._combine_fn.create_accumulator()
        self._combine_fn.add_input(state, value)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for (window, key), state in self._states.items():
            yield WindowedValue((key, state), window.max_timestamp(), (window,))
        self._states.clear()


class Finalise(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[tuple[int, pa.Table]]]):
    """(shard, table of states), as from ``PerKeyOfTables``, to (shard, table of results).

    Args:
      results, min_count, keep_state: as of ``lse_stream.arrow.finalise``.
    """

    def __init__(self, results: Sequence[str] | None = None, *, min_count: int = 0, keep_state: bool = False) -> None:
        super().__init__()
        self._finalise = partial(finalise, results=results, min_count=min_count, keep_state=keep_state)

    def expand(self, shards: PCollection[tuple[int, pa.Table]]) -> PCollection[tuple[int, pa.Table]]:
        finalise_shard = self._finalise
        results: PCollection[tuple[int, pa.Table]] = shards | "Finalise" >> beam.MapTuple(
            lambda shard, states: (shard, finalise_shard(states))
        ).with_output_types(tuple[int, pa.Table])
        return results


class LogSumExp:
    """Transforms that compute ``ln(sum(exp(x)))``, whose results depend on the multiset of inputs alone.

    ``scale`` is a ``Scale`` or its name, such as "decibel" or "base 4".
    """

    class Globally(beam.CombineGlobally):
        """PCollection of numbers to a PCollection of one float; ``-inf`` when there are none.

        Has the methods of ``beam.CombineGlobally``: ``without_defaults`` (needed outside the global window),
        ``as_singleton_view``, ``with_fanout``.
        """

        def __init__(self, scale: Scale | str = NATURAL) -> None:
            beam.CombineGlobally.__init__(self, LogSumExpCombineFn(scale))

    class PerKey(beam.CombinePerKey):
        """PCollection of (key, number) to a PCollection of (key, float), one per key.

        Has the methods of ``beam.CombinePerKey``: ``with_hot_key_fanout``.
        """

        def __init__(self, scale: Scale | str = NATURAL) -> None:
            super().__init__(LogSumExpCombineFn(scale))

    class PerKeyOfTables(_PerKeyOfTables):
        __doc__ = _PerKeyOfTables.__doc__
        KIND = LOGSUMEXP.name


class LogMeanExp:
    """Transforms that compute ``ln(mean(exp(x)))``: exactly x for equal values x. As ``LogSumExp`` otherwise.

    Of tables: ``LogSumExp.PerKeyOfTables``, whose states ``finalise(..., results=["logmeanexp"])`` turns into means.
    """

    class Globally(beam.CombineGlobally):
        """PCollection of numbers to a PCollection of one float; ``-inf`` when there are none."""

        def __init__(self, scale: Scale | str = NATURAL) -> None:
            beam.CombineGlobally.__init__(self, LogMeanExpCombineFn(scale))

    class PerKey(beam.CombinePerKey):
        """PCollection of (key, number) to a PCollection of (key, float), one per key."""

        def __init__(self, scale: Scale | str = NATURAL) -> None:
            super().__init__(LogMeanExpCombineFn(scale))


class WeightedLogSumExp:
    """Transforms that compute ``ln(sum(w * exp(x)))`` for finite weights of either sign.

    A negative sum gives NaN, or, with ``return_sign``, (log of the magnitude, sign).
    """

    class Globally(beam.CombineGlobally):
        """PCollection of (x, weight) to a PCollection of one result; ``-inf`` when there are none."""

        def __init__(self, scale: Scale | str = NATURAL, *, return_sign: bool = False) -> None:
            beam.CombineGlobally.__init__(self, WeightedLogSumExpCombineFn(scale, return_sign=return_sign))

    class PerKey(beam.CombinePerKey):
        """PCollection of (key, (x, weight)) to a PCollection of (key, result), one per key."""

        def __init__(self, scale: Scale | str = NATURAL, *, return_sign: bool = False) -> None:
            super().__init__(WeightedLogSumExpCombineFn(scale, return_sign=return_sign))

    class PerKeyOfTables(_PerKeyOfTables):
        __doc__ = _PerKeyOfTables.__doc__
        KIND = WEIGHTED_LOGSUMEXP.name


class LogLikelihood:
    """Transforms that total log-likelihoods: count, exact sum, log-sum-exp, max, mean and variance."""

    class Globally(beam.CombineGlobally):
        """PCollection of numbers to a PCollection of one ``LogLikelihoodSummary``."""

        def __init__(self) -> None:
            beam.CombineGlobally.__init__(self, LogLikelihoodCombineFn())

    class PerKey(beam.CombinePerKey):
        """PCollection of (key, number) to a PCollection of (key, ``LogLikelihoodSummary``), one per key."""

        def __init__(self) -> None:
            super().__init__(LogLikelihoodCombineFn())

    class PerKeyOfTables(_PerKeyOfTables):
        __doc__ = _PerKeyOfTables.__doc__
        KIND = LOG_LIKELIHOOD.name


class EffectiveSampleSize:
    """Transforms that compute Kish's effective sample size of log-weights, ``(sum w)^2 / sum w^2``."""

    class Globally(beam.CombineGlobally):
        """PCollection of log-weights to a PCollection of one float; 0 when there are none."""

        def __init__(self) -> None:
            beam.CombineGlobally.__init__(self, EffectiveSampleSizeCombineFn())

    class PerKey(beam.CombinePerKey):
        """PCollection of (key, log-weight) to a PCollection of (key, float), one per key."""

        def __init__(self) -> None:
            super().__init__(EffectiveSampleSizeCombineFn())

    class PerKeyOfTables(_PerKeyOfTables):
        __doc__ = _PerKeyOfTables.__doc__
        KIND = EFFECTIVE_SAMPLE_SIZE.name


class CrossEntropy:
    """Transforms that compute the cross-entropy of examples whose classes lie in shards, in nats.

    An element is one class of an example, (logit, target): the target is 1 (or True) for the label, 0 for the others,
    or a probability. The mean over examples, exact: ``... | CrossEntropy.PerKey() | beam.Values() |
    LogLikelihood.Globally()``.
    """

    class Globally(beam.CombineGlobally):
        """PCollection of (logit, target) of one example to a PCollection of one float."""

        def __init__(self) -> None:
            beam.CombineGlobally.__init__(self, CrossEntropyCombineFn())

    class PerKey(beam.CombinePerKey):
        """PCollection of (example, (logit, target)) to a PCollection of (example, float), one per example."""

        def __init__(self) -> None:
            super().__init__(CrossEntropyCombineFn())

    class PerKeyOfTables(_PerKeyOfTables):
        __doc__ = _PerKeyOfTables.__doc__
        KIND = CROSS_ENTROPY.name


class _LogCombineFn(LogSumExpCombineFn):
    """Combines numbers to the log-sum-exp in three parts: max, and what is on top of it as a double-double."""

    def extract_output(self, accumulator: Any) -> tuple[float, float, float]:
        _, high, low, _, _ = accumulator.states().quotients()[:, 0].tolist()
        return accumulator.max, high, low

    def default_type_hints(self) -> Any:
        return super().default_type_hints().with_output_types(tuple[float, float, float])


class LogSoftmax:
    """Transforms that give every row its logarithm of a softmax, ``x - LSE`` over all rows of its key.

    The sums of up to ``max_broadcast`` keys (of a window) are sent to every worker, which looks them up. Of more keys,
    rows and sums are shuffled to each other. The number of keys decides while the pipeline runs; the bits are the same.
    """

    class PerKey(beam.PTransform[PCollection[tuple[Any, Any]], PCollection[tuple[Any, tuple[Any, float]]]]):
        """PCollection of (key, row) to a PCollection of (key, (row, log-softmax)), one for each, in no set order.

        Args:
          max_broadcast: how many keys a worker holds at once.
          value: the number of a row; by default the row is the number.

        Raises:
          ValueError: ``max_broadcast`` is negative.
        """

        def __init__(
            self, max_broadcast: int = MAX_BROADCAST, *, value: Callable[[Any], float] = lambda row: row
        ) -> None:
            super().__init__()
            self._max_broadcast = _check_broadcast(max_broadcast)
            self._value = value

        def expand(self, pcoll: PCollection[tuple[Any, Any]]) -> PCollection[tuple[Any, tuple[Any, float]]]:
            value, limit = self._value, self._max_broadcast
            numbers = pcoll | "Value" >> beam.MapTuple(lambda key, row: (key, widen_scalar(value(row))))
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
            )
            shuffled = (
                {"rows": joined_rows, "log": many}
                | beam.CoGroupByKey()
                | "Shuffled" >> beam.FlatMap(_log_softmax_of_group, value)
            )
            rows: PCollection[tuple[Any, tuple[Any, float]]] = (looked_up, shuffled) | beam.Flatten()
            return rows

    class PerKeyOfTables(beam.PTransform[PCollection[pa.Table], PCollection[pa.Table]]):
        """PCollection of ``pa.Table`` to tables of the same rows, with columns "log_softmax" and "softmax" added.

        Up to ``max_broadcast`` keys, each table comes out as it went in, its rows in order. Of more keys, rows come out
        by shard: in each table those of one shard of one table that went in, in their order. Rows with a null value
        have null results.

        Args:
          keys, value, num_shards, max_states: as of ``LogSumExp.PerKeyOfTables``.
          max_broadcast: how many keys a worker holds at once.

        Raises: as ``LogSumExp.PerKeyOfTables``.
        """

        def __init__(
            self,
            keys: Sequence[str],
            value: str,
            *,
            num_shards: int = 1,
            max_states: int = MAX_STATES,
            max_broadcast: int = MAX_BROADCAST,
        ) -> None:
            super().__init__()
            check_names(keys, others=[value, "log_softmax", "softmax"])
            self._keys, self._value, self._num_shards = list(keys), value, num_shards
            self._max_broadcast = _check_broadcast(max_broadcast)
            reduction = Reduction(tuple(keys), {STATE: Aggregate.of(LOGSUMEXP.name, NATURAL, value)})
            self._sum = ReduceTables(reduction, num_shards=num_shards, max_states=max_states)

        def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[pa.Table]:
            keys, value, limit = self._keys, self._value, self._max_broadcast
            states = pcoll | "Sum" >> self._sum
            counts = states | "Rows" >> beam.MapTuple(lambda _, table: table.num_rows)
            total = AsSingleton(counts | "Count" >> beam.CombineGlobally(sum).without_defaults(), default_value=0)
            few = states | "Few" >> beam.Filter(lambda _, total, limit: total <= limit, total, limit)
            many = states | "Many" >> beam.Filter(lambda _, total, limit: total > limit, total, limit)
            looked_up = (
                pcoll
                | "LookUp" >> beam.Filter(lambda _, total, limit: total <= limit, total, limit)
                | "Broadcast" >> beam.ParDo(_BroadcastLogSoftmax(keys, value), AsIter(few)).with_output_types(pa.Table)
            )
            joined = (
                pcoll
                | "Join" >> beam.Filter(lambda _, total, limit: total > limit, total, limit)
                | "Split" >> beam.FlatMap(_split_to_ipc, keys, self._num_shards).with_output_types(tuple[int, bytes])
            )
            shuffled = (
                {"rows": joined, "states": many | "ToIpc" >> beam.MapTuple(_to_ipc)}
                | beam.CoGroupByKey()
                | "Shuffled" >> beam.FlatMap(_log_softmax_of_shard, keys, value).with_output_types(pa.Table)
            )
            tables: PCollection[pa.Table] = (looked_up, shuffled) | beam.Flatten()
            return tables


def _check_broadcast(max_broadcast: int) -> int:
    if max_broadcast < 0:
        raise ValueError(f"max_broadcast: expected 0 or more, found {max_broadcast}")
    return max_broadcast


def _with_log_softmax(
    element: tuple[Any, Any], value: Callable[[Any], float], log: tuple[float, float, float]
) -> tuple[Any, tuple[Any, float]]:
    key, row = element
    x, maximum = widen_scalar(value(row)), log[0]
    if math.isfinite(x - maximum):
        return key, (row, less_log(x, *log))
    return key, (row, -math.inf if x < maximum else math.nan)


def _log_softmax_of_group(
    element: tuple[Any, dict[str, Any]], value: Callable[[Any], float]
) -> Iterator[tuple[Any, tuple[Any, float]]]:
    key, group = element
    for log in group["log"]:
        for row in group["rows"]:
            yield _with_log_softmax((key, row), value, log)


def _split_to_ipc(table: pa.Table, keys: list[str], num_shards: int) -> Iterator[tuple[int, bytes]]:
    for shard, part in enumerate(split_by_shard(table, keys, num_shards)):
        if part.num_rows:
            yield shard, to_ipc(with_own_dictionaries(part, keys))


def _to_ipc(shard: int, states: StateTable) -> tuple[int, bytes]:
    return shard, states.to_ipc()  # what is joined has no type to Beam, which would pickle it


def _log_softmax_of_shard(element: tuple[int, dict[str, Any]], keys: list[str], value: str) -> Iterator[pa.Table]:
    _, group = element
    if rows := list(group["rows"]):
        [states] = group["states"]
        shares = Shares(StateTable.from_ipc(states, trusted=True), keys, value)
        for stream in rows:
            yield shares.of(from_ipc(stream))


class _BroadcastLogSoftmax(beam.DoFn):
    """Tables to tables with the columns added, by the states of all keys."""

    def __init__(self, keys: list[str], value: str) -> None:
        self._keys, self._value = keys, value

    def start_bundle(self) -> None:
        self._shares: tuple[Any, Shares] | None = None

    def process(
        self, table: pa.Table, shards: Iterable[tuple[int, StateTable]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[pa.Table]:
        # Within a window of a bundle a side input is the same for every table.
        if self._shares is None or self._shares[0] != window:
            states = StateTable.concat([states for _, states in shards])
            self._shares = window, Shares(states, self._keys, self._value)
        yield self._shares[1].of(table)
