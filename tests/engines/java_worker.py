"""A Java worker for Beam's PROCESS environment, of the jars in the directory that BEAM_LIB names."""

import argparse
import os

from google.protobuf import json_format, text_format

from engines.python_worker import provision

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("id", "provision_endpoint", "logging_endpoint", "control_endpoint"):
        parser.add_argument(f"--{name}")
    arguments, _ = parser.parse_known_args()
    worker_id = arguments.id.strip("'")  # Prism quotes it
    info = provision(arguments.provision_endpoint, worker_id)
    endpoints = {
        name: text_format.MessageToString(endpoint, as_one_line=True) if endpoint.url else f'url: "{given}"'
        for name, endpoint, given in (
            ("LOGGING", info.logging_endpoint, arguments.logging_endpoint),
            ("CONTROL", info.control_endpoint, arguments.control_endpoint),
        )
    }
    os.environ |= {
        "HARNESS_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": endpoints["LOGGING"],
        "CONTROL_API_SERVICE_DESCRIPTOR": endpoints["CONTROL"],
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    classes = os.path.join(os.environ["BEAM_LIB"], "*")
    settings = ["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    os.execvp("java", ["java", *settings, "-cp", classes, "org.apache.beam.fn.harness.FnHarness"])
