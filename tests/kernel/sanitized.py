"""Calls every entry of the kernel that reads bytes or arrays, at random: for a build with sanitizers.

``python sanitized.py SEED SECONDS``; ``test_sanitizers.py`` makes such a build and runs it.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from model import sealed

from lse_stream import StateError, _kernel
from lse_stream._kernel.constants import MOST_WORDS
from lse_stream.accumulators import (
    CrossEntropyAccumulator,
    EffectiveSampleSizeAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
)

ACCUMULATORS: list[Any] = [
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
    LogLikelihoodAccumulator,
    EffectiveSampleSizeAccumulator,
    CrossEntropyAccumulator,
]


def damaged(record: bytes, rng: np.random.Generator) -> bytes:
    """Most often with a check that fits, so that the rules are reached."""
    raw = bytearray(record)
    match rng.integers(4):
        case 0:
            raw = bytearray(rng.bytes(int(rng.integers(0, 200))))
        case 1:
            for _ in range(int(rng.integers(1, 6))):
                raw[rng.integers(len(raw))] = rng.integers(256)
        case 2:
            del raw[int(rng.integers(len(raw) + 1)) :]
        case _:
            at = 8 * int(rng.integers(len(raw) // 8))
            raw[at : at + 8] = rng.bytes(8)
    return sealed(bytes(raw)) if len(raw) >= 8 and rng.random() < 0.7 else bytes(raw)


def try_records(rng: np.random.Generator) -> None:
    accumulator = ACCUMULATORS[rng.integers(len(ACCUMULATORS))]
    n = int(rng.integers(1, 30))
    x = rng.normal(size=n) * 10 ** rng.uniform(-3, 20)
    x[rng.integers(n)] = rng.choice([np.inf, -np.inf, np.nan, 1e300, 0.0, x.max()])
    columns = [x, np.abs(rng.normal(size=n))][: len(accumulator.AGGREGATION.inputs)]
    record = accumulator(*columns).to_bytes()
    for _ in range(20):
        try:
            state = accumulator.from_bytes(damaged(record, rng))
        except StateError:
            continue
        whole = accumulator.from_bytes(record)
        try:
            whole.merge(state)
            state.merge(state)
            whole.value()
        except (OverflowError, StateError):
            pass  # counts that are too large together, and targets that do not sum to 1


def try_arrays(rng: np.random.Generator) -> None:
    at = int(rng.choice([0, 1, 4]))  # items that lie between two words, too
    x, weights = (np.frombuffer(rng.bytes(2400 + at), np.float64, offset=at) for _ in range(2))
    codes = np.frombuffer(bytes(at) + rng.integers(0, 40, 300).astype(np.int32).tobytes(), np.int32, offset=at)
    for sums in (_kernel.group_values(codes, x, 40), _kernel.group_terms(codes, x, np.nan_to_num(weights), 40)):
        _kernel.check_sums(sums)
        _kernel.quotients_of(sums, np.ascontiguousarray(sums["count"]))
        _kernel.softmax_of(sums, codes, x)
        _kernel.merge_groups(codes[:40] // 5, sums, 40)
    states = _kernel.group_values(codes, x, 40)
    _kernel.state_values(states)
    rows = x.reshape(-1, int(rng.choice([1, 3, 5, 10, 30, 60])))
    _kernel.row_values(rows)
    _kernel.row_softmax(rows)
    _kernel.row_softmax(np.tile(x, 4).reshape(2, -1))
    added = LogLikelihoodAccumulator(), WeightedLogSumExpAccumulator()
    for value in np.tile(x, int(rng.integers(5))).tolist():
        added[0].add(value)
        added[1].add(value, value if np.isfinite(value) else 1)
    added[0].merge(LogLikelihoodAccumulator.from_bytes(added[0].to_bytes()))
    added[1].value()
    groups = _kernel.Groups("values")
    groups.update(codes, x, 40)
    groups.merge(codes[:40], states, 40)
    groups.states()
    for values in (x, np.tile(x, 20)):
        _kernel.sum_products(np.zeros(values.size, np.int32), values, None, 1)


@contextmanager
def written(array: np.ndarray) -> Iterator[None]:
    """Another thread goes on writing an array."""
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            array[:] = array[::-1].copy()

    thread = threading.Thread(target=write)
    thread.start()
    yield
    done.set()
    thread.join()


def try_arrays_that_change(rng: np.random.Generator) -> None:
    """What another thread writes while it is summed: the sums are of anything, but nothing else is written."""
    x, runs = rng.normal(size=60_000), rng.integers(0, 300, 5000).astype(np.int32)
    with written(x):
        for codes in (np.repeat(runs, 12), np.repeat(np.arange(5000, dtype=np.int32), 12)):
            for _ in range(5):
                _kernel.group_values(codes, x, 5000)
                _kernel.ExactWindows().update(codes, x, x, 5000)
                _kernel.Smallest(3).update(codes, x, 5000)
                _kernel.sort_rows(codes, x, 5000, np.empty_like(codes), np.empty_like(x))
    # Heads of empty sums, where those that reach too far are a moment later.
    at, heads = np.arange(10_000), np.zeros(20_000, np.uint64)
    heads[at.size :] = 0xFFFF << 16
    with written(heads):
        for _ in range(50):
            with suppress(ValueError):
                _kernel.merge_sums(np.zeros(at.size, np.int32), heads, at, 1)


def try_exact_sums(rng: np.random.Generator) -> None:
    """Sums with heads of which some reach too far, at places of which some are beyond the words."""
    n, size = 8, int(rng.integers(1, 300))
    words = np.frombuffer(rng.bytes(8 * size), np.uint64).copy()
    at = rng.integers(0, size, n)
    lengths = rng.integers(0, np.minimum(size - at, MOST_WORDS + 1))
    words[at] = rng.integers(0, MOST_WORDS + 1 - lengths) | lengths << 16
    if rng.random() < 0.2:
        words[at[0]] = words[0]
    if rng.random() < 0.2:
        at[0] = rng.choice([-1, size, -(2**63), 2**63 - 1])
    counts, divisors = rng.integers(-1, 2**63 - 1, n), rng.integers(-1, 9, n)
    with suppress(ValueError):  # sums that cannot be read
        _kernel.exact_values((words, at), counts)
    with suppress(ValueError):
        _kernel.exact_pairs((words, at))
    with suppress(ValueError):
        _kernel.exact_variances((words, at), (words, at[::-1]), counts, divisors)
    with suppress(ValueError):
        _kernel.merge_sums(np.zeros(n, np.int32), words, at, 1)
    windows, x = _kernel.ExactWindows(), np.frombuffer(rng.bytes(800), np.float64)
    for factor in (None, x, x[::-1]):
        codes = rng.integers(0, 5, x.size).astype(np.int32)
        windows.update(codes, x, factor, 5)
        windows.update(np.sort(codes), x, factor, 5)
        near = np.ldexp(rng.normal(size=x.size), int(rng.integers(-1060, 1000)))
        windows.update(np.sort(codes), near, None if factor is None else near, 5)
    windows.take()
    lists, sums = _kernel.Smallest(int(rng.integers(1, 9))), _kernel.Groups("values")
    for _ in range(3):
        codes, values = rng.integers(0, 5, x.size).astype(np.int32), np.nan_to_num(x, nan=rng.choice([0.0, np.nan]))
        lists.update(codes, values, 5)
        lists.update(np.sort(codes), values, 5)
        _kernel.sort_rows(codes, values, 5, np.empty_like(codes), np.empty_like(values))
        sums.update_others(lists, -2.0, 5)
        (lists.take_others if rng.random() < 0.5 else lists.drop_others)()
    stored, begins = lists.stored(5)
    lists.merge(np.arange(5, dtype=np.int32), stored, begins[:-1], 5)
    with suppress(ValueError):
        lists.merge(np.zeros(n, np.int32), words, at, 5)
    lists.stored(5)


def try_tails(rng: np.random.Generator) -> None:
    """Tails of any doubles, at places of which some are beyond them."""
    x = np.frombuffer(rng.bytes(8 * int(rng.integers(1, 2000))), np.float64).copy()
    if rng.random() < 0.8:
        x = np.sort(rng.standard_cauchy(x.size) * 10 ** rng.uniform(-9, 3))
    if rng.random() < 0.2:
        x[rng.integers(x.size)] = rng.choice([np.inf, -np.inf, np.nan, 1.7e308, -1.7e308])
    _kernel.log(x), _kernel.exp(x)
    offsets = np.unique(rng.integers(0, x.size + 1, int(rng.integers(1, 9))))
    if rng.random() < 0.2:
        offsets[rng.integers(offsets.size)] = rng.choice([-1, x.size + 1, -(2**63), 2**63 - 1])
    with suppress(ValueError):  # offsets that do not fit
        _kernel.smooth_tails(x, offsets, rng.integers(-1, 2**63 - 1, offsets.size - 1), rng.random(offsets.size - 1))


def main() -> None:
    rng, end, rounds = np.random.default_rng(int(sys.argv[1])), time.monotonic() + float(sys.argv[2]), 0
    names = [name for name in _kernel.available() if name != "numpy"]
    with np.errstate(all="ignore"):
        while time.monotonic() < end:
            _kernel.select(names[rounds % len(names)])
            try_records(rng)
            try_arrays(rng)
            if rounds % 20 == 0:  # it takes longer than the others
                try_arrays_that_change(rng)
            try_exact_sums(rng)
            try_tails(rng)
            rounds += 1
    print(f"{rounds} rounds")


if __name__ == "__main__":
    main()
