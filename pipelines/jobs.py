"""A job that a runner has taken: whether it has ended, and how it is cancelled."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from apache_beam.runners.runner import PipelineState

from lse_stream.beam.internals import cancel, job_id_of, state_of
from lse_stream.errors import one_line

# Seconds until a job that was asked to end is said to go on; for an answer beyond that; between two looks.
CANCEL, ANSWER, LOOK = 60.0, 10.0, 0.5

# The addresses of a Flink that is inside the job server.
INSIDE = ("[auto]", "[local]")


@dataclass(frozen=True)
class Outcome:
    """What is true of a job.

    Attributes:
      ended: whether it writes no more; None where that is not known.
      said: a line for people.
    """

    ended: bool | None
    said: str


class FlinkJobs:
    """The jobs that appear on a Flink from now on.

    Args:
      master: "HOST:PORT" of its REST interface.

    Raises:
      OSError, ValueError: it does not answer, here as in the methods.
    """

    _ENDED = ("FINISHED", "CANCELED", "FAILED")

    def __init__(self, master: str) -> None:
        self._url = (master if "://" in master else f"http://{master}").rstrip("/")
        # Names need not be unique: jobs from before are not ours.
        self._before = {job["jid"] for job in self._jobs()}

    def states(self, name: str) -> dict[str, str]:
        """The states of the jobs of a name, by id."""
        return {j["jid"]: j["state"] for j in self._jobs() if j["name"] == name and j["jid"] not in self._before}

    @classmethod
    def live(cls, states: Mapping[str, str]) -> list[str]:
        """The ids of those that have not ended."""
        return [job for job, state in states.items() if state not in cls._ENDED]

    def cancel(self, job: str) -> None:
        self._ask(f"jobs/{job}?mode=cancel", "PATCH")

    def _jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = json.loads(self._ask("jobs/overview", "GET"))["jobs"]
        return jobs

    def _ask(self, path: str, method: str) -> bytes:
        request = urllib.request.Request(f"{self._url}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=ANSWER) as response:
            answer: bytes = response.read()
        return answer


class Job:
    """One that a runner has taken.

    Args:
      result: what the runner gave for it.
      runner: its name.
      flink: where the job is on a Flink that can be asked.
      trusted: whether a job has ended that the runner calls cancelled. Job servers in Java say so as soon as they are
        asked to cancel, and Flink goes on.
    """

    def __init__(self, result: Any, runner: str, flink: FlinkJobs | None, *, trusted: bool) -> None:
        self.id = job_id_of(result)
        self._result, self._runner, self._flink, self._trusted = result, runner, flink, trusted
        self._ids: frozenset[str] = frozenset()

    def look(self) -> Outcome:
        """What is true of it now."""
        return self._within(ANSWER, self._look)

    def has_begun(self) -> bool:
        """Whether Flink runs it, where that can be asked."""
        return self._flink is not None and "RUNNING" in self._on_flink().values()

    def cancel(self) -> Outcome:
        """Asks for it to end, and waits until it has, for up to a minute."""
        return self._within(CANCEL + ANSWER, self._cancel)

    def unknown(self, why: str) -> Outcome:
        return Outcome(None, f"the state of job {self.id} is not known: {why}")

    def _look(self) -> Outcome:
        if states := self._on_flink():
            if live := FlinkJobs.live(states):
                there = ", ".join(f"{states[job]} as {job}" for job in live)
                return Outcome(False, f"the job goes on: {self.id}, on Flink {there}")
            return self._ended(next(reversed(states.values())), "Flink")
        state = state_of(self._result)
        if state == PipelineState.UNKNOWN:
            return self.unknown(f"{self._runner} does not follow it")
        if not PipelineState.is_terminal(state):
            return Outcome(False, f"the job goes on: {self.id}, in the state {state} of {self._runner}")
        if state != PipelineState.CANCELLED or self._trusted:
            return self._ended(state, self._runner)
        if self._flink is not None:
            return self.unknown("Flink has had no job of that name so far")
        hint = "; with a --flink_master=HOST:PORT that answers Flink itself is asked" if is_flink(self._runner) else ""
        return self.unknown(f"the job server says {state} without waiting for what runs the job{hint}")

    def _ended(self, state: str, who: str) -> Outcome:
        if state in ("CANCELED", PipelineState.CANCELLED):
            return Outcome(True, f"job {self.id} is cancelled")
        return Outcome(True, f"job {self.id} had ended before, in the state {state} of {who}")

    def _on_flink(self) -> dict[str, str]:
        """States by id on Flink, where Beam's job server calls the job by its id less a number; none where unknown.

        Once one is there it is ours: another that comes later has but the same name.
        """
        found = {} if self._flink is None else self._flink.states(self.id.rpartition("_")[0])
        self._ids = self._ids or frozenset(found)
        return {job: state for job, state in found.items() if job in self._ids}

    def _cancel(self) -> Outcome:
        end = time.monotonic() + CANCEL
        if self._flink is None:
            cancel(self._result)
        while True:
            try:
                if self._flink is not None:
                    for job in FlinkJobs.live(self._on_flink()):
                        self._flink.cancel(job)
                found = self._look()
            except (OSError, ValueError) as error:
                found = self.unknown(one_line(error))
            asked_in_vain = found.ended is None and self._flink is None and not self._trusted
            if found.ended or asked_in_vain or time.monotonic() > end:
                break
            time.sleep(LOOK)
        if self._flink is not None and not found.ended:
            cancel(self._result)  # it may not have come to Flink yet
        return found

    def _within(self, seconds: float, ask: Callable[[], Outcome]) -> Outcome:
        """What a question has for an answer, as long as there is one in time: a call of a job server may last."""
        found = [self.unknown(f"no answer within {seconds:.0f} s")]

        def run() -> None:
            try:
                found.append(ask())
            except Exception as error:  # whatever a runner raises
                found.append(self.unknown(one_line(error)))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(seconds)
        return found[-1]


class Watch:
    """Follows a job beside the thread that waits for its end.

    Args:
      job: which one.
      has_results: whether there is anything of it; it has begun then, or when Flink runs it.
      begun: called once, when it has begun.
      why_end: why it has to end, if it has to, every so often; it is cancelled then.

    Attributes:
      why: what ``why_end`` has said.
    """

    EVERY = 10.0

    def __init__(
        self,
        job: Job,
        has_results: Callable[[], bool],
        begun: Callable[[], None],
        why_end: Callable[[], str | None],
    ) -> None:
        self._job, self._has_results, self._begun, self._why_end = job, has_results, begun, why_end
        self.why: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(ANSWER)  # what it asks may not answer

    def _run(self) -> None:
        while not self._is_there():
            if self._stop.wait(LOOK):
                return
        self._begun()
        while not self._stop.wait(self.EVERY):
            self.why = self._why_end()
            if self.why is not None:
                self._job.cancel()
                return

    def _is_there(self) -> bool:
        try:
            return self._job.has_begun() or self._has_results()
        except Exception:  # whatever has no answer now may have one later
            return False


def is_flink(runner: str) -> bool:
    """Whether a runner, by its name, is Flink's."""
    return "flink" in runner.lower()
