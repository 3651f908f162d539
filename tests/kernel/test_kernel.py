"""The kernel: every instruction set and the NumPy twin give the same bits, by group or not."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import any_float, misaligned, random_values
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_stream import StateError, _kernel, kernel_name
from lse_stream._kernel.constants import FAULT_LIMBS, NO_BASE
from lse_stream._kernel.sums import FAULTS
from lse_stream._kernel.twin import kernel as numpy_kernel
from lse_stream.scales import Scale

SUM = _kernel.SUM


def states_of(groups: list[np.ndarray], module: ModuleType | None = None) -> np.ndarray:
    """One state per group, each through State: no grouped code takes part."""
    records = []
    for values in groups:
        state = (module or _kernel._kernel()).State()
        state._update(np.ascontiguousarray(values))
        records.append(state._sum())
    return np.frombuffer(b"".join(records), SUM)


def assert_equal_states(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.size == expected.size
    different = [i for i in range(found.size) if found[i].tobytes() != expected[i].tobytes()]
    assert not different, (different[0], found[different[0]], expected[different[0]])


# --- same bits --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("kernel")
@given(st.lists(any_float, max_size=60))
def test_state_has_the_twins_bits(values: list[float]) -> None:
    x = np.array(values, np.float64)
    expected = states_of([x], numpy_kernel)
    assert_equal_states(states_of([x]), expected)
    one_by_one = _kernel._kernel().State()
    for value in values:
        one_by_one.add(value)
    assert one_by_one._sum() == expected.tobytes()
    out = np.empty(1)
    numpy_kernel.values_of(expected, out)
    assert _kernel.state_values(expected).tobytes() == out.tobytes()


def code_patterns(rng: np.random.Generator, n: int, groups: int) -> list[np.ndarray]:
    scattered = rng.integers(0, groups, n)
    runs = np.repeat(rng.integers(0, groups, n), rng.integers(1, 90))[:n]
    few = np.where(rng.random(n) < 0.9, 0, scattered)
    return [scattered, np.sort(scattered), runs, few, np.arange(n) % groups, np.zeros(n)]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("seed", range(40))
def test_groups_have_the_bits_of_single_states(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, groups = int(10 ** rng.uniform(0, 3.7)), int(10 ** rng.uniform(0, 2.3))
    x = random_values(rng, n)
    for codes in code_patterns(rng, n, groups):
        codes = codes.astype(np.int32)
        expected = states_of([x[codes == g] for g in range(groups)], numpy_kernel)
        states = _kernel.group_values(codes, x, groups)
        assert_equal_states(states, expected)
        _kernel.check_sums(states)
        coarse = rng.integers(0, 3, groups).astype(np.int32)
        merged = _kernel.merge_groups(coarse, states, 3)
        assert_equal_states(merged, states_of([x[coarse[codes] == g] for g in range(3)], numpy_kernel))
        assert _kernel.state_values(merged).tobytes() == _reference_values(merged).tobytes()


def _reference_values(states: np.ndarray) -> np.ndarray:
    out = np.empty(states.size)
    numpy_kernel.values_of(states, out)
    return out


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(1000, 4000))
def test_groups_have_the_bits_of_single_states_at_length(seed: int) -> None:
    for name in _kernel.available():
        _kernel.select(name)
        test_groups_have_the_bits_of_single_states(seed)
    _kernel.select(_kernel.available()[0])


@pytest.mark.usefixtures("kernel")
def test_a_group_outgrows_its_narrow_sums() -> None:
    # 2^62 / 2^49 terms fill a low part: sums must pass into the high one, also below zero
    n = 40_000
    x = np.concatenate([np.full(n, 34.6), np.full(n, -0.001)])
    codes = np.arange(2 * n, dtype=np.int32) % 3
    np.random.default_rng(5).shuffle(codes)
    assert_equal_states(_kernel.group_values(codes, x, 3), states_of([x[codes == g] for g in range(3)]))


@pytest.mark.usefixtures("kernel")
def test_a_maximum_that_grows_within_a_run_of_codes() -> None:
    # the runs of one code lie apart in one pass, and each raises the base
    codes = np.tile(np.repeat([0, 1], 4), 40).astype(np.int32)
    x = np.asarray(np.arange(codes.size) * 17.0, np.float64)
    assert_equal_states(_kernel.group_values(codes, x, 2), states_of([x[codes == g] for g in range(2)]))
    far = np.asarray(x * np.where(np.arange(codes.size) % 9 == 0, 2.0**19, 1.0), np.float64)
    assert_equal_states(_kernel.group_values(codes, far, 2), states_of([far[codes == g] for g in range(2)]))


@pytest.mark.usefixtures("kernel")
def test_groups_without_rows_are_empty_states() -> None:
    for codes in ([4, 2, 2], [2, 2, 4]):
        states = _kernel.group_values(np.array(codes, np.int32), np.zeros(3), 6)
        assert states["count"].tolist() == [0, 0, 2, 0, 1, 0]
        assert_equal_states(states[[0, 1, 3, 5]], _kernel.empty_sums(4))
    assert_equal_states(_kernel.group_values(np.zeros(0, np.int32), np.zeros(0), 2), _kernel.empty_sums(2))
    assert_equal_states(_kernel.merge_groups(np.zeros(0, np.int32), _kernel.empty_sums(0), 2), _kernel.empty_sums(2))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_arrays_between_two_words_are_those_at_words(dtype: type) -> None:
    x: np.ndarray = np.random.default_rng(5).normal(size=3000).astype(dtype)
    assert not misaligned(x).flags.aligned
    assert_equal_states(states_of([misaligned(x)]), states_of([x]))
    codes, w = (np.arange(3000) % 7).astype(np.int32), np.ones(3000)
    states = _kernel.group_values(codes, x, 7)
    assert_equal_states(_kernel.group_values(misaligned(codes), misaligned(x), 7), states)
    weighted = _kernel.group_terms(misaligned(codes), misaligned(x), misaligned(w), 7)
    assert_equal_states(weighted, _kernel.group_terms(codes, x, w, 7))
    rows = x.reshape(-1, 5)
    assert _kernel.row_values(misaligned(rows)).tobytes() == _kernel.row_values(rows).tobytes()
    assert _kernel.row_softmax(misaligned(rows)).tobytes() == _kernel.row_softmax(rows).tobytes()
    words, begins = _kernel.sum_products(codes, x, None, 7)
    assert _kernel.sum_products(misaligned(codes), misaligned(x), None, 7)[0].tobytes() == words.tobytes()
    found = _kernel.exact_values((misaligned(words), misaligned(begins[:-1])))
    assert found.tobytes() == _kernel.exact_values((words, begins[:-1])).tobytes()


@pytest.mark.skipif(_kernel.native is None, reason="the twin writes wherever NumPy does")
def test_nothing_is_written_between_two_words() -> None:
    native: Any = _kernel.native
    with pytest.raises(ValueError, match="expected an aligned array to write to"):
        native.values_of(_kernel.empty_sums(3), np.frombuffer(bytearray(25), np.float64, offset=1))


# --- weights, scales, exact sums --------------------------------------------------------------------------------------

SCALES = [
    _kernel.NATURAL_FACTOR,
    *(np.array(pair) for pair in ((np.log(2), 2.3e-17), (1e-3, 1e-20), (1e40, -1e20), (1e-90, 0))),
]
STRANGE_WEIGHTS = [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-310, -1.7e308, 2.0**400, 2.0**-400, 3.0]


def with_every_kernel(call: Any) -> Any:
    """What ``call`` gives, which all kernels agree on to the last bit."""
    before = kernel_name()
    results = []
    for name in _kernel.available():
        _kernel.select(name)
        results.append(call())
    _kernel.select(before)
    expected = results[-1]
    parts = [result if isinstance(result, tuple) else (result,) for result in results]
    for found in parts:
        assert [part.tobytes() for part in found] == [part.tobytes() for part in parts[-1]]
    return expected


@pytest.mark.parametrize("seed", range(60))
def test_products_and_sums_have_the_twins_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, groups = int(rng.integers(0, 1500)), int(rng.integers(1, 40))
    x, scale = random_values(rng, n), SCALES[rng.integers(len(SCALES))]
    if n:
        x[rng.random(n) < 0.05] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300])
    codes = rng.integers(0, groups, n).astype(np.int32)
    codes = np.sort(codes) if rng.random() < 0.3 else codes
    weights = [
        None,
        rng.choice(STRANGE_WEIGHTS, n),
        rng.normal(size=n),
        rng.normal(size=n) * np.exp(rng.normal(size=n) * 100),
    ][rng.integers(4)]
    coarse = rng.integers(0, 3, groups).astype(np.int32)
    states = with_every_kernel(lambda: _kernel.group_terms(codes, x, weights, groups, scale))
    for name in _kernel.available():
        _kernel.select(name)
        _kernel.check_sums(states, scale)
    _kernel.select(_kernel.available()[0])
    merged = with_every_kernel(lambda: _kernel.merge_groups(coarse, states, 3, scale))
    assert_equal_states(merged, _kernel.group_terms(coarse[codes], x, weights, 3, scale))
    counts = rng.integers(1, 2**62, groups)
    with_every_kernel(lambda: _kernel.quotients_of(states, states["count"], scale))
    with_every_kernel(lambda: _kernel.quotients_of(states, counts, scale))
    with_every_kernel(lambda: _kernel.softmax_of(states, codes, x, scale))
    words, begins = with_every_kernel(lambda: _kernel.sum_products(codes, x, weights, groups))
    whole = with_every_kernel(lambda: _kernel.merge_sums(coarse, words, begins[:-1], 3))
    again = _kernel.sum_products(coarse[codes], x, weights, 3)
    assert [part.tobytes() for part in whole] == [part.tobytes() for part in again]


@pytest.mark.parametrize("specials", [[], [np.inf], [np.nan] * 8192, [np.inf, -np.inf], [-np.inf] * 5000])
def test_sums_of_very_many_numbers(specials: list[float]) -> None:
    """They go another way, which must end at the same words; here each also by way of products."""
    rng = np.random.default_rng(12)
    any_bits = rng.integers(0, 2**64, 9000, dtype=np.uint64).view(np.float64)
    for x in (
        np.where(np.isfinite(any_bits), any_bits, 0.0),
        rng.normal(size=4096),
        np.full(9000, -1.7e308),
        np.full(9000, 5e-324),
        np.where(rng.random(9000) < 0.5, 1e308, -1e308),
    ):
        values = np.concatenate([x, specials])
        codes = np.zeros(values.size, np.int32)
        words, _ = with_every_kernel(lambda codes=codes, values=values: _kernel.sum_products(codes, values, None, 1))
        assert words.tobytes() == _kernel.sum_products(codes, values, np.ones(values.size), 1)[0].tobytes()


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(1000, 3000))
def test_products_and_sums_have_the_twins_bits_at_length(seed: int) -> None:
    test_products_and_sums_have_the_twins_bits(seed)


@pytest.mark.usefixtures("kernel")
def test_products_of_one_group_have_the_bits_of_many_blocks() -> None:
    rng = np.random.default_rng(9)
    x, w = rng.normal(size=5000) * 40, rng.normal(size=5000)
    whole = _kernel.group_terms(np.zeros(5000, np.int32), x, w, 1)
    assert_equal_states(_kernel.group_terms(np.zeros(5000, np.int32), x[::-1], w[::-1], 1), whole)
    each = _kernel.group_terms(np.arange(5000, dtype=np.int32), x, w, 5000)
    assert_equal_states(_kernel.merge_groups(np.zeros(5000, np.int32), each, 1), whole)


@pytest.mark.usefixtures("kernel")
def test_the_count_may_be_any_when_a_mean_is_taken() -> None:
    states = _kernel.group_values(np.zeros(4, np.int32), np.full(4, 0.5), 1)
    for n in (1, 4, 2**53 + 1, 2**62 + 1, 2**63 - 1):
        _, high, _, q, _ = _kernel.quotients_of(states, np.array([n]))[0]
        assert q == 4 / n
        assert high == pytest.approx(np.log(4 / n), rel=1e-15, abs=1e-300)


# --- single states on a scale ----------------------------------------------------------------------------------------

# The natural factor is here for its sum of e^-x.
FACTORS = [
    *(Scale(name).factor for name in ("log2", "decibel", "magnitude", "natural", "temperature 1e-30")),
    *SCALES[2:],
]


def state_on(scale: np.ndarray, descends: bool) -> Any:
    state = _kernel._kernel().State()
    state._use_scale(*scale.tolist(), descends)
    return state


def terms_sum(x: np.ndarray, scale: np.ndarray, descends: bool) -> bytes:
    """The sum that a state on the scale must have: that of the grouped code."""
    codes = np.zeros(x.size, np.int32)
    return _kernel.group_terms(codes, -x if descends else x, None, 1, scale).tobytes()


def check_state_on(values: list[float], scale: np.ndarray, descends: bool) -> None:
    x = np.array(values, np.float64)
    expected = terms_sum(x, scale, descends)
    one_by_one, at_once, merged = (state_on(scale, descends) for _ in range(3))
    for value in values:
        one_by_one.add(value)
    at_once._update(x)
    for part in (x[: x.size // 3], x[x.size // 3 :]):
        state = state_on(scale, descends)
        state._update(part)
        merged.merge(state)
    loaded = state_on(scale, descends)
    loaded._set_sum(expected)
    for state in (one_by_one, at_once, merged, loaded):
        assert state._sum() == expected
        assert state.count == x.size
    maximum = float(np.frombuffer(expected, SUM)["max"][0])
    assert repr(one_by_one.max) == repr(0.0 - maximum if descends else maximum)  # -0.0 is not 0.0, and NaN is NaN
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = x.astype(np.float32)
    state = state_on(scale, descends)
    state._update(narrow)
    assert state._sum() == terms_sum(narrow.astype(np.float64), scale, descends)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("descends", [False, True])
@pytest.mark.parametrize("scale", FACTORS)
@settings(max_examples=40)
@given(values=st.lists(any_float, max_size=40))
def test_a_state_on_a_scale_has_the_bits_of_groups(scale: np.ndarray, descends: bool, values: list[float]) -> None:
    check_state_on(values, scale, descends)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("seed", range(24))
def test_a_state_on_a_scale_has_the_bits_of_groups_at_length(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = random_values(rng, int(rng.integers(500, 3000)))
    if seed % 3 == 0:
        x[rng.random(x.size) < 0.01] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300, 2.0**60, -0.0, 5e-324])
    check_state_on(x.tolist(), FACTORS[seed % len(FACTORS)], seed % 2 == 0)


def test_all_kernels_agree_on_states_on_a_scale() -> None:
    x = random_values(np.random.default_rng(11), 700)
    for scale in FACTORS:

        def record(scale: np.ndarray = scale) -> np.ndarray:
            state = state_on(scale, True)
            state._update(x)
            return np.frombuffer(state._sum(), SUM)

        with_every_kernel(record)


@pytest.mark.usefixtures("kernel")
def test_a_state_on_the_natural_scale_is_the_plain_one() -> None:
    plain, state = _kernel._kernel().State(), state_on(_kernel.NATURAL_FACTOR, False)
    for one in (plain, state):
        one.add(1.5)
        one._update(np.array([2.5, -3.0]))
    state.merge(plain)
    plain.merge(plain)
    assert state.to_bytes() == plain.to_bytes()
    assert state.value() == plain.value()


@pytest.mark.usefixtures("kernel")
def test_a_sum_is_checked_by_the_scale_of_its_terms() -> None:
    total = sum_of(20.0, 70.0)
    _kernel.check_sums(total)
    # The rest is e^20, not 2^20.
    assert _kernel._kernel().check(total, FACTORS[0]) == (0, FAULT_LIMBS)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("other", [(FACTORS[1], False), (FACTORS[0], True), (_kernel.NATURAL_FACTOR, False)])
def test_states_on_two_scales_do_not_merge(other: tuple[np.ndarray, bool]) -> None:
    one, two = state_on(FACTORS[0], False), state_on(*other)
    for first, second in ((one, two), (two, one)):
        first.add(1.0)
        before = first._sum()
        with pytest.raises(TypeError, match="expected a state on the same scale to merge"):
            first.merge(second)
        assert first._sum() == before


@pytest.mark.usefixtures("kernel")
def test_the_scale_of_a_state_is_fixed_and_its_value_not_the_kernels() -> None:
    state = state_on(FACTORS[0], False)
    state.add(1.0)
    with pytest.raises(ValueError, match="natural scale alone"):
        state.value()
    with pytest.raises(ValueError, match="natural scale alone"):
        state.to_bytes()
    with pytest.raises(ValueError, match="not empty"):
        state._use_scale(1.0, 0.0, False)
    assert state_on(FACTORS[0], True).max == np.inf


# --- wrong calls ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("code", [-1, 2, 2**31 - 1])
def test_a_code_out_of_range_is_refused(code: int) -> None:
    codes = np.array([0, code], np.int32)
    with pytest.raises(IndexError):
        _kernel.group_values(codes, np.zeros(2), 2)
    with pytest.raises(IndexError):
        _kernel.merge_groups(codes, _kernel.empty_sums(2), 2)
    with pytest.raises(IndexError):
        _kernel.group_terms(codes, np.zeros(2), np.ones(2), 2)
    with pytest.raises(IndexError):
        _kernel.softmax_of(_kernel.empty_sums(2), codes, np.zeros(2))
    with pytest.raises(IndexError):
        _kernel.sum_products(codes, np.zeros(2), None, 2)
    with pytest.raises(IndexError):
        _kernel.merge_sums(codes, np.zeros(2, np.uint64), np.arange(2), 2)


@pytest.mark.skipif(_kernel.native is None, reason="NumPy knows what its arrays have")
def test_what_is_no_array_of_sums_is_refused() -> None:
    native: Any = _kernel.native
    codes, out, scale = np.zeros(2, np.int32), np.empty((2, 5)), _kernel.NATURAL_FACTOR
    # Of other items, of none, and of weighted sums where there are no weights.
    for items in (np.zeros(20), np.zeros(2, "V0"), np.zeros(2, "V160"), np.empty(2, _kernel.WEIGHTED_SUM)):
        calls: list[tuple[Any, ...]] = [
            (native.values_of, items, out[0, :2]),
            (native.group_values, items, codes, np.zeros(2)),
        ]
        if items.dtype != _kernel.WEIGHTED_SUM:
            calls += [
                (native.check, items, scale),
                (native.merge_groups, items, codes, items, scale),
                (native.group_terms, items, codes, np.zeros(2), _kernel.NONE, scale),
                (native.quotients_of, items, np.ones(2, np.int64), scale, out),
                (native.reciprocals_of, items, scale, out),
                (native.Groups("values", 1.0, 0.0).merge, (codes, items), 1),
            ]
        for call, *by in calls:
            with pytest.raises(ValueError, match="arrays of different lengths, or of other items than expected"):
                call(*by)


@pytest.mark.usefixtures("kernel")
def test_a_count_beyond_int64_is_refused() -> None:
    states = _kernel.group_values(np.array([0, 1], np.int32), np.array([-np.inf, -np.inf]), 2)
    states["count"] = 2**62
    with pytest.raises(OverflowError, match="count"):
        _kernel.merge_groups(np.zeros(2, np.int32), states, 1)
    assert states["count"].tolist() == [2**62, 2**62]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("x", [1.0, -np.inf])
def test_a_value_added_to_the_largest_count_is_refused(x: float) -> None:
    total = _kernel.group_values(np.array([0], np.int32), np.array([-np.inf]), 1)
    total["count"] = total["ties"] = 2**63 - 1
    state = _kernel.State()
    state._set_sum(total.tobytes())

    def add() -> None:
        state.add(x)
        state._sum()  # the twin adds values here at the latest

    with pytest.raises(OverflowError, match="count"):
        add()
    assert state._sum() == total.tobytes()


@pytest.mark.usefixtures("kernel")
def test_a_tuple_is_no_state() -> None:
    state = _kernel.State()
    tuples: list[Any] = [(), (1.0,), (1.0, 2.0)]
    for other in tuples:
        with pytest.raises(TypeError, match="expected a state on the same scale to merge, found <class 'tuple'>"):
            state.merge(other)
    assert state.count == 0


# --- rules ------------------------------------------------------------------------------------------------------------


def sum_of(*values: float) -> np.ndarray:
    return _kernel.group_values(np.zeros(len(values), np.int32), np.array(values, np.float64), 1)


def weighted_sum_of(*values: float) -> np.ndarray:
    weights = np.linspace(1.0, 2.0, len(values))
    return _kernel.group_terms(np.zeros(len(values), np.int32), np.array(values, np.float64), weights, 1)


def damaged(total: np.ndarray, **fields: Any) -> np.ndarray:
    total = total.copy()
    for field, value in fields.items():
        total[field] = value
    return total


NORMAL = sum_of(1.0, 2.0, 3.0)
TIED = sum_of(1.0, 3.0, 3.0)
SINGLE = sum_of(0.0)
HUGE = sum_of(1e300, 1e300, 5.0)
INFINITE = sum_of(np.inf, 1.0)
NOT_A_NUMBER = sum_of(np.nan, 1.0)
EMPTY = _kernel.empty_sums(1)
WEIGHTED = weighted_sum_of(1.0, 2.0, 3.0)
OTHER_NAN = np.array([0xFFF8000000000001], np.uint64).view(np.float64)[0]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("total", "field"),
    [
        (damaged(NORMAL, count=-1), "count"),
        (damaged(NORMAL, count=0), "max"),
        (damaged(SINGLE, max=-0.0), "max"),
        (damaged(NOT_A_NUMBER, max=OTHER_NAN), "max"),
        (damaged(EMPTY, max=0.0), "max"),
        (damaged(NORMAL, ties=0), "ties"),
        (damaged(NORMAL, ties=-1), "ties"),
        (damaged(NORMAL, ties=4), "ties"),
        (damaged(EMPTY, ties=1), "ties"),
        (damaged(NOT_A_NUMBER, ties=1), "ties"),
        (damaged(HUGE, ties=4), "ties"),
        (damaged(NORMAL, ties=3), "second"),
        (damaged(NORMAL, second=3.0), "second"),
        (damaged(NORMAL, second=4.0), "second"),
        (damaged(NORMAL, second=np.nan), "second"),
        (damaged(NORMAL, second=-(2.0**60)), "second"),
        (damaged(NORMAL, max=1e300), "second"),
        (damaged(sum_of(0.0, 1.0), second=-0.0), "second"),
        (damaged(INFINITE, second=1.0), "second"),
        (damaged(HUGE, second=5.0), "second"),
        (damaged(NORMAL, second=-np.inf), "limbs"),
        (damaged(NORMAL, second=2.5), "limbs"),
        (damaged(NORMAL, limbs=0), "limbs"),
        (damaged(NORMAL, ties=2), "limbs"),
        (damaged(TIED, limbs=NORMAL["limbs"]), "limbs"),
        (damaged(NORMAL, limbs=[[0, 1], [0, 0], [0, 0]]), "limbs"),
        (damaged(NORMAL, limbs=[[0, 2**63], [0, 0], [0, 0]]), "limbs"),
        (damaged(INFINITE, limbs=1), "limbs"),
        (damaged(NOT_A_NUMBER, limbs=1), "limbs"),
        (damaged(HUGE, limbs=1), "limbs"),
        (damaged(SINGLE, limbs=1), "limbs"),
    ],
)
def test_a_sum_that_is_not_canonical_is_refused(total: np.ndarray, field: str) -> None:
    column = np.concatenate([NORMAL, HUGE, total, total])
    with pytest.raises(StateError, match=f"^state 2: expected .*, found {field} ") as caught:
        _kernel.check_sums(column)
    assert caught.value.row == 2
    assert any(name == field and expected in str(caught.value) for expected, name in FAULTS.values())


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("total", "field"),
    [
        (damaged(WEIGHTED, count=-1), "count"),
        (damaged(WEIGHTED, max=-0.0), "max"),
        (damaged(WEIGHTED, max=2000.0), "base"),
        (damaged(WEIGHTED, base=NO_BASE), "base"),
        (damaged(weighted_sum_of(np.inf), base=0), "base"),
        (damaged(weighted_sum_of(np.inf), limbs=1), "limbs"),
        (damaged(WEIGHTED, limbs=[[0, 2**63], [0, 0], [0, 0]]), "limbs"),
    ],
)
def test_a_weighted_sum_that_is_not_canonical_is_refused(total: np.ndarray, field: str) -> None:
    with pytest.raises(StateError, match=f"^state 1: expected .*, found {field} "):
        _kernel.check_sums(np.concatenate([WEIGHTED, total]))


@pytest.mark.usefixtures("kernel")
def test_canonical_sums_pass() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        x = random_values(rng, 300)
        _kernel.check_sums(_kernel.group_values(rng.integers(0, 40, 300).astype(np.int32), x, 41))


def test_kernels_agree_on_damaged_sums() -> None:
    rng = np.random.default_rng(4)
    verdicts = set()
    for good in (
        np.concatenate([NORMAL, TIED, HUGE, INFINITE, NOT_A_NUMBER, sum_of(-5e5, 7.0, 9.0), EMPTY]),
        np.concatenate([WEIGHTED, weighted_sum_of(1e300, 5.0), weighted_sum_of(np.inf), weighted_sum_of(np.nan)]),
    ):
        for _ in range(400):
            raw = np.frombuffer(good.tobytes(), np.uint8).copy()
            raw[rng.integers(raw.size)] ^= np.uint8(1 << rng.integers(8))
            found = [_check(name, raw.view(good.dtype)) for name in _kernel.available()]
            assert len(set(found)) == 1, (found, raw.view(good.dtype))
            verdicts.add(found[0])
    assert len(verdicts) > 16


def _check(name: str, sums: np.ndarray) -> tuple[int, int] | None:
    kernel = numpy_kernel if name == "numpy" else _kernel._kernel()
    fault: tuple[int, int] | None = kernel.check(sums, _kernel.NATURAL_FACTOR)
    return fault


# --- which kernel -----------------------------------------------------------------------------------------------------


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("name", _kernel.available())
def test_the_environment_forces_a_kernel(name: str) -> None:
    run = run_python("import lse_stream; print(lse_stream.kernel_name())", LSE_STREAM_KERNEL=name)
    assert run.stdout == f"{name}\n"


def test_an_unknown_kernel_is_refused_with_the_choice() -> None:
    run = run_python("import lse_stream._kernel", LSE_STREAM_KERNEL="avx9")
    assert run.returncode != 0
    assert f"expected one of {', '.join(_kernel.available())} on this machine, found 'avx9'" in run.stderr


def test_without_the_extension_the_twin_serves() -> None:
    code = (
        "import sys; sys.modules['lse_stream._kernel.native'] = None\n"
        "import lse_stream; print(lse_stream.kernel_name(), lse_stream.logsumexp([1, 2, 3, 4, 5]))"
    )
    for name, warned in (("", 1), ("numpy", 0)):
        run = run_python(code, LSE_STREAM_KERNEL=name)
        assert run.stdout == "numpy 5.451914395937593\n"
        assert run.stderr.count("RuntimeWarning: the compiled kernel of lse_stream is not there") == warned


@pytest.mark.usefixtures("kernel")
def test_a_kernel_with_other_bits_is_refused_and_the_one_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before, of_native = kernel_name(), list[str]()
    monkeypatch.setattr(_kernel, "KNOWN_ANSWERS", "other")
    if _kernel.native:
        monkeypatch.setattr(_kernel.native, "select", of_native.append)
    for name in _kernel.available():
        with pytest.raises(RuntimeError, match=f"{name!r} gives wrong bits"):
            _kernel.select(name)
        assert kernel_name() == before
        if before != "numpy":
            assert not of_native or of_native[-1] == before


def test_the_committed_constants_are_the_scripts_output() -> None:
    path = Path(_kernel.__file__).with_name("generate_constants.py")
    spec = importlib.util.spec_from_file_location("generate_constants", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, content in script.FILES.items():
        assert (path.parent / name).read_text(encoding="ascii") == content()
