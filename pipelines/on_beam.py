"""Runs a program on Beam: its runner's options, the pipeline, what it counts and what it says of a fault."""

import argparse
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import Any, TextIO

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState, create_runner

from lse_stream.beam.engine import BeamEngine
from lse_stream.beam.internals import (
    OwnJobServer,
    StrictOptions,
    UnknownOptionError,
    ask_job_server,
    hands_on,
    metrics_of,
    parse_known,
    threaded_runner,
)
from lse_stream.beam.parquet_io import ROWS_READ, rows_read
from lse_stream.errors import message_in

from .command import UsageError
from .interrupts import Interrupted, second_ends, too_late, undisturbed
from .jobs import CANCEL, INSIDE, FlinkJobs, Job, Outcome, Watch, is_flink
from .kafka_options import ANSWER_SECONDS
from .options import Options, no_such_option
from .run import EMBEDDED_RUNNER, RunError, cause_of, errors_as_run_error, print_line, progress, progress_line

# The states in which a stream without an end may end.
_STOPPED = (PipelineState.CANCELLED, PipelineState.DRAINED, PipelineState.UPDATED)


def parse_options(
    asked: Sequence[str],
    unasked: Sequence[str],
    ours: Sequence[str],
    defaults: Callable[[str], Mapping[str, object]] | None = None,
) -> PipelineOptions:
    """Beam's options, with the embedded runner on all cores where none is named.

    Args:
      asked: what the command line has of them.
      unasked: likewise, those that only a job server may know that cannot be asked yet.
      ours: the names of the program's own, for hints.
      defaults: by the name of the runner, those that take the place of options that are not given; True for a flag.

    Raises:
      UsageError: a runner that does not exist, a job server that does not answer, or an option that nobody knows.
    """
    given = [*asked, *unasked]
    try:
        # Before Beam's own classes see them, which end the process over a value of another type.
        runner = str(parse_known(given)[0].runner or EMBEDDED_RUNNER)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    named = {argument.split("=")[0] for argument in given}
    more = defaults(runner) if defaults else {}
    flags = [f"--{k}" if v is True else f"--{k}={v}" for k, v in more.items() if f"--{k}" not in named]
    options = StrictOptions(asked, [*unasked, *flags])
    options.view_as(StandardOptions).runner = runner
    if "dask" in runner.lower():
        raise UsageError(
            f"--runner {runner}: it gives silently wrong results with windows, finish_bundle and file sinks; "
            "expected another runner, such as FlinkRunner"
        )
    try:
        found = create_runner(runner)
    except Exception as error:  # also what a runner misses of its own requirements
        raise UsageError(f"--runner {runner}: {' '.join(str(error).split())}") from error
    _check(options, found, ours)
    master = options.view_as(FlinkRunnerOptions).flink_master
    if is_flink(runner) and master not in INSIDE and not re.search(r"://|:\d+$", master):
        raise UsageError(f"--flink_master {master}: expected HOST:PORT of Flink's REST interface, found no port")
    if is_embedded(options):
        direct = options.view_as(DirectOptions)
        if "--direct_running_mode" not in named:
            # The kernel and pyarrow release the GIL, so threads do.
            direct.direct_running_mode = "multi_threading"
        if "--direct_num_workers" not in named:
            direct.direct_num_workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return options


def _check(options: StrictOptions, runner: PipelineRunner, ours: Sequence[str]) -> None:
    """Raises UsageError for an option that nobody knows who can be asked now."""
    endpoint = job_endpoint(options)
    if isinstance(runner, PortableRunner) and endpoint and endpoint != "embed":
        with unknown_as_usage_error(options, ours):
            try:
                ask_job_server(endpoint, runner, options, ANSWER_SECONDS)
            except ConnectionError as error:
                raise UsageError(
                    f"--job_endpoint {endpoint}: expected a job server of Beam that answers, found none ({error})"
                ) from None
    elif hands_on(runner):
        with unknown_as_usage_error(options, ours, "what the runner alone knows goes behind -- at the end"):
            options.check(asked_alone=True)
    else:
        with unknown_as_usage_error(options, ours):
            options.check()


