"""Merges parts ahead of a GroupByKey, so that a streaming runner keeps few states and not every element."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import BoundedWindow, TimestampCombiner
from apache_beam.typehints.typehints import Tuple
from apache_beam.utils.windowed_value import WindowedValue

from .combine_fns import check_combine_fn, check_pair
from .exception_handling import HandlesExceptions
from .internals import ParDoInto, key_and_value_types, windowing_with

# How many keys and windows a bundle holds before it sends them on: an accumulator takes about 0.5 kB, all of them 64
# MB.
MAX_ACCUMULATORS = 1 << 17


def check_windowing(windowing: Any) -> None:
    """Raises ValueError for a windowing in which a reduction ahead of a grouping would show.

    That is one with timestamps of its output other than the window's end, or a trigger that counts elements, of which
    several are one by then.
    """
    if windowing.timestamp_combiner != TimestampCombiner.OUTPUT_AT_EOW:
        raise ValueError("expected the timestamp combiner OUTPUT_AT_EOW, Beam's default, found another")
    if _counts(windowing.triggerfn):
        raise ValueError(f"expected a trigger that does not count elements beyond 1, found {windowing.triggerfn}")


def _counts(trigger: Any) -> bool:
    if isinstance(trigger, AfterCount):
        return trigger.count != 1
    parts = [getattr(trigger, name, None) for name in ("early", "late", "underlying")]
    return any(_counts(part) for part in (*parts, *getattr(trigger, "triggers", ())) if part is not None)


class _Same(beam.DoFn):
    def __init__(self) -> None:
        beam.DoFn.__init__(self)  # a call of the inherited one would be one of a function without types

    def process(self, element: Any) -> Iterator[Any]:
        yield element


class PreAggregate(beam.PTransform[PCollection[tuple[Any, Any]], PCollection[tuple[Any, Any]]]):
    """(key, part) to (key, part), where the parts of a key that arrive within some seconds are merged to one, or few.

    Windows, trigger and lateness are those of the input again afterwards. Runners keep every element of a grouping
    until its trigger fires, accumulating ones until the window ends. Put this ahead of the grouping, and it keeps one
    part for each pane in which the key occurred, however many elements there were.

    Args:
      merge: merges one or more parts to few.
      every: whole seconds of processing time between the panes of a key.

    Raises:
      ValueError: not whole seconds, or none.

    It needs a runner that follows processing time, as engines do; of Beam's own, that of streams for tests.

    >>> from apache_beam.options.pipeline_options import PipelineOptions
    >>> from apache_beam.testing.test_stream import TestStream
    >>> stream = TestStream().add_elements([("a", 1), ("a", 2)]).advance_watermark_to_infinity()
    >>> with beam.Pipeline("BundleBasedDirectRunner", PipelineOptions(streaming=True)) as pipeline:
    ...     _ = pipeline | stream | PreAggregate(lambda numbers: [sum(numbers)], 10) | beam.Map(print)
    ('a', 3)
    """

    def __init__(self, merge: Callable[[Iterable[Any]], Iterable[Any]], every: int) -> None:
        super().__init__()
        if not (isinstance(every, int) and every > 0):  # Beam's trigger knows no fractions
            raise ValueError(f"pre_aggregate: expected a whole number of 1 or more, found {every}")
        self._merge = merge
        self._every = every

    def expand(self, pcoll: PCollection[tuple[Any, Any]]) -> PCollection[tuple[Any, Any]]:
        outer = pcoll.windowing
        # On time as well, so that the last part is not late for the grouping that follows.
        trigger = AfterWatermark(early=AfterProcessingTime(self._every), late=AfterCount(1))
        inner = windowing_with(outer, trigger, AccumulationMode.DISCARDING)
        held = ParDoInto(_Same(), inner, pcoll.element_type)
        merge = ParDoInto(_MergeParts(self._merge), outer, pcoll.element_type)
        merged: PCollection[tuple[Any, Any]] = pcoll | "Hold" >> held | "Group" >> beam.GroupByKey() | "Merge" >> merge
        return merged


class _MergeParts(beam.DoFn):
    def __init__(self, merge: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        self._merge = merge

    def process(self, element: tuple[Any, Iterable[Any]]) -> Iterator[tuple[Any, Any]]:
        key, parts = element
        held = list(parts)
        if held:  # a runner may fire a pane with nothing in it
            for part in self._merge(held):
                yield key, part


class PreCombinePerKey(HandlesExceptions, beam.PTransform[PCollection[tuple[Any, Any]], PCollection[tuple[Any, Any]]]):
    """PCollection of (key, element) to (key, accumulator), some per key, for ``MergeStates.PerKey`` to finish.

    The two together give what ``beam.CombinePerKey(combine_fn)`` gives, pane by pane, in any windows. Where a runner
    does not combine ahead of a stream's shuffle, as Flink, it keeps the elements until the window ends; with this ahead
    it keeps states.

    Args:
      combine_fn: such as ``LogSumExpCombineFn()``.
      pre_aggregate: whole seconds of processing time between the states of a key that reach the final grouping; None
        for one per bundle.
      max_states: how many keys and windows a bundle holds before it sends them on.

    Raises:
      ValueError: the input's windowing has timestamps of its output other than the window's end, or a trigger that
        counts elements beyond 1.

    >>> from lse_stream.beam import LogSumExpCombineFn, MergeStates
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     states = pipeline | beam.Create([("a", 0.0), ("a", 0.0)]) | PreCombinePerKey(LogSumExpCombineFn())
    ...     _ = states | MergeStates.PerKey(LogSumExpCombineFn()) | beam.Map(print)
    ('a', 0.6931471805599453)
    """

    def __init__(
        self, combine_fn: beam.CombineFn, *, pre_aggregate: int | None = None, max_states: int = MAX_ACCUMULATORS
    ) -> None:
        super().__init__()
        self._combine_fn = check_combine_fn(combine_fn)
        merge = partial(_merged, combine_fn)
        self._pre_aggregate = None if pre_aggregate is None else PreAggregate(merge, pre_aggregate)
        self._max_states = max_states

    def check(self) -> Callable[[Any], object]:
        return partial(check_pair, self._combine_fn)

    def expand(self, pcoll: PCollection[tuple[Any, Any]]) -> PCollection[tuple[Any, Any]]:
        check_windowing(pcoll.windowing)
        key_type, _ = key_and_value_types(pcoll.element_type)
        state_type = type(self._combine_fn.create_accumulator())
        states: PCollection[tuple[Any, Any]] = pcoll | "CombineBundle" >> beam.ParDo(
            _CombineBundle(self._combine_fn, self._max_states)
        ).with_output_types(Tuple[key_type, state_type])
        return states if self._pre_aggregate is None else states | "PreAggregate" >> self._pre_aggregate


def _merged(combine_fn: beam.CombineFn, states: Iterable[Any]) -> list[Any]:
    return [combine_fn.merge_accumulators(states)]


class _CombineBundle(beam.DoFn):
    """(key, element) to (key, accumulator), one per key and window of the bundle."""

    def __init__(self, combine_fn: beam.CombineFn, max_states: int) -> None:
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
