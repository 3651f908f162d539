"""Jobs on a Flink cluster whose processes are killed, a stream from Kafka to Kafka and a batch: not a bit changes.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched the engines. With LSE_STREAM_CRASHES=25 in
the environment so many processes are killed, one after the other, in one stream.
"""

import base64
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contract import bits
from programs import ROOT, contents, home

from engines.kafka import Broker
from engines.kafka_on_flink import KafkaOnFlink, kafka_on_flink
from engines.processes import wait_for
from lse_stream.accumulators import LogSumExpAccumulator
from pipelines import parquet

pytestmark = pytest.mark.engine

REPETITIONS = int(os.environ.get("LSE_STREAM_CRASHES", "1"))

# Of the stream: how much comes at once, to how many partitions, how far rows are out of order, and the windows.
PER_TICK = 50
PARTITIONS = 3
DISORDER_MILLIS = 3000
WINDOW_MILLIS = 10_000


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaOnFlink]:
    for name in ("kafka", "flink"):
        home(name)
    with kafka_on_flink(tmp_path_factory.mktemp("engines")) as running:
        yield running


Row = tuple[str, float, int]


def expected(rows: list[Row]) -> dict[tuple[str, int], LogSumExpAccumulator]:
    """What a batch job makes of the rows: states by key and start of window."""
    states: dict[tuple[str, int], LogSumExpAccumulator] = {}
    for key, value, millis in rows:
        states.setdefault((key, millis - millis % WINDOW_MILLIS), LogSumExpAccumulator()).add(value)
    return states


def last_panes(results: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[int, bytes, bytes]]:
    """Count, value and state of the last pane by key and start of window; the sink may repeat panes."""
    panes: dict[tuple[str, int], tuple[int, bytes, bytes]] = {}
    for result in results:
        start = int(datetime.fromisoformat(result["window_start"]).timestamp() * 1000)
        place = result["key"]["k"], start
        found = result["count"], bits(float(result["logsumexp"])), base64.b64decode(result["state"])
        panes[place] = max(found, panes.get(place, found), key=lambda pane: pane[0])
    return panes


@dataclass
class Producer:
    """Writes rows, in real time and out of order, until it is told to stop."""

    kafka: Broker
    topic: str
    rng: random.Random

    def __enter__(self) -> Self:
        self.sent: list[Row] = []
        self._stop = threading.Event()
        # A partition without a record would hold all windows open.
        for partition in range(PARTITIONS):
            self._send([("host-0", 0.0, int(time.time() * 1000))], partition)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            now = int(time.time() * 1000)
            self._send(
                [
                    (f"host-{self.rng.randrange(20)}", self.rng.gauss(0, 50), now - self.rng.randrange(DISORDER_MILLIS))
                    for _ in range(PER_TICK)
                ]
            )

    def _send(self, rows: list[Row], partition: int | None = None) -> None:
        payloads = [json.dumps(dict(zip("kvt", row, strict=True))).encode() for row in rows]
        self.kafka.produce(self.topic, [(payload, None, partition) for payload in payloads])
        self.sent += rows


class Stream:
    """The program, from a topic to a topic and to files; the job that it has started."""

    def __init__(self, engines: KafkaOnFlink, name: str, folder: Path) -> None:
        self._engines, self._log = engines, folder / "stream.log"
        self.topic, self.output, self.dead = (f"{kind}-{name}" for kind in ("rows", "totals", "rejected"))
        engines.kafka.create(self.topic, partitions=PARTITIONS)
        engines.kafka.create(self.output, self.dead)
        self._command = [
            *(sys.executable, "-m", "pipelines.stream", *engines.source_options(), *engines.stream_options()),
            *(f"--topic={self.topic}", f"--output_topic={self.output}", f"--dead_letter_topic={self.dead}"),
            *("--key=k", "--value=v", "--event_time=t", "--window=fixed:10s", "--state", f"--output={folder / 'out'}"),
        ]

    def start(self, *more: str) -> None:
        """Waits for a checkpoint."""
        before = set(self._engines.cluster.jobs())
        with self._log.open("ab") as sink:
            self.program = subprocess.Popen([*self._command, *more], cwd=ROOT, stdout=sink, stderr=sink)
        self.job = self._engines.cluster.wait_for_job(before)
        self.wait_for_checkpoint()

    def wait_for_checkpoint(self) -> None:
        """One that was begun after this moment."""
        done = self.checkpoints("completed") + self.checkpoints("in_progress")
        wait_for(lambda: self.checkpoints("completed") > done, "a checkpoint", seconds=180)

    def checkpoints(self, what: str) -> int:
        """How many were "completed", are "in_progress", or were "restored"."""
        found: int = self._engines.cluster.checkpoints(self.job)["counts"][what]
        return found

    def log(self) -> str:
        return self._log.read_text()


