"""Uses of Beam beyond its public interface, all in this module. They were seen to work with Beam 2.77."""

import argparse
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment, python_sdk_capabilities
from apache_beam.transforms.trigger import TriggerFn
from apache_beam.typehints import typehints
from apache_beam.typehints.trivial_inference import key_value_types


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


def key_type_of(element_type: Any) -> Any:
    """The type of the keys of a PCollection of pairs."""
    key_type, _ = key_value_types(element_type)
    return key_type


def without_unions(element_type: Any) -> Any:
    """The type of elements from which those of a wrong type have gone: what may have several types may have any."""
    if isinstance(element_type, typehints.UnionConstraint):
        return Any
    if isinstance(element_type, typehints.TupleConstraint):
        return typehints.Tuple[tuple(map(without_unions, element_type.tuple_types))]
    return element_type


def unknown_options(arguments: Sequence[str]) -> list[str]:
    """Those of a command line's arguments that no class of Beam's options knows.

    Raises:
      argparse.ArgumentError: one of another type than its option has.
    """
    known: Any = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for group in PipelineOptions.__subclasses__():
        group._add_argparse_args(known)
    _, unknown = known.parse_known_args(list(arguments))
    return list(unknown)


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
