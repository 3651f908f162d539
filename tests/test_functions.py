"""Rows of arrays and lists: scipy's shapes and dtypes, mpmath's values, and what users reported over the years."""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.special
from conftest import EDGES, random_values
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mpmath import exp, log, mp, mpf

import lse_stream
from lse_stream import (
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
    _kernel,
    list_functions,
    log_softmax,
    logaddexp,
    logmeanexp,
    logsumexp,
    softmax,
    softmax_from_state,
)

mp.prec = 300
INF, NAN = math.inf, math.nan
RNG = np.random.default_rng(3)


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def assert_like(found: Any, expected: Any, rtol: float = 1e-13) -> None:
    """The same type, dtype and shape, and nearly the same values."""
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    tolerance = max(rtol, 4 * float(np.finfo(found.dtype).eps))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# --- in place of scipy's ----------------------------------------------------------------------------------------------

SHAPES = [(), (1,), (5,), (2, 3), (4, 1), (2, 3, 4), (0, 3), (3, 0), (0,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i1", "i2", "i4", "i8", "u1", "u8"])
def test_shapes_and_dtypes_are_scipys(shape: tuple[int, ...], dtype: str) -> None:
    a = (RNG.normal(size=shape) * 3).astype(dtype) if dtype[-2] in "f>" else RNG.integers(0, 5, shape).astype(dtype)
    axes: list[Any] = [None, *range(-len(shape), len(shape)), *itertools.permutations(range(len(shape)), 2)]
    for axis in axes:
        for keepdims in (False, True):
            native = a.astype(a.dtype.newbyteorder("="))
            if a.size:
                expected = quietly(scipy.special.logsumexp, native, axis, keepdims=keepdims)
            else:  # where scipy raises for some axes
                expected = quietly(lambda: np.log(np.sum(np.exp(native * 1.0), axis, keepdims=keepdims)))  # noqa: B023
            assert_like(logsumexp(a, axis, keepdims=keepdims), expected)
        if a.size:
            # Of unsigned integers scipy's differences wrap around.
            signed = native.astype(np.float64) if native.dtype.kind == "u" else native
            dtype = quietly(scipy.special.softmax, native, axis).dtype
            assert_like(softmax(a, axis), quietly(scipy.special.softmax, signed, axis).astype(dtype)[()])
            assert_like(log_softmax(a, axis), quietly(scipy.special.log_softmax, signed, axis).astype(dtype)[()], 1e-12)


@pytest.mark.parametrize(
    ("shape", "weights"), [((5,), (5,)), ((2, 3), (3,)), ((2, 3), (2, 1)), ((3,), (4, 3)), ((2, 3), ())]
)
@pytest.mark.parametrize("dtypes", [("f8", "f8"), ("f4", "f4"), ("f4", "f8"), ("f8", "f4"), ("i8", "f4"), ("f4", "i8")])
def test_weights_are_scipys(shape: tuple[int, ...], weights: tuple[int, ...], dtypes: tuple[str, str]) -> None:
    a, b = (RNG.normal(size=shape) * 3).astype(dtypes[0]), (RNG.normal(size=weights) * 3).astype(dtypes[1])
    for axis, keepdims, return_sign in itertools.product((None, 0, -1), (False, True), (False, True)):
        found = logsumexp(a, axis, b, keepdims, return_sign)
        expected = quietly(scipy.special.logsumexp, a, axis, b, keepdims, return_sign)
        for one, other in zip(found, expected, strict=True) if return_sign else [(found, expected)]:
            assert_like(one, other)


@pytest.mark.parametrize(
    "a", [[], [1, 2.5], ((1, 2), (3, 4)), 3, 2.5, np.float32(1.5), [[1.0], [2.0]], [np.float32(1), 2], range(5)]
)
def test_sequences_and_numbers_are_arrays(a: Any) -> None:
    expected = quietly(scipy.special.logsumexp, np.asarray(a))
    assert_like(logsumexp(a), np.float64(expected) if not isinstance(a, np.float32) else expected)


def test_scalar_weights_take_the_dtype_of_the_values() -> None:
    for b in (3, 3.0, np.float64(3), np.float32(3)):
        assert_like(logsumexp(np.zeros((2, 3), "f4"), 1, b), scipy.special.logsumexp(np.zeros((2, 3), "f4"), 1, b))


SPECIAL = [
    [],
    [-INF],
    [-INF, -INF],
    [INF],
    [INF, -INF],
    [INF, INF],
    [1.0, INF],
    [NAN, 1.0],
    [NAN, INF],
    [1.0, -INF],
]


@pytest.mark.parametrize("values", SPECIAL)
def test_special_values_are_scipys(values: list[float]) -> None:
    """But for a row with NaN or +inf beside others, of which scipy's softmax makes NaN and 0; all of it is NaN here."""
    assert_like(logsumexp(values), quietly(scipy.special.logsumexp, values))
    if values:
        for found, expected in zip(
            logsumexp(values, return_sign=True), quietly(scipy.special.logsumexp, values, return_sign=True), strict=True
        ):
            assert_like(found, expected)
        assert_like(log_softmax(values), quietly(scipy.special.log_softmax, values))
        assert_like(softmax(values), quietly(scipy.special.softmax, values))
    else:
        assert logsumexp(values, return_sign=True) == (-INF, 0.0)
        assert softmax(values).shape == log_softmax(values).shape == (0,)


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(-700, 700)), st.data())
def test_any_array_is_near_scipys(a: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.one_of(st.none(), st.integers(-a.ndim, a.ndim - 1)))
    assert_like(logsumexp(a, axis), quietly(scipy.special.logsumexp, a, axis), 1e-12)
    assert_like(softmax(a, axis), quietly(scipy.special.softmax, a, axis), 1e-12)
    np.testing.assert_allclose(
        log_softmax(a, axis), quietly(scipy.special.log_softmax, a, axis), rtol=1e-12, atol=1e-12
    )


