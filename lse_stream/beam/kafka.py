"""Kafka topics as sources of rows and sinks of results, by Beam's own KafkaIO."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka, default_io_expansion_service
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput
from apache_beam.transforms.external import ExternalTransform, ImplicitSchemaPayloadBuilder
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ..errors import errors_of_writing
from ..files import check_mark, join, mark_of, whole_file
from ..messages import MAX_MESSAGE_BYTES, READERS, Fields, MessageError, dead_letter, result_messages
from ..state_column import STATE
from ..states.aggregations import LOGSUMEXP
from ..table_functions import finalize

# What is counted, and the output of messages that are no rows.
ROWS, MESSAGES, DEAD = "rows", "messages", "dead letters"

# A table is passed on when it has this many rows, so that its columns stay in a second-level cache, and at the latest
# at the end of its bundle.
MESSAGES_TABLE_ROWS = 1 << 16


@dataclass(frozen=True)
class Cluster:
    """How a Kafka cluster is reached.

    Attributes:
      config: of the clients, with "bootstrap.servers".
      expansion_service: "HOST:PORT" of Beam's Java expansion service; None to have Beam start its own.
    """

    config: Mapping[str, str]
    expansion_service: str | None = None


class ReadTopic(beam.PTransform[PBegin, PCollection[object]]):
    """The records of a topic, as rows with key, value, topic, partition, offset and timestamp (milliseconds).

    Their Beam timestamps are those of the records, and so is the watermark.

    Args:
      cluster: the consumer begins at the first record that there is, unless its "auto.offset.reset" says otherwise.
      topic: its name.
      max_records: read so many and end; None for ever.
    """

    def __init__(self, cluster: Cluster, topic: str, *, max_records: int | None = None) -> None:
        super().__init__()
        # Only the settings in use: an older KafkaIO refuses those that it does not know.
        settings: dict[str, object] = {
            # KafkaIO's own default, the end at the time when its workers are up, leaves out what came before.
            "consumer_config": {"auto.offset.reset": "earliest", **cluster.config},
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
    """The rows of a topic's messages as tables. Messages that are no rows go where dead letters go.

    Args:
      cluster, topic, max_records: as of ``ReadTopic``.
      fields, message_format, max_message_bytes: as of ``ReadMessages``.
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
        max_records: int | None = None,
        dead_letters: str | None = None,
        dead_letter_topic: str | None = None,
    ) -> None:
        super().__init__()
        self._read = ReadTopic(cluster, topic, max_records=max_records)
        self._parse = ReadMessages(fields, message_format, max_message_bytes)
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
    """Rows of Kafka's, with metadata, to tables; and to the output DEAD, as JSON, what is no such message.

    Args:
      fields: the columns.
      message_format: one of ``lse_stream.messages.READERS``.
      max_message_bytes: a longer message is a dead letter.
    """

    def __init__(self, fields: Fields, message_format: str, max_message_bytes: int) -> None:
        self._fields = fields
        self._read = READERS[message_format]
        self._max_message_bytes = max_message_bytes

    def setup(self) -> None:
        self._schema = self._fields.schema()
        self._counters = {name: Metrics.counter("lse_stream", name) for name in (MESSAGES, ROWS, DEAD)}

    def start_bundle(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._tables: list[pa.Table] = []
        self._num_rows = 0
        self._earliest: Timestamp | None = None

    def process(self, message: Any, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Any]:
        self._counters[MESSAGES].inc()
        try:
            payload = message.value
            if payload is None:
                raise MessageError("expected a payload, found none")
            if len(payload) > self._max_message_bytes:
                raise MessageError(
                    f"too large: expected at most {self._max_message_bytes:,} bytes, found {len(payload):,}"
                )
            found = self._read(payload, message.timestamp, self._fields)
        except MessageError as error:
            self._counters[DEAD].inc()
            yield TaggedOutput(DEAD, dead_letter(message, str(error)))
            return
        if isinstance(found, pa.Table):
            self._tables.append(found)
            self._num_rows += found.num_rows
        else:
            self._rows.append(found)
            self._num_rows += 1
        if self._earliest is None or timestamp < self._earliest:
            self._earliest = timestamp
        if self._num_rows >= MESSAGES_TABLE_ROWS:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._earliest is None:
            return
        tables = self._tables
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            tables = [*tables, pa.Table.from_arrays(arrays, schema=self._schema)]
        table = pa.concat_tables(tables)
        self._counters[ROWS].inc(table.num_rows)
        yield WindowedValue(table, self._earliest, (GlobalWindow(),))
        self.start_bundle()


class WriteLines(beam.DoFn):
    """Lines to a file per bundle, named after its content, so that a bundle that is tried again writes it again.

    A worker fails with a DataError where it does not see the mark that is in the directory now.
    """

    def __init__(self, directory: str) -> None:
        self._directory, self._mark = directory, mark_of(directory)

    def setup(self) -> None:
        check_mark(self._mark)

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
