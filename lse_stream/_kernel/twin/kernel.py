"""The kernel in NumPy: the same bits as native.c, from the same operations in the same order.

It is the oracle of the C kernel's tests, and what runs where there was no compiler. ``native.c`` has the reasoning. The
modules beside this one are named after the parts of the C kernel; here they are one namespace, with the type of one
state.
"""

import threading
from typing import Self

import numpy as np
import numpy.typing as npt

from ..constants import FAR, FLUSH, SPAN, TOO_FAR, VERSION
from ..sums import SUM, Sums, concat_sums, empty_sums, words_of
from .check import check
from .crc import find_damage, seal
from .elementary import exp, log
from .exact_ratio import exact_pairs, exact_values, exact_variances
from .exact_sum import merge_sums, sum_products
from .grouped import CHUNK, NATURAL, group_values, reduce_states, reduce_values
from .pareto_tail import smooth_tails
from .state import bases_of, is_near, one_form
from .values import row_values, values_of
from .vector_loops import LIMB_PATTERN, Workspace, limbs, scale_by, terms, tiny
from .weighted import group_terms, merge_groups, quotients_of, reciprocals_of, row_softmax, softmax_by

__all__ = [
    "State",
    "check",
    "exact_pairs",
    "exact_values",
    "exact_variances",
    "exp",
    "find_damage",
    "group_terms",
    "group_values",
    "log",
    "merge_groups",
    "merge_sums",
    "quotients_of",
    "reciprocals_of",
    "row_softmax",
    "row_values",
    "seal",
    "smooth_tails",
    "softmax_by",
    "sum_products",
    "values_of",
]

