"""LogSumExpCombineFn in every way that Beam runs it."""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.coders.typecoders import registry
from apache_beam.pvalue import Row
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.userstate import CombiningValueStateSpec
from apache_beam.typehints.decorators import TypeCheckError

from lse_stream.accumulators import (
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    ExactSumAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
)
from lse_stream.beam.coders import AccumulatorCoder
from lse_stream.beam.combine_fns import (
    CrossEntropyCombineFn,
    EffectiveSampleSizeCombineFn,
    ExactSumCombineFn,
    LogLikelihoodCombineFn,
    LogMeanExpCombineFn,
    LogSumExpCombineFn,
    MergeStatesCombineFn,
    ToStateCombineFn,
    WeightedLogSumExpCombineFn,
)
from lse_stream.beam.pre_aggregate import PreCombinePerKey
from lse_stream.testing import bits, check_accumulators, check_pipelines


def logsumexp(values: Any) -> float:
    return LogSumExpAccumulator(values).value()


SPREAD = np.random.default_rng(7).normal(0, 300, 200).tolist()


@pytest.mark.parametrize(
    "elements",
    [[], [1.5], SPREAD, [0.25] * 40, [*SPREAD, math.inf], [*SPREAD, math.nan], [-math.inf] * 3, [-1e300, 5e-324, -0.0]],
    ids=["nothing", "one", "spread", "ties", "+inf", "NaN", "all -inf", "extremes"],
)
def test_every_order_of_calls_gives_the_same_bits(elements: list[float]) -> None:
    assert bits(check_accumulators(LogSumExpCombineFn(), elements)) == bits(logsumexp(elements))


@pytest.mark.parametrize("elements", [[1.5], SPREAD, [*SPREAD, -math.inf, math.nan]], ids=["one", "spread", "NaN"])
def test_every_shape_of_combine_gives_the_same_bits(elements: list[float]) -> None:
    check_pipelines(LogSumExpCombineFn(), elements, logsumexp(elements))


def test_numbers_of_every_type_combine() -> None:
    elements: list[Any] = [3, 2.5, np.float32(0.1), np.float16(-2), np.int64(-7), np.uint8(200)]
    output = logsumexp([float(element) for element in elements])
    assert type(output) is float
    assert bits(check_accumulators(LogSumExpCombineFn(), elements)) == bits(output)
    check_pipelines(LogSumExpCombineFn(), elements, output)


@pytest.mark.parametrize(("element", "message"), [(None, "found None: filter nulls"), ("1.0", "str")])
def test_an_element_that_is_no_number_is_an_error(element: Any, message: str) -> None:
    fn = LogSumExpCombineFn()
    with pytest.raises(TypeError, match=message):
        fn.add_input(fn.create_accumulator(), element)


def test_a_collection_of_another_type_is_refused_before_the_run() -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    texts = pipeline | beam.Create(["1.0", "2.0"])
    with pytest.raises(TypeCheckError, match="requires PCollections of type"):
        texts | beam.CombineGlobally(LogSumExpCombineFn())


class Sighting(NamedTuple):
    place: str
    level: float
    depth: int


