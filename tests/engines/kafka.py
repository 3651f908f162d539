"""Kafka on this machine: a broker of one node, a client of its topics, and Beam's expansion service for KafkaIO."""

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from .processes import free_port, listens, process, wait_for, worker_command


class Broker:
    """A running broker.

    Attributes:
      servers: "HOST:PORT".
    """

    def __init__(self, servers: str) -> None:
        self.servers = servers
        # Its clients outlive the broker, and would tell of that for as long as the tests run.
        self._config: dict[str, Any] = {"bootstrap.servers": servers, "log_level": 0}
        self._admin = AdminClient(self._config)

    def create(self, *topics: str, partitions: int = 2, **config: str) -> None:
        created = self._admin.create_topics([NewTopic(topic, partitions, 1, config=config) for topic in topics])
        for future in created.values():
            future.result()

    def add_partitions(self, topic: str, total: int) -> None:
        """So that there are so many."""
        for future in self._admin.create_partitions([NewPartitions(topic, total)]).values():
            future.result()

    def delete_records(self, topic: str, partitions: int) -> None:
        """All that there are."""
        ends = [TopicPartition(topic, partition, -1) for partition in range(partitions)]
        for future in self._admin.delete_records(ends).values():
            future.result()

    def produce(self, topic: str, messages: Iterable[tuple[bytes, int | None, int | None]]) -> None:
        """Sends (payload, milliseconds or None for now, partition or None for any)."""
        producer = Producer(self._config | {"queue.buffering.max.messages": 1_000_000, "linger.ms": 5})
        for payload, millis, partition in messages:
            producer.produce(topic, payload, partition=-1 if partition is None else partition, timestamp=millis or 0)
            producer.poll(0)
        producer.flush()

    def abort(self, topic: str, payloads: Iterable[bytes], partition: int) -> None:
        """Writes messages in a transaction, and aborts it."""
        producer = Producer(self._config | {"transactional.id": uuid.uuid4().hex})
        producer.init_transactions()
        producer.begin_transaction()
        for payload in payloads:
            producer.produce(topic, payload, partition=partition)
        producer.flush()
        producer.abort_transaction()

    def size(self, topic: str) -> int:
        """How many messages a topic holds."""
        consumer = Consumer(self._config | {"group.id": "sizes"})
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in partitions]
            return sum(high - low for low, high in ends)
        finally:
            consumer.close()

    def read(self, topic: str) -> list[Message]:
        """All messages of a topic."""
        consumer = Consumer(self._config | {"group.id": uuid.uuid4().hex, "enable.auto.commit": False})
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
            wanted = self.size(topic)
            found: list[Message] = []
            while len(found) < wanted:
                found += consumer.consume(min(wanted - len(found), 10_000), timeout=10)
            return found
        finally:
            consumer.close()

    def results(self, topic: str) -> list[dict[str, Any]]:
        """All messages of a topic, as JSON."""
        return [json.loads(message.value() or b"") for message in self.read(topic)]


@contextmanager
def broker(home: Path, folder: Path) -> Iterator[Broker]:
    """A broker for the block.

    Args:
      home: from ``find("kafka")``.
      folder: an empty directory for its data and logs.

    Raises:
      RuntimeError, TimeoutError: it does not start.
    """
    port, controller = free_port(), free_port()
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        # A topic that is not there is a mistake, and one node is all replicas.
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        # Records with old times would be deleted.
        "log.retention.ms": "-1",
    }
    config = folder / "kafka.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    java = ["java", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", str(home / "lib" / "*")]
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    formatted = subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(config)],
        capture_output=True,
        text=True,
    )
    if formatted.returncode:
        raise RuntimeError(f"expected Kafka to format its storage, found\n{formatted.stderr}")
    with process([*java, "kafka.Kafka", str(config)], folder / "kafka.log"):
        wait_for(lambda: listens(port), "Kafka to listen")
        yield Broker(f"127.0.0.1:{port}")


@contextmanager
def expansion_service(home: Path, folder: Path, *arguments: str) -> Iterator[str]:
    """Beam's expansion service for the block; gives "HOST:PORT". Its transforms run in Java workers of our own.

    Args:
      home: from ``find("flink")``.
      folder: where logs and ids of the workers go.
      arguments: more for the service.
    """
    port, pool = free_port(), free_port()
    command = worker_command(folder, "java", BEAM_LIB=str(home / "lib"))
    workers = [
        *(sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"),
        *(f"--service_port={pool}", f"--container_executable={command}"),
    ]
    service = [
        *("java", "-Xmx512m", "-cp", str(home / "lib" / "*"), "org.apache.beam.sdk.expansion.service.ExpansionService"),
        str(port),
        # Which the embedded runner knows too, where "PROCESS" is for portable runners alone.
        *("--defaultEnvironmentType=EXTERNAL", f"--defaultEnvironmentConfig=127.0.0.1:{pool}"),
        f"--filesToStage={home / 'launcher.jar'}",
        *arguments,
    ]
    with process(workers, folder / "pool.log"), process(service, folder / "expansion-service.log"):
        wait_for(lambda: listens(pool), "the pool of workers to listen")
        wait_for(lambda: listens(port), "Beam's expansion service to listen")
        yield f"127.0.0.1:{port}"
