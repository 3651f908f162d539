"""A job service of Beam's protocol in this process, over gRPC: it takes a job, and says of it what it is told to."""

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from apache_beam.portability.api import beam_job_api_pb2 as api

State = api.JobState
Type = api.PipelineOptionType
Importance = api.JobMessage

# Name, type and default, as Beam's job server for Flink describes some of its own.
DESCRIBED = [
    ("checkpointing_interval", Type.INTEGER, "-1"),
    ("max_bundle_size", Type.INTEGER, "MaxBundleSizeFactory"),
    ("max_bundle_time_mills", Type.INTEGER, "MaxBundleTimeFactory"),
    ("externalized_checkpoints_enabled", Type.BOOLEAN, "false"),
    ("retain_externalized_checkpoints_on_cancellation", Type.BOOLEAN, "false"),
    ("savepoint_path", Type.STRING, ""),
    ("max_cache_memory_usage_percent", Type.NUMBER, "20.0"),
    ("state_backend", Type.STRING, ""),
    ("files_to_stage", Type.ARRAY, ""),
    ("object_reuse", Type.BOOLEAN, "false"),
    ("faster_copy", Type.BOOLEAN, "false"),
    ("operator_chaining", Type.BOOLEAN, "true"),
    ("fail_on_checkpointing_errors", Type.BOOLEAN, "true"),
    ("parallelism", Type.INTEGER, "-1"),
]


class JobService:
    """Takes one job.

    Attributes:
      endpoint: "HOST:PORT".
      options: what the job came with, by the names of the options; None before.
      messages: the job's, each an importance and a text.
      state: the job's. It may be changed while it runs.
      after_cancel: the state that a job has that was asked to end; None where it stays as it is.
      prepared: set when the job has come. Where it is ``silent`` nothing is said of its state then.
      running: set when the job is run. With a ``delay`` in seconds it is not said so soon.
      followed: set when somebody listens to its messages after that.
      cancelled: set when the job is asked to end. Where it ``hangs`` there is no answer.
    """

    def __init__(self, state: Any = State.DONE, after_cancel: Any = State.CANCELLED) -> None:
        self.endpoint = ""
        self.options: dict[str, Any] | None = None
        self.messages: list[tuple[Any, str]] = []
        self.state = state
        self.after_cancel = after_cancel
        self.delay = 0.0
        self.silent = False
        self.prepared = threading.Event()
        self.hangs = False
        self.followed = threading.Event()
        self.running = threading.Event()
        self.cancelled = threading.Event()
        self.closed = threading.Event()

    def describe(self, *_: Any) -> Any:
        options = [api.PipelineOptionDescriptor(name=n, type=t, default_value=d) for n, t, d in DESCRIBED]
        return api.DescribePipelineOptionsResponse(options=options)

    def prepare(self, request: Any, _: Any) -> Any:
        names = {name: name.removeprefix("beam:option:").removesuffix(":v1") for name in request.pipeline_options}
        self.options = {names[name]: value for name, value in request.pipeline_options.items()}
        self.prepared.set()
        return api.PrepareJobResponse(preparation_id="prepared")

    def run(self, *_: Any) -> Any:
        self.running.set()
        self.closed.wait(self.delay)
        return api.RunJobResponse(job_id="job-1_uuid")

    def get_state(self, *_: Any) -> Any:
        return api.JobStateEvent(state=self.state)

    def states(self, *_: Any) -> Iterator[Any]:
        last = None
        if self.silent:
            self.closed.wait()
        while not self.closed.wait(0.02):
            if self.state != last:
                last = self.state
                yield api.JobStateEvent(state=last)
            if last in (State.DONE, State.FAILED, State.CANCELLED):
                return

    def stream_messages(self, *_: Any) -> Iterator[Any]:
        self.running.wait()
        self.followed.set()
        for importance, text in self.messages:
            yield api.JobMessagesResponse(message_response=api.JobMessage(importance=importance, message_text=text))
        for event in self.states():
            yield api.JobMessagesResponse(state_response=event)

    def cancel(self, *_: Any) -> Any:
        self.cancelled.set()
        if self.hangs:
            self.closed.wait()
        if self.after_cancel is not None:
            self.state = self.after_cancel
        return api.CancelJobResponse(state=self.state)

    def metrics(self, *_: Any) -> Any:
        return api.GetJobMetricsResponse()


def _handlers(service: JobService) -> Any:
    def one(answer: Callable[..., Any], request: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer, request.FromString, lambda found: found.SerializeToString())

    def many(answer: Callable[..., Any], request: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(answer, request.FromString, lambda found: found.SerializeToString())

    methods = {
        "DescribePipelineOptions": one(service.describe, api.DescribePipelineOptionsRequest),
        "Prepare": one(service.prepare, api.PrepareJobRequest),
        "Run": one(service.run, api.RunJobRequest),
        "GetState": one(service.get_state, api.GetJobStateRequest),
        "GetStateStream": many(service.states, api.GetJobStateRequest),
        "GetMessageStream": many(service.stream_messages, api.JobMessagesRequest),
        "Cancel": one(service.cancel, api.CancelJobRequest),
        "GetJobMetrics": one(service.metrics, api.GetJobMetricsRequest),
    }
    return grpc.method_handlers_generic_handler("org.apache.beam.model.job_management.v1.JobService", methods)


@contextmanager
def serve(service: JobService) -> Iterator[JobService]:
    """Lets a service listen during the block, or until it is closed."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((_handlers(service),))
    service.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    def stop() -> None:
        service.closed.wait()
        server.stop(0).wait()

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield service
    finally:
        service.closed.set()
        thread.join()