@contextmanager
def unknown_as_usage_error(options: PipelineOptions, ours: Sequence[str] = (), *hints: str) -> Iterator[None]:
    """Makes one line of an option that is unknown, or of another type."""
    try:
        yield
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    except UnknownOptionError as error:
        whose = f"this program or of {runner_name(options)}"
        raise UsageError(no_such_option(error.name, whose, [*ours, *error.known], *hints)) from None


def is_embedded(options: PipelineOptions) -> bool:
    """Whether the runner is Beam's in this process."""
    return runner_name(options).endswith(EMBEDDED_RUNNER)


def execute_plan(
    options: Options, plan: Callable[[BeamEngine], Any], num_rows: int, max_broadcast: int | None
) -> PipelineResult:
    """Runs the graph of a plan to its end, as ``execute`` does."""
    limits = {} if max_broadcast is None else {"max_broadcast": max_broadcast}
    return execute(options, lambda pipeline: plan(BeamEngine(pipeline, **limits)), num_rows)


def execute(
    options: Options,
    build: Callable[[beam.Pipeline], Any],
    num_rows: int | None,
    watch: Callable[[Job], Watch] | None = None,
) -> PipelineResult:
    """Runs the graph that ``build(pipeline)`` makes to its end, and shows progress.

    Args:
      num_rows: how many there are to read; None for a stream without an end, which goes on until it is cancelled.
      watch: what follows a job that was submitted.

    Raises:
      RunError: the pipeline failed.
    """
    with errors_as_run_error(options), unknown_as_usage_error(options.beam), quiet_logs(options):
        try:
            result = _execute(options, build, num_rows, watch)
        except RunError:
            raise
        except Exception as error:
            # Our own message comes back inside whatever the runner makes of it.
            if options.traceback or (message := message_in("".join(traceback.format_exception(error)))) is None:
                raise
            raise RunError(message) from error
    if num_rows is None or not vars(options).get("output"):
        too_late()  # nothing is to be put in place
    return result


@contextmanager
def quiet_logs(options: Options) -> Iterator[None]:
    """Lets through, to stderr, what Beam's logs have that a person needs, unless --traceback leaves them as they are.

    That is nothing with the embedded runner, as errors reach us as exceptions, with all they say.
    """
    if options.traceback:
        yield
        return
    # To the end of the process, when Beam says that it stops the job server.
    logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
    root = logging.getLogger()
    loggers = [logging.getLogger("apache_beam"), root]
    before = [logger.level for logger in loggers]
    handlers = root.handlers[:]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL if is_embedded(options.beam) else logging.INFO)
    root.handlers[:] = [_Relay(sys.stderr, logging.WARNING if options.quiet else logging.INFO)]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class _Relay(logging.Handler):
    """Prints what the runner warns of, and addresses such as that of a job's page, each line once."""

    def __init__(self, stderr: TextIO, level: int) -> None:
        super().__init__(level)
        self._stderr = stderr
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if _matters(record, text) and text not in self._printed:
            self._printed.add(text)
            print_line(text, self._stderr)


# Of Beam itself: of every run without pip, and of what is printed anyway.
_NOISE = ("list of installed dependencies", "Adding HTTP protocol scheme")


def _matters(record: logging.LogRecord, text: str) -> bool:
    of_runner = record.name.startswith("apache_beam.runners.") and ".worker." not in record.name
    of_job = record.name == "root" and record.module == "portable_runner"
    if not (of_runner or of_job) or record.levelno >= logging.ERROR or any(noise in text for noise in _NOISE):
        return False
    # Longer ones are whole descriptions of jobs.
    return record.levelno >= logging.WARNING or re.fullmatch(r"(?=.*https?://).{1,300}", text) is not None


