"""Whatever a message is: a row whose results can be written, or a dead letter that can be."""

import json
import random
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.transforms.window import FixedWindows, SlidingWindows
from apache_beam.utils.windowed_value import PaneInfo
from hypothesis import given
from hypothesis import strategies as st

from lse_stream import messages
from lse_stream.beam.kafka import DEAD, Lateness, ReadMessages
from lse_stream.beam.windows import reach_of, split_by_window
from lse_stream.event_times import WINDOW, event_times
from lse_stream.messages import (
    EVENT_TIME,
    KEY_TYPES,
    Fields,
    MessageError,
    read_arrow,
    read_json,
    result_messages,
    rows_of_arrow,
    rows_of_json,
)
from lse_stream.state_table import to_ipc
from lse_stream.table_functions import finalize, group_states, take_rows
from lse_stream.testing import bits

KEYS = {f"the {name}": data_type for name, data_type in KEY_TYPES.items()}
HOUR = FixedWindows(3600)
FIRST, LAST = -62_135_596_800_000, 253_402_300_799_999  # milliseconds: years 1 and 9999

# Milliseconds at which something changes: the ends of years that can be written, of Beam's range, of 64 bits.
MILLIS = [0, -1, FIRST, LAST, -(2**63) // 1000, 2**63 // 1000, -(2**63), 2**63 - 1, 1_504_612_800_000_000, 2**200]
TIMES = [
    "2017-09-05",
    "0001-01-01",
    "9999-12-31T23:59:59.999999",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:00-14:00",
]
ANYTHING: list[Any] = [None, True, "", "x", "\ud800", "2017-02-30", 1.5, 1e308, -0.0, 10**400, [], {}, [[1]], "NaN"]


class Message(NamedTuple):
    """As Beam's KafkaIO gives them."""

    value: bytes | None
    topic: str
    partition: int
    offset: int
    timestamp: int


def time_of(rng: random.Random) -> Any:
    near = rng.choice(MILLIS) + rng.choice([0, 1, -1, rng.randrange(-(10**10), 10**10)])
    return rng.choice([near, near, rng.randrange(FIRST, LAST), rng.choice(TIMES), rng.choice(ANYTHING)])


def message_of(rng: random.Random, offset: int) -> Message:
    row = {
        "the string": rng.choice(["a", "b", rng.choice(ANYTHING)]),
        "the int64": rng.choice([1, 2, rng.choice(MILLIS)]),
        "the bool": rng.choice([True, False, True, False, rng.choice(ANYTHING)]),
        "the date": rng.choice(["2017-09-05", "0001-01-01", "9999-12-31", rng.choice(TIMES)]),
        "the timestamp": rng.choice([rng.choice(TIMES[:3]), time_of(rng)]),
        "level": rng.choice([1, -2.5, "Infinity", rng.choice(ANYTHING)]),
        "time": time_of(rng),
    }
    payload: bytes | None = json.dumps(row).encode()
    assert payload is not None
    if rng.random() < 0.1:
        damaged = bytearray(payload)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        payload = rng.choice([None, b"", bytes(damaged), payload[: rng.randrange(len(payload))], b"[" * 10**5])
    millis = max(-(2**63), min(2**63 - 1, rng.choice(MILLIS) + rng.randrange(-(10**10), 10**10)))
    return Message(payload, "rows", 0, offset, millis)


def check_results(table: pa.Table) -> int:
    """Results of windows of an hour can be written as messages, and are as many rows as were read."""
    pane, rows = PaneInfo(is_first=True, is_last=True, timing=1, index=0, nonspeculative_index=0), 0
    for window, held in split_by_window(HOUR, event_times(table[EVENT_TIME], EVENT_TIME)):
        part = table if held is None else take_rows(table, held)
        results = finalize(group_states(part, list(KEYS), "level"))
        for name, time in zip(WINDOW, (window.start, window.end), strict=True):
            times = pa.repeat(pa.scalar(time.micros, pa.timestamp("us", "UTC")), results.num_rows)
            results = results.append_column(name, times)
        for _, message in result_messages(results, list(KEYS), ["logsumexp", "count"], pane):
            found = json.loads(message)
            assert datetime.fromisoformat(found["window_start"]) < datetime.fromisoformat(found["window_end"])
            rows += found["count"]
    return rows


def check_any(seed: int, number: int, event_time: str | None) -> None:
    rng = random.Random(seed)
    lateness = rng.choice([None, Lateness(HOUR, 10.0, 3600.0)])
    dofn = ReadMessages(Fields(KEYS, "level", event_time, reach_of(HOUR)), "json", 10_000, lateness)
    dofn.setup()
    dofn.start_bundle()
    sent = [message_of(rng, offset) for offset in range(number)]
    found = [output for message in sent for output in dofn.process(message)] + list(dofn.finish_bundle())
    letters = [json.loads(output.value.value) for output in found if getattr(output, "tag", None) == DEAD]
    for letter in letters:
        assert letter["time"] == sent[letter["offset"]].timestamp or datetime.fromisoformat(letter["time"])
    rows = sum(check_results(output.value) for output in found if getattr(output, "tag", None) != DEAD)
    assert rows + len(letters) == number
    late = sum(letter["reason"].startswith("late: ") for letter in letters)
    assert (late > 0) == (lateness is not None)
    assert min(rows + late, len(letters)) > number // 20


@pytest.mark.parametrize("event_time", ["time", None])
@pytest.mark.parametrize("seed", [1, 2])
def test_any_message_is_a_result_or_a_dead_letter(seed: int, event_time: str | None) -> None:
    check_any(seed, 2000, event_time)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("event_time", ["time", None])
def test_any_message_is_a_result_or_a_dead_letter_at_length(seed: int, event_time: str | None) -> None:
    check_any(100 + seed, 10_000, event_time)


# Values as messages have them: numbers in every form that JSON has, also those that float64 does not hold.
numbers = st.one_of(
    st.floats().map(json.dumps),
    st.integers(-(2**54), 2**54).map(str),
    st.integers(-(10**30), 10**30).map(str),
    st.sampled_from(['"Infinity"', '"-Infinity"', '"NaN"', '"7"', "null", "true", "1e400", "-0", "1E5", "-0.0", "[1]"]),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
)
payloads = st.lists(st.tuples(numbers, st.sampled_from(["1", "2", "17", '"x"']), st.sampled_from("{[ ]}")), max_size=8)


@pytest.mark.parametrize("decoder", ["msgspec", "json"])
@pytest.mark.parametrize("event_time", ["time", None])
@given(payloads, st.booleans())
def test_messages_together_give_what_each_gives_alone(
    decoder: str, event_time: str | None, values: list[tuple[str, str, str]], damaged: bool
) -> None:
    fields = Fields({"shelf": KEY_TYPES["int64"], "host": KEY_TYPES["string"]}, "level", event_time, 10**6)
    found = []
    for level, shelf, ends in values:
        text = f'{{"level": {level}, "shelf": {shelf}, "host": "\\u00e5", "time": {shelf}, "more": [{{}}]}}'
        found.append((text + ends if damaged else text).encode())
    millis = list(range(len(found)))
    wanted: list[tuple[Any, ...]] = []
    reasons: dict[int, str] = {}
    for number, payload in enumerate(found):
        try:
            wanted.append((number, *read_json(payload, number, fields)))
        except MessageError as error:
            reasons[number] = str(error)
    with pytest.MonkeyPatch.context() as patch:
        if decoder == "json":
            patch.setattr(messages, "_json_decoder", lambda: json.loads)
        rows = rows_of_json(found, millis, fields)
    assert rows.faults == reasons
    assert rows.table.schema == fields.schema()
    columns = [rows.messages.tolist(), *(column.to_pylist() for column in rows.table.columns[:-1])]
    times = rows.table[EVENT_TIME].cast(pa.int64()).to_pylist()
    assert bits([tuple(row) for row in zip(*columns, times, strict=True)]) == bits(wanted)


def test_good_messages_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "read_json", None)
    rows = {
        "the string": ["a", "å"],
        "the int64": [-(2**63), 2**63 - 1],
        "the bool": [True, False],
        "the date": ["2017-09-05", "0001-01-01"],
        "the timestamp": ["2017-09-05T12:00:00Z", 5],
        "level": ["-Infinity", 1],
        "time": [1, "2017-09-05"],
    }
    sent = [json.dumps(dict(zip(rows, row, strict=True))).encode() for row in zip(*rows.values(), strict=True)]
    found = rows_of_json(sent, [0, 0], Fields(KEYS, "level", "time"))
    assert (found.table.num_rows, found.faults, found.messages.tolist()) == (2, {}, [0, 1])
    assert found.table["level"].to_pylist() == [-np.inf, 1.0]


