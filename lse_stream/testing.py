"""Contract tests of a CombineFn: whatever way Beam takes, the output has the same bits.

For the tests of your own CombineFns, and of code that subclasses ours::

    from lse_stream.testing import check_combine_fn

    def test_my_combine_fn() -> None:
        check_combine_fn(MyCombineFn(), [1.0, 2.0, 3.0])

A runner may add elements in any order and merge accumulators in any tree; it may compact, encode and pickle them at any
point, begin a merge with any of them, and try all of that again. A CombineFn that breaks the contract of
``apache_beam.CombineFn`` in one of these is often right with one worker, and wrong with many.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that
from apache_beam.transforms.combiners import TupleCombineFn
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import GlobalWindows

from .beam.internals import threaded_runner
from .errors import DataError, message_in, one_line

# Workers of a pipeline, so that there are several bundles to merge.
WORKERS = 3


def bits(output: object) -> bytes:
    """The type and every bit of an output, as Beam's coder for primitives has them.

    A NaN equals itself then, and -0.0 is not 0.0.

    >>> bits(float("nan")) == bits(float("nan")), bits(0.0) == bits(-0.0), bits(1) == bits(1.0)
    (True, False, False)
    """
    encoded: bytes = FastPrimitivesCoder().encode(output)
    return encoded


def check_combine_fn(fn: beam.CombineFn, elements: Sequence[Any], rounds: int = 50) -> Any:
    """Checks a CombineFn by its methods, and in pipelines: ``check_accumulators`` and ``check_pipelines``.

    Args:
      fn: what is checked.
      elements: one or more inputs; where a key is hot and bundles are many, some dozen tell more than a few.
      rounds: how many random orders, splits and trees of merges are tried.

    Returns:
      The output, which was the same each time.

    Raises:
      AssertionError: an output, or an encoded accumulator, differs; or an accumulator that must not be changed was.

    >>> from lse_stream.beam import LogSumExpCombineFn
    >>> check_combine_fn(LogSumExpCombineFn(), [1.0, 2.0, 3.0, 4.0, 5.0])
    5.451914395937593
    """
    output = check_accumulators(fn, elements, rounds)
    check_pipelines(fn, elements, output)
    return output


def check_accumulators(fn: beam.CombineFn, elements: Sequence[Any], rounds: int = 50) -> Any:
    """Calls a CombineFn as a runner may: split anywhere, in any order, merged in any tree, compacted, pickled, coded.

    Also that merging changes no accumulator but the first, that nothing merges to an empty one, and, where the coder
    says that it is deterministic, that equal accumulators have equal bytes.

    Args, returns and raises as ``check_combine_fn``.

    >>> from lse_stream.beam import LogSumExpCombineFn
    >>> check_accumulators(LogSumExpCombineFn(), [0.0, 0.0])
    0.6931471805599453
    >>> from apache_beam.transforms.combiners import MeanCombineFn
    >>> check_accumulators(MeanCombineFn(), [0.1, 0.2, 0.3, 1e16, -1e16])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    AssertionError: expected 0.0, as of all elements in turn, found ...
    """
    rng = np.random.default_rng(0)
    coder, pickling = fn.get_accumulator_coder(), FastPrimitivesCoder()
    ways_to_travel = (
        lambda accumulator: accumulator,
        fn.compact,
        lambda accumulator: coder.decode(coder.encode(accumulator)),
        lambda accumulator: pickling.decode(pickling.encode(accumulator)),
    )

    def travel(accumulator: Any) -> Any:
        return ways_to_travel[rng.integers(len(ways_to_travel))](accumulator)

    sequential = fn.create_accumulator()
    for element in elements:
        sequential = fn.add_input(sequential, element)
    state = coder.encode(sequential)
    output = fn.extract_output(sequential)

    for _ in range(rounds):
        permuted = [elements[i] for i in rng.permutation(len(elements))]
        cuts = sorted(rng.integers(len(elements) + 1, size=rng.integers(8)))  # equal cuts leave empty pieces
        pieces = [permuted[start:end] for start, end in pairwise([0, *cuts, len(elements)])]
        accumulators = [travel(fn.add_inputs(fn.create_accumulator(), piece)) for piece in pieces]
        not_first = []
        merged = 0
        while len(accumulators) > 1 or not merged:
            accumulators = [accumulators[i] for i in rng.permutation(len(accumulators))]
            merged = int(rng.integers(1, 5))
            not_first += [(other, coder.encode(other)) for other in accumulators[1:merged]]
            as_iterable = (list, tuple, iter)[rng.integers(3)]
            accumulators[:merged] = [travel(fn.merge_accumulators(as_iterable(accumulators[:merged])))]
        _require(
            all(coder.encode(other) == before for other, before in not_first),
            "expected merge_accumulators to change the first accumulator alone, found another that it has changed",
        )
        found = fn.extract_output(accumulators[0])
        _require(bits(found) == bits(output), f"expected {output!r}, as of all elements in turn, found {found!r}")
        _require(
            not coder.is_deterministic() or coder.encode(accumulators[0]) == state,
            "expected one encoding of equal accumulators, as the coder is deterministic, found two",
        )

    empty = coder.encode(fn.create_accumulator())
    nothings: tuple[Iterable[Any], ...] = ([], iter(()))
    for nothing in nothings:
        found = coder.encode(fn.merge_accumulators(nothing))
        _require(found == empty, "expected an empty accumulator from a merge of none, found another")
    return output


def check_pipelines(fn: beam.CombineFn, elements: Sequence[Any], output: Any) -> None:
    """Runs a CombineFn in every shape of combine that Beam has, on its embedded runner with some workers.

    Globally, lifted and not, as there is a trigger; per key, lifted, with a fanout for hot keys, and of grouped values;
    globally with a fanout; and as one of a tuple.

    Args:
      fn: what is checked.
      elements: one or more inputs.
      output: what each has to give, as ``check_accumulators`` returns it.

    Raises:
      AssertionError: another output; the shape is named.

    >>> from lse_stream.beam import LogSumExpCombineFn
    >>> check_pipelines(LogSumExpCombineFn(), [0.0, 0.0], 0.6931471805599453)
    """
    try:
        _run_pipelines(fn, elements, output)
    except Exception as error:  # of whatever type the runner makes what a worker has raised
        raise AssertionError(message_in(str(error)) or one_line(error)) from error


def _run_pipelines(fn: beam.CombineFn, elements: Sequence[Any], output: Any) -> None:
    options = PipelineOptions(direct_num_workers=WORKERS)
    counting = Repeatedly(AfterCount(len(elements)))  # a trigger that counts forbids lifting
    with beam.Pipeline(threaded_runner(), options) as pipeline:
        values = pipeline | beam.Create(elements)
        keyed = values | beam.WithKeys("key")
        unlifted = beam.WindowInto(GlobalWindows(), trigger=counting, accumulation_mode=AccumulationMode.DISCARDING)
        combined = {
            "lifted": values | "Lifted" >> beam.CombineGlobally(fn),
            "not lifted": values | unlifted | "NotLifted" >> beam.CombineGlobally(fn).without_defaults(),
            "per key": keyed | beam.CombinePerKey(fn) | "PerKey" >> beam.Values(),
            "grouped": keyed | beam.GroupByKey() | beam.CombineValues(fn) | "Grouped" >> beam.Values(),
            "fanout": values | "Fanout" >> beam.CombineGlobally(fn).with_fanout(3),
            "hot keys": keyed | "HotKeys" >> beam.CombinePerKey(fn).with_hot_key_fanout(2) | "Hot" >> beam.Values(),
            "tuple": values
            | beam.Map(lambda element: (element, element))
            | beam.CombineGlobally(TupleCombineFn(fn, fn))
            | "Second" >> beam.Map(lambda outputs: outputs[1]),
        }
        expected = Counter((way, bits(output)) for way in combined)

        def check(found: list[tuple[str, bytes]]) -> None:
            more, fewer = Counter(found) - expected, expected - Counter(found)
            if wrong := sorted({way for way, _ in more + fewer}):
                raise DataError(f"expected {output!r} of every shape of combine, found another: {', '.join(wrong)}")

        named = [
            outputs | f"Bits of {way}" >> beam.Map(lambda output, way: (way, bits(output)), way)
            for way, outputs in combined.items()
        ]
        assert_that(named | beam.Flatten(), check)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
