"""Records of states: their bytes, and what must hold of bytes that come from elsewhere.

A record consists of words of 64 bits, all little-endian::

    version (uint8), aggregation (uint8: its code), scale (uint16)
    check (uint32): CRC-32C of all other bytes of the record
    count of terms (int64)
    parameter of the scale (float64), for a base or a temperature alone; or of the aggregation (int64): how many values
        a list of smallest ones keeps, how many digits integers and decimals have after the point
    of each sum without weights: max, ties, second, limbs; of one with weights: max, base, limbs: as in ``_kernel.sums``
    of extremes: min, max: a float64 each, or the three that ``lse_stream.integers`` describes
    of each exact sum: low (uint16), words (uint16), special (uint32; 1 +inf, 2 -inf, 3 NaN);
        then the words of the sum in units of 2^(64 low - 2176), two's complement, no more than are needed
    of a list of smallest values: 0 (uint16), words (uint16), special (uint32; 3 where there is NaN or +inf among all
        values, and the list is empty); then the values (float64), ascending

Equal states have equal bytes. A record that is damaged is refused: the check finds every wrong bit, and every burst of
wrong bits within 32 that lies wholly inside the check or wholly outside; of any other damage one in 2^32 is missed.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .. import _kernel
from .._kernel import SUM, WEIGHTED_SUM, StateError, Sums
from .._kernel.constants import MOST_RECORD_WORDS, NOT_A_NUMBER, UNIT, VERSION
from .._kernel.stored_sum import decode_sum, encode_sum
from ..scales import NATURAL, Scale
from .aggregations import (
    AGGREGATIONS,
    LOGSUMEXP,
    WITH_PARAMETER,
    Aggregation,
    Extremes,
    ScaledSum,
    SmallestValues,
)
from .arrays import StateArray, require
from .extremes import check_extremes, dtype_of

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_BY_CODE = {aggregation.code: aggregation for aggregation in AGGREGATIONS.values()}


def _dtype(part: ScaledSum | Extremes) -> np.dtype[np.void]:
    if isinstance(part, Extremes):
        return dtype_of(part.floats)
    return WEIGHTED_SUM if part.has_weights else SUM


def _sum_words(part: ScaledSum | Extremes) -> int:
    """Words of a scaled sum, or of extremes, without the count."""
    return _dtype(part).itemsize // 8 - 1


def encode_states(states: StateArray) -> tuple[Words, Ints]:
    """The records, one after another, and where each begins and the last ends (n + 1,), in words."""
    n = len(states)
    aggregation, scale = states.aggregation, states.scale
    fixed = np.empty((n, _fixed_words(aggregation, scale)), np.uint64)
    fixed[:, 0] = _head(aggregation, scale)
    fixed[:, 1] = states.sums[0]["count"]
    start, parameter = 2, _parameter(aggregation, scale)
    if parameter is not None:
        fixed[:, 2] = parameter
        start = 3
    for part, sums in zip(aggregation.sums, states.sums, strict=True):
        end = start + _sum_words(part)
        fixed[:, start:end] = _kernel.words_of(sums)[:, 1:]
        start = end
    if not states.exact:
        offsets = np.arange(n + 1) * fixed.shape[1]
        _kernel.seal(fixed.reshape(-1), offsets)
        return fixed.reshape(-1), offsets
    sizes = [_stored_words(words, at) for words, at in states.exact]
    if n == 1:  # most often so, and quicker than the general way
        stored = [words[at[0] : at[0] + size[0]] for (words, at), size in zip(states.exact, sizes, strict=True)]
        out = np.concatenate([fixed[0], *stored])
        offsets = np.array([0, out.size])
        _kernel.seal(out, offsets)
        return out, offsets
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(fixed.shape[1] + sum(sizes, np.zeros(n, np.int64)), out=offsets[1:])
    out = np.empty(offsets[-1], np.uint64)
    out[offsets[:-1, None] + np.arange(fixed.shape[1])] = fixed
    place = offsets[:-1] + fixed.shape[1]
    for (words, at), size in zip(states.exact, sizes, strict=True):
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        out[np.repeat(place, size) + within] = words[np.repeat(at, size) + within]
        place = place + size
    _kernel.seal(out, offsets)
    return out, offsets


def decode_states(
    words: Words, offsets: Ints, expected: tuple[Aggregation, Scale] | None = None, *, trusted: bool = False
) -> StateArray:
    """The states of records, each from an offset to the next.

    Args:
      expected: aggregation and scale; None for those of the first record, and without any for log-sum-exp.
      trusted: the records are known to be canonical, as what made them is known.

    Raises:
      StateError: a record is truncated, of another version, aggregation or scale than it should be, or not canonical.
    """
    n = offsets.size - 1
    sizes, begin = np.diff(offsets), offsets[:-1]
    require(sizes > 0, lambda _: "expected a record, found 0 bytes")
    aggregation, scale = expected or (_header(words, offsets) if n else (LOGSUMEXP, NATURAL))
    fixed = _fixed_words(aggregation, scale)
    head = _head(aggregation, scale)
    heads = words[begin] & np.uint64(0xFFFFFFFF)
    require(heads == np.uint64(head), lambda i: f"expected {_describe(head)}, found {_describe(int(heads[i]))}")
    least = "" if not aggregation.exact else " or more"
    fits = sizes >= fixed if aggregation.exact else sizes == fixed
    require(fits, lambda i: f"expected a state of {8 * fixed} bytes{least}, found {8 * sizes[i]}")
    if not trusted:
        damaged = _kernel.find_damage(words, offsets)
        require(np.arange(n) != damaged, lambda _: "expected a record as it was written, found a damaged one")
    # All records without exact sums have one size.
    matrix = words[begin[:, None] + np.arange(fixed)] if aggregation.exact else words[offsets[0] :][: n * fixed]
    matrix, start = matrix.reshape(n, fixed), 2
    parameter = _parameter(aggregation, scale)
    if parameter is not None:
        found = matrix[:, 2]
        of = f"scale {scale.name}" if aggregation.parameter is None else f"aggregation {aggregation.name}"
        kind = np.float64 if aggregation.parameter is None else np.int64
        require(found == parameter, lambda i: f"expected {of}, found parameter {found.view(kind)[i].item()!r}")
        start = 3
    sums = []
    for part in aggregation.sums:
        end = start + _sum_words(part)
        found_sums = np.empty((n, end - start + 1), np.uint64)
        found_sums[:, 0], found_sums[:, 1:] = matrix[:, 1], matrix[:, start:end]
        sums.append(found_sums.reshape(-1).view(_dtype(part)))
        if trusted or part.of_others:
            pass
        elif isinstance(part, Extremes):
            check_extremes(sums[-1])
        else:
            _kernel.check_sums(sums[-1], scale.factor)
        start = end
    place, ends, exact = begin + fixed, offsets[1:], []
    for stored in aggregation.exact:
        if trusted:
            size = _stored_words(words, place)
        elif isinstance(stored, SmallestValues):
            size = _check_smallest(words, place, ends, stored.k, sums)
        else:
            size = _check_exact(words, place, ends, sums[0]["count"], integers=aggregation.digits is not None)
        for part, part_sums in zip(aggregation.sums, sums, strict=True):
            if isinstance(stored, SmallestValues) and part.of_others:
                part_sums["count"] -= size - 1
                if not trusted:
                    _kernel.check_sums(part_sums, scale.factor)
        exact.append((words, place))
        place = place + size
    require(place == ends, lambda i: f"expected a state of {8 * (place - begin)[i]} bytes, found {8 * sizes[i]}")
    for (part, one), (of_twice, two) in pairwise(zip(aggregation.sums, sums, strict=True)):
        if isinstance(part, ScaledSum) and isinstance(of_twice, ScaledSum) and of_twice.times == 2.0 * part.times:
            _check_twice(one["max"], two["max"])
    return StateArray(aggregation, scale, tuple(sums), tuple(exact))


# --- header -----------------------------------------------------------------------------------------------------------


def _head(aggregation: Aggregation, scale: Scale) -> int:
    """The first word of a record."""
    return VERSION | aggregation.code << 8 | scale.code << 16


def _parameter(aggregation: Aggregation, scale: Scale) -> np.uint64 | None:
    """The word of the parameter; None where there is none."""
    if aggregation.parameter is not None:
        return np.uint64(aggregation.parameter)
    return None if scale.parameter is None else np.float64(scale.parameter).view(np.uint64)


def _fixed_words(aggregation: Aggregation, scale: Scale) -> int:
    """How many words a record has ahead of its exact sums."""
    has_parameter = _parameter(aggregation, scale) is not None
    return 2 + has_parameter + sum(_sum_words(part) for part in aggregation.sums)


def _describe(head: int) -> str:
    version, code, scale = head & 0xFF, head >> 8 & 0xFF, head >> 16 & 0xFFFF
    name = WITH_PARAMETER[code][0] if code in WITH_PARAMETER else _BY_CODE[code].name if code in _BY_CODE else "unknown"
    scale_name = Scale.CODES[scale] if scale < len(Scale.CODES) else "unknown"
    return f"version {version}, aggregation {code} ({name}), scale {scale} ({scale_name})"


def _header(words: Words, offsets: Ints) -> tuple[Aggregation, Scale]:
    """Aggregation and scale of the first record."""
    head = int(words[offsets[0]]) & 0xFFFFFFFF
    aggregation, code = _BY_CODE.get(head >> 8 & 0xFF), head >> 16 & 0xFFFF
    if head >> 8 & 0xFF in WITH_PARAMETER and offsets[1] - offsets[0] > 2:
        try:
            aggregation = WITH_PARAMETER[head >> 8 & 0xFF][1](int(words[offsets[0] + 2]))
        except ValueError as error:
            raise StateError(0, f"state 0: {error}") from error
    if head & 0xFF != VERSION or aggregation is None or code >= len(Scale.CODES):
        raise StateError(
            0, f"state 0: expected version {VERSION}, a known aggregation and scale, found {_describe(head)}"
        )
    name = Scale.CODES[code]
    if name in ("base", "temperature"):
        parameter = float(words[offsets[0] + 2].view(np.float64)) if offsets[1] - offsets[0] > 2 else np.nan
        name = f"{name} {parameter!r}"
    try:
        scale = Scale(name)
    except ValueError as error:
        raise StateError(0, f"state 0: {error}") from error
    if scale.code != code or (scale != NATURAL and not aggregation.has_scales):
        raise StateError(0, f"state 0: expected a scale that {aggregation.name} knows, found {_describe(head)}")
    return aggregation, scale


# --- exact sums -------------------------------------------------------------------------------------------------------


def _stored_words(words: Words, place: Ints) -> Ints:
    """How many words each stored sum takes, head included."""
    return (words[place] >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.int64) + 1


def _check_twice(maximum: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> None:
    """Raises StateError where the max of a sum of twice the values is not twice that of the values."""
    with np.errstate(over="ignore"):
        twice = 2.0 * maximum
    same = (twice == found) | (np.isnan(twice) & np.isnan(found))
    require(same, lambda i: f"expected a max of {twice[i]} of twice the values, found {found[i]}")


def _check_exact(words: Words, place: Ints, end: Ints, count: Ints, *, integers: bool) -> Ints:
    """How many words each stored sum takes, head included; raises StateError for one that is not canonical."""
    if integers:
        _check_integers(words, place, end)
    expected = "expected a canonical exact sum"
    if place.size == 1:  # most often so, and quicker than the general way
        at, held = int(place[0]), int(end[0] - place[0])
        units, low_word, special_sum = decode_sum(words, at) if held > 0 else (0, 0, NOT_A_NUMBER + 1)
        one = encode_sum(units << 64 * low_word, special_sum) if special_sum <= NOT_A_NUMBER else words[:0]
        fits_one = 0 < one.size <= min(held, MOST_RECORD_WORDS + 1 - low_word) and np.array_equal(
            one, words[at : at + one.size]
        )
        fits_one = fits_one and bool(count[0] or not (units or special_sum))  # no rows sum to 0
        require(np.array([fits_one]), lambda _: f"{expected}, found another in {held} words")
        return np.array([one.size])
    require(place < end, lambda _: f"{expected}, found no bytes of it")
    head = words[place]
    low, n = ((head >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16))
    special = head >> np.uint64(32)
    fits = (special <= NOT_A_NUMBER) & (low + n <= MOST_RECORD_WORDS) & (place + n < end)
    fits &= np.where(n > 0, special == 0, low == 0) & ((count > 0) | (head == 0))
    require(fits, lambda i: f"{expected}, found low {low[i]}, words {n[i]}, special {special[i]} in {(end - place)[i]}")
    some = np.flatnonzero(n > 0)
    first, top = words[place[some] + 1], words[place[some] + n[some]].view(np.int64)
    below = words[place[some] + np.maximum(n[some] - 1, 1)].view(np.int64)
    idle = (n[some] > 1) & (top == below >> 63)
    canonical = np.ones(n.size, np.bool_)
    canonical[some] = (first != 0) & ~idle
    require(canonical, lambda _: f"{expected}, found words that it does not need")
    return n + 1


def _check_integers(words: Words, place: Ints, end: Ints) -> None:
    """Raises StateError for an exact sum that is not of integers."""
    require(place < end, lambda _: "expected an exact sum, found no bytes of it")
    head = words[place]
    fits = (head >> np.uint64(32) == 0) & ((head == 0) | (head & np.uint64(0xFFFF) >= np.uint64(-UNIT // 64)))
    require(fits, lambda i: f"expected an exact sum of integers, found head {int(head[i]):#x}")


def _check_smallest(words: Words, place: Ints, end: Ints, k: int, sums: list[Sums]) -> Ints:
    """How many words each stored list takes, head included; raises StateError for one that is not canonical.

    It has to agree with the sums: of all values, and of the negatives of those that it does not keep.
    """
    expected = "expected a canonical list of smallest values"
    require(place < end, lambda _: f"{expected}, found no bytes of it")
    head = words[place]
    low, n = ((head >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16))
    special = (head >> np.uint64(32)).astype(np.int64)
    largest, count, least_other = sums[0]["max"], sums[0]["count"], -sums[1]["max"]
    is_special = np.isnan(largest) | (largest == np.inf)
    fits = (low == 0) & (special == np.where(is_special, NOT_A_NUMBER, 0)) & (place + n < end)
    fits &= (n == np.where(is_special, 0, np.minimum(count, k))) & (np.isnan(least_other) == np.isnan(largest))
    require(fits, lambda i: f"{expected}, found {n[i]} of {count[i]}, special {special[i]}")
    row, first = np.repeat(np.arange(n.size), n), np.cumsum(n) - n
    bits = words[place[row] + 1 + np.arange(row.size) - first[row]]
    values = bits.view(np.float64)
    bad = ~(values < np.inf) | (bits == np.float64(-0.0).view(np.uint64))
    bad[1:] |= (values[1:] < values[:-1]) & (row[1:] == row[:-1])
    canonical, some = np.bincount(row[bad], minlength=n.size) == 0, np.flatnonzero(n)
    last = values[first[some] + n[some] - 1]
    # Where all are kept the last is the largest; what is not kept is not below it.
    canonical[some] &= np.where(n[some] == count[some], last == largest[some], last <= least_other[some])
    require(canonical, lambda _: f"{expected}, found other values")
    return n + 1
