"""What lives from batch to batch: indexes of keys against a dict, states of groups against those of one call."""

import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import misaligned, random_values

from lse_stream import _kernel
from lse_stream._kernel import ByteIndex, Groups, WordIndex, checksum_bytes
from lse_stream._kernel.twin import growing as twin

EVERY_KERNEL = pytest.mark.usefixtures("kernel")
INT64 = np.iinfo(np.int64)
EXTREMES = [INT64.min, INT64.min + 1, -(2**32), -1, 0, 1, 2**31 - 1, 2**31, 2**32, INT64.max - 1, INT64.max]
INT32 = np.dtype(np.int32)
LONG = np.dtype(np.int64)

Words = tuple[int, ...]
Text = bytes | None

# The hash of the C kernel, to make keys of which it takes many for one. Were it another, these would be keys like any.
GOLDEN = 0x9E3779B97F4A7C15
INVERSE = pow(GOLDEN, -1, 2**64)


def mixed(h: int, word: int) -> int:
    h = (h ^ word) * GOLDEN % 2**64
    return h ^ h >> 32


def word_for(h: int, target: int) -> int:
    """The word that takes a hash to another."""
    return ((target ^ target >> 32) * INVERSE % 2**64) ^ h


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def with_every_kernel(call: Callable[[], Any]) -> Any:
    """What ``call`` gives, on which all kernels agree."""
    before = _kernel.kernel_name()
    found = []
    for name in _kernel.available():
        _kernel.select(name)
        found.append(call())
    _kernel.select(before)
    assert all(one == found[0] for one in found)
    return found[0]


# --- keys of words ----------------------------------------------------------------------------------------------------


def columns_of(keys: Sequence[Words], width: int) -> list[np.ndarray]:
    matrix = np.array(keys, np.int64).reshape(-1, width)
    return [np.ascontiguousarray(matrix[:, j]) for j in range(width)]


def check_words(width: int, batches: Iterable[Sequence[Words]]) -> None:
    """Encodes batch after batch, as a dict does."""
    index = WordIndex(width)
    codes: dict[Words, int] = {}
    for batch in batches:
        columns = columns_of(batch, width)
        assert index.find(columns).tolist() == [codes.get(key, -1) for key in batch]
        assert index.size == len(codes)
        found = index.encode(columns)
        assert found.dtype == np.int32
        assert found.tolist() == [codes.setdefault(key, len(codes)) for key in batch]
        assert index.size == len(codes)
        assert index.find(columns).tolist() == found.tolist()
    keys = list(codes)
    assert index.keys().shape == (len(keys), width)
    assert [tuple(key) for key in index.keys().tolist()] == keys
    assert index.find(columns_of(keys, width)).tolist() == list(range(len(keys)))
    assert index.nbytes >= 8 * width * len(keys)


def drawn(rng: np.random.Generator, pool: Sequence[Words], batches: int) -> list[list[Words]]:
    """Batches of keys from a pool of which more and more is used; sizes around those in which C works."""
    sizes = rng.permutation([0, 1, 16, 127, 128, 129, *rng.integers(0, 900, batches)]).tolist()
    reach = np.linspace(1, len(pool), len(sizes)).astype(np.int64).tolist()
    return [[pool[i] for i in rng.integers(0, most, n)] for n, most in zip(sizes, reach, strict=True)]


def pools(rng: np.random.Generator, width: int, n: int) -> dict[str, list[Words]]:
    """Distinct keys of many shapes."""
    anything = rng.integers(INT64.min, INT64.max, (n, width), endpoint=True)
    few = rng.integers(-3, 4, (n, width))
    ladder = np.arange(n) - n // 2
    found = {
        "anything": anything,
        "few": few,
        "extremes": rng.choice(EXTREMES, (n, width)),
        "equal low bits": np.stack([ladder << 40] * width, axis=1),
        "equal high bits": np.stack([ladder] * width, axis=1),
        "one word differs": np.where(np.arange(width) == rng.integers(width), anything, 7),
        "the last word differs": np.where(np.arange(width) == width - 1, ladder[:, None], INT64.min),
    }
    return {name: list(dict.fromkeys(tuple(row) for row in rows.tolist())) for name, rows in found.items()}


@EVERY_KERNEL
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_codes_of_words_go_in_order_of_first_appearance(width: int) -> None:
    rng = np.random.default_rng(width)
    for pool in pools(rng, width, 1500).values():
        check_words(width, drawn(rng, pool, 8))


@EVERY_KERNEL
@pytest.mark.parametrize("width", [1, 2, 5])
def test_an_index_of_words_that_doubles_many_times(width: int) -> None:
    rng = np.random.default_rng(3)
    pool = pools(rng, width, 20_000)["anything"]
    # Within one batch, in some, and key by key around the first doublings.
    check_words(width, [pool])
    check_words(width, [pool[start : start + 3000] for start in range(0, len(pool), 3000)])
    check_words(width, [[key] for key in pool[:200]])


