"""Kafka on the command line: its settings, and whether topics and services are there, asked before any work."""

import socket
from collections.abc import Mapping, Sequence

from .command import UsageError

# Seconds to wait for a broker or an expansion service: one that runs answers in less than one.
ANSWER_SECONDS = 10.0


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
