"""What is measured: ours and the peers', each doing the same work to the same result."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import jax
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.special
import torch
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.combiners import Mean
from measure import Measurement, Target, in_turn, processes_in_turn

from lse_stream import LogSumExp, _kernel, logsumexp
from lse_stream._kernel import numpy_kernel
from lse_stream.arrow import finalise, group_states

Report = Iterator[tuple[str, list[Measurement], Target | None]]

jax.config.update("jax_enable_x64", True)
torch.set_num_threads(1)
pa.set_cpu_count(1)


def size(arguments: argparse.Namespace, n: float) -> int:
    return int(n) // (20 if arguments.quick else 1)


def values(n: int, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(-100, 10, n)


def with_kernel(name: str, way: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        assert _kernel.native is not None
        _kernel.native.select(name)
        return way()

    return run


def numpy_formula(x: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    largest = x.max()
    return float(largest + np.log(np.exp(x - largest).sum()))


def check_equal(found: dict[str, Any], tolerance: float = 1e-12) -> None:
    first = next(iter(found.values()))
    for name, result in found.items():
        np.testing.assert_allclose(result, first, rtol=tolerance, err_msg=name)


def everything(arguments: argparse.Namespace) -> Report:
    """One sum over an array in memory, one core."""
    n = size(arguments, 5e7)
    x = values(n)
    tensor, device = torch.from_numpy(x), jax.device_put(x)
    compiled = jax.jit(jax.nn.logsumexp)
    ways: dict[str, Callable[[], Any]] = {
        f"lse_stream, {name}": with_kernel(name, lambda: logsumexp(x))
        for name in _kernel.available()
        if name != "numpy"
    }
    fastest = next(iter(ways))
    ways |= {
        "numpy max+exp+sum+log": lambda: numpy_formula(x),
        "scipy": lambda: scipy.special.logsumexp(x),
        "torch": lambda: torch.logsumexp(tensor, 0).item(),
        "jax (jit)": lambda: float(compiled(device).block_until_ready()),
    }
    check_equal({name: way() for name, way in ways.items()})
    ratio = 0.65 if fastest.endswith("avx512") else 0.9
    title = f"one array of {n:,} float64, one core"
    yield title, in_turn(ways, arguments.rounds, n * 1e-9, "ns per value"), Target(fastest, ratio, ["jax (jit)"])

    few = x[: n // 10]

    def twin() -> float:
        state = numpy_kernel.State()
        state._update(few)
        return state.value()

    ways = {"lse_stream, NumPy twin": twin, "np.logaddexp.reduce": lambda: np.logaddexp.reduce(few)}
    check_equal({name: way() for name, way in ways.items()}, 1e-9)
    figures = in_turn(ways, arguments.rounds, few.size * 1e-9, "ns per value")
    yield f"the twin, {few.size:,} float64", figures, Target("lse_stream, NumPy twin", 1.0)
    _kernel.select(_kernel.available()[0])


SAFE_SQL = """
select k, any_value(m) + ln(sum(exp(x - m))) as lse
from (select t.k, t.x, g.m from {source} t join (select k, max(x) as m from {source} group by k) g on t.k = g.k)
group by k
"""


def our_formula(table: pa.Table) -> pa.Table:
    return finalise(group_states(table, ["k"], "x"))


def duckdb_formula(connection: Any) -> pa.Table:
    return connection.sql(SAFE_SQL.format(source="t")).to_arrow_table()


def polars_formula(frame: pl.LazyFrame) -> pa.Table:
    x = pl.col("x")
    return frame.group_by("k").agg(((x - x.max()).exp().sum().log() + x.max()).alias("lse")).collect().to_arrow()


def arrow_formula(table: pa.Table) -> pa.Table:
    codes = table["k"].combine_chunks().dictionary_encode()
    grouped = pa.table({"k": codes.indices, "x": table["x"]})
    largest = grouped.group_by("k", use_threads=False).aggregate([("x", "max")]).sort_by("k")["x_max"].combine_chunks()
    shifted = pc.exp(pc.subtract(grouped["x"], largest.take(codes.indices)))
    sums = pa.table({"k": codes.indices, "e": shifted}).group_by("k", use_threads=False).aggregate([("e", "sum")])
    lse = pc.add(pc.ln(sums.sort_by("k")["e_sum"]), largest)
    return pa.table({"k": codes.dictionary, "lse": lse})


def grouped(arguments: argparse.Namespace) -> Report:
    """Totals by an int64 key, hashed inside the timing, one core."""
    n = size(arguments, 1e7)
    x = values(n)
    for groups in (1_000, 100_000, 1_000_000):
        keys = np.random.default_rng(0).integers(0, groups, n) * 7_919
        table = pa.table({"k": keys, "x": x})
        frame = pl.DataFrame({"k": keys, "x": x}).lazy()
        connection = duckdb.connect(config={"threads": 1})
        connection.register("a", table)
        connection.execute("create table t as select * from a")
        ways: dict[str, Callable[[], pa.Table]] = {
            "lse_stream": partial(our_formula, table),
            "DuckDB": partial(duckdb_formula, connection),
            "Polars": partial(polars_formula, frame),
            "pyarrow": partial(arrow_formula, table),
        }
        check_equal({name: _by_key(way()) for name, way in ways.items()})
        figures = in_turn(ways, arguments.rounds, n * 1e-9, "ns per row")
        yield f"{n:,} rows, {groups:,} int64 keys, one core", figures, Target("lse_stream", 0.6)

    n = size(arguments, 1e6)
    codes, x = np.arange(n, dtype=np.int32), values(n)

    def by_hand() -> Any:
        largest = np.full(n, -np.inf)
        np.maximum.at(largest, codes, x)
        return largest + np.log(np.bincount(codes, weights=np.exp(x - largest[codes]), minlength=n))

    ways_dense: dict[str, Callable[[], Any]] = {
        "lse_stream": lambda: _kernel.state_values(_kernel.group_values(codes, x, n)),
        "numpy": by_hand,
    }
    check_equal({name: way() for name, way in ways_dense.items()})
    figures = in_turn(ways_dense, arguments.rounds, n * 1e-9, "ns per row")
    yield f"one row per group, {n:,} dense codes", figures, Target("lse_stream", 1.5)


def _by_key(table: pa.Table) -> Any:
    table = table.sort_by("k")
    return table["logsumexp" if "logsumexp" in table.column_names else "lse"].to_numpy()


def make_files(folder: Path, n: int, keys: int | None) -> None:
    """n rows in files of 10 row groups of a million; ``keys`` int64 keys, or each row its own."""
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(n) if keys is None else None
    step = min(n, 10_000_000)
    for i in range(0, n, step):
        k = rng.integers(0, keys, step) if keys else shuffled[i : i + step]  # type: ignore[index]
        table = pa.table({"k": k, "x": rng.normal(-100, 10, step)})
        pq.write_table(table, partial / f"{i // step:03d}.parquet", row_group_size=1_000_000)
    partial.rename(folder)


DUCKDB_PROCESS = """
import duckdb, sys
c = duckdb.connect(config={'threads': 2})
c.execute('''copy (select * from (%s) order by k) to '%s' (format parquet)''')
"""
POLARS_PROCESS = """
import polars as pl
x = pl.col("x")
frame = pl.scan_parquet('%s/*.parquet')
frame.group_by("k").agg(((x - x.max()).exp().sum().log() + x.max()).alias("lse")).sort("k").sink_parquet('%s')
"""


def program(source: Path, output: Path, *more: str) -> list[str]:
    words = ["--input", str(source), "--key=k", "--value=x", "--output", str(output), "--overwrite", "--quiet", *more]
    return [sys.executable, "-m", "pipelines.parquet", *words]


def parquet(arguments: argparse.Namespace) -> Report:
    """Files to results, whole processes, two cores."""
    data = Path(arguments.data).absolute()
    for n in (size(arguments, 2e7), size(arguments, 2e8)):
        source, results = data / f"rows_{n}", data / "results"
        make_files(source, n, 10_000)
        results.mkdir(exist_ok=True)
        sql = SAFE_SQL.format(source=f"read_parquet('{source}/*.parquet')")
        commands = {
            "lse_stream": program(source, results / "ours"),
            "DuckDB": [sys.executable, "-c", DUCKDB_PROCESS % (sql, results / "duckdb.parquet")],
            "Polars": [sys.executable, "-c", POLARS_PROCESS % (source, results / "polars.parquet")],
        }
        rounds = arguments.rounds if n < 1e8 else min(arguments.rounds, 3)
        figures = processes_in_turn(commands, rounds)
        ours = pq.read_table(results / "ours")
        check_equal(
            {
                "lse_stream": _by_key(ours),
                **{name: _by_key(pq.read_table(results / f"{name.lower()}.parquet")) for name in ("DuckDB", "Polars")},
            }
        )
        yield f"Parquet, {n:,} rows, 10,000 keys, two cores", figures, Target("lse_stream", 1.0, ["DuckDB"])


class _Pairs(beam.DoFn):
    """Makes its share of (key, number): ``beam.Create`` would cost more than all that is measured."""

    def __init__(self, rows: int, keys: int) -> None:
        self._rows, self._keys = rows, keys

    def process(self, share: int) -> Iterator[tuple[int, float]]:
        rng = np.random.default_rng(share)
        keys = rng.integers(0, self._keys, self._rows) if self._keys else share * self._rows + np.arange(self._rows)
        yield from zip(keys.tolist(), rng.normal(-100, 10, self._rows).tolist(), strict=True)


class _Tables(_Pairs):
    """The same as tables."""

    def process(self, share: int) -> Iterator[pa.Table]:
        keys = share * self._rows + np.arange(self._rows)
        yield pa.table({"k": keys, "x": values(self._rows, share)})


def _pipeline(shares: int, make: beam.DoFn, combine: beam.PTransform[Any, Any]) -> None:
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = (
            pipeline
            | "Shares" >> beam.Create(range(shares))
            | "Make" >> beam.ParDo(make)
            | "Combine" >> combine
            | "Drop" >> beam.FlatMap(lambda _: ())
        )


def elements(arguments: argparse.Namespace) -> Report:
    """Beam element by element, and many keys through the shuffle; embedded runner, one worker."""
    n = size(arguments, 2e6)
    for keys in (1_000, 100_000):
        make = _Pairs(n // 10, keys)
        ways: dict[str, Callable[[], object]] = {
            "LogSumExp.PerKey": partial(_pipeline, 10, make, LogSumExp.PerKey()),
            "Mean.PerKey": partial(_pipeline, 10, make, Mean.PerKey()),
        }
        figures = in_turn(ways, arguments.rounds, n * 1e-9, "ns per element")
        yield f"CombinePerKey, {n:,} elements, {keys:,} keys", figures, Target("LogSumExp.PerKey", 1.1)

    n = size(arguments, 1e7)
    few = n // 10
    tables, pairs = _Tables(n // 10, 0), _Pairs(few // 10, 0)
    measurements = {name: Measurement(name, "us per key") for name in ("PerKeyOfTables", "CombinePerKey")}
    for _ in range(min(arguments.rounds, 3)):
        for name, count, make, combine in (
            ("PerKeyOfTables", n, tables, LogSumExp.PerKeyOfTables(["k"], "x", num_shards=8)),
            ("CombinePerKey", few, pairs, LogSumExp.PerKey()),
        ):
            start = time.perf_counter()
            _pipeline(10, make, combine)
            measurements[name].figures.append((time.perf_counter() - start) / count * 1e6)
    title = f"{n:,} distinct keys through the shuffle (CombinePerKey at {few:,}, scaled)"
    yield title, list(measurements.values()), Target("PerKeyOfTables", 0.05)


WORK: dict[str, Callable[[argparse.Namespace], Report]] = {
    "everything": everything,
    "grouped": grouped,
    "parquet": parquet,
    "elements": elements,
}
