"""The kernel: exact sums of e^x, in C or in NumPy with the same bits.

States are arrays of ``SUM``, or of ``WEIGHTED_SUM`` where there are weights; codes are dense group numbers from 0. The
environment variable ``LSE_STREAM_KERNEL`` forces one of ``available()``.
"""

import hashlib
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .constants import VERSION
from .sums import SUM as SUM
from .sums import WEIGHTED_SUM as WEIGHTED_SUM
from .sums import StateError as StateError
from .sums import Sums as Sums
from .sums import concat_sums as concat_sums
from .sums import empty_sums as empty_sums
from .sums import fault_error as fault_error
from .sums import take_sums as take_sums
from .sums import words_of as words_of

native: ModuleType | None
try:
    from . import native
except ImportError:  # it was never built, or there was no compiler at installation
    native = None
    if platform.machine() in ("x86_64", "aarch64") and os.environ.get("LSE_STREAM_KERNEL") != "numpy":
        warnings.warn(
            "the compiled kernel of lse_stream is not there: NumPy takes its place, with the same bits, but some ten "
            "times slower. To build it, which needs a C compiler: pip install --editable . (or uv sync) in a clone, "
            "pip install --force-reinstall --no-cache-dir lse-stream elsewhere. LSE_STREAM_KERNEL=numpy is quiet.",
            RuntimeWarning,
            stacklevel=2,
        )

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int32] | npt.NDArray[np.int64]
# Words, and where each sum begins among them.
ExactSums = tuple[Words, Ints]

# What values are multiplied by, as a double-double.
NATURAL_FACTOR = np.array([1.0, 0.0])

# In place of weights: every one is 1.
NONE = np.empty(0)

# What ``known_answers`` must give on every machine.
KNOWN_ANSWERS = "605e8b2cf4f60f63881fa55e3d050669a9d17706b971a87484375baa36d83fbb"


def available() -> tuple[str, ...]:
    """The kernels that this machine and installation can run, fastest first."""
    return (*(native.instruction_sets() if native else ()), "numpy")


def select(name: str) -> None:
    """Runs ``name``, one of ``available()``, from now on. The types stay as chosen at import.

    Raises:
      ValueError: another name.
      RuntimeError: that kernel gives wrong bits here; the one before stays.
    """
    if name not in available():
        raise ValueError(f"LSE_STREAM_KERNEL: expected one of {', '.join(available())} on this machine, found {name!r}")
    before = _selected
    _run(name)
    if known_answers() != KNOWN_ANSWERS:
        _run(before)
        raise RuntimeError(
            f"kernel {name!r} gives wrong bits on this machine: reinstall, or set LSE_STREAM_KERNEL=numpy"
        )


def _run(name: str) -> None:
    global _selected
    if native and name != "numpy":
        native.select(name)
    _selected = name


def kernel_name() -> str:
    """Which kernel runs: "avx512", "avx2", "sse2", "neon" or "portable" (C), or "numpy"."""
    return _selected


def _kernel() -> ModuleType:
    # The twin is imported where it is used: that takes a while.
    return native if native and _selected != "numpy" else import_module(".twin.kernel", __name__)


def group_values(codes: Codes, values: Floats, n_groups: int) -> Sums:
    """The states (n_groups,) of the values (n,) with each code (n,)."""
    states = np.empty(n_groups, SUM)
    _kernel().group_values(states, np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(values, np.float64))
    return states


def merge_groups(codes: Codes, states: Sums, n_groups: int, scale: Floats = NATURAL_FACTOR) -> Sums:
    """The merged states (n_groups,) of the states (n,) with each code (n,)."""
    merged = np.empty(n_groups, states.dtype)
    _kernel().merge_groups(merged, np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(states), scale)
    return merged


def state_values(states: Sums) -> Floats:
    """The log-sum-exp (n,) of each state (n,)."""
    out = np.empty(states.size)
    _kernel().values_of(np.ascontiguousarray(states), out)
    return out


