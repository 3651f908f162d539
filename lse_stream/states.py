"""Kinds of states, and arrays of them: grouped, merged, stored and finalised, by one algebra.

A state is made of parts, and each part merges by itself: scaled sums of ``w exp(c x)`` (``_kernel.record``) and exact
sums. A kind says which parts there are and what results follow from them. Its record, in words of 64 bits, all
little-endian::

    version (uint8), kind (uint8), scale (uint16), reserved (uint32)
    count of terms (int64)
    parameter of the scale (float64), for a base or a temperature alone
    of each scaled sum: max, base, limbs, as in ``_kernel.record``
    of each exact sum: low (uint16), words (uint16), special (uint32; 1 +inf, 2 -inf, 3 NaN);
        then the words of the sum in units of 2^(64 low - 2176), two's complement, no more than are needed

The record of log-sum-exp on the natural scale is that of ``_kernel.record``. Equal states have equal bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _kernel
from ._kernel import RECORD, StateError, States
from ._kernel.constants import MOST_WORDS, NOT_A_NUMBER, UNIT, VERSION
from ._kernel.double_double import divide, two_prod, two_sum
from ._kernel.exact_sum import decode_sum, encode_sum
from .scales import NATURAL, Scale

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.int32]
Result = npt.NDArray[np.float64] | npt.NDArray[np.int64]
Ratio = tuple[Any, int]

_TERM_WORDS = RECORD.itemsize // 8 - 2


@dataclass(frozen=True)
class ScaledSum:
    """The sum of ``w exp(c x)``; w is 1 without ``has_weights``, and x is twice the value if ``doubled``."""

    has_weights: bool = False
    doubled: bool = False

    def is_plain(self, scale: Scale) -> bool:
        """Whether it is a sum of ``exp(x)``, which has a kernel of its own."""
        return scale == NATURAL and not self.has_weights

    def terms(self, inputs: Sequence[Floats], scale: Scale) -> tuple[Floats, Floats | None]:
        """The x and the weights of the kernel's terms."""
        x = inputs[0]
        if self.doubled:
            with np.errstate(over="ignore"):
                x = 2.0 * x
        return -x if scale.descends else x, inputs[1] if self.has_weights else None

    def group(self, codes: Codes, inputs: Sequence[Floats], groups: int, scale: Scale) -> States:
        x, weights = self.terms(inputs, scale)
        if self.is_plain(scale):
            return _kernel.group_values(codes, x, groups)
        return _kernel.group_terms(codes, x, weights, groups, scale.factor)


@dataclass(frozen=True)
class ExactSum:
    """The sum of the product of two inputs, by position; of one input without a second. Nothing where that is 0."""

    first: int
    second: int | None = None

    def group(self, codes: Codes, inputs: Sequence[Floats], groups: int) -> tuple[Words, Ints]:
        second = None if self.second is None else inputs[self.second]
        words, begins = _kernel.sum_products(codes, inputs[self.first], second, groups)
        return words, begins[:-1]


@dataclass(frozen=True, eq=False)
class Kind:
    """What a state is made of, and what it tells.

    Attributes:
      name, code: as metadata and record have them.
      inputs: what a row consists of; the first is the value.
      sums, exact: the parts.
      results: how each result follows from an array of states; the first is the kind's own.
      columns: the results of a table unless others are asked for.
      scales: whether it knows other scales than the natural one.
    """

    name: str
    code: int
    inputs: tuple[str, ...]
    sums: tuple[ScaledSum, ...]
    exact: tuple[ExactSum, ...]
    results: Mapping[str, Callable[["StateArray"], Result]]
    columns: tuple[str, ...]
    scales: bool = False

    def __reduce__(self) -> tuple[Callable[[str], "Kind"], tuple[str]]:
        return kind_named, (self.name,)  # there is one of each

    def check_scale(self, scale: Scale) -> None:
        """Raises ValueError for a scale that this kind does not know."""
        if scale != NATURAL and not self.scales:
            raise ValueError(f"scale: expected natural, the one of {self.name}, found {scale.name}")

    def check_inputs(self, inputs: Sequence[Floats], names: Sequence[str]) -> None:
        """Raises ValueError for a weight or target that is not finite, or a negative target; named."""
        for role, name, array in list(zip(self.inputs, names, inputs, strict=True))[1:]:
            # Without an array in between: this is a good part of the time that weights cost.
            least, most = (array.min(), array.max()) if array.size else (0.0, 0.0)
            if -np.inf < least and most < np.inf and (role == "weight" or least >= 0.0):
                continue
            bad = ~np.isfinite(array) | ((role != "weight") & (array < 0.0))
            expected = "finite weights" if role == "weight" else "finite targets of 0 or more"
            raise ValueError(f"{name}: expected {expected}, found {array[bad.argmax()]}")


