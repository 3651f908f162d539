"""The aggregations as Beam transforms, named in the manner of ``beam.combiners.Mean``.

Each family has ``Globally`` and ``PerKey``, over elements, and most have ``PerKeyFromTables``. They are made from the
family's CombineFn and aggregation: see ``_Family``, and the families at the end of this file.
"""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection
from apache_beam.transforms.display import DisplayDataItem

from ..reduction import ColumnAggregation, Reduction, check_names
from ..scales import NATURAL, Scale
from ..state_column import STATE
from ..states.aggregations import (
    CROSS_ENTROPY,
    EFFECTIVE_SAMPLE_SIZE,
    EXACT_SUM,
    LOG_LIKELIHOOD,
    LOGSUMEXP,
    WEIGHTED_LOGSUMEXP,
    Aggregation,
    exact_sum,
    leave_one_out,
)
from ..states.leave_one_out import values_to_keep
from ..table_functions import finalize
from .combine_fns import (
    CrossEntropyCombineFn,
    EffectiveSampleSizeCombineFn,
    ExactSumCombineFn,
    LeaveOneOutCombineFn,
    LogLikelihoodCombineFn,
    LogMeanExpCombineFn,
    LogSumExpCombineFn,
    MergeStatesCombineFn,
    WeightedLogSumExpCombineFn,
    check_element,
    check_pair,
)
from .exception_handling import HandlesExceptions
from .tables import MAX_STATES, MergeTables, ReduceTables, ToArrow


class _Globally(HandlesExceptions, beam.CombineGlobally):
    """PCollection of {elements} to a PCollection of one result, even if there are no elements.

    Args are those of ``{combine_fn}``. It has the methods of ``beam.CombineGlobally``: ``without_defaults`` (needed
    outside the global window), ``as_singleton_view``, ``with_fanout``; and ``with_exception_handling``, as
    ``beam.ParDo``.
    """

    COMBINE_FN: ClassVar[type[beam.CombineFn]]

    def __init__(self, *args: Any, **options: Any) -> None:
        # By name: through super(), mypy takes it for a function of ours without types, and not for Beam's.
        beam.CombineGlobally.__init__(self, self.COMBINE_FN(*args, **options))

    def check(self) -> Callable[[Any], object]:
        return partial(check_element, self.fn)


class _PerKey(HandlesExceptions, beam.CombinePerKey):
    """PCollection of (key, element) to a PCollection of (key, result), one per key. Elements are {elements}.

    Args are those of ``{combine_fn}``. It has the method of ``beam.CombinePerKey``: ``with_hot_key_fanout``; and
    ``with_exception_handling``, as ``beam.ParDo``.
    """

    COMBINE_FN: ClassVar[type[beam.CombineFn]]

    def __init__(self, *args: Any, **options: Any) -> None:
        beam.CombinePerKey.__init__(self, self.COMBINE_FN(*args, **options))

    def check(self) -> Callable[[Any], object]:
        return partial(check_pair, self.fn)