# --- the same bits by every road --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 8, 23, 24, 25, 64, 1000, 4096, 4097])
def test_rows_have_the_bits_of_single_states(columns: int) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 150)) if columns < 100 else 3
        x = random_values(rng, n * columns).reshape(n, columns)
        states = [LogSumExpAccumulator(row) for row in x]
        expected = np.array([state.value() for state in states])
        of_states = np.array([softmax_from_state(row, state) for row, state in zip(x, states, strict=True)])
        with np.errstate(all="ignore"):
            assert softmax(x, axis=1).tobytes() == of_states.tobytes()
            assert softmax(x[:, ::-1], axis=1)[:, ::-1].tobytes() == of_states.tobytes()
            assert softmax(x[0].tolist()).tobytes() == softmax(x[0], axis=-1).tobytes() == of_states[0].tobytes()
            assert logsumexp(x, axis=1).tobytes() == expected.tobytes()
            assert logsumexp(x.T, axis=0).tobytes() == expected.tobytes()
            for function in (log_softmax, logmeanexp):
                by_row = function(x, axis=1)[0].tobytes()
                assert function(x[0].tolist()).tobytes() == function(x[0]).tobytes() == by_row
            assert logsumexp(x[:, ::-1], axis=1).tobytes() == expected.tobytes()
            assert _kernel.row_values(x).tobytes() == expected.tobytes()


@pytest.mark.usefixtures("kernel")
def test_weights_and_softmax_do_not_depend_on_the_order() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, w = rng.normal(size=(7, 300)) * 30, rng.normal(size=(7, 300))
        order = rng.permutation(300)
        assert logsumexp(x, 1, w).tobytes() == logsumexp(x[:, order], 1, w[:, order]).tobytes()
        assert logsumexp(x, 1, w)[0].tobytes() == logsumexp(x[0], b=w[0]).tobytes()
        for function in (softmax, log_softmax):
            assert function(x, 1)[:, order].tobytes() == function(x[:, order], 1).tobytes()
            assert function(x[3]).tobytes() == function(x, 1)[3].tobytes()


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = RNG.normal(size=(40, 7)), RNG.normal(size=(40, 7))
    whole = logsumexp(x, 1), logsumexp(x, 1, w), logmeanexp(x, 1), softmax(x, 1), log_softmax(x, 1), softmax(x)
    monkeypatch.setattr(lse_stream.functions, "_BLOCK", 16)
    monkeypatch.setattr(lse_stream.functions, "_CACHED", 5)
    parts = logsumexp(x, 1), logsumexp(x, 1, w), logmeanexp(x, 1), softmax(x, 1), log_softmax(x, 1), softmax(x)
    assert [a.tobytes() for a in whole] == [a.tobytes() for a in parts]


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [1e-9, 1.0, 30.0, 700.0, 1e5])
def test_softmax_against_mpmath(spread: float) -> None:
    for n in (1, 2, 5, 100):
        for centre in (0.0, 1e4, -(2.0**30)):
            x = RNG.normal(centre, spread, n)
            top = mpf(max(x))
            terms = [exp(mpf(v) - top) for v in x.tolist()]
            weights, logs = softmax(x), log_softmax(x)
            for found, found_log, term in zip(weights.tolist(), logs.tolist(), terms, strict=True):
                expected = term / sum(terms)
                assert abs(mpf(found) - expected) <= mpf("0.51") * math.ulp(float(expected))
                assert (
                    abs(mpf(found_log) - log(expected)) <= mpf("0.51") * math.ulp(float(log(expected))) + mpf(2) ** -58
                )
            assert abs(math.fsum(weights) - 1.0) <= n * 2.0**-53


