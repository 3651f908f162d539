"""What is measured: ours and the peers', each doing the same work to the same result."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import jax
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.special
import torch
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.combiners import Mean
from cores import AVAILABLE, cores
from measure import Check, Measurement, Result, in_turn, processes_in_turn, ratio

from lse_stream import LogSumExp, _kernel, logsumexp
from lse_stream._kernel import numpy_kernel
from lse_stream.arrow import finalise, group_states

Floats = npt.NDArray[np.float64]

jax.config.update("jax_enable_x64", True)
torch.set_num_threads(1)
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
    """Checks that all ways gave the same numbers, or the same arrays of numbers."""
    first, *others = found
    for name in others:
        np.testing.assert_allclose(found[name], found[first], rtol=tolerance, err_msg=f"{name} and {first}")


# --- in memory --------------------------------------------------------------------------------------------------------


def everything(settings: Settings) -> Iterator[Result]:
    """float64 in memory to one total, each instruction set, one core"""
    n = settings.size(5e7)
    x = values(n)
    tensor, device = torch.from_numpy(x), jax.device_put(x)
    compiled = jax.jit(jax.nn.logsumexp)

    def ours(instruction_set: str) -> float:
        assert _kernel.native is not None
        _kernel.native.select(instruction_set)
        return logsumexp(x)

    def by_hand() -> float:
        largest = x.max()
        return float(largest + np.log(np.exp(x - largest).sum()))

    fastest, *others = [name for name in _kernel.available() if name != "numpy"]
    ways: dict[str, Callable[[], float]] = {
        f"lse_stream, {fastest}": partial(ours, fastest),
        "jax (jit)": lambda: float(compiled(device)),
        "torch": lambda: float(torch.logsumexp(tensor, 0)),
        "numpy max+exp+sum+log": by_hand,
        "scipy": lambda: float(scipy.special.logsumexp(x)),
        **{f"lse_stream, {name}": partial(ours, name) for name in others},
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
        "lse_stream, NumPy twin": ours,
        "np.logaddexp.reduce": lambda: float(np.logaddexp.reduce(x)),
    }
    figures = in_turn(ways, partial(same, tolerance=1e-9), settings.rounds, n * 1e-9, "ns per value")
    yield Result(f"{n:,} float64, the NumPy twin", figures, [ratio(figures, 1.0)])


# Of a group: its maximum, and the sum of what is left when that is taken off.
SAFE_SQL = """
select k, any_value(m) + ln(sum(exp(x - m))) as lse
from (select t.k, t.x, g.m from {source} t join (select k, max(x) as m from {source} group by k) g on t.k = g.k)
group by k
"""


def our_formula(table: pa.Table) -> pa.Table:
    return finalise(group_states(table, ["k"], "x"))


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
            "Polars": lambda frame=frame: polars_formula(frame).collect().to_arrow(),
            "Polars, join": lambda frame=frame: polars_join(frame).collect(engine="streaming").to_arrow(),
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


# --- files ------------------------------------------------------------------------------------------------------------

ROW_GROUP, FILE = 1_000_000, 5_000_000
KEYS = 10_000

DUCKDB_PROCESS = """
import duckdb
connection = duckdb.connect(config={"threads": 2})
connection.execute('''copy (select * from (%s) order by k) to '%s' (format parquet)''')
"""
POLARS_PROCESS = """
import sys
import polars as pl
sys.path.insert(0, %r)
from polars_join import polars_join
polars_join(pl.scan_parquet(%r)).sort("k").sink_parquet(%r)
"""


def make_files(folder: Path, n: int) -> None:
    """n rows of key and value, unless they are there from an earlier run."""
    if folder.exists():
        return
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    needed, free = 12 * n, shutil.disk_usage(unfinished).free
    if free < needed:
        raise OSError(f"{folder}: expected {needed / 1e9:.1f} GB of free disk, found {free / 1e9:.1f} (see --data)")
    rng = np.random.default_rng(0)
    for i, start in enumerate(range(0, n, FILE)):
        rows = min(FILE, n - start)
        table = pa.table({"k": rng.integers(0, KEYS, rows), "x": rng.normal(-100, 10, rows)})
        pq.write_table(table, unfinished / f"{i:03}.parquet", row_group_size=ROW_GROUP)
    unfinished.rename(folder)
