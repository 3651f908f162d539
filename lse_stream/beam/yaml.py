"""The aggregations as transforms of Beam YAML: rows with named fields in, rows out. ``pipelines/yaml`` has examples.

Each groups rows by ``keys`` (none: all rows) and gives one row per key: its keys and the results. A row whose value (or
weight, or target) is null counts for nothing, but for its key.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.pvalue import PBegin, PCollection, Row
from apache_beam.typehints.decorators import IOTypeHints
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import named_fields_from_element_type

from ..errors import InputError, one_line
from ..files import open_file
from ..parquet.scan import find_files
from ..plan import MAX_BROADCAST
from ..reduction import check_results
from ..states.aggregations import (
    CROSS_ENTROPY,
    EFFECTIVE_SAMPLE_SIZE,
    LOG_LIKELIHOOD,
    LOGSUMEXP,
    WEIGHTED_LOGSUMEXP,
    Aggregation,
)
from .combine_fns import (
    CrossEntropyCombineFn,
    EffectiveSampleSizeCombineFn,
    LogLikelihoodCombineFn,
    LogSumExpCombineFn,
    WeightedLogSumExpCombineFn,
)
from .softmax import LogSoftmax as LogSoftmaxOfElements

Rows = PCollection[Any]


def _row_type(rows: Rows) -> Any:
    return rows.element_type


def _field_types(rows: Rows, names: Iterable[str], what: str) -> list[tuple[str, Any]]:
    """The fields of those names, in their order; raises ValueError for one that is not there."""
    fields = dict(named_fields_from_element_type(_row_type(rows)))
    for name in names:
        if name not in fields:
            raise ValueError(f"{what}: expected some of the fields {', '.join(fields)}, found {name!r}")
    return [(name, fields[name]) for name in names]


class ReadParquet(beam.PTransform[PBegin, Rows]):
    """Columns of Parquet files as rows, whatever else the files hold: Beam's own refuses files with dates and times.

    Args:
      path: a file, directory or glob, or several.
      columns: which columns; integers, floats, strings and booleans have their type, others any.
    """

    _yaml_requires_inputs = False

    def __init__(self, path: str | Sequence[str], columns: Sequence[str]) -> None:
        super().__init__()
        self._files = find_files([path] if isinstance(path, str) else path)
        self._columns = list(columns)
        schemas = [(file, _schema(file)) for file in self._files]
        for file, schema in schemas:
            for name in self._columns:
                if name not in schema.names:
                    raise InputError(f"{file}: expected a column {name!r}, found {', '.join(schema.names)}")
        self._fields = [(name, _field_type(schemas[0][1].field(name).type)) for name in self._columns]

    def expand(self, pbegin: PBegin) -> Rows:
        rows: Rows = (
            pbegin
            | "Files" >> beam.Create(self._files)
            | "Rows"
            >> beam.FlatMap(_read_rows, self._columns).with_output_types(RowTypeConstraint.from_fields(self._fields))
        )
        return rows


def _schema(path: str) -> pa.Schema:
    try:
        with open_file(path) as source:
            return pq.read_schema(source)
    except Exception as error:  # pyarrow's, the operating system's, or a remote client's
        raise InputError(f"{path}: expected a readable Parquet file, found {one_line(error)}") from error


def _field_type(data_type: pa.DataType) -> Any:
    value_type = data_type.value_type if pa.types.is_dictionary(data_type) else data_type
    for is_type, python_type in (
        (pa.types.is_boolean, bool),
        (pa.types.is_integer, int),
        (pa.types.is_floating, float),
        (pa.types.is_string, str),
        (pa.types.is_large_string, str),
    ):
        if is_type(value_type):
            return python_type | None
    return Any


def _read_rows(path: str, columns: list[str]) -> Iterator[Row]:
    with open_file(path) as source:
        for batch in pq.ParquetFile(source).iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield Row(**{name: row[name] for name in columns})


class _ResultsCombineFn(beam.CombineFn):
    """Combines tuples of an aggregation's inputs to results by name; those with a null are left out."""

    def __init__(self, fn: beam.CombineFn, results: Sequence[str]) -> None:
        beam.CombineFn.__init__(self)
        self._fn = fn
        self._results = results

    def create_accumulator(self) -> Any:
        return self._fn.create_accumulator()

    def add_input(self, accumulator: Any, element: tuple[Any, ...]) -> Any:
        if None in element:
            return accumulator
        return self._fn.add_input(accumulator, element if len(element) > 1 else element[0])

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        return self._fn.merge_accumulators(accumulators)

    def extract_output(self, accumulator: Any) -> list[float]:
        return [accumulator.result(name) for name in self._results]

    def get_accumulator_coder(self) -> Any:
        return self._fn.get_accumulator_coder()

    def default_type_hints(self) -> IOTypeHints:
        return IOTypeHints.empty().with_output_types(list)


