"""Messages of a Kafka topic: rows from JSON or Arrow, the reason where there are none, and results to JSON."""

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .buffers import array_of, numbers_of
from .coarsening import Coarsening
from .columns import column_at, field_path, without_views
from .event_times import WINDOW, Micros, check_years, event_times, is_in_years
from .float64 import column_to_float64_exact, to_float_exact
from .predicates import Condition

Ints = npt.NDArray[np.int64]
T = TypeVar("T")

# The column of event times of the tables, whatever it is called in the messages.
EVENT_TIME = "event_time"

KEY_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
# A longer message is a dead letter: far beyond the megabyte that brokers take by default, and little for a worker.
MAX_MESSAGE_BYTES = 1 << 24

# Of a message that is too large, a dead letter holds the beginning: whole, it might not go into a topic either, whose
# brokers take a megabyte by default.
PAYLOAD_BYTES = 100_000

# Of a value that does not fit, an error shows at most this many characters.
SHOWN = 80

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_TYPE = pa.timestamp("us", "UTC")
_IN_YEARS = "that is, with its windows, in the years 1 to 9999"


class MessageError(ValueError):
    """A message from which no rows can be had; says what was expected and what was found."""


@dataclass(frozen=True)
class Fields:
    """Where in a message the rows' columns are, which rows are read, and what becomes of their keys.

    A name that no column or field has, such as "nest.k", is that of a field of one.

    Attributes:
      keys: names and types of key columns.
      value: name of the column of numbers.
      event_time: name of the column of event times; None for the time of the Kafka record.
      room: how far the windows of an event time may reach from it, in microseconds; they stay in the years 1 to 9999.
      where: of the rows those for which it is true; None for all. Of others nothing but what it needs is looked at.
        A field that a JSON object does not have is null to it, and without ``event_time`` the record's time is
        EVENT_TIME.
      asked: the names and types, in JSON, of the fields that it needs.
      coarsening: what becomes of the keys of rows that were read.
    """

    keys: dict[str, pa.DataType]
    value: str
    event_time: str | None
    room: int = 0
    where: Condition | None = None
    asked: Mapping[str, pa.DataType] = field(default_factory=dict)
    coarsening: Coarsening = field(default_factory=Coarsening)

    def schema(self) -> pa.Schema:
        """Of the rows as they are read: keys, value, EVENT_TIME."""
        return pa.schema([*self.keys.items(), (self.value, pa.float64()), (EVENT_TIME, _TIME_TYPE)])


