"""What is measured: ours and the peers', each doing the same work to the same result."""

import inspect
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

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

from lse_stream import LogSumExp, _kernel, logsumexp, softmax
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
        units, low, _ = numpy_kernel.decode_sum(words, int(begins[0]))
        return units * 2.0 ** (64 * low + numpy_kernel.UNIT)

    ways: dict[str, Callable[[], float]] = {
        "lse_stream": ours,
        "math.fsum": lambda: math.fsum(x),
        "np.sum (not exact)": lambda: float(np.sum(x)),
    }
    figures = in_turn(ways, same, settings.rounds, n * 1e-9, "ns per value")
    yield Result(f"exact sum of {n:,} float64, one core", figures, [ratio(figures, 0.3, ["math.fsum"])])


def weights_of_all(settings: Settings) -> Iterator[Result]:
    """softmax of one long row, one core"""
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


# --- files ------------------------------------------------------------------------------------------------------------

ROW_GROUP, FILE = 1_000_000, 5_000_000
KEYS = 10_000

# What gives some number of rows from a first on.
Rows = Callable[[np.random.Generator, int, int], pa.Table]

DUCKDB_PROCESS = """
import duckdb
connection = duckdb.connect(config={"threads": 2})
connection.execute('''copy (select * from (%s) order by k) to '%s' (format parquet)''')
"""
POLARS_PROCESS = f"""
import polars as pl
{inspect.getsource(polars_join)}
polars_join(pl.scan_parquet(%r)).sort("k").sink_parquet(%r)
"""


def keys_and_values(rng: np.random.Generator, _: int, rows: int) -> pa.Table:
    return pa.table({"k": rng.integers(0, KEYS, rows), "x": rng.normal(-100, 10, rows)})


def make_files(folder: Path, n: int, make: Rows) -> None:
    """n rows, of which ``make`` gives some number from a first on, unless they are there from an earlier run."""
    if folder.exists():
        return
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    needed, free = 40 * n, shutil.disk_usage(unfinished).free
    if free < needed:
        raise OSError(f"{folder}: expected {needed / 1e9:.1f} GB of free disk, found {free / 1e9:.1f} (see --data)")
    rng = np.random.default_rng(0)
    for i, start in enumerate(range(0, n, FILE)):
        table = make(rng, start, min(FILE, n - start))
        pq.write_table(table, unfinished / f"{i:03}.parquet", row_group_size=ROW_GROUP)
    unfinished.rename(folder)


def parquet(settings: Settings) -> Iterator[Result]:
    """Parquet files to a Parquet file of totals by key, whole processes, two cores"""
    results = settings.data / "results"
    per_row = []
    for n in map(settings.size, (2e7, 2e8)):
        folder = settings.data / f"rows_{n}"
        make_files(folder, n, keys_and_values)
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        paths = {name: results / f"{name}.parquet" for name in ("lse_stream", "DuckDB", "Polars")}
        program = [sys.executable, "-m", "pipelines.parquet", "--overwrite", "--quiet", "--key=k", "--value=x"]
        sql = SAFE_SQL.format(source=f"read_parquet('{folder}/*.parquet')")
        commands = {
            "lse_stream": [*program, f"--input={folder}", f"--output={paths['lse_stream']}"],
            "DuckDB": [sys.executable, "-c", DUCKDB_PROCESS % (sql, paths["DuckDB"])],
            "Polars": [sys.executable, "-c", POLARS_PROCESS % (f"{folder}/*.parquet", str(paths["Polars"]))],
        }
        # The large one takes minutes.
        figures = processes_in_turn(commands, settings.rounds if n < 1e8 else min(settings.rounds, 3))
        same_by_key({name: pq.read_table(path) for name, path in paths.items()})
        per_row.append(figures[0].median / n)
        checks = [ratio(figures, 1.0, ["DuckDB"]), Check("peak memory, MB", figures[0].peak, 2048)]
        if len(per_row) == 2:
            checks.append(Check("time per row over that of a tenth of the rows", per_row[1] / per_row[0], 1.0))
        yield Result(f"Parquet to result, {n:,} rows, {KEYS:,} keys, two cores", figures, checks)


# --- the other programs -----------------------------------------------------------------------------------------------

TWO_LEVELS_SQL = """
with m as (select k, o, max(x) as m from {source} group by all),
v as (select t.k, t.o, any_value(m.m) + ln(sum(exp(t.x - m.m))) as v from {source} t join m using (k, o) group by all)
select k, sum(v) as total, count(*) as n, max(v) as largest from v group by k
"""
SHARES_SQL = """
with m as (select k, max(x) as m from {source} group by k),
z as (select t.k, any_value(m.m) + ln(sum(exp(t.x - m.m))) as z from {source} t join m using (k) group by t.k)
select t.*, t.x - z.z as log_softmax, exp(t.x - z.z) as softmax from {source} t join z using (k)
"""
SHARES_PROCESS = """
import duckdb
connection = duckdb.connect(config={"threads": 2})
connection.execute('''copy (%s) to '%s' (format parquet, compression zstd)''')
"""
COMPONENTS, FOLDS = 8, 1000
SHARE_KEYS = 100_000


def components(rng: np.random.Generator, start: int, rows: int) -> pa.Table:
    """Rows of mixtures: the components of an observation follow each other, and observations are of some fold."""
    observation = np.arange(start, start + rows) // COMPONENTS
    return pa.table({"k": observation * 7919 % FOLDS, "o": observation, "x": rng.normal(-20, 8, rows)})