def test_arrow_messages_of_several_forms_together() -> None:
    tables = [
        pa.table({"k": ["a"], "level": [1.5], "time": pa.array([1], pa.timestamp("s"))}),
        pa.table({"k": ["b", "c"], "level": [1, 2], "time": pa.array([2, 3], pa.timestamp("ms"))}),
        pa.table({"k": [1], "level": [1.0], "time": pa.array([1], pa.timestamp("s"))}),
        pa.table({"k": pa.array([], pa.string()), "level": pa.array([], pa.float64()), "time": pa.array([], "date32")}),
    ]
    fields = Fields({"k": KEY_TYPES["string"]}, "level", "time")
    found = rows_of_arrow([*map(to_ipc, tables), b"?"], [0] * 5, fields)
    assert found.table["k"].to_pylist() == ["a", "b", "c"]
    assert found.table["level"].to_pylist() == [1.5, 1.0, 2.0]
    assert found.table[EVENT_TIME].cast(pa.int64()).to_pylist() == [1_000_000, 2000, 3000]
    assert found.messages.tolist() == [0, 1, 1]
    assert {number: reason[:9] for number, reason in found.faults.items()} == {2: "key 'k': ", 4: "not Arrow"}
    alike = [tables[0], tables[0].slice(0, 0), tables[0]]
    together = rows_of_arrow([*map(to_ipc, alike)], [0] * 3, fields)
    assert (together.messages.tolist(), together.faults) == ([0, 2], {})


