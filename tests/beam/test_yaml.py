"""The transforms of Beam YAML: the shipped example and provider, run as a user would."""

import csv
import math
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from apache_beam.pvalue import AsList, Row
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from apache_beam.transforms.combiners import ToList
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.utils.timestamp import Timestamp
from programs import damage

from lse_stream import LogSumExpAccumulator, log_softmax
from lse_stream.beam import yaml as yaml_transforms
from lse_stream.beam.yaml import (
    CrossEntropy,
    EffectiveSampleSize,
    ExactSum,
    LogLikelihood,
    LogMeanExp,
    LogSoftmax,
    LogSumExp,
    ReadParquet,
    WeightedLogSumExp,
)
from lse_stream.errors import InputError
from lse_stream.table_functions import finalize, group_states, sort_by_keys
from lse_stream.testing import bits

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "pipelines" / "yaml" / "storms.yaml"
PROVIDER = ROOT / "pipelines" / "yaml" / "lse_stream.yaml"
STORMS = ROOT / "pipelines" / "samples" / "storms.parquet"


def run_yaml(pipeline: dict[str, Any], directory: Path) -> subprocess.CompletedProcess[str]:
    path = directory / "pipeline.yaml"
    path.write_text(yaml.safe_dump({**pipeline, "providers": [{"include": str(PROVIDER)}]}))
    command = [sys.executable, "-m", "apache_beam.yaml.main", f"--yaml_pipeline_file={path}", "--runner=FnApiRunner"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def read_csv(directory: Path, prefix: str) -> list[dict[str, str]]:
    [path] = directory.glob(f"{prefix}*")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_example_gives_the_seasons_of_the_storms(tmp_path: Path) -> None:
    pipeline = yaml.safe_load(EXAMPLE.read_text())["pipeline"]
    *_, sink = pipeline["transforms"]
    sink["config"]["path"] = str(tmp_path / "storms")
    run = run_yaml({"pipeline": pipeline}, tmp_path)
    assert run.returncode == 0, run.stderr
    rows = read_csv(tmp_path, "storms-")
    storms = pq.read_table(STORMS)
    assert {int(row["season"]) for row in rows} == set(storms["season"].to_pylist())
    for row in rows:
        categories = [s["category"] for s in storms.to_pylist() if s["season"] == int(row["season"])]
        state = LogSumExpAccumulator(categories, scale="base 4")
        assert float(row["logsumexp"]) == state.value()
        assert (int(row["count"]), float(row["max"])) == (state.count, state.max)
        assert float(row["bonus"]) == state.result("bonus")


def test_the_provider_offers_every_transform() -> None:
    [provider] = yaml.safe_load(PROVIDER.read_text())
    for name, path in provider["transforms"].items():
        assert path == f"lse_stream.beam.yaml.{name}"
        assert issubclass(getattr(yaml_transforms, name), beam.PTransform)
    offered = {name for name, value in vars(yaml_transforms).items() if isinstance(value, type) and value.__doc__}
    public = {name for name in offered if getattr(yaml_transforms, name).__module__ == "lse_stream.beam.yaml"}
    assert set(provider["transforms"]) == {name for name in public if not name.startswith("_")}


@pytest.mark.engine
def test_a_mistake_is_told_in_the_users_terms(tmp_path: Path) -> None:
    read = {"type": "ReadParquet", "config": {"path": str(STORMS), "columns": ["season", "category"]}}
    for config, message in (
        ({"value": "strength"}, "expected some of the fields season, category, found 'strength'"),
        ({"value": "category", "scale": "base 1"}, "base: expected a number above 1"),
        ({"value": "category", "results": ["mode"]}, "results: expected some of logsumexp"),
    ):
        steps = [read, {"type": "LogSumExp", "config": config}, {"type": "LogForTesting"}]
        run = run_yaml({"pipeline": {"type": "chain", "transforms": steps}}, tmp_path)
        assert run.returncode != 0
        assert message in run.stderr


# --- each transform against columns of states -------------------------------------------------------------------------

TABLE = pa.table(
    {
        "k": ["a", "b", "a", "b", "a", "c"],
        "x": [1.0, 2.0, -3.0, 4.5, None, None],
        "w": [1.0, -1.0, 0.0, 2.0, 5.0, 1.0],
        "t": [1.0, 0.0, 0.0, 1.0, 0.5, 0.0],
    }
)


def as_rows(pipeline: beam.Pipeline, table: pa.Table = TABLE) -> Any:
    return pipeline | beam.Create([Row(**row) for row in table.to_pylist()])


def check_rows(expected: Sequence[dict[str, Any]]) -> Any:
    def check(found: list[Any]) -> None:
        assert sorted(bits(row.as_dict()) for row in found) == sorted(bits(row) for row in expected), (found, expected)

    return check


@pytest.mark.parametrize("keys", [["k"], []], ids=["keys", "total"])
@pytest.mark.parametrize(
    ("make", "value", "kind", "scale"),
    [
        (lambda keys: LogSumExp("x", keys), "x", "logsumexp", "natural"),
        (lambda keys: LogSumExp("x", keys, "decibel", ["max", "logmeanexp"]), "x", "logsumexp", "decibel"),
        (lambda keys: LogMeanExp("x", keys), "x", "logsumexp", "natural"),
        (lambda keys: WeightedLogSumExp("x", "w", keys, "log2"), ["x", "w"], "weighted_logsumexp", "log2"),
        (lambda keys: LogLikelihood("x", keys), "x", "log_likelihood", "natural"),
        (lambda keys: EffectiveSampleSize("x", keys), "x", "effective_sample_size", "natural"),
        (lambda keys: ExactSum("x", keys), "x", "exact_sum", "natural"),
    ],
    ids=["LogSumExp", "decibel", "LogMeanExp", "WeightedLogSumExp", "LogLikelihood", "EffectiveSampleSize", "ExactSum"],
)
def test_rows_have_the_results_of_columns(make: Any, value: Any, kind: str, scale: str, keys: list[str]) -> None:
    transform = make(keys)
    states = group_states(TABLE, keys, value, aggregation=kind, scale=scale)
    expected = finalize(sort_by_keys(states, keys), results=transform._results).to_pylist()
    with beam.Pipeline(FnApiRunner()) as pipeline:
        assert_that(as_rows(pipeline) | transform, check_rows(expected))


def test_cross_entropy_of_rows() -> None:
    table = TABLE.filter(pa.array([True] * 4 + [False] * 2))
    states = sort_by_keys(group_states(table, ["k"], ["x", "t"], aggregation="cross_entropy"), ["k"])
    with beam.Pipeline(FnApiRunner()) as pipeline:
        found = as_rows(pipeline, table) | CrossEntropy("x", "t", ["k"])
        assert_that(found, check_rows(finalize(states).to_pylist()))


@pytest.mark.parametrize("max_broadcast", [10, 0])
def test_log_softmax_keeps_the_rows(max_broadcast: int) -> None:
    table = TABLE.filter(pa.array([True] * 4 + [False] * 2))
    logs = {
        key: dict(zip(x, log_softmax(x).tolist(), strict=True)) for key, x in (("a", (1.0, -3.0)), ("b", (2.0, 4.5)))
    }
    expected = [{**row, "log_softmax": logs[row["k"]][row["x"]]} for row in table.to_pylist()]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        assert_that(as_rows(pipeline, table) | LogSoftmax("x", ["k"], max_broadcast), check_rows(expected))


def test_totals_go_by_window() -> None:
    row_type = RowTypeConstraint.from_fields([("x", float), ("at", int)])
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = (
            pipeline
            | beam.Create([(1.0, 1), (2.0, 12), (3.0, 13)])
            | beam.MapTuple(lambda x, at: TimestampedValue(Row(x=x, at=at), at)).with_output_types(row_type)
            | beam.WindowInto(FixedWindows(10))
            | LogSumExp("x", results=["count", "max"])
        )
        assert_that(rows, check_rows([{"count": 1, "max": 1.0}, {"count": 2, "max": 3.0}]))


def test_of_no_rows_there_is_a_total_and_no_key() -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        nothing = as_rows(pipeline) | beam.Filter(lambda _: False)
        total = nothing | "Total" >> LogSumExp("x")
        assert_that(total, check_rows([{"logsumexp": -math.inf, "count": 0, "max": -math.inf}]), label="total")
        assert_that(nothing | "Keys" >> LogSumExp("x", ["k"]), check_rows([]), label="keys")


def test_read_parquet_reads_what_beams_own_refuses(tmp_path: Path) -> None:
    storms = pq.read_table(STORMS)
    for i, part in enumerate((storms.slice(0, 200), storms.slice(200))):
        pq.write_table(part, tmp_path / f"{i}.parquet", row_group_size=50)
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = pipeline | ReadParquet(str(tmp_path), ["name", "season", "category"])
        assert_that(rows, check_rows(storms.select(["name", "season", "category"]).to_pylist()))
    with pytest.raises(InputError, match=r"0.parquet: column 'waves': expected once in the file, found columns "):
        ReadParquet(str(tmp_path), ["waves"])
    with pytest.raises(InputError, match="expected a file, a directory or a glob of Parquet files, found none"):
        ReadParquet(str(tmp_path / "nothing"), ["name"])
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"text.parquet: expected a readable Parquet file"):
        ReadParquet(str(tmp_path), ["name"])


