"""Messages of a stream: JSON or Arrow to tables of rows, what is wrong with them aside, and results to JSON."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from lse_stream.parquet.files import is_local
from lse_stream.values import check_widenable, widen, widen_arrow, widen_scalar
from lse_stream.windows import EARLIEST, LATEST, event_times

# The column of event times that the tables have, whatever it is called in the messages.
EVENT_TIME = "event_time"

FORMATS = ("json", "arrow")
KEY_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
ROWS, MESSAGES, DEAD = "rows", "messages", "dead letters"

# A table goes on when it has so many rows, and at the latest at the end of its bundle.
TABLE_ROWS = 1 << 16

# Of a message that is too large, a dead letter holds the beginning: whole, it might not go into a topic either.
PAYLOAD_BYTES = 100_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_TYPE = pa.timestamp("us", "UTC")


class MessageError(ValueError):
    """A message from which no rows can be had; says what was expected and what was found."""


@dataclass(frozen=True)
class Fields:
    """Where in a message the rows' columns are.

    Attributes:
      keys: names and types of key columns.
      value: name of the column of numbers.
      event_time: name of the column of event times; None for the time of the Kafka record.
    """

    keys: dict[str, pa.DataType]
    value: str
    event_time: str | None

    def schema(self) -> pa.Schema:
        """Of the tables: keys, value, EVENT_TIME."""
        return pa.schema([*self.keys.items(), (self.value, pa.float64()), (EVENT_TIME, _TIME_TYPE)])


class ReadMessages(beam.DoFn):
    """Rows of Kafka's, with metadata, to tables; and to the output DEAD, as JSON, what is no such message.

    Args:
      fields: the columns.
      message_format: one of FORMATS. A JSON message is one row, an object; an Arrow one an IPC stream of any number.
      max_bytes: of a message.
    """

    def __init__(self, fields: Fields, message_format: str, max_bytes: int) -> None:
        self._fields = fields
        self._read = {"json": _read_json, "arrow": _read_arrow}[message_format]
        self._max_bytes = max_bytes

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
            if len(payload) > self._max_bytes:
                raise MessageError(f"too large: expected at most {self._max_bytes:,} bytes, found {len(payload):,}")
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
        if self._num_rows >= TABLE_ROWS:
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


def dead_letter(message: Any, reason: str) -> bytes:
    """What is kept of a bad message: reason, place and payload, as a line of JSON."""
    payload = message.value
    letter: dict[str, Any] = {"reason": reason}
    letter |= {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    letter["time"] = _json_value(_EPOCH + timedelta(milliseconds=message.timestamp))
    if payload is None:
        letter["payload"] = None
    else:
        letter["payload_bytes"] = len(payload)
        held = payload[:PAYLOAD_BYTES]
        try:
            letter["payload"] = held.decode()
        except UnicodeDecodeError:
            letter["payload_base64"] = base64.b64encode(held).decode()
    return _encode(letter)


# --- in ---------------------------------------------------------------------------------------------------------------


def _read_json(payload: bytes, record_millis: int, fields: Fields) -> tuple[Any, ...]:
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        raise MessageError("not JSON: expected an object in UTF-8, found something else") from None
    if not isinstance(message, dict):
        raise MessageError(f"expected a JSON object, found {_shown(message)}")
    keys = [
        _PARSERS[data_type](_field(message, name, "key"), f"key {name!r}") for name, data_type in fields.keys.items()
    ]
    value = _number(_field(message, fields.value, "value"), f"value {fields.value!r}")
    if fields.event_time is None:
        return *keys, value, _record_micros(record_millis)
    found = _field(message, fields.event_time, "event time")
    micros = _micros(found, f"event time {fields.event_time!r}")
    if not EARLIEST <= micros <= LATEST:
        raise MessageError(
            f"event time {fields.event_time!r}: expected a time that Beam can hold, found {_shown(found)}"
        )
    return *keys, value, micros


def _record_micros(millis: int) -> int:
    if not EARLIEST <= 1000 * millis <= LATEST:
        raise MessageError(f"timestamp of the record: expected a time that Beam can hold, found {millis} ms")
    return 1000 * millis


def _field(message: dict[str, Any], name: str, what: str) -> Any:
    if name not in message:
        raise MessageError(f"{what} {name!r}: expected the field, found none")
    return message[name]


def _number(found: Any, what: str) -> float:
    if isinstance(found, str) and found in _SPECIAL:
        return _SPECIAL[found]
    try:
        return widen_scalar(found)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"{what}: expected a number that float64 holds, found {_shown(found)}") from error


def _string(found: Any, what: str) -> str:
    if isinstance(found, str) and not any("\ud800" <= letter <= "\udfff" for letter in found):
        return found
    raise MessageError(f"{what}: expected a string of Unicode, found {_shown(found)}")


def _integer(found: Any, what: str) -> int:
    if isinstance(found, int) and not isinstance(found, bool) and -(2**63) <= found < 2**63:
        return found
    raise MessageError(f"{what}: expected an integer of 64 bits, found {_shown(found)}")


def _boolean(found: Any, what: str) -> bool:
    if isinstance(found, bool):
        return found
    raise MessageError(f"{what}: expected true or false, found {_shown(found)}")


def _date(found: Any, what: str) -> date:
    try:
        return date.fromisoformat(found)
    except (TypeError, ValueError):
        raise MessageError(f"{what}: expected a date such as 2017-09-05, found {_shown(found)}") from None


def _micros(found: Any, what: str) -> int:
    """Microseconds since 1970 of milliseconds, or of text as ISO 8601 has it; in UTC where it names no zone."""
    if isinstance(found, int) and not isinstance(found, bool):
        micros = found * 1000
        if -(2**63) <= micros < 2**63:
            return micros
    elif isinstance(found, str):
        try:
            time = datetime.fromisoformat(found)
        except ValueError:
            pass
        else:
            return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
    raise MessageError(f"{what}: expected milliseconds since 1970 or a time as in ISO 8601, found {_shown(found)}")


_SPECIAL = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_PARSERS: dict[pa.DataType, Callable[[Any, str], Any]] = {
    KEY_TYPES["string"]: _string,
    KEY_TYPES["int64"]: _integer,
    KEY_TYPES["bool"]: _boolean,
    KEY_TYPES["date"]: _date,
    KEY_TYPES["timestamp"]: _micros,
}


def _read_arrow(payload: bytes, record_millis: int, fields: Fields) -> pa.Table:
    try:
        table = pa.ipc.open_stream(payload).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        raise MessageError("not Arrow: expected a whole IPC stream, found something else") from None
    columns: list[pa.ChunkedArray] = []
    for name, data_type in fields.keys.items():
        column = _column(table, name, "key")
        if column.type != data_type:
            raise MessageError(f"key {name!r}: expected a column of {data_type}, found {column.type}")
        columns.append(column)
    value = _column(table, fields.value, "value")
    try:
        check_widenable(value.type, f"value {fields.value!r}")
        valid = value.is_valid()
        parts = [widen(array, f"value {fields.value!r}") for array in widen_arrow(value, f"value {fields.value!r}")]
        numbers = np.zeros(table.num_rows)
        numbers[valid.to_numpy()] = np.concatenate([np.zeros(0), *parts])
    except (TypeError, ValueError) as error:
        raise MessageError(str(error)) from None
    columns.append(pa.chunked_array([pa.array(numbers, mask=~valid.to_numpy())]))
    if fields.event_time is None:
        times = pa.repeat(pa.scalar(_record_micros(record_millis), _TIME_TYPE), table.num_rows)
    else:
        try:
            micros = event_times(_column(table, fields.event_time, "event time"), fields.event_time)
        except (TypeError, ValueError) as error:
            raise MessageError(str(error)) from None
        times = pa.array(micros).cast(_TIME_TYPE)
    return pa.Table.from_arrays([*columns, times], schema=fields.schema())


def _column(table: pa.Table, name: str, what: str) -> pa.ChunkedArray:
    if table.column_names.count(name) != 1:
        raise MessageError(
            f"{what} {name!r}: expected the column once, found {', '.join(table.column_names) or 'none'}"
        )
    return table.column(name)


def _shown(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- out --------------------------------------------------------------------------------------------------------------


def result_messages(
    table: pa.Table, keys: Sequence[str], columns: Iterable[str], pane: Any
) -> Iterator[tuple[bytes, bytes]]:
    """Kafka keys and values of the results of a pane, row by row.

    The Kafka key is that of the row, with its window: a compacted topic keeps the last pane.
    """
    times = {name: [_json_value(time) for time in table[name].to_pylist()] for name in ("window_start", "window_end")}
    values = {name: [_json_value(value) for value in table[name].to_pylist()] for name in columns}
    for i, key in enumerate(table.select(list(keys)).to_pylist() if keys else [{}] * table.num_rows):
        place = {"key": {name: _json_value(value) for name, value in key.items()}}
        place |= {name: column[i] for name, column in times.items()}
        timing = {0: "EARLY", 1: "ON_TIME", 2: "LATE"}.get(pane.timing, "UNKNOWN")
        result = {name: column[i] for name, column in values.items()} | {"timing": timing, "pane": pane.index}
        yield _encode(place), _encode(place | result)


def _json_value(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return str(value)


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


class WriteLines(beam.DoFn):
    """Lines to a file per bundle, named after its content, so that a bundle that is tried again writes it again."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def start_bundle(self) -> None:
        self._lines: list[bytes] = []

    def process(self, line: bytes) -> None:
        self._lines.append(line)

    def finish_bundle(self) -> None:
        if not self._lines:
            return
        data = b"".join(line + b"\n" for line in self._lines)
        name = f"dead-letters-{hashlib.sha256(data).hexdigest()[:16]}.jsonl"
        path = FileSystems.join(self._directory, name)
        written = FileSystems.join(self._directory, f".{name}.{os.urandom(8).hex()}") if is_local(path) else path
        with FileSystems.create(written, compression_type=CompressionTypes.UNCOMPRESSED) as sink:
            sink.write(data)
        if written != path:
            os.replace(written, path)