def counter_value(result: PipelineResult, name: str) -> int:
    """A counter of ours, as far as its runner reports it."""
    found = metrics_of(result).query(MetricsFilter().with_name(name))["counters"]
    return sum(counter.attempted or 0 for counter in found)


def _execute(
    options: Options,
    build: Callable[[beam.Pipeline], Any],
    num_rows: int | None,
    watch: Callable[[Job], Watch] | None,
) -> PipelineResult:
    runner = _runner(options.beam)
    starts_server = isinstance(runner, PortableRunner) and not job_endpoint(options.beam)
    server = OwnJobServer(runner, options.beam) if starts_server else None
    pipeline = beam.Pipeline(runner, options.beam)
    build(pipeline)
    with silence_stderr(options) as stderr:
        try:
            result, state = _run_to_end(options, pipeline, server, num_rows, watch, stderr)
        except BaseException:
            if server is not None:  # where it went well, it is still to be asked for counters
                server.stop()
            raise
    if state not in (PipelineState.DONE, None) and (num_rows is not None or state not in _STOPPED):
        raise RunError(f"the runner ended in state {state}")
    return result


def _run_to_end(
    options: Options,
    pipeline: beam.Pipeline,
    server: OwnJobServer | None,
    num_rows: int | None,
    watch: Callable[[Job], Watch] | None,
    stderr: TextIO,
) -> tuple[PipelineResult, Any]:
    """The result of the run, and its last state. A job that was submitted is cancelled where a signal asks to end."""
    submits = hands_on(pipeline.runner)
    begun, job = not submits, None
    try:
        with _progress(options, num_rows, stderr) as follow:
            if submits:
                flink = _flink_jobs(options.beam)
                # It has to be known what was submitted, to cancel it.
                with undisturbed(), second_ends():
                    begun = True
                    result = pipeline.run()
                    trusted = _is_trusted(pipeline.runner, options.beam)
                    job = Job(result, runner_name(options.beam), flink, trusted=trusted)
                if not options.quiet:
                    print_line(f"job {job.id} submitted to {_with_addresses(options.beam)}", stderr)
            else:
                result = pipeline.run()
            follow(result)
            if job is None or watch is None:
                return result, _wait(result, job, num_rows)
            with watch(job) as watched:
                try:
                    state = _wait(result, job, num_rows)
                except RunError as error:
                    if watched.why is None:
                        raise
                    raise RunError(f"{watched.why}; {error}", ended=error.ended) from error
            if watched.why is not None:
                raise RunError(watched.why)
            return result, state
    except Interrupted as interrupted:
        if submits and begun:
            outcome = _cancel(job, options, stderr)
            if server is not None and not outcome.ended and _runs_in_job_server(options.beam):
                server.stop()
                outcome = Outcome(True, f"the job is cancelled, as {runner_name(options.beam)} has ended")
            interrupted.add_note(outcome.said)
            interrupted.ended = outcome.ended is True
        for note in _left(options, num_rows, ended=interrupted.ended) if begun else ():
            interrupted.add_note(note)
        raise
    except RunError as error:
        for note in [] if error.ended else _left(options, num_rows, ended=False):
            error.add_note(note)
        raise


def _wait(result: PipelineResult, job: Job | None, num_rows: int | None) -> Any:
    """The state in which a job ends. Raises RunError where it may go on, though the runner waits no longer."""
    try:
        state = result.wait_until_finish()
    except Exception as error:
        # As Flink says of a job that someone has cancelled.
        if num_rows is None and isinstance(error, RuntimeError) and "JobCancellationException" in str(error):
            return PipelineState.CANCELLED
        if job is not None and not (outcome := job.look()).ended:
            # What fails otherwise is the answer for the job, which ``look`` has asked for again.
            last = f" (the runner ended with {cause_of(error)})" if isinstance(error, RuntimeError) else ""
            raise RunError(outcome.said + last, ended=False) from error
        raise
    if job is not None and not PipelineState.is_terminal(state):
        outcome = job.look()
        raise RunError(outcome.said, ended=outcome.ended is True)
    return state


