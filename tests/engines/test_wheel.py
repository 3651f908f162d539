"""Programs on Flink whose workers have the wheel and nothing of the clone: the same bytes, whatever started them.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched Flink.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from programs import BEAM, ROOT, contents, home

from engines.flink import in_processes, job_server
from engines.processes import worker_command, workers
from pipelines.__main__ import main

pytestmark = pytest.mark.engine

SAMPLES = ROOT / "pipelines" / "samples"
PROGRAMS = {
    "loglik": [
        *(f"--input={SAMPLES / 'diabetes_draws.parquet'}", "--key=model", "--observation=patient"),
        *("--value=log_likelihood", "--inner=logmeanexp", "--waic", "--per_observation"),
    ],
    "softmax": [f"--input={SAMPLES / 'storms.parquet'}", "--key=season", "--value=category"],
    "stream": [
        *("--source=replay", f"--input={SAMPLES / 'storm_fixes.parquet'}", "--key=season", "--value=category"),
        *("--event_time=time", "--window=fixed:52w", "--state"),
    ],
}
# For Flink alone.
MORE = {"stream": ["--streaming"]}
# A program is the main module of its process, or a module that this one imports.
FROM_THE_CLONE = {
    "loglik": ["-m", "pipelines.loglik"],
    "softmax": ["-m", "pipelines", "softmax"],
    "stream": ["-m", "pipelines", "stream"],
}
# Stages of softmax wait for each other, and a Flink inside the job server starts a worker for each: once will do.
FROM_THE_WHEEL = ("loglik", "stream")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a Python environment that has the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    programs = folder / "environment" / "bin"
    uv = [os.environ.get("UV", "uv"), "--quiet"]
    subprocess.run([*uv, "build", "--wheel", f"--out-dir={folder}"], cwd=ROOT, check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*uv, "venv", f"--python={sys.executable}", folder / "environment"], check=True)
    install = [*uv, "pip", "install", f"--python={programs / 'python'}", f"{wheel}[kafka]"]
    subprocess.run(install, cwd=ROOT, check=True)
    return programs


@pytest.fixture(scope="module")
def flink(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Pipeline options for a Flink that has the workers run in this environment."""
    folder = tmp_path_factory.mktemp("flink")
    command = worker_command(folder, "python", python=str(environment / "python"), PYTHONPATH="")
    with job_server(home("flink"), folder) as server:
        try:
            yield [*server.options, *in_processes(command)]
        finally:
            for worker in workers(folder, "python"):
                os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("program", PROGRAMS)
def test_workers_that_have_the_wheel_alone(environment: Path, flink: list[str], tmp_path: Path, program: str) -> None:
    arguments = [*PROGRAMS[program], "--quiet"]
    assert main([program, *arguments, BEAM, f"--output={tmp_path / 'embedded'}"]) == 0

    def run(command: list[str], folder: Path, output: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *arguments, *MORE.get(program, []), *flink, f"--output={tmp_path / output}"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout

    with ThreadPoolExecutor() as pool:
        found = {"clone": pool.submit(run, [sys.executable, *FROM_THE_CLONE[program]], ROOT, "clone")}
        if program in FROM_THE_WHEEL:
            found["wheel"] = pool.submit(run, [str(environment / "lse-stream"), program], tmp_path, "wheel")
    for output, done in found.items():
        assert done.result() == (0, ""), output
        assert contents(tmp_path / output) == contents(tmp_path / "embedded")
