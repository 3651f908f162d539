"""The aggregations as transforms of Beam YAML: rows with named fields in, rows out. ``pipelines/yaml`` has examples.

Each groups rows by ``keys`` (none: all rows) and gives one row per key: its keys and the results. A row whose value (or
weight, or target) is null counts for nothing, but for its key.

With ``error_handling: {output: NAME}``, as Beam YAML's own have it, rows that would be errors are in that output, with
the fields ``element``, ``msg`` and ``stack``, and in no result.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PBegin, PCollection, Row
from apache_beam.typehints.decorators import IOTypeHints
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import named_fields_from_element_type
from apache_beam.utils.timestamp import Timestamp
from apache_beam.yaml.yaml_errors import exception_handling_args, map_errors_to_standard_format

from ..columns import value_type_of
from ..float64 import to_float_exact
from ..parquet.scan import scan
from ..plan import MAX_BROADCAST
from ..reduction import check_results
from ..states.aggregations import (
    CROSS_ENTROPY,
    EFFECTIVE_SAMPLE_SIZE,
    EXACT_SUM,
    LOG_LIKELIHOOD,
    LOGSUMEXP,
    WEIGHTED_LOGSUMEXP,
    Aggregation,
)
from .combine_fns import (
    CrossEntropyCombineFn,
    EffectiveSampleSizeCombineFn,
    ExactSumCombineFn,
    LogLikelihoodCombineFn,
    LogSumExpCombineFn,
    WeightedLogSumExpCombineFn,
    check_element,
)
from .parquet_io import ReadTables
from .rows import field_type, rows_of, with_beam_times
from .softmax import LogSoftmax as LogSoftmaxOfElements

Rows = PCollection[Any]
# As Beam YAML has it: the name of an "output", and options of ``beam.ParDo.with_exception_handling``.
ErrorHandling = Mapping[str, Any] | None
# The output of the other rows, where there are two.
_GOOD = "good"


def _row_type(rows: Rows) -> Any:
    return rows.element_type


def _field_types(rows: Rows, names: Iterable[str], what: str) -> list[tuple[str, Any]]:
    """The fields of those names, in their order; raises ValueError for one that is not there."""
    fields = dict(named_fields_from_element_type(_row_type(rows)))
    for name in names:
        if name not in fields:
            raise ValueError(f"{what}: expected some of the fields {', '.join(fields)}, found {name!r}")
    return [(name, fields[name]) for name in names]


def _map_rows(
    rows: Rows, label: str, function: Callable[[Any], Any], error_handling: ErrorHandling
) -> tuple[PCollection[Any], dict[str, Rows]]:
    """What a function makes of rows; and by the name of the output, if there is to be one, those that it raises for."""
    options = exception_handling_args(error_handling)
    if options is None:
        return rows | label >> beam.Map(function), {}
    good, bad = rows | label >> beam.Map(function).with_exception_handling(**options)
    return good, {options["dead_letter_tag"]: bad | "Errors" >> map_errors_to_standard_format(_row_type(rows))}


def _check_error_handling(error_handling: ErrorHandling) -> ErrorHandling:
    if error_handling:
        output = error_handling.get("output") if isinstance(error_handling, Mapping) else None
        if output in (None, _GOOD):
            raise ValueError(
                f"error_handling: expected a mapping with the name of an output, other than {_GOOD!r}, "
                f"found {error_handling}"
            )
    return error_handling


def _with_errors(rows: Rows, errors: dict[str, Rows]) -> Any:
    return {_GOOD: rows, **errors} if errors else rows


def _key_of(row: Any, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(_to_key(getattr(row, name), name) for name in names)


def _to_key(value: Any, name: str) -> Any:
    """What stands for a value in a key: Beam groups by numbers and strings, but not by dates, nor by its timestamps."""
    match value:
        case datetime.datetime() | datetime.time() | datetime.timedelta():
            raise TypeError(
                f"key {name!r}: expected a type of Beam's rows, of dates and times datetime.date or Beam's Timestamp, "
                f"found {value!r}"
            )
        case datetime.date():
            return "date", value.toordinal()
        case Timestamp():
            try:
                return "timestamp", value.to_precision(Timestamp.MICROS_PRECISION).micros
            except ValueError:
                raise ValueError(f"key {name!r}: expected times in whole microseconds, found {value}") from None
        case tuple():
            return "tuple", value
    return value


def _from_key(image: Any) -> Any:
    match image:
        case "date", days:
            return datetime.date.fromordinal(days)
        case "timestamp", micros:
            return Timestamp(micros=micros)
        case "tuple", value:
            return value
    return image


class ReadParquet(beam.PTransform[PBegin, Rows]):
    """Columns of Parquet files as rows, whatever else the files hold: Beam's own refuses files with dates and times.

    Files are found and checked as the programs do it, ``name=value`` directories are columns too, and row groups are
    read in parallel. Dates are ``datetime.date``, and timestamps Beam's ``Timestamp``, an instant in whole
    microseconds; those without a zone are UTC.

    Args:
      path: a file, directory or glob, or several.
      columns: which columns; integers, floats, strings, booleans, dates and timestamps have their type, others any.

    Raises:
      InputError: a file that cannot be read; a column that is not in each file, has different types in two, or is of
        times of day or durations, which Beam's rows have no type for.
      DataError: when the pipeline runs: a damaged page; a date beyond the years 1 to 9999, or a time that is not in
        whole microseconds.
    """

    _yaml_requires_inputs = False

    def __init__(self, path: str | Sequence[str], columns: Sequence[str]) -> None:
        super().__init__()
        others = dict.fromkeys(columns, _type_expected)
        self._dataset = scan([path] if isinstance(path, str) else path, [], [], others)
        self._fields = [(name, field_type(self._dataset.schema.field(name).type)) for name in columns]

    def expand(self, pbegin: PBegin) -> Rows:
        names = [name for name, _ in self._fields]
        rows: Rows = (
            pbegin
            | "Tables" >> ReadTables(self._dataset, with_beam_times)
            | "Rows" >> beam.FlatMap(rows_of, names).with_output_types(RowTypeConstraint.from_fields(self._fields))
        )
        return rows


def _type_expected(data_type: pa.DataType) -> str | None:
    value_type = value_type_of(data_type)
    if pa.types.is_time(value_type) or pa.types.is_duration(value_type):
        return "a type that Beam's rows have, of dates and times a date or a timestamp"
    return None


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


class _OnRows(beam.PTransform[Rows, Any]):
    """Rows to one row of results per key."""

    AGGREGATION: ClassVar[Aggregation]

    def __init__(
        self,
        fn: beam.CombineFn,
        inputs: Sequence[str],
        keys: Sequence[str],
        results: Sequence[str],
        error_handling: ErrorHandling,
    ) -> None:
        super().__init__()
        check_results(self.AGGREGATION, results)
        names = [*keys, *results]
        if isinstance(keys, str) or len(set(names)) < len(names):
            raise ValueError(
                f"keys: expected a list of names that differ from each other and the results, found {keys}"
            )
        self._fn = _ResultsCombineFn(fn, results)
        self._inputs, self._keys, self._results = list(inputs), list(keys), list(results)
        self._error_handling = _check_error_handling(error_handling)

    def expand(self, pcoll: Rows) -> Any:
        fn, inputs, keys, results = self._fn, self._inputs, self._keys, self._results
        _field_types(pcoll, inputs, " and ".join(self.AGGREGATION.inputs))
        fields = _field_types(pcoll, keys, "keys")
        fields += [(name, int if name == "count" else float) for name in results]

        def split(row: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            return _key_of(row, keys), tuple(getattr(row, name) for name in inputs)

        def to_row(key: tuple[Any, ...], values: list[float]) -> Row:
            return Row(**dict(zip([*keys, *results], [*map(_from_key, key), *values], strict=True)))

        def checked(row: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            key, values = split(row)
            check_element(fn, values)
            return key, values

        parts, errors = _map_rows(pcoll, "Split", checked if self._error_handling else split, self._error_handling)
        if keys:
            combined = parts | "Combine" >> beam.CombinePerKey(fn)
        else:
            # A total of no rows is a row too, in the global window alone.
            total = beam.CombineGlobally(fn)
            if not pcoll.windowing.is_default():
                total = total.without_defaults()
            combined = parts | beam.Values() | "Combine" >> total | "Total" >> beam.Map(lambda values: ((), values))
        rows: Rows = combined | "ToRow" >> beam.MapTuple(to_row).with_output_types(
            RowTypeConstraint.from_fields(fields)
        )
        return _with_errors(rows, errors)


class LogSumExp(_OnRows):
    """Log-sum-exp per key.

    Args:
      value: name of the field of numbers.
      keys: names of the fields to group by.
      scale: "natural", "log2", "log10", "decibel", "magnitude", "base B" or "temperature T".
      results: some of logsumexp, count, max, logmeanexp, bonus and exp_bonus.
      error_handling: the ``output`` for rows that are errors: with a value that is no number, or a key of a type that
        Beam's rows have not.
    """

    AGGREGATION = LOGSUMEXP

    def __init__(
        self,
        value: str,
        keys: Sequence[str] = (),
        scale: str = "natural",
        results: Sequence[str] = LOGSUMEXP.columns,
        error_handling: ErrorHandling = None,
    ) -> None:
        super().__init__(LogSumExpCombineFn(scale), [value], keys, results, error_handling)


class LogMeanExp(LogSumExp):
    """Log-mean-exp per key.

    Args:
      value, keys, scale, results, error_handling: as of ``LogSumExp``.
    """

    def __init__(
        self,
        value: str,
        keys: Sequence[str] = (),
        scale: str = "natural",
        results: Sequence[str] = ("logmeanexp", "count", "max"),
        error_handling: ErrorHandling = None,
    ) -> None:
        super().__init__(value, keys, scale, results, error_handling)


class WeightedLogSumExp(_OnRows):
    """Log-sum-exp of weighted terms per key, NaN of a negative sum; its sign, and the logarithm of its magnitude.

    Args:
      value, weight: names of fields of numbers.
      keys, scale, error_handling: as of ``LogSumExp``.
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
        error_handling: ErrorHandling = None,
    ) -> None:
        super().__init__(WeightedLogSumExpCombineFn(scale), [value, weight], keys, results, error_handling)