def test_read_parquet_takes_files_as_the_programs_do(tmp_path: Path) -> None:
    for day in (1, 2):
        (tmp_path / f"day={day}").mkdir()
        columns = {"x": [float(day), None], "k": ["a", "b"], "other": [day] * 2}
        names = ["k", "x"] if day == 1 else ["other", "x", "k"]
        pq.write_table(pa.table({name: columns[name] for name in names}), tmp_path / f"day={day}" / "part.parquet")
    expected = [{"x": x, "day": day, "k": k} for day in (1, 2) for k, x in (("a", float(day)), ("b", None))]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        assert_that(pipeline | ReadParquet(str(tmp_path), ["x", "day", "k"]), check_rows(expected))
    with pytest.raises(InputError, match=r"day=1/part.parquet: column 'other': expected once in the file, found "):
        ReadParquet(str(tmp_path), ["other"])
    pq.write_table(pa.table({"x": ["1", "2"], "k": ["a", "b"]}), tmp_path / "day=2/part.parquet")
    with pytest.raises(InputError, match=r"day=2/part.parquet: column 'x': expected double as in .*, found string"):
        ReadParquet(str(tmp_path), ["x"])


def run_rows(read: ReadParquet) -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        _ = pipeline | read


def test_read_parquet_reads_by_row_group(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    table = pa.table({"k": ["a", "b"] * 50, "x": np.random.default_rng(0).normal(size=100)})
    pq.write_table(table, path, row_group_size=25, write_page_checksum=True, use_dictionary=False)
    damage(path, 2, 1)
    with pytest.raises(Exception, match=r"in.parquet, row group 2, column 'x': expected to read all rows"):
        run_rows(ReadParquet(str(path), ["k", "x"]))


# --- dates and times --------------------------------------------------------------------------------------------------


DAYS = [date(2020, 2, 29), date(1, 1, 1), date(9999, 12, 31), None]
TIMES = [Timestamp(micros=1_600_000_000_123_456), Timestamp(micros=-1), Timestamp(0), None]


@pytest.mark.parametrize("hints", [(date | None, Timestamp | None), (Any, Any)], ids=["typed", "any"])
@pytest.mark.parametrize("max_broadcast", [100, 0])
def test_dates_and_times_are_keys(hints: tuple[Any, Any], max_broadcast: int) -> None:
    keys = [(day, time) for day in DAYS for time in TIMES]
    rows = [Row(day=day, time=time, x=float(i)) for i, (day, time) in enumerate(keys * 2)]
    row_type = RowTypeConstraint.from_fields([("day", hints[0]), ("time", hints[1]), ("x", float)])
    totals, shares = [], []
    for i, (day, time) in enumerate(keys):
        x = [float(i), float(i + len(keys))]
        totals.append({"day": day, "time": time, "count": 2, "max": x[1]})
        shares += [
            {"day": day, "time": time, "x": v, "log_softmax": log}
            for v, log in zip(x, log_softmax(x).tolist(), strict=True)
        ]

    def check(expected: list[dict[str, Any]]) -> Any:
        def same(found: list[Any]) -> None:
            assert sorted(map(str, (row._asdict() for row in found))) == sorted(map(str, expected))
            for row in found:
                assert {type(row.day), type(row.time)} <= {date, Timestamp, type(None)}

        return same

    with beam.Pipeline(FnApiRunner()) as pipeline:
        made = pipeline | beam.Create(rows).with_output_types(row_type) | "As coded" >> beam.Reshuffle()
        total = made | LogSumExp("x", ["day", "time"], results=["count", "max"]) | "Totals" >> beam.Reshuffle()
        assert_that(total, check(totals), label="totals")
        share = made | LogSoftmax("x", ["day", "time"], max_broadcast) | "Shares" >> beam.Reshuffle()
        assert_that(share, check(shares), label="shares")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (datetime(2020, 1, 1, tzinfo=UTC), "key 'k': expected .*datetime.date or Beam's Timestamp, found datetime"),
        (time_of_day(12), "key 'k': expected .*datetime.date or Beam's Timestamp, found datetime.time"),
        (timedelta(1), "key 'k': expected .*datetime.date or Beam's Timestamp, found datetime.timedelta"),
        (Timestamp(1, 1, 9), "key 'k': expected times in whole microseconds, found .*1.000000001"),
    ],
    ids=["datetime", "time", "timedelta", "nanoseconds"],
)
def test_times_that_beams_rows_do_not_have_are_refused(key: Any, message: str) -> None:
    row_type = RowTypeConstraint.from_fields([("k", Any), ("x", float)])
    pipeline = beam.Pipeline(FnApiRunner())
    rows = pipeline | beam.Impulse() | beam.Map(lambda _: Row(k=key, x=1.0)).with_output_types(row_type)
    _ = rows | LogSumExp("x", ["k"])
    with pytest.raises(Exception, match=message):
        pipeline.run()


