"""A Kafka broker and a Flink cluster that can read its topics, together."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .fetch import find
from .flink import Cluster, JobServer, job_server
from .kafka import Broker, broker, expansion_service


@dataclass(frozen=True)
class KafkaOnFlink:
    """What runs; ``expansion_service`` is "HOST:PORT"."""

    kafka: Broker
    expansion_service: str
    cluster: Cluster
    job_server: JobServer

    def source_options(self) -> list[str]:
        """Options of the stream program to read and write topics of the broker."""
        servers = f"--bootstrap_servers={self.kafka.servers}"
        return ["--source=kafka", servers, f"--expansion_service={self.expansion_service}", "--quiet"]

    def runner_options(self) -> list[str]:
        """Pipeline options for a job on the cluster."""
        flink = f"--flink_master={self.cluster.address}"  # to be asked for the states of jobs
        return [*self.job_server.options, flink, *self.cluster.worker_options()]

    def stream_options(self) -> list[str]:
        """Those of a stream, which saves its state every 2 seconds."""
        return [*self.runner_options(), "--checkpointing_interval=2000"]


@contextmanager
def kafka_on_flink(folder: Path) -> Iterator[KafkaOnFlink]:
    """All of it for the block.

    Args:
      folder: an empty directory for what they write.

    Raises:
      EngineError: an engine was not fetched.
      RuntimeError, TimeoutError: one does not start.
    """
    kafka, flink = find("kafka"), find("flink")
    folders = [folder / name for name in ("kafka", "expansion_service", "cluster", "job_server")]
    for each in folders:
        each.mkdir()
    with ExitStack() as stack:
        running = stack.enter_context(broker(kafka, folders[0]))
        # With it Flink reads Kafka in its own process; the service takes no experiments from a program.
        reads = "--experiments=use_deprecated_read"
        service = stack.enter_context(expansion_service(flink, folders[1], reads))
        cluster = stack.enter_context(Cluster(flink, folders[2]))
        server = stack.enter_context(job_server(flink, folders[3], cluster.address))
        yield KafkaOnFlink(running, service, cluster, server)