@EVERY_KERNEL
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_words_of_one_slot_and_of_one_hash(width: int) -> None:
    rng = np.random.default_rng(width)
    firsts = [tuple(row) for row in rng.integers(INT64.min, INT64.max, (600, width - 1)).tolist()]
    for one_hash in (False, True) if width > 1 else (False,):
        pool = []
        for i, first in enumerate(firsts):
            h = 0
            for word in first:
                h = mixed(h, word % 2**64)
            # A slot is the upper bits of hash * GOLDEN: small multiples of the inverse all fall into the first.
            target = 12345 if one_hash else i * INVERSE % 2**64
            pool.append((*first, signed(target if width == 1 else word_for(h, target))))
        assert len(set(pool)) == len(pool)
        check_words(width, drawn(rng, pool, 3))
        # And into the last one, from where the search goes on at the first.
        last = [(*key[:-1], signed(-1 - key[-1] % 2**64 + 2**64)) for key in pool]
        check_words(width, [last, pool, last])


@EVERY_KERNEL
def test_words_that_are_not_there_are_not_added() -> None:
    index = WordIndex(2)
    nothing = [np.empty(0, np.int64)] * 2
    assert index.find(nothing).size == index.encode(nothing).size == index.size == 0
    assert index.keys().shape == (0, 2)
    some = columns_of([(1, 2), (3, 4)], 2)
    assert index.find(some).tolist() == [-1, -1]
    assert index.encode(some).tolist() == [0, 1]
    for _ in range(2):
        assert index.find(columns_of([(2, 1), (3, 4), (1, 4), (-1, -1)], 2)).tolist() == [-1, 1, -1, -1]
        assert index.find(nothing).size == 0
        assert index.size == 2
        assert index.keys().tolist() == [[1, 2], [3, 4]]


@EVERY_KERNEL
def test_words_from_memory_that_is_read_only() -> None:
    column = np.array([5, 6, 5])
    column.flags.writeable = False
    assert WordIndex(1).encode([column]).tolist() == [0, 1, 0]
    # One column twice is two columns.
    assert WordIndex(2).encode([column, column]).tolist() == [0, 1, 0]


@EVERY_KERNEL
def test_words_and_strings_from_memory_between_two_words() -> None:
    assert WordIndex(1).encode([misaligned(np.array([5, 6, 5]))]).tolist() == [0, 1, 0]
    for offset_type in (INT32, LONG):
        offsets, data, valid = laid_out([b"a", b"bc", b"a"], offset_type)
        assert ByteIndex().encode(misaligned(offsets), data, valid).tolist() == [0, 1, 0]
        assert checksum_bytes(misaligned(offsets), data).tolist() == checksum_bytes(offsets, data).tolist()


@EVERY_KERNEL
def test_columns_of_words_that_do_not_fit() -> None:
    two, three = np.arange(2), np.arange(3)
    index = WordIndex(2)
    for columns in ([two, three], [three, two]):
        for call in (index.encode, index.find):
            with pytest.raises(ValueError, match="arrays of different lengths"):
                call(columns)
    for wrong in ([two], [two] * 3):
        with pytest.raises(ValueError, match=f"expected 2 columns, found {len(wrong)}"):
            index.encode(wrong)
    assert index.size == 0
    assert index.encode([two, two]).tolist() == [0, 1]
    for width in (0, -1):
        with pytest.raises(ValueError, match=f"expected keys of one word or more, found {width}"):
            WordIndex(width)


# --- keys of bytes ----------------------------------------------------------------------------------------------------


def laid_out(keys: Sequence[Text], offset_type: np.dtype[Any], before: bytes = b"") -> tuple[np.ndarray, ...]:
    """Offsets, data and valid mask, with bytes before and after, and under nulls."""
    texts = [b"under" if key is None else key for key in keys]
    offsets = np.cumsum([len(before), *map(len, texts)]).astype(offset_type)
    valid = np.array([key is not None for key in keys], np.uint8)
    data = np.frombuffer(before + b"".join(texts) + b"after", np.uint8)
    return offsets, data, np.empty(0, np.uint8) if valid.all() else valid


def held_by(index: ByteIndex) -> list[Text]:
    """The keys of an index, in the order of their codes."""
    offsets, data = index.keys()
    assert (offsets.size, offsets[0], offsets[-1]) == (index.size + 1, 0, data.size)
    texts: list[Text] = [data[start:end].tobytes() for start, end in pairwise(offsets.tolist())]
    if index.null_code >= 0:
        assert texts[index.null_code] == b""
        texts[index.null_code] = None
    return texts