NATURAL_SCALE = (1.0, 0.0, False)
PENDING_ROWS = 1024  # that wait at most
BLOCK = 4 * FLUSH  # values of one pass over the cache
SEALED = np.array([0, 1 + SUM.itemsize // 8])  # the words of a stored record


class State:
    """One state; see ``LogSumExpAccumulator``."""

    __slots__ = ("_lock", "_pending", "_scale", "_state")

    # Terms are e^(c x): c as a double-double, and whether x is negated first.
    _scale: tuple[float, float, bool]
    _state: Sums
    # Values that wait to be summed together: when that happens cannot be seen in an exact sum.
    _pending: list[float]
    # Of threads that sum: in C they have the GIL.
    _lock: threading.RLock

    def __new__(cls, *_: object, **__: object) -> Self:
        self = super().__new__(cls)
        self._scale = NATURAL_SCALE
        self._state = empty_sums(1)
        self._pending = []
        self._lock = threading.RLock()
        return self

    def _use_scale(self, high: float, low: float, descends: bool) -> None:
        """From now on the terms are e^(c x), c = high + low, with x negated first where it ``descends``."""
        if self.count:
            raise ValueError("the scale of a state that is not empty cannot change")
        self._scale = (high, low, descends)

    def _to_float_exact(self, x: object) -> float:
        raise TypeError(f"expected a real number, found {type(x).__name__}")

    def add(self, x: object) -> None:
        """Adds one number."""
        self._pending.append(x if type(x) is float else float(x) if isinstance(x, float) else self._to_float_exact(x))
        if len(self._pending) >= FLUSH:
            self._settled()

    def _settled(self) -> Sums:
        with self._lock:
            if self._pending:
                pending = self._pending[:]
                del self._pending[: len(pending)]
                self._update(np.array(pending))
            return self._state

    @tiny
    def _update(self, values: npt.NDArray[np.float64] | npt.NDArray[np.float32]) -> None:
        """Adds a contiguous 1-D array."""
        if not values.size:
            return
        if self._scale != NATURAL_SCALE:
            *factor, descends = self._scale
            for i in range(0, values.size, CHUNK):
                x = values[i : i + CHUNK].astype(np.float64)
                self._merge_state(reduce_values(-x if descends else x, np.zeros(1, np.int64), np.array(factor)))
            return
        part = empty_sums(1)
        part["count"] = values.size
        part["max"] = one_form(np.array([values.max()], np.float64))
        maximum = part["max"][0]
        part["ties"] = np.count_nonzero(values == maximum)
        sums = [0, 0, 0]
        if is_near(part["max"], NATURAL)[0]:
            second = -np.inf
            for i in range(0, values.size, BLOCK):
                block = values[i : i + BLOCK]
                second = max(second, float(block.max(initial=-np.inf, where=block < maximum)))
            part["second"] = second = second + 0.0 if second > -TOO_FAR else -np.inf
            if second > -np.inf:
                self._sum_below(values, maximum, second, int(bases_of(part["second"], NATURAL)[0]), sums)
        for limb, total in enumerate(sums):
            part["limbs"][0, limb] = total & (1 << 64) - 1, total >> 64 & (1 << 64) - 1
        self._merge_state(part)

    @staticmethod
    def _sum_below(
        values: npt.NDArray[np.float64] | npt.NDArray[np.float32],
        maximum: float,
        second: float,
        base: int,
        sums: list[int],
    ) -> None:
        """Adds the limbs of all terms below the maximum."""
        work = Workspace(min(BLOCK, values.size))
        for i in range(0, values.size, BLOCK):
            block = values[i : i + BLOCK]
            x = np.maximum(block, second - SPAN, out=work.values[: block.size], dtype=np.float64)
            x[block == maximum] = second - SPAN
            high, low, steps, turns = terms(x, work, far=abs(second) >= FAR - SPAN)
            scale_by(high, low, steps, turns, np.array([base]))
            for limb, cut in enumerate(limbs(high, low, work)):
                for j in range(0, x.size, FLUSH):
                    bits = cut[j : j + FLUSH].view(np.uint64)
                    sums[limb] += signed(int(np.add.reduce(bits)) - bits.size * LIMB_PATTERN[limb])

    def _merge_state(self, state: Sums) -> None:
        with self._lock:
            both = concat_sums([self._state, state])
            self._state = reduce_states(both, np.zeros(1, np.int64), np.array(self._scale[:2]))

    def _refuse_merge(self, other: object) -> None:
        raise TypeError(f"expected a state on the same scale to merge, found {type(other)}")

    def merge(self, other: "State") -> None:
        """Adds all that another state contains; the other is left as it is.

        Raises:
          TypeError: no such state.
          StateError: a state of another scale; both named.
        """
        if not isinstance(other, State) or self._scale != other._scale:
            self._refuse_merge(other)
        else:
            self._settled()
            self._merge_state(other._settled())

    def value(self) -> float:
        """The log-sum-exp, rounded once."""
        if self._scale != NATURAL_SCALE:
            raise ValueError("the kernel's value is for the natural scale alone")
        out = np.empty(1)
        values_of(self._settled(), out)
        return float(out[0])

    @property
    def count(self) -> int:
        """How many terms were added."""
        return int(self._settled()["count"][0])

    @property
    def max(self) -> float:
        maximum = float(self._settled()["max"][0])
        return 0.0 - maximum if self._scale[2] else maximum  # 0.0, not -0.0

    def to_bytes(self) -> bytes:
        """The canonical record."""
        if self._scale != NATURAL_SCALE:
            raise ValueError("the kernel's record is for the natural scale alone")
        record = np.concatenate([np.array([VERSION], np.uint64), words_of(self._settled())[0]])
        seal(record, SEALED)
        return record.tobytes()

    def _sum(self) -> bytes:
        """The sum, as arrays contain it."""
        return self._settled().tobytes()

    def _load(self, record: bytes) -> bool:
        """Becomes the state of a record on the natural scale; False, and nothing else, where it is none."""
        if len(record) != 8 * SEALED[1]:
            return False
        words = np.frombuffer(record, np.uint64)
        state = words[1:].view(SUM)
        if int(words[0]) & 0xFFFFFFFF != VERSION or find_damage(words, SEALED) == 0 or check(state, NATURAL):
            return False
        self._state, self._pending = state.copy(), []
        return True

    def _set_sum(self, state: bytes) -> None:
        """Becomes the state of a sum that is known to be canonical."""
        self._state, self._pending = np.frombuffer(state, SUM).copy(), []


class Rows:
    """Rows of numbers that wait to be summed together: base of the accumulators of several parts."""

    __slots__ = ("_rows",)

    _rows: list[tuple[float, ...]]

    def __new__(cls, *_: object, **__: object) -> Self:
        self = super().__new__(cls)
        self._rows = []
        return self

    def _to_float_exact(self, x: object) -> float:
        raise TypeError(f"expected a real number, found {type(x).__name__}")

    def _check_row(self, value: float, weight: float) -> None:
        raise ValueError(f"expected a finite weight of 0 or more beside {value}, found {weight}")

    def _settle(self) -> None:
        raise NotImplementedError

    def add(self, x: float, /) -> None:
        """Adds one number."""
        self._add_row(x)

    def _add_weighted(self, value: object, weight: object) -> None:
        self._add_row(value, weight)

    def _add_row(self, *row: object) -> None:
        values = tuple([x if type(x) is float else self._to_float_exact(x) for x in row])
        if len(values) > 1 and not 0.0 <= values[1] < np.inf:  # most weights need no closer look
            self._check_row(*values)
        self._rows.append(values)
        if len(self._rows) >= PENDING_ROWS:
            self._settle()

    def _waiting_rows(self) -> bytes:
        """The rows that wait, as the bytes of their values; they wait until they are dropped."""
        return np.array(self._rows, np.float64).tobytes()

    def _drop_rows(self, rows: bytes) -> None:
        """Drops the first rows: those that were given as these bytes."""
        del self._rows[: len(rows) // (8 * len(self._rows[0]))]


def signed(value: int) -> int:
    """The int64 that equals ``value`` modulo 2^64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
