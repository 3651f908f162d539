"""Flink on this machine: Beam's job server as a process of our own, which runs each job on a Flink inside itself."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 60.0

# As little as can be told to is open to other machines: Flink's own servers, not those of Beam.
FLINK_CONFIG = """\
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
jobmanager.bind-host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
"""


@dataclass(frozen=True)
class JobServer:
    """What runs jobs: the pipeline options for a job on it, with the workers in this process, and the server's log."""

    options: list[str]
    log: Path

    def finished(self) -> int:
        """How many jobs have run to their end on Flink."""
        return finished(self.log)


def finished(log: Path) -> int:
    """How many jobs have run to their end on Flink, from the log of a job server."""
    return len(re.findall(r" Job \S+ \(\w+\) switched from state RUNNING to FINISHED", log.read_text()))


@contextmanager
def job_server(jar: Path, folder: Path) -> Iterator[JobServer]:
    """A job server for the block, and for all jobs in it: Beam would start one for each, and end none before itself.

    Args:
      jar: from ``find_flink``.
      folder: an empty directory for what the server and Flink write; the log stays there.

    Raises:
      RuntimeError: the server does not start.
    """
    log = folder / "job-server.log"
    for name in ("conf", "tmp"):
        (folder / name).mkdir()
    (folder / "conf" / "config.yaml").write_text(FLINK_CONFIG)
    command = [
        *("java", "-Xmx1g", f"-Djava.io.tmpdir={folder / 'tmp'}", "-jar", str(jar)),
        *("--job-host=127.0.0.1", "--job-port=0", "--artifact-port=0", "--expansion-port=-1"),
        *("--flink-master=[local]", f"--flink-conf-dir={folder / 'conf'}", f"--artifacts-dir={folder / 'artifacts'}"),
    ]
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink) as process:
        try:
            endpoint = f"--job_endpoint=127.0.0.1:{_port(process, log)}"
            # The experiment is to leave out a call of pip, which an environment need not have.
            quiet = "--experiments=disable_logging_submission_environment"
            options = ["--runner=FlinkRunner", endpoint, "--environment_type=LOOPBACK", "--parallelism=2", quiet]
            yield JobServer(options, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the server listens on, once it says so."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if started := re.search(r"JobService started on \S+:(\d+)$", log.read_text(), re.MULTILINE):
            return int(started[1])
        time.sleep(0.05)
    raise RuntimeError(f"expected Beam's job server to start within {START_SECONDS:.0f} s, found\n{log.read_text()}")
