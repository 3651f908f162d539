"""Arrays of states: grouped from rows, merged, taken and put together, part by part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _kernel
from .._kernel import StateError, Sums
from .._kernel.double_double import two_sum
from ..scales import Scale
from .aggregations import Aggregation, ExactSum, Extremes, ScaledSum, SmallestValues
from .extremes import group_extremes, merge_extremes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.int32]
Rows = tuple[Codes, Floats]


class Quotients(NamedTuple):
    """Of each state (n,), with S its sum, T the term of its max and m a count: ``q = abs(S) / (m T)``.

    Where the max is too far from 0 for its term (2^60 and more) or infinite, T is 1.

    Attributes:
      sign: of S.
      log_high, log_low: ``ln q`` as a double-double.
      high, low: q as a double-double.
    """

    sign: Floats
    log_high: Floats
    log_low: Floats
    high: Floats
    low: Floats


@dataclass(frozen=True, eq=False)
class StateArray:
    """States (n,) of one aggregation and scale, as columns of their parts. It never changes.

    Attributes:
      sums: of each scaled sum, those of the states (n,), as ``_kernel.sums`` describes them; or their extremes.
      exact: of each exact sum or list of smallest values, words, and the place (n,) among them where each state's
        begins.
    """

    aggregation: Aggregation
    scale: Scale
    sums: tuple[Sums, ...]
    exact: tuple[tuple[Words, Ints], ...]

    @classmethod
    def group(
        cls, aggregation: Aggregation, scale: Scale, codes: Codes, inputs: Sequence[Floats], groups: int
    ) -> "StateArray":
        """The states (groups,) of the rows (n,) with each code.

        Args:
          inputs: columns (n,) in the order of ``aggregation.inputs``, checked by its ``check_inputs``; of integers and
            decimals what ``lse_stream.integers`` makes of one.
        """
        others: Rows = codes, inputs[0]
        exact = []
        for part in aggregation.exact:
            if isinstance(part, SmallestValues):
                lists = _kernel.Smallest(part.k)
                lists.update(codes, inputs[0], groups)
                stored, others = _settled(lists, groups)
                exact.append(stored)
            else:
                exact.append(_group_exact(part, codes, inputs, groups))
        sums = tuple(
            _group_sums(part, scale, others[0], others[1:], groups)
            if part.of_others
            else _group_sums(part, scale, codes, inputs, groups)
            for part in aggregation.sums
        )
        return cls(aggregation, scale, sums, tuple(exact))

    @classmethod
    @lru_cache(maxsize=64)  # of one state: every new accumulator has it
    def empty(cls, aggregation: Aggregation, scale: Scale, n: int) -> "StateArray":
        """n empty states."""
        return cls.group(aggregation, scale, np.empty(0, np.int32), [np.empty(0)] * aggregation.num_inputs, n)

    def __len__(self) -> int:
        return self.sums[0].size

    def merge(self, codes: Codes, groups: int) -> "StateArray":
        """The merged states (groups,) of the states with each code."""
        sums = [
            merge_extremes(codes, states, part.floats, groups)
            if isinstance(part, Extremes)
            else _kernel.merge_groups(codes, states, groups, self.scale.factor)
            for part, states in zip(self.aggregation.sums, self.sums, strict=True)
        ]
        exact = []
        for part, (words, at) in zip(self.aggregation.exact, self.exact, strict=True):
            if isinstance(part, SmallestValues):
                lists = _kernel.Smallest(part.k)
                lists.merge(codes, words, at, groups)
                stored, others = _settled(lists, groups)
                exact.append(stored)
                for i, scaled in enumerate(self.aggregation.sums):
                    if scaled.of_others and others[0].size:
                        more = _group_sums(scaled, self.scale, others[0], others[1:], groups)
                        twice = np.tile(np.arange(groups, dtype=np.int32), 2)
                        sums[i] = _kernel.merge_groups(twice, _kernel.concat_sums([sums[i], more]), groups)
            else:
                merged, begins = _kernel.merge_sums(codes, words, at, groups)
                exact.append((merged, begins[:-1]))
        return self._with(tuple(sums), tuple(exact))

    def take(self, rows: Ints) -> "StateArray":
        """The states of ``rows``, in that order."""
        sums = tuple(_kernel.take_sums(states, rows) for states in self.sums)
        return self._with(sums, tuple((words, at[rows]) for words, at in self.exact))

    def emptied(self, where: npt.NDArray[np.bool_]) -> "StateArray":
        """The states, but empty ones where that is true (n,)."""
        states = StateArray.concat([self, StateArray.empty(self.aggregation, self.scale, 1)])
        return states.take(np.where(where, len(self), np.arange(len(self))))

    def slice(self, start: int, num_rows: int) -> "StateArray":
        """Some states that follow each other, without a copy."""
        part = slice(start, start + num_rows)
        return self._with(
            tuple(states[part] for states in self.sums), tuple((words, at[part]) for words, at in self.exact)
        )

    def _with(self, sums: tuple[Sums, ...], exact: tuple[tuple[Words, Ints], ...]) -> "StateArray":
        return StateArray(self.aggregation, self.scale, sums, exact)

    @staticmethod
    def concat(parts: Sequence["StateArray"]) -> "StateArray":
        """All states of ``parts``, of which there is at least one.

        Raises:
          StateError: they differ in aggregation or scale; both named.
        """
        first = parts[0]
        for part in parts[1:]:
            check_same(first, part)
        sums = tuple(_kernel.concat_sums(column) for column in zip(*(part.sums for part in parts), strict=True))
        exact = []
        for column in zip(*(part.exact for part in parts), strict=True):
            starts = np.cumsum([0, *(words.size for words, _ in column[:-1])])
            places = [at + start for (_, at), start in zip(column, starts, strict=True)]
            exact.append((np.concatenate([words for words, _ in column]), np.concatenate(places)))
        return first._with(sums, tuple(exact))

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        exact = sum(words.nbytes + at.nbytes for words, at in self.exact)
        return sum(states.nbytes for states in self.sums) + exact

    @property
    def counts(self) -> Ints:
        """How many terms each state has."""
        return np.ascontiguousarray(self.sums[0]["count"])

    def quotients(self, part: int = 0, *, per_term: bool = False) -> Quotients:
        """Of a scaled sum over the term of its max; with ``per_term``, of the mean term over it."""
        counts = self.counts if per_term else np.ones(len(self), np.int64)
        return Quotients(*_kernel.quotients_of(self.sums[part], counts, self.scale.factor).T)


def sum_once(maximum: Floats, high: Floats, low: Floats) -> Floats:
    """``maximum + high + low`` (n,) of logarithms as double-doubles, rounded once; infinite where a part is."""
    with np.errstate(invalid="ignore", over="ignore"):
        total, error = two_sum(maximum, high)
        return np.where(np.isfinite(maximum) & np.isfinite(high), total + (error + low), maximum + high)


def _group_sums(part: ScaledSum | Extremes, scale: Scale, codes: Codes, inputs: Sequence[Floats], groups: int) -> Sums:
    if isinstance(part, Extremes):
        return group_extremes(codes, inputs, part.floats, groups)
    x, weights = part.terms(inputs, scale)
    if part.is_plain(scale):
        return _kernel.group_values(codes, x, groups)
    return _kernel.group_terms(codes, x, weights, groups, scale.factor)


def _settled(lists: _kernel.Smallest, groups: int) -> tuple[tuple[Words, Ints], Rows]:
    """The lists as they are stored, and codes and values of what is not in them."""
    words, begins = lists.stored(groups)
    return (words, begins[:-1]), lists.take_others()


def _group_exact(part: ExactSum, codes: Codes, inputs: Sequence[Floats], groups: int) -> tuple[Words, Ints]:
    words, begins = _kernel.sum_products(*part.rows(codes, inputs), groups)
    return words, begins[:-1]


def check_same(expected: StateArray, found: StateArray) -> None:
    """Raises StateError for two aggregations or scales; both named."""
    if expected.aggregation is found.aggregation and expected.scale == found.scale:
        return
    for what, one, other in (
        ("aggregation", expected.aggregation.name, found.aggregation.name),
        ("scale", expected.scale.name, found.scale.name),
    ):
        if one != other:
            raise StateError(0, f"states of two {what}s do not merge: {one} and {other}")


def require(fits: npt.NDArray[np.bool_], message: Callable[[int], str]) -> None:
    """Raises StateError for the first row (n,) that does not fit; ``message(row)`` says what was expected and found."""
    if not fits.all():
        row = int(fits.argmin())
        raise StateError(row, f"state {row}: {message(row)}")
