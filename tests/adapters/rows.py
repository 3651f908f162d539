"""Rows for every engine, and the records that ``group_states`` makes of them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lse_stream import group_states

INF, NAN = math.inf, math.nan

# Aggregations of one input, and scales.
OPTIONS = [
    ("logsumexp", "natural"),
    ("logsumexp", "decibel"),
    ("logsumexp", "base 10"),
    ("log_likelihood", "natural"),
    ("effective_sample_size", "natural"),
    ("leave_one_out 5", "natural"),
    ("exact_sum", "natural"),
]


def some_rows(n: int = 20_000, keys: int = 300) -> pa.Table:
    """Columns k, x and w, with NaN, infinities and nulls in some keys; key 0 has nulls alone, key 1 NaN."""
    rng = np.random.default_rng(5)
    k = rng.integers(keys, size=n)
    x = rng.normal(scale=300.0, size=n)
    for special, share in ((INF, 1e-3), (-INF, 5e-2), (NAN, 1e-3), (-0.0, 1e-2)):
        x[rng.random(n) < share] = special
    x[k == 1] = NAN
    x[k == 2] = -INF
    null = (rng.random(n) < 0.1) | (k == 0)
    w = rng.normal(size=n)
    return pa.table({"k": k, "x": pa.array(x, mask=null), "w": w})


def expected(table: pa.Table, value: str | Sequence[str] = "x", **options: Any) -> dict[Any, bytes]:
    """The record of each key k."""
    states = group_states(table, ["k"], value, **options)
    return dict(zip(states["k"].to_pylist(), states["state"].cast(pa.binary()).to_pylist(), strict=True))


def whole(table: pa.Table, **options: Any) -> bytes:
    """The record of all rows."""
    record: bytes = group_states(table, [], "x", **options)["state"].cast(pa.binary())[0].as_py()
    return record


def values(table: pa.Table, result: str = "logsumexp", **options: Any) -> dict[Any, float]:
    """A result of each key k."""
    from lse_stream import finalize

    found = finalize(group_states(table, ["k"], "x", **options), results=[result])
    return dict(zip(found["k"].to_pylist(), found[result].to_pylist(), strict=True))


def bits(numbers: dict[Any, float]) -> dict[Any, str]:
    """Numbers as texts that are the same for the same bits alone; there is one NaN."""
    return {key: number.hex() for key, number in numbers.items()}
