"""What the tests of the programs share: files to read, command lines, and what must hold of every program."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engines.fetch import EngineError, find, find_prism

from lse_stream.parquet.sink import write_shard
from lse_stream.table_functions import finalize, group_states
from pipelines.output import PROVENANCE

ROOT = Path(__file__).parent.parent

Main = Callable[[Sequence[str]], int]


def home(engine: str) -> Path:
    """Where an engine is; the test is skipped if it was not fetched, unless the environment says that it must be."""
    try:
        return find_prism() if engine == "prism" else find(engine)
    except EngineError as error:
        if os.environ.get("LSE_STREAM_REQUIRE_ENGINES") == "1" and engine != "prism":
            raise
        pytest.skip(str(error))


def write(path: Path, table: pa.Table | dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return path


def place(files: dict[str, Any], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            write(path, content)


def result_file(value: int) -> bytes:
    """A file of results, such as a run leaves."""
    table = pa.table({"value": [value]})
    with TemporaryDirectory() as directory:
        return Path(write_shard(directory, 1, 0, [table], table.schema)).read_bytes()


def split(folder: Path, table: pa.Table, parts: int, **options: Any) -> Path:
    """The rows spread over files: every ``parts``-th row to a file."""
    for i in range(parts):
        write(folder / f"{i}.parquet", table.take(np.arange(i, table.num_rows, parts)), **options)
    return folder


def damage(path: Path, row_group: int, column: int) -> None:
    """Changes bytes in the middle of a column chunk."""
    chunk = pq.read_metadata(path).row_group(row_group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    middle = start + chunk.total_compressed_size // 2
    for i in range(middle, middle + 8):
        data[i] ^= 0x55
    path.write_bytes(data)


def parts(folder: Path) -> list[pa.Table]:
    return [pq.read_table(path, partitioning=None) for path in sorted(folder.glob("*.parquet"))]


def contents(folder: Path) -> dict[str, bytes]:
    """All files, but for what says where results come from, which names the input."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != PROVENANCE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def cli(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"pipelines.{program}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def check_fault(error: str, fragments: Sequence[str], program: str = "parquet") -> None:
    """What a fault prints: one line, that says all of ``fragments``."""
    assert error.startswith(f"{program}: error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert "Traceback" not in error
    for fragment in fragments:
        assert fragment in error


# Files to place, a command line, and what the message says.
Bad = tuple[dict[str, Any], str, list[str]]


def check_bad(main: Main, program: str, folder: Path, capsys: Any, bad: Bad, status: int = 2) -> None:
    """A fault, in the current directory ``folder``: one line, no file; exit status 2 before any work, 1 in mid-run."""
    files, arguments, fragments = bad
    place(files, folder)
    before = contents(folder), sorted(folder.rglob("*"))
    assert main([*arguments.split(), "--quiet"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    check_fault(captured.err, fragments, program)
    assert (contents(folder), sorted(folder.rglob("*"))) == before


# Options of the embedded runner, each of which spreads the work in another way.
BEAM = "--runner=FnApiRunner"
# In this process; and on Beam, where it is shown once more.
BOTH = [pytest.param([], id="here"), pytest.param([BEAM], id="on Beam", marks=pytest.mark.engine)]
IN_PROCESSES = [BEAM, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


# By whom which layout of the rows is read.
BY_BEAM = [("whole", [BEAM, "--direct_running_mode=in_memory"]), ("seven", [BEAM, "--direct_num_workers=2"])]
BY_BOTH = [
    ("whole", []),
    ("small", ["--threads=1"]),
    ("seven", ["--threads=7"]),
    ("small", ["--threads=2", "--memory=1MB"]),
    *BY_BEAM,
]


def check_bytes(
    program: str,
    main: Main,
    folder: Path,
    table: pa.Table,
    arguments: Sequence[str],
    *,
    ways: Sequence[tuple[str, list[str]]] = BY_BOTH,
    processes: bool = True,
) -> dict[str, bytes]:
    """Runs a program over the rows of a table, in many layouts and on both engines: always the same files."""
    backwards = table.take(np.arange(table.num_rows)[::-1])
    layouts = {
        "whole": write(folder / "whole.parquet", table),
        "small": write(folder / "small.parquet", backwards, row_group_size=311),
        "seven": split(folder / "seven", table, 7, row_group_size=100),
    }
    output = folder / "out"
    always = ["--output", str(output), "--overwrite", "--quiet", *arguments]
    found = []
    for layout, workers in ways:
        assert main(["--input", str(layouts[layout]), *always, *workers]) == 0
        found.append(contents(output))
    if processes:
        process = cli(program, "--input", layouts["seven"], *always, *IN_PROCESSES)
        assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
        found.append(contents(output))
    assert found[0]
    assert all(files == found[0] for files in found)
    return found[0]


def write_inputs(folder: Path) -> Path:
    """What ``RUNS`` read: rows with keys of many types, classes and labels, and stored states."""
    rng = np.random.default_rng(0)
    n = 6000
    table = pa.table(
        {
            "number": rng.integers(0, 40, n),
            "text": [f"t{i}" for i in rng.integers(0, 30, n)],
            "kind": pa.array([f"d{i}" for i in rng.integers(0, 3, n)]).dictionary_encode(),
            "time": pa.array(rng.integers(0, 10**12, n) // 10**9 * 10**9, pa.timestamp("ns", "UTC")),
            "share": pa.array(np.round(rng.normal(size=n), 1), mask=rng.random(n) < 0.1),
            "example": np.arange(n) // 3,
            "class": np.arange(n) % 3,
            "label": np.arange(n) // 3 % 3,
            "x": pa.array(rng.normal(size=n) * 30, mask=rng.random(n) < 0.05),
            "logit": rng.normal(size=n),
            "weight": rng.random(n),
            "list": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=4 * n)), 4),
        }
    )
    split(folder / "in", table, 3, row_group_size=500)
    write(folder / "labels.parquet", {"example": np.arange(n // 3), "label": np.arange(n // 3) % 3})
    write(folder / "map.parquet", {"number": np.arange(40), "half": np.arange(40) % 2})
    states = group_states(table, ["number", "time"], "x")
    write(folder / "states" / "part-00000-of-00001.parquet", finalize(states, keep_state=True))
    return folder


_KEYS = ["--key=number", "--key=text", "--key=kind", "--key=time", "--key=share"]

# Each program with all that it can be asked for; "{}" is the folder of ``write_inputs``.
RUNS: dict[str, list[str]] = {
    "parquet": ["parquet", "--input={}/in", "--value=x", *_KEYS],
    "parquet, states": ["parquet", "--input={}/in", "--value=x", "--key=text", "--state", "--num_shards=3"],
    "parquet, spilled": ["parquet", "--input={}/in", "--value=x", "--key=example", "--key=text", "--memory=1MB"],
    "parquet, nulls": ["parquet", "--input={}/in", "--value=x", "--key=share", "--no-skip_nulls", "--min_count=2"],
    "loglik": ["loglik", "--input={}/in", "--value=x", "--key=kind"],
    "mixtures": [
        *["loglik", "--input={}/in", "--value=x", "--key=kind", "--observation=example", "--inner=logsumexp"],
        "--weight=weight",
    ],
    "waic": [
        *["loglik", "--input={}/in", "--value=logit", "--key=number", "--observation=kind", "--inner=logmeanexp"],
        *["--waic", "--per_observation"],
    ],
    "lists": ["loglik", "--input={}/in", "--value=list", "--key=kind", "--inner=logmeanexp", "--loo"],
    "groups": [
        *[
            "loglik",
            "--input={}/in",
            "--value=logit",
            "--group=class",
            "--draw=example",
            "--inner=logmeanexp",
            "--waic",
        ],
    ],
    "softmax": ["softmax", "--input={}/in", "--value=x", "--key=text"],
    "cross_entropy": ["cross_entropy", "--input={}/in", "--logits=list", "--label=label", "--key=text"],
    "cross_entropy, rows": [
        *["cross_entropy", "--input={}/in", "--value=logit", "--class=class", "--example=example"],
        *["--labels={}/labels.parquet", "--label=label", "--unit=bits"],
    ],
    "rollup": [
        *["rollup", "--input={}/states", "--key=half", "--key=time", "--truncate=time=minute"],
        "--map=number={}/map.parquet",
    ],
}