@dataclass(frozen=True, eq=False)
class StateArray:
    """States (n,) of one kind and scale: of each scaled sum its records, of each exact sum words and places in them."""

    kind: Kind
    scale: Scale
    sums: tuple[States, ...]
    exact: tuple[tuple[Words, Ints], ...]

    @classmethod
    def group(cls, kind: Kind, scale: Scale, codes: Codes, inputs: Sequence[Floats], groups: int) -> "StateArray":
        """The states (groups,) of the rows (n,) with each code. ``inputs`` are in the kind's order, and checked."""
        sums = tuple(part.group(codes, inputs, groups, scale) for part in kind.sums)
        return cls(kind, scale, sums, tuple(part.group(codes, inputs, groups) for part in kind.exact))

    @classmethod
    @lru_cache(maxsize=64)  # of one state: every new accumulator has it
    def empty(cls, kind: Kind, scale: Scale, n: int) -> "StateArray":
        """n empty states."""
        return cls.group(kind, scale, np.empty(0, np.int32), [np.empty(0)] * len(kind.inputs), n)

    def __len__(self) -> int:
        return self.sums[0].size

    def merge(self, codes: Codes, groups: int) -> "StateArray":
        """The merged states (groups,) of the states with each code."""
        sums = tuple(_kernel.merge_groups(codes, states, groups) for states in self.sums)
        merged = (_kernel.merge_sums(codes, words, at, groups) for words, at in self.exact)
        return StateArray(self.kind, self.scale, sums, tuple((words, begins[:-1]) for words, begins in merged))

    def take(self, rows: Ints) -> "StateArray":
        """The states of ``rows``, in that order."""
        sums = tuple(_kernel.take_states(states, rows) for states in self.sums)
        return StateArray(self.kind, self.scale, sums, tuple((words, at[rows]) for words, at in self.exact))

    def slice(self, start: int, rows: int) -> "StateArray":
        """Some states that follow each other, without a copy."""
        part = slice(start, start + rows)
        sums = tuple(states[part] for states in self.sums)
        return StateArray(self.kind, self.scale, sums, tuple((words, at[part]) for words, at in self.exact))

    @property
    def nbytes(self) -> int:
        """About what it takes of memory."""
        exact = sum(words.nbytes + at.nbytes for words, at in self.exact)
        return sum(states.nbytes for states in self.sums) + exact

    @staticmethod
    def concat(parts: Sequence["StateArray"]) -> "StateArray":
        """All states of ``parts``, of which there is at least one.

        Raises:
          StateError: they differ in kind or scale; both named.
        """
        first = parts[0]
        for part in parts[1:]:
            check_same(first, part)
        sums = tuple(_kernel.concat_states(column) for column in zip(*(part.sums for part in parts), strict=True))
        exact = []
        for column in zip(*(part.exact for part in parts), strict=True):
            starts = np.cumsum([0, *(words.size for words, _ in column[:-1])])
            places = [at + start for (_, at), start in zip(column, starts, strict=True)]
            exact.append((np.concatenate([words for words, _ in column]), np.concatenate(places)))
        return StateArray(first.kind, first.scale, sums, tuple(exact))

    def to_words(self) -> tuple[Words, Ints]:
        """The records, one after another, and where each begins and the last ends (n + 1,), in words."""
        n = len(self)
        if (self.kind, self.scale) == (LOGSUMEXP, NATURAL):
            words = np.ascontiguousarray(self.sums[0]).view(np.uint64)
            return words, np.arange(n + 1) * (RECORD.itemsize // 8)
        fixed = np.empty((n, _fixed_words(self.kind, self.scale)), np.uint64)
        fixed[:, 0] = VERSION | self.kind.code << 8 | self.scale.code << 16
        fixed[:, 1] = self.sums[0]["count"]
        if self.scale.parameter is not None:
            fixed[:, 2] = np.float64(self.scale.parameter).view(np.uint64)
        start = fixed.shape[1] - _TERM_WORDS * len(self.sums)
        for states in self.sums:
            fixed[:, start : start + _TERM_WORDS] = states.view(np.uint64).reshape(n, _TERM_WORDS + 2)[:, 2:]
            start += _TERM_WORDS
        sizes = [_exact_words(words, at) for words, at in self.exact]
        if n == 1:  # most often so, and quicker than the general way
            stored = [words[at[0] : at[0] + size[0]] for (words, at), size in zip(self.exact, sizes, strict=True)]
            out = np.concatenate([fixed[0], *stored])
            return out, np.array([0, out.size])
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(fixed.shape[1] + sum(sizes, np.zeros(n, np.int64)), out=offsets[1:])
        out = np.empty(offsets[-1], np.uint64)
        out[offsets[:-1, None] + np.arange(fixed.shape[1])] = fixed
        place = offsets[:-1] + fixed.shape[1]
        for (words, at), size in zip(self.exact, sizes, strict=True):
            within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
            out[np.repeat(place, size) + within] = words[np.repeat(at, size) + within]
            place = place + size
        return out, offsets

    @classmethod
    def from_words(
        cls, words: Words, offsets: Ints, expected: tuple[Kind, Scale] | None = None, *, trusted: bool = False
    ) -> "StateArray":
        """The states of records, each from an offset to the next.

        Args:
          expected: kind and scale; None for those of the first record, and without any for log-sum-exp.
          trusted: the records are in their one form, as what made them is known.

        Raises:
          StateError: a record is truncated, of another version, kind or scale than it should be, or not canonical.
        """
        n = offsets.size - 1
        sizes, begin = np.diff(offsets), offsets[:-1]
        _require(sizes > 0, lambda _: "expected a record, found 0 bytes")
        kind, scale = expected or (_header(words, offsets) if n else (LOGSUMEXP, NATURAL))
        fixed = _fixed_words(kind, scale)
        head = VERSION | kind.code << 8 | scale.code << 16
        heads = words[begin]
        _require(heads == np.uint64(head), lambda i: f"expected {_describe(head)}, found {_describe(int(heads[i]))}")
        least = "" if not kind.exact else " or more"
        fits = sizes >= fixed if kind.exact else sizes == fixed
        _require(fits, lambda i: f"expected a state of {8 * fixed} bytes{least}, found {8 * sizes[i]}")
        if (kind, scale) == (LOGSUMEXP, NATURAL):
            states = words[offsets[0] : offsets[-1]].view(RECORD)
            if not trusted:
                _kernel.check_states(states)
            return cls(kind, scale, (states,), ())
        start = 2
        if scale.parameter is not None:
            found = words[begin + 2].view(np.float64)
            _require(found == scale.parameter, lambda i: f"expected scale {scale.name}, found parameter {found[i]!r}")
            start = 3
        sums = []
        for part in kind.sums:
            states = np.zeros(n, RECORD)
            states["version"] = VERSION
            matrix = states.view(np.uint64).reshape(n, _TERM_WORDS + 2)
            matrix[:, 1] = words[begin + 1]
            matrix[:, 2:] = words[begin[:, None] + np.arange(start, start + _TERM_WORDS)]
            if not trusted:
                _kernel.check_states(states, scale.factor, has_signs=part.has_weights)
            sums.append(states)
            start += _TERM_WORDS
        place, end, exact = begin + fixed, offsets[1:], []
        for _ in kind.exact:
            size = _exact_words(words, place) if trusted else _check_exact(words, place, end)
            exact.append((words, place))
            place = place + size
        _require(place == end, lambda i: f"expected a state of {8 * (place - begin)[i]} bytes, found {8 * sizes[i]}")
        if len(sums) == 2:
            with np.errstate(over="ignore"):
                twice = 2.0 * sums[0]["max"]
            same = (twice == sums[1]["max"]) | (np.isnan(twice) & np.isnan(sums[1]["max"]))
            _require(same, lambda i: f"expected a second max of {twice[i]}, found {sums[1]['max'][i]}")
        return cls(kind, scale, tuple(sums), tuple(exact))

    # --- results ------------------------------------------------------------------------------------------------------

    def result(self, name: str) -> Result:
        """One of the kind's results (n,), with one NaN and no -0.0."""
        values = self.kind.results[name](self)
        return values if values.dtype == np.int64 else np.where(np.isnan(values), np.nan, values + 0.0)

    @property
    def counts(self) -> Ints:
        return np.ascontiguousarray(self.sums[0]["count"])

    def logs(self, part: Floats, *, with_max: bool = True) -> Floats:
        """A double-double (2, n) of natural logarithms, in units of the scale, on top of the max; rounded once."""
        high, low = part
        maximum = self.sums[0]["max"] if with_max else np.zeros(len(self))
        with np.errstate(invalid="ignore", under="ignore", over="ignore"):
            if self.scale != NATURAL:
                unit, rest = self.scale.unit
                product, error = two_prod(high, np.full_like(high, unit))
                high, low = product, np.where(np.isfinite(high), error + (high * rest + low * unit), 0.0)
            total, error = two_sum(maximum, high)
            out = np.where(np.isfinite(maximum) & np.isfinite(high), total + (error + low), maximum + high)
        return np.asarray(-out if self.scale.descends else out)

    def quotients(self, *, per_term: bool = False) -> Floats:
        """As ``_kernel.quotients_of``, (5, n): of the sum over the max's term, or of the mean over it."""
        counts = self.counts if per_term else np.ones(len(self), np.int64)
        return _kernel.quotients_of(self.sums[0], counts, self.scale.factor).T

    def exact_sums(self, position: int) -> Iterator[Ratio]:
        """An exact sum as (numerator, denominator); beside a denominator of 0 the NaN or infinity that it is.

        One after another, as these integers may take a kilobyte each.
        """
        words, at = self.exact[position]
        found = (decode_sum(words, place) for place in at.tolist())
        specials = (0.0, np.inf, -np.inf, np.nan)
        return ((specials[special], 0) if special else _ratio(units, low) for units, low, special in found)


def _ratio(units: int, low: int) -> Ratio:
    bits = -UNIT - 64 * low
    return (units, 1 << bits) if bits >= 0 else (units << -bits, 1)


def kind_named(name: str) -> Kind:
    """The kind of that name."""
    return KINDS[name]


def check_same(expected: StateArray, found: StateArray) -> None:
    """Raises StateError for two kinds or scales; both named."""
    if expected.kind is found.kind and expected.scale == found.scale:
        return
    for what, one, other in (
        ("kind", expected.kind.name, found.kind.name),
        ("scale", expected.scale.name, found.scale.name),
    ):
        if one != other:
            raise StateError(0, f"states of two {what}s do not merge: {one} and {other}")


def _fixed_words(kind: Kind, scale: Scale) -> int:
    return 2 + (scale.parameter is not None) + _TERM_WORDS * len(kind.sums)


def _require(fits: npt.NDArray[np.bool_], message: Callable[[int], str]) -> None:
    if not fits.all():
        row = int(fits.argmin())
        raise StateError(row, f"state {row}: {message(row)}")


def _describe(head: int) -> str:
    version, kind, scale, reserved = head & 0xFF, head >> 8 & 0xFF, head >> 16 & 0xFFFF, head >> 32
    kind_name = KINDS_BY_CODE[kind].name if kind in KINDS_BY_CODE else "unknown"
    scale_name = Scale.CODES[scale] if scale < len(Scale.CODES) else "unknown"
    extra = f", reserved bytes {reserved:#x}" if reserved else ""
    return f"version {version}, kind {kind} ({kind_name}), scale {scale} ({scale_name}){extra}"


def _header(words: Words, offsets: Ints) -> tuple[Kind, Scale]:
    """Kind and scale of the first record."""
    head = int(words[offsets[0]])
    kind, code = KINDS_BY_CODE.get(head >> 8 & 0xFF), head >> 16 & 0xFFFF
    if head & 0xFF != VERSION or kind is None or code >= len(Scale.CODES) or head >> 32:
        raise StateError(0, f"state 0: expected version {VERSION}, a known kind and scale, found {_describe(head)}")
    if Scale.CODES[code] not in ("base", "temperature"):
        scale = Scale.of(Scale.CODES[code])
    else:
        parameter = float(words[offsets[0] + 2].view(np.float64)) if offsets[1] - offsets[0] > 2 else np.nan
        try:
            scale = Scale.of(f"{Scale.CODES[code]} {parameter!r}")
        except ValueError as error:
            raise StateError(0, f"state 0: {error}") from error
    if (scale.code != code) or (scale != NATURAL and not kind.scales):
        raise StateError(0, f"state 0: expected a scale that {kind.name} knows, found {_describe(head)}")
    return kind, scale


def _exact_words(words: Words, place: Ints) -> Ints:
    """How many words each stored sum takes, head included."""
    return (words[place] >> np.uint64(16) & np.uint64(0xFFFF)).astype(np.int64) + 1


def _check_exact(words: Words, place: Ints, end: Ints) -> Ints:
    """How many words each stored sum takes, head included; raises StateError for one that is not canonical."""
    expected = "expected an exact sum in its one form"
    if place.size == 1:  # most often so, and quicker than the general way
        at, held = int(place[0]), int(end[0] - place[0])
        units, low_word, special_sum = decode_sum(words, at) if held > 0 else (0, 0, 4)
        one = encode_sum(units << 64 * low_word, special_sum) if special_sum <= NOT_A_NUMBER else words[:0]
        fits_one = 0 < one.size <= min(held, MOST_WORDS + 1 - low_word) and np.array_equal(
            one, words[at : at + one.size]
        )
        _require(np.array([fits_one]), lambda _: f"{expected}, found another in {held} words")
        return np.array([one.size])
    _require(place < end, lambda _: f"{expected}, found no bytes of it")
    head = words[place]
    low, n = ((head >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16))
    special = head >> np.uint64(32)
    fits = (special <= NOT_A_NUMBER) & (low + n <= MOST_WORDS) & (place + n < end)
    fits &= np.where(n > 0, special == 0, low == 0)
    _require(
        fits, lambda i: f"{expected}, found low {low[i]}, words {n[i]}, special {special[i]} in {(end - place)[i]}"
    )
    some = np.flatnonzero(n > 0)
    first, top = words[place[some] + 1], words[place[some] + n[some]].view(np.int64)
    below = words[place[some] + np.maximum(n[some] - 1, 1)].view(np.int64)
    idle = (n[some] > 1) & (top == below >> 63)
    canonical = np.ones(n.size, np.bool_)
    canonical[some] = (first != 0) & ~idle
    _require(canonical, lambda _: f"{expected}, found words that it does not need")
    return n + 1


class Logs:
    """The logarithms of states on the natural scale, for any number of rows to be taken from: ``x - LSE``."""

    def __init__(self, states: StateArray) -> None:
        _, high, low, _, _ = states.quotients()
        self._maxima, self._high, self._low = np.array(states.sums[0]["max"]), high.copy(), low.copy()

    def weights(self, codes: Codes, x: Floats) -> Floats:
        """``x - LSE`` of the state of each row's code (n,), rounded once."""
        maximum = self._maxima[codes]
        with np.errstate(invalid="ignore", over="ignore"):
            out = less_log(x, maximum, self._high[codes], self._low[codes])
            difference = x - maximum
            finite = np.isfinite(difference)
            if not finite.all():
                out = np.where(finite, out, difference)
                out = np.where(np.isnan(out), np.nan, out)  # the one NaN
        return np.asarray(out)


def log_weights(states: StateArray, codes: Codes, x: Floats) -> Floats:
    """``x - LSE`` of the state of each row's code (n,), rounded once, for states on the natural scale."""
    return Logs(states).weights(codes, x)


def less_log(x: Any, maximum: Any, high: Any, low: Any) -> Any:
    """``x - (maximum + (high + low))`` of floats or of arrays, rounded once."""
    total, error = two_sum(x, -maximum)
    total, error2 = two_sum(total, -high)
    return total + (error + error2 - low)


# --- results of the kinds ---------------------------------------------------------------------------------------------


def _rounded(numerator: float, denominator: int) -> float:
    """A ratio of integers, rounded once; infinite where it is beyond the floats."""
    if not denominator:
        return numerator
    try:
        return numerator / denominator
    except OverflowError:
        return np.inf if numerator > 0 else -np.inf


def _pairs(ratios: Iterable[Ratio]) -> tuple[Floats, Floats]:
    """Ratios as double-doubles; the low part is 0 where the high one is not finite."""
    pairs = []
    for numerator, denominator in ratios:
        high = _rounded(numerator, denominator)
        low = 0.0
        if denominator and abs(high) < np.inf:
            above, below = high.as_integer_ratio()
            low = (numerator * below - above * denominator) / (denominator * below)
        pairs.append((high, low))
    high_part, low_part = np.array(pairs, np.float64).reshape(-1, 2).T
    return high_part, low_part


def _values(states: StateArray) -> Floats:
    if states.kind.sums[0] == ScaledSum() and states.scale == NATURAL:
        return _kernel.state_values(states.sums[0])
    sign, high, low, _, _ = states.quotients()
    out = states.logs(np.array([high, low]))
    # What cancels is a sum of 0, however far from 0 the max is.
    return np.where((sign == 0.0) & (states.counts > 0), np.inf if states.scale.descends else -np.inf, out)


def _signs(states: StateArray) -> Floats:
    return np.asarray(states.quotients()[0])


def _maxima(states: StateArray) -> Floats:
    maxima = np.ascontiguousarray(states.sums[0]["max"])
    return -maxima if states.scale.descends else maxima


def _means(states: StateArray) -> Floats:
    _, high, low, _, _ = states.quotients(per_term=True)
    return states.logs(np.array([high, low]))


def _bonuses(states: StateArray) -> Floats:
    _, high, low, _, _ = states.quotients()
    out = states.logs(np.array([high, low]), with_max=False)
    return np.where(np.isfinite(states.sums[0]["max"]), out, np.nan)


def _effective_numbers(states: StateArray) -> Floats:
    *_, high, low = states.quotients()
    return np.where(np.isfinite(states.sums[0]["max"]), high + low, np.nan)


def _exact(position: int) -> Callable[[StateArray], Floats]:
    return lambda states: np.array([_rounded(*total) for total in states.exact_sums(position)], np.float64)


def _weighted_means(states: StateArray) -> Floats:
    """ln(S / W) from the pairs of both: W as the state of its two parts at x = 0."""
    high, low = _pairs(states.exact_sums(0))
    n = len(states)
    rows = np.tile(np.arange(n, dtype=np.int32), 2)
    finite = np.where(np.isfinite(high), high, 0.0)
    weights = _kernel.group_terms(rows, np.zeros(2 * n), np.concatenate([finite, low]), n)
    divisor = _kernel.quotients_of(weights, np.ones(n, np.int64)).T
    sign, log_high, log_low, _, _ = states.quotients()
    with np.errstate(invalid="ignore"):
        log_high, error = two_sum(log_high, -divisor[1])
        out = states.logs(np.array([log_high, np.where(np.isfinite(log_high), error + (log_low - divisor[2]), 0.0)]))
        # A mean that is negative or without weight has no logarithm.
        nothing = np.where((sign == 0) & (divisor[0] != 0), np.inf if states.scale.descends else -np.inf, np.nan)
        return np.where(sign * divisor[0] > 0, out, nothing)


def _averages(states: StateArray) -> Floats:
    rows = zip(states.counts.tolist(), states.exact_sums(0), strict=True)
    return np.array([_rounded(s, n * d) if n else np.nan for n, (s, d) in rows], np.float64)


def variances(states: StateArray, ddof: int = 1) -> Floats:
    """The variance of the values, correctly rounded; NaN for ``ddof`` values or fewer, or one that is not finite."""
    rows = zip(states.counts.tolist(), states.exact_sums(0), states.exact_sums(1), strict=True)
    # (q / e - s^2 / (n d^2)) / (n - ddof), with denominators that are powers of 2
    return np.array(
        [
            _rounded(q * n * d * d - s * s * e, e * d * d * n * (n - ddof)) if n > ddof and d and e else np.nan
            for n, (s, d), (q, e) in rows
        ],
        np.float64,
    )


def _sample_sizes(states: StateArray) -> Floats:
    """(sum e^x)^2 / sum e^2x, both over the term of their max, which cancels."""
    *_, high, low = states.quotients()
    *_, high2, low2 = _kernel.quotients_of(states.sums[1], np.ones(len(states), np.int64)).T
    square, error = two_prod(high, high)
    size, rest = divide(square, error + 2.0 * high * low, high2, low2)
    first, second = states.sums[0]["max"], states.sums[1]["max"]
    # Of values this far only ties count, once and twice.
    size = np.where(np.isfinite(second), size + rest, high + low)
    return np.where(np.isfinite(first), size, np.where(first == -np.inf, 0.0, np.nan))


def _largest_weights(states: StateArray) -> Floats:
    *_, high, low = states.quotients()
    one = np.ones_like(high)
    weight, rest = divide(one, 0.0 * one, high, low)
    return np.where(np.isfinite(states.sums[0]["max"]), weight + rest, np.nan)


def _cross_entropies(states: StateArray) -> Floats:
    """W LSE(x) - sum t x with W = sum t, added up in pairs.

    Raises:
      StateError: the targets of a state do not sum to 1.
    """
    targets = _exact(1)(states)
    _require(
        np.abs(targets - 1.0) <= 1e-6,
        lambda i: f"expected targets that sum to 1, such as one label, found {targets[i]}",
    )
    chosen, rest = _pairs(states.exact_sums(0))
    _, high, low, _, _ = states.quotients()
    maximum = states.sums[0]["max"]
    with np.errstate(invalid="ignore", over="ignore"):
        product, product_low = two_prod(targets, maximum)
        total, error = two_sum(product, -chosen)
        bonus, bonus_low = two_prod(targets, high)
        total, error2 = two_sum(total, bonus)
        out = total + (error + error2 + (product_low + bonus_low + targets * low - rest))
        exact = np.isfinite(maximum) & np.isfinite(chosen) & (np.abs(maximum) < 1e290)
        return np.asarray(np.where(exact, out, targets * maximum - chosen))


def _counts(states: StateArray) -> Ints:
    return states.counts


LOGSUMEXP = Kind(
    "logsumexp",
    0,
    ("value",),
    (ScaledSum(),),
    (),
    {
        "logsumexp": _values,
        "count": _counts,
        "max": _maxima,
        "logmeanexp": _means,
        "bonus": _bonuses,
        "effective_number": _effective_numbers,
    },
    ("logsumexp", "count", "max"),
    scales=True,
)
WEIGHTED_LOGSUMEXP = Kind(
    "weighted_logsumexp",
    1,
    ("value", "weight"),
    (ScaledSum(has_weights=True),),
    (ExactSum(1),),
    {
        "logsumexp": _values,
        "sign": _signs,
        "count": _counts,
        "max": _maxima,
        "weight": _exact(0),
        "logmeanexp": _weighted_means,
    },
    ("logsumexp", "sign", "count", "max", "weight"),
    scales=True,
)
LOG_LIKELIHOOD = Kind(
    "log_likelihood",
    2,
    ("value",),
    (ScaledSum(),),
    (ExactSum(0), ExactSum(0, 0)),
    {
        "log_likelihood": _exact(0),
        "count": _counts,
        "max": _maxima,
        "logsumexp": _values,
        "logmeanexp": _means,
        "mean": _averages,
        "variance": variances,
        "sum_of_squares": _exact(1),
    },
    ("log_likelihood", "count", "max", "logsumexp", "mean", "variance"),
)
EFFECTIVE_SAMPLE_SIZE = Kind(
    "effective_sample_size",
    3,
    ("value",),
    (ScaledSum(), ScaledSum(doubled=True)),
    (),
    {
        "effective_sample_size": _sample_sizes,
        "count": _counts,
        "max": _maxima,
        "largest_weight": _largest_weights,
        "logsumexp": _values,
        "logmeanexp": _means,
    },
    ("effective_sample_size", "count", "max", "largest_weight"),
)
CROSS_ENTROPY = Kind(
    "cross_entropy",
    4,
    ("value", "target"),
    (ScaledSum(),),
    (ExactSum(0, 1), ExactSum(1)),
    {"cross_entropy": _cross_entropies, "count": _counts, "max": _maxima, "logsumexp": _values},
    ("cross_entropy", "count", "max"),
)
KINDS = {
    kind.name: kind for kind in (LOGSUMEXP, WEIGHTED_LOGSUMEXP, LOG_LIKELIHOOD, EFFECTIVE_SAMPLE_SIZE, CROSS_ENTROPY)
}
KINDS_BY_CODE = {kind.code: kind for kind in KINDS.values()}
