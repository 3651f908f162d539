"""A job on a runner, which goes on without this process: asked to end, or left by its runner, what is said is true."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import pytest
from job_service import JobService, State, serve
from programs import write

from pipelines import jobs, parquet
from pipelines.on_beam import execute
from pipelines.options import Options, Parser
from pipelines.run import run_main

# Beam's threads end when the service hangs up, or over a state that it has no name for, and that is how they take it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

JOB = "job-1_uuid"
LOOPBACK = ("--environment_type=LOOPBACK",)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """As the tests may run under nohup; and none ends them."""
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def endless(argv: Sequence[str]) -> None:
    """A stream without an end, to files and topics."""
    parsed = vars(Parser("stream", "", "").parse(argv))
    topics = {"output_topic": "totals", "dead_letters": None, "dead_letter_topic": "rejected"}
    execute(Options(**parsed | topics), lambda pipeline: pipeline | beam.Create([1]), None)


class Run:
    """Of a program on a service, and what is left of it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.source = write(folder / "in" / "a.parquet", {"v": [1.0]})
        self.results = folder / "results"
        self.results.mkdir()
        self.output = self.results / "out"
        self._capsys = capsys

    def __call__(
        self,
        service: JobService,
        *signals: tuple[threading.Event, signal.Signals],
        runner: str = "PrismRunner",
        main: Callable[[Sequence[str]], int] = parquet.main,
        more: Sequence[str] = LOOPBACK,
    ) -> tuple[int, str]:
        """The exit status, and what is said. Each signal is sent when its event is set."""

        def send() -> None:
            for event, number in signals:
                assert event.wait(20)
                service.closed.wait(0.2)  # so that the program has heard of it
                os.kill(os.getpid(), number)

        sender = threading.Thread(target=send)
        sender.start()
        status = main([*self.arguments, f"--runner={runner}", f"--job_endpoint={service.endpoint}", *more])
        sender.join()
        captured = self._capsys.readouterr()
        assert captured.out == ""
        return status, captured.err

    @property
    def arguments(self) -> list[str]:
        return ["--input", str(self.source), "--value=v", "--output", str(self.output), "--quiet"]

    def left(self) -> list[Path]:
        return sorted(self.results.iterdir())


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path, capsys)


# --- asked to end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_batch_is_cancelled(run: Run, number: signal.Signals) -> None:
    with serve(JobService(State.RUNNING)) as service:
        said = f"parquet: interrupted ({number.name}); job {JOB} is cancelled; no output was written\n"
        assert run(service, (service.followed, number)) == (128 + number, said)
        assert service.cancelled.is_set()
    assert run.left() == []


def test_a_stream_without_an_end_is_cancelled(run: Run) -> None:
    with serve(JobService(State.RUNNING)) as service:
        found = run(service, (service.followed, signal.SIGTERM), main=lambda argv: run_main("stream", endless, argv))
        assert service.cancelled.is_set()
    assert found == (
        143,
        f"stream: interrupted (SIGTERM); job {JOB} is cancelled; the files written so far stay in {run.output}; "
        "the messages written so far stay in totals and rejected\n",
    )


def test_a_job_that_does_not_end_when_it_is_asked_to(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "CANCEL", 0.5)
    with serve(JobService(State.RUNNING, after_cancel=None)) as service:
        found = run(service, (service.followed, signal.SIGTERM))
    [staging] = run.left()
    assert found == (
        143,
        f"parquet: interrupted (SIGTERM); the job goes on: {JOB}, in the state RUNNING of PrismRunner; "
        f"nothing was put at {run.output}; what the job writes stays in {staging}\n",
    )


def test_what_a_job_may_still_write_to_is_left_by_later_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "CANCEL", 0.0)
    with serve(JobService(State.RUNNING, after_cancel=None)) as service:
        run(service, (service.followed, signal.SIGTERM))
    [staging] = run.left()
    # As of a process that has ended.
    ended = staging.with_name(staging.name.replace(f"-{os.getpid()}-", "-999999999-"))
    staging.rename(ended)
    assert parquet.main(run.arguments) == 0
    assert run.left() == [ended, run.output]
    assert capsys.readouterr().err == f"left where it is, as its run may go on elsewhere: {ended}\n"


