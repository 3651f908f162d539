"""Tables as Beam's rows."""

import datetime
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.coders import RowCoder
from apache_beam.coders.typecoders import registry
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import Timestamp

from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.beam import Finalize, LogSumExp, LogSumExpCombineFn, ToRows

SCHEMA = pa.schema([("model", pa.string()), ("logsumexp", pa.float64()), ("count", pa.int64())])
ROWS = pa.table({"model": ["a", "a", "b", None], "x": [0.0, 0.0, 5.0, 1.0]})


def results(pipeline: beam.Pipeline) -> Any:
    return pipeline | beam.Create([ROWS]) | LogSumExp.PerKeyFromTables(["model"], "x", num_shards=3) | Finalize()


def test_results_are_rows_that_other_transforms_take() -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        rows = results(pipeline) | ToRows(SCHEMA)
        assert isinstance(registry.get_coder(rows.element_type), RowCoder)
        total = rows | beam.GroupBy().aggregate_field("logsumexp", LogSumExpCombineFn(), "all")
        values = [0.6931471805599453, 5.0, 1.0]
        assert_that(total | beam.Map(lambda row: row.all), equal_to([LogSumExpAccumulator(values).value()]))
        found = rows | beam.Map(lambda row: (row.model or "", row.logsumexp, row.count))
        wanted = [("", 1.0, 1), ("a", 0.6931471805599453, 2), ("b", 5.0, 1)]
        assert_that(found, equal_to(wanted), "rows")


def test_a_row_of_every_type_passes_its_coder() -> None:
    table = pa.table(
        {
            "day": pa.array([datetime.date(2017, 9, 5), None]),
            "time": pa.array([1_504_612_800_000_001, None], pa.timestamp("us", "UTC")),
            "record": pa.array([b"\x00\xff", None]),
            "flag": pa.array([True, None]),
            "name": pa.array(["a", None]).dictionary_encode(),
        }
    )
    to_rows = ToRows(table.schema)
    rows = beam.Pipeline(FnApiRunner()) | beam.Create([(0, table)]) | to_rows
    coder = registry.get_coder(rows.element_type)

    def passed(rows: Iterator[Any]) -> list[tuple[Any, ...]]:
        return [tuple(coder.decode(coder.encode(row))) for row in rows]

    with beam.Pipeline(FnApiRunner()) as pipeline:
        found = pipeline | beam.Create([(0, table)]) | to_rows
        time = Timestamp(micros=1_504_612_800_000_001)
        wanted = [(datetime.date(2017, 9, 5), time, b"\x00\xff", True, "a"), (None,) * 5]
        assert_that(found, lambda rows: _same(passed(rows), wanted))


def _same(found: object, wanted: object) -> None:
    assert found == wanted


@pytest.mark.parametrize(
    ("field", "error", "message"),
    [
        (
            ("model", pa.large_string()),
            TypeError,
            "expected large_string as in the schema, found string",
        ),
        (("modle", pa.string()), KeyError, "column 'modle': expected once among the columns"),
    ],
)
def test_tables_of_another_schema(field: tuple[str, pa.DataType], error: type[Exception], message: str) -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    results(pipeline) | ToRows(pa.schema([field]))
    with pytest.raises(error, match=message):
        pipeline.run()


def test_a_type_that_rows_do_not_have() -> None:
    with pytest.raises(TypeError, match="field 'x': expected a type that Beam's rows have, found decimal128"):
        ToRows(pa.schema([("x", pa.decimal128(5, 2))]))
