"""What users wait for: whole processes from files to files, ours and DuckDB's in turn."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from measure import Check, Measurement, Result, alone, processes_in_turn, ratio
from work import SAFE_SQL, Settings, same, same_by_key

from lse_stream.table_functions import group_states

ROW_GROUP, FILE = 1_000_000, 5_000_000
KEYS = 10_000

# What gives some number of rows from a first on.
Rows = Callable[[np.random.Generator, int, int], pa.Table]

DUCKDB_PROCESS = """
import duckdb
connection = duckdb.connect(config={"threads": 2})
connection.execute('''copy (select * from (%s) order by k) to '%s' (format parquet)''')
"""
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
# Reads all row groups of a folder, two files at a time, as the program does, and does nothing with them.
READING_PROCESS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pyarrow.parquet as pq
import lse_stream
def read(path):
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for _ in file.iter_batches(int(sys.argv[2]), use_threads=False):
            pass
with ThreadPoolExecutor(2) as pool:
    list(pool.map(read, sorted(Path(sys.argv[1]).iterdir())))
"""
COMPONENTS, FOLDS = 8, 1000
SHARE_KEYS = 100_000


def make_files(folder: Path, n: int, make: Rows, rows: int = FILE) -> Path:
    """n rows, so many to a file, of which ``make`` gives some from a first on; unless they are there already."""
    if folder.exists():
        return folder
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    needed, free = 40 * n, shutil.disk_usage(unfinished).free
    if free < needed:
        raise OSError(f"{folder}: expected {needed / 1e9:.1f} GB of free disk, found {free / 1e9:.1f} (see --data)")
    rng = np.random.default_rng(0)
    for i, start in enumerate(range(0, n, rows)):
        pq.write_table(make(rng, start, min(rows, n - start)), unfinished / f"{i:04}.parquet", row_group_size=ROW_GROUP)
    unfinished.rename(folder)
    return folder


def linked(folder: Path, source: Path, times: int) -> Path:
    """The files of a folder, that many times over, by hard links."""
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        for i in range(times):
            if not (folder / f"{i:03}_{path.name}").exists():
                os.link(path, folder / f"{i:03}_{path.name}")
    return folder


def of_keys(keys: int) -> Rows:
    """Rows of keys drawn at random."""
    return lambda rng, _, rows: pa.table({"k": rng.integers(0, keys, rows), "x": rng.normal(-100, 10, rows)})


def distinct(rng: np.random.Generator, start: int, rows: int) -> pa.Table:
    """Rows of which each has a key of its own, in disorder."""
    return pa.table(
        {"k": (np.arange(start, start + rows) * 2_654_435_761) % (1 << 40), "x": rng.normal(-100, 10, rows)}
    )


def program(settings: Settings, name: str, folder: Path, output: Path, *arguments: str) -> list[str]:
    """One of ours, in an environment with this project alone."""
    always = ["--overwrite", "--quiet", f"--input={folder}", f"--output={output}"]
    return [str(alone(settings.data).with_name("lse-stream")), name, *always, *arguments]


def against_duckdb(settings: Settings, folder: Path, rounds: int) -> list[Measurement]:
    """Totals by key of the files of a folder."""
    ours, theirs = settings.data / "ours", settings.data / "theirs.parquet"
    sql = SAFE_SQL.format(source=f"read_parquet('{folder}/*.parquet')")
    commands = {
        "lse_stream": program(settings, "parquet", folder, ours, "--key=k", "--value=x"),
        "DuckDB": [sys.executable, "-c", DUCKDB_PROCESS % (sql, theirs)],
    }
    figures = processes_in_turn(commands, rounds)
    same_by_key({"ours": pq.read_table(ours), "DuckDB": pq.read_table(theirs)})
    return figures


def storms(settings: Settings) -> Iterator[Result]:
    """the first command of the README beside the imports that it cannot do without"""
    samples = Path(__file__).parents[2] / "pipelines" / "samples" / "storms.parquet"
    imports = [str(alone(settings.data)), "-c", "import pyarrow.parquet, numpy"]
    ours = program(settings, "parquet", samples, settings.data / "ours", "--key=season", "--value=category")
    figures = processes_in_turn({"lse_stream": ours, "imports": imports}, 2 * settings.rounds)
    yield Result("the storms, whole process", figures, [ratio(figures, 2.0)])


def in_order(rng: np.random.Generator, start: int, rows: int) -> pa.Table:
    """Rows with their number, by which they are in order."""
    return pa.table(
        {
            "row": np.arange(start, start + rows),
            "k": rng.integers(0, KEYS, rows),
            "x": rng.normal(-100, 10, rows),
        }
    )


