"""Workers with disks of their own: a run fails, says where it wrote, and earlier results stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import IN_PROCESSES, ROOT, check_fault, contents, write

# What hides a folder from a worker, which has a view of the file system of its own: an empty disk in its place, or
# another one with a copy of all that is in it.
EMPTY = 'mount -t tmpfs none "$0"'
COPY = 'cp -r "$0" "$0.copy" && mount --bind "$0.copy" "$0"'
UNSHARE = ["unshare", "-r", "-m", "sh", "-c"]


def can_hide(folder: Path) -> bool:
    try:
        return subprocess.run([*UNSHARE, EMPTY, str(folder)], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def run(folder: Path, hide: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A program on Beam, from whose workers the folder ``out`` is hidden."""
    worker = folder / "worker"
    worker.write_text(
        f"""#!/bin/sh\nexec {" ".join(UNSHARE)} '{hide} && exec "$@"' {folder}/out {sys.executable} "$@"\n"""
    )
    worker.chmod(0o755)
    program = f"import sys; sys.executable = {str(worker)!r}; from pipelines.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *argv, *IN_PROCESSES, "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("program", "hide", "said"),
    [
        ("parquet", EMPTY, ["part-00000-of-00001.parquet: expected a file that can be written, found", "(on host "]),
        ("parquet", COPY, ["expected part-00000-of-00001.parquet after the run, found none: all workers have to"]),
        ("loglik", COPY, ["/part-00000-of-00001.parquet after the run, found none: all workers have to"]),
    ],
)
def test_a_run_whose_results_are_elsewhere_fails_and_replaces_nothing(
    tmp_path: Path, program: str, hide: str, said: list[str]
) -> None:
    results = tmp_path / "out" / "results"
    if not can_hide(write(tmp_path / "out" / "a", {"x": [1]}).parent):
        pytest.skip("no views of the file system for single processes here")
    source = write(tmp_path / "in.parquet", {"k": ["a", "b"], "x": [1.0, 2.0]})
    argv = [program, "--input", str(source), "--key=k", "--value=x", "--output", str(results), "--overwrite"]
    write(results / "part-00000-of-00001.parquet", {"k": ["old"]})
    before = contents(tmp_path / "out")
    found = run(tmp_path, hide, *argv)
    assert found.returncode == 1, found.stderr
    check_fault(found.stderr, said, program)
    assert contents(tmp_path / "out") == before
