"""The laws of every aggregation and scale: bytes, merges, columns, records, errors."""

import json
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import EDGES, any_float, random_values
from hypothesis import given, settings
from hypothesis import strategies as st
from model import sealed

from lse_stream import StateError, kernel_name
from lse_stream.accumulators import (
    Accumulator,
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    ExactSumAccumulator,
    LeaveOneOutAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
)
from lse_stream.scales import NATURAL
from lse_stream.state_column import states_from_arrow
from lse_stream.states.aggregations import AGGREGATIONS, LOG_LIKELIHOOD
from lse_stream.states.arrays import StateArray
from lse_stream.states.codec import encode_states
from lse_stream.table_functions import finalize, group_states, log_softmax_of_keys, merge_states, sort_by_keys

Row = tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """An aggregation on a scale; with digits after the point its rows are integers, in units of the last one."""

    make: Callable[..., Any]
    accumulator: type[Accumulator]
    scale: str = "natural"
    digits: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.accumulator.AGGREGATION.inputs

    def of(self, rows: Sequence[Row]) -> Any:
        return self.make(*self.columns(rows))

    def columns(self, rows: Sequence[Row]) -> list[Any]:
        if self.digits is None:
            return list(np.array(rows, np.float64).reshape(len(rows), len(self.inputs)).T)
        return [pa.array([self.row(row)[0] for row in rows], pa.decimal128(38, self.digits))]

    def row(self, row: Row) -> tuple[Any, ...]:
        return row if self.digits is None else (Decimal(f"{row[0]}e-{self.digits}"),)


def scaled(accumulator: type[Any], scale: str) -> Case:
    return Case(lambda *columns: accumulator(*columns, scale=scale), accumulator, scale)


CASES = {
    **{
        f"logsumexp {scale}": scaled(LogSumExpAccumulator, scale)
        for scale in ("natural", "base 2.0", "base 1.0000000000000002", "temperature 1e+30", "decibel", "magnitude")
    },
    "weighted": scaled(WeightedLogSumExpAccumulator, "natural"),
    "weighted base 4.0": scaled(WeightedLogSumExpAccumulator, "base 4.0"),
    "weighted magnitude": scaled(WeightedLogSumExpAccumulator, "magnitude"),
    "log-likelihood": Case(LogLikelihoodAccumulator, LogLikelihoodAccumulator),
    "effective sample size": Case(EffectiveSampleSizeAccumulator, EffectiveSampleSizeAccumulator),
    "cross-entropy": Case(CrossEntropyAccumulator, CrossEntropyAccumulator),
    "leave-one-out": Case(lambda *columns: LeaveOneOutAccumulator(*columns, draws=20), LeaveOneOutAccumulator),
    "exact sum": Case(ExactSumAccumulator, ExactSumAccumulator),
    "exact sum of decimals": Case(partial(ExactSumAccumulator, digits=2), ExactSumAccumulator, digits=2),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

weights = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 2.2e-308, 1.7976931348623157e308, -1.7976931348623157e308]),
    st.floats(allow_nan=False, allow_infinity=False),
)


# So few digits that the sum of some rows is a decimal of 128 bits.
BOUND = 10**36
integers = st.one_of(
    *(st.integers(-bound, bound) for bound in (9, BOUND)),
    st.sampled_from(
        [0, *(sign * (2**bits + more) for sign in (1, -1) for bits in (53, 63, 64, 106) for more in (-1, 0, 1))]
    ),
)


def rows_of(case: Case, max_size: int = 20) -> st.SearchStrategy[list[Row]]:
    if case.digits is not None:
        return st.lists(st.tuples(integers), max_size=max_size)
    second = {"weight": weights, "target": weights.map(abs)}
    return st.lists(st.tuples(any_float, *(second[name] for name in case.inputs[1:])), max_size=max_size)


def random_rows(case: Case, rng: np.random.Generator, n: int) -> list[Row]:
    if case.digits is not None:
        bits = rng.choice([3, 53, 54, 64, 107, 119], n)
        words = rng.integers(-(2**62), 2**62, (n, 2)).tolist()
        return [((high << 58 | abs(low)) >> (119 - int(some)),) for (high, low), some in zip(words, bits, strict=True)]
    columns = [random_values(rng, n)]
    for _ in case.inputs[1:]:
        w = rng.normal(size=n) * 10.0 ** rng.integers(-300, 300) if rng.random() < 0.3 else rng.integers(-2, 3, n) * 1.0
        columns.append(w if case.inputs[1] == "weight" else np.abs(w))
    return list(zip(*(column.tolist() for column in columns), strict=True))


