"""The accumulator's laws, values, records and inputs."""

import array
import json
import math
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import EDGES, any_float, finite_or_minus_inf, misaligned, random_values
from hypothesis import given
from hypothesis import strategies as st

from lse_stream import (
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    Scale,
    StateError,
    WeightedLogSumExpAccumulator,
    logsumexp,
)

INF, NAN = math.inf, math.nan
NAN_BYTES = np.float64(NAN).tobytes()


def accumulate(values: Any) -> LogSumExpAccumulator:
    return LogSumExpAccumulator(np.array(values, np.float64))


def same(found: float, expected: float) -> bool:
    """Equal bits, all NaN alike."""
    return np.float64(found).tobytes() == np.float64(expected).tobytes()


# --- laws -------------------------------------------------------------------------------------------------------------


@given(st.lists(any_float, max_size=40), st.randoms(use_true_random=False))
def test_any_order_split_and_tree_of_merges_gives_the_same_bytes(values: list[float], random: Any) -> None:
    whole = accumulate(values)
    shuffled = values[:]
    random.shuffle(shuffled)
    parts = []
    while shuffled:
        size = random.randint(0, len(shuffled))
        part = LogSumExpAccumulator()
        if random.random() < 0.5:
            part.update(np.array(shuffled[:size]))
        else:
            for value in shuffled[:size]:
                part.add(value)
        parts.append(part)
        del shuffled[:size]
    parts.append(LogSumExpAccumulator())
    while len(parts) > 1:
        one, other = parts.pop(random.randrange(len(parts))), random.choice(parts)
        other.merge(one)
    assert parts[0].to_bytes() == whole.to_bytes()
    assert same(parts[0].value(), whole.value())


@given(st.lists(any_float, max_size=20), st.lists(any_float, max_size=20), st.lists(any_float, max_size=20))
def test_merge_is_associative_and_commutative_and_leaves_the_other(
    a: list[float], b: list[float], c: list[float]
) -> None:
    x, y, z = accumulate(a), accumulate(b), accumulate(c)
    before = y.to_bytes()
    left = x.copy()
    left.merge(y)
    assert y.to_bytes() == before
    left.merge(z)
    right = z.copy()
    right.merge(y)
    right.merge(x)
    assert left == right == accumulate(a + b + c)


@given(st.lists(any_float, max_size=20))
def test_empty_is_the_identity(values: list[float]) -> None:
    state = accumulate(values)
    for merged, other in ((state.copy(), LogSumExpAccumulator()), (LogSumExpAccumulator(), state)):
        merged.merge(other)
        assert merged == state


def test_merging_a_state_with_itself_doubles_it() -> None:
    state = accumulate([1.0, 2.0])
    state.merge(state)
    assert state == accumulate([1.0, 2.0, 1.0, 2.0])


def test_every_split_point_of_one_array() -> None:
    x = np.random.default_rng(0).normal(size=6000) * 40
    whole = accumulate(x)
    for i in range(0, x.size, 61):
        part = accumulate(x[i:])
        part.merge(accumulate(x[:i]))
        assert part == whole


@given(st.lists(finite_or_minus_inf, min_size=1, max_size=30))
def test_the_value_lies_between_the_max_and_the_ties(values: list[float]) -> None:
    state = accumulate(values)
    assert state.max == max(values)
    assert state.count == len(values)
    bonus = math.nextafter(math.log(len(values)), INF)
    assert state.max <= state.value() <= math.nextafter(state.max + bonus, INF)


def test_a_copy_is_independent() -> None:
    state = accumulate([1.0])
    copy = state.copy()
    copy.add(2.0)
    assert state == accumulate([1.0])
    assert copy == accumulate([1.0, 2.0])


