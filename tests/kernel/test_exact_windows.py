"""Exact sums while rows are added: what fits a window and what does not are together the sum of all, bit by bit."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import random_values

from lse_stream import _kernel

pytestmark = pytest.mark.usefixtures("kernel")

Floats = npt.NDArray[np.float64]
GROUPS = 7
# Of one group, which are added at once.
ROWS = 512


def in_windows(batches: list[tuple[Any, Floats, Floats | None]]) -> tuple[bytes, int]:
    """The merged sums, and how many rows did not fit."""
    windows = _kernel.ExactWindows()
    parts, misfits = [], 0
    for i, (codes, a, b) in enumerate(batches):
        others = windows.update(codes, a, b, GROUPS)
        misfits += others.size
        parts.append(_kernel.sum_products(codes[others], a[others], None if b is None else b[others], GROUPS))
        if i % 3 == 1:
            parts.append(windows.take())
    parts.append(windows.take())
    starts = np.cumsum([0, *(words.size for words, _ in parts)])
    at = np.concatenate([begins[:-1] + start for (_, begins), start in zip(parts, starts, strict=False)])
    codes = np.tile(np.arange(GROUPS, dtype=np.int32), len(parts))
    return _kernel.merge_sums(codes, np.concatenate([words for words, _ in parts]), at, GROUPS)[0].tobytes(), misfits


def values(kind: str, rng: np.random.Generator, n: int) -> Floats:
    if kind == "ordinary":
        return rng.normal(-3, 2, n)
    if kind == "all magnitudes":
        return random_values(rng, n)
    if kind == "zeros and ones":
        return np.asarray(rng.choice([0.0, -0.0, 1.0, -1.0], n))
    if kind == "that cancel":
        half = rng.normal(0, 1e3, n // 2)
        return rng.permutation(np.concatenate([half, -half]))
    return np.ldexp(-np.abs(rng.normal(0, 1, n)), rng.integers(-40, 40, n))


@pytest.mark.parametrize("kind", ["ordinary", "all magnitudes", "zeros and ones", "that cancel", "of wide spread"])
@pytest.mark.parametrize("factor", ["none", "itself", "another"])
def test_windows_and_what_does_not_fit_are_the_whole(kind: str, factor: str) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        n = 4000
        codes, a = rng.integers(0, GROUPS, n).astype(np.int32), values(kind, rng, n)
        b = None if factor == "none" else a if factor == "itself" else values(kind, rng, n)
        batches = [
            (codes[i : i + 600], a[i : i + 600], None if b is None else b[i : i + 600]) for i in range(0, n, 600)
        ]
        with np.errstate(all="ignore"):
            found, misfits = in_windows(batches)
            assert found == _kernel.sum_products(codes, a, b, GROUPS)[0].tobytes()
        if kind == "ordinary" and _kernel.kernel_name() != "numpy":
            assert misfits < n / 20


# Powers of two, at which all is ordinary, and which are near the ends.
SCALES = [0, 0, 0, 5, -350, -351, -400, -450, -480, -510, 440, 451, -700, -980, -1020, -1060, 880, 1000]


def run_of(rng: np.random.Generator, n: int) -> Floats:
    """Values of one group: near each other, or with some that are not, at any magnitude."""
    x = np.ldexp(rng.normal(-1, 0.3, n), int(rng.choice(SCALES)))
    kind = rng.integers(8)
    odd = rng.random(n) < rng.choice([0.02, 0.5])
    if kind == 1:
        x[odd] = 0.0
    elif kind == 2:  # of up to 2^40 less, so that some or all are beyond the grids
        x = np.ldexp(x, -rng.integers(0, int(rng.choice([12, 18, 25, 34, 40])), n))
    elif kind == 3:
        x[odd] = rng.choice([5e-324, 1e-200, -1e-160, 1e-30], n)[odd]
    elif kind == 4:
        x[rng.integers(n)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
    elif kind == 5:
        x = np.round(x * 64) / 64  # of few bits
    elif kind == 6:
        x = np.abs(x) * rng.choice([-1.0, 1.0], n)
    elif kind == 7:
        x = np.concatenate([x[: n // 2], -x[: n // 2], x[: n % 2]])
    return x


@pytest.mark.parametrize("squares", [False, True], ids=["values", "squares"])
@pytest.mark.parametrize("seed", range(8))
def test_runs_of_one_group_are_added_at_once(seed: int, squares: bool) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.choice([1, 2, 6, 7, 8, 9, 31, 64, 100, 511, 512, 513, 1500], 60)
    codes = np.repeat(rng.integers(0, GROUPS, lengths.size), lengths).astype(np.int32)
    with np.errstate(all="ignore"):
        a = np.concatenate([run_of(rng, n) for n in lengths])
        expected = _kernel.sum_products(codes, a, a if squares else None, GROUPS)[0].tobytes()
        cuts = [0, *np.sort(rng.integers(0, codes.size, 5)).tolist(), codes.size]
        batches = [(codes[i:j], a[i:j], a[i:j] if squares else None) for i, j in itertools.pairwise(cuts)]
        assert in_windows(batches)[0] == expected


@pytest.mark.parametrize("squares", [False, True], ids=["values", "squares"])
def test_what_the_largest_leaves_of_many_equal_values_adds_up(squares: bool) -> None:
    """To sums of doubles that just are exact: at each distance from the largest, however many bits there are."""
    rng = np.random.default_rng(1)
    for distance in range(48):
        for _ in range(8):
            odd = int(rng.integers(1 << 52, 1 << 53)) | 1
            a = np.full(ROWS, -np.ldexp(float(odd >> int(rng.choice([0, 0, 3, 20]))), -52 - distance))
            a[int(rng.integers(ROWS))] = 1.75
            codes = np.zeros(a.size, np.int32)
            expected = _kernel.sum_products(codes, a, a if squares else None, GROUPS)[0].tobytes()
            assert in_windows([(codes, a, a if squares else None)])[0] == expected


def test_squares_that_are_rounded_to_few_bits_lack_others() -> None:
    """Beside many whose rounding errors add up: what one small square lacks is far below, and must not be lost."""
    rng = np.random.default_rng(2)
    odd = (rng.integers(1 << 52, 1 << 53, 1 << 20) | 1).astype(np.float64)
    few_bits = odd[np.frexp(odd * odd)[0] * 2.0**46 % 1 == 0][:200]
    large = [x for x in odd[:4000].tolist() if int(x) ** 2 % 512 in (249, 257)]
    codes = np.zeros(ROWS, np.int32)
    for x, y in zip(few_bits.tolist(), large * 20, strict=False):
        a = np.full(ROWS, np.ldexp(y, -52))
        a[7] = np.ldexp(x, -52 - int(rng.integers(16, 24)))
        assert in_windows([(codes, a, a)])[0] == _kernel.sum_products(codes, a, a, GROUPS)[0].tobytes()


@pytest.mark.parametrize("squares", [False, True], ids=["values", "squares"])
def test_runs_as_of_log_likelihoods_fit(squares: bool) -> None:
    """Else they would be right, but slow."""
    rng = np.random.default_rng(0)
    for spread in (1e-3, 1.0, 1e3):
        codes = np.repeat(np.arange(4, dtype=np.int32), 1024)
        a = -spread * rng.standard_exponential(4096) - spread / 4
        first = np.full(4096, -spread)  # of few bits, or none below those of a sum
        for batches in ([(codes, a)], [(codes, first), (codes, a)], [(codes, np.round(first)), (codes, a)]):
            misfits = in_windows([(codes, x, x if squares else None) for codes, x in batches])[1]
            assert misfits == (a.size * len(batches) if _kernel.kernel_name() == "numpy" else 0)


@pytest.mark.parametrize("x", [1.7976931348623157e308, -5e-324, 3.0, -1e300])
def test_long_sums_of_one_sign_carry_into_the_last_chunk(x: float) -> None:
    a, codes = np.full(20_000, x), np.zeros(20_000, np.int32)
    for b in (None, a):
        found, _ = in_windows([(codes, a, b)])
        assert found == _kernel.sum_products(codes, a, b, GROUPS)[0].tobytes()


def test_bad_codes_and_lengths_are_refused() -> None:
    windows = _kernel.ExactWindows()
    with pytest.raises(IndexError, match="code"):
        windows.update(np.array([2], np.int32), np.zeros(1), None, 2)
    with pytest.raises(ValueError, match="different lengths"):
        windows.update(np.zeros(2, np.int32), np.zeros(1), None, 2)
    with pytest.raises(ValueError, match="different lengths"):
        windows.update(np.zeros(2, np.int32), np.zeros(2), np.zeros(1), 2)
