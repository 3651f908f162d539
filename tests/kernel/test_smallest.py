"""The k smallest values of groups: as sorting finds them, on every kernel, in any order, by rows and by merges."""

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import pytest
from conftest import random_values
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_stream import _kernel

pytestmark = pytest.mark.usefixtures("kernel")

INF, NAN = np.inf, np.nan
Floats = npt.NDArray[np.float64]

values = st.floats(allow_nan=False, max_value=1e308) | st.sampled_from([-INF, -0.0, 0.0, 1.0, -1.0])
rows = st.lists(st.tuples(st.integers(0, 5), values | st.sampled_from([NAN, INF])), max_size=60)


def stored(k: int, codes: npt.ArrayLike, x: npt.ArrayLike, groups: int) -> tuple[bytes, list[int]]:
    lists = _kernel.Smallest(k)
    lists.update(np.asarray(codes, np.int32), np.asarray(x, np.float64), groups)
    words, begins = lists.stored(groups)
    return words.tobytes(), begins.tolist()


def by_sorting(k: int, codes: list[int], x: list[float], groups: int) -> tuple[bytes, list[int]]:
    of_group = defaultdict(list)
    for code, value in zip(codes, x, strict=True):
        of_group[code].append(value)
    words, begins = [], [0]
    for group in range(groups):
        found = of_group[group]
        special = any(np.isnan(value) or value == INF for value in found)
        kept = [] if special else sorted(value + 0.0 for value in found)[:k]
        head = (3 << 32) if special else len(kept) << 16
        words += [head.to_bytes(8, "little"), np.array(kept, np.float64).tobytes()]
        begins.append(begins[-1] + 1 + len(kept))
    return b"".join(words), begins


@settings(max_examples=60)
@given(rows, st.integers(1, 9), st.randoms(use_true_random=False))
def test_any_order_and_any_merge_gives_what_sorting_gives(
    rows: list[tuple[int, float]], k: int, random: np.random.Generator
) -> None:
    expected = by_sorting(k, [code for code, _ in rows], [x for _, x in rows], 6)
    random.shuffle(rows)
    codes, x = [code for code, _ in rows], [x for _, x in rows]
    assert stored(k, codes, x, 6) == expected
    cut = len(rows) // 3
    parts = [_kernel.Smallest(k), _kernel.Smallest(k)]
    whole = _kernel.Smallest(k)
    for part, some in zip(parts, (slice(cut), slice(cut, None)), strict=True):
        part.update(np.array(codes[some], np.int32), np.array(x[some], np.float64), 6)
        words, begins = part.stored(6)
        whole.merge(np.arange(6, dtype=np.int32), words, begins[:-1], 6)
    words, begins = whole.stored(6)
    assert (words.tobytes(), begins.tolist()) == expected


@pytest.mark.parametrize("k", [1, 2, 63, 190, 1000])
@pytest.mark.parametrize("order", ["random", "ascending", "descending", "ties", "organ pipes"])
def test_long_lists(k: int, order: str) -> None:
    x = random_values(np.random.default_rng(k), 3000)
    x = x[x < INF]
    if order == "ties":
        x = np.round(x / x.size)
    elif order == "organ pipes":
        x = np.concatenate([np.sort(x[::2]), np.sort(x[1::2])[::-1]])
    elif order != "random":
        x = np.sort(x)[:: 1 if order == "ascending" else -1]
    codes = np.zeros(x.size, np.int32)
    assert stored(k, codes, x, 1) == by_sorting(k, codes.tolist(), x.tolist(), 1)


@pytest.mark.parametrize("seed", range(6))
def test_runs_of_one_group(seed: int) -> None:
    """Long and short ones, with NaN and +inf in some groups, and what is let go is what is not kept."""
    rng = np.random.default_rng(seed)
    groups, k = 9, int(rng.integers(1, 80))
    lengths = rng.choice([1, 3, 6, 7, 40, 511, 512, 513, 1500], 50)
    codes = np.repeat(rng.integers(0, groups, lengths.size), lengths).astype(np.int32)
    x = rng.choice([np.round(rng.normal(size=codes.size), 1), rng.normal(size=codes.size)])
    for group, special in ((2, NAN), (5, INF)):
        x[rng.choice(np.flatnonzero(codes == group))] = special
    lists = _kernel.Smallest(k)
    for start in range(0, codes.size, 3000):
        lists.update(codes[start : start + 3000], x[start : start + 3000], groups)
    words, begins = lists.stored(groups)
    expected = by_sorting(k, codes.tolist(), x.tolist(), groups)
    assert (words.tobytes(), begins.tolist()) == expected
    found, others = lists.take_others()
    for group in range(groups):
        kept = words[begins[group] + 1 : begins[group + 1]].view(np.float64)
        everything = np.concatenate([kept, others[found == group]])
        assert np.sort(everything).tobytes() == np.sort(x[codes == group] + 0.0).tobytes()