def row_values(x: Floats) -> Floats:
    """The log-sum-exp (n,) of each row of a matrix (n, columns)."""
    out = np.empty(x.shape[0])
    _kernel().row_values(np.ascontiguousarray(x, np.float64), out)
    return out


def row_softmax(x: Floats, out: Floats | None = None) -> Floats:
    """e^x over the sum of its row, of a matrix (n, columns), written to a contiguous ``out`` if there is one."""
    out = np.empty(x.shape) if out is None else out
    _kernel().row_softmax(np.ascontiguousarray(x, np.float64), out)
    return out


def log(x: Floats) -> Floats:
    """The natural logarithm of each number, of any shape, to 0.501 ULP; -inf of 0, NaN below."""
    return _each(_kernel().log, x)


def exp(x: Floats) -> Floats:
    """e^x of each number, of any shape, to 0.504 ULP of a normal result."""
    return _each(_kernel().exp, x)


def _each(function: Callable[[Floats, Floats], None], x: Floats) -> Floats:
    x = np.ascontiguousarray(x, np.float64)
    out = np.empty(x.shape)
    function(x, out)
    return out


def smooth_tails(tails: Floats, offsets: Ints, others: Ints, rests: Floats) -> Floats:
    """Of the tail of each observation (n,), smoothed by a generalized Pareto distribution that is fitted to it: (n, 4).

    Weights are such that a log-ratio r of R, the largest, has the weight 1. The columns are k; the logarithm of the
    mean of e^-r by all weights w; their sum; and that of ``(w (e^-r / mean - 1) / sum)^2`` over the tail. Without a fit
    they are +inf, and NaN.

    Args:
      tails: finite log-ratios, those of an observation ascending: the cutoff, and then the tail.
      offsets: where each observation begins among them, and the last ends (n + 1,).
      others: how many draws of each are not of the tail (n,).
      rests: the sum of their weights (n,).
    """
    out = np.empty((others.size, 4))
    integers = (np.ascontiguousarray(a, np.int64) for a in (offsets, others))
    floats = (np.ascontiguousarray(a, np.float64) for a in (tails, rests))
    _kernel().smooth_tails(*floats, *integers, out)
    return out


def check_sums(sums: Sums, scale: Floats = NATURAL_FACTOR) -> None:
    """Raises StateError for the first that is not canonical for that scale."""
    fault = _kernel().check(np.ascontiguousarray(sums), scale)
    if fault:
        raise fault_error(sums, *fault)


def seal(words: Words, offsets: Ints) -> None:
    """Writes the check of each record (n,), of the words from an offset (n + 1,) to the next, into its first word."""
    _kernel().seal(words, np.ascontiguousarray(offsets, np.int64))


def find_damage(words: Words, offsets: Ints) -> int:
    """The first record whose check is wrong; their number where there is none."""
    return int(_kernel().find_damage(np.ascontiguousarray(words), np.ascontiguousarray(offsets, np.int64)))


def group_terms(codes: Codes, x: Floats, weights: Floats | None, n_groups: int, scale: Floats = NATURAL_FACTOR) -> Sums:
    """The states (n_groups,) of the products w e^(c x) with each code (n,); without weights every one is 1.

    Args:
      scale: c as a double-double (2,), positive.
    """
    states = np.empty(n_groups, SUM if weights is None else WEIGHTED_SUM)
    arrays = (np.ascontiguousarray(a, np.float64) for a in (x, NONE if weights is None else weights))
    _kernel().group_terms(states, np.ascontiguousarray(codes, np.int32), *arrays, scale)
    return states


def quotients_of(states: Sums, counts: Ints, scale: Floats = NATURAL_FACTOR) -> Floats:
    """Of each state (n,): sign of the sum; ln q as a double-double; q as one: (n, 5).

    q = abs(sum) / (count T), T the term of the max. Where abs(c max) >= 2^60 and where it is infinite, T is 1.
    """
    out = np.empty((states.size, 5))
    _kernel().quotients_of(np.ascontiguousarray(states), np.ascontiguousarray(counts, np.int64), scale, out)
    return out


