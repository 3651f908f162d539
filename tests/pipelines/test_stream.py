"""The stream program: replayed files, messages good and bad, bad command lines. Engines have their own tests."""

import base64
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from time import time as clock
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows, TimestampedValue
from apache_beam.utils.windowed_value import PaneInfo
from hypothesis import given
from hypothesis import strategies as st
from programs import BY_BEAM, Bad, check_bad, check_bytes, cli, contents, place, write

from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.beam.kafka import DEAD, Lateness, ReadMessages, WriteLines
from lse_stream.beam.parquet_io import WriteWindows
from lse_stream.beam.sessions import LastSessions
from lse_stream.beam.window_states import WindowStates
from lse_stream.errors import DataError, InputError
from lse_stream.messages import KEY_TYPES, Fields, result_messages
from lse_stream.state_column import STATE
from lse_stream.state_table import to_ipc
from lse_stream.table_functions import finalize, group_states, sort_by_keys
from pipelines import parquet, rollup
from pipelines.command import UsageError
from pipelines.endless import check_partitions, check_settings, taking_place
from pipelines.kafka_options import Broker
from pipelines.output import remove_left_behind, set_aside
from pipelines.run import RunError
from pipelines.stream import _place, build, main, parse
from pipelines.window_options import parse_duration, parse_window

SAMPLES = Path(__file__).parents[2] / "pipelines" / "samples"
FIXES = SAMPLES / "storm_fixes.parquet"
REPLAY = ["--source=replay", "--key=season", "--key=name", "--value=category", "--event_time=time", "--quiet"]
DAY = 86_400_000_000


def fixes() -> pa.Table:
    """Some years of the sample: enough for hundreds of windows."""
    table = pq.read_table(FIXES)
    return table.filter(pc.greater(table["season"], 2012))