def check_bytes(batches: Iterable[Sequence[Text]]) -> None:
    index = ByteIndex()
    codes: dict[Text, int] = {}
    for i, batch in enumerate(batches):
        arrays = laid_out(batch, (INT32, LONG)[i % 2], b"before" * (i % 3))
        assert index.find(*arrays).tolist() == [codes.get(key, -1) for key in batch]
        assert index.size == len(codes)
        found = index.encode(*arrays)
        assert found.dtype == np.int32
        assert found.tolist() == [codes.setdefault(key, len(codes)) for key in batch]
        assert index.size == len(codes)
        assert index.null_code == codes.get(None, -1)
        assert index.find(*laid_out(batch, (INT32, LONG)[i % 2 - 1])).tolist() == found.tolist()
    assert held_by(index) == list(codes)
    assert index.nbytes >= sum(len(key or b"") for key in codes)


def texts_of_every_length() -> list[Text]:
    """Strings that differ in their last byte, their first, their length or in zero bytes alone, and null."""
    found: list[Text] = [None]
    for n in range(41):
        prefix = bytes(range(65, 65 + n))
        found += [prefix, b"\0" * n, prefix[1:] + b"\0", b"\0" + prefix[1:], prefix[:-1] + b"\xff", b"\xff" + prefix]
        found += [prefix[: n // 2] + b"\0" * (n - n // 2)]
    return list(dict.fromkeys(found))


@EVERY_KERNEL
@pytest.mark.parametrize("seed", range(3))
def test_codes_of_strings_of_every_length_go_in_order_of_first_appearance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = texts_of_every_length()
    assert len(pool) > 250
    batches = [[pool[i] for i in rng.integers(0, len(pool), n)] for n in (0, 1, 30, 0, 200, 400, 400)]
    check_bytes([*batches, pool])
    check_bytes([pool, pool[::-1]])
    check_bytes([[key] for key in pool])


@EVERY_KERNEL
def test_an_index_of_strings_that_doubles_many_times() -> None:
    rng = np.random.default_rng(5)
    pool: list[Text] = [b"%d of many" % i for i in rng.permutation(12_000)]
    pool.insert(5000, None)
    check_bytes([pool])
    check_bytes([pool[start : start + 1000] for start in range(0, len(pool), 1000)])
    check_bytes([[rng.bytes(200_000)], [rng.bytes(100_000), b""], pool[:100]])


@EVERY_KERNEL
def test_strings_of_one_slot_and_of_one_hash() -> None:
    rng = np.random.default_rng(6)
    for one_hash in (False, True):
        pool: list[Text] = []
        for i in range(500):
            first = int(rng.integers(0, 2**63))
            # After two words the hash takes in one more, of the bytes that are left: none.
            target = 99 if one_hash else word_for(0, i * INVERSE % 2**64)
            second = word_for(mixed(16, first), target)
            pool.append(first.to_bytes(8, "little") + second.to_bytes(8, "little"))
        assert len(set(pool)) == len(pool)
        check_bytes([pool[:100], [], pool[50:], pool])


@EVERY_KERNEL
def test_a_string_and_its_beginning_of_one_hash() -> None:
    rng = np.random.default_rng(8)
    pairs: list[list[Text]] = []
    for first, second in rng.integers(0, 2**63, (50, 2)).tolist():
        # The length is the hash to begin with; a third word makes up for it.
        short, long = (mixed(mixed(n, first), second) for n in (16, 24))
        words = (first, second, word_for(long, short))
        text = b"".join(word.to_bytes(8, "little") for word in words)
        pairs.append([text, text[:16]])
    check_bytes(pairs)
    check_bytes([pair[::-1] for pair in pairs])


@EVERY_KERNEL
def test_null_is_a_key_of_its_own() -> None:
    check_bytes([[None], [b""], [b"\0"], [None, b"", b"\0", b"under"]])
    check_bytes([[b"", b"under"], [None, b"", None]])


@EVERY_KERNEL
def test_equal_strings_that_follow_each_other() -> None:
    """Beside null, whose bytes are those of another key here, beside their own beginnings, and unknown ones."""
    check_bytes([[b"under", b"under", None, b"under"], [None, None, b"under", b"under", None], [b"", b"", None, b""]])
    check_bytes([[b"a", b"a", b"ab", b"ab", b"a", b"", b"", b"a"], [b"x", b"x", b"a", b"a", b"y", b"y", b"x"]])
    # Null counts as a key when the slots are counted.
    for place in (0, 38, 39, 40, 41):
        keys: list[Text] = [b"%d" % i for i in range(80)]
        keys.insert(place, None)
        check_bytes([[key] for key in keys])
    index = ByteIndex()
    assert index.find(*laid_out([None, b""], INT32)).tolist() == [-1, -1]
    assert (index.size, index.null_code, held_by(index)) == (0, -1, [])
    assert index.encode(*laid_out([b"", None], INT32)).tolist() == [0, 1]
    assert index.find(*laid_out([None, b"", b"under"], LONG)).tolist() == [1, 0, -1]
    assert index.null_code == 1


@EVERY_KERNEL
def test_no_strings_at_all() -> None:
    index = ByteIndex()
    for offset_type in (INT32, LONG):
        arrays = (np.zeros(1, offset_type), np.empty(0, np.uint8), np.empty(0, np.uint8))
        assert index.find(*arrays).size == index.encode(*arrays).size == index.size == 0
    assert held_by(index) == []


@EVERY_KERNEL
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_mask_of_another_length_is_refused(size: int) -> None:
    index = ByteIndex()
    offsets, data, _ = laid_out([b"a", b"b", b"c"], INT32)
    for call in (index.encode, index.find):
        with pytest.raises(ValueError, match="arrays of different lengths"):
            call(offsets, data, np.ones(size, np.uint8))
    assert index.size == 0


@EVERY_KERNEL
@pytest.mark.parametrize("offset_type", [INT32, LONG])
def test_checksums_are_those_of_zlib_with_the_length_above(offset_type: np.dtype[Any]) -> None:
    rng = np.random.default_rng(7)
    texts = [*(text for text in texts_of_every_length() if text is not None), rng.bytes(100_000), b"123456789"]
    offsets, data, _ = laid_out(texts, offset_type, b"before")
    expected = [zlib.crc32(text) | len(text) << 32 for text in texts]
    found = checksum_bytes(offsets, data)
    assert found.dtype == np.uint64
    assert found.tolist() == expected
    assert found[-1] == 0xCBF43926 | 9 << 32  # the check value of CRC-32
    assert checksum_bytes(offsets[10:21], data).tolist() == expected[10:20]
    assert checksum_bytes(offsets[:1], data).size == 0


# --- states of groups -------------------------------------------------------------------------------------------------

SCALES = [
    _kernel.NATURAL_FACTOR,
    np.array([1.75, 2.0**-54]),
    np.array([np.log(2), 2.3e-17]),
    np.array([0.375, -(2.0**-56)]),
    np.array([1e40, -1e20]),
]


def splits(rng: np.random.Generator, n: int) -> list[slice]:
    """Batches of n rows, some of them empty."""
    cuts = np.sort(rng.integers(0, n + 1, rng.integers(0, 9))).tolist()
    return [slice(start, end) for start, end in pairwise([0, *cuts, n])]


def random_codes(rng: np.random.Generator, n: int, groups: int) -> np.ndarray:
    """Codes of which later rows have more, as an index gives them; scattered, in runs, ascending or most of one."""
    reach = 1 + (np.arange(n) * groups) // max(n, 1)
    codes = rng.integers(0, reach)
    match rng.integers(4):
        case 0:
            codes = np.sort(codes)
        case 1:
            codes = np.repeat(codes, rng.integers(1, 40, n))[:n]
        case 2:
            codes = np.where(rng.random(n) < 0.9, 0, codes)
    return codes.astype(np.int32)


def values_for_groups(rng: np.random.Generator, n: int) -> np.ndarray:
    x = random_values(rng, n)
    if rng.random() < 0.5:
        strange = rng.random(n) < 0.03
        x[strange] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300], int(strange.sum()))
    return x