class LogLikelihood(_OnRows):
    """Exact totals of log-likelihoods per key.

    Args:
      value, keys, error_handling: as of ``LogSumExp``.
      results: some of log_likelihood, count, max, logsumexp, logmeanexp, mean, variance and sum_of_squares.
    """

    AGGREGATION = LOG_LIKELIHOOD

    def __init__(
        self,
        value: str,
        keys: Sequence[str] = (),
        results: Sequence[str] = LOG_LIKELIHOOD.columns,
        error_handling: ErrorHandling = None,
    ) -> None:
        super().__init__(LogLikelihoodCombineFn(), [value], keys, results, error_handling)


class EffectiveSampleSize(_OnRows):
    """Kish's effective sample size of log-weights per key.

    Args:
      value, keys, error_handling: as of ``LogSumExp``.
      results: some of effective_sample_size, count, max, largest_weight, logsumexp and logmeanexp.
    """

    AGGREGATION = EFFECTIVE_SAMPLE_SIZE

    def __init__(
        self,
        value: str,
        keys: Sequence[str] = (),
        results: Sequence[str] = EFFECTIVE_SAMPLE_SIZE.columns,
        error_handling: ErrorHandling = None,
    ) -> None:
        super().__init__(EffectiveSampleSizeCombineFn(), [value], keys, results, error_handling)


