"""Exact sums while rows are added: what fits a window and what does not are together the sum of all, bit by bit."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import random_values

from lse_stream import _kernel

pytestmark = pytest.mark.usefixtures("kernel")

Floats = npt.NDArray[np.float64]
GROUPS = 7


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