def dead_letter(message: Any, reason: str) -> bytes:
    """What is kept of a bad message: reason, place, time and payload, as a line of JSON.

    The time is that of the record: as ISO 8601, or in milliseconds since 1970 where it is not in the years 1 to 9999.
    """
    payload = message.value
    letter: dict[str, Any] = {"reason": reason}
    letter |= {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    is_time = is_in_years(1000 * message.timestamp)
    letter["time"] = _json_value(_EPOCH + timedelta(milliseconds=message.timestamp)) if is_time else message.timestamp
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


def read_json(payload: bytes, record_millis: int, fields: Fields) -> tuple[Any, ...]:
    """The row of a message, in the order of ``fields.schema()``; raises MessageError where it has none."""
    message = _object(payload, json.loads)
    keys = [
        _PARSERS[data_type](_field(message, name, "key"), f"key {name!r}") for name, data_type in fields.keys.items()
    ]
    value = _number(_field(message, fields.value, "value"), f"value {fields.value!r}")
    if fields.event_time is None:
        return *keys, value, _record_micros(record_millis, fields.room)
    found = _field(message, fields.event_time, "event time")
    return *keys, value, _micros(found, f"event time {fields.event_time!r}", fields.room)


def _object(payload: bytes, decode: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        message = decode(payload)
    except (ValueError, RecursionError):
        if decode is not json.loads:  # which takes more
            return _object(payload, json.loads)
        raise MessageError("not JSON: expected an object in UTF-8, found something else") from None
    if not isinstance(message, dict):
        raise MessageError(f"expected a JSON object, found {_shown(message)}")
    return message


def _record_micros(millis: int, room: int) -> int:
    if not is_in_years(1000 * millis, room):
        raise MessageError(f"time of the record: expected one {_IN_YEARS}, found {millis} ms since 1970")
    return 1000 * millis


def _field(message: dict[str, Any], name: str, what: str) -> Any:
    try:
        return _getter(name)(message)
    except (KeyError, TypeError):
        raise MessageError(f"{what} {name!r}: expected the field, found none") from None


@cache
def _getter(name: str) -> Callable[[dict[str, Any]], Any]:
    """What gets a field of a JSON object; it raises KeyError or TypeError where there is none."""
    if "." not in name:
        return itemgetter(name)

    def nested(message: dict[str, Any]) -> Any:
        if name in message:
            return message[name]
        found: Any = message
        for part in name.split("."):
            if not isinstance(found, dict):
                raise KeyError(name)
            found = found[part]
        return found

    return nested


def _number(found: Any, what: str) -> float:
    if isinstance(found, str) and found in _SPECIAL:
        return _SPECIAL[found]
    try:
        return to_float_exact(found)
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


def _micros(found: Any, what: str, room: int = 0) -> int:
    """Microseconds since 1970 of milliseconds, or of text as ISO 8601 has it; in UTC where it names no zone."""
    if isinstance(found, int) and not isinstance(found, bool):
        micros = found * 1000
    else:
        try:
            time = datetime.fromisoformat(found)
        except (TypeError, ValueError):
            raise MessageError(
                f"{what}: expected milliseconds since 1970 or a time as in ISO 8601, found {_shown(found)}"
            ) from None
        micros = ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
    if not is_in_years(micros, room):
        raise MessageError(f"{what}: expected a time {_IN_YEARS}, found {_shown(found)}")
    return micros


# Of keys whose values JSON has as they are.
_PLAIN = {KEY_TYPES["string"]: str, KEY_TYPES["int64"]: int, KEY_TYPES["bool"]: bool}
_SPECIAL = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_PARSERS: dict[pa.DataType, Callable[[Any, str], Any]] = {
    KEY_TYPES["string"]: _string,
    KEY_TYPES["int64"]: _integer,
    KEY_TYPES["float64"]: _number,
    KEY_TYPES["bool"]: _boolean,
    KEY_TYPES["date"]: _date,
    KEY_TYPES["timestamp"]: _micros,
}


def read_arrow(payload: bytes, record_millis: int, fields: Fields) -> pa.Table:
    """The rows of a message, of the schema ``fields.schema()``; raises MessageError where there is a fault in it."""
    return _rows_of_arrow(
        _opened(payload), lambda rows: np.full(rows.size, _record_micros(record_millis, fields.room)), fields
    )[0]


def _opened(payload: bytes) -> pa.Table:
    try:
        table = pa.ipc.open_stream(payload).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        raise MessageError("not Arrow: expected a whole IPC stream, found something else") from None
    return table


def _rows_of_arrow(
    table: pa.Table, times_of_records: Callable[[Ints], Micros], fields: Fields
) -> tuple[pa.Table, Ints]:
    """The rows that are chosen of a message, or of several with columns of the same types; and which they were.

    Args:
      times_of_records: gives those of rows (n,).
    """
    rows = np.arange(table.num_rows)
    if fields.where is not None:
        with _errors_of_arrow(f"condition {fields.where.text!r}: "):
            asked = {
                name: pa.array(times_of_records(rows)).cast(_TIME_TYPE)
                if fields.event_time is None and name == EVENT_TIME
                else _message_column(table, name, "field")
                for name in fields.where.columns
            }
            rows = _rows_where(pa.table(asked), fields.where)
        if not rows.size:
            return pa.Table.from_batches([], fields.schema()), rows
    with _errors_of_arrow("" if fields.where is None else "of the rows chosen, "):
        columns = [_key_column(table, name, data_type) for name, data_type in fields.keys.items()]
        columns.append(_message_column(table, fields.value, "value"))
        if fields.event_time is not None:
            columns.append(_message_column(table, fields.event_time, "event time"))
        if fields.where is not None:
            read = without_views(pa.Table.from_arrays(columns, [*map(str, range(len(columns)))]))
            columns = read.take(array_of(rows)).columns
        keys, value = columns[: len(fields.keys)], columns[len(fields.keys)]
        for name, column in zip(fields.keys, keys, strict=True):
            if pa.types.is_temporal(column.type):
                _column_micros(column.drop_null(), name)
        valid = value.is_valid().to_numpy()
        numbers = np.zeros(rows.size)
        numbers[valid] = column_to_float64_exact(value, f"value {fields.value!r}")
        if fields.event_time is None:
            micros = times_of_records(rows)
        else:
            micros = _column_micros(columns[-1], fields.event_time, fields.room)
        read_columns = [*keys, pa.array(numbers, mask=~valid), pa.array(micros).cast(_TIME_TYPE)]
        return pa.Table.from_arrays(read_columns, schema=fields.schema()), rows


@contextmanager
def _errors_of_arrow(place: str) -> Iterator[None]:
    """Raises MessageError for whatever is wrong with columns, which may be of any type that Arrow knows."""
    try:
        yield
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise MessageError(f"{place}{error}") from None


def _rows_where(table: pa.Table, where: Condition) -> Ints:
    """The numbers of the rows of a table that a condition is true for."""
    rows = array_of(np.arange(table.num_rows))
    return numbers_of(rows.filter(where.of(table.schema).mask(table).combine_chunks()))


def _key_column(table: pa.Table, name: str, data_type: pa.DataType) -> pa.ChunkedArray:
    column = _message_column(table, name, "key")
    if column.type != data_type:
        raise MessageError(f"key {name!r}: expected a column of {data_type}, found {column.type}")
    return column


def _column_micros(column: pa.ChunkedArray, name: str, room: int = 0) -> Micros:
    micros = event_times(column, name)
    check_years(micros, name, room)
    return micros


def _message_column(table: pa.Table, name: str, what: str) -> pa.ChunkedArray:
    if field_path(table.schema, name) is None:
        raise MessageError(
            f"{what} {name!r}: expected the column once, found {', '.join(table.column_names) or 'none'}"
        )
    return column_at(table, name)


def _shown(found: Any) -> str:
    try:
        text = repr(found)
    except RecursionError:
        text = f"a {type(found).__name__} of many levels"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


class Rows(NamedTuple):
    """Of messages (n,).

    Attributes:
      table: their rows, of the schema ``Fields.schema()``.
      messages: the number of the message of each row, int64 (rows,).
      faults: why a message has none, by its number.
    """

    table: pa.Table
    messages: Ints
    faults: dict[int, str]


def rows_of(message_format: str, payloads: Sequence[bytes], record_millis: Sequence[int], fields: Fields) -> Rows:
    """The rows of messages of a format of ``READERS`` that are chosen, with their keys as they are to come out."""
    return _coarsened(READERS[message_format](payloads, record_millis, fields), fields.coarsening)


def _coarsened(rows: Rows, coarsening: Coarsening) -> Rows:
    """The rows with their keys changed; messages of which one cannot be are found by halves."""
    try:
        return rows._replace(table=coarsening(rows.table))
    except (ValueError, pa.ArrowException) as error:
        first, last = rows.messages[[0, -1]].tolist()
        if first == last:
            none = rows.table.slice(0, 0)
            return Rows(coarsening(none), rows.messages[:0], {**rows.faults, first: str(error)})
    half = int(np.searchsorted(rows.messages, (first + last) // 2, side="right"))
    parts = [
        _coarsened(Rows(rows.table.slice(start, size), rows.messages[start : start + size], {}), coarsening)
        for start, size in ((0, half), (half, rows.table.num_rows - half))
    ]
    faults = rows.faults | parts[0].faults | parts[1].faults
    return Rows(
        pa.concat_tables([part.table for part in parts]), np.concatenate([part.messages for part in parts]), faults
    )


def rows_of_json(payloads: Sequence[bytes], record_millis: Sequence[int], fields: Fields) -> Rows:
    """The rows of messages, each of which is one as a JSON object. They are what ``read_json`` gives, one by one."""
    if fields.where is None:
        return _all_of_json(payloads, record_millis, fields)
    asked, numbers, unread = _one_by_one(_asked_of_json, payloads, record_millis, fields)
    table = _table_of(asked, pa.schema(fields.asked.items()))
    chosen = numbers[_rows_where(table, fields.where)]
    rows = _all_of_json([payloads[i] for i in chosen], [record_millis[i] for i in chosen], fields)
    faults = unread | {int(chosen[number]): why for number, why in rows.faults.items()}
    return Rows(rows.table, chosen[rows.messages], faults)


def _one_by_one(
    read: Callable[[bytes, int, Fields], T], payloads: Sequence[bytes], record_millis: Sequence[int], fields: Fields
) -> tuple[list[T], Ints, dict[int, str]]:
    """What is read of each message, the numbers of these, and why there is nothing of others, by their numbers."""
    found, numbers, faults = [], [], {}
    for number, (payload, millis) in enumerate(zip(payloads, record_millis, strict=True)):
        try:
            found.append(read(payload, millis, fields))
            numbers.append(number)
        except MessageError as error:
            faults[number] = str(error)
    return found, np.array(numbers, np.int64), faults


def _asked_of_json(payload: bytes, record_millis: int, fields: Fields) -> tuple[Any, ...]:
    """What the condition has to know of a message, in the order of ``fields.asked``."""
    message = _object(payload, _json_decoder())
    found: list[Any] = []
    for name, data_type in fields.asked.items():
        if fields.event_time is None and name == EVENT_TIME:
            found.append(_record_micros(record_millis, fields.room))
            continue
        try:
            value = _getter(name)(message)
        except (KeyError, TypeError):
            value = None
        found.append(None if value is None else _PARSERS[data_type](value, f"field {name!r}"))
    return tuple(found)


def _table_of(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = [pa.array([row[i] for row in rows], data_type) for i, data_type in enumerate(schema.types)]
    return pa.Table.from_arrays(columns, schema=schema)


def _all_of_json(payloads: Sequence[bytes], record_millis: Sequence[int], fields: Fields) -> Rows:
    columns = _columns_of_json(payloads, record_millis, fields)
    if columns is not None:
        return Rows(pa.Table.from_arrays(columns, schema=fields.schema()), np.arange(len(payloads)), {})
    rows, numbers, faults = _one_by_one(read_json, payloads, record_millis, fields)
    return Rows(_table_of(rows, fields.schema()), numbers, faults)


def _columns_of_json(payloads: Sequence[bytes], record_millis: Sequence[int], fields: Fields) -> list[pa.Array] | None:
    """The columns of messages, all at once; None where one has to be looked at by itself.

    A message by itself takes 5 us, most of it for the checks.
    """
    decode = _json_decoder()
    try:
        found = [decode(payload) for payload in payloads]
        arrays = [_key_array([*map(_getter(name), found)], data_type) for name, data_type in fields.keys.items()]
        arrays.append(pa.array(_value_array([*map(_getter(fields.value), found)])))
        if fields.event_time is None:
            micros = np.array([_record_micros(millis, fields.room) for millis in record_millis], np.int64)
        else:
            micros = _micros_array([*map(_getter(fields.event_time), found)], fields.event_time, fields.room)
    # Of the decoder, of a field that is not there, of what is no object, and of a value that does not fit.
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, pa.ArrowException):
        return None
    return [*arrays, pa.array(micros).cast(_TIME_TYPE)]


@cache
def _json_decoder() -> Callable[[bytes], Any]:
    try:
        import msgspec
    except ImportError:  # it is an extra: ten times as fast as Python's own, which takes more
        return json.loads
    return msgspec.json.decode


def _key_array(column: list[Any], data_type: pa.DataType) -> pa.Array:
    plain = _PLAIN.get(data_type)
    if plain is None:
        parse = _PARSERS[data_type]
        column = [parse(found, "") for found in column]
    elif {*map(type, column)} - {plain}:
        raise TypeError
    return pa.array(column, data_type)


def _value_array(column: list[Any]) -> npt.NDArray[np.float64]:
    types = {*map(type, column)}
    if str in types:
        column = [_SPECIAL[found] if type(found) is str else found for found in column]
    if types - {int, float, str}:
        raise TypeError
    numbers = np.array(column, np.float64)
    if int in types and (np.isfinite(numbers) & (np.abs(numbers) >= 2**53)).any():
        raise OverflowError  # a float may be so large, but an integer may have been rounded
    return numbers


def _micros_array(column: list[Any], name: str, room: int) -> Micros:
    if {*map(type, column)} - {int}:
        return np.array([_micros(found, "", room) for found in column], np.int64)
    millis = np.array(column, np.int64)
    if ((millis > 2**52) | (millis < -(2**52))).any():
        raise OverflowError
    micros: Micros = 1000 * millis
    check_years(micros, name, room)
    return micros


def rows_of_arrow(payloads: Sequence[bytes], record_millis: Sequence[int], fields: Fields) -> Rows:
    """The rows of messages, each of which is an Arrow IPC stream. They are what ``read_arrow`` gives, one by one."""
    try:
        tables = [_opened(payload) for payload in payloads]
        if tables and all(table.schema.equals(tables[0].schema) for table in tables):
            numbers = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])

            def times_of_records(rows: Ints) -> Micros:
                times = np.zeros(len(tables), np.int64)
                for number in np.unique(numbers[rows]).tolist():
                    times[number] = _record_micros(record_millis[number], fields.room)
                return times[numbers[rows]]

            table, rows = _rows_of_arrow(pa.concat_tables(tables), times_of_records, fields)
            return Rows(table, numbers[rows], {})
    except MessageError:
        pass  # of one of them, or as dictionaries of several do not go together
    tables, numbers, faults = _one_by_one(read_arrow, payloads, record_millis, fields)
    together = pa.concat_tables([pa.Table.from_batches([], fields.schema()), *tables])
    return Rows(together, np.repeat(numbers, [table.num_rows for table in tables]), faults)


# What a message may be: a row as a JSON object, or rows as an Arrow IPC stream.
READERS: dict[str, Callable[[Sequence[bytes], Sequence[int], Fields], Rows]] = {
    "json": rows_of_json,
    "arrow": rows_of_arrow,
}


# --- out --------------------------------------------------------------------------------------------------------------


def result_messages(
    table: pa.Table, keys: Sequence[str], columns: Iterable[str], pane: Any
) -> Iterator[tuple[bytes, bytes]]:
    """Kafka keys and values of the results of a pane, row by row.

    The Kafka key is that of the row, with its window: a compacted topic keeps the last pane.
    """
    times = {name: [_json_value(time) for time in table[name].to_pylist()] for name in WINDOW}
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