def test_aggregate_field() -> None:
    sightings = [Sighting("a", 1.0, 10), Sighting("b", 2.0, 20), Sighting("a", 3.0, 30)]
    expected = [("a", logsumexp([1.0, 3.0]), logsumexp([10, 30])), ("b", 2.0, 20.0)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        tuples = pipeline | beam.Create(sightings).with_output_types(Sighting)
        rows = tuples | beam.Map(lambda sighting: Row(**sighting._asdict()))
        for name, elements in (("Tuples", tuples), ("Rows", rows)):
            grouped = (
                elements
                | name
                >> beam.GroupBy("place")
                .aggregate_field("level", LogSumExpCombineFn(), "level")
                .aggregate_field("depth", LogSumExpCombineFn(), "depth")
                | f"{name}: Plain" >> beam.Map(tuple)
            )
            assert_that(grouped, equal_to(expected), f"{name}: Check")


def test_coder() -> None:
    accumulator = LogSumExpAccumulator()
    accumulator.update(np.array(SPREAD))
    coder = registry.get_coder(LogSumExpAccumulator)
    assert coder == LogSumExpCombineFn().get_accumulator_coder() == AccumulatorCoder(LogSumExpAccumulator)
    assert coder.is_deterministic()
    assert coder.encode(accumulator) == accumulator.to_bytes()
    assert coder.decode(coder.encode(accumulator)) == accumulator
    assert coder.get_impl().decode_nested(coder.get_impl().encode_nested(accumulator)) == accumulator
    with pytest.raises(ValueError, match=r"expected .* found"):
        coder.decode(accumulator.to_bytes()[:-1])


def test_accumulators_are_small_where_beam_pickles_them() -> None:
    # Under hot-key fanout, in a TupleCombineFn and with curried arguments the accumulator coder is not used.
    accumulator = LogSumExpAccumulator()
    accumulator.update(np.array(SPREAD))
    assert len(pickle.dumps(accumulator)) <= 200


class _Changed(LogSumExpCombineFn):
    """LogSumExpCombineFn with one method replaced, for breaking it."""

    def __init__(self, name: str, method: Callable[..., Any]) -> None:
        super().__init__()
        setattr(self, name, method)


def _merge_into_last(accumulators: Iterable[LogSumExpAccumulator]) -> LogSumExpAccumulator:
    *others, last = list(accumulators) or [LogSumExpAccumulator()]
    for other in others:
        last.merge(other)
    return last


def _merge_first_two(accumulators: Iterable[LogSumExpAccumulator]) -> LogSumExpAccumulator:
    first, *others = [*accumulators, LogSumExpAccumulator()]
    first.merge(others[0])
    return first


def _merge_some(accumulators: Iterable[LogSumExpAccumulator]) -> LogSumExpAccumulator:
    first, *others = accumulators
    for other in others:
        first.merge(other)
    return first


def _merge_sequence(accumulators: Any) -> LogSumExpAccumulator:
    return _merge_first_two(accumulators) if len(accumulators) < 2 else _merge_some(accumulators)


def _add_rounded(accumulator: LogSumExpAccumulator, element: float) -> LogSumExpAccumulator:
    rounded = LogSumExpAccumulator()
    accumulator.add(element)
    rounded.add(accumulator.value())
    return rounded


def test_the_contract_of_pipelines_catches() -> None:
    # Ties, since the largest alone of numbers far apart would give the same.
    broken = _Changed("merge_accumulators", _merge_first_two)
    with pytest.raises(AssertionError, match=r"^expected .* of every shape of combine, found another: .*\blifted\b"):
        check_pipelines(broken, [1.0] * 30, logsumexp([1.0] * 30))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("merge_accumulators", _merge_into_last),
        ("merge_accumulators", _merge_first_two),
        ("merge_accumulators", _merge_some),
        ("merge_accumulators", _merge_sequence),
        ("compact", lambda _: LogSumExpAccumulator()),
        ("add_input", _add_rounded),
    ],
    ids=["changes another", "loses some", "needs one", "needs a length", "compact loses", "float pair"],
)
def test_the_contract_catches(name: str, method: Callable[..., Any]) -> None:
    with pytest.raises((AssertionError, TypeError, ValueError)):
        check_accumulators(_Changed(name, method), [element / 100 for element in SPREAD[:30]])


# --- the other aggregations -------------------------------------------------------------------------------------------

PAIRS = [(x, w) for x, w in zip(SPREAD, np.random.default_rng(8).normal(size=200).tolist(), strict=True)]
CLASSES = [(x, float(i == 7)) for i, x in enumerate(SPREAD)]
OF_NUMBERS: list[tuple[beam.CombineFn, Callable[[list[float]], Any]]] = [
    (LogMeanExpCombineFn(), lambda x: LogSumExpAccumulator(x).logmeanexp()),
    (LogSumExpCombineFn("decibel"), lambda x: LogSumExpAccumulator(x, scale="decibel").value()),
    (LogMeanExpCombineFn("base 4"), lambda x: LogSumExpAccumulator(x, scale="base 4").logmeanexp()),
    (LogLikelihoodCombineFn(), lambda x: LogLikelihoodAccumulator(x).value()),
    (EffectiveSampleSizeCombineFn(), lambda x: EffectiveSampleSizeAccumulator(x).value()),
    (ExactSumCombineFn(), lambda x: ExactSumAccumulator(x).value()),
]
OF_PAIRS: list[tuple[beam.CombineFn, list[tuple[float, float]], Callable[..., Any]]] = [
    (
        WeightedLogSumExpCombineFn(return_sign=True),
        PAIRS,
        lambda x, w: (WeightedLogSumExpAccumulator(x, w).log_abs_sum(), WeightedLogSumExpAccumulator(x, w).sign()),
    ),
    (
        WeightedLogSumExpCombineFn("magnitude"),
        [(x, abs(w)) for x, w in PAIRS],
        lambda x, w: WeightedLogSumExpAccumulator(x, w, scale="magnitude").value(),
    ),
    (CrossEntropyCombineFn(), CLASSES, lambda x, t: CrossEntropyAccumulator(x, t).value()),
]