class ExactSum(_OnRows):
    """Exact totals of floats per key, the same for any order of the rows.

    Args:
      value, keys, error_handling: as of ``LogSumExp``.
      results: some of sum, count, mean, variance, min and max.
    """

    AGGREGATION = EXACT_SUM

    def __init__(
        self,
        value: str,
        keys: Sequence[str] = (),
        results: Sequence[str] = EXACT_SUM.columns,
        error_handling: ErrorHandling = None,
    ) -> None:
        super().__init__(ExactSumCombineFn(), [value], keys, results, error_handling)


class CrossEntropy(_OnRows):
    """Cross-entropy per example, in nats, of rows that are one class of an example each.

    Args:
      value, target: names of the fields of logits and targets: 1 or true for the label and 0 or false for the others.
      keys: names of the fields that distinguish examples.
      error_handling: as of ``LogSumExp``; an example whose targets do not sum to 1 stops the pipeline.
      results: some of cross_entropy, count, max and logsumexp.
    """

    AGGREGATION = CROSS_ENTROPY

    def __init__(
        self,
        value: str,
        target: str,
        keys: Sequence[str] = (),
        results: Sequence[str] = CROSS_ENTROPY.columns,
        error_handling: ErrorHandling = None,
    ) -> None:
        super().__init__(CrossEntropyCombineFn(), [value, target], keys, results, error_handling)


class LogSoftmax(beam.PTransform[Rows, Any]):
    """Every row with a field ``log_softmax`` more: its value less the log-sum-exp of its key.

    Args:
      value, keys, error_handling: as of ``LogSumExp``; here a null value is an error.
      max_broadcast: up to how many keys their sums are sent to every worker; of more, rows are shuffled.
    """

    def __init__(
        self,
        value: str,
        keys: Sequence[str] = (),
        max_broadcast: int = MAX_BROADCAST,
        error_handling: ErrorHandling = None,
    ) -> None:
        super().__init__()
        self._value, self._keys, self._max_broadcast = value, list(keys), max_broadcast
        self._error_handling = _check_error_handling(error_handling)

    def expand(self, pcoll: Rows) -> Any:
        value, keys = self._value, self._keys
        _field_types(pcoll, [value], "value")
        _field_types(pcoll, keys, "keys")
        fields = [*named_fields_from_element_type(_row_type(pcoll)), ("log_softmax", float)]

        def keyed(row: Any) -> tuple[tuple[Any, ...], Any]:
            to_float_exact(getattr(row, value))
            return _key_of(row, keys), row

        def to_row(_: Any, pair: tuple[Any, float]) -> Row:
            row, log_softmax = pair
            fields: Mapping[str, Any] = row.as_dict() if isinstance(row, Row) else row._asdict()
            return Row(**fields, log_softmax=log_softmax)

        pairs, errors = _map_rows(pcoll, "Key", keyed, self._error_handling)
        rows: Rows = (
            pairs
            | LogSoftmaxOfElements.PerKey(self._max_broadcast, value=lambda row: getattr(row, value))
            | "ToRow" >> beam.MapTuple(to_row).with_output_types(RowTypeConstraint.from_fields(fields))
        )
        return _with_errors(rows, errors)
