"""Jobs on a Flink cluster whose processes are killed, a stream from Kafka to Kafka and a batch: not a bit changes.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched the engines. With LSE_STREAM_CRASHES=25 in
the environment so many processes are killed, one after the other, in one stream.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import ROOT, contents

from engines.kafka_on_flink import KafkaOnFlink
from engines.processes import wait_for
from engines.streams import Run, Topic, fixed, of_files
from pipelines import parquet

pytestmark = pytest.mark.engine

REPETITIONS = int(os.environ.get("LSE_STREAM_CRASHES", "1"))

# How far the rows of the stream are out of order.
DISORDER_MILLIS = 3000


def kill(engines: KafkaOnFlink, run: Run, victim: str, rng: random.Random) -> None:
    """Kills a process at a random moment after a checkpoint; waits until the stream goes on from one."""
    cluster, restored = engines.cluster, run.checkpoints("restored")
    time.sleep(rng.uniform(0, 4))
    if victim == "JobManager":
        # It forgets its jobs: the program ends, and is started again with the last checkpoint.
        cluster.kill_job_manager()
        assert run.program.wait(120) == 1, run.log()
        run.start(f"--resume={cluster.last_checkpoint(run.job)}")
        assert run.checkpoints("restored") == 1
        return
    failures = cluster.failures()
    while cluster.failures() == failures:
        # One without a task of the job, and a worker that an earlier job has left, would not be missed.
        if victim == "TaskManager":
            cluster.kill_task_manager(rng.choice([1, 2]))
        else:
            cluster.kill_python_worker(rng.choice)
        time.sleep(8)
    wait_for(lambda: run.checkpoints("restored") > restored, "the job to be restored", seconds=120)
    run.wait_for_checkpoint()


def victims(rng: random.Random) -> list[str]:
    """Every fifth one is a JobManager; there is one of each at least."""
    found = ["TaskManager", "worker", "JobManager", *("TaskManager", "worker") * 2] * REPETITIONS
    found = found[: max(3, REPETITIONS)]
    rng.shuffle(found)
    return found


def test_crashes_change_no_bit(engines: KafkaOnFlink, tmp_path: Path) -> None:
    rng = random.Random(time.time())
    topic = Topic(engines, f"crashes-{time.time():.0f}")
    begin = time.monotonic()
    with topic.sending(oldest=DISORDER_MILLIS), Run(engines, topic, tmp_path, "--window=fixed:10s") as run:
        run.start()
        for i, victim in enumerate(victims(rng)):
            kill(engines, run, victim, rng)
            seconds = time.monotonic() - begin
            print(f"kill {i + 1}: {victim}, {len(topic.sent)} rows, {seconds:.0f} s", flush=True)
        topic.stop_sending()
        wanted = fixed(topic.sent, 10_000)
        try:
            wait_for(lambda: topic.last_panes() == wanted, "all totals", seconds=120)
        finally:
            found = topic.last_panes()
            missing = len(topic.sent) - sum(total[0] for total in found.values())
            print(f"{len(found)} of {len(wanted)} totals, {missing} rows missing", flush=True)
    assert topic.letters() == []
    assert of_files(tmp_path / "out") == wanted


def test_crashes_in_a_batch_job_change_no_bit(engines: KafkaOnFlink, tmp_path: Path) -> None:
    rng = np.random.default_rng()
    table = pa.table({"key": rng.integers(0, 1000, 400_000), "value": rng.normal(0, 50, 400_000)})
    for i in range(4):
        # Small row groups make it last.
        pq.write_table(table.slice(i * 100_000, 100_000), tmp_path / f"{i}.parquet", row_group_size=40)
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
