"""What is measured: ours and the peers', each doing the same work to the same result."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import apache_beam as beam
import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import scipy.special
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.combiners import Mean
from cores import AVAILABLE, cores
from measure import Measurement, Result, in_turn, ratio

from lse_stream import _kernel, logsumexp, softmax
from lse_stream._kernel.twin import kernel as numpy_kernel
from lse_stream.beam import LogSumExp
from lse_stream.table_functions import finalize, group_states

Floats = npt.NDArray[np.float64]

pa.set_cpu_count(1)


@dataclass(frozen=True)
class Settings:
    """``scale`` is what sizes are multiplied by; ``data`` is a directory for generated files."""

    scale: float
    rounds: int
    data: Path

    def size(self, n: float) -> int:
        return int(n * self.scale)


def values(n: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(-100, 10, n)


def same(found: dict[str, Any], tolerance: float = 1e-12) -> None:
    """Checks that all ways gave the same numbers, or arrays of them; near 0, where a logarithm cancels, to 1e-14."""
    first, *others = found
    for name in others:
        np.testing.assert_allclose(found[name], found[first], rtol=tolerance, atol=1e-14, err_msg=f"{name} and {first}")


def jax_and_torch() -> tuple[Any, Any]:
    """Both, for float64 on one core. They are large, and imported where they are measured."""
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    return jax, torch


# --- in memory --------------------------------------------------------------------------------------------------------


def everything(settings: Settings) -> Iterator[Result]:
    """float64 in memory to one total, each instruction set, one core"""
    jax, torch = jax_and_torch()
    n = settings.size(5e7)
    x = values(n)
    tensor, device = torch.from_numpy(x), jax.device_put(x)
    compiled = jax.jit(jax.nn.logsumexp)

    def ours(instruction_set: str) -> float:
        assert _kernel.native is not None
        _kernel.native.select(instruction_set)
        return float(logsumexp(x))

    def by_hand() -> float:
        largest = x.max()
        return float(largest + np.log(np.exp(x - largest).sum()))

    fastest, *others = [name for name in _kernel.available() if name != "numpy"]
    ways: dict[str, Callable[[], float]] = {
        f"lse_stream ({fastest})": partial(ours, fastest),
        "jax (jit)": lambda: float(compiled(device)),
        "torch": lambda: float(torch.logsumexp(tensor, 0)),
        "numpy max+exp+sum+log": by_hand,
        "scipy": lambda: float(scipy.special.logsumexp(x)),
        **{f"lse_stream ({name})": partial(ours, name) for name in others},
    }
    figures = in_turn(ways, same, settings.rounds, n * 1e-9, "ns per value")
    _kernel.select(fastest)
    limit = 0.65 if fastest == "avx512" else 0.9
    yield Result(f"{n:,} float64 in memory, one core", figures, [ratio(figures, limit, ["jax (jit)"])])


def twin(settings: Settings) -> Iterator[Result]:
    """the same with the NumPy twin, for where there was no compiler"""
    n = settings.size(5e7)
    x = values(n)

    def ours() -> float:
        state = numpy_kernel.State()
        state._update(x)
        return state.value()

    ways: dict[str, Callable[[], float]] = {
        "lse_stream (NumPy twin)": ours,
        "np.logaddexp.reduce": lambda: float(np.logaddexp.reduce(x)),
    }
    figures = in_turn(ways, partial(same, tolerance=1e-9), settings.rounds, n * 1e-9, "ns per value")
    yield Result(f"{n:,} float64, the NumPy twin", figures, [ratio(figures, 1.0)])


def rows(settings: Settings) -> Iterator[Result]:
    """rows of matrices, from few columns to many, one core"""
    jax, torch = jax_and_torch()
    compiled = jax.jit(partial(jax.nn.logsumexp, axis=1))

    def compute(device: Any) -> Floats:
        return np.asarray(compiled(device))

    for columns in (4, 8, 64, 1000):
        n = settings.size(4e6) // columns
        x = values(n * columns).reshape(n, columns)
        tensor, device = torch.from_numpy(x), jax.device_put(x)
        ways: dict[str, Callable[[], Any]] = {
            "lse_stream": partial(logsumexp, x, axis=1),
            "jax (jit)": partial(compute, device),
            "torch": partial(torch.logsumexp, tensor, 1),
            "scipy": partial(scipy.special.logsumexp, x, axis=1),
        }
        figures = in_turn(ways, same, settings.rounds, n * columns * 1e-9, "ns per value")
        limit = 1.0 if columns >= 64 else 1.2
        yield Result(f"{n:,} rows of {columns:,} columns, one core", figures, [ratio(figures, limit, ["jax (jit)"])])


def weighted(settings: Settings) -> Iterator[Result]:
    """weighted sums beside plain ones, one core"""
    n = settings.size(1e7)
    x, w = values(n), np.random.default_rng(2).uniform(0.5, 2.0, n)
    # So that all results agree: the weights as they are, and as part of the values.
    shifted = x + np.log(w)
    ways: dict[str, Callable[[], float]] = {
        "lse_stream, weighted": lambda: float(logsumexp(x, b=w)),
        "lse_stream, plain": lambda: float(logsumexp(shifted)),
        "scipy, weighted": lambda: float(scipy.special.logsumexp(x, b=w)),
    }
    figures = in_turn(ways, same, settings.rounds, n * 1e-9, "ns per value")
    yield Result(f"{n:,} float64 with weights, one core", figures, [ratio(figures, 1.6, ["lse_stream, plain"])])


def exact(settings: Settings) -> Iterator[Result]:
    """exact sums, one core"""
    n = settings.size(1e7)
    x, codes = values(n), np.zeros(n, np.int32)

    def ours() -> float:
        words, begins = _kernel.sum_products(codes, x, None, 1)
        return float(_kernel.exact_values((words, begins[:-1]))[0])

    ways: dict[str, Callable[[], float]] = {
        "lse_stream": ours,
        "math.fsum": lambda: math.fsum(x),
        "np.sum (not exact)": lambda: float(np.sum(x)),
    }
    figures = in_turn(ways, same, settings.rounds, n * 1e-9, "ns per value")
    yield Result(f"exact sum of {n:,} float64, one core", figures, [ratio(figures, 0.3, ["math.fsum"])])


def weights_of_all(settings: Settings) -> Iterator[Result]:
    """softmax of one long row, one core"""
    _, torch = jax_and_torch()
    n = settings.size(1e7)
    x = values(n)
    tensor = torch.from_numpy(x)
    ways: dict[str, Callable[[], Any]] = {
        "lse_stream": partial(softmax, x),
        "torch": partial(torch.softmax, tensor, 0),
        "scipy": partial(scipy.special.softmax, x),
    }
    figures = in_turn(ways, partial(same, tolerance=1e-10), settings.rounds, n * 1e-9, "ns per value")
    yield Result(f"softmax of {n:,} float64, one core", figures, [ratio(figures, 1.0, ["torch"])])


# Of a group: its maximum, and the sum of what is left when that is taken off.
SAFE_SQL = """
select k, any_value(m) + ln(sum(exp(x - m))) as lse
from (select t.k, t.x, g.m from {source} t join (select k, max(x) as m from {source} group by k) g on t.k = g.k)
group by k
"""


def our_formula(table: pa.Table) -> pa.Table:
    return finalize(group_states(table, ["k"], "x"))


def duckdb_formula(connection: Any) -> pa.Table:
    return connection.sql(SAFE_SQL.format(source="t")).to_arrow_table()


def polars_formula(frame: pl.LazyFrame) -> pl.LazyFrame:
    x = pl.col("x")
    return frame.group_by("k").agg(((x - x.max()).exp().sum().log() + x.max()).alias("lse"))


def polars_join(frame: pl.LazyFrame) -> pl.LazyFrame:
    """As DuckDB does it: it streams, where the formula above keeps the rows of every group."""
    x, m = pl.col("x"), pl.col("m")
    shifted = frame.join(frame.group_by("k").agg(x.max().alias("m")), on="k").with_columns((x - m).exp().alias("e"))
    return shifted.group_by("k").agg((pl.col("e").sum().log() + m.first()).alias("lse"))


def collected(frame: pl.LazyFrame, engine: Literal["in-memory", "streaming"]) -> pa.Table:
    return frame.collect(engine=engine).to_arrow()


def arrow_formula(table: pa.Table) -> pa.Table:
    codes = table["k"].combine_chunks().dictionary_encode()
    coded = pa.table({"k": codes.indices, "x": table["x"]})
    largest = coded.group_by("k", use_threads=False).aggregate([("x", "max")]).sort_by("k")["x_max"].combine_chunks()
    shifted = pc.exp(pc.subtract(coded["x"], largest.take(codes.indices)))
    sums = pa.table({"k": codes.indices, "e": shifted}).group_by("k", use_threads=False).aggregate([("e", "sum")])
    lse = pc.add(pc.ln(sums.sort_by("k")["e_sum"]), largest)
    return pa.table({"k": codes.dictionary, "lse": lse})


def by_key(table: pa.Table) -> Floats:
    """The keys and the results (2, n), sorted by key."""
    table = table.sort_by("k")
    result = table["logsumexp" if "logsumexp" in table.column_names else "lse"]
    return np.stack([table["k"].to_numpy().astype(np.float64), result.to_numpy()])


def same_by_key(found: dict[str, pa.Table]) -> None:
    same({name: by_key(table) for name, table in found.items()})


def grouped(settings: Settings) -> Iterator[Result]:
    """totals by an int64 key, hashed inside the timing, one core"""
    n = settings.size(1e7)
    x = values(n)
    for groups in map(settings.size, (1e3, 1e5, 1e6)):
        keys = np.random.default_rng(0).integers(0, groups, n) * 7_919
        table = pa.table({"k": keys, "x": x})
        frame = pl.DataFrame({"k": keys, "x": x}).lazy()
        connection = duckdb.connect(config={"threads": 1})
        connection.register("arrow", table)
        connection.execute("create table t as select * from arrow")
        ways: dict[str, Callable[[], pa.Table]] = {
            "lse_stream": partial(our_formula, table),
            "DuckDB": partial(duckdb_formula, connection),
            "Polars": partial(collected, polars_formula(frame), "in-memory"),
            "Polars (join)": partial(collected, polars_join(frame), "streaming"),
            "pyarrow": partial(arrow_formula, table),
        }
        figures = in_turn(ways, same_by_key, settings.rounds, n * 1e-9, "ns per row")
        yield Result(f"{n:,} rows, {groups:,} int64 keys, one core", figures, [ratio(figures, 0.6)])


def dense(settings: Settings) -> Iterator[Result]:
    """one row per group, with codes in place of keys, one core"""
    n = settings.size(1e6)
    codes, x = np.arange(n, dtype=np.int32), values(n)

    def by_hand() -> Floats:
        largest = np.full(n, -np.inf)
        np.maximum.at(largest, codes, x)
        return largest + np.log(np.bincount(codes, weights=np.exp(x - largest[codes]), minlength=n))

    ways: dict[str, Callable[[], Floats]] = {
        "lse_stream": lambda: _kernel.state_values(_kernel.group_values(codes, x, n)),
        "numpy": by_hand,
    }
    figures = in_turn(ways, same, settings.rounds, n * 1e-9, "ns per row")
    yield Result(f"one row per group, {n:,} dense codes, one core", figures, [ratio(figures, 1.5)])


# --- Beam -------------------------------------------------------------------------------------------------------------

SHARES = 10


class MakePairs(beam.DoFn):
    """A share's number to its (key, value)s; ``beam.Create`` of them would cost more than all that is measured.

    Keys are of ``keys`` many, or every pair has its own.
    """

    def __init__(self, rows: int, keys: int | None) -> None:
        self._rows, self._keys = rows, keys

    def arrays(self, share: int) -> tuple[npt.NDArray[np.int64], Floats]:
        if self._keys is None:
            keys = np.arange(self._rows) + share * self._rows
        else:
            keys = np.random.default_rng(share).integers(0, self._keys, self._rows)
        return keys, values(self._rows, share)

    def process(self, share: int) -> Iterator[Any]:
        keys, numbers = self.arrays(share)
        yield from zip(keys.tolist(), numbers.tolist(), strict=True)


class MakeTables(MakePairs):
    """The same as a table."""

    def process(self, share: int) -> Iterator[Any]:
        yield pa.table(dict(zip("kx", self.arrays(share), strict=True)))


# Of the run that goes on: the embedded runner works in this process.
kept: list[Any] = []


def keep(result: Any) -> None:
    kept.append(result)


def pipeline(make: MakePairs, combine: beam.PTransform[Any, Any]) -> list[Any]:
    """Runs the transform on one worker in this process; what came out."""
    kept.clear()
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as graph:
        made = graph | beam.Create(range(SHARES)) | "Make" >> beam.ParDo(make)
        made | "Combine" >> combine | "Keep" >> beam.Map(keep)
    return kept.copy()


def same_keys(found: dict[str, list[tuple[int, float]]]) -> None:
    same({name: np.sort([key for key, _ in results]) for name, results in found.items()})


def elements(settings: Settings) -> Iterator[Result]:
    """Beam element by element: CombinePerKey beside Beam's own Mean"""
    n = settings.size(2e6)
    for keys in map(settings.size, (1e3, 1e5)):
        make = MakePairs(n // SHARES, keys)
        ways: dict[str, Callable[[], Any]] = {
            "LogSumExp.PerKey": partial(pipeline, make, LogSumExp.PerKey()),
            "Mean.PerKey": partial(pipeline, make, Mean.PerKey()),
        }
        with cores(len(AVAILABLE)):
            figures = in_turn(ways, same_keys, settings.rounds, n * 1e-9, "ns per element")
        yield Result(f"CombinePerKey, {n:,} elements, {keys:,} keys", figures, [ratio(figures, 1.1)])


class Finalized(beam.PTransform[Any, Any]):
    """Tables to results: CombinePerKey's come out finalized too."""

    def expand(self, tables: Any) -> Any:
        return (
            tables
            | LogSumExp.PerKeyFromTables(["k"], "x", num_shards=8)
            | "Finalize" >> beam.MapTuple(lambda _, table: finalize(table))
        )


def shuffle(settings: Settings) -> Iterator[Result]:
    """many distinct keys through Beam's shuffle, as tables of states and one by one"""
    n = settings.size(1e7)
    few = n // 10
    measurements = [Measurement(name, "us per key") for name in ("PerKeyFromTables", "CombinePerKey")]
    ours, theirs = measurements

    def tables(n: int) -> pa.Table:
        return pa.concat_tables(pipeline(MakeTables(n // SHARES, None), Finalized()))

    def one_by_one(n: int) -> list[tuple[int, float]]:
        return pipeline(MakePairs(n // SHARES, None), LogSumExp.PerKey())

    with cores(len(AVAILABLE)):
        same(
            {"PerKeyFromTables": by_key(tables(few // 10)), "CombinePerKey": np.array(sorted(one_by_one(few // 10))).T}
        )
        for _ in range(min(settings.rounds, 3)):
            ours.take(partial(tables, n), n * 1e-6)
            theirs.take(partial(one_by_one, few), few * 1e-6)
    title = f"{n:,} distinct keys through the shuffle (CombinePerKey at {few:,}, scaled)"
    yield Result(title, measurements, [ratio(measurements, 0.05)])


WORK: dict[str, Callable[[Settings], Iterator[Result]]] = {
    "global": everything,
    "twin": twin,
    "rows": rows,
    "weighted": weighted,
    "exact": exact,
    "softmax": weights_of_all,
    "grouped": grouped,
    "dense": dense,
    "elements": elements,
    "shuffle": shuffle,
}
