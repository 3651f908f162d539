"""Kafka on the command line: its settings, and whether topics and services are there, asked before any work."""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .command import UsageError

# Seconds to wait for a broker or an expansion service: one that runs answers in less than one.
ANSWER_SECONDS = 10.0


class Broker:
    """Asks a broker for its topics.

    Args:
      config: of the client, with "bootstrap.servers".

    Raises:
      UsageError: the Kafka client is not installed, or does not know a setting; by every method, no answer.
    """

    def __init__(self, config: Mapping[str, str]) -> None:
        try:
            from confluent_kafka import KafkaException
            from confluent_kafka.admin import AdminClient
        except ImportError:
            raise UsageError(
                "--bootstrap_servers: expected the package confluent-kafka, to ask the broker for its topics, found "
                "none: install lse-stream[kafka]"
            ) from None
        self._servers, self._error = config["bootstrap.servers"], KafkaException
        self._config: dict[str, Any] = {**config, "log_level": 0}
        try:
            self._client = AdminClient(self._config, logger=None)
        except KafkaException as error:  # of the settings: nothing is asked yet
            raise UsageError(_of_settings(config, " ".join(error.args[0].str().split()))) from None

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise UsageError(
                f"--bootstrap_servers {self._servers}: expected a Kafka broker that answers, found none "
                f"({error.args[0].str()})"
            ) from None

    def check_topics(self, topics: Mapping[str, str]) -> None:
        """Raises UsageError for a topic that is not there; they are given by the options that name them."""
        found = self._topics()
        for option, topic in topics.items():
            if topic not in found:
                there = ", ".join(sorted(name for name in found if not name.startswith("__"))) or "none"
                raise UsageError(f"--{option} {topic}: expected a topic of {self._servers}, found {there}")

    def _topics(self) -> dict[str, list[int]]:
        with self._answering():
            topics = self._client.list_topics(timeout=ANSWER_SECONDS).topics
        return {name: sorted(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        return len(self._topics().get(topic, []))

    def is_log_append_time(self, topic: str) -> bool:
        """Whether the broker stamps a topic's records, and not their producers."""
        from confluent_kafka.admin import ConfigResource

        [future] = self._client.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
        try:
            found = future.result(ANSWER_SECONDS)
        except (self._error, TimeoutError) as error:
            reason = "no answer" if isinstance(error, TimeoutError) else error.args[0].str()
            raise UsageError(f"--topic {topic}: expected to be told who stamps its records, found {reason}") from None
        stamped = found.get("message.timestamp.type")
        return stamped is not None and stamped.value == "LogAppendTime"

    def check_records(self, topic: str) -> None:
        """Raises UsageError for a topic with a partition that has no records."""
        from confluent_kafka import Consumer, TopicPartition

        partitions = self._topics()[topic]
        with self._answering():
            consumer = Consumer({"group.id": "lse-stream", **self._config}, logger=None)
            ends = {
                partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_SECONDS)
                for partition in partitions
            }
            consumer.close()
        if empty := [str(partition) for partition, (first, end) in ends.items() if first == end]:
            raise UsageError(
                f"--topic {topic}: expected a record in each of its {len(ends)} partitions, as until then no window "
                f"closes, found none in {', '.join(empty)}: write one to each, be it a dead letter, or read from the "
                "end (--kafka_config auto.offset.reset=latest), which waits"
            )


def _of_settings(config: Mapping[str, str], said: str) -> str:
    """What is wrong with the settings of a client, with the name of the one that it speaks of, or else all names."""
    given = [name for name in config if name != "bootstrap.servers"]
    names = ", ".join([name for name in given if f'"{name}"' in said] or given)
    return f"--kafka_config {names}: expected settings that the Kafka client takes, found {said}"


def check_expansion_service(address: str | None) -> None:
    """Raises UsageError where nothing listens at the address "HOST:PORT"."""
    if address is None:
        return
    expected = f"--expansion_service {address}: expected HOST:PORT of Beam's expansion service"
    host, _, port = address.rpartition(":")
    if not (host and re.fullmatch("[0-9]{1,5}", port) and int(port) < 1 << 16):
        raise UsageError(f"{expected}, found {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:  # the latter of names that are none of a host
        raise UsageError(f"{expected}, found {error}") from None


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
