"""Uses of Beam beyond its public interface, all in this module. They were seen to work with Beam 2.77."""

import argparse
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import JobServerOptions, PipelineOptions
from apache_beam.runners.runner import PipelineRunner, PipelineState
from apache_beam.transforms.trigger import TriggerFn

SEEN = "2.77"


def _unlike(found: object) -> ImportError:
    return ImportError(
        f"apache-beam {beam.__version__}: expected what its version {SEEN} has, beyond what is public, found {found}; "
        f"install apache-beam {SEEN}, or a version of lse-stream that knows this one"
    )


try:
    from apache_beam.options.pipeline_options import _BeamArgumentParser
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.runners.portability.portable_runner import PortableRunner
    from apache_beam.transforms.core import Windowing
    from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment, python_sdk_capabilities
    from apache_beam.typehints import typehints
    from apache_beam.typehints.trivial_inference import key_value_types
except ImportError as error:
    raise _unlike(error) from error

# What is overridden or called, and would be passed over in silence where Beam has no such thing any more.
USED: tuple[tuple[type, str], ...] = (
    (beam.PTransform, "get_windowing"),
    (PipelineOptions, "get_all_options"),
    (PipelineOptions, "_add_argparse_args"),
    (PortableRunner, "default_job_server"),
    (PortableRunner, "create_job_service_handle"),
)
for _owner, _name in USED:
    if not hasattr(_owner, _name):
        raise _unlike(f"no {_owner.__name__}.{_name}")


def windowing_with(windowing: Windowing, trigger: TriggerFn, accumulation_mode: Any) -> Windowing:
    """A windowing with another trigger and mode; windows, timestamps and lateness stay."""
    return Windowing(
        windowing.windowfn,
        trigger,
        accumulation_mode,
        windowing.timestamp_combiner,
        windowing.allowed_lateness.micros / 1e6,
    )


class ParDoInto(beam.ParDo):
    """ParDo with a windowing that is not its input's, such as one trigger after another.

    The elements' windows are those that the DoFn gives them, where ``beam.WindowInto`` would assign new ones.
    """

    def __init__(self, dofn: beam.DoFn, windowing: Windowing, element_type: Any) -> None:
        beam.ParDo.__init__(self, dofn)
        self._windowing = windowing
        beam.ParDo.with_output_types(self, element_type)

    def get_windowing(self, _: Any) -> Windowing:
        return self._windowing


def key_and_value_types(element_type: Any) -> tuple[Any, Any]:
    """The types of the keys and the values of a PCollection of pairs."""
    key_type, value_type = key_value_types(element_type)
    return key_type, value_type


def without_unions(element_type: Any) -> Any:
    """The type of elements from which those of a wrong type have gone: what may have several types may have any."""
    if isinstance(element_type, typehints.UnionConstraint):
        return Any
    if isinstance(element_type, typehints.TupleConstraint):
        return typehints.Tuple[tuple(map(without_unions, element_type.tuple_types))]
    return element_type


class UnknownOptionError(ValueError):
    """An option that nobody knows.

    Attributes:
      name: as it was given.
      known: the names of those that there are.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"{name}: expected an option of Beam or of its runner, found none of that name")
        self.name, self.known = name, known


def parse_known(
    arguments: Sequence[str], describe: Callable[[Any], None] | None = None
) -> tuple[argparse.Namespace, list[str], list[str]]:
    """What all classes of Beam's options make of arguments; those that none knows; and the names of what they know.

    Args:
      describe: adds further options to a parser.

    Raises:
      argparse.ArgumentError: an argument of another type than its option has.
    """
    parser: Any = _BeamArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for group in {str(group): group for group in PipelineOptions.__subclasses__()}.values():
        group._add_argparse_args(parser)
    if describe is not None:
        describe(parser)
    found, unknown = parser.parse_known_args(list(arguments))
    return found, unknown, [name for action in parser._actions for name in action.option_strings]


class StrictOptions(PipelineOptions):
    """Options of which none vanishes. Beam hands a job server those that it describes, and leaves others out.

    Args:
      flags: each has to be known to Beam's classes or to the job server.
      unasked: what is known, if at all, to a job server that cannot be asked before it is started. Beam's runners
        for Prism and for uber jars hand on even what is not described.
    """

    def __init__(self, flags: Sequence[str], unasked: Sequence[str] = ()) -> None:
        super().__init__([*flags, *unasked])
        # Past Beam, which lets nothing be set but options.
        vars(self).update(_asked=[*flags], _given=[*flags, *unasked])

    def check(self, describe: Callable[[Any], None] | None = None, *, asked_alone: bool = False) -> None:
        """Raises UnknownOptionError for one that is not known, and argparse.ArgumentError for one of another type."""
        _, unknown, known = parse_known(self._asked if asked_alone else self._given, describe)
        if unknown:
            raise UnknownOptionError(unknown[0].partition("=")[0], known)

    def get_all_options(
        self,
        drop_default: Any = False,
        add_extra_args_fn: Callable[[Any], None] | None = None,
        retain_unknown_options: Any = False,
        display_warnings: Any = False,
        current_only: Any = False,
    ) -> dict[str, Any]:
        """As Beam has it; where a job server's options are known, which are added by the function, all are checked."""
        describe = None if (add := add_extra_args_fn) is None else lambda parser: add(_Described(parser))
        if describe is not None:
            self.check(describe, asked_alone=retain_unknown_options)
        return super().get_all_options(drop_default, describe, retain_unknown_options, display_warnings, current_only)


