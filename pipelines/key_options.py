"""Key columns that are made from others: --truncate, --bin and --map."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation

import pyarrow as pa
import pyarrow.parquet as pq

from lse_stream.buffers import array_of, numbers_of
from lse_stream.coarsening import MOST_BINS, UNITS, Coarsening
from lse_stream.columns import value_type_of, without_views
from lse_stream.errors import InputError, nearest, one_line
from lse_stream.keys import check_key_type
from lse_stream.parquet.scan import Dataset

from .command import UsageError
from .options import Options

# Options that name other columns, which have to stay.
_OTHERS = ("value", "weight", "observation", "group", "draw", "example", "label", "logits", "classes", "event_time")


class KeyOptions:
    """What the options say of key columns.

    Attributes:
      sources: the columns that the keys are made from, in the order of the keys.

    Raises:
      UsageError: they are no pairs of a key column and what it becomes.
      InputError: a map that cannot be read.
    """

    def __init__(self, options: Options) -> None:
        self._truncate, self._maps = _pairs("truncate", options.truncate), _pairs("map", options.map)
        for name, unit in self._truncate.items():
            if unit not in UNITS:
                raise UsageError(f"--truncate {name}={unit}: expected one of {', '.join(UNITS)}, found {unit!r}")
        self._bins = {name: _width(name, text) for name, text in _pairs("bin", options.bin).items()}
        for name in self._bins:
            if name in self._truncate:
                raise UsageError(f"--bin {name}: expected one of --bin and --truncate for a column, found both")
        self._keys: Sequence[str] = options.key
        targets = {_target(name, path): name for name, path in self._maps.items()}
        self.sources = [targets.get(key, key) for key in self._keys]
        for option, names in (("truncate", self._truncate), ("bin", self._bins), ("map", self._maps)):
            for name in names:
                if name not in self.sources:
                    found = ", ".join(self.sources) or "none"
                    raise UsageError(
                        f"--{option} {name}: expected a column that is a --key, or is mapped to one, found {found}"
                    )
        for word in _OTHERS:
            named = getattr(options, word, None) or []
            for name in [named] if isinstance(named, str) else named:
                if name in self._maps:
                    raise UsageError(f"--map {name}: expected a column that is no --{word} too, found {name}")
        for target, name in targets.items():
            if name in self._keys:
                raise UsageError(f"--key {name}: expected {target}, which --map makes of it, found {name}")

    def coarsen(self, dataset: Dataset) -> Dataset:
        """The dataset, with these columns changed where they are read. Raises as ``coarsening``."""
        return dataset.coarsen(self.coarsening(dataset.schema))

    def coarsening(self, schema: pa.Schema) -> Coarsening:
        """What becomes of these columns of the tables of a schema.

        Raises:
          InputError: a column that cannot be changed so, or a map that does not serve.
        """
        columns = schema.names
        for name in self.sources:
            if name not in columns:
                found = f"{', '.join(columns)}{nearest(name, columns)}"
                raise InputError(f"--key {name}: expected a column of the input, found {found}")
        mapped = {name: _read_map(name, path, schema) for name, path in self._maps.items()}
        for name, table in mapped.items():
            group = table.column_names[1]
            if group in columns:
                raise InputError(f"--map {name}={self._maps[name]}: expected the name of a new column, found {group!r}")
        coarsening = Coarsening(self._truncate, self._bins, mapped)
        try:
            coarse = coarsening.schema_of(schema)
        except TypeError as error:
            raise InputError(f"--{error}") from None
        for name in self._keys:
            try:
                check_key_type(name, coarse.field(name).type)
            except TypeError as error:
                raise InputError(f"--key {name}: {error}") from None
        return coarsening


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--{option} {text}: expected COLUMN=..., found no such pair")
        if name in pairs:
            raise UsageError(f"--{option} {text}: expected each column once, found {name} twice")
        pairs[name] = value
    return pairs


def _width(name: str, text: str) -> Decimal:
    try:
        width = Decimal(text)
    except InvalidOperation:
        width = Decimal(0)
    if not (width.is_finite() and width > 0 and abs(width.adjusted()) < 16):
        raise UsageError(f"--bin {name}={text}: expected a number above 0 for the width, found {text!r}")
    if max(width.as_integer_ratio()) >= MOST_BINS:
        raise UsageError(f"--bin {name}={text}: expected a width of fewer digits")
    return width


def _target(name: str, path: str) -> str:
    """What a column is called that was mapped; the map is looked at, not checked."""
    from pyarrow import csv  # most runs have no map

    with _errors_of_map(name, path):
        if path.endswith(".parquet"):
            names = pq.read_schema(path).names
        else:
            with csv.open_csv(path) as file:
                names = file.schema.names
    if len(names) != 2 or names[0] != name:
        raise InputError(f"--map {name}={path}: expected two columns, {name!r} and the one to map it to, found {names}")
    return str(names[1])


def _read_map(name: str, path: str, schema: pa.Schema) -> pa.Table:
    """The two columns of a file that maps the values of a column, checked."""
    from pyarrow import csv

    data_type = value_type_of(schema.field(name).type)
    with _errors_of_map(name, path):
        if path.endswith(".parquet"):
            table = pq.ParquetFile(path).read()
        else:
            convert = csv.ConvertOptions(column_types={name: data_type}, strings_can_be_null=False)
            table = csv.read_csv(path, convert_options=convert)
        table = without_views(table)
    try:
        table = table.set_column(0, name, table.column(0).cast(data_type))
    except pa.ArrowException as error:
        raise InputError(f"--map {name}={path}: expected values of {data_type}, found {one_line(error)}") from error
    counts = table.column(0).value_counts()
    again = counts.field("values").filter(array_of(numbers_of(counts.field("counts")) > 1))
    if len(again):
        raise InputError(f"--map {name}={path}: expected each value once, found {again[0]} more often")
    return table


@contextmanager
def _errors_of_map(name: str, path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        found = one_line(error)
        raise InputError(f"--map {name}={path}: expected a readable CSV or Parquet file, found {found}") from error