def micros(table: pa.Table) -> Any:
    return table["time"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()


def expected(table: pa.Table, size: int, period: int) -> dict[int, pa.Table]:
    """Results by start of window, each of them a grouping of its rows at once."""
    times = micros(table)
    found = {}
    for start in range(int(times.min()) // period * period - size + period, int(times.max()) + 1, period):
        rows = table.filter(pa.array((times >= start) & (times < start + size)))
        if rows.num_rows:
            states = sort_by_keys(group_states(rows, ["season", "name"], "category"), ["season", "name"])
            found[start] = finalize(states, keep_state=True)
    return found


@pytest.mark.parametrize(
    ("window", "size", "period"),
    [
        ("fixed:1w", 7 * DAY, 7 * DAY),
        pytest.param("sliding:4d/2d", 4 * DAY, 2 * DAY, marks=pytest.mark.engine),
    ],
)
def test_windows_are_the_batch_result(tmp_path: Path, window: str, size: int, period: int) -> None:
    table = fixes()
    source = write(tmp_path / "in.parquet", table, row_group_size=97)
    assert main([*REPLAY, f"--input={source}", f"--window={window}", "--state", f"--output={tmp_path / 'out'}"]) == 0
    wanted = expected(table, size, period)
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(files) == len(wanted)
    for path, (start, results) in zip(files, sorted(wanted.items()), strict=True):
        found = pq.read_table(path)
        assert set(found["window_start"].cast(pa.int64()).to_pylist()) == {start}
        assert set(found["window_end"].cast(pa.int64()).to_pylist()) == {start + size}
        assert found.drop(["window_start", "window_end"]).equals(results)


def test_files_are_the_same_whatever_the_layout_and_the_workers(tmp_path: Path) -> None:
    table = fixes()
    found = check_bytes(
        "stream",
        main,
        tmp_path,
        table.slice(0, 400),
        [*REPLAY, "--window=fixed:1w", "--num_shards=2"],
        ways=BY_BEAM,
        processes=False,
    )
    assert len(found) > 10


def test_string_keys_come_out_plain_and_the_same_whoever_wrote_them(tmp_path: Path) -> None:
    table = fixes().slice(0, 200)
    name = table.schema.get_field_index("name")
    for writer, data_type in enumerate((pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))):
        column = table["name"].cast(pa.string())
        column = column.dictionary_encode() if pa.types.is_dictionary(data_type) else column.cast(data_type)
        source = write(tmp_path / f"{writer}.parquet", table.set_column(name, "name", column))
        assert main([*REPLAY, f"--input={source}", "--window=fixed:1w", f"--output={tmp_path / str(writer)}"]) == 0
    files = sorted((tmp_path / "0").glob("*.parquet"))
    assert len(files) > 5
    for path in files:
        assert pq.read_schema(path).field("name").type == pa.string()
        for other in "12":
            assert path.read_bytes() == (tmp_path / other / path.name).read_bytes()


@pytest.mark.engine
def test_windows_roll_up_to_the_batch_jobs_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", fixes())
    windows, seasons, batch = (str(tmp_path / name) for name in ("windows", "seasons", "batch"))
    for program, arguments in (
        (main, [*REPLAY, f"--input={source}", "--window=fixed:12h", "--state", f"--output={windows}"]),
        (rollup.main, ["--quiet", f"--input={windows}", "--key=season", "--state", f"--output={seasons}"]),
        (
            parquet.main,
            ["--quiet", f"--input={source}", "--key=season", "--value=category", "--state", f"--output={batch}"],
        ),
    ):
        assert program(arguments) == 0
    assert contents(Path(seasons)) == contents(Path(batch))


def test_sessions_are_a_set_for_each_day(tmp_path: Path) -> None:
    # Out of order and over many tables, so that keys have other neighbours in each; some keys are null.
    table = fixes()
    nameless = pc.if_else(pc.equal(table["name"], table["name"][0]), None, table["name"])
    table = table.set_column(table.column_names.index("name"), "name", nameless)
    table = table.take(np.random.default_rng(1).permutation(table.num_rows))
    for i in range(2):
        write(tmp_path / "in" / f"{i}.parquet", table.slice(i * 1000, 1000 if i == 0 else None), row_group_size=150)
    assert (
        main([*REPLAY, f"--input={tmp_path / 'in'}", "--window=session:12h", "--state", f"--output={tmp_path / 'out'}"])
        == 0
    )
    gap = DAY // 2
    rows = defaultdict(list)
    for season, name, time, value in zip(
        table["season"].to_pylist(), table["name"].to_pylist(), micros(table).tolist(), table["category"].to_pylist(),
        strict=True,
    ):  # fmt: skip
        rows[season, name].append((time, value))
    wanted = set()
    for key, mine in rows.items():
        mine.sort()
        breaks = [i for i in range(1, len(mine)) if mine[i][0] >= mine[i - 1][0] + gap]
        for start, end in zip([0, *breaks], [*breaks, len(mine)], strict=True):
            state = LogSumExpAccumulator([value for _, value in mine[start:end]])
            wanted.add((*key, mine[start][0], mine[end - 1][0] + gap, state.to_bytes()))
    found = pa.concat_tables([pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet"))])
    times = [found[name].cast(pa.int64()).to_pylist() for name in ("window_start", "window_end")]
    assert (
        set(zip(found["season"].to_pylist(), found["name"].to_pylist(), *times, found[STATE].to_pylist(), strict=True))
        == wanted
    )
    assert found.num_rows == len(wanted)


def test_a_session_that_late_rows_lengthen_takes_the_place_of_the_first(tmp_path: Path) -> None:
    def rows(*times: int) -> Any:
        table = pa.table(
            {"key": ["a"] * len(times), "value": [1.0] * len(times), "time": [time * 1000 for time in times]}
        )
        return TimestampedValue(table.set_column(2, "time", table["time"].cast(pa.timestamp("ms"))), min(times))

    stream: Any = test_stream.TestStream().add_elements([rows(0, 8, 100)]).advance_watermark_to(200)
    stream = stream.add_elements([rows(4)]).advance_watermark_to_infinity()
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        sessions = pipeline | stream | WindowStates(["key"], "value", "time", Sessions(5), allowed_lateness=100_000)
        days = sessions | LastSessions(["key"], allowed_lateness=100_000, discarding=False)
        days | beam.MapTuple(lambda shard, table: (shard, finalize(table))) | WriteWindows(str(tmp_path), 1)
    [path] = tmp_path.glob("*.parquet")
    found = pq.read_table(path)
    assert found["window_start"].cast(pa.int64()).to_pylist() == [0, 100_000_000]
    assert found["count"].to_pylist() == [3, 1]


def test_an_earlier_output_is_replaced_as_a_whole(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", fixes().slice(0, 200))
    arguments = [*REPLAY, f"--input={source}", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--window=fixed:12h"]) == 0
    # As a run without an end leaves one that was killed.
    (tmp_path / "out" / ".unfinished").mkdir()
    assert main([*arguments, "--window=fixed:52w"]) == 2
    assert main([*arguments, "--window=fixed:52w", "--num_shards=2", "--overwrite"]) == 0
    windows = {path.name[:31] for path in (tmp_path / "out").glob("*.parquet")}
    assert len(windows) == len(expected(fixes().slice(0, 200), 364 * DAY, 364 * DAY))
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2 * len(windows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out"]


def test_no_rows_give_no_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.parquet", fixes().slice(0, 0))
    assert main([*REPLAY[:-1], f"--input={source}", "--window=fixed:1w", f"--output={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out.endswith(f"\nno results in {tmp_path / 'out'}\n")
    assert list((tmp_path / "out").glob("*.parquet")) == []


def test_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.parquet", fixes().slice(0, 50))
    assert main([*REPLAY[:-1], f"--input={source}", "--window=fixed:1w", f"--output={tmp_path / 'out'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("50 rows of 1 file, ")
    assert (
        lines[1]
        == f"{len(lines) - 4} results in {len(list((tmp_path / 'out').glob('*.parquet')))} files in {tmp_path / 'out'}"
    )
    assert lines[3].split() == ["season", "name", "window_start", "window_end", "logsumexp", "count", "max"]


def test_on_the_command_line(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", fixes().slice(0, 50))
    arguments = [*REPLAY, f"--input={source}", "--window=fixed:1w", f"--output={tmp_path / 'out'}"]
    assert cli("stream", *arguments).returncode == 0
    again = cli("stream", *arguments)
    assert again.returncode == 2
    assert "expected nothing there yet (or --overwrite), found" in again.stderr


# --- messages ---------------------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """As Beam's KafkaIO gives them."""

    value: bytes | None
    topic: str = "rows"
    partition: int = 1
    offset: int = 7
    timestamp: int = 1_504_612_800_000


KEYS = {"host": KEY_TYPES["string"], "shelf": KEY_TYPES["int64"]}
FIELDS = Fields(KEYS, "level", "time")


def read(
    messages: list[Message],
    message_format: str = "json",
    fields: Fields = FIELDS,
    max_bytes: int = 10_000,
    lateness: Lateness | None = None,
) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    """The tables and the dead letters of some messages, in one bundle."""
    dofn = ReadMessages(fields, message_format, max_bytes, lateness)
    dofn.setup()
    dofn.start_bundle()
    found = [output for message in messages for output in dofn.process(message)] + list(dofn.finish_bundle())
    letters = [json.loads(output.value.value) for output in found if getattr(output, "tag", None) == DEAD]
    return [output.value for output in found if getattr(output, "tag", None) != DEAD], letters


def payload(**changes: Any) -> bytes:
    row = {"host": "a", "shelf": 3, "level": -1.5, "time": "2017-09-05T12:00:00+02:00"} | changes
    return json.dumps({name: value for name, value in row.items() if value is not ...}).encode()


def test_json_messages() -> None:
    values = [1, -0.0, 1e300, 2**53, "Infinity", "-Infinity", "NaN"]
    [table], letters = read([Message(payload(level=value, more=[1])) for value in values])
    assert letters == []
    assert table.schema == FIELDS.schema()
    assert np.array_equal(
        table["level"].to_numpy(), [1.0, -0.0, 1e300, 2.0**53, math.inf, -math.inf, math.nan], equal_nan=True
    )
    assert table["host"].to_pylist() == ["a"] * 7
    assert table["event_time"].cast(pa.int64()).to_pylist() == [1_504_605_600_000_000] * 7


@pytest.mark.parametrize(
    ("time", "micros"),
    [
        (1_504_612_800_123, 1_504_612_800_123_000),
        (-1, -1000),
        ("2017-09-05T12:00:00Z", 1_504_612_800_000_000),
        ("2017-09-05T12:00:00.000001", 1_504_612_800_000_001),
        ("2017-09-05", 1_504_569_600_000_000),
    ],
)
def test_event_times_of_json(time: Any, micros: int) -> None:
    [table], _ = read([Message(payload(time=time))])
    assert table["event_time"].cast(pa.int64()).to_pylist() == [micros]


def test_the_records_time_where_no_field_is_named() -> None:
    [table], _ = read([Message(payload(time=...))], fields=Fields(KEYS, "level", None))
    assert table["event_time"].cast(pa.int64()).to_pylist() == [1_504_612_800_000_000]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "expected a payload, found none"),
        (b"\xff\xfe", "not JSON: expected an object in UTF-8"),
        (b"[1, 2", "not JSON"),
        (b"[" * 9000, "not JSON"),
        (b"[1, 2]", "expected a JSON object, found [1, 2]"),
        (payload(host=...), "key 'host': expected the field, found none"),
        (payload(host=7), "key 'host': expected a string of Unicode, found 7"),
        (payload(host=None), "key 'host': expected a string of Unicode, found None"),
        (payload(host="\ud800"), "key 'host': expected a string of Unicode"),
        (payload(shelf="7"), "key 'shelf': expected an integer of 64 bits, found '7'"),
        (payload(shelf=True), "key 'shelf': expected an integer of 64 bits, found True"),
        (payload(shelf=2**63), "key 'shelf': expected an integer of 64 bits, found 9223372036854775808"),
        (payload(level="7"), "value 'level': expected a number that float64 holds, found '7'"),
        (payload(level=None), "value 'level': expected a number that float64 holds, found None"),
        (payload(level=True), "value 'level': expected a number"),
        (payload(level=2**53 + 1), "value 'level': expected a number that float64 holds, found 9007199254740993"),
        (payload(level=10**400), "value 'level': expected a number that float64 holds"),
        (payload(level=...), "value 'level': expected the field, found none"),
        (payload(time=...), "event time 'time': expected the field, found none"),
        (
            payload(time="noon"),
            "event time 'time': expected milliseconds since 1970 or a time as in ISO 8601, found 'noon'",
        ),
        (payload(time=1.5), "event time 'time': expected milliseconds"),
        (
            payload(time=1_504_612_800_000_000),  # microseconds, where milliseconds are due
            "event time 'time': expected a time that is, with its windows, in the years 1 to 9999, found 15046128",
        ),
        (payload(time=2**62), "event time 'time': expected a time that is, with its windows, in the years 1 to 9999"),
        (payload(host="x" * 10_000), "too large: expected at most 10,000 bytes, found 10,"),
    ],
)
def test_bad_messages_go_aside_and_the_others_go_on(data: bytes | None, reason: str) -> None:
    tables, [letter] = read([Message(payload()), Message(data, offset=8), Message(payload())])
    assert sum(table.num_rows for table in tables) == 2
    assert letter["reason"].startswith(reason)
    assert (letter["topic"], letter["partition"], letter["offset"]) == ("rows", 1, 8)
    assert letter["time"] == "2017-09-05T12:00:00Z"
    if data is None:
        assert letter["payload"] is None
    elif "payload_base64" in letter:
        assert base64.b64decode(letter["payload_base64"]) == data
    else:
        assert letter["payload"].encode() == data


def arrow(**columns: Any) -> bytes:
    table = pa.table(
        {
            "host": pa.array(["a", "b"]),
            "shelf": pa.array([1, 2]),
            "level": pa.array([1.5, None]),
            "time": pa.array([1, 2], pa.timestamp("s")),
        }
        | columns
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def test_arrow_messages() -> None:
    [table], letters = read([Message(arrow()), Message(arrow(level=pa.array([7, 8], pa.int16())))], "arrow")
    assert letters == []
    assert table.schema == FIELDS.schema()
    assert table["level"].to_pylist() == [1.5, None, 7.0, 8.0]
    assert table["event_time"].cast(pa.int64()).to_pylist() == [1_000_000, 2_000_000] * 2
    [table], _ = read([Message(arrow())], "arrow", Fields(KEYS, "level", None))
    assert table["event_time"].cast(pa.int64()).to_pylist() == [1_504_612_800_000_000] * 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not Arrow: expected a whole IPC stream"),
        (b"not arrow", "not Arrow: expected a whole IPC stream"),
        (arrow()[:-40], "not Arrow: expected a whole IPC stream"),
        (arrow(host=pa.array([1, 2])), "key 'host': expected a column of string, found int64"),
        (arrow(level=pa.array(["1", "2"])), "value 'level'"),
        (arrow(level=pa.array([2**53 + 1, 0])), "value 'level'"),
        (
            arrow(time=pa.array([1, None], pa.timestamp("s"))),
            "column 'time', row 1: expected an event time, found null",
        ),
        (arrow(time=pa.array([1, 2])), "column 'time': expected timestamps or dates as event times, found int64"),
    ],
)
def test_bad_arrow_messages_go_aside(data: bytes, reason: str) -> None:
    [table], [letter] = read([Message(arrow()), Message(data)], "arrow")
    assert table.num_rows == 2
    assert letter["reason"].startswith(reason)


def test_a_bundle_without_rows_gives_no_table() -> None:
    assert read([]) == ([], [])
    tables, letters = read([Message(b"?")])
    assert (tables, len(letters)) == ([], 1)


NOON = 1_504_612_800_000
MINUTE = 60_000


def at(event: int, record: int, partition: int = 1) -> Message:
    """A message of a row, with times in milliseconds after noon."""
    return Message(payload(time=NOON + event), timestamp=NOON + record, partition=partition)


@pytest.mark.parametrize("discarding", [False, True])
def test_sessions_that_late_rows_may_lengthen_do_not_roll_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], discarding: bool
) -> None:
    """One ends before midnight, and a late row makes it end after: it is in the files of both days."""

    def rows(*seconds: int) -> Any:
        times = pa.array([second * 1000 for second in seconds], pa.timestamp("ms", "UTC"))
        return TimestampedValue(
            pa.table({"key": ["a"] * len(seconds), "value": [1.0] * len(seconds), "time": times}), 0
        )

    (tmp_path / "days").mkdir()
    late, midnight = 100_000, 86_400
    stream: Any = test_stream.TestStream().add_elements([rows(midnight - 10)]).advance_watermark_to(midnight + 100)
    stream = stream.add_elements([rows(midnight - 6)]).advance_watermark_to_infinity()
    with beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(streaming=True)) as pipeline:
        settings: dict[str, Any] = {"windowfn": Sessions(7), "allowed_lateness": late, "discarding": discarding}
        columns: dict[str, Any] = {"keys": ["key"], "value": "value", "event_time": "time", "state": True}
        build(pipeline, None, str(tmp_path / "days"), topic=stream, **columns, **settings)
    found = [pq.read_table(path) for path in (tmp_path / "days").glob("*.parquet")]
    assert sum(table.num_rows for table in found) == 2
    arguments = ["--quiet", f"--input={tmp_path / 'days'}", "--key=key", f"--output={tmp_path / 'out'}"]
    if discarding:
        assert rollup.main(arguments) == 0
        assert pq.read_table(tmp_path / "out")["count"].to_pylist() == [2]
        return
    assert rollup.main(arguments) == 2
    assert "expected each row to count once, found sessions that longer ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("windowfn", "end"),
    [
        (FixedWindows(600), 10 * MINUTE),
        (SlidingWindows(3600, 600), 10 * MINUTE),  # of the first of its six windows
        (Sessions(420), 7 * MINUTE),
    ],
)
def test_a_row_is_late_when_the_newest_record_is_beyond_what_its_first_window_is_kept(windowfn: Any, end: int) -> None:
    lateness = Lateness(windowfn, 10.0, 120.0)
    last = end + 130_000
    [table], letters = read([at(0, last - 1)], lateness=lateness)
    assert (table.num_rows, letters) == (1, [])
    tables, [letter] = read([at(0, last)], lateness=lateness)
    assert tables == []
    assert letter["reason"].startswith(
        "late: expected rows of windows that are open, found 1 of 1 in windows that were closed"
    )
    assert json.loads(letter["payload"])["time"] == NOON
    # By a record ahead of it in its partition; not in another, nor by one that comes after it.
    assert read([at(last, last), at(0, 0)], lateness=lateness)[1] != []
    assert read([at(last, last, partition=2), at(0, 0)], lateness=lateness)[1] == []
    assert read([at(0, 0), at(last, last)], lateness=lateness)[1] == []


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10_000), st.integers(0, 2)), max_size=40),
    st.sampled_from([FixedWindows(7), SlidingWindows(20, 3), Sessions(2)]),
)
def test_a_row_that_is_little_older_than_its_record_is_never_late(
    rows: list[tuple[int, int, int]], windowfn: Any
) -> None:
    messages = [at(record - age, record, partition) for record, age, partition in sorted(rows)]
    _, letters = read(messages, lateness=Lateness(windowfn, 10.0, 0.0))
    assert letters == []