def test_updates_from_two_threads_lose_nothing() -> None:
    x = np.random.default_rng(1).normal(size=300_000)
    states = [LogSumExpAccumulator() for _ in range(2)]
    threads = [threading.Thread(target=lambda s=s: [s.update(x) for _ in range(3)]) for s in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states[0] == states[1] == accumulate(np.concatenate([x, x, x]))


PARTS = [
    LogLikelihoodAccumulator,
    EffectiveSampleSizeAccumulator,
    WeightedLogSumExpAccumulator,
    CrossEntropyAccumulator,
]


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns far more often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("make", [LogSumExpAccumulator, *PARTS])
def test_threads_that_share_a_state_lose_nothing_and_read_all_that_they_added(make: Any) -> None:
    columns = np.random.default_rng(3).random((len(make.AGGREGATION.inputs), 20))
    state, other, missed = make(), make(*columns), []

    def work() -> None:
        added = 0
        for i in range(60):
            for row in columns.T.tolist():
                state.add(*row)
            (state.update(*columns) if i % 3 else state.merge(other))
            added += 40
            missed.append(max(added - state.count, 0))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missed == [0] * 180
    assert state == make(*np.tile(columns, 3 * 60 * 2))


@pytest.mark.parametrize("make", PARTS)
def test_rows_beyond_the_largest_count_are_refused_and_not_lost(make: Any) -> None:
    row = (-INF, 1.0)[: len(make.AGGREGATION.inputs)]
    full = make()
    for _ in range(63):
        full.merge(full)
        full.add(*row)
    assert full.count == 2**63 - 1
    record = full.to_bytes()
    columns = [np.full(200_000, x) for x in row]
    for grow, by in ((full.update, columns), (full.merge, [make(*columns)])):
        with pytest.raises(OverflowError, match="count"):
            grow(*by)
        assert full.to_bytes() == record
    full.add(*row)
    for _ in range(2):
        with pytest.raises(OverflowError, match="count"):
            full.to_bytes()


# --- special values ---------------------------------------------------------------------------------------------------

SPECIAL_VALUES = [
    ("nothing", [], -INF),
    ("all -inf", [-INF, -INF], -INF),
    ("+inf", [1.0, INF, -INF], INF),
    ("+inf twice", [INF, INF], INF),
    ("NaN", [1.0, NAN], NAN),
    ("NaN and +inf", [INF, NAN, -INF], NAN),
    ("one value", [0.1], 0.1),
    ("one of any size", [-1.7e308], -1.7e308),
    ("a subnormal", [5e-324], 5e-324),
    ("-0.0", [-0.0], 0.0),
    ("-0.0 and +0.0", [-0.0, 0.0], math.log(2)),
    ("a value and -inf", [0.1, -INF], 0.1),
    ("one dominates", [1000.0, 0.0], 1000.0),
    ("ties at zero", [0.0] * 4, math.log(4)),
    ("ties far away", [1e300] * 9, 1e300),
    ("ties below", [-1e300] * 9, -1e300),
    ("huge and its neighbour", [2.0**60, np.nextafter(2.0**60, 0)], 2.0**60),
    ("the levels 1 to 5", [1.0, 2.0, 3.0, 4.0, 5.0], 5.451914395937593),
]


@pytest.mark.parametrize(
    ("values", "expected"), [case[1:] for case in SPECIAL_VALUES], ids=[c[0] for c in SPECIAL_VALUES]
)
def test_special_values(values: list[float], expected: float) -> None:
    forward, backward = accumulate(values), accumulate(values[::-1])
    assert same(forward.value(), expected)
    assert forward == backward
    assert forward.count == len(values)
    assert same(forward.max, max(values, key=lambda v: (math.isnan(v), v)) + 0.0 if values else -INF)


@pytest.mark.parametrize("after", [[1.0], [INF], [-INF], [NAN], [1e300], []])
def test_nan_stays_through_every_merge(after: list[float]) -> None:
    state = accumulate([NAN])
    state.merge(accumulate(after))
    other = accumulate(after)
    other.merge(accumulate([-NAN]))
    assert math.isnan(state.value())
    assert state == other
    assert state.count == 1 + len(after)


# --- records ----------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden" / "states_v2.json"
GOLDEN_INPUTS: dict[str, list[float]] = {
    **{name: values for name, values, _ in SPECIAL_VALUES},
    **{f"edge {float(edge)!r}": [float(edge), 0.25] for edge in EDGES},
    **{f"random {seed}": random_values(np.random.default_rng(seed), 50).tolist() for seed in range(40)},
}


def write_golden() -> None:
    """Run once for a new record version: from the first release on, files of old ones stay."""
    entries = [
        {
            "name": name,
            "values": [float(v).hex() for v in values],
            "record": (state := accumulate(values)).to_bytes().hex(),
            "value": state.value().hex(),
        }
        for name, values in GOLDEN_INPUTS.items()
    ]
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n", encoding="ascii")


GOLDEN_ENTRIES = json.loads(GOLDEN.read_text(encoding="ascii")) if GOLDEN.exists() else []


def test_the_golden_records_are_there() -> None:
    assert [entry["name"] for entry in GOLDEN_ENTRIES] == list(GOLDEN_INPUTS)


@pytest.mark.parametrize("entry", GOLDEN_ENTRIES, ids=[entry["name"] for entry in GOLDEN_ENTRIES])
def test_golden_records(entry: dict[str, Any]) -> None:
    state = accumulate([float.fromhex(v) for v in entry["values"]])
    assert state.to_bytes().hex() == entry["record"]
    stored = LogSumExpAccumulator.from_bytes(bytes.fromhex(entry["record"]))
    assert stored == state
    assert same(stored.value(), float.fromhex(entry["value"]))


@given(st.lists(any_float, max_size=20))
def test_bytes_and_pickle_give_the_state_back(values: list[float]) -> None:
    state = accumulate(values)
    assert len(state.to_bytes()) == 88
    assert LogSumExpAccumulator.from_bytes(state.to_bytes()) == state
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(state, protocol)) == state
    assert len(pickle.dumps(state)) < 200