def random_weights(rng: np.random.Generator, n: int) -> np.ndarray:
    strange = [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-310, -1.7e308, 2.0**400, 2.0**-400, 3.0]
    return np.where(rng.random(n) < 0.5, rng.normal(size=n) * 10.0 ** rng.integers(-9, 9), rng.choice(strange, n))


def in_batches(
    kind: str,
    codes: np.ndarray,
    items: np.ndarray,
    groups: int,
    batches: Sequence[slice],
    weights: np.ndarray | None = None,
    scale: np.ndarray = _kernel.NATURAL_FACTOR,
) -> bytes:
    """The states of groups whose number is as large as each batch needs it; looked at on the way."""
    grown = Groups(kind, scale)
    there = 0
    for batch in batches:
        there = max(there, int(codes[batch].max(initial=-1)) + 1)
        if items.dtype != np.float64:
            grown.merge(codes[batch], items[batch], there)
        elif weights is None:
            grown.update(codes[batch], items[batch], there)
        else:
            grown.update(codes[batch], items[batch], there, weights[batch])
        assert grown.states().size == there
    grown.grow(groups)
    grown.grow(0)  # it never shrinks
    assert grown.nbytes >= 64 * groups
    states = grown.states()
    assert states.tobytes() == grown.states().tobytes()
    return states.tobytes()


def random_sizes(rng: np.random.Generator) -> tuple[int, int]:
    return int(10 ** rng.uniform(0, 3.2)), int(10 ** rng.uniform(0, 2.5))