def test_dates_and_times_of_parquet(tmp_path: Path) -> None:
    path = str(tmp_path / "in.parquet")
    micros = [None if time is None else time.micros for time in TIMES]
    columns = {
        "date": pa.array(DAYS, pa.date32()),
        "date64": pa.array(DAYS, pa.date64()),
        "zoned": pa.array(micros, pa.timestamp("us", "Europe/Oslo")),
        "plain": pa.array(micros, pa.timestamp("us")),
        "seconds": pa.array([1, 2, None, -3], pa.timestamp("s")),
        "nanos": pa.array([1000, -1000, None, 0], pa.timestamp("ns")),
        "dictionary": pa.array([DAYS[0], None] * 2, pa.date32()).dictionary_encode(),
        "time": pa.array([1, 2, 3, None], pa.time64("us")),
        "duration": pa.array([1, 2, 3, None], pa.duration("us")),
    }
    pq.write_table(pa.table(columns), path, version="2.6")
    expected: dict[str, list[Any]] = {
        "date": DAYS,
        "date64": DAYS,
        "zoned": TIMES,
        "plain": TIMES,
        "seconds": [Timestamp(1), Timestamp(2), None, Timestamp(-3)],
        "nanos": [Timestamp(micros=1), Timestamp(micros=-1), None, Timestamp(0)],
        "dictionary": [DAYS[0], None] * 2,
    }
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = pipeline | ReadParquet(path, list(expected)) | beam.Reshuffle()

        def check(found: list[Any]) -> None:
            assert [row._asdict() for row in found] == [
                dict(zip(expected, values, strict=True)) for values in zip(*expected.values(), strict=True)
            ]

        assert_that(rows, check)
    for name, found in (("time", r"time64\[us\]"), ("duration", r"duration\[us\]")):
        message = f"in.parquet: column '{name}': expected a type that Beam's rows have, of dates and times .*, {found}"
        with pytest.raises(InputError, match=message.replace("*, ", "*, found ")):
            ReadParquet(path, [name])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1], pa.timestamp("ns")), "column 'k': expected times in whole microseconds, found .* lose data: 1"),
        (pa.array([2932897], pa.int32()).cast(pa.date32()), "column 'k': expected dates in the years 1 to 9999, found"),
    ],
    ids=["nanoseconds", "year 10000"],
)
def test_times_of_parquet_that_beams_rows_do_not_have_are_refused(
    tmp_path: Path, column: pa.Array, message: str
) -> None:
    path = str(tmp_path / "in.parquet")
    pq.write_table(pa.table({"k": column}), path)
    with pytest.raises(Exception, match=f"in.parquet, row group 0, {message}"):
        run_rows(ReadParquet(path, ["k"]))


