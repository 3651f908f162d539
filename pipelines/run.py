"""Runs a program: the engine, progress while it goes, one clear line when it fails, an exit status."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

from lse_stream._kernel import StateError
from lse_stream.errors import DataError, InputError
from lse_stream.files import delete_tree, is_local
from lse_stream.local import LocalEngine, StoppedError, Watch
from lse_stream.plan import Engine

from .command import UsageError
from .interrupts import Interrupted, interrupts, too_late, undisturbed
from .options import Options
from .output import (
    check_whole,
    discard,
    leave_to_job,
    place_of,
    prepare_output,
    publish,
    remove_left_behind,
    stage,
)
from .provenance import write_provenance

EXIT_OK, EXIT_FAULT, EXIT_USAGE = 0, 1, 2

# Beam's runner in this process, where no other is named.
EMBEDDED_RUNNER = "FnApiRunner"

# Seconds between two looks at the counters: on a terminal, and in a log.
ON_TERMINAL, IN_LOG = 0.2, 10.0


class RunError(RuntimeError):
    """Something went wrong during the run. One line, with the notes.

    Attributes:
      ended: whether what was begun writes no more.
    """

    def __init__(self, message: str, *, ended: bool = True) -> None:
        super().__init__(message)
        self.ended = ended


class Plan(Protocol):
    """Describes what a program computes, to an engine; its files go to the directory."""

    def __call__(self, engine: Engine, /, *, directory: str) -> Any: ...


def run_main(program: str, body: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs a program's body: its exit status, with errors as one line on stderr."""
    log = logging.getLogger()
    if "--traceback" not in argv:
        log.addFilter(_is_of_use)
    try:
        with interrupts():
            body(argv)
    except (UsageError, InputError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RunError as error:
        print(f"{program}: error: {'; '.join([str(error), *_notes(error)])}", file=sys.stderr)
        return EXIT_FAULT
    except Interrupted as interrupted:
        left = "; ".join(_notes(interrupted) or ["no output was written"])
        print(f"{program}: interrupted ({interrupted.signal.name}); {left}", file=sys.stderr)
        return 128 + interrupted.signal
    except BrokenPipeError:
        # Whoever reads the summary has seen enough, as `head` has; the results are in place.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # faults of files are other errors by now: this is of standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"{program}: error: standard output: expected to take the summary, found {error}", file=sys.stderr)
        return EXIT_FAULT
    finally:
        log.removeFilter(_is_of_use)
    return EXIT_OK


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def _is_of_use(record: logging.LogRecord) -> bool:
    # Beam says this at its import, of cloud clients that no program here needs.
    return "apitools not found" not in str(record.msg)


def run(
    options: Options,
    plan: Plan,
    num_rows: int,
    *,
    input_rows: int,
    max_broadcast: int | None = None,
    temporary: Sequence[str] = (),
) -> float:
    """Carries a plan out, in this process or on Beam, and puts what it wrote in place of --output.

    Args:
      num_rows: how many there are to read, if any several times.
      input_rows: how many the input has.
      max_broadcast: as of ``lse_stream.beam.engine.BeamEngine``.
      temporary: directories that nobody needs any more once results are whole.

    Returns the seconds it took.

    Raises:
      InputError: found before any work.
      RunError: it failed; nothing is left at --output.
    """
    prepare_output(options.output, options.input, overwrite=options.overwrite)
    start = time.monotonic()
    with staged(options) as directory:
        if options.beam is not None:
            from .on_beam import execute_plan  # what needs Beam alone imports it

            execute_plan(options, lambda engine: plan(engine, directory=directory), num_rows, max_broadcast)
        else:
            run_here(options, plan, directory, num_rows)
        check_whole(directory, options.output)
        write_provenance(directory, options, input_rows)
        for path in temporary:
            delete_tree(path)
    return time.monotonic() - start


def build_of(describe: Callable[..., Any]) -> Callable[..., Any]:
    """What adds a program's graph to a pipeline: ``build(pipeline, dataset, directory, **options)``.

    The directory must exist. ``stage`` of ``pipelines.output`` makes one aside, ``publish`` puts it in place after the
    run.
    """

    def build(pipeline: Any, dataset: Any, directory: str, **options: Any) -> Any:
        """Adds the graph to a pipeline; its files go to the directory, which must exist. Options as of ``describe``."""
        from lse_stream.beam.engine import BeamEngine  # what needs Beam alone imports it

        return describe(BeamEngine(pipeline), dataset=dataset, directory=directory, **options)

    return build


def run_here(options: Options, plan: Plan, directory: str, num_rows: int) -> None:
    """Carries a plan out in this process. Raises what a step raises, and RunError where memory is out."""
    watch = Watch()
    engine = LocalEngine(threads=options.threads, memory=options.memory, temp=_temp_of(options), watch=watch)
    plan(engine, directory=directory)
    with progress(options, lambda seconds: _local_line(watch, num_rows, seconds), sys.stderr):
        try:
            engine.run()
        except StoppedError:
            raise RunError("stopped") from None
        except MemoryError as error:
            raise RunError(
                f"out of memory, with --memory of {options.memory >> 20} MB: expected a lower one"
            ) from error


def _temp_of(options: Options) -> str:
    """The directory that temporary files go to."""
    return options.temp or (place_of(options.output)[0] if is_local(options.output) else system_temp())


@contextmanager
def temporary_directory(options: Options) -> Iterator[str]:
    """A directory for temporary files, which is gone after the block. One that a killed run has left is removed, too.

    Raises:
      InputError: it cannot be made.
    """
    made = None
    place = os.path.join(_temp_of(options), os.path.basename(options.output.rstrip("/")))
    try:
        with undisturbed():
            with suppress(OSError, ValueError):
                remove_left_behind(place)
            made = stage(place, "--temp" if options.temp else "--output")
        yield made
    finally:
        with undisturbed():
            if made is not None:
                discard(made)


def system_temp() -> str:
    """The system's directory for temporary files."""
    import tempfile  # with all that it imports

    return tempfile.gettempdir()


def _local_line(watch: Watch, num_rows: int, seconds: float) -> str:
    aside = f", {watch.spilled / 2**20:,.0f} MB put aside" if watch.spilled else ""
    return progress_line(watch.rows, num_rows, seconds, watch.phase) + aside


@contextmanager
def staged(options: Options) -> Iterator[str]:
    """A directory aside to write to, which takes the place of --output at the end of the block, if that is reached.

    Raises:
      InputError: it cannot be made.
      RunError: the block failed; nothing is left at --output, and aside what a job writes to that may go on.
    """
    staging = None
    try:
        with undisturbed():
            staging = stage(options.output)
        with errors_as_run_error(options):
            yield staging
            with undisturbed():
                publish(staging, options.output, overwrite=options.overwrite)
                too_late()
    except (RunError, Interrupted) as error:
        if staging is not None and not error.ended:
            left, staging = staging, None
            error.add_note(f"what the job writes stays in {left}")
            with undisturbed():
                leave_to_job(left)
        raise
    finally:
        with undisturbed():
            if staging is not None:
                discard(staging)


@contextmanager
def errors_as_run_error(options: Options) -> Iterator[None]:
    """Makes of whatever an engine raises one line."""
    try:
        yield
    except (RunError, UsageError):
        raise
    except Exception as error:
        if options.traceback:
            raise
        raise RunError(cause_of(error)) from error


def cause_of(error: Exception) -> str:
    """The line to print: our own message, or the last line of another's."""
    if isinstance(error, DataError | InputError | StateError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1]} (--traceback shows all)"


@contextmanager
def progress(options: Options, line: Callable[[float], str], stderr: TextIO) -> Iterator[None]:
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


def print_line(text: str, stderr: TextIO) -> None:
    """Prints a line that stays, in place of the progress on a terminal."""
    with suppress(OSError):  # a terminal that was closed has no part in what is done
        print(f"\r\x1b[K{text}" if stderr.isatty() else text, file=stderr, flush=True)


def progress_line(rows: int | None, total: int | None, seconds: float, phase: str = "merging and writing") -> str:
    """How far it is: ``rows`` of ``total`` are read."""
    if not rows or total is None:
        return f"running, {seconds:.0f} s"
    rate = rows / seconds
    if rows >= total:
        return f"{rows:,} rows read, {phase}, {seconds:.0f} s"
    return f"{rows:,} of {total:,} rows ({rows / total:.0%}), {rate:,.0f} rows/s, {(total - rows) / rate:.0f} s left"