def test_others_are_added_to_groups_as_they_are_taken() -> None:
    rng = np.random.default_rng(4)
    sums, expected = _kernel.Groups("values"), _kernel.Groups("values")
    lists, same = _kernel.Smallest(3), _kernel.Smallest(3)
    for n in (0, 5, 4000, 700):
        codes, x = np.sort(rng.integers(0, 40, n)).astype(np.int32), rng.normal(size=n)
        for each in (lists, same):
            each.update(codes, x, 40)
        sums.update_others(lists, -2.0, 40)
        lists.drop_others()
        others, values = same.take_others()
        expected.update(others, -2.0 * values, 40)
        assert sums.states().tobytes() == expected.states().tobytes()
        assert lists.take_others()[0].size == 0
    with pytest.raises(ValueError, match="different lengths"):
        _kernel.Groups("weighted").update_others(lists, 1.0, 40)


def test_groups_grow_and_stay_apart() -> None:
    lists = _kernel.Smallest(2)
    lists.update(np.array([1, 1, 1], np.int32), np.array([3.0, -1.0, 2.0]), 2)
    lists.update(np.array([3, 1], np.int32), np.array([NAN, -2.0]), 4)
    words, begins = lists.stored(6)
    assert begins.tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert words[[0, 1, 4, 5, 6, 7]].tolist() == [0, 2 << 16, 0, 3 << 32, 0, 0]
    assert words[2:4].view(np.float64).tolist() == [-2.0, -1.0]


@settings(max_examples=60)
@given(rows, st.integers(1, 9))
def test_what_is_not_kept_comes_out_once(rows: list[tuple[int, float]], k: int) -> None:
    lists = _kernel.Smallest(k)
    out: list[tuple[int, float]] = []

    def take() -> None:
        codes, x = lists.take_others()
        out.extend(zip(codes.tolist(), x.tolist(), strict=True))

    for i in range(0, len(rows), 7):
        some = rows[i : i + 7]
        other = _kernel.Smallest(k)
        for target in (lists, other):
            target.update(np.array([code for code, _ in some[:4]], np.int32), np.array([x for _, x in some[:4]]), 6)
        if i % 2:
            take()
        other.update(np.array([code for code, _ in some[4:]], np.int32), np.array([x for _, x in some[4:]]), 6)
        words, begins = other.stored(6)
        out.extend(zip(*(column.tolist() for column in other.take_others()), strict=True))
        lists.merge(np.arange(6, dtype=np.int32), words, begins[:-1], 6)
    words, begins = lists.stored(6)
    take()
    added = [row for i in range(0, len(rows), 7) for row in [*rows[i : i + 4], *rows[i : i + 7]]]
    for group in range(6):
        kept = words[begins[group] + 1 : begins[group + 1]].view(np.float64).tolist()
        found = kept + [x for code, x in out if code == group]
        expected = [x + 0.0 for code, x in added if code == group]
        assert np.array_equal(np.sort(found), np.sort(expected), equal_nan=True)


@pytest.mark.parametrize("k", [0, -1, 65536])
def test_how_many_are_kept_is_bounded(k: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 65535, found {k}"):
        _kernel.Smallest(k)


@pytest.mark.parametrize(("head", "at"), [(2 << 16, 0), (1 << 16, 1), (1 << 16, -1), (1 << 16, 2), (4 << 16, 0)])
def test_a_list_that_reaches_beyond_its_words_is_not_read(head: int, at: int) -> None:
    lists = _kernel.Smallest(3)
    with pytest.raises(ValueError, match="a stored sum that cannot be read"):
        lists.merge(np.zeros(1, np.int32), np.array([head, head], np.uint64), np.array([at]), 1)


def test_bad_codes_and_lengths_are_refused() -> None:
    lists = _kernel.Smallest(3)
    for codes in ([2], [-1]):
        with pytest.raises(IndexError, match="code"):
            lists.update(np.array(codes, np.int32), np.zeros(1), 2)
    with pytest.raises(ValueError, match="different lengths"):
        lists.update(np.zeros(2, np.int32), np.zeros(1), 2)