def test_dates_and_times_go_through_beam_yaml(tmp_path: Path) -> None:
    table = pa.table(
        {
            "day": pa.array([DAYS[0], DAYS[0], None], pa.date32()),
            "time": pa.array([1_600_000_000_123, 1_600_000_000_123, 0], pa.timestamp("ms", "UTC")),
            "x": [1.0, 1.0, 2.0],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    day = {"expression": "'none' if day is None else day.isoformat()", "output_type": "string"}
    texts = {"day": day, "time": {"expression": "time.to_rfc3339()", "output_type": "string"}, "count": "count"}
    steps = [
        {"type": "ReadParquet", "config": {"path": str(tmp_path / "in.parquet"), "columns": table.column_names}},
        {"type": "LogSumExp", "config": {"value": "x", "keys": ["day", "time"]}},
        {"type": "MapToFields", "config": {"language": "python", "fields": texts}},
        {"type": "WriteToCsv", "config": {"path": str(tmp_path / "out")}},
    ]
    run = run_yaml({"pipeline": {"type": "chain", "transforms": steps}}, tmp_path)
    assert run.returncode == 0, run.stderr
    assert sorted(read_csv(tmp_path, "out-"), key=lambda row: row["day"]) == [
        {"day": "2020-02-29", "time": "2020-09-13T12:26:40.123000Z", "count": "2"},
        {"day": "none", "time": "1970-01-01T00:00:00Z", "count": "1"},
    ]


# --- errors -----------------------------------------------------------------------------------------------------------

MIXED: list[dict[str, Any]] = [
    {"k": "a", "x": 1.0, "w": 1.0, "t": 1.0},
    {"k": "a", "x": "much", "w": 1.0, "t": 0.0},
    {"k": "b", "x": None, "w": 1.0, "t": 0.0},
    {"k": time_of_day(12), "x": 3.0, "w": 1.0, "t": 1.0},
    {"k": "b", "x": 2, "w": math.inf, "t": math.nan},
    {"k": "b", "x": -1.5, "w": -2.0, "t": 1.0},
]


def as_text(row: Any) -> str:
    return repr(row.as_dict() if isinstance(row, Row) else row._asdict())


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (lambda **more: LogSumExp("x", ["k"], **more), [1, 3]),
        (lambda **more: LogMeanExp("x", ["k"], **more), [1, 3]),
        (lambda **more: LogLikelihood("x", ["k"], **more), [1, 3]),
        (lambda **more: EffectiveSampleSize("x", ["k"], **more), [1, 3]),
        (lambda **more: WeightedLogSumExp("x", "w", ["k"], **more), [1, 3, 4]),
        (lambda **more: CrossEntropy("x", "t", ["k"], **more), [1, 3, 4]),
        (lambda **more: LogSoftmax("x", ["k"], **more), [1, 2, 3]),
        (lambda **more: LogSoftmax("x", ["k"], 0, **more), [1, 2, 3]),
        (lambda **more: LogSumExp("x", **more), [1]),
    ],
    ids=[
        *("LogSumExp", "LogMeanExp", "LogLikelihood", "EffectiveSampleSize", "WeightedLogSumExp", "CrossEntropy"),
        *("LogSoftmax", "LogSoftmax of many", "total"),
    ],
)
def test_rows_that_are_errors_have_an_output_of_their_own(make: Any, bad: list[int]) -> None:
    row_type = RowTypeConstraint.from_fields([("k", Any), ("x", Any), ("w", float), ("t", float)])
    good = [Row(**row) for i, row in enumerate(MIXED) if i not in bad]

    def check_errors(found: list[Any]) -> None:
        assert sorted(as_text(row.element) for row in found) == sorted(repr(MIXED[i]) for i in bad)
        for row in found:
            assert row.msg.startswith(("TypeError(", "ValueError("))
            assert "Traceback" in row.stack

    def check_good(found: list[tuple[list[str], list[str]]]) -> None:
        [(results, expected)] = found
        assert sorted(results) == sorted(expected) != []

    with beam.Pipeline(FnApiRunner()) as pipeline:
        mixed = pipeline | "Mixed" >> beam.Create([Row(**row) for row in MIXED]).with_output_types(row_type)
        outputs = mixed | "Coded" >> beam.Reshuffle() | "Handled" >> make(error_handling={"output": "errors"})
        assert sorted(outputs) == ["errors", "good"]
        assert_that(outputs["errors"] | "Errors coded" >> beam.Reshuffle(), check_errors, label="errors")
        plain = pipeline | "Good" >> beam.Create(good).with_output_types(row_type) | "Plain" >> make()
        expected = AsList(plain | "Expected" >> beam.Map(as_text))
        results = outputs["good"] | "Found" >> beam.Map(as_text) | ToList()
        assert_that(results | beam.Map(lambda found, other: (found, other), expected), check_good, label="results")