def reciprocals_of(states: Sums, scale: Floats = NATURAL_FACTOR) -> Floats:
    """What ``softmax_by`` needs of each state (n,): (n, 5)."""
    out = np.empty((states.size, 5))
    _kernel().reciprocals_of(np.ascontiguousarray(states), scale, out)
    return out


def softmax_by(
    reciprocals: Floats, codes: Codes, x: Floats, scale: Floats = NATURAL_FACTOR, out: Floats | None = None
) -> Floats:
    """e^(c x) over the sum that each row's code (n,) names, written to ``out`` if there is one."""
    out = np.empty(codes.size) if out is None else out
    rows = (np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(x, np.float64))
    _kernel().softmax_by(reciprocals, *rows, scale, out)
    return out


def softmax_of(
    states: Sums, codes: Codes, x: Floats, scale: Floats = NATURAL_FACTOR, out: Floats | None = None
) -> Floats:
    """e^(c x) over the sum of the state (n,) that each row's code names, written to ``out`` if there is one."""
    return softmax_by(reciprocals_of(states, scale), codes, x, scale, out)


def sum_products(codes: Codes, a: Floats, b: Floats | None, n_groups: int) -> ExactSums:
    """The exact sum of a b of each code, and where each begins (n_groups + 1,). None for b is 1; a b of 0 adds 0."""
    begins = np.empty(n_groups + 1, np.int64)
    arrays = (np.ascontiguousarray(v, np.float64) for v in (a, NONE if b is None else b))
    words = _kernel().sum_products(np.ascontiguousarray(codes, np.int32), *arrays, begins)
    return np.frombuffer(words, np.uint64), begins


def merge_sums(codes: Codes, words: Words, at: Ints, n_groups: int) -> ExactSums:
    """The exact sums for each code of those stored at places (n,) of the words, and where each begins."""
    begins = np.empty(n_groups + 1, np.int64)
    rows = (np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(words), np.ascontiguousarray(at, np.int64))
    return np.frombuffer(_kernel().merge_sums(*rows, begins), np.uint64), begins


def exact_values(sums: ExactSums, divisors: Ints | None = None) -> Floats:
    """Each exact sum (n,) over its divisor, which is 1 without them, rounded once; NaN where that is not positive."""
    words, at = _exact(sums)
    out = np.empty(at.size)
    divisors = np.ones(at.size, np.int64) if divisors is None else divisors
    _kernel().exact_values(words, at, np.ascontiguousarray(divisors, np.int64), out)
    return out


def exact_pairs(sums: ExactSums) -> Floats:
    """Each exact sum (n,) as a double-double (n, 2); the low part is 0 where the high one is not finite."""
    words, at = _exact(sums)
    out = np.empty((at.size, 2))
    _kernel().exact_pairs(words, at, out)
    return out


def exact_variances(sums: ExactSums, squares: ExactSums, counts: Ints, divisors: Ints) -> Floats:
    """``(squares - sums^2 / counts) / divisors`` (n,) of exact sums, rounded once.

    NaN where a sum is not finite, or a count or divisor not positive.
    """
    out = np.empty(counts.size)
    of_rows = (np.ascontiguousarray(column, np.int64) for column in (counts, divisors))
    _kernel().exact_variances(*_exact(sums), *_exact(squares), *of_rows, out)
    return out


def _exact(sums: ExactSums) -> ExactSums:
    words, at = sums
    return np.ascontiguousarray(words), np.ascontiguousarray(at, np.int64)


def _growing() -> ModuleType:
    return native if native and _selected != "numpy" else import_module(".twin.growing", __name__)