def kill(engines: KafkaOnFlink, stream: Stream, victim: str, rng: random.Random) -> None:
    """Kills a process at a random moment after a checkpoint; waits until the stream goes on from one."""
    cluster, restored = engines.cluster, stream.checkpoints("restored")
    time.sleep(rng.uniform(0, 4))
    if victim == "JobManager":
        # It forgets its jobs: the program ends, and is started again with the last checkpoint.
        cluster.kill_job_manager()
        assert stream.program.wait(120) == 1, stream.log()
        stream.start(f"--resume={cluster.last_checkpoint(stream.job)}")
        assert stream.checkpoints("restored") == 1
        return
    failures = cluster.failures()
    if victim == "TaskManager":
        cluster.kill_task_manager(rng.choice([1, 2]))
    else:
        # One that an earlier job has left would not be missed.
        while cluster.failures() == failures:
            cluster.kill_python_worker(rng.choice)
            time.sleep(5)
    wait_for(lambda: stream.checkpoints("restored") > restored, "the job to be restored", seconds=120)
    stream.wait_for_checkpoint()


def victims(rng: random.Random) -> list[str]:
    """Every fifth one is a JobManager; a run has one of each at least."""
    found = ["TaskManager", "worker", "JobManager", *("TaskManager", "worker") * 2] * REPETITIONS
    found = found[: max(3, REPETITIONS)]
    rng.shuffle(found)
    return found


def test_crashes_change_no_bit(engines: KafkaOnFlink, tmp_path: Path) -> None:
    rng = random.Random(time.time())
    stream = Stream(engines, f"{time.time():.0f}", tmp_path)
    begin = time.monotonic()
    try:
        with Producer(engines.kafka, stream.topic, rng) as producer:
            stream.start()
            for i, victim in enumerate(victims(rng)):
                kill(engines, stream, victim, rng)
                print(
                    f"kill {i + 1}: {victim}, {len(producer.sent)} rows, {time.monotonic() - begin:.0f} s", flush=True
                )
        wanted = {place: (s.count, bits(s.value()), s.to_bytes()) for place, s in expected(producer.sent).items()}
        try:
            wait_for(lambda: last_panes(engines.kafka.results(stream.output)) == wanted, "all totals", seconds=120)
        finally:
            found = last_panes(engines.kafka.results(stream.output))
            missing = sum(s[0] for s in wanted.values()) - sum(s[0] for s in found.values())
            print(f"{len(found)} of {len(wanted)} totals, {missing} rows missing", flush=True)
        assert engines.kafka.size(stream.dead) == 0
        assert of_files(tmp_path / "out") == wanted
    finally:
        for running, state in engines.cluster.jobs().items():
            if state not in ("CANCELED", "FINISHED", "FAILED"):
                engines.cluster.cancel(running)
        stream.program.wait(60)


def of_files(directory: Path) -> dict[tuple[str, int], tuple[int, bytes, bytes]]:
    """As ``last_panes``, of the files of results."""
    rows = [row for path in directory.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {
        (row["k"], int(row["window_start"].timestamp() * 1000)): (row["count"], bits(row["logsumexp"]), row["state"])
        for row in rows
    }


def test_crashes_in_a_batch_job_change_no_bit(engines: KafkaOnFlink, tmp_path: Path) -> None:
    rng = np.random.default_rng()
    table = pa.table({"key": rng.integers(0, 1000, 400_000), "value": rng.normal(0, 50, 400_000)})
    for i in range(4):
        # Small row groups make it last.
        pq.write_table(table.slice(i * 100_000, 100_000), tmp_path / f"{i}.parquet", row_group_size=100)
    files = [str(path) for path in sorted(tmp_path.glob("*.parquet"))]
    arguments = ["--key=key", "--value=value", "--state", "--quiet", "--input", *files]
    assert parquet.main([*arguments, f"--output={tmp_path / 'undisturbed'}"]) == 0
    command = [sys.executable, "-m", "pipelines.parquet", *arguments, f"--output={tmp_path / 'killed'}"]
    command += engines.runner_options()
    cluster, log = engines.cluster, tmp_path / "batch.log"
    before = set(cluster.jobs())
    failures = cluster.failures()
    with (
        log.open("wb") as sink,
        subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink) as program,
    ):
        try:
            cluster.wait_for_job(before)
            wait_for(cluster.python_workers, "a worker to start")
            time.sleep(random.uniform(2, 6))
            cluster.kill_python_worker(random.choice)
            wait_for(lambda: cluster.failures() > failures, "Flink to see that a worker is gone")
            failures = cluster.failures()
            time.sleep(random.uniform(2, 6))
            cluster.kill_task_manager(1)
            wait_for(lambda: cluster.failures() > failures, "Flink to see that a TaskManager is gone")
            assert program.wait(200) == 0, log.read_text()
        finally:
            program.kill()
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