class _OnRows(beam.PTransform[Rows, Rows]):
    """Rows to one row of results per key."""

    AGGREGATION: ClassVar[Aggregation]

    def __init__(self, fn: beam.CombineFn, inputs: Sequence[str], keys: Sequence[str], results: Sequence[str]) -> None:
        super().__init__()
        check_results(self.AGGREGATION, results)
        names = [*keys, *results]
        if isinstance(keys, str) or len(set(names)) < len(names):
            raise ValueError(
                f"keys: expected a list of names that differ from each other and the results, found {keys}"
            )
        self._fn = _ResultsCombineFn(fn, results)
        self._inputs, self._keys, self._results = list(inputs), list(keys), list(results)

    def expand(self, pcoll: Rows) -> Rows:
        inputs, keys, results = self._inputs, self._keys, self._results
        _field_types(pcoll, inputs, " and ".join(self.AGGREGATION.inputs))
        fields = _field_types(pcoll, keys, "keys")
        fields += [(name, int if name == "count" else float) for name in results]

        def split(row: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            return tuple(getattr(row, name) for name in keys), tuple(getattr(row, name) for name in inputs)

        def to_row(key: tuple[Any, ...], values: list[float]) -> Row:
            return Row(**dict(zip([*keys, *results], [*key, *values], strict=True)))

        if keys:
            combined = pcoll | "Split" >> beam.Map(split) | "Combine" >> beam.CombinePerKey(self._fn)
        else:
            # A total of no rows is a row too, in the global window alone.
            values = pcoll | "Split" >> beam.Map(lambda row: split(row)[1])
            total = beam.CombineGlobally(self._fn)
            if not pcoll.windowing.is_default():
                total = total.without_defaults()
            combined = values | "Combine" >> total | "Total" >> beam.Map(lambda values: ((), values))
        rows: Rows = combined | "ToRow" >> beam.MapTuple(to_row).with_output_types(
            RowTypeConstraint.from_fields(fields)
        )
        return rows


class LogSumExp(_OnRows):
    """Log-sum-exp per key.

    Args:
      value: name of the field of numbers.
      keys: names of the fields to group by.
      scale: "natural", "log2", "log10", "decibel", "magnitude", "base B" or "temperature T".
      results: some of logsumexp, count, max, logmeanexp, bonus and exp_bonus.
    """

    AGGREGATION = LOGSUMEXP

    def __init__(
        self,
        value: str,
        keys: Sequence[str] = (),
        scale: str = "natural",
        results: Sequence[str] = LOGSUMEXP.columns,
    ) -> None:
        super().__init__(LogSumExpCombineFn(scale), [value], keys, results)


class LogMeanExp(LogSumExp):
    """Log-mean-exp per key.

    Args:
      value, keys, scale, results: as of ``LogSumExp``.
    """

    def __init__(
        self,
        value: str,
        keys: Sequence[str] = (),
        scale: str = "natural",
        results: Sequence[str] = ("logmeanexp", "count", "max"),
    ) -> None:
        super().__init__(value, keys, scale, results)


class WeightedLogSumExp(_OnRows):
    """Log-sum-exp of weighted terms per key, NaN of a negative sum; its sign, and the logarithm of its magnitude.

    Args:
      value, weight: names of fields of numbers.
      keys, scale: as of ``LogSumExp``.
      results: some of logsumexp, log_abs_sum, sign, count, max, weight and logmeanexp.
    """

    AGGREGATION = WEIGHTED_LOGSUMEXP

    def __init__(
        self,
        value: str,
        weight: str,
        keys: Sequence[str] = (),
        scale: str = "natural",
        results: Sequence[str] = WEIGHTED_LOGSUMEXP.columns,
    ) -> None:
        super().__init__(WeightedLogSumExpCombineFn(scale), [value, weight], keys, results)


class LogLikelihood(_OnRows):
    """Exact totals of log-likelihoods per key.

    Args:
      value, keys: as of ``LogSumExp``.
      results: some of log_likelihood, count, max, logsumexp, logmeanexp, mean, variance and sum_of_squares.
    """

    AGGREGATION = LOG_LIKELIHOOD

    def __init__(self, value: str, keys: Sequence[str] = (), results: Sequence[str] = LOG_LIKELIHOOD.columns) -> None:
        super().__init__(LogLikelihoodCombineFn(), [value], keys, results)


class EffectiveSampleSize(_OnRows):
    """Kish's effective sample size of log-weights per key.

    Args:
      value, keys: as of ``LogSumExp``.
      results: some of effective_sample_size, count, max, largest_weight, logsumexp and logmeanexp.
    """

    AGGREGATION = EFFECTIVE_SAMPLE_SIZE

    def __init__(
        self, value: str, keys: Sequence[str] = (), results: Sequence[str] = EFFECTIVE_SAMPLE_SIZE.columns
    ) -> None:
        super().__init__(EffectiveSampleSizeCombineFn(), [value], keys, results)


class CrossEntropy(_OnRows):
    """Cross-entropy per example, in nats, of rows that are one class of an example each.

    Args:
      value, target: names of the fields of logits and targets: 1 or true for the label and 0 or false for the others.
      keys: names of the fields that distinguish examples.
      results: some of cross_entropy, count, max and logsumexp.
    """

    AGGREGATION = CROSS_ENTROPY

    def __init__(
        self, value: str, target: str, keys: Sequence[str] = (), results: Sequence[str] = CROSS_ENTROPY.columns
    ) -> None:
        super().__init__(CrossEntropyCombineFn(), [value, target], keys, results)


class LogSoftmax(beam.PTransform[Rows, Rows]):
    """Every row with a field ``log_softmax`` more: its value less the log-sum-exp of its key.

    Args:
      value, keys: as of ``LogSumExp``; here a null value is an error.
      max_broadcast: up to how many keys their sums are sent to every worker; of more, rows are shuffled.
    """

    def __init__(self, value: str, keys: Sequence[str] = (), max_broadcast: int = MAX_BROADCAST) -> None:
        super().__init__()
        self._value, self._keys, self._max_broadcast = value, list(keys), max_broadcast

    def expand(self, pcoll: Rows) -> Rows:
        value, keys = self._value, self._keys
        _field_types(pcoll, [value], "value")
        _field_types(pcoll, keys, "keys")
        fields = [*named_fields_from_element_type(_row_type(pcoll)), ("log_softmax", float)]

        def to_row(_: Any, pair: tuple[Any, float]) -> Row:
            row, log_softmax = pair
            fields: Mapping[str, Any] = row.as_dict() if isinstance(row, Row) else row._asdict()
            return Row(**fields, log_softmax=log_softmax)

        rows: Rows = (
            pcoll
            | "Key" >> beam.Map(lambda row: (tuple(getattr(row, name) for name in keys), row))
            | LogSoftmaxOfElements.PerKey(self._max_broadcast, value=lambda row: getattr(row, value))
            | "ToRow" >> beam.MapTuple(to_row).with_output_types(RowTypeConstraint.from_fields(fields))
        )
        return rows