def where(settings: Settings) -> Iterator[Result]:
    """--where that chooses one row of a hundred by a column that is in order, beside all rows"""
    n = settings.size(5e7)
    folder = make_files(settings.data / f"in_order_{n}", n, in_order)
    output, options = settings.data / "ours", ["--key=k", "--value=x"]
    commands = {
        "--where, 1 %": program(settings, "parquet", folder, output, *options, f"--where=row < {n // 100}"),
        "all rows": program(settings, "parquet", folder, output, *options),
    }
    figures = processes_in_turn(commands, settings.rounds)
    yield Result(f"rows chosen, {n:,} rows, whole process", figures, [ratio(figures, 0.1)])


def parquet(settings: Settings) -> Iterator[Result]:
    """Parquet files to a Parquet file of totals by key, whole processes, two cores"""
    small = make_files(settings.data / f"rows_{settings.size(5e6)}", settings.size(5e6), of_keys(KEYS))
    large = make_files(settings.data / f"rows_{settings.size(5e7)}", settings.size(5e7), of_keys(KEYS))
    huge = linked(settings.data / f"rows_{settings.size(1e9)}", large, 20)
    per_row = []
    for n, folder, rounds, limit in (
        (5e6, small, 2 * settings.rounds, 1.0),
        (5e7, large, settings.rounds, 0.7),
        (1e9, huge, min(settings.rounds, 3), 0.7),
    ):
        figures = against_duckdb(settings, folder, rounds)
        per_row.append(figures[0].median / n)
        checks = [ratio(figures, limit), Check("peak memory, MB", figures[0].peak, 1024)]
        if len(per_row) == 3:
            checks.append(Check("time per row over that of a twentieth of the rows", per_row[2] / per_row[1], 1.0))
        yield Result(f"Parquet to result, {settings.size(n):,} rows, {KEYS:,} keys, two cores", figures, checks)


def many_keys(settings: Settings) -> Iterator[Result]:
    """as many keys as every other row, whole processes, two cores"""
    n, keys = settings.size(2e7), settings.size(1e7)
    folder = make_files(settings.data / f"keys_{keys}", n, of_keys(keys))
    figures = against_duckdb(settings, folder, settings.rounds)
    yield Result(f"Parquet to result, {n:,} rows of {keys:,} keys, two cores", figures, [ratio(figures, 1.0)])


def many_files(settings: Settings) -> Iterator[Result]:
    """a thousand files of a hundred rows, whole processes, two cores"""
    folder = make_files(settings.data / "thousand", 100_000, of_keys(100), rows=100)
    figures = against_duckdb(settings, folder, 2 * settings.rounds)
    yield Result("Parquet to result, 1,000 files of 100 rows, two cores", figures, [ratio(figures, 1.5)])


def spilled(settings: Settings) -> Iterator[Result]:
    """every row a key of its own, beyond the memory that states may take, whole process, two cores"""
    n = settings.size(1e8)
    folder = make_files(settings.data / f"distinct_{n}", n, distinct)
    memory = f"--memory={max(64, settings.size(4096))}MB"
    command = program(settings, "parquet", folder, settings.data / "ours", "--key=k", "--value=x", memory)
    [figure] = processes_in_turn({"lse_stream": command}, 1)
    assert sum(pq.read_metadata(path).num_rows for path in (settings.data / "ours").glob("*.parquet")) == n
    title = f"Parquet to result, {n:,} distinct keys, {memory}, two cores"
    yield Result(title, [figure], [Check("peak memory, MB", figure.peak, 8192)])


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
        arguments = ["--inner=logsumexp", "--key=k", "--observation=o", "--value=x"]
        sql = TWO_LEVELS_SQL.format(source=f"read_parquet('{folder}/*.parquet')")
        theirs = settings.data / "totals.parquet"
        commands = {
            "lse_stream": program(settings, "loglik", folder, output, *arguments),
            "DuckDB": [sys.executable, "-c", DUCKDB_PROCESS % (sql, theirs)],
        }
        figures = processes_in_turn(commands, settings.rounds)
        found, expected = pq.read_table(output / "totals"), pq.read_table(theirs)
        same({"ours": np.array(found["log_likelihood"]), "DuckDB": np.array(expected["total"])})
        title = (
            f"log-likelihoods of {n:,} rows ({n // COMPONENTS:,} observations by {layout}), {FOLDS:,} keys, two cores"
        )
        yield Result(title, figures, [ratio(figures, 0.9)])


def posterior(rng: np.random.Generator, start: int, rows: int, *, observations: int) -> pa.Table:
    """Rows of draws in disorder: the tails of some observations are heavy."""
    observation = np.arange(start, start + rows) % observations
    x = rng.normal(-2, 0.7, rows) - 0.3 * (observation % 5) * rng.standard_exponential(rows)
    order = rng.permutation(rows)
    return pa.table({"o": observation[order], "x": x[order]})