class WordIndex:
    """Dense codes of keys of one or more 64-bit words each, in order of first appearance; they stay the same.

    Several threads may ``find`` at once, and one ``encode`` while none does.
    """

    def __init__(self, width: int) -> None:
        self._index = _growing().WordIndex(width)
        self.width, self.size = width, 0

    def encode(self, columns: Sequence[Ints]) -> Codes:
        """The codes (n,) of keys, given by their words in contiguous columns (n,); new keys are added."""
        codes = np.empty(columns[0].size, np.int32)
        self.size = self._index.encode(tuple(columns), codes, True)
        return codes

    def find(self, columns: Sequence[Ints]) -> Codes:
        """The codes (n,) of keys, given by their words in contiguous columns (n,); -1 for a key that is not there."""
        codes = np.empty(columns[0].size, np.int32)
        self._index.encode(tuple(columns), codes, False)
        return codes

    def keys(self) -> Ints:
        """The words of the keys (size, width), in the order of their codes."""
        return np.frombuffer(self._index.keys(), np.int64).reshape(-1, self.width)

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory it uses."""
        return int(self._index.nbytes)


class ByteIndex:
    """Dense codes of byte strings and null, in order of first appearance: they stay as long as it lives.

    Several threads may ``find`` at once, and one ``encode`` while none does.

    Offsets (n + 1,) are int32 or int64; ``valid`` (n,) is 0 for null, or empty where there is none.
    """

    def __init__(self) -> None:
        self._index = _growing().ByteIndex()
        self.size = 0

    def encode(self, offsets: Offsets, data: Bytes, valid: Bytes) -> Codes:
        """The codes (n,) of byte strings; new ones are added."""
        codes = np.empty(offsets.size - 1, np.int32)
        self.size = self._index.encode((offsets, data, valid, codes), True)
        return codes

    def find(self, offsets: Offsets, data: Bytes, valid: Bytes) -> Codes:
        """The codes (n,) of byte strings; -1 for one that is not there."""
        codes = np.empty(offsets.size - 1, np.int32)
        self._index.encode((offsets, data, valid, codes), False)
        return codes

    def keys(self) -> tuple[Ints, Bytes]:
        """The offsets (size + 1,) and the bytes of all keys; null is an empty one."""
        ends, data = self._index.keys()
        return np.concatenate([np.zeros(1, np.int64), np.frombuffer(ends, np.int64)]), np.frombuffer(data, np.uint8)

    @property
    def null_code(self) -> int:
        """The code of null; -1 where there was none."""
        return int(self._index.null_code)

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory it uses."""
        return int(self._index.nbytes)


