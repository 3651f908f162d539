"""Streams of the program on a Flink cluster: topics of rows, runs that start and stop, and what is to come out."""

import base64
import json
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
from programs import ROOT

from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.testing import bits

from .kafka_on_flink import KafkaOnFlink
from .processes import wait_for

PARTITIONS = 3
# Key, value and event time in milliseconds.
Row = tuple[str, float, int]
# By key, start and end of window: count, bits of the value, record of the state.
Totals = dict[tuple[str, int, int], tuple[int, bytes, bytes]]


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

    @contextmanager
    def sending(self, oldest: int) -> Iterator[None]:
        """As ``send_some``, until the end of the block or ``stop_sending``."""
        self._stop = threading.Event()

        def run() -> None:
            while not self._stop.is_set():
                self.send_some(1, oldest)

        self._sender = threading.Thread(target=run)
        self._sender.start()
        try:
            yield
        finally:
            self.stop_sending()

    def stop_sending(self) -> None:
        self._stop.set()
        self._sender.join()

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

    def launch(self, *more: str) -> None:
        """Waits for the job to run."""
        before = set(self._engines.cluster.jobs())
        command = [sys.executable, "-m", "pipelines.stream", *self.arguments, *more]
        with self._log.open("ab") as sink:
            self.program = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
        self.job = self._engines.cluster.wait_for_job(before)

    def start(self, *more: str) -> None:
        """Waits for a checkpoint."""
        self.launch(*more)
        self.wait_for_checkpoint()

    def wait_for_checkpoint(self) -> None:
        """One that was begun after this moment."""
        done = self.checkpoints("completed") + self.checkpoints("in_progress")
        wait_for(lambda: self.checkpoints("completed") > done, "a checkpoint", seconds=180)

    def checkpoints(self, what: str) -> int:
        """How many were "completed", are "in_progress", or were "restored"."""
        found: int = self._engines.cluster.checkpoints(self.job)["counts"][what]
        return found

    def stop(self, *, drain: bool = False) -> str:
        """Ends the job with a savepoint; the program sees it."""
        path = self._engines.cluster.stop(self.job, drain=drain)
        assert self.program.wait(60) == 0, self.log()
        return path

    def wait_for_fault(self, text: str) -> None:
        """One that Flink has of the job, with that text."""
        path = f"jobs/{self.job}/exceptions"
        wait_for(lambda: text in json.dumps(self._engines.cluster.get(path)), f"a fault: {text}", seconds=180)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what runs."""
        self.program.kill()
        self.program.wait()
        if self._engines.cluster.jobs()[self.job] not in ("CANCELED", "FINISHED", "FAILED"):
            self._engines.cluster.cancel(self.job)

    def log(self) -> str:
        return self._log.read_text()
