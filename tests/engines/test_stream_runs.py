"""Streams on a Flink cluster from Kafka: stopped and gone on with, drained, with rows that are late, and with topics
that change. Whatever happens, every row is in a final pane or a dead letter, and panes are the batch result.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched the engines.
"""

import base64
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from contract import bits
from programs import ROOT, home

from engines.kafka_on_flink import KafkaOnFlink, kafka_on_flink
from engines.processes import wait_for
from lse_stream.accumulators import LogSumExpAccumulator
from pipelines import stream as program

pytestmark = [
    pytest.mark.engine,
    # Beam's workers end when the runner hangs up, and that is how their threads take it.
    pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning"),
]

PARTITIONS = 3
HOUR = 3_600_000

# Key, value and event time in milliseconds.
Row = tuple[str, float, int]
# By key, start and end of window: count, bits of the value, record of the state.
Totals = dict[tuple[str, int, int], tuple[int, bytes, bytes]]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaOnFlink]:
    for name in ("kafka", "flink"):
        home(name)
    with kafka_on_flink(tmp_path_factory.mktemp("engines")) as running:
        yield running


class Topic:
    """A topic of rows, with those for results and dead letters."""

    def __init__(self, engines: KafkaOnFlink, name: str, **config: str) -> None:
        self._kafka, self._rng = engines.kafka, random.Random(name)
        self.rows, self.totals, self.dead = (f"{name}-{kind}" for kind in ("rows", "totals", "dead"))
        self._kafka.create(self.rows, partitions=PARTITIONS, **config)
        self._kafka.create(self.totals, self.dead)
        self.sent: list[Row] = []
        for partition in range(PARTITIONS):  # without one no window closes
            self.send([("a", 0.0, self.now())], partition)

    @staticmethod
    def now() -> int:
        return int(time.time() * 1000)

    def send(self, rows: list[Row], partition: int | None = None) -> None:
        payloads = [json.dumps(dict(zip("kvt", row, strict=True))).encode() for row in rows]
        self._kafka.produce(self.rows, [(payload, None, partition) for payload in payloads])
        self.sent += rows

    def send_some(self, seconds: float, oldest: int = 10_000) -> None:
        """Rows for so long, each up to so many milliseconds older than its record."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.now()
            ages = [self._rng.randrange(oldest) for _ in range(30)]
            self.send([(self._rng.choice("abc"), self._rng.gauss(0, 50), now - age) for age in ages])
            time.sleep(0.1)

    def letters(self) -> list[dict[str, Any]]:
        return self._kafka.results(self.dead)

    def panes(self) -> list[tuple[tuple[str, int, int], str, tuple[int, bytes, bytes]]]:
        """All panes: place, timing, total."""
        found = []
        for result in self._kafka.results(self.totals):
            start, end = (_millis(datetime.fromisoformat(result[f"window_{edge}"])) for edge in ("start", "end"))
            total = result["count"], bits(float(result["logsumexp"])), base64.b64decode(result["state"])
            found.append(((result["key"]["k"], start, end), result["timing"], total))
        return found

    def last_panes(self) -> Totals:
        """Those of the greatest count, as a reader takes them."""
        last: Totals = {}
        for place, _, total in self.panes():
            last[place] = max(total, last.get(place, total), key=lambda pane: pane[0])
        return last


def _millis(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def fixed(rows: list[Row], size: int) -> Totals:
    """What a batch job makes of rows."""
    states: dict[tuple[str, int, int], LogSumExpAccumulator] = defaultdict(LogSumExpAccumulator)
    for key, value, millis in rows:
        start = millis - millis % size
        states[key, start, start + size].add(value)
    return {place: (state.count, bits(state.value()), state.to_bytes()) for place, state in states.items()}


def sessions(rows: list[Row], gap: int) -> Totals:
    """What a batch job makes of rows in sessions."""
    found: Totals = {}
    held: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row[2]):
        mine = held[row[0]]
        if mine and row[2] >= mine[-1][2] + gap:
            found |= _session(mine, gap)
            mine.clear()
        mine.append(row)
    for mine in held.values():
        found |= _session(mine, gap)
    return found


def _session(rows: list[Row], gap: int) -> Totals:
    state = LogSumExpAccumulator([value for _, value, _ in rows])
    place = rows[0][0], rows[0][2], rows[-1][2] + gap
    return {place: (state.count, bits(state.value()), state.to_bytes())}


def of_files(directory: Path) -> Totals:
    rows = [row for path in directory.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {
        (row["k"], _millis(row["window_start"]), _millis(row["window_end"])): (
            row["count"],
            bits(row["logsumexp"]),
            row["state"],
        )
        for row in rows
    }


class Run:
    """The program, and its job on Flink."""

    def __init__(self, engines: KafkaOnFlink, topic: Topic, folder: Path, *arguments: str) -> None:
        self._engines, self._log = engines, folder / "stream.log"
        self.arguments = [
            *(
                *engines.source_options(),
                *engines.stream_options(),
                "--key=k",
                "--value=v",
                "--event_time=t",
                "--state",
            ),
            *(f"--topic={topic.rows}", f"--output_topic={topic.totals}", f"--dead_letter_topic={topic.dead}"),
            *(f"--output={folder / 'out'}", *arguments),
        ]
        self.start()

    def start(self, *more: str) -> None:
        before = set(self._engines.cluster.jobs())
        command = [sys.executable, "-m", "pipelines.stream", *self.arguments, *more]
        with self._log.open("ab") as sink:
            self.program = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
        self.job = self._engines.cluster.wait_for_job(before)
        wait_for(lambda: self._engines.cluster.checkpoints(self.job)["counts"]["completed"], "a checkpoint")

    def stop(self, *, drain: bool = False) -> str:
        """Ends the job with a savepoint; the program sees it."""
        path = self._engines.cluster.stop(self.job, drain=drain)
        assert self.program.wait(60) == 0, self.log()
        return path

    def end(self) -> None:
        """Ends what runs."""
        self.program.kill()
        self.program.wait()
        if self._engines.cluster.jobs()[self.job] not in ("CANCELED", "FINISHED", "FAILED"):
            self._engines.cluster.cancel(self.job)

    def log(self) -> str:
        return self._log.read_text()


def test_a_stream_is_stopped_and_goes_on(
    engines: KafkaOnFlink, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the defaults but for early panes: what is as much older than its record as is allowed, late, and too late."""
    topic = Topic(engines, f"going-on-{time.time():.0f}")
    run = Run(engines, topic, tmp_path, "--window=fixed:10s", "--early_firing=2s")
    try:
        topic.send_some(12)
        saved = run.stop()
        for changes, message in (
            ([], "expected nothing there yet (or --overwrite), found"),
            ([f"--resume={saved}", "--num_shards=2"], "--num_shards: expected 1, as of the results in"),
            ([f"--resume={saved}", "--window=fixed:20s"], "--window: expected fixed:10s, as of the results in"),
        ):
            assert program.main([*run.arguments, *changes]) == 2
            assert message in capsys.readouterr().err
        topic.send_some(3)
        run.start(f"--resume={saved}")
        topic.send_some(15)
        in_time = list(topic.sent)
        topic.send([("a", 1.0, topic.now() - HOUR // 2)] * 5)  # late, and counted
        counted = list(topic.sent)
        topic.send([("b", 2.0, topic.now() - 2 * HOUR)] * 7)  # too late
        wait_for(lambda: len(topic.letters()) == 7, "dead letters")
        run.stop(drain=True)
    finally:
        run.end()
    assert topic.last_panes() == fixed(counted, 10_000), run.log()
    assert of_files(tmp_path / "out") == fixed(counted, 10_000)
    assert all(letter["reason"].startswith("late: ") for letter in topic.letters())
    assert len(topic.sent) == sum(total[0] for total in topic.last_panes().values()) + len(topic.letters())
    # What is no more than 10 s older than its record was never late. (A drained window fires again, with what it has.)
    in_panes: dict[str, dict[tuple[str, int, int], int]] = {"EARLY": {}, "ON_TIME": {}, "LATE": {}}
    for place, timing, total in topic.panes():
        in_panes[timing][place] = max(total[0], in_panes[timing].get(place, 0))
    assert in_panes["EARLY"]
    assert in_panes["ON_TIME"] == {place: total[0] for place, total in fixed(in_time, 10_000).items()}


def test_sessions(engines: KafkaOnFlink, tmp_path: Path) -> None:
    topic = Topic(engines, f"sessions-{time.time():.0f}", **{"message.timestamp.type": "LogAppendTime"})
    run = Run(engines, topic, tmp_path, "--window=session:2s", "--early_firing=2s", "--pre_aggregate=1s")
    try:
        for _ in range(4):
            topic.send_some(2, oldest=1500)
            time.sleep(3)
        run.stop(drain=True)
    finally:
        run.end()
    wanted = sessions(topic.sent, 2000)
    assert len(wanted) > 3
    found = topic.last_panes()
    # Panes of sessions that grew have the names of what they were.
    assert {place: total for place, total in found.items() if place in wanted} == wanted, run.log()
    assert of_files(tmp_path / "out") == wanted
    assert topic.letters() == []


def test_partitions_that_are_added_end_a_stream(engines: KafkaOnFlink, tmp_path: Path) -> None:
    topic = Topic(engines, f"growing-{time.time():.0f}")
    run = Run(engines, topic, tmp_path, "--window=fixed:10s")
    try:
        engines.kafka.add_partitions(topic.rows, PARTITIONS + 1)
        assert run.program.wait(90) == 1, run.log()
        assert f"topic {topic.rows}: expected 3 partitions as at the start, found 4: " in run.log()
        wait_for(lambda: engines.cluster.jobs()[run.job] == "CANCELED", "the job to end")
    finally:
        run.end()


def test_records_that_were_deleted_before_they_were_read_are_an_error(engines: KafkaOnFlink, tmp_path: Path) -> None:
    topic = Topic(engines, f"expired-{time.time():.0f}")
    run = Run(engines, topic, tmp_path, "--window=fixed:10s")
    try:
        saved = run.stop()
        topic.send_some(2)
        engines.kafka.delete_records(topic.rows, PARTITIONS)
        topic.send_some(1)
        before = len(topic.panes())
        with pytest.raises(TimeoutError):  # it never comes to a checkpoint
            run.start(f"--resume={saved}")
        found = json.dumps(engines.cluster.get(f"jobs/{run.job}/exceptions"))
        assert "OffsetOutOfRange" in found or "out of range" in found, found
        assert len(topic.panes()) == before
    finally:
        run.end()
