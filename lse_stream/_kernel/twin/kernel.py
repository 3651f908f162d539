"""The kernel in NumPy: the same bits as native.c, from the same operations in the same order.

It is the oracle of the C kernel's tests, and what runs where there was no compiler. ``native.c`` has the reasoning. The
modules beside this one are named after the parts of the C kernel; here they are one namespace, with the type of one
state.
"""

from typing import Self

import numpy as np
import numpy.typing as npt

from ..constants import FAR, FLUSH, SPAN
from ..record import RECORD, Records, empty_states
from .check import check
from .exact_sum import merge_sums, sum_products
from .grouped import CHUNK, group_values, merge_groups, reduce_states
from .state import is_near, set_max
from .values import quotients_of, row_values, values_of
from .vector_loops import LIMB_PATTERN, Workspace, limbs, scale_by, terms, tiny
from .weighted import group_terms, reciprocals_of, reduce_terms, softmax_by

__all__ = [
    "State",
    "check",
    "group_terms",
    "group_values",
    "merge_groups",
    "merge_sums",
    "quotients_of",
    "reciprocals_of",
    "row_values",
    "softmax_by",
    "sum_products",
    "values_of",
]

NATURAL_SCALE = (1.0, 0.0, False)
BLOCK = 4 * FLUSH  # values of one pass over the cache


class State:
    """One state; see ``LogSumExpAccumulator``."""

    __slots__ = ("_pending", "_record", "_scale")

    # Terms are e^(c x): c as a double-double, and whether x is negated first.
    _scale: tuple[float, float, bool]
    _record: Records
    # Values that wait to be summed together: when that happens cannot be seen in an exact sum.
    _pending: list[float]

    def __new__(cls, *_: object, **__: object) -> Self:
        self = super().__new__(cls)
        self._scale = NATURAL_SCALE
        self._record = empty_states(1)
        self._pending = []
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
        if len(self._pending) == FLUSH:
            self._settled()

    def _settled(self) -> Records:
        if self._pending:
            pending, self._pending = self._pending, []
            self._update(np.array(pending))
        return self._record

    @tiny
    def _update(self, values: npt.NDArray[np.float64] | npt.NDArray[np.float32]) -> None:
        """Adds a contiguous 1-D array."""
        if not values.size:
            return
        if self._scale != NATURAL_SCALE:
            *factor, descends = self._scale
            for i in range(0, values.size, CHUNK):
                x = values[i : i + CHUNK].astype(np.float64)
                rows = (-x if descends else x, np.ones(x.size), np.zeros(1, np.int64))
                self._merge_record(reduce_terms(*rows, np.array(factor), has_signs=False))
            return
        part = empty_states(1)
        part["count"] = values.size
        set_max(part, np.array([values.max()], np.float64))
        maximum = part["max"][0]
        sums = [0, 0, 0]
        if is_near(maximum):
            work = Workspace(min(BLOCK, values.size))
            for i in range(0, values.size, BLOCK):
                x = np.maximum(values[i : i + BLOCK], maximum - SPAN, out=work.values[: values.size - i])
                high, low, steps, turns = terms(x, work, far=abs(maximum) >= FAR - SPAN)
                scale_by(high, low, steps, turns, part["base"])
                for limb, cut in enumerate(limbs(high, low, work)):
                    for j in range(0, x.size, FLUSH):
                        bits = cut[j : j + FLUSH].view(np.uint64)
                        sums[limb] += signed(int(np.add.reduce(bits)) - bits.size * LIMB_PATTERN[limb])
        elif np.isfinite(maximum):
            sums[0] = int(np.count_nonzero(values == maximum))
        for limb, total in enumerate(sums):
            part["limbs"][0, limb] = total & (1 << 64) - 1, total >> 64 & (1 << 64) - 1
        self._merge_record(part)

    def _merge_record(self, record: Records) -> None:
        self._record = reduce_states(np.concatenate([self._record, record]), np.zeros(1, np.int64))

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
            self._merge_record(other._settled())

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
        return self._settled().tobytes()

    def _load(self, record: bytes) -> int | None:
        """Becomes the state of a record, or returns its fault, a key of FAULTS."""
        states = np.frombuffer(record, RECORD)
        fault = check(states, np.array(self._scale[:2]), b"\0")
        if fault:
            return fault[1]
        self._record = states.copy()
        self._pending = []
        return None


def signed(value: int) -> int:
    """The int64 that equals ``value`` modulo 2^64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