@pytest.mark.parametrize("values", [[x] for x in EDGES if math.isfinite(x)] + [[1e300, 1.0], [-1e300, -1e300]])
@pytest.mark.usefixtures("kernel")
def test_softmax_of_extremes(values: list[float]) -> None:
    top = max(values)
    expected = [1.0 / values.count(top) if x == top else 0.0 for x in values]
    assert softmax(values).tolist() == expected


def test_gradient_against_a_state_from_elsewhere() -> None:
    x = RNG.normal(size=(3, 50)) * 10
    shards = [LogSumExpAccumulator(row) for row in x]
    total = shards[0].copy()
    for shard in shards[1:]:
        total.merge(LogSumExpAccumulator.from_bytes(shard.to_bytes()))
    assert softmax_from_state(x, total).tobytes() == softmax(x).tobytes()
    assert softmax_from_state(-INF, total) == 0.0
    assert softmax_from_state(1e300, total) == INF
    assert math.isnan(softmax_from_state(NAN, total))
    assert math.isnan(softmax_from_state(1.0, LogSumExpAccumulator()))
    assert softmax_from_state(2.0**70, LogSumExpAccumulator([2.0**70] * 4)) == 0.25
    assert softmax_from_state(2.0**69, LogSumExpAccumulator([2.0**70] * 4)) == 0.0
    signed = WeightedLogSumExpAccumulator([0.0, 1.0], [1.0, -1.0])
    np.testing.assert_allclose(softmax_from_state([0.0, 1.0], signed), np.exp([0.0, 1.0]) / (1 - math.e), rtol=3e-16)
    assert softmax_from_state([3.0], LogSumExpAccumulator([3.0, 3.0], scale="magnitude")).tolist() == [0.5]


def test_logaddexp() -> None:
    x, y = RNG.normal(size=(4, 1)) * 20, RNG.normal(size=3) * 20
    found = logaddexp(x, y)
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found, np.logaddexp(x, y), rtol=1e-14)
    assert logaddexp(INF, -INF) == INF
    assert logaddexp(-INF, -INF) == -INF
    assert_like(logaddexp(np.float32(1), np.float32(1)), np.logaddexp(np.float32(1), np.float32(1)))


# --- what users reported ----------------------------------------------------------------------------------------------

REPORTED = {
    "zero weight on the maximum": (lambda: logsumexp([1000.0, 1.0], b=[0, 1]), 1.0),
    "zero weight on an infinite maximum": (lambda: logsumexp([INF, 1.0], b=[0, 1]), 1.0),
    "a negative weight on the largest term": (lambda: logsumexp([0.0, math.log(2)], b=[3, -1]), 0.0),
    "a negative sum": (lambda: logsumexp([1.0, 2.0], b=[1, -4]), NAN),
    "all -inf": (lambda: logsumexp([-INF, -INF]), -INF),
    "all -inf along an axis": (lambda: logsumexp([[-INF, 0.0], [-INF, 0.0]], axis=0)[0], -INF),
    "all -inf, softmax": (lambda: softmax([-INF, -INF])[0], NAN),
    "a masked row of attention": (lambda: softmax([[0.0, -INF], [0.0, 0.0]], axis=1)[0, 0], 1.0),
    "integer input": (lambda: logsumexp(np.array([1, 2, 3, 4, 5])), 5.451914395937593),
    "integer input that a float32 would lose": (lambda: logsumexp(np.array([2**53 - 1, 0])), 2.0**53 - 1),
    "int8 that would overflow": (lambda: logsumexp(np.array([-128, 127], np.int8)), 127.0),
    "float16 overflow": (lambda: float(logsumexp(np.full(4, 100, np.float16))), float(np.float16(100 + math.log(4)))),
    "float16 of many": (lambda: float(logsumexp(np.zeros(70_000, np.float16))), float(np.float16(math.log(70_000)))),
    "float16 softmax of many": (lambda: float(softmax(np.zeros(1000, np.float16))[0]), float(np.float16(1e-3))),
    "float32 of many": (
        lambda: float(logsumexp(np.zeros(2**24 + 2, np.float32))),
        float(np.float32(math.log(2**24 + 2))),
    ),
    "large float32": (lambda: float(logsumexp(np.array([1e38, 1e38], np.float32))), float(np.float32(1e38))),
    "empty input": (lambda: logsumexp([]), -INF),
    "an empty axis": (lambda: logsumexp(np.zeros((2, 0)), axis=1)[1], -INF),
    "a tiny result near zero": (lambda: logsumexp([math.log(0.5), math.log(0.5)]), 0.0),
    "a tiny result": (lambda: logsumexp([-1e-20]), -1e-20),
    "a tiny contribution": (lambda: logsumexp([0.0, -40.0]), 4.248354255291589e-18),
    "log_softmax of a sure class": (lambda: log_softmax([0.0, -40.0])[0], -4.248354255291589e-18),
    "log_softmax far below": (lambda: log_softmax([1000.0, 1.0])[1], -999.0),
    "huge values": (lambda: logsumexp([1e308, 1e308]), 1e308),
    "values that differ by more than exp takes": (lambda: logsumexp([-1000.0, 1000.0]), 1000.0),
    "a scalar": (lambda: logsumexp(5.0), 5.0),
    "a transposed array": (lambda: logsumexp(np.arange(6.0).reshape(2, 3).T, axis=1)[0], logsumexp([0.0, 3.0])),
    "weights that cancel": (lambda: logsumexp([1.0, 1.0], b=[1, -1]), -INF),
}


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("call", "expected"), REPORTED.values(), ids=REPORTED.keys())
def test_what_users_reported(call: Callable[[], float], expected: float) -> None:
    found = call()
    assert np.float64(found).tobytes() == np.float64(expected).tobytes() or abs(found - expected) < 1e-16