@pytest.mark.parametrize("windowfn", [HOUR, SlidingWindows(7200, 600)])
def test_windows_stay_in_the_years_1_to_9999(windowfn: Any) -> None:
    fields = Fields({}, "level", "time", reach_of(windowfn))
    room = windowfn.size.micros // 1000
    for millis, is_in in (
        (FIRST + room, True),
        (FIRST + room - 1, False),
        (LAST - room, True),
        (LAST - room + 1, False),
    ):
        payload = json.dumps({"level": 1, "time": millis}).encode()
        table = pa.table({"level": [1], "time": pa.array([millis], pa.timestamp("ms"))})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        record = Fields({}, "level", None, fields.room)
        for read, data, time, its in (
            (read_json, payload, 0, fields),
            (read_arrow, sink.getvalue().to_pybytes(), 0, fields),
            (read_json, payload, millis, record),
            (read_arrow, sink.getvalue().to_pybytes(), millis, record),
        ):
            if not is_in:
                with pytest.raises(MessageError, match="in the years 1 to 9999"):
                    read(data, time, its)
                continue
            read(data, time, its)
        if is_in:
            for window, _ in split_by_window(windowfn, np.array([1000 * millis])):
                for end in (window.start, window.end):
                    assert FIRST * 1000 <= end.micros <= LAST * 1000 + 999


@pytest.mark.parametrize("key", [pa.array([-719_163], pa.date32()), pa.array([2**62], KEY_TYPES["timestamp"])])
def test_keys_of_arrow_messages_are_in_those_years_too(key: pa.Array) -> None:
    table = pa.table({"k": pa.chunked_array([key]), "level": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(MessageError, match="column 'k', row 0: expected a time"):
        read_arrow(sink.getvalue().to_pybytes(), 0, Fields({"k": key.type}, "level", None))
