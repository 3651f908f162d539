"""Whatever a message is: a row whose results can be written, or a dead letter that can be."""

import json
import random
from dataclasses import replace
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
from lse_stream.coarsening import Coarsening
from lse_stream.event_times import WINDOW, event_times
from lse_stream.messages import (
    EVENT_TIME,
    KEY_TYPES,
    Fields,
    MessageError,
    read_arrow,
    read_json,
    result_messages,
    rows_of,
    rows_of_arrow,
    rows_of_json,
)
from lse_stream.predicates import Condition
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
        "the float64": rng.choice([1, 2.5, "NaN", -2.5, rng.choice(ANYTHING)]),
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
        "the float64": [0.5, "Infinity"],
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


# --- rows that are chosen, and keys made from others ------------------------------------------------------------------

ASKED = {
    "kind": KEY_TYPES["string"],
    "nest.n": KEY_TYPES["int64"],
    "level": KEY_TYPES["float64"],
    "day": KEY_TYPES["date"],
}
KINDS: list[Any] = ["score", "other", None, ...]


def said(row: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in row.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("condition", "is_true"),
    [
        ("kind = 'score'", lambda kind, _: kind == "score"),
        ("kind != 'score'", lambda kind, _: kind in ("other",)),
        ("kind is null", lambda kind, _: kind in (None, ...)),
        ("nest.n > 2 and kind = 'score'", lambda kind, n: kind == "score" and n > 2),
        ("kind = 'score' and (day < date '2020-01-03' or level > 1e300)", lambda kind, n: kind == "score" and n < 2),
    ],
)
@pytest.mark.parametrize("message_format", ["json", "arrow"])
def test_rows_are_chosen_and_others_are_not_looked_at(message_format: str, condition: str, is_true: Any) -> None:
    where = Condition(condition)
    asked = {name: ASKED[name] for name in where.columns}
    fields = Fields({"nest.n": KEY_TYPES["int64"]}, "level", "time", where=where, asked=asked)
    sent, wanted = [], []
    for number in range(40):
        kind, n = KINDS[number % 4], number // 4 % 5
        chosen = is_true(kind, n)
        row: dict[str, Any] = {"kind": kind, "nest": {"n": n}, "day": f"2020-01-0{n + 1}", "level": number / 8}
        if message_format == "json":
            # Without the fields of a row where it is none.
            sent.append(said(row | {"time": number if chosen or kind == "score" else ...}))
        else:
            table = pa.Table.from_pylist([row | {"kind": None if kind is ... else kind, "time": number}])
            times = table["time"].cast(pa.timestamp("ms"))
            if not chosen:
                times = pa.chunked_array([pa.nulls(1, times.type)])
            day = table["day"].cast(pa.date32())
            table = table.set_column(4, "time", times).set_column(2, "day", day)
            kinds = table["kind"].cast(pa.string_view())
            sent.append(to_ipc(table.set_column(0, "kind", kinds)))
        if chosen:
            wanted.append((number, n, number / 8, 1000 * number))
    found = rows_of(message_format, sent, range(40), fields)
    assert found.faults == {}
    assert found.table.schema == fields.schema()
    columns = [column.to_pylist() for column in found.table.columns[:2]]
    times = found.table[EVENT_TIME].cast(pa.int64()).to_pylist()
    assert [*zip(found.messages.tolist(), *columns, times, strict=True)] == wanted
    assert wanted


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"?", "not JSON"),
        (b"[]", "expected a JSON object"),
        (said({"kind": 1}), "field 'kind': expected a string of Unicode, found 1"),
        (said({"kind": "score"}), "value 'level': expected the field, found none"),
        (said({"kind": "score", "level": {}, "time": 1}), "value 'level': expected a number"),
    ],
)
def test_messages_that_cannot_be_asked_or_read_are_dead_letters(payload: bytes, reason: str) -> None:
    asked = {"kind": ASKED["kind"]}
    fields = Fields({}, "level", "time", where=Condition("kind = 'score'"), asked=asked)
    good = said({"kind": "score", "level": 1.5, "time": 1})
    found = rows_of("json", [said({}), good, payload, good], [0] * 4, fields)
    assert found.messages.tolist() == [1, 3]
    assert list(found.faults) == [2]
    assert found.faults[2].startswith(reason)


def test_conditions_on_the_time_of_the_record() -> None:
    where = Condition("event_time >= timestamp '1970-01-01 00:00:00.003'")
    for message_format in ("json", "arrow"):
        fields = Fields({}, "level", None, where=where, asked={EVENT_TIME: KEY_TYPES["timestamp"]})
        sent = [said({"level": i}) if message_format == "json" else to_ipc(pa.table({"level": [i]})) for i in range(5)]
        found = rows_of(message_format, sent, range(5), fields)
        assert (found.table["level"].to_pylist(), found.messages.tolist(), found.faults) == ([3.0, 4.0], [3, 4], {})


def test_arrow_messages_of_which_a_condition_cannot_be_asked() -> None:
    fields = Fields({}, "level", None, where=Condition("kind = 'score'"))
    tables = [pa.table({"level": [1.0], "kind": ["score"]}), pa.table({"level": [1.0]}), pa.table({"kind": [1]})]
    found = rows_of("arrow", [*map(to_ipc, tables)], [0] * 3, fields)
    assert found.messages.tolist() == [0]
    of_condition = "condition \"kind = 'score'\": "
    assert found.faults[1] == f"{of_condition}field 'kind': expected the column once, found level"
    assert found.faults[2].startswith(f"{of_condition}column 'kind' of int64: expected")