HALF: Any = 0.5
NO_STATE: Any = b"state"


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: logsumexp([[1.0, 2.0], [3.0]]), ValueError, "^a: expected an array, found ragged rows"),
        (lambda: logsumexp(np.zeros(2, complex)), TypeError, "^a: expected integers, .* found complex128$"),
        (lambda: logsumexp(np.array([1.0, None])), TypeError, "^a: expected integers, .* found object$"),
        (lambda: logsumexp(np.array([True])), TypeError, "^a: expected integers, .* found bool$"),
        (lambda: logsumexp([1.0, None]), TypeError, "expected a real number, found a null$"),
        (lambda: logsumexp(["1"]), TypeError, "expected a real number, found str$"),
        (lambda: logsumexp("12"), TypeError, "^a: expected an array or a sequence of real numbers, found str$"),
        (lambda: logsumexp(None), TypeError, "^a: expected an array or a sequence of real numbers, found NoneType$"),
        (lambda: logsumexp({1.0}), TypeError, "^a: expected an array or a sequence of real numbers, found set$"),
        (lambda: logsumexp(np.array([2**53 + 1])), ValueError, rf"^a: .* found {2**53 + 1}$"),
        (lambda: logsumexp(np.array([[2**53 + 1, 0]] * 2), axis=1), ValueError, rf"^a: .* found {2**53 + 1}$"),
        (lambda: logsumexp([1.0], axis=1), np.exceptions.AxisError, "axis: axis 1 is out of bounds"),
        (lambda: softmax([[1.0]], axis=(0, 0)), ValueError, "repeated axis"),
        (lambda: logsumexp([1.0, 2.0], b=[1.0, NAN]), ValueError, "^b: expected finite weights, found nan$"),
        (lambda: logsumexp([1.0, 2.0], b=[1.0, INF]), ValueError, "^b: expected finite weights, found inf$"),
        (
            lambda: logsumexp(np.zeros((2, 3)), b=[1.0, 2.0]),
            ValueError,
            r"^b: expected a shape that broadcasts with \(2, 3\), found \(2,\)$",
        ),
        (lambda: logsumexp([1.0], b=np.array([1j])), TypeError, "^b: expected integers, .* found complex128$"),
        (lambda: softmax(np.zeros(2, complex)), TypeError, "^x: expected integers, .* found complex128$"),
        (lambda: logaddexp([1.0, 2.0], [1.0, 2.0, 3.0]), ValueError, r"^y: expected a shape .*\(2,\), found \(3,\)$"),
        (lambda: logaddexp([1.0], ["a"]), TypeError, "expected a real number, found str"),
        (lambda: logsumexp([1.0], axis=HALF), TypeError, r"^axis: expected an integer or several, found 0\.5$"),
        (lambda: logsumexp(pa.scalar(None)), TypeError, "^a: expected a real number, found a null$"),
        (lambda: logsumexp([1, None]), TypeError, "^a: expected a real number, found a null$"),
        (lambda: logsumexp([1.0, np.ma.masked]), TypeError, "^a: expected a real number, found a masked value$"),
        (lambda: logsumexp([[1, 2], [3, True]]), TypeError, "^a: expected a real number, found bool$"),
        (lambda: logsumexp([[1, 2], [3, None]]), TypeError, "^a: expected a real number, found a null$"),
        (lambda: logsumexp([[1, 2], 3]), ValueError, r"^a: expected an array, found ragged rows: .* \(2,\)"),
        (lambda: logsumexp([np.array([True, False])]), TypeError, "^a: expected integers, .* found bool$"),
        (lambda: logsumexp([[2**60 + 1, 0.5]], axis=1), ValueError, rf"^a: .* found {2**60 + 1}$"),
        (
            lambda: softmax([np.array([2**53 + 1]), np.array([0.5])]),
            ValueError,
            rf"^x: .*, found {2**53 + 1}$",
        ),
        (
            lambda: logsumexp(pa.table({"a": [2**53 + 1, 2], "b": [3, None]})),
            ValueError,
            rf"^a: .*, found {2**53 + 1}$",
        ),
        (
            lambda: logsumexp(pd.DataFrame({"a": [2**53 + 1, 2], "b": [0.5, 1.0]})),
            ValueError,
            rf"^a: .*, found {2**53 + 1}$",
        ),
        (
            lambda: logsumexp(pl.DataFrame({"a": [1.0], "b": [True]})),
            TypeError,
            "^a, column 1: expected integers, .* found Arrow type bool$",
        ),
        (lambda: logsumexp(pd.DataFrame({"a": ["1"]})), TypeError, "^a, column 0: expected integers, .* found "),
        (lambda: logaddexp(2**53 + 1, 2), ValueError, rf"^x: .*, found {2**53 + 1}$"),
        (lambda: logaddexp([1.0], [2**53 + 1]), ValueError, rf"^y: .*, found {2**53 + 1}$"),
        (lambda: logsumexp([1.0], b=[True, 2.0]), TypeError, "^b: expected a real number, found bool$"),
        (lambda: softmax_from_state([1.0], NO_STATE), TypeError, "^state: expected an accumulator, found bytes$"),
        (lambda: list_functions.logaddexp([1.0], [1.0]), TypeError, "^x: expected a pyarrow array, found list$"),
        (
            lambda: list_functions.logsumexp([[1.0]]),
            TypeError,
            "^lists: expected a pyarrow array of lists, found list$",
        ),
        (
            lambda: list_functions.logsumexp(pa.array([1.0])),
            TypeError,
            "^lists: expected lists of numbers, found .* double$",
        ),
        (
            lambda: list_functions.softmax(pa.array([["a"]])),
            TypeError,
            "^lists, items: expected .* found Arrow type string$",
        ),
        (
            lambda: list_functions.logsumexp(pa.array([[2**53 + 1]])),
            ValueError,
            "^lists, items: .* found 9007199254740993$",
        ),
        (
            lambda: list_functions.logaddexp(pa.array([1.0]), pa.array([1.0, 2.0])),
            ValueError,
            "^y: expected 1 values as in x",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_pandas_data_are_as_the_arrays_that_they_hold() -> None:
    """With NaN, as in scipy, and not null."""
    assert math.isnan(logsumexp(pd.Series([1.0, NAN])))
    assert math.isnan(LogSumExpAccumulator(pd.Series([1.0, NAN])).value())
    assert math.isnan(WeightedLogSumExpAccumulator(pd.Series([1.0, NAN]), [1.0, 1.0]).value())
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    for table in (frame, pl.from_pandas(frame), pa.Table.from_pandas(frame)):
        assert logsumexp(table, axis=1).tolist() == logsumexp(frame.to_numpy(), axis=1).tolist()
    assert softmax(frame["a"]).tolist() == softmax([1.0, 2.0]).tolist()


def test_a_masked_array_is_honoured() -> None:
    x = np.ma.array(
        [[1.0, 50.0, 2.0], [NAN, INF, 3.0], [1.0, 1.0, 1.0]], mask=np.array([[0, 1, 0], [1, 1, 0], [1, 1, 1]], bool)
    )
    assert logsumexp(x, axis=1).tolist() == [logsumexp([1.0, 2.0]), 3.0, -INF]
    assert logsumexp(np.ma.array([1, 2**60], mask=[False, True])) == 1.0
    found = softmax(x[:2], axis=1)
    assert isinstance(found, np.ma.MaskedArray)
    assert np.ma.getmaskarray(found).tolist() == np.ma.getmaskarray(x)[:2].tolist()
    assert found.compressed().tolist() == [*softmax([1.0, 2.0]).tolist(), 1.0]


# --- lists ------------------------------------------------------------------------------------------------------------

LISTS: list[list[float | None] | None] = [[1.0, 2.0], None, [], [None], [INF, 0.0], [-1e5, None, 3.0], [0.5] * 9]


def lists_of(data_type: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(data_type):
        return pa.array([[1.0, 2.0], None, [None, 3.0], [-INF, -INF]], data_type)
    return pa.array(LISTS, data_type)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    "data_type",
    [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.float64(), 2), pa.list_(pa.float32())],
    ids=str,
)
def test_lists_are_rows(data_type: pa.DataType) -> None:
    whole = lists_of(data_type)
    for lists in (whole, whole[1:], whole[2:4], whole[:0], pa.chunked_array([whole[:2], whole[2:]])):
        rows = [None if row is None else [x for x in row if x is not None] for row in lists.to_pylist()]
        found = list_functions.logsumexp(lists)
        assert found.to_pylist() == [None if row is None else logsumexp(row) for row in rows]
        assert isinstance(found, pa.ChunkedArray) == isinstance(lists, pa.ChunkedArray)
        for name in ("softmax", "log_softmax"):
            weights = getattr(list_functions, name)(lists)
            weights.validate(full=True)
            expected = [None if row is None else getattr(lse_stream, name)(row).tolist() for row in rows]
            kept = [None if row is None else [x for x in row if x is not None] for row in weights.to_pylist()]
            np.testing.assert_equal(kept, expected)
            nulls = [row and [x is None for x in row] for row in lists.to_pylist()]
            assert [row and [x is None for x in row] for row in weights.to_pylist()] == nulls
            assert weights.type.value_type == pa.float64()
    with_nulls = list_functions.logsumexp(whole, skip_nulls=False).to_pylist()
    assert [x is None for x in with_nulls] == [row is None or None in row for row in whole.to_pylist()]
    few = list_functions.logsumexp(whole, min_count=2).to_pylist()
    assert [x is None for x in few] == [row is None or len(row) - row.count(None) < 2 for row in whole.to_pylist()]