def drawn(rng: np.random.Generator, start: int, rows: int, *, observations: int) -> pa.Table:
    """Rows of draws, as samplers write them: all observations of one draw, then all of the next."""
    observation = np.arange(start, start + rows) % observations
    return pa.table({"k": observation * 7919 % FOLDS, "o": observation, "x": rng.normal(-20, 8, rows)})


def loglik(settings: Settings) -> Iterator[Result]:
    """log-likelihood totals of mixtures, whole processes, two cores"""
    n = settings.size(2e7)
    layouts: dict[str, Rows] = {"components": components, "draws": partial(drawn, observations=n // COMPONENTS)}
    for layout, make in layouts.items():
        folder, output = settings.data / f"{layout}_{n}", settings.data / "totals"
        make_files(folder, n, make)
        program = [sys.executable, "-m", "pipelines.loglik", "--overwrite", "--quiet", "--inner=logsumexp", "--key=k"]
        sql = TWO_LEVELS_SQL.format(source=f"read_parquet('{folder}/*.parquet')")
        theirs = settings.data / "totals.parquet"
        commands = {
            "lse_stream": [*program, "--observation=o", "--value=x", f"--input={folder}", f"--output={output}"],
            "DuckDB": [sys.executable, "-c", DUCKDB_PROCESS % (sql, theirs)],
        }
        figures = processes_in_turn(commands, settings.rounds)
        found, expected = pq.read_table(output / "totals"), pq.read_table(theirs)
        same({"ours": np.array(found["log_likelihood"]), "DuckDB": np.array(expected["total"])})
        title = (
            f"log-likelihoods of {n:,} rows ({n // COMPONENTS:,} observations by {layout}), {FOLDS:,} keys, two cores"
        )
        yield Result(title, figures, [ratio(figures, 1.0)])


def shares(settings: Settings) -> Iterator[Result]:
    """softmax as columns beside all others, whole processes, two cores"""
    n = settings.size(1e7)
    folder, output = settings.data / f"scores_{n}", settings.data / "shares"
    keys = int(SHARE_KEYS * settings.scale)
    make_files(
        folder,
        n,
        lambda rng, start, rows: pa.table(
            {"k": rng.integers(0, keys, rows), "id": np.arange(start, start + rows), "x": rng.normal(0, 5, rows)}
        ),
    )
    program = [sys.executable, "-m", "pipelines.softmax", "--overwrite", "--quiet", "--key=k", "--value=x"]
    theirs = settings.data / "shares.parquet"
    sql = SHARES_SQL.format(source=f"read_parquet('{folder}/*.parquet')")
    commands = {
        "lse_stream": [*program, f"--input={folder}", f"--output={output}"],
        "DuckDB": [sys.executable, "-c", SHARES_PROCESS % (sql, theirs)],
    }
    figures = processes_in_turn(commands, settings.rounds)
    found, expected = (pq.read_table(path).sort_by("id")["softmax"] for path in (output, theirs))
    same({"ours": np.array(found), "DuckDB": np.array(expected)}, 1e-10)
    yield Result(f"softmax of {n:,} rows, {keys:,} keys, two cores", figures, [ratio(figures, 1.0)])


def rollup(settings: Settings) -> Iterator[Result]:
    """states of 24 hours to those of the day, whole process, two cores"""
    n, hours = settings.size(1e6), 24
    folder, output = settings.data / f"hours_{n}", settings.data / "day"
    make_files(
        folder,
        n * hours,
        lambda rng, start, rows: group_states(
            pa.table(
                {
                    "k": np.arange(start, start + rows) % n,
                    "h": np.arange(start, start + rows) // n,
                    "x": rng.random(rows),
                }
            ),
            ["k", "h"],
            "x",
        ),
    )
    program = [sys.executable, "-m", "pipelines.rollup", "--overwrite", "--quiet", "--state", "--key=k"]
    [figure] = processes_in_turn({"lse_stream": [*program, f"--input={folder}", f"--output={output}"]}, settings.rounds)
    assert pq.read_table(output)["count"].to_numpy().tolist() == [hours] * n
    title = f"rollup of {hours} times {n:,} states: {hours * n / figure.median / 1e6:.2f} million states per second"
    yield Result(title, [figure], [])


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


class Finalised(beam.PTransform[Any, Any]):
    """Tables to results: CombinePerKey's come out finalised too."""

    def expand(self, tables: Any) -> Any:
        return (
            tables
            | LogSumExp.PerKeyOfTables(["k"], "x", num_shards=8)
            | "Finalise" >> beam.MapTuple(lambda _, table: finalise(table))
        )


def shuffle(settings: Settings) -> Iterator[Result]:
    """many distinct keys through Beam's shuffle, as tables of states and one by one"""
    n = settings.size(1e7)
    few = n // 10
    measurements = [Measurement(name, "us per key") for name in ("PerKeyOfTables", "CombinePerKey")]
    ours, theirs = measurements

    def tables(n: int) -> pa.Table:
        return pa.concat_tables(pipeline(MakeTables(n // SHARES, None), Finalised()))

    def one_by_one(n: int) -> list[tuple[int, float]]:
        return pipeline(MakePairs(n // SHARES, None), LogSumExp.PerKey())

    with cores(len(AVAILABLE)):
        same({"PerKeyOfTables": by_key(tables(few // 10)), "CombinePerKey": np.array(sorted(one_by_one(few // 10))).T})
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
    "parquet": parquet,
    "loglik": loglik,
    "shares": shares,
    "rollup": rollup,
    "elements": elements,
    "shuffle": shuffle,
}