class _PerKeyFromTables(HandlesExceptions, beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]):
    """PCollection of ``pa.Table`` to (shard, ``pa.Table``), exactly one per window and shard.

    Each table that comes out holds the key columns and "state", one row per key, sorted by key, and is the same
    whatever the order, size and bundling of the tables that went in. ``lse_stream.finalize`` turns it into results. A
    window that no table reached has no shards, as nothing says what their schema is; one empty table does. Of input
    without an end shards without a row do not come out.

    ``with_exception_handling``, as ``beam.ParDo``, puts tables with a fault aside whole. The counters ``rows_reduced``,
    ``nulls``, ``rows_shuffled``, ``states_shuffled`` and ``bytes_shuffled``, in the namespace ``lse_stream``, tell what
    the reduction saves.

    Rows are reduced to states per table, then per bundle, and only then shuffled, as Arrow batches. Where nearly every
    row of large tables has a key of its own, the rows are shuffled as they are, which are shorter.

    Args:
      keys: names of the key columns; none for one global row.
      value: name of the column of numbers; of values and weights, or of logits and targets, where the aggregation has
        both.
      scale: a ``Scale`` or its name, where the aggregation knows others than the natural one.
      num_shards: into how many tables the keys are spread, by a hash that is the same on every machine. One worker
        holds all keys of a shard: allow 700 bytes per key.
      skip_nulls: False makes the state of a key that has a null value null.
      max_states: how many distinct keys a bundle holds before it sends them on and starts afresh. As many as the
        default allows take up to 0.7 GB per worker thread.
      pre_aggregate: for streams: whole seconds of processing time, within which the states of a shard are merged to one
        part before the input's trigger sees them. A runner keeps one part for each such pane, not one per bundle.

    Raises:
      TypeError, ValueError: an argument is not as above, or column names collide; an input in windows that merge
        (sessions), which would merge by shard and not by key.
      KeyError, TypeError, ValueError: a fault in the tables, as of ``lse_stream.group_states``, when the pipeline runs.
    """

    AGGREGATION: Aggregation

    def __init__(
        self,
        keys: Sequence[str],
        value: str | Sequence[str],
        *,
        scale: Scale | str = NATURAL,
        num_shards: int = 1,
        skip_nulls: bool = True,
        max_states: int = MAX_STATES,
        pre_aggregate: int | None = None,
    ) -> None:
        super().__init__()
        column = ColumnAggregation.of(self.AGGREGATION.name, scale, value)
        check_names(keys, others=[*column.values, STATE, *self.AGGREGATION.columns])
        reduction = Reduction(tuple(keys), {STATE: column}, skip_nulls)
        self._reduce = ReduceTables(
            reduction, num_shards=num_shards, max_states=max_states, pre_aggregate=pre_aggregate
        )
        self._shown = {
            "aggregation": self.AGGREGATION.name,
            "keys": ", ".join(keys),
            "values": ", ".join(column.values),
            "scale": column.scale.name,
            "num_shards": num_shards,
            "skip_nulls": skip_nulls,
        }

    def display_data(self) -> dict[str, Any]:
        """What a runner shows of it."""
        return {name: DisplayDataItem(value, label=name.replace("_", " ")) for name, value in self._shown.items()}

    def check(self) -> Callable[[Any], object]:
        return self._reduce.check

    def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
        tables: PCollection[tuple[int, pa.Table]] = pcoll | "Reduce" >> self._reduce | "ToArrow" >> ToArrow()
        return tables


class _LeaveOneOutFromTables(_PerKeyFromTables):
    __doc__ = (
        f"{_PerKeyFromTables.__doc__}\n"
        "    An option beside these is ``draws``, how many an observation has in all, over states that will be merged\n"
        "    later too, as of ``{combine_fn}``. Results are those of an r_eff of 1.\n    "
    )

    def __init__(self, keys: Sequence[str], value: str | Sequence[str], *, draws: int, **options: Any) -> None:
        self.AGGREGATION = leave_one_out(values_to_keep(draws))
        super().__init__(keys, value, **options)


class _ExactSumFromTables(_PerKeyFromTables):
    __doc__ = (
        f"{_PerKeyFromTables.__doc__}\n"
        "    An option beside these is ``digits``, of integers and decimals, as of ``{combine_fn}``.\n    "
    )

    def __init__(
        self, keys: Sequence[str], value: str | Sequence[str], *, digits: int | None = None, **options: Any
    ) -> None:
        self.AGGREGATION = EXACT_SUM if digits is None else exact_sum(digits)
        super().__init__(keys, value, **options)


class _Family:
    """Transforms of one aggregation. A subclass says in its class statement what they are made from.

    Args:
      combine_fn: the class whose instances combine elements; its arguments are those of ``Globally`` and ``PerKey``.
      elements: what they are, in the plural.
      aggregation: of tables; None for a family without ``PerKeyFromTables``.
      from_tables: what that is made from.
    """

    Globally: ClassVar[type[_Globally]]
    PerKey: ClassVar[type[_PerKey]]
    PerKeyFromTables: ClassVar[type[_PerKeyFromTables]]

    def __init_subclass__(
        cls,
        *,
        combine_fn: type[beam.CombineFn],
        elements: str,
        aggregation: Aggregation | None = None,
        from_tables: type[_PerKeyFromTables] = _PerKeyFromTables,
    ) -> None:
        names = {"elements": elements, "combine_fn": combine_fn.__name__}
        cls.Globally = _member(cls, "Globally", _Globally, names, COMBINE_FN=combine_fn)
        cls.PerKey = _member(cls, "PerKey", _PerKey, names, COMBINE_FN=combine_fn)
        if aggregation is not None:
            cls.PerKeyFromTables = _member(cls, "PerKeyFromTables", from_tables, names, AGGREGATION=aggregation)