def test_columns_of_numbers_add() -> None:
    x, y = pa.array([1, 2, None, 4]), pa.chunked_array([[1.0], [None, 3.0, 5.0]])
    assert list_functions.logaddexp(x, y).to_pylist() == [logaddexp(1, 1), None, None, logaddexp(4, 5)]
    assert list_functions.logaddexp(y, x).to_pylist() == list_functions.logaddexp(x, y).to_pylist()
    assert list_functions.logaddexp(x.dictionary_encode(), y).to_pylist() == list_functions.logaddexp(x, y).to_pylist()


# --- what counts as numbers -------------------------------------------------------------------------------------------


def array_type(dtype: str) -> str:
    """NumPy's name of a nullable type of pandas."""
    return dtype.lower().removesuffix("[pyarrow]")


def assert_same_masked(found: Any, expected: Any) -> None:
    assert type(found) is type(expected) is np.ma.MaskedArray
    assert found.dtype == expected.dtype
    assert found.mask.tolist() == expected.mask.tolist()
    assert found.compressed().tobytes() == expected.compressed().tobytes()


@pytest.mark.parametrize("dtype", ["Int8", "UInt16", "Int64", "Float32", "Float64", "int64[pyarrow]"])
def test_nulls_of_pandas_are_nulls(dtype: str) -> None:
    array = pd.array([1, 2, 3, None], dtype=dtype)
    masked = np.ma.array(array.fillna(0).to_numpy(array_type(dtype)), mask=[False, False, False, True])
    for values in (array, pd.Series(array), pd.Series(array, index=[9, 7, 7, 1])):
        assert logsumexp(values) == logsumexp(array[:3])
        state = LogSumExpAccumulator(values)
        assert (state.value(), state.count) == (logsumexp([1, 2, 3]), 3)
        assert WeightedLogSumExpAccumulator(values, [1.0, 1.0, 1.0, 5.0]).count == 3
        for call in (softmax, log_softmax):
            assert_same_masked(call(values), call(masked))
    assert softmax(array[:3]).tolist() == softmax(np.array([1, 2, 3], array_type(dtype))).tolist()