def leave_one_out(settings: Settings) -> Iterator[Result]:
    """leave-one-out of 4,000 draws in disorder, beside totals by the same key, whole processes, two cores"""
    observations, draws, files = settings.size(2e4), 4000, 40
    n = observations * draws
    folder = settings.data / f"posterior_{n}"
    make_files(folder, n, partial(posterior, observations=observations), rows=n // files)
    arguments = ["--inner=logmeanexp", "--loo", f"--draws={draws}", "--observation=o", "--value=x"]
    commands = {
        "lse_stream": program(settings, "loglik", folder, settings.data / "left_out", *arguments),
        "lse_stream parquet": program(settings, "parquet", folder, settings.data / "ours", "--key=o", "--value=x"),
    }
    figures = processes_in_turn(commands, settings.rounds)
    checks = [ratio(figures, 2.5), Check("peak memory, MB", figures[0].peak, 1024)]
    yield Result(f"leave-one-out, {observations:,} observations of {draws:,} draws, two cores", figures, checks)


def layouts(settings: Settings) -> Iterator[Result]:
    """leave-one-out of draws in wide tables and in lists, beside reading alone, whole processes, two cores"""
    observations, draws, files = 2000, settings.size(2e4), 4
    n = observations * draws

    def values(rng: np.random.Generator, rows: int, width: int) -> npt.NDArray[np.float64]:
        return rng.normal(-2, 0.7, (rows, width)) - 0.3 * rng.standard_exponential((rows, width))

    def wide(rng: np.random.Generator, start: int, rows: int) -> pa.Table:
        del start
        return pa.table({f"log_lik[{i}]": column for i, column in enumerate(values(rng, rows, observations).T)})

    def of_draws(rng: np.random.Generator, start: int, rows: int) -> pa.Table:
        del start
        return pa.table({"x": list(values(rng, rows, observations))})

    def of_observations(rng: np.random.Generator, start: int, rows: int) -> pa.Table:
        return pa.table({"o": np.arange(start, start + rows), "x": list(values(rng, rows, draws))})

    work: dict[str, tuple[Rows, int, int, list[str]]] = {
        "a column for each observation": (wide, draws, 1000, ["--wide=log_lik[*]"]),
        "a list for each draw": (of_draws, draws, 1000, ["--value=x"]),
        "a list for each observation": (of_observations, observations, 16, ["--value=x", "--observation=o"]),
    }
    for layout, (make, rows, batch, arguments) in work.items():
        folder = settings.data / f"{make.__name__}_{n}"
        make_files(folder, rows, make, rows=rows // files)
        always = ["--inner=logmeanexp", "--loo", f"--draws={draws}"]
        commands = {
            "lse_stream": program(settings, "loglik", folder, settings.data / "left_out", *always, *arguments),
            "reading alone": [str(alone(settings.data)), "-c", READING_PROCESS, str(folder), str(batch)],
        }
        ours, reading = figures = processes_in_turn(commands, settings.rounds)
        beyond = 2 * (ours.median - reading.median) / n * 1e9
        checks = [Check("ns per value and core beyond reading", beyond, 15)]
        yield Result(f"leave-one-out of {n:,} values, {layout}, two cores", figures, checks)


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
    theirs = settings.data / "shares.parquet"
    sql = SHARES_SQL.format(source=f"read_parquet('{folder}/*.parquet')")
    commands = {
        "lse_stream": program(settings, "softmax", folder, output, "--key=k", "--value=x"),
        "DuckDB": [sys.executable, "-c", SHARES_PROCESS % (sql, theirs)],
    }
    figures = processes_in_turn(commands, settings.rounds)
    found, expected = (pq.read_table(path).sort_by("id")["softmax"] for path in (output, theirs))
    same({"ours": np.array(found), "DuckDB": np.array(expected)}, 1e-10)
    yield Result(f"softmax of {n:,} rows, {keys:,} keys, two cores", figures, [ratio(figures, 0.9)])


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
    command = program(settings, "rollup", folder, output, "--state", "--key=k")
    [figure] = processes_in_turn({"lse_stream": command}, settings.rounds)
    assert pq.read_table(output)["count"].to_numpy().tolist() == [hours] * n
    title = f"rollup of {hours} times {n:,} states"
    # The bound: three times the 1.8 million states per second of the same job on Beam's embedded runner before.
    yield Result(title, [figure], [Check("microseconds per state", figure.median / (hours * n) * 1e6, 1 / 5.4)])


WORK: dict[str, Callable[[Settings], Iterator[Result]]] = {
    "storms": storms,
    "where": where,
    "parquet": parquet,
    "keys": many_keys,
    "files": many_files,
    "spilled": spilled,
    "loglik": loglik,
    "loo": leave_one_out,
    "layouts": layouts,
    "shares": shares,
    "rollup": rollup,
}
