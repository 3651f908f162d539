"""One log-sum-exp state: add, update, merge, value, bytes."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from . import _kernel
from .values import widen, widen_arrow, widen_scalar

# Values widened at a time: bounds the memory of a conversion.
BLOCK = 1 << 16

Values = npt.NDArray[np.float64] | npt.NDArray[np.float32]


def _blocks(array: npt.NDArray[Any]) -> Iterator[Values]:
    if array.ndim != 1:
        raise ValueError(f"expected an array of 1 dimension, found {array.ndim} dimensions of shape {array.shape}")
    if array.dtype in (np.float64, np.float32) and array.dtype.isnative and array.flags.c_contiguous:
        yield array
        return
    for i in range(0, max(array.size, 1), BLOCK):
        yield widen(array[i : i + BLOCK])


def _arrays(values: object) -> Iterator[Values]:
    """The values as contiguous arrays of float64 or float32, nulls and masked ones left out."""
    if isinstance(values, np.ma.MaskedArray):
        yield from _blocks(values.compressed())
    elif isinstance(values, np.ndarray):
        yield from _blocks(values)
    elif hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__"):
        for array in widen_arrow(values):
            yield from _blocks(array)
    elif hasattr(values, "__array__") or isinstance(values, memoryview):
        yield from _blocks(np.asarray(values))
    elif isinstance(values, Sequence) and not isinstance(values, str | bytes):
        for i in range(0, len(values), BLOCK):
            yield np.array([x if type(x) is float else widen_scalar(x) for x in values[i : i + BLOCK]], np.float64)
    else:
        raise TypeError(f"expected an array or a sequence of real numbers, found {type(values).__name__}")


class LogSumExpAccumulator(_kernel.State):
    """Log-sum-exp of the values added so far, ``ln sum(exp(x))``, kept so that partial results combine exactly.

    The sum is held in integers, so that the state, its bytes and its value depend on the multiset of values alone: not
    on their order, how they were split, the tree of merges, the machine or the kernel. A state takes 80 bytes however
    many values it holds.

    Values: nothing gives -inf; NaN gives NaN for good; +inf gives +inf; -inf adds a term of 0; -0.0 counts as 0.0.
    The value's error is at most 0.51 ULP where its magnitude is 1 or more, else 2^-59 plus its rounding. Where a
    magnitude reaches 2^60, only ties with the maximum count.

    Not for simultaneous use from several threads, except that ``update`` releases the GIL while it sums.
    """

    __slots__ = ()

    def __init__(self, values: object = ()) -> None:
        super().__init__()
        self.update(values)

    def _widen(self, x: object) -> float:
        # Called by ``add`` for what is not a float.
        return widen_scalar(x)

    def update(self, values: object) -> None:
        """Adds every value of a 1-D array or sequence.

        Args:
          values: a NumPy array of 1 dimension (any stride and byte order; float16, float32, float64 or an integer
            dtype; masked values are left out), a sequence of numbers, or an object with the Arrow C data interface,
            such as a pyarrow, Polars or pandas column (nulls are left out).

        Raises:
          TypeError: a dtype that does not widen to float64 exactly, named.
          ValueError: an integer beyond +-2^53, named, or more than one dimension. The state is as before then.
        """
        part = type(self).__new__(type(self))
        for array in _arrays(values):
            part._update(array)
        self.merge(part)

    def copy(self) -> Self:
        """An independent state of the same value."""
        duplicate = type(self).__new__(type(self))
        duplicate.merge(self)
        return duplicate

    @classmethod
    def from_bytes(cls, record: bytes) -> Self:
        """The state of a record that ``to_bytes`` gave.

        Raises:
          StateError: not such a record: truncated, of another version, or not canonical; with expected and found.
        """
        size = _kernel.RECORD.itemsize
        if len(record) != size:
            raise _kernel.StateError(0, f"state: expected {size} bytes, found {len(record)}")
        state = cls.__new__(cls)
        fault = state._load(bytes(record))
        if fault is not None:
            raise _kernel.fault_error(np.frombuffer(record, _kernel.RECORD), 0, fault)
        return state

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LogSumExpAccumulator):
            return NotImplemented
        return bool(self.to_bytes() == other.to_bytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(value={self.value()!r}, count={self.count}, max={self.max!r})"


def logsumexp(values: object) -> float:
    """``ln sum(exp(x))`` of a 1-D array or sequence, the same bits for the same values in any order.

    Args and errors are those of ``LogSumExpAccumulator.update``. Of nothing it is -inf.
    """
    return float(LogSumExpAccumulator(values).value())