def test_scalars_are_numbers() -> None:
    state = LogSumExpAccumulator([np.array(1.0), pa.scalar(2), pa.scalar(2.5, pa.float32())])
    state.add(np.array(3))
    assert state == LogSumExpAccumulator([1.0, 2.0, 2.5, 3.0])
    assert logsumexp(np.array(3.0)) == logsumexp(pa.scalar(3.0)) == 3.0
    with pytest.raises(TypeError, match="expected a real number, found a null"):
        state.add(pa.scalar(None, pa.float64()))


def test_a_mask_as_weights() -> None:
    values, mask = [1.0, 7.0, 2.0], [True, False, True]
    for b in (mask, np.array(mask)):
        assert logsumexp(values, b=b) == logsumexp([1.0, 2.0]) == scipy.special.logsumexp(values, b=np.array(mask))
    assert logsumexp(np.eye(3), axis=1, b=True).tolist() == logsumexp(np.eye(3), axis=1).tolist()


TABLE = {"a": [1, 2], "b": [3, None]}
FRAMES = {
    "table": pa.table(TABLE),
    "chunks": pa.concat_tables([pa.table(TABLE).slice(0, 1), pa.table(TABLE).slice(1)]),
    "batch": pa.RecordBatch.from_pydict(TABLE),
    "polars": pl.DataFrame(TABLE),
    "pandas": pd.DataFrame(TABLE, dtype="Int64"),
    "pandas, Arrow": pd.DataFrame(TABLE, dtype="int64[pyarrow]"),
    "columns": [pa.array([1, 3]), pl.Series([2, None])],
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_nulls_of_tables_are_left_out(frame: Any) -> None:
    masked = np.ma.array([[1, 3], [2, 0]], mask=[[False, False], [False, True]])
    assert logsumexp(frame, axis=1).tolist() == [logsumexp([1, 3]), 2.0] == logsumexp(masked, axis=1).tolist()
    assert logsumexp(frame, axis=0).tolist() == [logsumexp([1, 2]), 3.0]
    assert logsumexp(frame) == logsumexp([1, 2, 3])
    assert logmeanexp(frame, axis=1).tolist() == [logmeanexp([1, 3]), 2.0] == logmeanexp(masked, axis=1).tolist()
    for call in (softmax, log_softmax):
        assert_same_masked(call(frame, axis=1), call(masked, axis=1))
        assert call(frame, axis=1)[0].tolist() == call([1, 3]).tolist()


def test_sparse_data_of_pandas_are_dense() -> None:
    sparse = pd.Series(pd.arrays.SparseArray([0.0, 0.0, 1.0]))
    for values in (sparse, sparse.array, pd.DataFrame({"a": sparse})):
        assert logsumexp(values) == logsumexp([0.0, 0.0, 1.0])
    assert LogSumExpAccumulator(sparse) == LogSumExpAccumulator([0.0, 0.0, 1.0])


def test_tables_of_nothing() -> None:
    assert logsumexp(pa.table({"a": pa.array([], pa.int64())})) == -INF
    assert logsumexp(pa.table({"a": pa.nulls(2), "b": [1.0, 2.0]}), axis=1).tolist() == [1.0, 2.0]
    assert logsumexp(pd.DataFrame(index=range(2)), axis=1).tolist() == [-INF, -INF]
    assert logsumexp(pa.chunked_array([], pa.float32())).dtype == np.float32


ABSENT = [
    np.ma.array([1.0, 50.0, 2.0], mask=[False, True, False]),
    pa.array([1.0, None, 2.0]),
    pl.Series([1.0, None, 2.0]),
    pd.array([1.0, None, 2.0], dtype="Float64"),
]


@pytest.mark.parametrize("x", ABSENT, ids=lambda x: type(x).__name__)
def test_what_is_null_or_masked_has_no_part(x: Any) -> None:
    w = np.array([0.5, 7.0, 2.0])
    assert logsumexp(x) == logsumexp([1.0, 2.0])
    assert logmeanexp(x) == logmeanexp([1.0, 2.0])
    for call in (logsumexp, logmeanexp):
        assert call(x, b=w) == call([1.0, 2.0], b=[0.5, 2.0])
        assert call([0.5, 7.0, 2.0], b=x) == call([0.5, 2.0], b=[1.0, 2.0])
        assert call(x, b=1) == call([1.0, 2.0])
        assert call([[0.0] * 3] * 2, 1, x).tolist() == [call([0.0, 0.0], b=[1.0, 2.0])] * 2
    sums = logaddexp(x, [[0.0], [1.0]])
    assert sums.mask.tolist() == [[False, True, False]] * 2
    assert sums.compressed().tolist() == [*logaddexp([1.0, 2.0], 0.0).tolist(), *logaddexp([1.0, 2.0], 1.0).tolist()]
    weights = softmax_from_state(x, LogSumExpAccumulator(x))
    assert weights.mask.tolist() == [False, True, False]
    assert weights.compressed().tolist() == softmax([1.0, 2.0]).tolist()
    assert WeightedLogSumExpAccumulator(x, w) == WeightedLogSumExpAccumulator([1.0, 2.0], [0.5, 2.0])
    assert LogSumExpAccumulator(x) == LogSumExpAccumulator([1.0, 2.0])


def test_a_mean_of_no_weight_is_none() -> None:
    weights: list[Any] = [[], 1.0, np.ones(0)]
    for b in weights:
        assert math.isnan(logmeanexp([], b=b))
        assert math.isnan(WeightedLogSumExpAccumulator([], []).logmeanexp())
        assert logsumexp([], b=b) == -INF
    assert logmeanexp([]) == -INF
    assert np.isnan(logmeanexp(np.zeros((2, 0)), axis=1, b=1)).tolist() == [True, True]
    nothing = np.ma.array([[1.0], [2.0]], mask=[[True], [False]])
    np.testing.assert_equal(logmeanexp(nothing, axis=1, b=1), [NAN, 2.0])


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "float32", "float64"])
def test_the_dtype_is_that_of_the_values_in_every_container(dtype: str) -> None:
    x = np.array([1, 2, 3], dtype)
    containers = [
        pa.array(x),
        pa.chunked_array([pa.array(x[:1]), pa.array(x[1:])]),
        pl.Series(x),
        pd.Series(x),
        pd.array(x, dtype=pd.ArrowDtype(pa.from_numpy_dtype(x.dtype))),
        pd.array([1, 2, 3], dtype=dtype.title().replace("Ui", "UI")),
        list(x),
        np.ma.array(x),
    ]
    for values in containers:
        for call in (logsumexp, logmeanexp, softmax, log_softmax):
            assert_like(np.asarray(call(values))[()], call(x))
        assert_like(np.asarray(logaddexp(values, values)), logaddexp(x, x))
        for frame in (pa.table([pa.array(x)] * 2, names=["a", "b"]), pd.DataFrame({"a": x, "b": x}), [list(x)] * 2):
            assert logsumexp(frame).dtype == logsumexp(x).dtype
    assert_like(logsumexp(list(x)), quietly(scipy.special.logsumexp, x))
    if dtype != "uint16":  # of which scipy's differences wrap around
        assert_like(softmax(list(x)), quietly(scipy.special.softmax, list(x)))