def test_equal_states_have_equal_bytes_whatever_led_to_them() -> None:
    assert accumulate([0.0, -0.0]).to_bytes() == accumulate([0.0, 0.0]).to_bytes()
    assert accumulate([NAN, 1.0]).to_bytes() == accumulate([-NAN, INF]).to_bytes()
    assert accumulate([1.0]) != accumulate([2.0])
    assert accumulate([1.0]) != accumulate([1.0, -INF])
    assert accumulate([1.0]) != 1.0


@pytest.mark.parametrize("size", [0, 1, 8, 80, 87, 89, 96, 176])
def test_a_record_of_another_size_is_refused(size: int) -> None:
    record = (accumulate([1.0]).to_bytes() * 2)[:size]
    with pytest.raises(StateError, match=f"expected a (record|multiple of 8 bytes|state of 88 bytes), found {size}"):
        LogSumExpAccumulator.from_bytes(record)


def test_a_record_of_another_version_is_refused() -> None:
    record = b"\x01" + accumulate([1.0]).to_bytes()[1:]
    with pytest.raises(StateError, match=r"expected version 2, .*, found version 1, ") as caught:
        LogSumExpAccumulator.from_bytes(record)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- inputs -----------------------------------------------------------------------------------------------------------

X = np.random.default_rng(7).normal(size=1000) * 3


