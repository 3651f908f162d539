"""Jobs on a Flink cluster whose processes are killed, a stream from Kafka to Kafka and a batch: not a bit changes.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched the engines. LSE_STREAM_CRASHES=20 in the
environment repeats the crashes so many times.
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
from datetime import datetime
from pathlib import Path
from typing import Any

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

# Of the stream: how long it lasts, how much comes at once, how far rows are out of order, and the windows.
SECONDS = 40
PER_TICK = 100
DISORDER_MILLIS = 3000
WINDOW_MILLIS = 10_000


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaOnFlink]:
    for name in ("kafka", "flink"):
        home(name)
    with kafka_on_flink(tmp_path_factory.mktemp("engines")) as running:
        yield running


Row = tuple[str, float, int]


def produce(kafka: Broker, topic: str, rng: random.Random) -> list[Row]:
    """Rows (key, value, event time in milliseconds) as they come, in real time."""
    sent: list[Row] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        now = int(time.time() * 1000)
        rows = [
            (f"host-{rng.randrange(20)}", rng.gauss(0, 50), now - rng.randrange(DISORDER_MILLIS))
            for _ in range(PER_TICK)
        ]
        kafka.produce(topic, [(json.dumps(dict(zip("kvt", row, strict=True))).encode(), None, None) for row in rows])
        sent += rows
        time.sleep(0.1)
    return sent


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


def test_crashes_change_no_bit(engines: KafkaOnFlink, tmp_path: Path) -> None:
    for repetition in range(REPETITIONS):
        crash(engines, tmp_path / str(repetition), repetition)


def crash(engines: KafkaOnFlink, folder: Path, repetition: int) -> None:
    folder.mkdir()
    rng = random.Random(f"{time.time()} {repetition}")
    topic, output, dead = (f"{name}-{repetition}" for name in ("rows", "totals", "rejected"))
    engines.kafka.create(topic, output, dead)
    command = [
        *(sys.executable, "-m", "pipelines.stream", *engines.source_options(), *engines.stream_options()),
        *(f"--topic={topic}", f"--output_topic={output}", f"--dead_letter_topic={dead}"),
        *("--key=k", "--value=v", "--event_time=t", "--window=fixed:10s", "--state"),
        *("--allowed_lateness=1d", "--pre_aggregate=2s"),
    ]
    before = set(engines.cluster.jobs())
    log = folder / "stream.log"
    with log.open("wb") as sink, subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink) as program:
        sent: list[Row] = []
        producer = threading.Thread(target=lambda: sent.extend(produce(engines.kafka, topic, rng)))
        try:
            job = engines.cluster.wait_for_job(before)
            wait_for(lambda: engines.cluster.checkpoints(job)["counts"]["completed"], "a checkpoint")
            producer.start()
            kills = sorted(rng.uniform(2, SECONDS) for _ in range(2))
            start = time.monotonic()
            for moment, kill in zip(kills, ("task manager", "python worker"), strict=True):
                time.sleep(max(0.0, start + moment - time.monotonic()))
                if kill == "task manager":
                    engines.cluster.kill_task_manager(rng.choice([1, 2]))
                else:
                    engines.cluster.kill_python_worker(rng.choice)
            producer.join()
            wanted = {place: (s.count, bits(s.value()), s.to_bytes()) for place, s in expected(sent).items()}
            try:
                wait_for(lambda: last_panes(engines.kafka.results(output)) == wanted, "all totals", seconds=120)
            finally:
                found = last_panes(engines.kafka.results(output))
                missing = sum(s[0] for s in wanted.values()) - sum(s[0] for s in found.values())
                print(
                    f"repetition {repetition}: kills at {kills[0]:.1f} and {kills[1]:.1f} s, {len(sent)} rows, "
                    f"{len(found)} of {len(wanted)} totals, {missing} rows missing, "
                    f"{time.monotonic() - start:.0f} s",
                    flush=True,
                )
            assert engines.kafka.size(dead) == 0
            # Or it began anew, which tells nothing of checkpoints.
            assert engines.cluster.checkpoints(job)["counts"]["restored"] >= 1
            engines.cluster.cancel(job)
            assert program.wait(30) == 0, log.read_text()
        finally:
            program.kill()
            for running, state in engines.cluster.jobs().items():
                if state not in ("CANCELED", "FINISHED", "FAILED"):
                    engines.cluster.cancel(running)


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
