"""Flink on this machine: Beam's job server as a process of our own, with a Flink inside itself or on a cluster."""

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .fetch import OPENED
from .processes import free_port, process, wait_for, worker_command, workers

# Workers in the process that starts the job.
LOOPBACK = "--environment_type=LOOPBACK"


def in_processes(command: Path) -> list[str]:
    """Pipeline options for workers that ``command`` starts."""
    return ["--environment_type=PROCESS", f"--environment_config={json.dumps({'command': str(command)})}"]


# As little as can be told to is open to other machines: Flink's own servers, not those of Beam.
FLINK_CONFIG = """\
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
jobmanager.bind-host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
"""


@dataclass(frozen=True)
class JobServer:
    """What runs jobs: the pipeline options for a job on it, but for those of the workers; and its log."""

    options: list[str]
    log: Path

    def finished(self) -> int:
        """How many jobs have run to their end on Flink."""
        return finished(self.log)


def finished(log: Path) -> int:
    """How many jobs have run to their end on Flink, from the log of a job server."""
    return len(re.findall(r" Job \S+ \(\w+\) switched from state RUNNING to FINISHED", log.read_text()))


@contextmanager
def job_server(home: Path, folder: Path, master: str = "[local]") -> Iterator[JobServer]:
    """A job server for the block, and for all jobs in it: Beam would start one for each, and end none before itself.

    Args:
      home: from ``find("flink")``.
      folder: an empty directory for what the server and Flink write; the log stays there.
      master: where jobs run: in the server itself, or on the cluster with that address.

    Raises:
      TimeoutError: the server does not start.
    """
    log = folder / "job-server.log"
    for name in ("conf", "tmp"):
        (folder / name).mkdir()
    (folder / "conf" / "config.yaml").write_text(FLINK_CONFIG)
    command = [
        *("java", "-Xmx1g", f"-Djava.io.tmpdir={folder / 'tmp'}", "-jar", str(home / "launcher.jar")),
        *("--job-host=127.0.0.1", "--job-port=0", "--artifact-port=0", "--expansion-port=-1"),
        *(f"--flink-master={master}", f"--flink-conf-dir={folder / 'conf'}", f"--artifacts-dir={folder / 'artifacts'}"),
    ]
    with process(command, log):
        port = wait_for(lambda: _PORT.findall(log.read_text()), "Beam's job server to start")[0]
        endpoint = f"--job_endpoint=127.0.0.1:{port}"
        # The experiment is to leave out a call of pip, which an environment need not have.
        quiet = "--experiments=disable_logging_submission_environment"
        yield JobServer(["--runner=FlinkRunner", endpoint, "--parallelism=2", quiet], log)


_PORT = re.compile(r"JobService started on \S+:(\d+)$", re.MULTILINE)