# --- laws -------------------------------------------------------------------------------------------------------------


@EVERY_CASE
@given(st.data())
@settings(max_examples=60)
def test_any_order_split_and_tree_of_merges_gives_the_same_bytes(case: Case, data: st.DataObject) -> None:
    rows = data.draw(rows_of(case))
    whole = case.of(rows)
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    parts: list[Any] = []
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        part = case.make()
        for row in shuffled[start:end]:
            part.add(*case.row(row))
        parts.append(part if len(parts) % 2 else case.of(shuffled[start:end]))
    while len(parts) > 1:
        one, other = parts.pop(data.draw(st.integers(0, len(parts) - 1))), parts[0]
        before = one.to_bytes()
        other.merge(one)
        assert one.to_bytes() == before
    assert parts[0].to_bytes() == whole.to_bytes()
    for name in case.accumulator.AGGREGATION.results:
        if name != "cross_entropy":
            assert np.float64(parts[0].result(name)).tobytes() == np.float64(whole.result(name)).tobytes()


@EVERY_CASE
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("seed", range(6))
def test_columns_have_the_bytes_of_single_states_with_every_kernel(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, groups = int(10 ** rng.uniform(0, 3.3)), int(10 ** rng.uniform(0, 1.5))
    rows = random_rows(case, rng, n)
    keys = rng.integers(0, groups, n)
    names = list(case.inputs)
    table = pa.table({"k": keys, **dict(zip(names, case.columns(rows), strict=True))})
    arguments: dict[str, Any] = {
        "value": names,
        "aggregation": case.make().states().aggregation.name,
        "scale": case.scale,
    }
    expected = {int(key): case.of([row for row, k in zip(rows, keys, strict=True) if k == key]) for key in set(keys)}
    states = group_states(table, ["k"], **arguments)
    assert as_bytes(states) == {key: state.to_bytes() for key, state in expected.items()}
    cut = int(rng.integers(0, n + 1))
    halves = [group_states(part, ["k"], **arguments) for part in (table[cut:], table[:cut])]
    assert as_bytes(merge_states(halves, ["k"])) == as_bytes(states)
    [total] = merge_states(halves, [])["state"].to_pylist()
    assert total == case.of(rows).to_bytes()


def as_bytes(states: pa.Table) -> dict[int, bytes]:
    return dict(zip(states["k"].to_pylist(), states["state"].to_pylist(), strict=True))


@EVERY_CASE
@given(st.data())
@settings(max_examples=30)
def test_bytes_pickles_and_columns_give_the_state_back(case: Case, data: st.DataObject) -> None:
    state = case.of(data.draw(rows_of(case)))
    record = state.to_bytes()
    assert len(record) % 8 == 0
    assert case.accumulator.from_bytes(record) == state == state.copy() == pickle.loads(pickle.dumps(state))
    for storage in (pa.binary(), pa.large_binary()):
        found, _ = states_from_arrow(pa.array([record, None, record], storage))
        assert encode_states(found)[0].tobytes() == record + case.make().to_bytes() + record


@EVERY_CASE
@pytest.mark.usefixtures("kernel")
def test_a_damaged_record_is_refused(case: Case) -> None:
    """One wrong bit; any burst of them within 32, inside or outside the check; or anything else."""
    rng = np.random.default_rng(8)
    some = 10 if kernel_name() == "numpy" else 1  # which takes long for a single record
    for record in records_of(case, rng):
        damages = [1 << bit for bit in range(0, 8 * len(record), 3 * some - 2)]
        for _ in range(60 // some):
            first, bits = [(0, 32), (32, 32), (64, 8 * len(record) - 64)][rng.integers(3)]
            length = int(rng.integers(2, 33))
            at = first + int(rng.integers(bits - length + 1))
            damages.append((1 | 1 << length - 1 | int(rng.integers(1 << 32)) % (1 << length)) << at)
        damages += [int.from_bytes(rng.bytes(len(record)), "little") for _ in range(30 // some)]
        for damage in damages:
            raw = (int.from_bytes(record, "little") ^ damage).to_bytes(len(record), "little")
            with pytest.raises(StateError):
                case.accumulator.from_bytes(raw)
        for size in range(0, len(record), 7 * some):
            with pytest.raises(StateError):
                case.accumulator.from_bytes(record[:size])
        with pytest.raises(StateError):
            case.accumulator.from_bytes(record + rng.bytes(8))


def records_of(case: Case, rng: np.random.Generator) -> list[bytes]:
    good = [case.of(random_rows(case, rng, n)).to_bytes() for n in (0, 1, 2, 50)]
    return good + [
        case.of([(x, *(1.0 for _ in case.inputs[1:]))] * 2).to_bytes()
        for x in ((1e300, math.inf, math.nan, 3.5) if case.digits is None else (BOUND, 35))
    ]


@pytest.mark.fuzz
@EVERY_CASE
@pytest.mark.usefixtures("kernel")
def test_a_million_damages_are_refused(case: Case) -> None:
    rng = np.random.default_rng(9)
    good = records_of(case, rng)
    for record in good * (1_000_000 // 8 + 1):
        raw = bytearray(record)
        at = int(rng.integers(len(raw)))
        raw[at : at + int(rng.integers(1, 12))] = rng.bytes(int(rng.integers(1, 12)))
        if raw != record:
            with pytest.raises(StateError):
                case.accumulator.from_bytes(bytes(raw))


# --- golden records ---------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parents[1] / "golden" / "aggregations_v2.json"


def golden_rows() -> dict[str, tuple[Case, list[Row]]]:
    inputs = {}
    for name, case in CASES.items():
        for seed in range(8):
            rows = random_rows(case, np.random.default_rng(seed), 20)
            inputs[f"{name}, random {seed}"] = (case, rows)
        edges = (*EDGES[:12], 1e300, math.inf, math.nan, -math.inf)
        for x in edges if case.digits is None else (0, 1, -1, 2**53 - 1, 2**53, -(2**53), 2**106, -(2**106), BOUND):
            x = float(x) if case.digits is None else x
            inputs[f"{name}, {x!r}"] = (case, [(x, *(0.5 for _ in case.inputs[1:]))])
        inputs[f"{name}, nothing"] = (case, [])
    return inputs


def text_of(x: float) -> str:
    return x.hex() if isinstance(x, float) else str(x)


def write_golden() -> None:
    """Run once for a new record version: from the first release on, files of old ones stay."""
    entries = [
        {"name": name, "rows": [list(map(text_of, row)) for row in rows], "record": case.of(rows).to_bytes().hex()}
        for name, (case, rows) in golden_rows().items()
    ]
    GOLDEN.write_text("[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n", encoding="ascii")


@pytest.mark.usefixtures("kernel")
def test_golden_records() -> None:
    entries = json.loads(GOLDEN.read_text(encoding="ascii"))
    cases = golden_rows()
    assert [entry["name"] for entry in entries] == list(cases)
    for entry in entries:
        case, _ = cases[entry["name"]]
        read = float.fromhex if case.digits is None else int
        rows = [tuple(map(read, row)) for row in entry["rows"]]
        assert case.of(rows).to_bytes().hex() == entry["record"], entry["name"]
        assert case.accumulator.from_bytes(bytes.fromhex(entry["record"])) == case.of(rows)


def test_log_sum_exp_on_the_natural_scale_has_one_record() -> None:
    x = np.random.default_rng(0).normal(size=100)
    assert LogSumExpAccumulator(x, scale="temperature 1").to_bytes() == LogSumExpAccumulator(x).to_bytes()


# --- errors -----------------------------------------------------------------------------------------------------------


def test_states_of_two_aggregations_or_scales_do_not_merge() -> None:
    decibel, magnitude = (LogSumExpAccumulator([1.0], scale=s) for s in ("decibel", "magnitude"))
    with pytest.raises(StateError, match=r"^states of two scales do not merge: decibel and magnitude$"):
        decibel.merge(magnitude)
    with pytest.raises(
        StateError, match=r"^states of two aggregations do not merge: log_likelihood and effective_sample_size$"
    ):
        LogLikelihoodAccumulator([1.0]).merge(EffectiveSampleSizeAccumulator([1.0]))
    with pytest.raises(TypeError, match="expected a state to merge, found float"):
        decibel.merge(1.0)  # type: ignore[arg-type]
    table = pa.table({"k": [1], "x": [1.0], "w": [2.0]})
    ours = group_states(table, ["k"], "x")
    for other, message in (
        (group_states(table, ["k"], "x", scale="log2"), "states of two scales do not merge: natural and base 2.0"),
        (
            group_states(table, ["k"], ["x", "w"], aggregation="weighted_logsumexp"),
            "states of two aggregations do not merge: logsumexp and weighted_logsumexp",
        ),
    ):
        with pytest.raises(StateError, match=f"^table 1, {message}"):
            merge_states([ours, other], ["k"])
        mixed = pa.chunked_array([table["state"].cast(pa.binary()).chunk(0) for table in (ours, other)])
        with pytest.raises(StateError, match=r"^column 'state', row 1: expected version 2, .* found version 2, "):
            states_from_arrow(mixed)


def test_from_bytes_refuses_another_kind() -> None:
    with pytest.raises(StateError, match="expected aggregation log_likelihood, found effective_sample_size"):
        LogLikelihoodAccumulator.from_bytes(EffectiveSampleSizeAccumulator([1.0]).to_bytes())


def test_the_second_sum_of_an_effective_sample_size_belongs_to_the_first() -> None:
    one, other = (EffectiveSampleSizeAccumulator([x]).to_bytes() for x in (1.0, 1.5))
    with pytest.raises(StateError, match=r"expected a max of 2.0 of twice the values, found 3.0"):
        EffectiveSampleSizeAccumulator.from_bytes(sealed(one[:88] + other[88:]))


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_and_changes_nothing(weight: float) -> None:
    state = WeightedLogSumExpAccumulator([1.0], [2.0])
    before = state.to_bytes()
    calls: list[Callable[[], None]] = [lambda: state.add(1.0, weight), lambda: state.update([1.0, 2.0], [1.0, weight])]
    for call in calls:
        with pytest.raises(ValueError, match=f"^weight: expected finite weights, found {weight}$"):
            call()
    assert state.to_bytes() == before
    table = pa.table({"x": [1.0], "w": [weight]})
    with pytest.raises(ValueError, match=f"^column 'w': expected finite weights, found {weight}$"):
        group_states(table, [], ["x", "w"], aggregation="weighted_logsumexp")


def test_rows_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^target: expected finite targets of 0 or more, found -1.0$"):
        CrossEntropyAccumulator().add(1.0, -1.0)
    with pytest.raises(ValueError, match="expected columns of one length, found value 2, weight 1"):
        WeightedLogSumExpAccumulator([1.0, 2.0], [1.0])
    with pytest.raises(TypeError, match="expected value and weight, found 1 columns"):
        WeightedLogSumExpAccumulator([1.0])
    with pytest.raises(ValueError, match=r"value: expected an array of 1 dimension, found shape \(1, 2\)"):
        LogLikelihoodAccumulator(np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"expected targets that sum to 1, such as one label, found 2.0"):
        CrossEntropyAccumulator([1.0, 2.0], [1.0, 1.0]).value()
    with pytest.raises(ValueError, match="scale: expected natural, the one of log_likelihood, found decibel"):
        LogLikelihoodAccumulator(scale="decibel")
    table = pa.table({"k": [1], "x": [1.0]})
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"aggregation": "mean"}, "aggregation: expected logsumexp, .*, found 'mean'"),
        (
            {"aggregation": "weighted_logsumexp"},
            r"value: expected 2 names for weighted_logsumexp \(value, weight\), found",
        ),
        ({"aggregation": "effective_sample_size", "scale": "log2"}, "scale: expected natural, .* found base 2.0"),
        ({"scale": "furlong"}, "scale: expected 'natural', .*, found 'furlong'"),
    ]
    for arguments, message in mistakes:
        with pytest.raises(ValueError, match=message):
            group_states(table, ["k"], "x", **arguments)
    with pytest.raises(ValueError, match=r"results: expected some of logsumexp, .*, found 'mode'"):
        finalize(group_states(table, ["k"], "x"), results=["mode"])


def test_rows_with_a_null_in_any_column_are_left_out_or_make_the_key_null() -> None:
    table = pa.table({"k": [1, 1, 2, 3], "x": [1.0, None, 2.0, 3.0], "w": [1.0, 1.0, None, 2.0]})
    arguments: dict[str, Any] = {"value": ["x", "w"], "aggregation": "weighted_logsumexp"}
    found = finalize(sort_by_keys(group_states(table, ["k"], **arguments), ["k"]))
    assert found["count"].to_pylist() == [1, 0, 1]
    assert found["weight"].to_pylist() == [1.0, 0.0, 2.0]
    found = finalize(sort_by_keys(group_states(table, ["k"], **arguments, skip_nulls=False), ["k"]))
    assert found["count"].to_pylist() == [None, None, 1]
    masked = WeightedLogSumExpAccumulator(np.ma.array([1.0, 2.0], mask=[False, True]), pa.array([3.0, 4.0]))
    assert masked == WeightedLogSumExpAccumulator([1.0], [3.0])


def test_targets_may_be_booleans_and_other_inputs_may_not() -> None:
    table = pa.table({"x": [1.0, 2.0], "label": [True, False]})
    states = group_states(table, [], ["x", "label"], aggregation="cross_entropy")
    assert states["state"].to_pylist() == [CrossEntropyAccumulator([1.0, 2.0], [1.0, 0.0]).to_bytes()]
    with pytest.raises(TypeError, match=r"column 'label': .* found Arrow type bool"):
        group_states(table, [], ["x", "label"], aggregation="weighted_logsumexp")


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_every_kind_finalizes_its_columns_and_all_its_results(kind: str) -> None:
    names = ["x", "t"][: len(AGGREGATIONS[kind].inputs)]
    table = pa.table({"k": [1, 1, 2], "x": [0.5, 1.5, 2.5], "t": [1.0, 0.0, 1.0]})
    states = sort_by_keys(group_states(table, ["k"], names, aggregation=kind), ["k"])
    assert finalize(states).column_names == ["k", *AGGREGATIONS[kind].columns]
    every = finalize(states, results=list(AGGREGATIONS[kind].results))
    assert every["count"].type == pa.int64()
    assert all(every[name].type == pa.float64() for name in AGGREGATIONS[kind].results if name != "count")
    own = next(iter(AGGREGATIONS[kind].results))
    assert finalize(states, min_count=2)[own].null_count == 1
    empty = finalize(group_states(table.slice(0, 0), ["k"], names, aggregation=kind))
    assert empty.num_rows == 0
    assert empty.column_names == ["k", *AGGREGATIONS[kind].columns]


def test_log_softmax_against_states_from_elsewhere() -> None:
    table = pa.table({"k": [1, 2, 1, None], "x": [1.0, 2.0, None, 4.0]})
    states = group_states(pa.table({"k": [None, 3, 2, 1, 1], "x": [4.0, 0.0, 2.0, 1.0, 1.0]}), ["k"], "x")
    found = log_softmax_of_keys(table, states, ["k"], "x")
    assert found["softmax"].to_pylist() == [0.5, 1.0, None, 1.0]
    assert found["log_softmax"].to_pylist() == [-math.log(2), 0.0, None, 0.0]
    encoded = table.set_column(0, "k", table["k"].dictionary_encode())
    assert log_softmax_of_keys(encoded, states, ["k"], "x")["softmax"].equals(found["softmax"])
    assert log_softmax_of_keys(table.slice(0, 0), states, ["k"], "x").num_rows == 0
    text = table.set_column(0, "k", pa.array(["1"] * 4))
    total, some = group_states(table, [], "x"), group_states(table.slice(0, 2), ["k"], "x")
    mistakes: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: log_softmax_of_keys(table, some, ["k"], "x"), KeyError, "found none for k=None"),
        (
            lambda: log_softmax_of_keys(table, pa.concat_tables([states] * 2), ["k"], "x"),
            ValueError,
            "one state for every key, found more for k=",
        ),
        (
            lambda: log_softmax_of_keys(text, states, ["k"], "x"),
            TypeError,
            "expected int64 as in the states, found string",
        ),
        (
            lambda: log_softmax_of_keys(found, states, ["k"], "x"),
            ValueError,
            "column 'log_softmax': expected a name other",
        ),
        (lambda: log_softmax_of_keys(table, states, [], "x"), ValueError, "expected one state where there are no keys"),
        (lambda: log_softmax_of_keys(table, total, ["k"], "x"), KeyError, "column 'k': expected once"),
        (
            lambda: log_softmax_of_keys(table, group_states(table, ["k"], "x", scale="log2"), ["k"], "x"),
            StateError,
            "two scales do not merge: natural and base 2.0",
        ),
    ]
    for call, error, message in mistakes:
        with pytest.raises(error, match=message):
            call()


def test_an_array_of_no_states_has_no_records() -> None:
    words, offsets = encode_states(StateArray.empty(LOG_LIKELIHOOD, NATURAL, 0))
    assert words.size == 0
    assert offsets.tolist() == [0]