def _member(family: type, name: str, base: Any, names: dict[str, str], **attributes: Any) -> Any:
    """A subclass of ``base`` that is documented, shown and pickled as an attribute of its family."""
    attributes["__doc__"] = base.__doc__.format(**names)
    attributes["__module__"], attributes["__qualname__"] = family.__module__, f"{family.__qualname__}.{name}"
    if "COMBINE_FN" in attributes:
        attributes["__signature__"] = signature(attributes["COMBINE_FN"])
    return type(name, (base,), attributes)


class MergeStates:
    """Transforms that merge states, of one aggregation and scale, exactly as if all rows behind them had been combined.

    >>> from lse_stream import LogSumExpAccumulator
    >>> states = [("a", LogSumExpAccumulator([1, 2])), ("a", LogSumExpAccumulator([3, 4, 5]))]
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create(states) | MergeStates.PerKey(LogSumExpCombineFn()) | beam.Map(print)
    ('a', 5.451914395937593)
    """

    class PerKeyFromTables(
        HandlesExceptions, beam.PTransform[PCollection[pa.Table], PCollection[tuple[int, pa.Table]]]
    ):
        """PCollection of ``pa.Table`` with key columns and "state" to (shard, ``pa.Table``), exactly one per shard.

        Further columns are left out: name fewer keys to merge to coarser ones. What comes out is what
        ``LogSumExp.PerKeyFromTables``, or that of the states' own family, would give for the rows.

        Args:
          keys, num_shards, max_states, pre_aggregate: as of ``LogSumExp.PerKeyFromTables``.

        Raises:
          TypeError, ValueError: as ``LogSumExp.PerKeyFromTables``.
          KeyError, TypeError, StateError: as ``lse_stream.merge_states``, when the pipeline runs.
        """

        def __init__(
            self,
            keys: Sequence[str],
            *,
            num_shards: int = 1,
            max_states: int = MAX_STATES,
            pre_aggregate: int | None = None,
        ) -> None:
            super().__init__()
            check_names(keys, others=[STATE])
            self._merge = MergeTables(keys, num_shards=num_shards, max_states=max_states, pre_aggregate=pre_aggregate)

        def check(self) -> Callable[[Any], object]:
            return self._merge.check

        def expand(self, pcoll: PCollection[pa.Table]) -> PCollection[tuple[int, pa.Table]]:
            tables: PCollection[tuple[int, pa.Table]] = pcoll | "Merge" >> self._merge | "ToArrow" >> ToArrow()
            return tables

    class PerKey(HandlesExceptions, beam.CombinePerKey):
        """PCollection of (key, accumulator) to a PCollection of (key, result), one per key.

        Args:
          combine_fn: that of the accumulators; its result comes out. ``ToStateCombineFn`` of it gives states.
        """

        def __init__(self, combine_fn: beam.CombineFn) -> None:
            beam.CombinePerKey.__init__(self, MergeStatesCombineFn(combine_fn))

        def check(self) -> Callable[[Any], object]:
            return partial(check_pair, self.fn)


class Finalize(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[tuple[int, pa.Table]]]):
    """(shard, table of states), as from ``PerKeyFromTables``, to (shard, table of results).

    Args:
      results, min_count, keep_state: as of ``lse_stream.finalize``.

    Raises:
      KeyError, ValueError, StateError: as ``lse_stream.finalize``, when the pipeline runs.

    >>> rows = pa.table({"model": ["a", "a", "b"], "x": [0.0, 0.0, 5.0]})
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     states = pipeline | beam.Create([rows]) | LogSumExp.PerKeyFromTables(["model"], "x")
    ...     _ = states | Finalize() | beam.MapTuple(lambda shard, table: print(shard, table["logsumexp"].to_pylist()))
    0 [0.6931471805599453, 5.0]
    """

    def __init__(self, results: Sequence[str] | None = None, *, min_count: int = 0, keep_state: bool = False) -> None:
        super().__init__()
        self._finalize = partial(finalize, results=results, min_count=min_count, keep_state=keep_state)

    def expand(self, shards: PCollection[tuple[int, pa.Table]]) -> PCollection[tuple[int, pa.Table]]:
        finalize_shard = self._finalize
        results: PCollection[tuple[int, pa.Table]] = shards | "Finalize" >> beam.MapTuple(
            lambda shard, states: (shard, finalize_shard(states))
        ).with_output_types(tuple[int, pa.Table])
        return results


