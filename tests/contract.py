"""The contract of every CombineFn: whatever way Beam takes, the output has the same bits."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from apache_beam.transforms.combiners import TupleCombineFn
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import GlobalWindows


def bits(output: object) -> bytes:
    """The type and every bit of an output: here a NaN equals itself and -0.0 is not 0.0."""
    encoded: bytes = FastPrimitivesCoder().encode(output)
    return encoded


def check_accumulators(fn: beam.CombineFn, elements: Sequence[Any], rounds: int = 50) -> Any:
    """Calls ``fn`` as a runner may: split anywhere, in any order, merged in any tree, compacted, pickled and coded.

    Returns the output, which is always the same.
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
        assert all(coder.encode(other) == before for other, before in not_first), "changed one that is not the first"
        if coder.is_deterministic():
            assert coder.encode(accumulators[0]) == state
        assert bits(fn.extract_output(accumulators[0])) == bits(output)

    empty = fn.create_accumulator()
    nothings: tuple[Iterable[Any], ...] = ([], iter(()))
    for nothing in nothings:
        assert coder.encode(fn.merge_accumulators(nothing)) == coder.encode(empty)
    return output


def check_pipelines(fn: beam.CombineFn, elements: Sequence[Any], output: Any) -> None:
    """Runs ``fn`` over one element or more in every shape of combine that Beam has; each must give this output."""
    # Threads, so that there are several bundles to merge. A trigger that counts elements forbids lifting.
    options = PipelineOptions(direct_running_mode="multi_threading", direct_num_workers=3)
    counting = Repeatedly(AfterCount(len(elements)))
    with beam.Pipeline(FnApiRunner(), options) as pipeline:
        values = pipeline | beam.Create(elements)
        keyed = values | beam.WithKeys("key")
        unlifted = beam.WindowInto(GlobalWindows(), trigger=counting, accumulation_mode=AccumulationMode.DISCARDING)
        combined = {
            "lifted": values | "Lifted" >> beam.CombineGlobally(fn),
            "not lifted": values | unlifted | "NotLifted" >> beam.CombineGlobally(fn).without_defaults(),
            "grouped": keyed | beam.GroupByKey() | beam.CombineValues(fn) | "Grouped" >> beam.Values(),
            "fanout": values | "Fanout" >> beam.CombineGlobally(fn).with_fanout(3),
            "hot keys": keyed | "HotKeys" >> beam.CombinePerKey(fn).with_hot_key_fanout(2) | "Hot" >> beam.Values(),
            "tuple": values
            | beam.Map(lambda element: (element, element))
            | beam.CombineGlobally(TupleCombineFn(fn, fn))
            | "Second" >> beam.Map(lambda outputs: outputs[1]),
        }
        expected = sorted((way, bits(output)) for way in combined)

        def check(found: list[tuple[str, bytes]]) -> None:
            assert sorted(found) == expected, f"expected {expected}, found {sorted(found)}"

        named = [
            outputs | f"Bits of {way}" >> beam.Map(lambda output, way: (way, bits(output)), way)
            for way, outputs in combined.items()
        ]
        assert_that(named | beam.Flatten(), check)