def test_no_record_makes_rows_late_by_a_time_beyond_the_clock() -> None:
    now = int(clock() * 1000) - NOON
    lateness = Lateness(FixedWindows(600), 10.0, 0.0)
    _, letters = read([at(now, 10**12), at(now, now)], lateness=lateness)
    assert letters == []


def test_the_late_rows_of_a_message_alone_are_left_out() -> None:
    times = pa.array([NOON, NOON + 3_600_000], pa.timestamp("ms", "UTC"))
    rows = pa.table({"host": ["a", "b"], "shelf": [1, 2], "level": [0.5, 1.5], "time": times})
    message = Message(to_ipc(rows), timestamp=NOON + 3_600_000)
    [table], [letter] = read([message], "arrow", lateness=Lateness(FixedWindows(600), 10.0, 60.0))
    assert table["host"].to_pylist() == ["b"]
    assert "found 1 of 2 in windows" in letter["reason"]


def test_workers_of_another_version_fail_ahead_of_any_row(monkeypatch: pytest.MonkeyPatch) -> None:
    dofn = ReadMessages(FIELDS, "json", 10_000)
    monkeypatch.setattr("lse_stream.beam.version.__version__", "0.1.9")
    with pytest.raises(DataError, match=r"expected version .* on every worker, .* found 0\.1\.9 on "):
        dofn.start_bundle()


