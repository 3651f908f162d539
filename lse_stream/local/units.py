"""How threads share work: units of tables, taken one after another and written in their order."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from ..parquet.sink import ShardWriter


class StoppedError(Exception):
    """The work was to end: another thread met a fault, or the caller stopped it."""


class Watch:
    """How far the work is, for whoever shows progress, and a way to end it: threads look in between two tables."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # for whatever the threads of a run share
        self._stopped = False
        self.phase = ""
        self.rows = 0
        self.spilled = 0

    def stop(self) -> None:
        """Lets all threads end soon."""
        self._stopped = True

    def check(self) -> None:
        """Raises StoppedError after ``stop``."""
        if self._stopped:
            raise StoppedError

    def add(self, *, rows: int = 0, spilled: int = 0) -> None:
        """Counts rows that were read, and bytes that were spilled."""
        with self.lock:
            self.rows += rows
            self.spilled += spilled


class Unit:
    """Tables that threads take one after another. What is made of them can be written to one file, in that order.

    Args:
      tables: opens them.
      shard: of which shard they are.
      writer: opens the file.
    """

    def __init__(
        self, tables: Callable[[], Iterator[Any]], *, shard: int = 0, writer: Callable[[], ShardWriter] | None = None
    ) -> None:
        self.shard = shard
        self._open, self._open_writer = tables, writer
        self._tables: Iterator[Any] | None = None
        self._writer: ShardWriter | None = None
        self._next, self._turn = threading.Lock(), threading.Condition()
        self._taken = self._written = 0
        self._whole = self.exhausted = False

    def next(self) -> tuple[int, Any] | None:
        """The next table and its number; None at the end."""
        with self._next:
            if self.exhausted:
                return None
            try:
                if self._tables is None:
                    self._tables = self._open()
                for table in self._tables:
                    self._taken += 1
                    return self._taken - 1, table
            except BaseException:
                self.exhausted = True
                raise
            with self._turn:
                self._whole = self.exhausted = True
                self._tables = None
                self._close_if_whole()
            return None

    def write(self, number: int, table: pa.Table, watch: Watch) -> None:
        """Writes what became of a table, once those before it are written."""
        with self._turn:
            while self._written < number:
                self._turn.wait(0.1)  # seconds, so that a stop is noticed though no one writes any more
                watch.check()
            if self._writer is None and self._open_writer is not None:
                self._writer = self._open_writer()
            if self._writer is not None:
                self._writer.write(table)
            self._written += 1
            self._turn.notify_all()
            self._close_if_whole()

    def _close_if_whole(self) -> None:
        if self._writer is not None and self._whole and self._written == self._taken:
            self._writer.close()
            self._writer = None

    def discard(self) -> None:
        """Lets go of what is open."""
        with self._next, self._turn:
            if self._writer is not None:
                self._writer.discard()
            self._writer = self._tables = None
            self.exhausted = True


class Queue:
    """Units for threads: each takes its own while there are any, and then helps others with theirs."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._lock = threading.Lock()
        self._waiting = deque(units)
        self._opened: deque[Unit] = deque()
        self._all: list[Unit] = []

    def take(self) -> Unit | None:
        """A unit that is not exhausted; None if there is none."""
        with self._lock:
            if self._waiting:
                self._opened.append(self._waiting.popleft())
                self._all.append(self._opened[-1])
                return self._opened[-1]
            while self._opened:
                if not self._opened[0].exhausted:
                    self._opened.rotate(-1)  # another thread helps another unit
                    return self._opened[-1]
                self._opened.popleft()
            return None

    def discard(self) -> None:
        """Lets go of what is open; all threads have ended."""
        for unit in self._all:
            unit.discard()


def run_threads(jobs: Sequence[Callable[[], None]], watch: Watch) -> None:
    """Runs each job in a thread of its own, to its end. Raises the first fault, for which the others were stopped."""
    faults: list[BaseException] = []

    def run(job: Callable[[], None], ended: threading.Event) -> None:
        try:
            watch.check()
            job()
        except BaseException as fault:
            faults.append(fault)
            watch.stop()
        finally:
            ended.set()

    # Events, as before Python 3.13 a thread counts as ended once a signal interrupted its join().
    ends = [threading.Event() for _ in jobs]
    threads = [threading.Thread(target=run, args=each) for each in zip(jobs, ends, strict=True)]
    try:
        for thread in threads:
            thread.start()
        for ended in ends:
            while not ended.wait(0.5):  # in between, the main thread handles signals
                pass
    except BaseException:
        watch.stop()
        for thread, ended in zip(threads, ends, strict=True):
            if thread.ident is not None:  # a thread that begins only now finds the watch stopped
                ended.wait()
        raise
    if faults:
        raise next((fault for fault in faults if not isinstance(fault, StoppedError)), faults[0])
