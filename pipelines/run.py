"""Runs a program: the engine, progress while it goes, one clear line when it fails, an exit status."""

import os
import signal
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from lse_stream.local import LocalEngine, StoppedError, Watch
from lse_stream.parquet.files import is_local
from lse_stream.parquet.scan import DataError, InputError
from lse_stream.plan import Engine

from .command import UsageError
from .output import check_apart, check_output, discard, place_of, publish, stage

OK, FAULT, USAGE = 0, 1, 2

# Seconds between two looks at the counters: on a terminal, and in a log.
ON_TERMINAL, IN_LOG = 0.2, 10.0


class RunError(RuntimeError):
    """Something went wrong in mid-run. One line."""


class Interrupted(BaseException):
    """A signal asks to end. It is no Exception, so that nothing on the way takes it for a fault of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


class Plan(Protocol):
    """What a program computes: takes an engine and the directory that its files go to."""

    def __call__(self, engine: Engine, /, *, directory: str) -> Any: ...


def guarded(program: str, body: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs a program's body: its exit status, with errors as one line on stderr."""
    try:
        with _signals():
            body(argv)
    except (UsageError, InputError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return USAGE
    except RunError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return FAULT
    except Interrupted as interrupted:
        print(f"{program}: interrupted ({interrupted.signal.name}); no output was written", file=sys.stderr)
        return 128 + interrupted.signal
    except BrokenPipeError:
        # Whoever reads the summary has seen enough, as `head` has; the results are in place.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


@contextmanager
def _signals() -> Iterator[None]:
    """Raises ``Interrupted`` for the signals that ask to end; for the first, as what follows is to clean up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, _: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    # What was to be ignored, as under nohup, goes on to be.
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Lets signals wait until the end of the block."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(options: Namespace, plan: Plan, num_rows: int, *, max_broadcast: int | None = None) -> float:
    """Carries a plan out, in this process or on Beam, and puts what it wrote in place of --output.

    Args:
      num_rows: how many there are to read.
      max_broadcast: as of ``lse_stream.beam.engine.BeamEngine``.

    Returns the seconds it took.

    Raises:
      InputError: found before any work.
      RunError: it failed; nothing is left at --output.
    """
    check_output(options.output, overwrite=options.overwrite)
    check_apart(options.output, options.input)
    start = time.monotonic()
    with staged(options) as directory:
        if options.beam is not None:
            from .on_beam import execute_plan  # what needs Beam alone imports it

            execute_plan(options, lambda engine: plan(engine, directory=directory), num_rows, max_broadcast)
        else:
            _run_here(options, plan, directory, num_rows)
    return time.monotonic() - start


def on_beam(describe: Callable[..., Any]) -> Callable[..., Any]:
    """What adds a program's graph to a pipeline: ``build(pipeline, dataset, directory, **options)``.

    The directory must exist. ``stage`` of ``pipelines.output`` makes one aside, ``publish`` puts it in place after the
    run.
    """

    def build(pipeline: Any, dataset: Any, directory: str, **options: Any) -> Any:
        from lse_stream.beam.engine import BeamEngine

        return describe(BeamEngine(pipeline), dataset=dataset, directory=directory, **options)

    return build


def _run_here(options: Namespace, plan: Plan, directory: str, num_rows: int) -> None:
    temp = options.temp or (place_of(options.output)[0] if is_local(options.output) else tempfile.gettempdir())
    watch = Watch()
    engine = LocalEngine(threads=options.threads, memory=options.memory, temp=temp, watch=watch)
    plan(engine, directory=directory)
    with progress(options, lambda seconds: _local_line(watch, num_rows, seconds), sys.stderr):
        try:
            engine.run()
        except StoppedError:
            raise RunError("stopped") from None
        except MemoryError as error:
            raise RunError(
                f"out of memory; expected --memory ({options.memory >> 20} MB) to be less than what there is"
            ) from error


def _local_line(watch: Watch, num_rows: int, seconds: float) -> str:
    aside = f", {watch.spilled / 2**20:,.0f} MB put aside" if watch.spilled else ""
    return progress_line(watch.rows, num_rows, seconds, watch.phase) + aside


@contextmanager
def staged(options: Namespace) -> Iterator[str]:
    """A directory aside to write to, which takes the place of --output at the end of the block, if that is reached.

    Raises:
      InputError: it cannot be made.
      RunError: the block failed; nothing is left at --output.
    """
    with _undisturbed():
        staging = stage(options.output)
    try:
        with told(options):
            yield staging
            with _undisturbed():
                publish(staging, options.output, overwrite=options.overwrite)
    finally:
        discard(staging)


@contextmanager
def told(options: Namespace) -> Iterator[None]:
    """Makes of whatever an engine raises one line."""
    try:
        yield
    except (RunError, UsageError):
        raise
    except Exception as error:
        if options.traceback:
            raise
        raise RunError(_cause(error)) from error


def _cause(error: Exception) -> str:
    """What to tell: our own message, or the last line of another's."""
    if isinstance(error, DataError | InputError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1]} (--traceback shows all)"


@contextmanager
def progress(options: Namespace, line: Callable[[float], str], stderr: TextIO) -> Iterator[None]:
    """Prints ``line(seconds)`` now and then until the block ends, unless --quiet."""
    if options.quiet:
        yield
        return
    stop = threading.Event()

    def report() -> None:
        terminal = stderr.isatty()
        start = time.monotonic()
        while not stop.wait(ON_TERMINAL if terminal else IN_LOG):
            text = line(time.monotonic() - start)
            print(f"\r{text}\x1b[K" if terminal else text, end="" if terminal else "\n", file=stderr, flush=True)
        if terminal:
            print("\r\x1b[K", end="", file=stderr, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def progress_line(rows: int | None, total: int | None, seconds: float, phase: str = "merging and writing") -> str:
    """How far it is: ``rows`` of ``total`` are read."""
    if not rows or total is None:
        return f"running, {seconds:.0f} s"
    rate = rows / seconds
    if rows >= total:
        return f"{rows:,} rows read, {phase}, {seconds:.0f} s"
    return f"{rows:,} of {total:,} rows ({rows / total:.0%}), {rate:,.0f} rows/s, {(total - rows) / rate:.0f} s left"
