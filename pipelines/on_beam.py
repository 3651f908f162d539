"""Runs a program on Beam: its runner's options, the pipeline, what it counts and what it says of a fault."""

import io
import logging
import os
import re
import sys
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

from lse_stream.beam.engine import BeamEngine
from lse_stream.beam.parquet import ROWS_READ, rows_read
from lse_stream.parquet.scan import DataError, InputError

from .command import ArgumentParser, UsageError
from .run import RunError, progress, progress_line, told

EMBEDDED_RUNNER = "FnApiRunner"

# How a stream without an end comes to one.
_STOPPED = (PipelineState.CANCELLED, PipelineState.DRAINED, PipelineState.UPDATED)


def parse_options(rest: Sequence[str]) -> PipelineOptions:
    """Beam's options, with the embedded runner on all cores where none is named.

    Raises:
      UsageError: a runner that is not there, or an option that the embedded one does not know.
    """
    options = PipelineOptions(list(rest))
    standard = options.view_as(StandardOptions)
    runner = str(standard.runner or EMBEDDED_RUNNER)
    standard.runner = runner
    if "dask" in runner.lower():
        raise UsageError(
            f"--runner {runner}: it gives silently wrong results with windows, finish_bundle and file sinks; "
            "expected another runner, such as FlinkRunner"
        )
    try:
        create_runner(runner)
    except Exception as error:  # also what a runner misses of its own requirements
        raise UsageError(f"--runner {runner}: {' '.join(str(error).split())}") from error
    if not runner.endswith(EMBEDDED_RUNNER):
        return options  # other runners may know options that only their own job server names
    known: Any = ArgumentParser("", "", "", "")
    for group in PipelineOptions.__subclasses__():
        group._add_argparse_args(known)
    _, unknown = known.parse_known_args(list(rest))
    if unknown:
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}")
    direct = options.view_as(DirectOptions)
    named = {argument.split("=")[0] for argument in rest}
    if "--direct_running_mode" not in named:
        # The kernel and pyarrow release the GIL, so threads do.
        direct.direct_running_mode = "multi_threading"
    if "--direct_num_workers" not in named:
        direct.direct_num_workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return options


def execute_plan(
    options: Namespace, plan: Callable[[BeamEngine], Any], num_rows: int, max_broadcast: int | None
) -> PipelineResult:
    """Runs the graph of a plan to its end, as ``execute`` does."""
    limits = {} if max_broadcast is None else {"max_broadcast": max_broadcast}
    return execute(options, lambda pipeline: plan(BeamEngine(pipeline, **limits)), num_rows)


def execute(options: Namespace, build: Callable[[beam.Pipeline], Any], num_rows: int | None) -> PipelineResult:
    """Runs the graph that ``build(pipeline)`` makes to its end, and shows progress.

    Args:
      num_rows: how many there are to read; None for a stream without an end, which goes on until it is cancelled.

    Raises:
      RunError: the pipeline failed.
    """
    # Faults come back to us with all they say; what Beam logs of them, in part through the root, would bury that line.
    for name in ("apache_beam", None):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with told(options):
        try:
            return _execute(options, build, num_rows)
        except Exception as error:
            if options.traceback or (cause := _cause(error)) is None:
                raise
            raise RunError(cause) from error


def _execute(options: Namespace, build: Callable[[beam.Pipeline], Any], num_rows: int | None) -> PipelineResult:
    pipeline = beam.Pipeline(_runner(options.beam), options.beam)
    build(pipeline)
    with _hushed(options) as stderr, _progress(options, num_rows, stderr) as follow:
        result = pipeline.run()
        follow(result)
        try:
            state = result.wait_until_finish()
        except RuntimeError as error:
            # As Flink says of a job that someone has cancelled.
            if num_rows is not None or "JobCancellationException" not in str(error):
                raise
            state = PipelineState.CANCELLED
        except BaseException:
            if num_rows is None:
                result.cancel()
            raise
    if state not in (PipelineState.DONE, None) and (num_rows is not None or state not in _STOPPED):
        raise RunError(f"the runner ended in state {state}")
    return result


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


def _cause(error: Exception) -> str | None:
    """Our own message, which runners wrap in tracebacks of their workers; None for another's."""
    text = str(error)
    if isinstance(error, DataError | InputError):
        return re.sub(r" \[while running .*", "", text)
    ours = re.search(
        rf"{DataError.__module__}\.{DataError.__name__}: (.+?)(?: \[while running .*)?$", text, re.MULTILINE
    )
    return ours[1] if ours else None


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
    results: list[PipelineResult] = []
    direct = options.beam.view_as(DirectOptions)
    is_embedded = str(options.beam.view_as(StandardOptions).runner).endswith(EMBEDDED_RUNNER)
    in_threads = is_embedded and direct.direct_running_mode != "multi_processing"
    first = rows_read.read()

    def rows() -> int | None:
        if in_threads:
            return rows_read.read() - first
        if results:
            counters = results[0].metrics().query(MetricsFilter().with_name(ROWS_READ))["counters"]
            return sum(counter.attempted or 0 for counter in counters)
        return None

    with progress(options, lambda seconds: progress_line(rows(), num_rows, seconds), stderr):
        yield results.append
