"""Kafka on the command line: its settings, what its messages contain, and whether topics and services are there."""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lse_stream.errors import nearest
from lse_stream.messages import EVENT_TIME, KEY_TYPES, Fields

from .command import UsageError
from .key_options import KeyOptions
from .options import Options

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
        records = self.records(topic)
        if empty := [str(partition) for partition, number in records.items() if not number]:
            raise UsageError(
                f"--topic {topic}: expected a record in each of its {len(records)} partitions, as until then no window "
                f"closes, found none in {', '.join(empty)}: write one to each, be it a dead letter, or read from the "
                "end (--kafka_config auto.offset.reset=latest), which waits"
            )

    def records(self, topic: str) -> dict[int, int]:
        """How many records a topic has in each of its partitions; a few more, where transactions wrote them."""
        from confluent_kafka import Consumer, TopicPartition

        partitions = self._topics()[topic]
        with self._answering():
            consumer = Consumer({"group.id": "lse-stream", **self._config}, logger=None)
            ends = {
                partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_SECONDS)
                for partition in partitions
            }
            consumer.close()
        return {partition: end - first for partition, (first, end) in ends.items()}


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


def field_types(options: Mapping[str, Any], option: str) -> dict[str, pa.DataType]:
    """The names and types of fields that an option gives as NAME or NAME:TYPE.

    Raises:
      UsageError: no such type, or a name twice.
    """
    types = {}
    for text in options[option]:
        name, colon, type_name = text.rpartition(":")
        if not colon:
            name, type_name = text, "string"
        if not name or type_name not in KEY_TYPES:
            known, found = ", ".join(KEY_TYPES), repr(type_name) if name else "no name"
            raise UsageError(f"--{option} {text}: expected NAME:TYPE with a type of {known}, found {found}")
        if name in types:
            raise UsageError(f"--{option}: expected fields named once, found {', '.join(options[option])}")
        types[name] = KEY_TYPES[type_name]
    return types


def fields_of(options: Options) -> Fields:
    """What is read of the messages of a topic.

    Raises:
      UsageError: a condition that cannot be asked of them.
      InputError: as of ``KeyOptions``.
    """
    from lse_stream.beam.windows import reach_of  # what needs Beam alone imports it

    key_options = KeyOptions(options)
    keys = dict(zip(key_options.sources, options.key_types.values(), strict=True))
    if EVENT_TIME in keys:
        raise UsageError(f"--map {EVENT_TIME}: expected another field, found that of the event times")
    fields = Fields(keys, options.value, options.event_time, reach_of(options.windowfn), options.where)
    fields = replace(fields, coarsening=key_options.coarsening(fields.schema()))
    *_, value, event_time = fields.schema()
    known = {**keys, options.value: value.type, options.event_time or EVENT_TIME: event_time.type}
    named = options.where.columns if options.where else ()
    taken = {*known, *options.key}
    for name in options.field_types:
        if name in taken or name not in named:
            found = "a key, the value or the event time" if name in taken else ", ".join(named) or "none"
            raise UsageError(f"--field {name}: expected a further field that --where names, found {found}")
    types = known | options.field_types
    missing = [name for name in named if name not in types]
    if options.format == "arrow" and missing:  # of these each message has the types
        return fields
    if missing:
        sources = dict(zip(options.key, key_options.sources, strict=True))
        raise UsageError(_no_type(missing[0], types, sources, options))
    asked = {name: types[name] for name in named}
    if options.where is not None:
        try:
            options.where.of(pa.schema(asked.items()))
        except (TypeError, ValueError) as error:
            raise UsageError(f"--where {options.where.text!r}: {error}") from None
    return replace(fields, asked=asked)


def _no_type(name: str, types: Mapping[str, pa.DataType], sources: Mapping[str, str], options: Options) -> str:
    """What is wrong with a name in a condition of which the type is not known."""
    if name in sources:
        return f"--where: expected {sources[name]}, the field that --map makes {name} of, found {name}"
    hint = nearest(name, list(types))
    if not hint or f'"{name}"' in options.where.text:
        hint = " (a string is in '...')"
    return f"--where: expected --field {name}:TYPE, as {name!r} is no key, value or event time, found none{hint}"
