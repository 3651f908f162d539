"""Runs a program's pipeline: progress while it goes, one clear line when it fails, an exit status."""

import io
import logging
import os
import re
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import Any, TextIO

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState, create_runner
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment, python_sdk_capabilities

from lse_stream.parquetio import ROWS_READ, DataError, InputError, rows_read

from .command import UsageError
from .options import EMBEDDED_RUNNER
from .output import check_apart, check_output, discard, publish, stage

OK, FAULT, USAGE = 0, 1, 2

# Seconds between two looks at the counters: on a terminal, and in a log.
ON_TERMINAL, IN_LOG = 0.2, 10.0


# How a stream without an end comes to one.
_STOPPED = (PipelineState.CANCELLED, PipelineState.DRAINED, PipelineState.UPDATED)


class RunError(RuntimeError):
    """Something went wrong in mid-run. One line."""


def guarded(program: str, body: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs a program's body: its exit status, with errors as one line on stderr."""
    # Faults come back to us with all they say; what Beam logs of them, in part through the root, would bury that line.
    for name in ("apache_beam", None):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        body(argv)
    except (UsageError, InputError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return USAGE
    except RunError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return FAULT
    except KeyboardInterrupt:
        print(f"{program}: interrupted; no output was written", file=sys.stderr)
        return FAULT
    except BrokenPipeError:
        # Whoever reads the summary has seen enough, as `head` has; the results are in place.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def run(options: Namespace, build: Callable[[beam.Pipeline, str], Any], num_rows: int) -> float:
    """Runs the graph that ``build(pipeline, directory)`` makes, and puts the directory in place of --output.

    Returns the seconds it took.

    Raises:
      InputError: found before any work.
      RunError: the pipeline failed; nothing is left at --output.
    """
    check_output(options.output, overwrite=options.overwrite)
    check_apart(options.output, options.input)
    start = time.monotonic()
    with staged(options) as directory:
        execute(options, lambda pipeline: build(pipeline, directory), num_rows)
    return time.monotonic() - start


@contextmanager
def staged(options: Namespace) -> Iterator[str]:
    """A directory aside to write to, which takes the place of --output at the end of the block, if that is reached.

    Raises:
      InputError: it cannot be made.
      RunError: the block failed; nothing is left at --output.
    """
    staging = stage(options.output)
    try:
        with _told(options):
            yield staging
            publish(staging, options.output, overwrite=options.overwrite)
    finally:
        discard(staging)


def execute(options: Namespace, build: Callable[[beam.Pipeline], Any], num_rows: int | None) -> PipelineResult:
    """Runs the graph that ``build(pipeline)`` makes to its end, and shows progress.

    Args:
      num_rows: how many there are to read; None for a stream without an end, which goes on until it is cancelled.

    Raises:
      RunError: the pipeline failed.
    """
    with _told(options):
        pipeline = beam.Pipeline(_runner(options.beam), options.beam)
        build(pipeline)
        with _hushed(options) as stderr, _progress(options, num_rows, stderr) as follow:
            result = pipeline.run()
            follow(result)
            try:
                state = result.wait_until_finish()
            except KeyboardInterrupt:
                if num_rows is None:
                    result.cancel()
                raise
            except RuntimeError as error:
                # As Flink says of a job that someone has cancelled.
                if num_rows is not None or "JobCancellationException" not in str(error):
                    raise
                state = PipelineState.CANCELLED
        if state not in (PipelineState.DONE, None) and (num_rows is not None or state not in _STOPPED):
            raise RunError(f"the runner ended in state {state}")
        return result


@contextmanager
def _told(options: Namespace) -> Iterator[None]:
    """Makes of whatever a runner raises one line."""
    try:
        yield
    except (RunError, UsageError, KeyboardInterrupt):
        raise
    except Exception as error:
        if options.traceback:
            raise
        raise RunError(_cause(error)) from error


def _runner(options: PipelineOptions) -> PipelineRunner:
    standard, direct = options.view_as(StandardOptions), options.view_as(DirectOptions)
    if not str(standard.runner).endswith(EMBEDDED_RUNNER) or direct.direct_running_mode != "multi_threading":
        return create_runner(standard.runner)
    # In this mode of its own, Beam 2.77 has a thread that empties the workers' output buffers every second, without
    # a lock against the worker that writes to them: between reading a buffer and clearing it, elements are lost, the
    # more so the larger they are. The same workers with a limit of 30 years in place of the second lose none.
    direct.direct_running_mode = "in_memory"
    return FnApiRunner(
        EmbeddedPythonGrpcEnvironment(data_buffer_time_limit_ms=10**12, capabilities=python_sdk_capabilities())
    )


def _cause(error: Exception) -> str:
    """What to tell: our own message, which runners wrap in tracebacks of their workers, or the last line of theirs."""
    text = str(error)
    ours = re.search(
        rf"{DataError.__module__}\.{DataError.__name__}: (.+?)(?: \[while running .*)?$", text, re.MULTILINE
    )
    if isinstance(error, DataError | InputError):
        return re.sub(r" \[while running .*", "", text)
    if ours:
        return ours[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1]} (--traceback shows all)"


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def _hushed(options: Namespace) -> Iterator[TextIO]:
    """Keeps stderr to ourselves: Beam's workers print there what comes back to us too. Gives the stream to print to."""
    stderr: TextIO = sys.stderr
    if options.traceback:
        yield stderr
        return
    log, nothing = logging.getLogger(), logging.NullHandler()
    with ExitStack() as stack:
        if stderr is sys.__stderr__ and options.beam.view_as(DirectOptions).direct_running_mode == "multi_processing":
            # Worker processes inherit the file itself.
            stderr = stack.enter_context(os.fdopen(os.dup(2), "w"))
            stack.callback(os.dup2, stderr.fileno(), 2)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
        stack.enter_context(redirect_stderr(_Nowhere()))
        log.addHandler(nothing)
        stack.callback(log.removeHandler, nothing)
        yield stderr


@contextmanager
def _progress(options: Namespace, num_rows: int | None, stderr: TextIO) -> Iterator[Callable[[PipelineResult], None]]:
    """Reports rows until the block ends. What it gives takes the result of a runner that does not block."""
    if options.quiet:
        yield lambda _: None
        return
    results: list[PipelineResult] = []
    stop = threading.Event()
    threads = (
        str(options.beam.view_as(StandardOptions).runner).endswith(EMBEDDED_RUNNER)
        and options.beam.view_as(DirectOptions).direct_running_mode != "multi_processing"
    )
    first = rows_read.read()

    def rows() -> int | None:
        if threads:
            return rows_read.read() - first
        if results:
            counters = results[0].metrics().query(MetricsFilter().with_name(ROWS_READ))["counters"]
            return sum(counter.attempted or 0 for counter in counters)
        return None

    def report() -> None:
        terminal = stderr.isatty()
        start = time.monotonic()
        while not stop.wait(ON_TERMINAL if terminal else IN_LOG):
            line = _progress_line(rows(), num_rows, time.monotonic() - start)
            print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=stderr, flush=True)
        if terminal:
            print("\r\x1b[K", end="", file=stderr, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield results.append
    finally:
        stop.set()
        thread.join()


def _progress_line(rows: int | None, total: int | None, seconds: float) -> str:
    if not rows or total is None:
        return f"running, {seconds:.0f} s"
    rate = rows / seconds
    if rows >= total:
        return f"{rows:,} rows read, merging and writing, {seconds:.0f} s"
    return f"{rows:,} of {total:,} rows ({rows / total:.0%}), {rate:,.0f} rows/s, {(total - rows) / rate:.0f} s left"
