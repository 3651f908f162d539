"""How threads share units: each table once, writes in order, the first fault for all, and an end when asked for one."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest

from lse_stream.local.units import Queue, StoppedError, Unit, Watch, run_threads
from lse_stream.parquet.sink import ShardWriter

# No test waits longer than this for another thread, which then is not there.
PATIENCE = 10.0


class Recorder:
    """Stands for a file: what is written to it, and what becomes of it."""

    def __init__(self) -> None:
        self.tables: list[Any] = []
        self.ends: list[str] = []

    def write(self, table: Any) -> None:
        assert not self.ends
        self.tables.append(table)

    def close(self) -> None:
        self.ends.append("closed")

    def discard(self) -> None:
        self.ends.append("discarded")

    def open(self) -> ShardWriter:
        return cast(ShardWriter, self)


def unit_of(*tables: object, writer: Recorder | None = None) -> Unit:
    return Unit(lambda: iter(tables), writer=writer.open if writer else None)


def take_all(queue: Queue, on_table: Callable[[Unit, int, Any], None]) -> None:
    """What a thread of the engine does."""
    while (unit := queue.take()) is not None:
        while (item := unit.next()) is not None:
            on_table(unit, *item)


def loop(watch: Watch) -> None:
    """Goes on until it is stopped."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        watch.check()
        time.sleep(0.001)


# --- taking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", range(1, 8))
def test_every_table_is_taken_exactly_once(threads: int) -> None:
    sizes = [0, 1, 5, 200, 0, 3, 60, 1, 0]
    units = [unit_of(*((i, j) for j in range(n))) for i, n in enumerate(sizes)]
    taken: list[tuple[int, int]] = []

    def on_table(unit: Unit, number: int, table: Any) -> None:
        assert table == (units.index(unit), number)
        taken.append(table)
        time.sleep(random.random() * 1e-4)

    queue = Queue(units)
    run_threads([partial(take_all, queue, on_table)] * threads, Watch())
    assert Counter(taken) == Counter((i, j) for i, n in enumerate(sizes) for j in range(n))
    assert queue.take() is None


def test_threads_without_a_unit_of_their_own_help_others() -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE)
    met: set[int] = set()

    def on_table(_: Unit, __: int, ___: Any) -> None:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            meeting.wait()

    run_threads([partial(take_all, Queue([unit_of(*range(30))]), on_table)] * 3, Watch())
    assert len(met) == 3


def test_each_thread_takes_a_unit_of_its_own_first() -> None:
    units = [unit_of(0), unit_of(0), unit_of(0)]
    queue = Queue(units)
    assert [queue.take() for _ in units] == units
    assert queue.take() in units  # all are open: to help with


def test_a_unit_is_opened_when_its_first_table_is_taken() -> None:
    opened = []

    def tables() -> Iterator[int]:
        opened.append(True)
        yield 7

    unit = Unit(tables)
    queue = Queue([unit])
    assert queue.take() is unit
    assert opened == []
    assert [unit.next(), unit.next(), unit.next()] == [(0, 7), None, None]
    assert opened == [True]


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 4, 7])
def test_what_becomes_of_tables_is_written_in_their_order(threads: int) -> None:
    files = [Recorder() for _ in range(4)]
    units = [unit_of(*range(n), writer=file) for n, file in zip([60, 1, 9, 25], files, strict=True)]
    watch = Watch()

    def on_table(unit: Unit, number: int, table: Any) -> None:
        time.sleep(random.random() * 1e-3)
        unit.write(number, cast(Any, f"made of {table}"), watch)

    run_threads([partial(take_all, Queue(units), on_table)] * threads, watch)
    for n, file in zip([60, 1, 9, 25], files, strict=True):
        assert file.tables == [f"made of {i}" for i in range(n)]
        assert file.ends == ["closed"]


def test_a_file_is_closed_after_its_last_table_only() -> None:
    file, watch = Recorder(), Watch()
    unit = unit_of("a", "b", writer=file)
    assert unit.next() == (0, "a")
    unit.write(0, "a", watch)
    assert unit.next() == (1, "b")
    assert unit.next() is None
    assert file.ends == []
    unit.write(1, "b", watch)
    assert (file.tables, file.ends) == (["a", "b"], ["closed"])


def test_a_file_whose_tables_could_not_all_be_read_is_not_closed_as_whole() -> None:
    file, watch = Recorder(), Watch()

    def tables() -> Iterator[str]:
        yield "a"
        raise ValueError("damaged")

    unit = Unit(tables, writer=file.open)
    queue = Queue([unit])
    assert queue.take() is unit
    assert unit.next() == (0, "a")
    unit.write(0, cast(Any, "a"), watch)
    with pytest.raises(ValueError, match="damaged"):
        unit.next()
    unit.next()  # by another thread, which has not heard of it yet
    queue.discard()
    assert file.ends == ["discarded"]