def test_dead_letters_are_a_file_for_each_bundle(tmp_path: Path) -> None:
    for _ in range(2):  # a bundle that is tried again
        with beam.Pipeline(FnApiRunner()) as pipeline:
            (
                pipeline
                | beam.Create([b'{"reason":"one"}', b'{"reason":"two"}'], reshuffle=False)
                | beam.ParDo(WriteLines(str(tmp_path)))
            )
    [path] = tmp_path.iterdir()
    assert [json.loads(line)["reason"] for line in path.read_text().splitlines()] == ["one", "two"]


def test_dead_letters_are_never_put_into_a_directory_that_is_not_there(tmp_path: Path) -> None:
    writer = WriteLines(str(tmp_path / "bad"))
    writer.start_bundle()
    writer.process(b"{}")
    with pytest.raises(DataError, match=r"bad/dead-letters-.*: expected a file that can be written, .* \(on host "):
        writer.finish_bundle()
    assert list(tmp_path.iterdir()) == []


def test_results_as_messages() -> None:
    table = pa.table(
        {
            "host": ["a", "b", None],
            "window_start": pa.array([0, 0, 0], pa.timestamp("us", "UTC")),
            "window_end": pa.array([10**6] * 3, pa.timestamp("us", "UTC")),
            "logsumexp": [math.inf, -math.inf, 0.1 + 0.2],
            "count": [1, 2, 3],
            "max": [math.nan, 0.0, -0.5],
        }
    )
    pane = PaneInfo(is_first=False, is_last=False, timing=2, index=3, nonspeculative_index=1)
    messages = list(result_messages(table, ["host"], ["logsumexp", "count", "max"], pane))
    assert messages[0] == (
        b'{"key":{"host":"a"},"window_start":"1970-01-01T00:00:00Z","window_end":"1970-01-01T00:00:01Z"}',
        b'{"key":{"host":"a"},"window_start":"1970-01-01T00:00:00Z","window_end":"1970-01-01T00:00:01Z",'
        b'"logsumexp":"Infinity","count":1,"max":"NaN","timing":"LATE","pane":3}',
    )
    assert json.loads(messages[1][1])["logsumexp"] == "-Infinity"
    third = json.loads(messages[2][1])
    assert (third["key"], third["logsumexp"], third["max"]) == ({"host": None}, 0.1 + 0.2, -0.5)