@pytest.mark.parametrize(
    "values",
    [
        X[::-1],
        np.repeat(X, 3)[::3],
        X.astype(">f8"),
        np.asfortranarray(np.stack([X, X]))[0],
        misaligned(X),
        X.tolist(),
        tuple(X),
        array.array("d", X),
        memoryview(array.array("d", X)),
        pa.array(X),
        pa.array([None, *X, None])[1:],
        pa.Array.from_buffers(pa.float64(), 1000, [None, pa.py_buffer(misaligned(X))]),
        pa.chunked_array([X[:1], [], X[1:]]),
        pa.array(X).dictionary_encode(),
        pl.Series(X),
        pd.Series(X),
        pd.Series(X, index=np.arange(1000)[::-1]).iloc[::-1],
        pd.Series(X, dtype=pd.ArrowDtype(pa.float64())),
        np.ma.MaskedArray(np.concatenate([X, [50.0]]), [False] * 1000 + [True]),
    ],
    ids=lambda v: f"{type(v).__module__}.{type(v).__name__}",
)
def test_inputs_of_float64(values: Any) -> None:
    assert LogSumExpAccumulator(values) == accumulate(X)
    assert logsumexp(values) == accumulate(X).value()


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "i1", "u1", "<i2", ">i2", "u2", "i4", "u4", "i8", ">i8", "u8"])
def test_dtypes_that_widen_exactly(dtype: str) -> None:
    x = np.abs(X * 10).astype(dtype)
    native = x.astype(x.dtype.newbyteorder("="))
    expected = accumulate(x.astype(np.float64))
    for values in (x, x[::-1], np.repeat(x, 2)[::2], x.tolist(), pa.array(native)):
        assert LogSumExpAccumulator(values) == expected


@pytest.mark.parametrize("values", [[0.0, 2.0**52, 2.0**59], [0.0, 100.0, 2.0**30], [-1e30, -(2.0**40), 3.0]])
def test_float32_far_apart_is_summed_as_float64(values: list[float]) -> None:
    narrow = np.array(values, np.float32)
    assert LogSumExpAccumulator(narrow).to_bytes() == LogSumExpAccumulator(narrow.astype(np.float64)).to_bytes()


def test_numbers_one_at_a_time() -> None:
    state = LogSumExpAccumulator()
    for x in (1, 2.0, np.float32(3), np.float16(4), np.int8(5), np.float64(6), 2**53):
        state.add(x)
    assert state == accumulate([1, 2, 3, 4, 5, 6, 2**53])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("make", PARTS)
def test_rows_one_at_a_time_are_summed_as_arrays_are(make: Any, sign: float) -> None:
    x, w = random_values(np.random.default_rng(1), 2500), random_values(np.random.default_rng(2), 2500)
    w = np.abs(np.where(np.isfinite(w), w, 0.0)) * (sign if make is WeightedLogSumExpAccumulator else 1.0)
    columns = (sign * x, w)[: len(make.AGGREGATION.inputs)]
    state, whole = make(), make(*columns)
    for row in zip(*columns, strict=True):
        state.add(*row)
    assert state.to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("x", [2**53 + 1, -(2**53) - 1, 2**60, 10**30, np.int64(2**60), np.uint64(2**63)])
def test_an_integer_that_float64_may_not_hold_is_named(x: Any) -> None:
    state = accumulate([1.0])
    inputs: list[Any] = [[1.0, x], (x,)]
    if abs(int(x)) < 2**63:
        inputs += [np.array([1, x]), pa.array([1, int(x)])]
    for values in inputs:
        with pytest.raises(ValueError, match=rf"within \+-2\^53.*found {x}"):
            state.update(values)
    with pytest.raises(ValueError, match=rf"within \+-2\^53.*found {x}"):
        state.add(x)
    assert state == accumulate([1.0])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (np.array([True]), "bool"),
        (np.array([1j]), "complex128"),
        (np.array([1.0, None]), "object"),
        (np.array(["1"]), "<U1"),
        (np.zeros(2, np.longdouble), "float128|longdouble"),
        (np.array(["2020-01-01"], "M8[D]"), "datetime64"),
        (pa.array(["a"]), "string"),
        (pa.array([True]), "bool"),
        (pa.array([[1.0]]), "list"),
        (pl.Series(["a"]), "string"),
        ([1.0, None], "null"),
        ([1.0, "2"], "str"),
        ([True], "bool"),
        ([1j], "complex"),
        ("12", "str"),
        (None, "NoneType"),
        ({1.0}, "set"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else v,
)
def test_what_is_not_real_numbers_is_refused_by_name(values: Any, named: str) -> None:
    state = accumulate([1.0])
    with pytest.raises(TypeError, match=named):
        state.update(values)
    assert state == accumulate([1.0])