class _Described:
    """Takes what a job server describes to a parser.

    Of booleans Beam makes flags that turn the default over, so that --operator_chaining turns it off. Here they take
    true or false, and no value where that turns them on.
    """

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def add_argument(self, name: str, *, action: str, **more: Any) -> None:
        if action == "store_true":
            more |= {"type": _boolean, "nargs": "?", "const": True}
        elif action == "store_false":
            more |= {"type": _boolean, "metavar": "true|false"}
        self._parser.add_argument(name, action="append" if action == "append" else "store", **more)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text == "true"


def hands_on(runner: PipelineRunner) -> bool:
    """Whether a runner of Beam's hands a pipeline on to a process that goes on without this one."""
    return isinstance(runner, PortableRunner) or "dataflow" in type(runner).__name__.lower()


def job_id_of(result: Any) -> str:
    """What the runner calls a job."""
    # Dataflow's, and that of a job server.
    return str(result.job_id() if hasattr(result, "job_id") else result._job_id)


def state_of(result: Any) -> str:
    """The state of a job, of ``PipelineState``.

    Raises:
      ConnectionError: its job server does not answer.
    """
    with _rpc_errors():
        try:
            return str(result.state)
        except AttributeError:  # Beam has no name for a state that a job server leaves open, as of a detached job
            return PipelineState.UNKNOWN


def metrics_of(result: Any) -> Any:
    """The metrics of a run as they are now: the result of a portable runner keeps what it was told first."""
    if hasattr(result, "_metrics"):
        result._metrics = None
    return result.metrics()


def cancel(result: Any) -> None:
    """Asks for a job to end, and does not wait until it has.

    Raises:
      ConnectionError: its job server does not answer.
    """
    with _rpc_errors():
        result.cancel()


@contextmanager
def _rpc_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise ConnectionError(f"{error.code().name}: {' '.join(str(error.details()).split())}") from None


class OwnJobServer:
    """The job server that a runner starts, kept from Ctrl-C: it has to cancel the job then.

    Beam stops it at the signal, and the terminal sends the signal to its process too, unless that has a session of its
    own.
    """

    def __init__(self, runner: Any, options: PipelineOptions) -> None:
        self._make: Any = runner.default_job_server
        self._server: Any = None
        vars(runner).update(default_job_server=self._start)
        java = options.view_as(JobServerOptions)
        if shutil.which("setsid"):
            java.job_server_jvm_properties = [java.job_server_java_launcher, *java.job_server_jvm_properties]
            java.job_server_java_launcher = "setsid"

    def _start(self, options: PipelineOptions) -> Any:
        handler = signal.getsignal(signal.SIGINT)
        self._server = self._make(options)
        self._server.start()  # which is done once
        signal.signal(signal.SIGINT, handler)
        return self._server

    def stop(self) -> None:
        """Stops it, if it was started, as Beam does at the end of the process."""
        if self._server is not None:
            self._server.stop()


def ask_job_server(endpoint: str, runner: PortableRunner, options: StrictOptions, seconds: float) -> None:
    """Checks options against those that the job server at "HOST:PORT" describes.

    Raises:
      ConnectionError: it does not answer within so many seconds.
      UnknownOptionError, argparse.ArgumentError: as of ``StrictOptions.check``.
    """
    with _rpc_errors(), grpc.insecure_channel(endpoint) as channel:
        described = beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions(
            beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=seconds
        )
    # Beam reads the description as it will before the job, and gives it to ``get_all_options``.
    answer = SimpleNamespace(DescribePipelineOptions=lambda *_, **__: described)
    runner.create_job_service_handle(answer, options).get_pipeline_options()


# In milliseconds, 30 years.
_NEVER = 10**12


def threaded_runner() -> PipelineRunner:
    """The embedded runner with workers in threads that lose no elements.

    In its mode "multi_threading" Beam has a thread that empties the workers' output buffers every second, without a
    lock against the worker that writes to them: between reading a buffer and clearing it, elements are lost, the more
    so the larger they are. With a limit of 30 years in place of the second the same workers lose none.
    """
    return FnApiRunner(
        EmbeddedPythonGrpcEnvironment(data_buffer_time_limit_ms=_NEVER, capabilities=python_sdk_capabilities())
    )