class LogSumExp(_Family, combine_fn=LogSumExpCombineFn, elements="numbers", aggregation=LOGSUMEXP):
    """Transforms that compute ``ln(sum(exp(x)))``, whose results depend on the multiset of inputs alone.

    ``scale`` is a ``Scale`` or its name, such as "decibel" or "base 4". Nothing gives ``-inf``.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([("a", 60), ("a", 60)]) | LogSumExp.PerKey("decibel") | beam.Map(print)
    ('a', 63.01029995663981)
    """


class LogMeanExp(_Family, combine_fn=LogMeanExpCombineFn, elements="numbers"):
    """Transforms that compute ``ln(mean(exp(x)))``: exactly x for equal values x. Nothing gives ``-inf``.

    Of tables: ``LogSumExp.PerKeyFromTables``, whose states ``finalize(..., results=["logmeanexp"])`` turns into means.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([-7.5, -7.5]) | LogMeanExp.Globally() | beam.Map(print)
    -7.5
    """


class WeightedLogSumExp(
    _Family,
    combine_fn=WeightedLogSumExpCombineFn,
    elements="pairs (x, weight)",
    aggregation=WEIGHTED_LOGSUMEXP,
):
    """Transforms that compute ``ln(sum(w * exp(x)))`` for finite weights of either sign.

    A negative sum gives NaN, or, with ``return_sign``, (log of the magnitude, sign). Nothing gives ``-inf``.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     pairs = pipeline | beam.Create([(0.0, 1.0), (0.0, -2.0)])
    ...     _ = pairs | WeightedLogSumExp.Globally(return_sign=True) | beam.Map(print)
    (0.0, -1.0)
    """


class LogLikelihood(_Family, combine_fn=LogLikelihoodCombineFn, elements="numbers", aggregation=LOG_LIKELIHOOD):
    """Transforms that total log-likelihoods, to a ``LogLikelihoodSummary``.

    It has their count, exact sum, log-sum-exp, max, mean and variance.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     totals = pipeline | beam.Create([("a", -1.5), ("a", -0.25)]) | LogLikelihood.PerKey()
    ...     _ = totals | beam.MapTuple(lambda key, found: print(key, found.log_likelihood))
    a -1.75
    """


class LeaveOneOut(
    _Family,
    combine_fn=LeaveOneOutCombineFn,
    elements="log-likelihoods",
    aggregation=leave_one_out(1),
    from_tables=_LeaveOneOutFromTables,
):
    """Transforms that cross-validate observations (PSIS-LOO), by their log-likelihoods under posterior draws.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     draws = pipeline | beam.Create([("a", -1.1 - 0.1 * s) for s in range(30)])
    ...     found = draws | LeaveOneOut.PerKey(draws=30)
    ...     _ = found | beam.MapTuple(lambda key, found: print(key, round(found.pareto_k, 6)))
    a 0.104649
    """

    PerKeyFromTables: ClassVar[type[_LeaveOneOutFromTables]]


class ExactSum(
    _Family, combine_fn=ExactSumCombineFn, elements="numbers", aggregation=EXACT_SUM, from_tables=_ExactSumFromTables
):
    """Transforms that compute plain totals, to an ``ExactSumSummary``: count, sum, mean, variance, min and max.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([0.1] * 10) | ExactSum.Globally() | beam.Map(lambda found: print(found.sum))
    1.0
    """

    PerKeyFromTables: ClassVar[type[_ExactSumFromTables]]


class EffectiveSampleSize(
    _Family,
    combine_fn=EffectiveSampleSizeCombineFn,
    elements="log-weights",
    aggregation=EFFECTIVE_SAMPLE_SIZE,
):
    """Transforms that compute Kish's effective sample size of log-weights, ``(sum w)^2 / sum w^2``; 0 for none.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([-9.0, -9.0, -9.0]) | EffectiveSampleSize.Globally() | beam.Map(print)
    3.0
    """


class CrossEntropy(
    _Family,
    combine_fn=CrossEntropyCombineFn,
    elements="pairs (logit, target)",
    aggregation=CROSS_ENTROPY,
):
    """Transforms that compute the cross-entropy of examples whose classes lie in shards, in nats.

    An element is one class of an example, (logit, target): the target is 1 (or True) for the label, 0 for the others,
    or a probability. The mean over examples, exact: ``... | CrossEntropy.PerKey() | beam.Values() |
    LogLikelihood.Globally()``.

    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | beam.Create([("id", (0.0, 1)), ("id", (0.0, 0))]) | CrossEntropy.PerKey() | beam.Map(print)
    ('id', 0.6931471805599453)
    """