# --- the command line -------------------------------------------------------------------------------------------------


def test_windows_and_durations() -> None:
    assert parse_duration("x", "90s") == 90
    assert parse_duration("x", "500ms") == 0.5
    assert parse_duration("x", "2w") == 14 * 86400
    assert parse_window("fixed:1h") == FixedWindows(3600)
    assert parse_window("sliding:1h/10m") == SlidingWindows(3600, 600)
    assert parse_window("session:30m") == Sessions(1800)
    assert parse_window("sliding:10000s/1s") == SlidingWindows(10_000, 1)


@pytest.mark.parametrize(
    "text",
    ["", "fixed", "fixed:", "fixed:1", "fixed:0s", "fixed:-1h", "fixed:1h/1h", "sliding:1h", "sliding:1h/2h",
     "session:1h/2h", "hourly:1h", "fixed:1y", "fixed:1000000w", "fixed:1.5h", "sliding:1h/0s",
     "sliding:10000001ms/1s", f"fixed:{'9' * 400}ms"],
)  # fmt: skip
def test_windows_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--window"):
        parse_window(text)


IN = {"in.parquet": {"k": [1, 2], "v": [1.0, 2.0], "t": pa.array([0, 1], pa.timestamp("s"))}}
GOOD = "--source replay --input in.parquet --key k --value v --event_time t --window fixed:1h --output out"
KAFKA = (
    "--source kafka --bootstrap_servers 127.0.0.1:1 --topic rows --key k --value v --window fixed:1h "
    "--output_topic out --dead_letters bad --max_records 5 --expansion_service 127.0.0.1:1"
)
ENDLESS = KAFKA.replace("--max_records 5", "--runner=FlinkRunner --flink_master=localhost:8081").split()
NEW, OLD = (f"2017090{day}T000000-2017090{day}T010000-part-00000-of-00001.parquet" for day in (5, 4))


