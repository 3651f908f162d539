"""Kafka topics as sources of rows and sinks of results, by Beam's own KafkaIO."""

import hashlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka, default_io_expansion_service
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput
from apache_beam.transforms.external import ExternalTransform, ImplicitSchemaPayloadBuilder
from apache_beam.transforms.window import FixedWindows, GlobalWindow, Sessions, SlidingWindows
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ..errors import errors_of_writing
from ..event_times import Micros, event_times
from ..files import check_mark, join, mark_of, whole_file
from ..messages import EVENT_TIME, MAX_MESSAGE_BYTES, Fields, dead_letter, result_messages, rows_of
from ..state_column import STATE
from ..states.aggregations import LOGSUMEXP
from ..table_functions import finalize
from .version import Version
from .windows import first_ends

# What is counted, in the namespace lse_stream; and the output of messages that are no rows, or whose rows are late.
ROWS, MESSAGES, DEAD, LATE = "rows_read", "messages_read", "dead_letters", "late_rows"

# Seconds that windows are kept beyond the time from which on their rows are late by ``Lateness``, which knows of no
# watermark but the times of the records: a runner's own may be further, where a partition had no records for so long.
KEPT_LONGER = 600.0

# Messages are read together, so many or so many bytes of them, and at the latest at the end of their bundle.
MANY_MESSAGES, MANY_BYTES = 1 << 13, 1 << 23


@dataclass(frozen=True)
class Cluster:
    """How a Kafka cluster is reached.

    Attributes:
      config: of the clients, with "bootstrap.servers".
      expansion_service: "HOST:PORT" of Beam's Java expansion service; None to have Beam start its own.
    """

    config: Mapping[str, str]
    expansion_service: str | None = None


@dataclass(frozen=True)
class Lateness:
    """Which rows come too late. Durations are in seconds.

    A row is late when a record that came before it in its partition, or its own, has a time beyond the end of the
    earliest of its windows by ``max_out_of_orderness`` and ``allowed_lateness``; by the clock, if that is earlier. It
    counts in all of its windows or in none.

    Attributes:
      windowfn: fixed, sliding or session windows.
      max_out_of_orderness, allowed_lateness: of the windows that follow.
    """

    windowfn: FixedWindows | SlidingWindows | Sessions
    max_out_of_orderness: float
    allowed_lateness: float

    def kept(self) -> int:
        """How long after the end of a window its rows are not late, in microseconds."""
        return round(1e6 * (self.max_out_of_orderness + self.allowed_lateness))


class ReadTopic(beam.PTransform[PBegin, PCollection[object]]):
    """The records of a topic, as rows with key, value, topic, partition, offset and timestamp (milliseconds).

    Their Beam timestamps are those of the records, and so is the watermark: that of a partition is the newest of its
    records, and the clock where there are no more, but never beyond the clock. Records of transactions are read when
    they are committed, unless the setting "isolation.level" says otherwise.

    Args:
      cluster: the consumer begins at the first record that there is, unless its "auto.offset.reset" says otherwise. For
        a stream without an end each partition must have one; and a job that goes on fails where the record with which
        to go on was deleted meanwhile.
      topic: its name.
      log_append_time: whether the broker stamps the topic's records, and not their producers.
      max_records: read so many and end; None for ever.
    """

    def __init__(
        self, cluster: Cluster, topic: str, *, log_append_time: bool = False, max_records: int | None = None
    ) -> None:
        super().__init__()
        # The last one, of Kafka's own 500, so that the reader does not wait between as few: a fetch has a megabyte of
        # each partition at most.
        config = {"isolation.level": "read_committed", "auto.offset.reset": "earliest", "max.poll.records": "10000"}
        config |= cluster.config
        policy = ReadFromKafka.log_append_time if log_append_time else ReadFromKafka.create_time_policy
        # Only the settings in use: an older KafkaIO refuses those that it does not know.
        settings: dict[str, object] = {
            "topics": [topic],
            "key_deserializer": ReadFromKafka.byte_array_deserializer,
            "value_deserializer": ReadFromKafka.byte_array_deserializer,
            "commit_offset_in_finalize": False,
            "timestamp_policy": policy,
        }
        if max_records is not None:
            settings["max_num_records"] = max_records
        elif "auto.offset.reset" not in cluster.config:
            # KafkaIO looks the first record up by its time, and where its offset is gone later on, the client says so.
            settings["start_read_time"] = 0
            config["auto.offset.reset"] = "none"
        settings["consumer_config"] = config
        self._read = ExternalTransform(
            ReadFromKafka.URN_WITH_METADATA,
            ImplicitSchemaPayloadBuilder(settings),
            cluster.expansion_service or default_io_expansion_service(),
        )

    def expand(self, pbegin: PBegin) -> PCollection[object]:
        records: PCollection[object] = pbegin | self._read
        return records