@pytest.mark.parametrize("name", ["LogSumExp", pytest.param("LogSoftmax", marks=pytest.mark.engine)])
def test_errors_go_through_beam_yaml(name: str, tmp_path: Path) -> None:
    elements = [{"k": "a", "x": 1.0}, {"k": "b", "x": "much"}, {"k": "a", "x": 1.0}, {"k": "a", "x": [1.0]}]
    texts = {"k": "element.k", "x": "str(element.x)", "msg": "msg"}
    config = {"value": "x", "keys": ["k"], "error_handling": {"output": "bad"}}
    steps = [
        {"type": "Create", "name": "Rows", "config": {"elements": elements}},
        {"type": name, "input": "Rows", "config": config},
        {
            "type": "MapToFields",
            "name": "Texts",
            "input": f"{name}.bad",
            "config": {"language": "python", "fields": {key: {"expression": text} for key, text in texts.items()}},
        },
        {"type": "WriteToCsv", "name": "Good", "input": name, "config": {"path": str(tmp_path / "good")}},
        {"type": "WriteToCsv", "name": "Bad", "input": "Texts", "config": {"path": str(tmp_path / "bad")}},
    ]
    run = run_yaml({"pipeline": {"transforms": steps}}, tmp_path)
    assert run.returncode == 0, run.stderr
    good = read_csv(tmp_path, "good-")
    assert [row["k"] for row in good] == ["a"] * (1 if name == "LogSumExp" else 2)
    bad = read_csv(tmp_path, "bad-")
    assert sorted((row["k"], row["x"]) for row in bad) == [("a", "[1.0]"), ("b", "much")]
    assert all(row["msg"].startswith("TypeError('") for row in bad)


# --- configuration ----------------------------------------------------------------------------------------------------

NO_MAPPING: Any = "bad"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogSumExp("x", "k"), "keys: expected a list of names"),
        (
            lambda: LogSumExp("x", ["count"]),
            "keys: expected a list of names that differ from each other and the results",
        ),
        (lambda: LogSumExp("x", results=["sign"]), "results: expected some of logsumexp, .*, found 'sign'"),
        (lambda: LogSumExp("x", error_handling={"to": "bad"}), "error_handling: expected .* name of an output, other"),
        (lambda: LogSumExp("x", error_handling={"output": "good"}), "name of an output, other than 'good', found"),
        (lambda: LogSumExp("x", error_handling=NO_MAPPING), "error_handling: expected a mapping .*, found bad"),
        (lambda: LogSoftmax("x", error_handling={"to": "bad"}), "error_handling: expected .* name of an output, other"),
        (lambda: LogSoftmax("x", max_broadcast=-1), "max_broadcast: expected 0 or more, found -1"),
    ],
)
def test_bad_configuration_is_refused_before_the_run(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message), beam.Pipeline(FnApiRunner()) as pipeline:
        _ = as_rows(pipeline) | make()