def _cancel(job: Job | None, options: Options, stderr: TextIO) -> Outcome:
    """Asks for a job to end and waits until it has, or until a second signal comes."""
    if job is None:
        return Outcome(None, "it is not known whether a job was submitted, as a second signal ended that")
    if not options.quiet:
        print_line(f"cancelling job {job.id}, for up to {CANCEL:.0f} s; another signal ends this at once", stderr)
    try:
        with second_ends():
            return job.cancel()
    except Interrupted:
        return job.unknown("a second signal came before it had ended")


def _left(options: Options, num_rows: int | None, *, ended: bool) -> list[str]:
    """What there is of the output of a run that did not come to its end."""
    given = vars(options).get
    files = [given("output") if num_rows is None else None, given("dead_letters")]
    topics = [given("output_topic"), given("dead_letter_topic")]
    left = [
        f"the {what} written so far stay in {' and '.join(there)}"
        for what, places in {"files": files, "messages": topics}.items()
        if (there := [place for place in places if place])
    ]
    if num_rows is not None and given("output"):
        left.append("no output was written" if ended and not left else f"nothing was put at {given('output')}")
    return left


def _flink_jobs(options: PipelineOptions) -> FlinkJobs | None:
    """Of the Flink that a job is for, if there is one that can be asked, and that the runner does not ask by itself."""
    flink = options.view_as(FlinkRunnerOptions)
    if flink.flink_master in INSIDE or flink.flink_submit_uber_jar:
        return None
    try:
        return FlinkJobs(flink.flink_master)
    except (OSError, ValueError):
        return None


def _is_trusted(runner: PipelineRunner, options: PipelineOptions) -> bool:
    """Whether a job has ended that the runner calls cancelled."""
    in_java = isinstance(runner, PortableRunner) and type(runner).__name__ != "PrismRunner"
    return not in_java or options.view_as(FlinkRunnerOptions).flink_submit_uber_jar


def _runs_in_job_server(options: PipelineOptions) -> bool:
    """Whether the job server runs the job itself, and not a cluster."""
    if is_flink(runner_name(options)):
        return options.view_as(FlinkRunnerOptions).flink_master in INSIDE
    return "prism" in runner_name(options).lower()


def _runner(options: PipelineOptions) -> PipelineRunner:
    direct = options.view_as(DirectOptions)
    if is_embedded(options) and direct.direct_running_mode == "multi_threading":
        direct.direct_running_mode = "in_memory"
        return threaded_runner()
    return create_runner(runner_name(options))


def runner_name(options: PipelineOptions) -> str:
    """The name of the runner."""
    return str(options.view_as(StandardOptions).runner)


def job_endpoint(options: PipelineOptions) -> str | None:
    """Where a job server is that runs already; None for none."""
    endpoint: str | None = options.view_as(PortableOptions).job_endpoint
    return endpoint


def _with_addresses(options: PipelineOptions) -> str:
    """The name of the runner, and where it was told to be."""
    master = options.view_as(FlinkRunnerOptions).flink_master
    places = {"job server": job_endpoint(options), "Flink": None if master in INSIDE else master}
    at = ", ".join(f"{what} at {address}" for what, address in places.items() if address)
    return f"{runner_name(options)} ({at})" if at else runner_name(options)


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
    with ExitStack() as stack:
        if stderr is sys.__stderr__ and options.beam.view_as(DirectOptions).direct_running_mode == "multi_processing":
            # Worker processes inherit the file itself.
            stderr = stack.enter_context(os.fdopen(os.dup(2), "w"))
            stack.callback(os.dup2, stderr.fileno(), 2)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
        stack.enter_context(redirect_stderr(_Nowhere()))
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