def fn_id(value: object) -> str:
    return type(value).__name__ if isinstance(value, beam.CombineFn) else ""


@pytest.mark.parametrize(("fn", "expected"), OF_NUMBERS, ids=fn_id)
@pytest.mark.parametrize("elements", [[], [1.5], SPREAD, [*SPREAD, math.inf, -math.inf], [*SPREAD, math.nan]])
def test_other_kinds_of_numbers_give_the_same_bits_in_every_order(
    fn: beam.CombineFn, expected: Callable[[list[float]], Any], elements: list[float]
) -> None:
    assert bits(check_accumulators(fn, elements, rounds=15)) == bits(expected(elements))


@pytest.mark.parametrize(("fn", "elements", "expected"), OF_PAIRS, ids=fn_id)
def test_kinds_of_pairs_give_the_same_bits_in_every_order(
    fn: beam.CombineFn, elements: list[tuple[float, float]], expected: Callable[..., Any]
) -> None:
    assert bits(check_accumulators(fn, elements, rounds=15)) == bits(expected(*zip(*elements, strict=True)))


@pytest.mark.engine  # of many pipelines: ten seconds
@pytest.mark.parametrize("case", range(len(OF_NUMBERS) + len(OF_PAIRS)))
def test_other_aggregations_give_the_same_bits_in_every_shape_of_combine(case: int) -> None:
    if case < len(OF_NUMBERS):
        fn, of_numbers = OF_NUMBERS[case]
        check_pipelines(fn, SPREAD, of_numbers(SPREAD))
    else:
        fn, pairs, of_pairs = OF_PAIRS[case - len(OF_NUMBERS)]
        check_pipelines(fn, pairs, of_pairs(*zip(*pairs, strict=True)))


def test_a_negative_sum_is_nan_without_its_sign() -> None:
    fn = WeightedLogSumExpCombineFn()
    found = fn.extract_output(fn.add_input(fn.create_accumulator(), (1.0, -1.0)))
    assert bits(found) == bits(math.nan)
    assert fn.extract_output(fn.add_input(fn.create_accumulator(), (1.0, 2))) == pytest.approx(1 + math.log(2))


@pytest.mark.parametrize("element", [None, 1.0, (1.0, None), (1.0, "2"), (1.0, 2.0, 3.0), (1.0, math.nan)])
def test_what_is_no_pair_is_an_error(element: Any) -> None:
    fn = WeightedLogSumExpCombineFn()
    with pytest.raises(
        (TypeError, ValueError), match=r"expected a pair of numbers|expected a real number|finite weights"
    ):
        fn.add_input(fn.create_accumulator(), element)


def test_a_scale_that_is_none_is_refused_before_the_run() -> None:
    with pytest.raises(ValueError, match="scale: expected 'natural'"):
        LogSumExpCombineFn("furlong")


TOTAL = CombiningValueStateSpec("total", combine_fn=ToStateCombineFn(LogSumExpCombineFn()))
TOTAL_PARAM = beam.DoFn.StateParam(TOTAL)


class _Running(beam.DoFn):
    """(key, number) to the counts of the state of the key before and after, both looked at afterwards."""

    def __init__(self) -> None:
        beam.DoFn.__init__(self)  # a call of the inherited one would be one of a function without types

    def process(self, element: tuple[str, float], total: Any = TOTAL_PARAM) -> Iterator[tuple[int, int]]:
        before = total.read()
        total.add(element[1])
        after = total.read()
        yield before.count, after.count


def test_states_that_are_read_stay_as_they_were_read() -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        numbers = pipeline | beam.Create([("a", float(i)) for i in range(6)])
        assert_that(numbers | beam.ParDo(_Running()), equal_to([(i, i + 1) for i in range(6)]))


@pytest.mark.parametrize("make", [ToStateCombineFn, MergeStatesCombineFn, PreCombinePerKey])
@pytest.mark.parametrize("wrong", [sum, LogSumExpCombineFn, 5])
def test_what_is_no_combine_fn_is_refused(make: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a CombineFn, such as LogSumExpCombineFn\(\), found"):
        make(wrong)