MASK = [True, False, True]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
@pytest.mark.parametrize(
    "b",
    [
        MASK,
        tuple(MASK),
        np.array(MASK),
        [np.bool_(x) for x in MASK],
        [[x] for x in MASK],
        [[True, False, True], [True, True, False]],
        True,
        np.bool_(True),
        pd.Series(MASK),
        pd.array(MASK, dtype="boolean"),
        pd.Series(MASK, dtype="boolean"),
        pa.array(MASK),
        pa.array([False, *MASK])[1:],
        pa.chunked_array([MASK[:1], MASK[1:]]),
        pl.Series(MASK),
        pd.DataFrame({"a": [True, False], "b": [True, True], "c": [False, False]}),
    ],
    ids=lambda mask: type(mask).__name__,
)
def test_a_mask_as_weights_of_any_kind(b: Any, dtype: str) -> None:
    x = np.array([1.0, 7.0, 2.0], dtype)
    mask = np.array(b.to_pylist() if isinstance(b, pa.ChunkedArray) else b, np.bool_)
    assert_like(logsumexp(x, -1, b), quietly(scipy.special.logsumexp, x, -1, mask))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_that_are_all_1_give_the_bits_of_none(axis: int | None) -> None:
    x = np.array([[0.0, -260.0, -np.inf], [5.0, 5.0, -40.0]])
    for b in (1, 1.0, np.ones(3), np.ones((2, 3), np.float32), [[1], [1]]):
        assert logsumexp(x, axis, b).tobytes() == logsumexp(x, axis).tobytes()
        log, sign = logsumexp(x, axis, b, return_sign=True)
        assert log.tobytes() == logsumexp(x, axis).tobytes()
        assert (sign == (log > -np.inf)).all()
    assert logsumexp([0.0, -260.0], b=[1.0, 1.0]) == 1.2118104830828574e-113
