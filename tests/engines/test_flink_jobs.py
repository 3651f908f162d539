"""Jobs on a Flink cluster: the options that have come there, and what Flink says once the program is asked to end.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched Flink. All jobs are there at the same time.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from programs import ROOT, home, write

from engines.flink import LOOPBACK, Cluster, job_server
from engines.processes import wait_for

pytestmark = pytest.mark.engine

SIGNALS = {"batch": signal.SIGTERM, "stream": signal.SIGHUP, "own job server": signal.SIGINT}


@dataclass(frozen=True)
class Ended:
    """A run that has ended.

    Attributes:
      job: its id on Flink.
      config: the options that have arrived there.
      state: of the job after the run, as Flink says.
    """

    status: int
    said: str
    left: list[Path]
    output: Path
    job: str
    config: dict[str, str]
    state: str


def long_input(folder: Path) -> Path:
    """Takes ten seconds to read, for its many row groups."""
    rng = np.random.default_rng(1)
    times = pa.array(rng.integers(0, 10**10, 20_000), pa.timestamp("us"))
    table = {"key": rng.integers(0, 40_000, 20_000), "value": rng.normal(size=20_000), "time": times}
    first = write(folder / "0.parquet", table, row_group_size=10)
    for i in range(1, 12):
        os.link(first, folder / f"{i}.parquet")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    folder = tmp_path_factory.mktemp("jobs")
    for name in ("cluster", "server"):
        (folder / name).mkdir()
    source, flink_home = long_input(folder / "in"), home("flink")
    batch, stream = ["parquet"], ["stream", "--source=replay", "--streaming", "--event_time=time", "--window=fixed:1h"]
    with (
        Cluster(flink_home, folder / "cluster") as cluster,
        job_server(flink_home, folder / "server", cluster.address) as server,
    ):
        asked = [*server.options, "--checkpointing_interval=7000", "--object_reuse", "--operator_chaining=false"]
        own = ["--runner=FlinkRunner", f"--flink_job_server_jar={flink_home / 'launcher.jar'}"]
        commands = {
            "batch": [*batch, *asked],
            "stream": [*stream, *asked],
            "own job server": [*batch, *own, "--", "--checkpointing_interval=7000", "--object_reuse"],
        }
        processes = {}
        try:
            for name, (program, *options) in commands.items():
                (folder / name).mkdir()
                common = ["--input", str(source), "--key=key", "--value=value", "--output", str(folder / name / "out")]
                common += [f"--flink_master={cluster.address}", LOOPBACK, f"--job_name={name.replace(' ', '-')}"]
                # Where the tests run under nohup, the signal would be ignored.
                command = [
                    "env",
                    "--default-signal=HUP",
                    sys.executable,
                    "-m",
                    f"pipelines.{program}",
                    *common,
                    *options,
                ]
                processes[name] = subprocess.Popen(
                    command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
                )
            with ThreadPoolExecutor() as pool:  # each as soon as its job runs
                ended = {
                    name: pool.submit(end, cluster, name, process, folder / name) for name, process in processes.items()
                }
            yield {name: future.result() for name, future in ended.items()}
        finally:
            for process in processes.values():
                process.kill()
                process.communicate()


def end(cluster: Cluster, name: str, process: subprocess.Popen[str], folder: Path) -> Ended:
    """Sends its signal to a run, once its job runs on Flink, and waits for its end."""

    def running() -> Any:
        jobs = cluster.get("jobs/overview")["jobs"]
        return [job["jid"] for job in jobs if job["name"] == name.replace(" ", "-") and job["state"] == "RUNNING"]

    [job] = wait_for(running, f"the job of {name} to run", seconds=180)
    config = cluster.get(f"jobs/{job}/config")["execution-config"]["user-config"]
    # To all of its session, as a terminal does.
    os.killpg(process.pid, SIGNALS[name])
    _, said = process.communicate(timeout=90)
    return Ended(process.returncode, said, sorted(folder.iterdir()), folder / "out", job, config, cluster.jobs()[job])


@pytest.mark.parametrize("name", SIGNALS)
def test_a_job_is_cancelled(runs: dict[str, Ended], name: str) -> None:
    run, number = runs[name], SIGNALS[name]
    assert run.state == "CANCELED"
    assert run.status == 128 + number
    last = run.said.splitlines()[-1]
    assert last.startswith(f"{'stream' if name == 'stream' else 'parquet'}: interrupted ({number.name}); job ")
    assert last.endswith(" is cancelled; no output was written")
    assert run.left == []


@pytest.mark.parametrize("name", SIGNALS)
def test_options_arrive(runs: dict[str, Ended], name: str) -> None:
    config = runs[name].config
    assert (config["checkpointingInterval"], config["objectReuse"]) == ("7000", "true")
    assert config.get("operatorChaining") == (None if name == "own job server" else "false")