class Groups:
    """The states of groups whose number grows from batch to batch.

    Args:
      items: what they are made of: "values" x on the natural scale, "terms" e^(c x), or "weighted" terms w e^(c x).
      scale: c as a double-double (2,).
    """

    def __init__(self, items: str, scale: Floats = NATURAL_FACTOR) -> None:
        self._groups = _growing().Groups(items, *scale.tolist())
        self._dtype = WEIGHTED_SUM if items == "weighted" else SUM
        self._size = 0

    def update(self, codes: Codes, values: Floats, n_groups: int, weights: Floats = NONE) -> None:
        """Adds values (n,) to the groups of their codes (n,), of which there are ``n_groups`` from now on.

        Raises:
          OverflowError: the count of a group would exceed 2^63 - 1. All groups are as before then.
        """
        arrays = (np.ascontiguousarray(array, np.float64) for array in (values, weights))
        self._groups.update((np.ascontiguousarray(codes, np.int32), *arrays), n_groups)
        self._size = max(self._size, n_groups)

    def update_others(self, lists: "Smallest", times: float, n_groups: int) -> None:
        """Adds what lists do not keep, so many times its value, to groups without weights.

        Raises:
          OverflowError: the count of a group would exceed 2^63 - 1. All groups are as before then.
        """
        self._groups.update_others(lists.of_kernel, times, n_groups)
        self._size = max(self._size, n_groups)

    def merge(self, codes: Codes, states: Sums, n_groups: int) -> None:
        """Merges states (n,) into the groups of their codes (n,).

        Raises:
          OverflowError: the count of a group would exceed 2^63 - 1. All groups are as before then.
        """
        self._groups.merge((np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(states)), n_groups)
        self._size = max(self._size, n_groups)

    def grow(self, n_groups: int) -> None:
        """Makes it at least that many groups."""
        if n_groups > self._size:
            self.merge(np.empty(0, np.int32), np.empty(0, self._dtype), n_groups)

    def states(self) -> Sums:
        """The states of the groups."""
        out = np.empty(self._size, self._dtype)
        self._groups.export(out)
        return out

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory it uses."""
        return int(self._groups.nbytes)


class Smallest:
    """The k smallest values of groups whose number grows from batch to batch, copies counted.

    They are stored as exact sums are: a head, then the values, ascending. Where NaN or +inf was added there are none,
    and the head says so.
    """

    def __init__(self, k: int) -> None:
        self.of_kernel = _growing().Smallest(k)
        self._size = 0

    def update(self, codes: Codes, values: Floats, n_groups: int) -> None:
        """Adds values (n,) to the groups of their codes (n,), of which there are ``n_groups`` from now on."""
        rows = (np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(values, np.float64))
        self.of_kernel.update(rows, n_groups)
        self._size = max(self._size, n_groups)

    def merge(self, codes: Codes, words: Words, at: Ints, n_groups: int) -> None:
        """Merges the lists stored at places (n,) of the words into the groups of their codes (n,)."""
        rows = (np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(words), np.ascontiguousarray(at, np.int64))
        self.of_kernel.merge(rows, n_groups)
        self._size = max(self._size, n_groups)

    def take_others(self) -> tuple[Codes, Floats]:
        """Codes and values (n,) of what is not, or no longer, in the lists, since they were last taken.

        Of a group with NaN or +inf that is every value. Take them after ``stored``, which lets go of some.
        """
        codes, values = self.of_kernel.take_others()
        return np.frombuffer(codes, np.int32), np.frombuffer(values, np.float64)

    def drop_others(self) -> None:
        """Forgets these."""
        self.of_kernel.drop_others()

    def stored(self, n_groups: int) -> ExactSums:
        """The words of the lists of at least so many groups, and where each begins (n_groups + 1,)."""
        if n_groups > self._size:
            self.update(np.empty(0, np.int32), np.empty(0), n_groups)
        begins = np.empty(self._size + 1, np.int64)
        return np.frombuffer(self.of_kernel.export(begins), np.uint64), begins

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory it uses."""
        return int(self.of_kernel.nbytes)


