"""Kafka topics as sources and sinks, by Beam's own KafkaIO; and what can be said of them before any work."""

import socket
from collections.abc import Mapping, Sequence

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka, default_io_expansion_service
from apache_beam.pvalue import PBegin, PCollection
from apache_beam.transforms.external import ExternalTransform, ImplicitSchemaPayloadBuilder

from .command import UsageError

# For a broker to answer, and for an expansion service.
ANSWER_SECONDS = 10.0


class ReadTopic(beam.PTransform[PBegin, PCollection[object]]):
    """The records of a topic, as rows with key, value, topic, partition, offset and timestamp (milliseconds).

    Their Beam timestamps are those of the records, and so is the watermark.

    Args:
      config: of the consumer; with "bootstrap.servers". It begins at the first record that there is, unless
        "auto.offset.reset" says otherwise.
      max_records: read so many and end; None for ever.
      expansion_service: "HOST:PORT" of Beam's Java expansion service; None to have Beam start its own.
    """

    def __init__(
        self, config: Mapping[str, str], topic: str, *, max_records: int | None, expansion_service: str | None
    ) -> None:
        super().__init__()
        # Of ReadFromKafka's settings those in use, which an older KafkaIO knows as well: it refuses any other.
        settings: dict[str, object] = {
            # KafkaIO's own default, the end at the time when its workers are up, leaves out what came before.
            "consumer_config": {"auto.offset.reset": "earliest", **config},
            "topics": [topic],
            "key_deserializer": ReadFromKafka.byte_array_deserializer,
            "value_deserializer": ReadFromKafka.byte_array_deserializer,
            "commit_offset_in_finalize": False,
            "timestamp_policy": ReadFromKafka.create_time_policy,
        }
        if max_records is not None:
            settings["max_num_records"] = max_records
        self._read = ExternalTransform(
            ReadFromKafka.URN_WITH_METADATA,
            ImplicitSchemaPayloadBuilder(settings),
            expansion_service or default_io_expansion_service(),
        )

    def expand(self, pbegin: PBegin) -> PCollection[object]:
        records: PCollection[object] = pbegin | self._read
        return records


class WriteTopic(beam.PTransform[PCollection[tuple[bytes, bytes]], PCollection[None]]):
    """(key, value) to a topic: each at least once.

    Args:
      config: of the producer; with "bootstrap.servers".
      expansion_service: as of ``ReadTopic``.
    """

    def __init__(self, config: Mapping[str, str], topic: str, *, expansion_service: str | None) -> None:
        super().__init__()
        self._write = WriteToKafka(producer_config=dict(config), topic=topic, expansion_service=expansion_service)

    def expand(self, messages: PCollection[tuple[bytes, bytes]]) -> PCollection[None]:
        written: PCollection[None] = messages | self._write
        return written


def check_topics(config: Mapping[str, str], topics: Mapping[str, str]) -> None:
    """Asks the broker for topics, given by the options that name them.

    Raises:
      UsageError: no broker answers, a topic is not there, or the Kafka client is not installed.
    """
    try:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient
    except ImportError:
        raise UsageError(
            "--bootstrap_servers: expected the package confluent-kafka, to ask the broker for its topics, found none: "
            "install lse-stream[kafka]"
        ) from None
    servers = config["bootstrap.servers"]
    try:
        client = AdminClient({**config, "log_level": 0}, logger=None)
        found = client.list_topics(timeout=ANSWER_SECONDS).topics
    except KafkaException as error:
        reason = error.args[0].str()
        raise UsageError(
            f"--bootstrap_servers {servers}: expected a Kafka broker that answers, found none ({reason})"
        ) from None
    for option, topic in topics.items():
        if topic not in found or found[topic].error is not None:
            there = ", ".join(sorted(name for name in found if not name.startswith("__"))) or "none"
            raise UsageError(f"--{option} {topic}: expected a topic of {servers}, found {there}")


def check_expansion_service(address: str | None) -> None:
    """Raises UsageError where nothing listens at the address "HOST:PORT"."""
    if address is None:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"--expansion_service {address}: expected HOST:PORT of Beam's expansion service, found {error}"
        ) from None


def parse_config(option: str, given: Sequence[str]) -> dict[str, str]:
    """Settings of a Kafka client, given as NAME=VALUE.

    Raises:
      UsageError: one that is no such pair.
    """
    pairs = [text.partition("=") for text in given]
    for text, (name, equals, _) in zip(given, pairs, strict=True):
        if not (name and equals):
            raise UsageError(f"--{option} {text}: expected NAME=VALUE, found no such pair")
    return {name: value for name, _, value in pairs}