@pytest.mark.parametrize(
    "bad",
    [
        (IN, GOOD.replace("fixed:1h", "hourly"), ["--window hourly: expected fixed:1h, sliding:1h/10m or session:30m"]),
        (IN, f"{GOOD} --allowed_lateness=-5m", ["--allowed_lateness -5m: expected a whole number and a unit of ms, s"]),
        (
            IN,
            f"{GOOD} --early_firing 5m",
            ["--early_firing 5m: expected a runner of streams such as --runner=FlinkRunner"],
        ),
        (IN, f"{GOOD} --early_firing 500ms", ["--early_firing 500ms: expected whole seconds"]),
        (IN, f"{GOOD} --topic rows", ["--topic: expected none with --source replay, found rows"]),
        (IN, f"{GOOD} --runner DaskRunner", ["--runner DaskRunner: it gives silently wrong results with windows"]),
        (IN, GOOD.replace("fixed:1h", "fixed:-1h"), ["--window fixed:-1h: expected a whole number", "found '-1h'"]),
        (IN, f"{GOOD} --scale loud", ["--scale: expected 'natural'", "found 'loud'"]),
        (IN, f"{GOOD} --key k", ["--key k: expected columns named once"]),
        (
            IN,
            GOOD.replace("--key k", "--key count"),
            ["--key count: expected a name other than the columns of the result"],
        ),
        (IN, GOOD.replace("--event_time t", ""), ["--event_time: expected a value with --source replay, found none"]),
        (IN, GOOD.replace("--output out", ""), ["--output: expected a value or --output_topic"]),
        (IN, GOOD.replace("_time t", "_time v"), ["column 'v': expected timestamps or dates"]),
        (IN, GOOD.replace("--value v", "--value w"), ["column 'w'"]),
        (IN, f"{GOOD} --num_shards 0", ["--num_shards: expected 1 or more, found 0"]),
        (
            IN,
            GOOD.replace("fixed:1h", "fixed:200000d"),
            ["--window fixed:200000d: expected at most 100 years, found 547.6"],
        ),
        (
            IN,
            GOOD.replace("fixed:1h", "sliding:52w/1ms"),
            ["--window sliding:52w/1ms: expected each row in at most 10,000 windows, found it in 31,449,600,000"],
        ),
        (
            IN,
            GOOD.replace("fixed:1h", "sliding:1h"),
            ["--window sliding:1h: expected a period behind the size, such as sliding:1h/10m, found none"],
        ),
        (IN, f"{GOOD} --allowed_lateness 0", ["w, such as 30m, or 0s for none, found '0'"]),
        (IN, f"{GOOD} --format json", ["--format: expected none with --source replay, found json"]),
        (
            IN,
            f"{GOOD} --max_out_of_orderness 5s",
            ["--max_out_of_orderness: expected none with --source replay, found"],
        ),
        (IN, f"{GOOD} --max_message_bytes 5", ["--max_message_bytes: expected none with --source replay, found 5"]),
        (IN, GOOD.replace("--output out", "--output ."), ["--output .: expected a directory that can be replaced"]),
        ({}, GOOD, ["in.parquet: expected a file, a directory or a glob"]),
        ({}, KAFKA, ["--expansion_service 127.0.0.1:1: expected HOST:PORT of Beam's expansion service, found"]),
        ({}, KAFKA.replace("--max_records 5", ""), ["--source kafka: expected --max_records, or a runner of streams"]),
        ({}, KAFKA.replace("--dead_letters bad", ""), ["--dead_letters: expected a value or --dead_letter_topic"]),
        (
            {},
            KAFKA.replace("--output_topic out", "--output_topic rows"),
            ["--output_topic rows: expected another topic"],
        ),
        (
            {},
            KAFKA.replace("--key k", "--key k:int"),
            ["--key k:int: expected NAME:TYPE with a type of string, int64"],
        ),
        ({}, f"{KAFKA} --field x --field x:int64", ["--field: expected fields named once, found x, x:int64"]),
        ({}, f"{KAFKA} --field x", ["--field x: expected a further field that --where names, found none"]),
        (
            {},
            f"{KAFKA} --field k --where k='a'",
            ["--field k: expected a further field that --where names, found a key"],
        ),
        ({}, f"{KAFKA} --format arrow --field x", ["--field: expected none with --format arrow, found ['x']"]),
        (IN, f"{GOOD} --field x", ["--field: expected none with --source replay, found ['x']"]),
        ({}, f"{KAFKA} --where kk='a'", ["--where: expected --field kk:TYPE, as 'kk' is no key", "(nearest: k)"]),
        ({}, f"{KAFKA} --where k=1", ["--where 'k=1': column 'k' of string: expected"]),
        ({}, f"{KAFKA} --format arrow --where k=1", ["--where 'k=1': column 'k' of string: expected"]),
        ({}, f"{KAFKA} --where 1=1", ["--where '1=1': expected a column on one side of ="]),
        ({}, f"{KAFKA} --truncate k=day", ["--truncate k=day: expected timestamps, or dates", "found string"]),
        ({}, f"{KAFKA} --bin v=1", ["--bin v: expected a column that is a --key, or is mapped to one, found k"]),
        ({"m.csv": b"v,g\n"}, f"{KAFKA} --key g --map v=m.csv", ["--map v: expected a column that is no --value too"]),
        (
            {"m.csv": b"m,v\n"},
            f"{KAFKA.replace('--value v', '--value w')} --key v --map m=m.csv --where v='1'",
            ["--where: expected m, the field that --map makes v of, found v"],
        ),
        (
            {"m.csv": b"event_time,g\n"},
            f"{KAFKA} --key g --map event_time=m.csv",
            ["--map event_time: expected another field, found that of the event times"],
        ),
        ({}, f"{KAFKA} --field :int64", ["--field :int64: expected NAME:TYPE with a type of", "found no name"]),
        ({}, KAFKA.replace("--max_records 5", "--max_records 0"), ["--max_records: expected 1 or more, found 0"]),
        ({}, f"{KAFKA} --kafka_config x", ["--kafka_config x: expected NAME=VALUE"]),
        ({}, f"{KAFKA} --input in.parquet", ["--input: expected none with --source kafka"]),
        (
            {},
            f"{KAFKA} --kafka_config client.id=me --kafka_config security.protocl=SSL",
            ["--kafka_config security.protocl: expected settings that the Kafka client takes, found No such conf"],
        ),
        (
            {},
            KAFKA.replace("service 127.0.0.1:1", "service foo"),
            ["--expansion_service foo: expected HOST:PORT of Beam's expansion service, found 'foo'"],
        ),
        (
            {},
            KAFKA.replace("--max_records 5", "--runner=FnApiRunner --resume saved"),
            ["--resume saved: expected --runner=FlinkRunner, which can go on from a savepoint, found FnApiRunner"],
        ),
        # Before anything is asked, be it the expansion service, which is not there.
        (
            {"saved/other": b""},
            f"{' '.join(ENDLESS)} --output out --resume saved",
            ["--resume saved: expected the directory of a savepoint or a checkpoint, with _metadata, found"],
        ),
        (
            {"saved/_metadata": b""},
            f"{' '.join(ENDLESS)} --output out --resume saved",
            ["--resume: expected results of a stream in --output out, with _stream.json, found"],
        ),
        ({f"out/{OLD}": b""}, f"{KAFKA} --output out", ["--output out: expected nothing there yet (or --overwrite)"]),
        ({}, f"{KAFKA} --output bad", ["--output bad: expected a place apart from --dead_letters, found bad"]),
        ({}, f"{KAFKA} --output bad/out", ["--output bad/out: expected a place apart from --dead_letters, found bad"]),
        ({}, f"{KAFKA} --output .", ["--output .: expected a place apart from --dead_letters, found bad"]),
        (
            {},
            f"{KAFKA} --dead_letter_topic out",
            ["--dead_letter_topic out: expected another topic than --output_topic, found the same"],
        ),
        (
            {},
            " ".join(ENDLESS).replace("localhost:8081", "localhost"),
            ["--flink_master localhost: expected HOST:PORT of Flink's REST interface, found no port"],
        ),
    ],
)
def test_bad_command_lines(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "stream", tmp_path, capsys, bad)