class WriteTopic(beam.PTransform[PCollection[tuple[bytes, bytes]], PCollection[None]]):
    """Writes (key, value) pairs to a topic, each at least once."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        super().__init__()
        self._write = WriteToKafka(
            producer_config=dict(cluster.config), topic=topic, expansion_service=cluster.expansion_service
        )

    def expand(self, messages: PCollection[tuple[bytes, bytes]]) -> PCollection[None]:
        written: PCollection[None] = messages | self._write
        return written


class ReadRows(beam.PTransform[PBegin, PCollection[pa.Table]]):
    """The rows of a topic's messages as tables. Messages that are no rows, or have late ones, go where dead letters go.

    Args:
      cluster, topic, log_append_time, max_records: as of ``ReadTopic``.
      fields, message_format, max_message_bytes, lateness, directories: as of ``ReadMessages``.
      dead_letters: a directory for files of them, which exists; None for none.
      dead_letter_topic: a topic for them; None for none.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        fields: Fields,
        *,
        message_format: str = "json",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        lateness: Lateness | None = None,
        directories: Sequence[str] = (),
        log_append_time: bool = False,
        max_records: int | None = None,
        dead_letters: str | None = None,
        dead_letter_topic: str | None = None,
    ) -> None:
        super().__init__()
        self._read = ReadTopic(cluster, topic, log_append_time=log_append_time, max_records=max_records)
        self._parse = ReadMessages(fields, message_format, max_message_bytes, lateness, directories)
        self._to_files = None if dead_letters is None else WriteLines(dead_letters)
        self._to_topic = None if dead_letter_topic is None else WriteTopic(cluster, dead_letter_topic)

    def expand(self, pbegin: PBegin) -> PCollection[pa.Table]:
        read = beam.ParDo(self._parse).with_outputs(DEAD, main="tables")
        outputs = pbegin | "ReadTopic" >> self._read | "ReadMessages" >> read
        letters = outputs[DEAD]
        letters.element_type = bytes
        if self._to_topic is not None:
            keyless = beam.Map(lambda line: (b"", line)).with_output_types(tuple[bytes, bytes])
            letters | "Keyless" >> keyless | "DeadLetterTopic" >> self._to_topic
        if self._to_files is not None:
            letters | "DeadLetters" >> beam.ParDo(self._to_files)
        tables: PCollection[pa.Table] = outputs["tables"]
        tables.element_type = pa.Table
        return tables