@EVERY_KERNEL
@pytest.mark.parametrize("seed", range(40))
def test_values_in_batches_give_the_states_of_one_call(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, groups = random_sizes(rng)
    codes, x = random_codes(rng, n, groups), values_for_groups(rng, n)
    expected = _kernel.group_values(codes, x, groups).tobytes()
    assert in_batches("values", codes, x, groups, splits(rng, n)) == expected
    order = rng.permutation(n)
    assert in_batches("values", codes[order], x[order], groups, splits(rng, n)) == expected


@EVERY_KERNEL
@pytest.mark.parametrize("seed", range(30))
def test_terms_in_batches_give_the_states_of_one_call(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, groups = random_sizes(rng)
    codes, x = random_codes(rng, n, groups), values_for_groups(rng, n)
    scale = SCALES[seed % len(SCALES)]
    for weights in (None, random_weights(rng, n)):
        kind = "terms" if weights is None else "weighted"
        expected = _kernel.group_terms(codes, x, weights, groups, scale).tobytes()
        assert in_batches(kind, codes, x, groups, splits(rng, n), weights, scale) == expected
        order = rng.permutation(n)
        shuffled = None if weights is None else weights[order]
        assert in_batches(kind, codes[order], x[order], groups, splits(rng, n), shuffled, scale) == expected


@EVERY_KERNEL
@pytest.mark.parametrize("seed", range(30))
def test_states_in_batches_give_the_states_of_one_call(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, groups = random_sizes(rng)
    fine = rng.integers(0, n, 2 * n).astype(np.int32)
    x, weights = values_for_groups(rng, 2 * n), random_weights(rng, 2 * n)
    codes = random_codes(rng, n, groups)
    scale = SCALES[seed % len(SCALES)]
    for kind, states, c in (
        ("values", _kernel.group_values(fine, x, n), _kernel.NATURAL_FACTOR),
        ("terms", _kernel.group_terms(fine, x, None, n, scale), scale),
        ("weighted", _kernel.group_terms(fine, x, weights, n, scale), scale),
    ):
        expected = _kernel.merge_groups(codes, states, groups, c).tobytes()
        assert in_batches(kind, codes, states, groups, splits(rng, n), scale=c) == expected
        order = rng.permutation(n)
        assert in_batches(kind, codes[order], states[order], groups, splits(rng, n), scale=c) == expected


@pytest.mark.parametrize("seed", range(15))
def test_all_kernels_agree_on_groups_that_grow(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    n, groups = random_sizes(rng)
    codes, x, weights = random_codes(rng, n, groups), values_for_groups(rng, n), random_weights(rng, n)
    scale, batches = SCALES[seed % len(SCALES)], splits(rng, n)
    states = np.frombuffer(with_every_kernel(lambda: in_batches("values", codes, x, groups, batches)), _kernel.SUM)
    with_every_kernel(lambda: in_batches("weighted", codes, x, groups, batches, weights, scale))
    with_every_kernel(lambda: in_batches("terms", codes, x, groups, batches, None, scale))
    coarse = np.sort(rng.integers(0, 9, groups)).astype(np.int32)
    with_every_kernel(lambda: in_batches("values", coarse, states, 9, splits(np.random.default_rng(seed), groups)))


@pytest.mark.parametrize("width", [1, 3])
def test_all_kernels_agree_on_codes(width: int) -> None:
    rng = np.random.default_rng(width)
    pool = pools(rng, width, 500)["few"]
    batches = drawn(rng, pool, 4)
    texts = texts_of_every_length()

    def encoded() -> tuple[list[bytes], bytes, bytes, list[Text]]:
        words, strings = WordIndex(width), ByteIndex()
        codes = [words.encode(columns_of(batch, width)).tobytes() for batch in batches]
        return codes, words.keys().tobytes(), strings.encode(*laid_out(texts, LONG)).tobytes(), held_by(strings)

    with_every_kernel(encoded)


@EVERY_KERNEL
def test_groups_that_grow_outgrow_their_narrow_sums() -> None:
    # 2^62 / 2^49 terms fill a low part: over many batches as within one.
    n = 30_000
    x = np.concatenate([np.full(n, 34.6), np.full(n, -0.001)])
    codes = np.arange(2 * n, dtype=np.int32) % 3
    np.random.default_rng(5).shuffle(codes)
    batches = [slice(start, start + 777) for start in range(0, 2 * n, 777)]
    expected = _kernel.group_values(codes, x, 3).tobytes()
    assert in_batches("values", codes, x, 3, batches) == expected
    assert in_batches("terms", codes, x, 3, batches) == expected


@EVERY_KERNEL
@pytest.mark.parametrize("kind", ["values", "terms", "weighted"])
def test_states_of_any_count_are_merged_and_go_on(kind: str) -> None:
    """Also those whose counts do not fit the cache line of a group."""
    rng = np.random.default_rng(7)
    x, counts = rng.normal(size=6) * 30, (2**29, 2**30, 2**31, 2**32 + 5, 2**40, 2**62 - 2**41)
    codes, place = np.zeros(6, np.int32), np.arange(6, dtype=np.int32)
    weights = None if kind != "weighted" else np.ones(6)
    large = _kernel.group_terms(place, x, weights, 6)
    large["count"] += np.array(counts, np.int64)  # as so many values of -inf do
    grown = Groups(kind)
    for i in range(6):
        grown.merge(np.array([1], np.int32), large[i : i + 1], 2)
        grown.update(codes[:1], x[i : i + 1], 2, *([] if weights is None else [weights[:1]]))
        grown.update(codes[:1] + 1, x[i : i + 1], 2, *([] if weights is None else [weights[:1]]))
    small = _kernel.group_terms(codes, x, weights, 1)
    both = _kernel.merge_groups(np.zeros(7, np.int32), np.concatenate([large, small]), 1)
    assert grown.states().tobytes() == small.tobytes() + both.tobytes()

    def add_twice() -> None:
        for _ in range(2):
            grown.merge(np.array([1], np.int32), large[5:], 2)

    with pytest.raises(OverflowError, match="count"):
        add_twice()


def full_states(kind: str, n: int, count: int) -> np.ndarray:
    """States of so many values of -inf."""
    codes, x = np.arange(n, dtype=np.int32), np.full(n, -np.inf)
    states = _kernel.group_terms(codes, x, np.ones(n) if kind == "weighted" else None, n)
    states["count"] = count
    if kind != "weighted":
        states["ties"] = count
    return states


@EVERY_KERNEL
@pytest.mark.parametrize("kind", ["values", "terms", "weighted"])
def test_counts_too_large_are_refused_and_nothing_is_added(kind: str) -> None:
    grown = Groups(kind)
    grown.merge(np.array([1], np.int32), full_states(kind, 1, 2**63 - 3), 2)
    for _ in range(2):
        update(grown, kind, [0, 1], 2)
    before = grown.states().tobytes()
    with pytest.raises(OverflowError, match="count"):
        update(grown, kind, [0, 1, 2], 3)
    with pytest.raises(OverflowError, match="count"):
        update(grown, kind, [1] * 1000, 2)
    for count in (1, 2**63 - 1):
        with pytest.raises(OverflowError, match="count"):
            grown.merge(np.array([0, 1, 2], np.int32), full_states(kind, 3, count), 3)
    assert grown.states().tobytes() == before
    update(grown, kind, [0, 2] * 1000, 3)
    with pytest.raises(OverflowError, match="count"):
        grown.merge(np.array([0, 0, 2], np.int32), full_states(kind, 3, 2**62), 3)
    grown.merge(np.array([0, 2], np.int32), full_states(kind, 2, 2**62), 3)
    assert grown.states()["count"].tolist() == [2**62 + 1002, 2**63 - 1, 2**62 + 1000]


@EVERY_KERNEL
@pytest.mark.parametrize("count", [1, 2**30])
def test_many_groups_of_large_counts(count: int) -> None:
    n = 4000
    states, grown = full_states("values", n, count), Groups("values")
    for batch in (slice(0, n // 2), slice(n // 2, n)):
        grown.merge(np.arange(n, dtype=np.int32)[batch], states[batch], n)
    assert grown.states().tobytes() == states.tobytes()


@EVERY_KERNEL
def test_values_of_float32_are_added_as_float64() -> None:
    codes, narrow = np.array([0, 1, 0], np.int32), np.array([1.0, 2.0, 0.1], np.float32)
    inputs: list[Any] = [narrow, narrow.astype(np.float64)]
    found = []
    for values in inputs:
        grown, weighted, smallest = Groups("values"), Groups("weighted"), _kernel.Smallest(2)
        grown.update(codes, values, 2)
        weighted.update(codes, values, 2, values)
        smallest.update(codes, values, 2)
        found.append((grown.states().tobytes(), weighted.states().tobytes(), smallest.stored(2)[0].tobytes()))
    assert found[0] == found[1]


@pytest.mark.fuzz
def test_more_rows_than_a_cache_line_counts() -> None:
    """2^33 rows of two groups."""
    n = 1 << 20
    x = np.tile([0.0, 1.0, 1.0, 2.0], n // 4)
    codes = np.tile(np.arange(2, dtype=np.int32), n // 2)
    grown = Groups("values")
    for _ in range(1 << 13):
        grown.update(codes, x, 2)
    doubled = expected = _kernel.group_values(codes, x, 2)
    for _ in range(13):
        doubled = np.concatenate([expected, expected])
        expected = _kernel.merge_groups(np.tile(np.arange(2, dtype=np.int32), 2), doubled, 2)
    assert grown.states().tobytes() == expected.tobytes()


@EVERY_KERNEL
@pytest.mark.parametrize("kind", ["values", "terms", "weighted"])
def test_groups_of_nothing_are_empty_states(kind: str) -> None:
    grown = Groups(kind)
    assert grown.states().size == 0
    for there in (0, 3, 1, 2000):
        grown.grow(there)
    codes, none = np.empty(0, np.int32), np.empty(0)
    weights = none if kind == "weighted" else None
    assert grown.states().tobytes() == _kernel.group_terms(codes, none, weights, 2000).tobytes()


def update(grown: Groups, kind: str, codes: Sequence[int], n_groups: int) -> None:
    ones = np.ones(len(codes))
    grown.update(np.array(codes, np.int32), ones, n_groups, *([ones] if kind == "weighted" else []))


@EVERY_KERNEL
@pytest.mark.parametrize("code", [-1, 5, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("kind", ["values", "terms", "weighted"])
def test_codes_out_of_range_are_refused_and_nothing_is_added(kind: str, code: int) -> None:
    grown = Groups(kind)
    update(grown, kind, [0, 4], 5)
    before = grown.states().tobytes()
    with pytest.raises(IndexError):
        update(grown, kind, [0, code, 1], 5)
    assert grown.states().tobytes() == before


@EVERY_KERNEL
@pytest.mark.parametrize("kind", ["values", "terms", "weighted"])
def test_codes_out_of_range_of_groups_that_were_to_grow_leave_them_as_they_were(kind: str) -> None:
    grown = Groups(kind)
    update(grown, kind, [0, 1], 2)
    before = grown.states().tobytes()
    with pytest.raises(IndexError):
        update(grown, kind, [0, 9], 4)
    assert grown.states().tobytes() == before


@EVERY_KERNEL
@pytest.mark.parametrize("kind", ["values", "terms", "weighted"])
def test_items_of_another_number_than_codes_are_refused(kind: str) -> None:
    grown = Groups(kind)
    codes = np.zeros(3, np.int32)
    for n in (0, 2, 4):
        with pytest.raises(ValueError, match="arrays of different lengths"):
            grown.update(codes, np.ones(n), 1, *([np.ones(n)] if kind == "weighted" else []))
    for n in (1, 2, 4) if kind != "weighted" else (0, 1, 2, 4):
        with pytest.raises(ValueError, match="arrays of different lengths"):
            grown.update(codes, np.ones(3), 1, np.ones(n))
    with pytest.raises(ValueError, match="arrays of different lengths"):
        grown.merge(codes, _kernel.empty_sums(2), 1)
    assert grown.states().size == 0


@pytest.mark.skipif(_kernel.native is None, reason="there is one module only")
def test_objects_stay_of_the_kernel_they_were_made_under() -> None:
    before = _kernel.kernel_name()
    words, strings, groups = [], [], []
    for name in _kernel.available():
        _kernel.select(name)
        words.append(WordIndex(1))
        strings.append(ByteIndex())
        groups.append(Groups("values"))
    x = random_values(np.random.default_rng(0), 300)
    codes = (np.arange(300) % 7).astype(np.int32)
    for i, name in enumerate(_kernel.available()):
        _kernel.select(name)
        for grown in groups:
            grown.update(codes[i::5].copy(), x[i::5], 7)
        for index in words:
            assert index.encode([np.array([i, 0])]).tolist() == [i, 0]
        for text in strings:
            assert text.encode(*laid_out([b"%d" % i, b"0"], INT32)).tolist() == [i, 0]
    _kernel.select(before)
    used = np.arange(300) % 5 < len(groups)
    expected = _kernel.group_values(codes[used], x[used], 7).tobytes()
    assert [grown.states().tobytes() for grown in groups] == [expected] * len(groups)


# --- threads ----------------------------------------------------------------------------------------------------------


@contextmanager
def done_or_refused() -> Iterator[None]:
    """Lets through what an index says that another thread uses."""
    try:
        yield
    except RuntimeError as error:
        if "used by two threads at once" not in str(error):
            raise


@EVERY_KERNEL
@pytest.mark.parametrize("width", [1, 2])
def test_two_threads_that_add_words_at_once_do_or_are_refused(width: int) -> None:
    index = WordIndex(width)
    added: dict[Words, int] = {}
    lock, start = threading.Lock(), threading.Barrier(2)
    others: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        start.wait()
        for _ in range(25):
            keys = rng.integers(0, 30_000, (2000, width))
            columns = [np.ascontiguousarray(keys[:, j]) for j in range(width)]
            with done_or_refused():
                codes = index.encode(columns)
                with lock:
                    added.update(zip(map(tuple, keys.tolist()), codes.tolist(), strict=True))

    def caught(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            others.append(error)

    threads = [threading.Thread(target=caught, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not others
    assert added  # some calls went through
    assert [tuple(key) for key in index.keys().tolist()] == sorted(added, key=added.__getitem__)
    assert sorted(added.values()) == list(range(len(added)))
    index.encode([np.zeros(0, np.int64)] * width)  # it is free again
    assert index.size == len(added)


class Slow(dict[Any, int]):
    """Another thread has its turn whenever this one has looked at the length."""

    def __len__(self) -> int:
        length = super().__len__()
        time.sleep(0)
        return length


@pytest.mark.parametrize("kind", [twin.WordIndex, twin.ByteIndex])
def test_threads_have_their_turns_in_an_index_of_the_twin(kind: Any) -> None:
    index: Any = kind(1) if kind is twin.WordIndex else kind()
    index._codes = Slow()
    codes = np.empty((2, 2000), np.int32)

    def work(number: int) -> None:
        keys = np.arange(2000) * 2 + number
        if kind is twin.WordIndex:
            index.encode((keys,), codes[number], True)
        else:
            offsets, data = laid_out([b"%d" % key for key in keys], LONG)[:2]
            index.encode((offsets, data, np.zeros(0, np.uint8), codes[number]), True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert sorted(codes.ravel().tolist()) == list(range(4000))


@EVERY_KERNEL
def test_an_index_in_use_refuses_to_add() -> None:
    words, strings = WordIndex(1), ByteIndex()
    keys = np.arange(40_000) << 20
    texts = laid_out([b"%d" % i for i in range(20_000)], LONG)
    words.encode([keys])
    strings.encode(*texts)
    done = threading.Event()
    found: list[list[int]] = []

    def look_up() -> None:
        codes, more = words.find([keys]), strings.find(*texts)
        found.append([int((codes != np.arange(codes.size)).sum()), int((more != np.arange(more.size)).sum())])

    def keep_looking() -> None:
        while not done.is_set():
            try:
                look_up()
            except RuntimeError:  # the other one adds just now
                continue

    thread = threading.Thread(target=keep_looking)
    thread.start()
    for i in range(20):
        with done_or_refused():
            words.encode([keys[: 500 * (i + 1)] + 1])
        with done_or_refused():
            strings.encode(*laid_out([b"new %d" % i], INT32))
    done.set()
    thread.join()
    look_up()
    assert found == [[0, 0]] * len(found)


@pytest.mark.skipif(_kernel.native is None, reason="the twin keeps the GIL")
def test_groups_in_use_do_not_say_that_arrays_have_other_lengths() -> None:
    native: Any = _kernel.native
    codes, x = np.ones(10_000_000, np.int32), np.zeros(10_000_000)
    grown, before, afterwards = native.Groups("values", 1.0, 0.0), np.empty(1, _kernel.SUM), np.empty(2, _kernel.SUM)
    grown.update((codes[:1] - 1, x[:1], _kernel.NONE), 1)
    thread = threading.Thread(target=grown.update, args=((codes, x, _kernel.NONE), 2))
    thread.start()
    found = "nothing"
    while "different lengths" not in found:
        try:
            grown.export(before)
        except (RuntimeError, ValueError) as error:
            found = str(error)
    grown.export(afterwards)  # they are in use no more
    thread.join()
    assert afterwards["count"].tolist() == [1, 10_000_000]


@EVERY_KERNEL
def test_several_threads_find_at_once() -> None:
    words, strings = WordIndex(1), ByteIndex()
    pairs = WordIndex(2)
    keys = np.random.default_rng(0).integers(0, 2**40, 20_000)
    texts = laid_out([b"%d" % key for key in keys[:5000]], INT32)
    half = laid_out([b"%d" % key for key in keys[:2500]], INT32)
    words.encode([keys[:10_000]])
    pairs.encode([keys[:10_000], keys[:10_000] + 1])
    strings.encode(*half)

    def find(_: int) -> tuple[bytes, ...]:
        found = words.find([keys]), pairs.find([keys, keys + 1]), strings.find(*texts)
        return tuple(codes.tobytes() for codes in found)

    alone = find(0)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(find, range(24))) == {alone}
    assert (words.find([keys])[:10_000] >= 0).all()
    assert (strings.find(*texts)[2500:] == -1).all()


# Keys are asked for while another thread adds some, which moves them: in a process of its own, as it may end it.
RACE = """
import sys, threading
import numpy as np
from lse_stream._kernel import ByteIndex, WordIndex

keys = np.random.default_rng(0).integers(0, 2**62, (3, 300_000))
offsets = np.arange(300_001) * 8
for _ in range(6):
    index = WordIndex(1) if sys.argv[1] == "words" else ByteIndex()

    def add():
        for part in keys:
            try:
                if sys.argv[1] == "words":
                    index.encode([part])
                else:
                    index.encode(offsets, part.view(np.uint8), np.empty(0, np.uint8))
            except RuntimeError:  # the keys are read just now
                pass

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        try:
            index.keys()
        except RuntimeError:
            pass
    thread.join()
"""


@pytest.mark.skipif(_kernel.native is None, reason="NumPy's twin never lets go of Python's lock in the midst of a key")
@pytest.mark.parametrize("index", ["words", "bytes"])
def test_keys_read_while_another_thread_adds_some_come_or_are_refused(index: str) -> None:
    environment = {**os.environ, "LSE_STREAM_KERNEL": _kernel.available()[0]}
    run = subprocess.run([sys.executable, "-c", RACE, index], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