@pytest.mark.parametrize(
    ("times", "fragment"),
    [
        (pa.array([0, None], pa.timestamp("s")), "in.parquet, row group 0, column 't', row 1: expected an event time"),
        (
            pa.array([0, 2**63 - 1], pa.timestamp("us")),
            "row group 0, column 't', row 1: expected a time that Beam can hold",
        ),
        (
            pa.array([0, 2**62], pa.timestamp("us")),
            "in.parquet, row group 0, column 't', row 1: expected a time that is, with its windows, in the years 1 to",
        ),
    ],
)
def test_bad_event_times_of_files(
    times: pa.Array,
    fragment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    place({"in.parquet": IN["in.parquet"] | {"t": times}}, tmp_path)
    assert main([*GOOD.split(), "--quiet"]) == 1
    assert fragment in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.engine
def test_a_broker_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:  # where an expansion service would be
        service = f"--expansion_service=127.0.0.1:{listening.getsockname()[1]}"
        arguments = KAFKA.replace("--expansion_service 127.0.0.1:1", service).replace("bad", str(tmp_path / "bad"))
        assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert "--bootstrap_servers 127.0.0.1:1: expected a Kafka broker that answers, found none" in error
    assert list(tmp_path.iterdir()) == []


def test_settings_that_the_client_takes_one_by_one_only() -> None:
    settings = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
    with pytest.raises(UsageError) as caught:
        Broker({**settings, "bootstrap.servers": "127.0.0.1:1"})
    assert str(caught.value).startswith("--kafka_config security.protocol, sasl.mechanism: expected settings that the")
    assert "sasl.username and sasl.password must be set" in str(caught.value)


def all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broker, topics and expansion service are as if they were there."""
    monkeypatch.setattr("pipelines.stream.check_expansion_service", lambda *_: None)
    monkeypatch.setattr("pipelines.stream.Broker.check_topics", lambda *_: None)
    monkeypatch.setattr("pipelines.stream.Broker.is_log_append_time", lambda *_: False)
    monkeypatch.setattr("pipelines.stream.Broker.records", lambda *_: {0: 2, 1: 1})


def test_dead_letters_that_cannot_be_put_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    all_there(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").touch()
    assert main([*KAFKA.split(), "--output", "out"]) == 2
    assert "--dead_letters bad: expected a directory to be made" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_a_fault_of_the_expansion_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the service says:\nno such setting")

    all_there(monkeypatch)
    monkeypatch.setattr("lse_stream.beam.kafka.ReadRows", fail)
    monkeypatch.chdir(tmp_path)
    assert main([*KAFKA.split(), "--output", "out", "--quiet"]) == 1
    error = "stream: error: RuntimeError: no such setting (--traceback shows all)\n"
    assert capsys.readouterr().err == error
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    assert main([*KAFKA.split(), "--output", "out"]) == 1
    assert capsys.readouterr().err == f"stream: rows has 3 records of --max_records 5; waiting for more\n{error}"


# --- a stream without an end, and the results that are there already --------------------------------------------------


def place_of_results(tmp_path: Path, *more: str) -> tuple[Path, Any]:
    """A directory with a result, and the context in which a stream is to take its place."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    (out / OLD).touch()
    return out, _place(parse([*ENDLESS, "--output", str(out), *more]), 3)


def visible(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def test_earlier_results_go_when_the_job_has_begun_and_those_of_the_new_one_stay(tmp_path: Path) -> None:
    out, place = place_of_results(tmp_path, "--overwrite")
    with place as (directory, begun):
        assert visible(out) == ["_stream.json"]
        Path(directory, NEW).touch()  # the job is faster than we are told
        assert len(list(tmp_path.iterdir())) == 2
        begun()
        assert visible(out) == [NEW, "_stream.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("before", [True, False])
def test_earlier_results_come_back_where_the_job_is_refused(tmp_path: Path, before: bool) -> None:
    out, place = place_of_results(tmp_path, "--overwrite")
    if not before:
        (out / OLD).unlink()
    with pytest.raises(RuntimeError, match="refused"), place:
        raise RuntimeError("refused")
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if before else [])
    assert not before or visible(out) == [OLD]


@pytest.mark.parametrize("ended", [True, False])
def test_earlier_results_stay_aside_where_the_job_may_go_on_or_has_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ended: bool
) -> None:
    out, place = place_of_results(tmp_path, "--overwrite")

    def fail() -> None:
        if ended:
            (out / NEW).touch()
        raise RunError("no answer", ended=ended)

    with pytest.raises(RunError) as caught, place:
        fail()
    [aside] = [path for path in tmp_path.iterdir() if path.name != "out"]
    assert caught.value.__notes__ == [f"what was in {out} before stays in {aside}"]
    there = visible(out), visible(aside)
    assert there == ([NEW, "_stream.json"] if ended else ["_stream.json"], [OLD])
    # Nor does a later run touch either.
    gone = tmp_path / of_a_run_that_is_gone(aside.name)
    aside.rename(gone)
    remove_left_behind(str(out))
    assert (visible(out), visible(gone)) == there
    assert f"left where it is, as what was to replace these results may not have: {gone}" in capsys.readouterr().err


def test_results_where_a_link_leads_are_replaced(tmp_path: Path) -> None:
    out, _ = place_of_results(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(out)
    with _place(parse([*ENDLESS, "--output", str(link), "--overwrite"]), 3) as (_, begun):
        begun()
    assert visible(link) == visible(out) == ["_stream.json"]


def of_a_run_that_is_gone(name: str) -> str:
    """The name of what a run has put aside, with the id of a process that there is not."""
    return re.sub(r"-\d+-\d+-([0-9a-f]{8})", r"-4194000-1-\1", name)


def test_a_launcher_that_was_killed_ahead_of_the_job_has_left_the_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / OLD).touch()
    aside = set_aside(str(out)) or ""
    out.mkdir()
    Path(aside).rename(of_a_run_that_is_gone(aside))
    remove_left_behind(str(out))
    assert visible(out) == [OLD]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("", None),
        ("--num_shards 2", "--num_shards: expected 1, as of the results in "),
        ("--window fixed:2h", "--window: expected fixed:1h, as of the results in "),
        ("--scale decibel", "--scale: expected natural, as of"),
        ("--panes discarding", "--panes: expected accumulating, as of"),
        ("--allowed_lateness 2h", "--allowed_lateness: expected 3600s, as of"),
        ("--key more", "--key: expected ["),
        ("--where k='a'", "--where: expected None, as of"),
        ("--truncate k=day", "--truncate: expected [], as of"),
    ],
)
def test_a_stream_goes_on_with_the_settings_that_it_had(tmp_path: Path, changes: str, message: str | None) -> None:
    with taking_place(parse([*ENDLESS, "--output", str(tmp_path)]), 3):
        pass
    options = parse([*ENDLESS, "--output", str(tmp_path), "--resume", "file:///saved", *changes.split()])
    assert options.beam.get_all_options(retain_unknown_options=True)["savepoint_path"] == "file:///saved"
    if message is None:
        check_settings(options)
        check_partitions(options, 3)
        with pytest.raises(UsageError, match=r"partitions: expected 3, .* found 4"):
            check_partitions(options, 4)
        return
    with pytest.raises(UsageError) as caught:
        check_settings(options)
    assert str(caught.value).startswith(message)