def test_a_masked_value_is_no_number() -> None:
    state = LogSumExpAccumulator()
    inputs: list[Any] = [np.ma.masked, np.ma.array(1.0, mask=True)]
    for x in inputs:
        with pytest.raises(TypeError, match=r"expected a real number, found a masked value$"):
            state.add(x)
        with pytest.raises(TypeError, match=r"expected a real number, found a masked value$"):
            state.update([1.0, x])
    assert state == LogSumExpAccumulator()


def test_a_huge_integer_is_not_printed() -> None:
    with pytest.raises(ValueError, match=r"found one of 1329 bits$"):
        LogSumExpAccumulator().add(10**400)


def test_weights_may_be_booleans() -> None:
    expected = WeightedLogSumExpAccumulator([1.0, 2.0], [1.0, 0.0])
    state = WeightedLogSumExpAccumulator()
    rows: list[tuple[float, Any]] = [(1, True), (2, np.bool_(False))]
    for x, weight in rows:
        state.add(x, weight)
    assert state == expected
    for weights in ([True, False], np.array([True, False]), pa.array([True, False]), pl.Series([True, False])):
        assert WeightedLogSumExpAccumulator([1.0, 2.0], weights) == expected
        assert CrossEntropyAccumulator([1.0, 2.0], weights) == CrossEntropyAccumulator([1.0, 2.0], [1, 0])


@pytest.mark.parametrize("x", [None, "1", 1j, True, np.bool_(True), [1.0], (1.0,), (), np.longdouble(1)])
def test_add_refuses_what_is_not_a_real_number(x: Any) -> None:
    state = LogSumExpAccumulator()
    with pytest.raises(TypeError, match="expected a real number, found"):
        state.add(x)
    assert state == LogSumExpAccumulator()


def test_more_or_less_than_one_dimension_is_refused() -> None:
    numbers: list[Any] = [1.0, np.array(1.0), pa.scalar(1.0)]
    for x in numbers:
        with pytest.raises(ValueError, match=r"1 dimension, found 0 dimensions of shape \(\)"):
            LogSumExpAccumulator(x)
    with pytest.raises(ValueError, match=r"1 dimension, found 2 dimensions of shape \(2, 3\)"):
        LogSumExpAccumulator(np.zeros((2, 3)))
    frame = {"a": [1.0]}
    for values in (
        pd.DataFrame(frame),
        pa.table(frame),
        pa.RecordBatch.from_pydict(frame),
        np.ma.array([[1.0]]),
        [[1]],
    ):
        with pytest.raises(ValueError, match=r"1 dimension, found 2 dimensions of shape \(1, 1\)"):
            LogSumExpAccumulator(values)
        with pytest.raises(ValueError, match=r"^value: expected an array of 1 dimension, found shape \(1, 1\)"):
            LogLikelihoodAccumulator(values)


@pytest.mark.parametrize("make", [LogSumExpAccumulator, LogLikelihoodAccumulator])
@pytest.mark.parametrize("other", [1.0, None, (1.0,), ()])
def test_merge_refuses_what_is_no_state(make: Any, other: Any) -> None:
    with pytest.raises(TypeError, match=f"expected a state to merge, found {type(other).__name__}"):
        make().merge(other)


def test_merge_names_two_aggregations() -> None:
    two: Any = LogLikelihoodAccumulator([1.0])
    one = LogSumExpAccumulator([1.0])
    named = r"states of two aggregations do not merge: "
    with pytest.raises(StateError, match=f"{named}logsumexp and log_likelihood"):
        one.merge(two)
    with pytest.raises(StateError, match=f"{named}log_likelihood and logsumexp"):
        two.merge(one)
    assert (one, two) == (LogSumExpAccumulator([1.0]), LogLikelihoodAccumulator([1.0]))