class ReadMessages(beam.DoFn):
    """Rows of Kafka's, with metadata, to tables; and to the output DEAD, as JSON, what is no such message, or is late.

    Args:
      fields: the columns.
      message_format: one of ``lse_stream.messages.READERS``.
      max_message_bytes: a longer message is a dead letter.
      lateness: which rows are late; None for none.
      directories: of what is written afterwards. Workers that do not see their marks fail with a DataError ahead of any
        row.
    """

    def __init__(
        self,
        fields: Fields,
        message_format: str,
        max_message_bytes: int,
        lateness: Lateness | None = None,
        directories: Sequence[str] = (),
    ) -> None:
        self._fields = fields
        self._format = message_format
        self._max_message_bytes = max_message_bytes
        self._lateness = lateness
        self._marks = [mark_of(directory) for directory in directories]
        self._version, self._id = Version(), uuid.uuid4().hex

    def setup(self) -> None:
        self._counters = {name: Metrics.counter("lse_stream", name) for name in (MESSAGES, ROWS, DEAD, LATE)}
        self._kept = 0 if self._lateness is None else self._lateness.kept()

    def start_bundle(self) -> None:
        # Not in ``setup``: of a fault there Flink's runner of Beam 2.62 waits for ever.
        self._version.check()
        for mark in self._marks:
            check_mark(mark)
        self._held: list[Any] = []
        self._bytes = 0

    def process(self, message: Any) -> Iterable[Any]:
        self._held.append(message)
        self._bytes += len(message.value or b"")
        return self._read_held() if len(self._held) >= MANY_MESSAGES or self._bytes >= MANY_BYTES else ()

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._read_held()

    def _read_held(self) -> Iterator[Any]:
        """Reads the messages that were held, together: that takes a third of the time."""
        messages, self._held, self._bytes = self._held, [], 0
        if not messages:
            return
        self._counters[MESSAGES].inc(len(messages))
        newest = self._newest_until(messages)
        reasons = {number: why for number, each in enumerate(messages) if (why := self._why_unread(each.value))}
        read = [number for number in range(len(messages)) if number not in reasons]
        payloads, millis = [messages[i].value for i in read], [messages[i].timestamp for i in read]
        rows = rows_of(self._format, payloads, millis, self._fields)
        reasons |= {read[number]: why for number, why in rows.faults.items()}
        numbers = np.array(read, np.int64)[rows.messages]
        table, late = self._in_time(rows.table, numbers, newest)
        reasons |= late
        self._counters[DEAD].inc(len(reasons))
        for number, why in sorted(reasons.items()):
            letter = dead_letter(messages[number], why)
            yield TaggedOutput(DEAD, WindowedValue(letter, _time_of(messages[number]), (GlobalWindow(),)))
        if table.num_rows:
            self._counters[ROWS].inc(table.num_rows)
            earliest = min(messages, key=attrgetter("timestamp"))  # so that no row is late by it
            yield WindowedValue(table, _time_of(earliest), (GlobalWindow(),))

    def _why_unread(self, payload: bytes | None) -> str | None:
        """The reason why a payload is not read at all."""
        if payload is None:
            return "expected a payload, found none"
        if len(payload) > self._max_message_bytes:
            return f"too large: expected at most {self._max_message_bytes:,} bytes, found {len(payload):,}"
        return None

    def _newest_until(self, messages: Sequence[Any]) -> Micros:
        """Of each message the newest time of a record of its partition so far, and no later than now."""
        now = time.time_ns() // 1000
        of_partitions = _newest.setdefault(self._id, {})
        newest = []
        for message in messages:
            partition, found = message.partition, min(1000 * message.timestamp, now)
            of_partitions[partition] = found = max(found, of_partitions.get(partition, found))
            newest.append(found)
        return np.array(newest, np.int64)

    def _in_time(
        self, table: pa.Table, numbers: npt.NDArray[np.int64], newest: Micros
    ) -> tuple[pa.Table, dict[int, str]]:
        """The rows that are not late, and why others are, by their message; each row with the message's number."""
        if self._lateness is None:
            return table, {}
        times = event_times(table.column(EVENT_TIME), EVENT_TIME)
        late = first_ends(self._lateness.windowfn, times) + self._kept <= newest[numbers]
        if not late.any():
            return table, {}
        self._counters[LATE].inc(int(late.sum()))
        reasons = {}
        for number in np.unique(numbers[late]).tolist():
            of_message = numbers == number
            when = f"{datetime.fromtimestamp(newest[number] / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}"
            reasons[number] = (
                f"late: expected rows of windows that are open, found {(late & of_message).sum():,} of "
                f"{of_message.sum():,} in windows that were closed for good before {when}"
            )
        return table.filter(pa.array(~late)), reasons


def _time_of(message: Any) -> Timestamp:
    """That of a record, as Beam has times."""
    return min(max(Timestamp(micros=1000 * message.timestamp), MIN_TIMESTAMP), MAX_TIMESTAMP)


# Of each job, by partition, the newest time of a record, in microseconds since 1970: Beam may have a worker's bundles
# processed by several instances of a DoFn.
_newest: dict[str, dict[int, int]] = {}


class WriteLines(beam.DoFn):
    """Lines to a file per bundle, named after its content, so that a bundle that is tried again writes it again.

    A worker fails with a DataError where it does not see the mark that is in the directory now.
    """

    def __init__(self, directory: str) -> None:
        self._directory, self._mark = directory, mark_of(directory)

    def start_bundle(self) -> None:
        self._lines: list[bytes] = []

    def process(self, line: bytes) -> None:
        self._lines.append(line)

    def finish_bundle(self) -> None:
        if not self._lines:
            return
        data = b"".join(line + b"\n" for line in self._lines)
        name = f"dead-letters-{hashlib.sha256(data).hexdigest()[:16]}.jsonl"
        path = join(self._directory, name)
        check_mark(self._mark)  # a disk may have come or gone since
        with errors_of_writing(path), whole_file(path) as sink:
            sink.write(data)


class ToMessages(beam.DoFn):
    """(shard, table of states) of a pane to the messages of its rows."""

    def __init__(self, keys: list[str], *, keep_state: bool) -> None:
        self._keys = keys
        self._keep_state = keep_state

    def process(
        self, element: tuple[int, pa.Table], pane: Any = beam.DoFn.PaneInfoParam
    ) -> Iterator[tuple[bytes, bytes]]:
        _, table = element
        results = finalize(table, keep_state=self._keep_state)
        columns = [*LOGSUMEXP.columns, STATE] if self._keep_state else LOGSUMEXP.columns
        yield from result_messages(results, self._keys, columns, pane)
