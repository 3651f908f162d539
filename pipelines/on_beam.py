"""Runs a program on Beam: its runner's options, the pipeline, what it counts and what it says of a fault."""

import argparse
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import Any, TextIO

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState, create_runner

from lse_stream.beam.engine import BeamEngine
from lse_stream.beam.internals import threaded_runner, unknown_options
from lse_stream.beam.parquet_io import ROWS_READ, rows_read
from lse_stream.errors import message_in

from .command import UsageError
from .options import Options
from .run import EMBEDDED_RUNNER, RunError, errors_as_run_error, progress, progress_line

# The states in which a stream without an end may end.
_STOPPED = (PipelineState.CANCELLED, PipelineState.DRAINED, PipelineState.UPDATED)


def parse_options(
    rest: Sequence[str], defaults: Callable[[str], Mapping[str, object]] | None = None
) -> PipelineOptions:
    """Beam's options, with the embedded runner on all cores where none is named.

    Args:
      rest: what the command line has of them.
      defaults: by the name of the runner, those that take the place of options that are not given; True for a flag.

    Raises:
      UsageError: a runner that does not exist, or an option that the embedded one does not know.
    """
    runner = str(PipelineOptions(list(rest)).view_as(StandardOptions).runner or EMBEDDED_RUNNER)
    named = {argument.split("=")[0] for argument in rest}
    more = defaults(runner) if defaults else {}
    options = PipelineOptions(
        [*rest, *(f"--{k}" if v is True else f"--{k}={v}" for k, v in more.items() if f"--{k}" not in named)]
    )
    options.view_as(StandardOptions).runner = runner
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
    try:
        unknown = unknown_options(rest)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if unknown:
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}")
    direct = options.view_as(DirectOptions)
    if "--direct_running_mode" not in named:
        # The kernel and pyarrow release the GIL, so threads do.
        direct.direct_running_mode = "multi_threading"
    if "--direct_num_workers" not in named:
        direct.direct_num_workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return options


def is_embedded(options: PipelineOptions) -> bool:
    """Whether the runner is Beam's in this process."""
    return str(options.view_as(StandardOptions).runner).endswith(EMBEDDED_RUNNER)


def execute_plan(
    options: Options, plan: Callable[[BeamEngine], Any], num_rows: int, max_broadcast: int | None
) -> PipelineResult:
    """Runs the graph of a plan to its end, as ``execute`` does."""
    limits = {} if max_broadcast is None else {"max_broadcast": max_broadcast}
    return execute(options, lambda pipeline: plan(BeamEngine(pipeline, **limits)), num_rows)


def execute(options: Options, build: Callable[[beam.Pipeline], Any], num_rows: int | None) -> PipelineResult:
    """Runs the graph that ``build(pipeline)`` makes to its end, and shows progress.

    Args:
      num_rows: how many there are to read; None for a stream without an end, which goes on until it is cancelled.

    Raises:
      RunError: the pipeline failed.
    """
    with errors_as_run_error(options), quiet_logs(options):
        try:
            return _execute(options, build, num_rows)
        except Exception as error:
            # Our own message comes back inside whatever the runner makes of it.
            if options.traceback or (message := message_in("".join(traceback.format_exception(error)))) is None:
                raise
            raise RunError(message) from error


@contextmanager
def quiet_logs(options: Options) -> Iterator[None]:
    """Silences Beam's logs, in part through the root logger: errors reach us as exceptions, with all they say."""
    loggers = [] if options.traceback else [logging.getLogger("apache_beam"), logging.getLogger()]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def counter_value(result: PipelineResult, name: str) -> int:
    """A counter of ours, as far as its runner reports it."""
    found = result.metrics().query(MetricsFilter().with_name(name))["counters"]
    return sum(counter.attempted or 0 for counter in found)


def _execute(options: Options, build: Callable[[beam.Pipeline], Any], num_rows: int | None) -> PipelineResult:
    pipeline = beam.Pipeline(_runner(options.beam), options.beam)
    build(pipeline)
    with silence_stderr(options) as stderr, _progress(options, num_rows, stderr) as follow:
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
    if not is_embedded(options) or direct.direct_running_mode != "multi_threading":
        return create_runner(standard.runner)
    direct.direct_running_mode = "in_memory"
    return threaded_runner()


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def silence_stderr(options: Options) -> Iterator[TextIO]:
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
def _progress(options: Options, num_rows: int | None, stderr: TextIO) -> Iterator[Callable[[PipelineResult], None]]:
    """Reports rows until the block ends. What it gives takes the result of a runner that does not block."""
    results: list[PipelineResult] = []
    direct = options.beam.view_as(DirectOptions)
    in_threads = is_embedded(options.beam) and direct.direct_running_mode != "multi_processing"
    first = rows_read.read()

    def rows() -> int | None:
        if in_threads:
            return rows_read.read() - first
        if results:
            return counter_value(results[0], ROWS_READ)
        return None

    with progress(options, lambda seconds: progress_line(rows(), num_rows, seconds), stderr):
        yield results.append
