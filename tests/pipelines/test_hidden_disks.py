"""Workers with disks of their own: a run fails, says where it wrote, and earlier results stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hidden import EMPTY, skip_without_views, write_blind
from programs import BEAM, ROOT, check_fault, contents, result_file, write

from lse_stream.errors import message_in

# What hides a folder from a worker otherwise: another one with a copy of all that is in it, of which each worker has
# its own, as several begin at once; or one with directories of the same names.
COPY = 'cp -r "$0" "$0.$$" && mount --bind "$0.$$" "$0"'
SAME_NAMES = f'{EMPTY} && mkdir "$0/results"'


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A directory in ``out``, which can be hidden."""
    path = tmp_path / "out" / "results"
    path.mkdir(parents=True)
    skip_without_views(path)
    return path


def run(folder: Path, hide: str, code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A program whose workers of Beam do not see the folder ``out``."""
    worker = folder / "worker"
    write_blind(worker, folder / "out", sys.executable, hide)
    command = [sys.executable, "-c", f"import sys; sys.executable = {str(worker)!r}; {code}", *argv]
    command += [BEAM, "--direct_running_mode=multi_processing"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


@pytest.mark.engine
@pytest.mark.parametrize(
    ("program", "hide", "said"),
    [
        ("parquet", COPY, ["expected part-00000-of-00001.parquet after the run, found none: all workers have to"]),
        ("loglik", COPY, ["/part-00000-of-00001.parquet after the run, found none: all workers have to"]),
        ("parquet", EMPTY, ["part-00000-of-00001.parquet: expected a file that can be written, found", "(on host "]),
    ],
)
def test_a_run_whose_results_are_elsewhere_fails_and_replaces_nothing(
    tmp_path: Path, results: Path, program: str, hide: str, said: list[str]
) -> None:
    source = write(tmp_path / "in.parquet", {"k": ["a", "b"], "x": [1.0, 2.0]})
    argv = [program, "--input", str(source), "--key=k", "--value=x", "--output", str(results), "--overwrite"]
    results.mkdir(parents=True, exist_ok=True)
    (results / "part-00000-of-00001.parquet").write_bytes(result_file(1))
    before = contents(tmp_path / "out")
    found = run(tmp_path, hide, "from pipelines.__main__ import main; sys.exit(main())", *argv, "--quiet")
    assert found.returncode == 1, found.stderr
    check_fault(found.stderr, said, program)
    assert contents(tmp_path / "out") == before


# Files of a stream without an end appear one by one in a directory that is there, which the launcher has marked.
STREAM = """
import apache_beam as beam, pyarrow as pa
from lse_stream.beam import WindowTables, WriteWindows
from lse_stream.beam.kafka import WriteLines
from pipelines.output import make_output

def windows(pipeline):
    rows = pa.table({"time": pa.array([0], pa.timestamp("s")), "x": [1.0]})
    tables = pipeline | beam.Create([rows]) | WindowTables(beam.window.FixedWindows(60), "time")
    tables | beam.Map(lambda table: (0, table)) | WriteWindows("out/results", 1)

def dead_letters(pipeline):
    pipeline | beam.Create([b"{}"]) | beam.ParDo(WriteLines("out/results"))

make_output("output", "out/results")
with beam.Pipeline(argv=sys.argv[2:]) as pipeline:
    globals()[sys.argv[1]](pipeline)
"""


@pytest.mark.engine
@pytest.mark.parametrize("writer", ["windows", "dead_letters"])
def test_files_of_streams_go_to_the_marked_directory_alone(tmp_path: Path, results: Path, writer: str) -> None:
    found = run(tmp_path, SAME_NAMES, STREAM, writer)
    assert found.returncode == 1
    message = message_in(found.stderr) or ""
    assert message.startswith("out/results")
    assert "not the out/results of the machine that started the run (on host " in message
    [mark] = results.iterdir()
    found = run(tmp_path, "true", STREAM, writer)
    assert (found.returncode, message_in(found.stderr)) == (0, None)
    assert len(list(results.iterdir())) == 2
    assert mark.exists()