@pytest.mark.parametrize("state", [LogSumExpAccumulator([1.0, 2.0]), LogLikelihoodAccumulator([1.0, 2.0])])
def test_a_record_is_any_buffer(state: Any) -> None:
    record = state.to_bytes()
    for held in (bytearray(record), memoryview(record), np.frombuffer(record, np.uint8)):
        assert type(state).from_bytes(held) == state
    for other in ("text", 5, None):
        with pytest.raises(TypeError, match=f"^state: expected a bytes-like object, found {type(other).__name__}$"):
            type(state).from_bytes(other)


def test_a_scale_is_fixed_by_the_first_value() -> None:
    state = LogSumExpAccumulator([1.0], scale="decibel")
    before = state.to_bytes()
    with pytest.raises(ValueError, match="not empty"):
        LogSumExpAccumulator.__init__(state, scale="magnitude")
    assert (state.scale, state.to_bytes()) == (Scale("decibel"), before)
    with pytest.raises(ValueError, match="not empty"):
        LogSumExpAccumulator.__init__(state)
    empty = LogSumExpAccumulator(scale="decibel")
    LogSumExpAccumulator.__init__(empty, [60.0])
    assert (empty.scale, empty.value()) == (Scale("natural"), 60.0)


def test_a_subclass_may_leave_out_our_constructor() -> None:
    class Named(LogSumExpAccumulator):
        def __init__(self, name: str) -> None:
            self.name = name

    state = Named("a")
    state.add(1.0)
    assert (state.scale, state.value()) == (Scale("natural"), 1.0)


def test_of_nothing() -> None:
    nothing: list[Any] = [[], (), np.zeros(0), np.zeros(0, np.int8), pa.array([], pa.float64()), pa.array([None, None])]
    for values in nothing:
        assert logsumexp(values) == -INF


@pytest.mark.parametrize("ddof", [1.5, 1.0, "1", None])
def test_a_variance_takes_an_integer(ddof: Any) -> None:
    with pytest.raises(TypeError, match=f"^ddof: expected an integer, found {ddof!r}$"):
        LogLikelihoodAccumulator([1.0, 2.0, 4.0]).variance(ddof=ddof)


def test_a_variance_takes_0_or_more() -> None:
    with pytest.raises(ValueError, match=r"^ddof: expected 0 or more, found -1$"):
        LogLikelihoodAccumulator([1.0, 2.0, 4.0]).variance(ddof=-1)
    assert LogLikelihoodAccumulator([1.0, 3.0]).variance(np.int64(0)) == 1.0  # type: ignore[arg-type]


def test_repr_never_raises() -> None:
    shard = CrossEntropyAccumulator([1.0, 2.0], [0.0, 0.0])
    assert str(shard) == repr(shard) == "CrossEntropyAccumulator(value=undefined, count=2, scale='natural')"
    assert repr([CrossEntropyAccumulator()]) == "[CrossEntropyAccumulator(value=undefined, count=0, scale='natural')]"


def test_repr_shows_the_value() -> None:
    assert repr(accumulate([0.0, 0.0])) == "LogSumExpAccumulator(value=0.6931471805599453, count=2, max=0.0)"


@pytest.mark.parametrize("make", [LogSumExpAccumulator, LogLikelihoodAccumulator, EffectiveSampleSizeAccumulator])
def test_accumulators_add_up_and_are_numbers(make: Any) -> None:
    first, second = make([1.0, 2.0]), make([3.0])
    total = first + second
    assert total == make([1.0, 2.0, 3.0])
    assert (first.count, second.count) == (2, 1)
    assert float(total) == total.result(total.AGGREGATION.results[0])
    with pytest.raises(TypeError):
        first + 1.0


def test_accumulators_of_two_kinds_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="two aggregations do not merge: logsumexp and log_likelihood"):
        LogSumExpAccumulator([1.0]) + LogLikelihoodAccumulator([1.0])


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"a: expected an array, found a numpy\.matrix: numpy\.asarray makes one"):
        logsumexp(np.matrix([[1.0, 2.0]]))
