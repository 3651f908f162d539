"""Sums are a function of the multiset of values, in any order and by any tree of merges, on every kernel.

It is that of a model written without the kernel.
"""

import math
from itertools import combinations
from typing import Any

import model
import numpy as np
import pytest
from conftest import any_float, random_values
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_stream import _kernel
from lse_stream._kernel import SUM, Sums
from lse_stream.accumulators import LogSumExpAccumulator

GRID_STEP = 50 * math.log(2)
SCALES = [(1.0, 0.0), (math.log(2), 2.3190468138462996e-17), (0.1, 5e-19), (1e-3, 1e-20), (1e40, -1e20)]


def sums_of(multisets: list[list[float]], scale: tuple[float, float] = model.NATURAL) -> Sums:
    return np.frombuffer(b"".join(model.sum_of(values, scale) for values in multisets), SUM)


def grouped(multisets: list[list[float]], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The codes and values of all, shuffled."""
    codes = np.repeat(np.arange(len(multisets), dtype=np.int32), [len(values) for values in multisets])
    x = np.array([value for values in multisets for value in values])
    order = rng.permutation(x.size)
    return codes[order], x[order]


@pytest.mark.usefixtures("kernel")
@settings(max_examples=40)
@given(st.lists(any_float, max_size=30), st.integers(0, 30))
def test_a_state_is_that_of_the_model(values: list[float], cut: int) -> None:
    record = model.record_of(values)
    assert LogSumExpAccumulator(values).to_bytes() == record
    one = LogSumExpAccumulator()
    for value in values[:cut]:
        one.add(value)
    one.update(np.array(values[cut:]))
    assert one.to_bytes() == record
    merged = LogSumExpAccumulator(values[cut:])
    merged.merge(LogSumExpAccumulator(values[:cut]))
    assert merged.to_bytes() == record
    assert LogSumExpAccumulator.from_bytes(record) == merged


def adversarial(rng: np.random.Generator) -> list[float]:
    """Values where the ways to one sum part: at steps of the grid, ties, neighbours, far and special ones."""
    n = int(rng.integers(1, 14))
    match rng.integers(7):
        case 0:
            x = rng.uniform(-2000, 2000) - GRID_STEP * rng.integers(0, 5, n) + rng.uniform(-1e-9, 1e-9, n)
        case 1:
            x = rng.choice([1.0, np.nextafter(1.0, 0), np.nextafter(1.0, 2), -0.0, 0.0, -36.0, -400.0], n)
        case 2:
            x = random_values(rng, n)
        case 3:
            x = np.sort(rng.normal(size=n)) * 10.0 ** rng.integers(-3, 20)
        case 4:
            x = rng.choice([-np.inf, np.inf, np.nan, 1e300, -1e300, 2.0**60, -(2.0**60), 2.0**60 - 128, 1.0, 2.0], n)
        case 5:
            x = rng.choice([2.0**23, 2.0**23 - 192, -(2.0**23), 2.0**23 - 191, 5.0, -(2.0**40), 2.0**40 + 1], n)
        case _:
            x = np.round(rng.normal(size=n) * 3)
    return x.tolist() if rng.random() < 0.95 else []


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.fuzz) for seed in range(10, 300))])
def test_every_way_gives_the_sums_of_the_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    multisets = [adversarial(rng) for _ in range(40)]
    codes, x = grouped(multisets, rng)
    part = rng.integers(0, 7, x.size)
    order = np.argsort(codes, kind="stable")
    expected = sums_of(multisets)
    before = _kernel.kernel_name()
    for name in _kernel.available():
        _kernel.select(name)
        assert _kernel.group_values(codes, x, 40).tobytes() == expected.tobytes()
        assert _kernel.group_values(codes[order], x[order], 40).tobytes() == expected.tobytes()
        parts = [_kernel.group_values(codes[part == p], x[part == p], 40) for p in range(7)]
        mixed = rng.permutation(280)
        merged = _kernel.merge_groups(
            np.tile(np.arange(40, dtype=np.int32), 7)[mixed], _kernel.take_sums(_kernel.concat_sums(parts), mixed), 40
        )
        assert merged.tobytes() == expected.tobytes()
        grown = _kernel.Groups("values")
        for p in range(7):
            if p % 2:
                grown.update(codes[part == p], x[part == p], 40)
            else:
                grown.merge(np.arange(40, dtype=np.int32), parts[p], 40)
        assert grown.states().tobytes() == expected.tobytes()
        for scale in SCALES[seed % 5 :][:1]:
            pair = np.array(scale)
            on_scale = _kernel.group_terms(codes, x, None, 40, pair)
            assert on_scale.tobytes() == sums_of(multisets, scale).tobytes()
            parts = [_kernel.group_terms(codes[part == p], x[part == p], None, 40, pair) for p in range(7)]
            tiled = np.tile(np.arange(40, dtype=np.int32), 7)
            assert _kernel.merge_groups(tiled, _kernel.concat_sums(parts), 40, pair).tobytes() == on_scale.tobytes()
        _kernel.check_sums(expected)
    _kernel.select(before)


def merge_all_ways(parts: list[Sums]) -> Sums:
    """The sums that parts (n,) each merge to by every permutation and every binary tree: (ways, n)."""
    n = parts[0].size
    ways: dict[tuple[int, ...], Sums] = {(i,): part.reshape(1, n) for i, part in enumerate(parts)}
    for size in range(2, len(parts) + 1):
        for whole in combinations(range(len(parts)), size):
            merged = []
            for left in (s for k in range(1, size) for s in combinations(whole, k)):
                right = tuple(i for i in whole if i not in left)
                ones, others = np.broadcast_arrays(ways[left][:, None], ways[right][None])
                pairs = np.concatenate([ones.reshape(-1), others.reshape(-1)])
                codes = np.tile(np.arange(ones.size, dtype=np.int32), 2)
                merged.append(_kernel.merge_groups(codes, pairs, ones.size).reshape(-1, n))
            ways[whole] = np.concatenate(merged)
    return ways[tuple(range(len(parts)))]


def check_all_ways(seed: int, multisets: int) -> None:
    rng = np.random.default_rng(seed)
    pieces = [[adversarial(rng)[:3] for _ in range(multisets)] for _ in range(6)]
    wholes = [[x for piece in pieces for x in piece[i]] for i in range(multisets)]
    codes, x = grouped(wholes, rng)
    expected = sums_of(wholes)
    assert _kernel.group_values(codes, x, multisets).tobytes() == expected.tobytes()
    ways = merge_all_ways([_kernel.group_values(*grouped(piece, rng), multisets) for piece in pieces])
    assert ways.shape == (30_240, multisets)  # 6! permutations of 42 trees
    assert (_kernel.words_of(ways.reshape(-1)).reshape(30_240, -1) == _kernel.words_of(expected).reshape(1, -1)).all()


@pytest.mark.usefixtures("kernel")
def test_every_permutation_and_tree_of_six_parts() -> None:
    check_all_ways(0, 2 if _kernel.kernel_name() == "numpy" else 10)


@pytest.mark.fuzz
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("seed", range(20))
def test_every_permutation_and_tree_of_six_parts_of_200_multisets(seed: int) -> None:
    check_all_ways(seed, 10)


@pytest.mark.usefixtures("kernel")
def test_values_of_any_kernel_are_the_twins() -> None:
    rng = np.random.default_rng(3)
    multisets: list[Any] = [adversarial(rng) for _ in range(300)]
    sums = sums_of(multisets)
    found = {}
    before = _kernel.kernel_name()
    for name in (before, "numpy"):
        _kernel.select(name)
        counts = np.ascontiguousarray(sums["count"])
        results = (
            _kernel.state_values(sums),
            _kernel.quotients_of(sums, counts),
            _kernel.quotients_of(sums, np.ones_like(counts)),
            _kernel.reciprocals_of(sums),
        )
        found[name] = [result.tobytes() for result in results]
    _kernel.select(before)
    assert found[before] == found["numpy"]