def test_that_a_job_server_calls_a_job_cancelled_is_no_word_of_flink(run: Run) -> None:
    with serve(JobService(State.RUNNING)) as service:
        status, said = run(service, (service.followed, signal.SIGTERM), runner="FlinkRunner")
    assert status == 143
    assert said.startswith(
        f"parquet: interrupted (SIGTERM); the state of job {JOB} is not known: the job server says CANCELLED without "
        "waiting for what runs the job; with a --flink_master=HOST:PORT that answers Flink itself is asked; nothing"
    )
    assert len(run.left()) == 1


@pytest.mark.parametrize("hangs", [False, True], ids=["the job goes on", "the job server does not answer"])
def test_a_second_signal_ends_the_wait(run: Run, *, hangs: bool) -> None:
    with serve(JobService(State.RUNNING, after_cancel=None)) as service:
        service.hangs = hangs
        found = run(service, (service.followed, signal.SIGTERM), (service.cancelled, signal.SIGINT))
    [staging] = run.left()
    assert found == (
        143,
        f"parquet: interrupted (SIGTERM); the state of job {JOB} is not known: a second signal came before it had "
        f"ended; nothing was put at {run.output}; what the job writes stays in {staging}\n",
    )


def test_a_job_server_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "CANCEL", 0.5)
    monkeypatch.setattr(jobs, "ANSWER", 0.5)
    with serve(JobService(State.RUNNING)) as service:
        service.hangs = True
        status, said = run(service, (service.followed, signal.SIGTERM))
    assert status == 143
    assert f"the state of job {JOB} is not known: no answer within 1 s; nothing was put at {run.output}" in said


def test_a_signal_before_the_job_is_submitted(run: Run) -> None:
    """While Flink is asked which jobs it has, which does not answer here."""
    asked = threading.Event()
    with serve(JobService(State.RUNNING)) as service, socket.create_server(("127.0.0.1", 0)) as flink:

        def hang() -> None:
            with flink.accept()[0] as connection:
                connection.recv(9)
                asked.set()
                service.closed.wait()

        thread = threading.Thread(target=hang)
        thread.start()
        master = f"--flink_master=127.0.0.1:{flink.getsockname()[1]}"
        found = run(service, (asked, signal.SIGTERM), runner="FlinkRunner", more=[master])
        assert service.options is None
        service.closed.set()
        thread.join()
    assert found == (143, "parquet: interrupted (SIGTERM); no output was written\n")
    assert run.left() == []


def test_a_signal_while_the_job_is_submitted(run: Run) -> None:
    """It waits until it is known what to cancel."""
    with serve(JobService(State.RUNNING)) as service:
        service.delay = 1
        said = f"parquet: interrupted (SIGTERM); job {JOB} is cancelled; no output was written\n"
        assert run(service, (service.running, signal.SIGTERM)) == (143, said)
    assert run.left() == []


def test_a_second_signal_while_the_job_is_submitted(run: Run) -> None:
    with serve(JobService(State.RUNNING)) as service:
        service.silent = True
        status, said = run(service, *[(service.prepared, signal.SIGTERM)] * 2)
    assert status == 143
    start = "parquet: interrupted (SIGTERM); it is not known whether a job was submitted, as a second signal ended that"
    assert said.startswith(f"{start}; nothing was put at {run.output}")
    assert len(run.left()) == 1


# --- left by its runner -----------------------------------------------------------------------------------------------


def test_a_runner_that_does_not_follow_its_job(run: Run) -> None:
    """As Flink's job server where a job is not attached: it has no state for it."""
    with serve(JobService(State.UNSPECIFIED)) as service:
        found = run(service)
    [staging] = run.left()
    assert found == (
        1,
        f"parquet: error: the state of job {JOB} is not known: PrismRunner does not follow it; nothing was put at "
        f"{run.output}; what the job writes stays in {staging}\n",
    )


def test_a_job_server_that_ends(run: Run) -> None:
    with serve(JobService(State.RUNNING)) as service:
        ends = threading.Timer(2, service.closed.set)
        ends.start()
        status, said = run(service)
        ends.join()
    assert status == 1
    assert said.startswith(f"parquet: error: the state of job {JOB} is not known: ConnectionError: UNAVAILABLE")
    assert said.count("\n") == 1
    assert len(run.left()) == 1


def test_a_job_that_fails_leaves_nothing(run: Run) -> None:
    with serve(JobService(State.FAILED)) as service:
        status, said = run(service)
    assert (status, said.count("\n")) == (1, 1)
    assert run.left() == []