def test_only_a_stream_on_a_cluster_goes_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected results of a stream in --output .*, with _stream\.json, found"):
        check_settings(parse([*ENDLESS, "--output", str(tmp_path), "--resume", "x"]))
    for arguments, found in (
        ([*ENDLESS, "--overwrite"], "expected results to go on with, found --overwrite"),
        (KAFKA.split(), "expected a stream without an end"),
        (
            [*ENDLESS, "--flink_master=[local]"],
            "expected a cluster, by --flink_master or --job_endpoint, found a Flink",
        ),
    ):
        with pytest.raises(UsageError, match="--resume x: ") as caught:
            parse([*arguments, "--output=out", "--resume=x"])
        assert found in str(caught.value)


def test_streams_on_flink_have_what_they_need(caplog: pytest.LogCaptureFixture) -> None:
    def flink(*more: str) -> dict[str, Any]:
        arguments = KAFKA.replace("--max_records 5", "").split()
        options = parse([*arguments, "--runner=FlinkRunner", *more])
        return {**options.beam.get_all_options(), "num_shards": options.num_shards}

    found = flink()
    assert (found["streaming"], found["num_shards"]) == (True, 1)
    assert flink("--parallelism=3")["num_shards"] == 3
    assert flink("--parallelism=3", "--num_shards=2")["num_shards"] == 2
    caplog.clear()
    parse([*KAFKA.split(), "--runner=FlinkRunner", "--flink_master=localhost:8081"])
    assert caplog.messages == []
    assert parse([*KAFKA.split(), "--runner=FlinkRunner", "--parallelism=3"]).num_shards == 1