def test_files_that_are_open_are_discarded() -> None:
    files, watch = [Recorder(), Recorder()], Watch()
    units = [unit_of("a", "b", writer=file) for file in files]
    queue = Queue(units)
    for unit in units:
        assert queue.take() is unit
    assert units[0].next() == (0, "a")
    units[0].write(0, cast(Any, "a"), watch)
    queue.discard()
    assert files[0].ends == ["discarded"]
    assert files[1].ends == []  # it never was
    assert units[0].next() is None


def test_a_file_whose_last_table_was_taken_but_not_written_is_discarded() -> None:
    file, watch = Recorder(), Watch()
    unit = unit_of("a", "b", writer=file)
    queue = Queue([unit])
    assert queue.take() is unit
    assert unit.next() == (0, "a")
    unit.write(0, cast(Any, "a"), watch)
    assert unit.next() == (1, "b")
    assert unit.next() is None
    assert queue.take() is None  # as another thread asks, while that of the last table meets a fault
    queue.discard()
    assert file.ends == ["discarded"]


# --- ends -------------------------------------------------------------------------------------------------------------


def test_the_first_fault_is_raised_and_the_others_are_stopped() -> None:
    watch, ends = Watch(), []

    def fail() -> None:
        time.sleep(0.05)
        raise ValueError("the first")

    def go_on() -> None:
        try:
            loop(watch)
        except StoppedError:
            ends.append("stopped")
            raise

    def fail_later() -> None:
        try:
            loop(watch)
        except StoppedError:
            raise KeyError("for it was stopped") from None

    started = time.monotonic()
    with pytest.raises(ValueError, match="the first"):
        run_threads([go_on, fail, go_on, fail_later], watch)
    assert ends == ["stopped", "stopped"]
    assert time.monotonic() - started < PATIENCE / 2


def test_a_fault_is_raised_even_if_another_thread_ended_as_stopped_before() -> None:
    watch = Watch()
    begun, stopped = threading.Event(), threading.Event()

    def stop() -> None:
        assert begun.wait(PATIENCE)
        stopped.set()
        raise StoppedError

    def fail() -> None:
        begun.set()
        assert stopped.wait(PATIENCE)
        time.sleep(0.02)
        raise ValueError("the fault")

    with pytest.raises(ValueError, match="the fault"):
        run_threads([stop, fail], watch)


def test_who_waits_for_the_table_before_is_stopped() -> None:
    watch, file = Watch(), Recorder()
    unit = unit_of("a", "b", writer=file)
    assert [unit.next(), unit.next()] == [(0, "a"), (1, "b")]

    def fail() -> None:
        time.sleep(0.05)
        raise ValueError("of table 0")

    with pytest.raises(ValueError, match="of table 0"):
        run_threads([lambda: unit.write(1, cast(Any, "b"), watch), fail], watch)
    assert file.tables == []


def test_stopped_is_raised_after_a_stop() -> None:
    watch = Watch()
    watch.check()
    timer = threading.Timer(0.05, watch.stop)
    timer.start()
    with pytest.raises(StoppedError):
        run_threads([partial(loop, watch)] * 3, watch)
    timer.join()
    with pytest.raises(StoppedError):
        watch.check()


def test_all_threads_have_ended_when_a_signal_ends_the_main_one() -> None:
    class Asked(BaseException):
        pass

    def handler(*_: object) -> None:
        raise Asked

    watch, ended, begun = Watch(), [], threading.Barrier(3)

    def go_on(seconds: float) -> None:
        begun.wait()
        end(seconds)

    def ask() -> None:
        begun.wait()
        time.sleep(0.05)  # the main thread waits for the first one by then
        os.kill(os.getpid(), signal.SIGUSR1)
        end(0)

    def end(seconds: float) -> None:
        try:
            loop(watch)
        finally:
            time.sleep(seconds)
            ended.append(True)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Asked):
            run_threads([partial(go_on, 0.5), ask, partial(go_on, 0.1)], watch)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended == [True] * 3


def test_jobs_run_to_their_end_and_none_is_no_fault() -> None:
    done: list[int] = []
    run_threads([partial(done.append, i) for i in range(5)], Watch())
    assert sorted(done) == list(range(5))
    run_threads([], Watch())


def test_counts_of_threads_add_up() -> None:
    watch = Watch()

    def count() -> None:
        for _ in range(2000):
            watch.add(rows=3, spilled=5)

    run_threads([count] * 5, watch)
    assert (watch.rows, watch.spilled) == (30_000, 50_000)