def test_arrow_messages_of_which_no_row_is_chosen_need_nothing_else() -> None:
    where = Condition("kind = 'score'")
    for fields in (Fields({"k": pa.string()}, "level", "time", where=where), Fields({}, "level", None, where=where)):
        tables = [
            pa.table({"kind": ["other"]}),
            pa.table({"kind": ["other", None], "level": ["text", None], "k": [1, 2]}),
        ]
        sent = [*map(to_ipc, tables)]
        for together in (sent, [sent[0]] * 3):
            found = rows_of("arrow", together, [10**17] * len(together), fields)
            assert (found.table.num_rows, found.faults, found.table.schema) == (0, {}, fields.schema())


ODD = {
    "a view in a struct": pa.array([{"a": "x"}, {"a": "y"}], pa.struct([("a", pa.string_view())])),
    "run ends": pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int16()), pa.array(["a", "b"])),
    "a dictionary of structs": pa.DictionaryArray.from_arrays(
        pa.array([0, 0], pa.int8()), pa.array([{"q": "x"}], pa.struct([("q", pa.string())]))
    ),
    "a dictionary of views": pa.DictionaryArray.from_arrays(
        pa.array([0, 1], pa.int8()), pa.array(["a", "b"], pa.string_view())
    ),
    "decimals of negative scale": pa.array([100, 200], pa.decimal128(38, -2)),
    "a map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
    "nulls": pa.nulls(2),
}
CONDITIONS = ["c = 'a'", "c < 1e30", "c is null", "c > date '2020-01-01'", "not c", "c = level"]


@pytest.mark.parametrize("name", ODD)
def test_columns_of_any_type_stop_no_stream(name: str) -> None:
    sent = [to_ipc(pa.table({"level": [1.0, 2.0], "c": ODD[name]}))] * 2
    for condition in ("level > 0", *CONDITIONS):
        found = rows_of("arrow", sent, [0, 0], Fields({}, "level", None, where=Condition(condition)))
        assert found.faults or condition == "level > 0" or set(found.table["level"].to_pylist()) <= {1.0, 2.0}
        if condition == "level > 0":  # a column that nothing needs
            assert (found.table["level"].to_pylist(), found.faults) == ([1.0, 2.0] * 2, {})
    for fields in (Fields({"c": pa.string()}, "level", None), Fields({}, "c", None), Fields({}, "level", "c")):
        for where in (None, Condition("level > 0")):
            rows_of("arrow", sent, [0, 0], replace(fields, where=where))


def test_messages_whose_dictionaries_do_not_go_together_are_read_one_by_one() -> None:
    def message(number: int) -> bytes:
        kinds = pa.array([f"{number}_{i}" for i in range(100)]).dictionary_encode()
        return to_ipc(pa.table({"level": [1.0] * 100, "c": kinds.cast(pa.dictionary(pa.int8(), pa.string()))}))

    for condition, rows in (("level > 0", 200), ("c = '1_7'", 1)):
        found = rows_of(
            "arrow", [message(0), message(1)], [0, 0], Fields({}, "level", None, where=Condition(condition))
        )
        assert (found.table.num_rows, found.faults) == (rows, {})


def test_nested_json_of_any_depth_stops_no_stream() -> None:
    fields = Fields({}, "x", None, where=Condition("kind = 'a'"), asked={"kind": pa.string()})
    for depth in range(800, 1010):
        payload = b'{"x":1,"kind":' + b"[" * depth + b"]" * depth + b"}"
        found = rows_of("json", [payload], [0], fields)
        assert (found.table.num_rows, list(found.faults)) == (0, [0])


def test_faults_of_chosen_rows_say_so() -> None:
    table = pa.table({"level": [0.0, 1.0], "t": pa.array([1, None], pa.timestamp("s"))})
    found = rows_of("arrow", [to_ipc(table)], [0], Fields({}, "level", "t", where=Condition("level > 0")))
    assert found.faults == {0: "of the rows chosen, column 't', row 0: expected an event time, found null"}


def test_the_least_integer_is_no_event_time() -> None:
    found = rows_of("json", [b'{"level":1,"t":-9223372036854775808}'], [0], Fields({}, "level", "t"))
    assert found.faults[0].startswith("event time 't': expected a time that is, with its windows, in the years 1 to")


GROUPS = pa.table({"model": [*range(0, 64, 2)], "family": [f"f{i % 3}" for i in range(0, 64, 2)]})


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=40))
def test_messages_whose_keys_cannot_be_made_are_dead_letters_and_no_others(sizes: list[tuple[int, int]]) -> None:
    coarsening = Coarsening({"day": "month"}, {}, {"model": GROUPS})
    keys = {"model": KEY_TYPES["int64"], "day": KEY_TYPES["date"]}
    fields = Fields(keys, "level", None, coarsening=coarsening)
    days = pa.array([19_000, 19_040, 19_060], pa.date32())
    sent, wanted, bad = [], [], {}
    for number, (model, rows) in enumerate(sizes):
        models = [*range(0, 2 * rows, 2)]
        if rows and model % 5 == 0:
            models[-1] = 7
            bad[number] = "column 'model': expected values that its map contains, found 7"
        else:
            wanted += [(number, f"f{2 * i % 3}", float(number)) for i in range(rows)]
        columns = {"model": pa.array(models, "int64"), "day": days[:rows], "level": pa.array([number] * rows, "double")}
        sent.append(to_ipc(pa.table(columns)))
    found = rows_of("arrow", sent, [0] * len(sent), fields)
    assert found.faults == bad
    assert found.table.column_names == ["family", "day", "level", EVENT_TIME]
    made = [found.table[name].to_pylist() for name in ("family", "level")]
    assert [*zip(found.messages.tolist(), *made, strict=True)] == wanted
    assert {day.day for day in found.table["day"].to_pylist()} <= {1}