class Cluster:
    """A Flink of one JobManager and some TaskManagers, each a process on loopback with two slots.

    Args:
      home: from ``find("flink")``.
      folder: an empty directory for configuration, logs, checkpoints and what the workers leave.

    Attributes:
      address: "HOST:PORT" of its REST interface.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self._classes = str(home / "lib" / "*")
        self._folder = folder
        self._managers: dict[int, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()
        self.address = f"127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        folder = self._folder
        for name in ("conf", "tmp", "checkpoints"):
            (folder / name).mkdir()
        _, port = self.address.split(":")
        settings = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": free_port(),
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": port,
            "taskmanager.numberOfTaskSlots": 2,
            "taskmanager.cpu.cores": 1.0,
            **{
                f"taskmanager.memory.{name}": f"{megabytes}m"
                for name, megabytes in {
                    "framework.heap.size": 128,
                    "framework.off-heap.size": 128,
                    "task.heap.size": 384,
                    "task.off-heap.size": 0,
                    "network.min": 128,
                    "network.max": 128,
                    "managed.size": 128,
                    "jvm-metaspace.size": 256,
                    "jvm-overhead.min": 192,
                    "jvm-overhead.max": 192,
                }.items()
            },
            "execution.checkpointing.dir": f"file://{folder / 'checkpoints'}",
            "state.checkpoints.dir": f"file://{folder / 'checkpoints'}",
            "state.backend.type": "hashmap",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 100,
            "restart-strategy.fixed-delay.delay": "1s",
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 5000,
            "taskmanager.load-balance.mode": "SLOTS",
            "io.tmp.dirs": folder / "tmp",
            "classloader.resolve-order": "parent-first",
        }
        (folder / "conf" / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        self._start_job_manager()
        for number in (1, 2):
            self._start_task_manager(number)
        wait_for(lambda: self._registered() == 2, "two TaskManagers to register")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for language in ("python", "java"):
            for worker in workers(self._folder, language):
                os.kill(worker, signal.SIGKILL)

    def _start(self, main: str, name: str, megabytes: int, *arguments: str) -> subprocess.Popen[bytes]:
        command = [
            *("java", f"-Xms{megabytes}m", f"-Xmx{megabytes}m", "-XX:MaxMetaspaceSize=256m"),
            *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED),
            *("-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Dorg.slf4j.simpleLogger.showDateTime=true"),
            *("-cp", self._classes, main, "--configDir", str(self._folder / "conf"), *arguments),
        ]
        return self._stack.enter_context(process(command, self._folder / f"{name}.log"))

    def _start_job_manager(self) -> None:
        main = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        self._job_manager = self._start(main, "job-manager", 512)

    def kill_job_manager(self) -> None:
        """SIGKILL; another one starts in its place, which knows of no job."""
        self._job_manager.kill()
        self._job_manager.wait()
        self._start_job_manager()
        wait_for(lambda: self._registered() == 2, "two TaskManagers to register")

    def _start_task_manager(self, number: int) -> None:
        main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        self._managers[number] = self._start(
            main, f"task-manager-{number}", 512, "-D", f"taskmanager.resource-id=tm{number}"
        )

    def kill_task_manager(self, number: int) -> None:
        """SIGKILL; another one starts in its place, for its slots."""
        self._managers[number].kill()
        self._managers[number].wait()
        self._start_task_manager(number)

    def kill_python_worker(self, choose: Callable[[list[int]], int]) -> None:
        """SIGKILL to one of the workers, as soon as there are any."""
        os.kill(choose(wait_for(self.python_workers, "a Python worker to run")), signal.SIGKILL)

    def python_workers(self) -> list[int]:
        """The ids of those that run."""
        return workers(self._folder, "python")

    def failures(self) -> int:
        """How many tasks have failed."""
        return (self._folder / "job-manager.log").read_text().count(" switched from RUNNING to FAILED ")

    def worker_options(self) -> list[str]:
        """Pipeline options for Python workers that the TaskManagers start."""
        return in_processes(worker_command(self._folder, "python"))

    def get(self, path: str) -> Any:
        """What the REST interface says."""
        with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=60) as response:
            return json.load(response)

    def _registered(self) -> int:
        try:
            found: int = self.get("overview")["taskmanagers"]
        except OSError:
            return 0
        return found

    def jobs(self) -> dict[str, str]:
        """States of all jobs by id."""
        return {job["jid"]: job["state"] for job in self.get("jobs/overview")["jobs"]}

    def wait_for_job(self, before: Set[str]) -> str:
        """The id of a job that was not there before, once it runs."""
        return wait_for(
            lambda: {job for job, state in self.jobs().items() if state == "RUNNING"} - before, "a job to run on Flink"
        ).pop()

    def checkpoints(self, job: str) -> Any:
        """Of a job: "counts" of those "completed", "restored" and so on, and the "latest" of each."""
        return self.get(f"jobs/{job}/checkpoints")

    def last_checkpoint(self, job: str) -> str:
        """The path of the last one of a job that is whole, as ``--resume`` takes it."""
        whole = (self._folder / "checkpoints" / job).glob("chk-*/_metadata")
        return f"file://{max(whole, key=lambda path: int(path.parent.name.removeprefix('chk-'))).parent}"

    def stop(self, job: str, *, drain: bool = False) -> str:
        """Ends a job with a savepoint, after a last watermark where it is drained; gives the path."""
        body = json.dumps({"targetDirectory": f"file://{self._folder / 'savepoints'}", "drain": drain}).encode()
        request = urllib.request.Request(
            f"http://{self.address}/jobs/{job}/stop", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            trigger = json.load(response)["request-id"]

        def path() -> str | None:
            found = self.get(f"jobs/{job}/savepoints/{trigger}")
            if found["status"]["id"] == "COMPLETED":
                assert "location" in found["operation"], found
                location: str = found["operation"]["location"]
                return location
            return None

        return wait_for(path, "a savepoint") or ""

    def cancel(self, job: str) -> None:
        request = urllib.request.Request(f"http://{self.address}/jobs/{job}?mode=cancel", method="PATCH")
        urllib.request.urlopen(request, timeout=60).close()
        wait_for(lambda: self.jobs()[job] == "CANCELED", "the job to end")
