"""A Python worker for Beam's PROCESS environment: what the container's boot program does, in this environment.

Called by a runner with --id and --provision_endpoint.
"""

import argparse
import os
import sys
import tempfile

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from apache_beam.runners.worker import sdk_worker_main
from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
from google.protobuf import json_format, text_format


def provision(endpoint: str, worker_id: str) -> beam_provision_api_pb2.ProvisionInfo:
    channel = grpc.intercept_channel(grpc.insecure_channel(endpoint), WorkerIdInterceptor(worker_id))
    service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
    info: beam_provision_api_pb2.ProvisionInfo = service.GetProvisionInfo(
        beam_provision_api_pb2.GetProvisionInfoRequest()
    ).info
    return info


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--id")
    parser.add_argument("--provision_endpoint")
    arguments, _ = parser.parse_known_args()
    info = provision(arguments.provision_endpoint, arguments.id)
    os.environ |= {
        "WORKER_ID": arguments.id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "SEMI_PERSISTENT_DIRECTORY": tempfile.mkdtemp(),
    }
    sdk_worker_main.main(sys.argv)
