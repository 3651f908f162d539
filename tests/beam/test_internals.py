"""What is used of Beam beyond its public interface: where it is gone, one line says so."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.portable_runner import PipelineResult

from lse_stream.beam.internals import metrics_of

TAKE_AWAY = """
import importlib, sys
import apache_beam
from lse_stream.beam import internals

names = [(owner, name) for owner, name in internals.USED]
for module, name in [
    ("options.pipeline_options", "_BeamArgumentParser"),
    ("transforms.core", "Windowing"),
    ("transforms.environments", "EmbeddedPythonGrpcEnvironment"),
    ("transforms.environments", "python_sdk_capabilities"),
    ("typehints.trivial_inference", "key_value_types"),
]:
    names.append((importlib.import_module(f"apache_beam.{module}"), name))
for owner, name in names:
    held = vars(owner)[name]
    delattr(owner, name)
    del sys.modules["lse_stream.beam.internals"]
    try:
        import lse_stream.beam.internals
    except ImportError as error:
        print(name, "|", error)
    setattr(owner, name, held)
    import lse_stream.beam.internals
print(len(names))
"""


def test_what_beam_does_not_have_any_more_is_named() -> None:
    process = subprocess.run([sys.executable, "-c", TAKE_AWAY], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    *lines, number = process.stdout.splitlines()
    assert len(lines) == int(number) == 10
    for line in lines:
        name, message = line.split(" | ")
        assert message.startswith("apache-beam 2.")
        assert "expected what its version 2.77 has, beyond what is public, found " in message
        assert name in message


def test_metrics_are_asked_for_anew_each_time() -> None:
    asked = []

    def answer(request: Any) -> Any:
        asked.append(request)
        return beam_job_api_pb2.GetJobMetricsResponse()

    result = PipelineResult(SimpleNamespace(GetJobMetrics=answer), "job", iter([]), iter([]))
    for _ in range(3):
        assert metrics_of(result).query()["counters"] == []
    assert len(asked) == 3