class ExactWindows:
    """Exact sums of products of groups whose number grows from batch to batch, of rows that fit beside those before."""

    def __init__(self) -> None:
        self._windows = _growing().ExactWindows()
        self._size = 0

    def update(self, codes: Codes, a: Floats, b: Floats | None, n_groups: int) -> Ints:
        """Adds a b (n,), b being 1 for None, to the sums of their codes (n,); gives the rows that do not fit."""
        others = np.empty(codes.size, np.int64)
        factors = (np.ascontiguousarray(v, np.float64) for v in (a, NONE if b is None else b))
        found = self._windows.update((np.ascontiguousarray(codes, np.int32), *factors, others), n_groups)
        self._size = max(self._size, n_groups)
        return others[:found]

    def take(self) -> ExactSums:
        """The exact sums, and where each begins (groups + 1,); they are empty then."""
        begins = np.empty(self._size + 1, np.int64)
        return np.frombuffer(self._windows.take(begins), np.uint64), begins

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory it uses."""
        return int(self._windows.nbytes)


def hash_column(hashes: Words, words: Words, valid: Bytes) -> None:
    """Adds one more key column, as words (n,), to the hashes of rows (n,); ``valid`` (n,) or empty: 0 is null."""
    _growing().hash_column(hashes, np.ascontiguousarray(words), valid)


def rows_by_shard(shards: Codes, num_shards: int) -> tuple[Ints, Ints]:
    """The rows (n,) of each shard, one shard after another, in their order; and where each shard ends (num_shards,)."""
    rows, ends = np.empty(shards.size, np.int64), np.empty(num_shards, np.int64)
    _growing().rows_by_shard(shards, rows, ends)
    return rows, ends


def sort_rows(codes: Codes, values: Floats, n_groups: int, sorted_codes: Codes, sorted_values: Floats) -> None:
    """Writes contiguous rows (n,) in the order of their codes; those of one code stay in theirs."""
    _growing().sort_rows(codes, values, np.empty(n_groups, np.int64), sorted_codes, sorted_values)


def checksum_bytes(offsets: Offsets, data: Bytes) -> Words:
    """CRC-32 of each byte string (n,), and above it the length."""
    out = np.empty(offsets.size - 1, np.uint64)
    _growing().checksum_bytes(offsets, data, out)
    return out


def known_answers() -> str:
    """A digest of what the selected kernel gives for values that exercise every path of it."""
    ramp = np.arange(96.0)
    rows = [
        -ramp * ramp / 64,
        2.0**23 - ramp,
        2.0**59 - 2.0**7 * ramp,
        np.full(96, -1e300),
        ramp / 1e310 + ramp / 1e16 - 1e-3,
    ]
    codes = np.repeat(np.arange(len(rows), dtype=np.int32), 96)
    states = np.concatenate([group_values(codes, np.concatenate(rows), len(rows)), empty_sums(len(rows))])
    for i, row in enumerate(rows):
        state = _kernel().State()
        state._update(row)
        states[len(rows) + i] = np.frombuffer(state._sum(), SUM)[0]
    records = np.concatenate([np.full((states.size, 1), VERSION, np.uint64), words_of(states)], axis=1).ravel()
    seal(records, np.arange(states.size + 1) * (records.size // states.size))
    digest = hashlib.sha256(records.tobytes() + state_values(states).tobytes())
    digest.update(row_values(np.stack([rows[0][:64], rows[4][:64]]).reshape(-1, 4)).tobytes())
    digest.update(row_values(np.stack(rows)).tobytes() + row_softmax(np.stack(rows)).tobytes())
    x, w = np.concatenate(rows), np.tile((7.0 - ramp % 13) * 2.0 ** (ramp - 48), len(rows))
    for weights, scale in (
        (w, NATURAL_FACTOR),
        (w[::-1], np.array([1.75, 2.0**-54])),
        (None, np.array([0.375, -(2.0**-56)])),
    ):
        products = group_terms(codes, x, weights, len(rows), scale)
        digest.update(products.tobytes() + quotients_of(products, products["count"], scale).tobytes())
        digest.update(softmax_of(products, codes, x, scale).tobytes())
        merged = merge_groups(np.zeros(len(rows), np.int32), products, 1, scale)
        digest.update(merged.tobytes() + quotients_of(merged, np.ones(1, np.int64), scale).tobytes())
    words, begins = sum_products(codes, x, w, len(rows))
    digest.update(words.tobytes() + merge_sums(np.zeros(len(rows), np.int32), words, begins[:-1], 1)[0].tobytes())
    exact, counts = (words, begins[:-1]), np.full(len(rows), 7)
    digest.update(exact_values(exact, counts).tobytes() + exact_pairs(exact).tobytes())
    squares, begins = sum_products(codes, x, x, len(rows))
    digest.update(exact_variances(exact, (squares, begins[:-1]), counts, counts - 1).tobytes())
    wide = np.linspace(-30.0, 709.0, 64)
    digest.update(exp(wide).tobytes() + log(exp(wide)).tobytes())
    tails = np.stack([ramp[:13] * 1e-3, ramp[:13] // 3, ramp[:13] * 62.0, -700.0 / (1.0 + ramp[:13]), ramp[:13] // 7])
    offsets, others = np.arange(len(tails) + 1) * 13, np.full(len(tails), 48)
    digest.update(smooth_tails(tails.ravel(), offsets, others, ramp[: others.size]).tobytes())
    return digest.hexdigest()


_selected = "numpy"
select(os.environ.get("LSE_STREAM_KERNEL") or available()[0])

if TYPE_CHECKING:
    from .twin.kernel import Rows as Rows
    from .twin.kernel import State as State
else:
    Rows, State = _kernel().Rows, _kernel().State
