"""The log-likelihoods that a command line names, in any layout: found, checked, and how they become rows."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lse_stream.buffers import array_of
from lse_stream.columns import expected_lists, is_list_type
from lse_stream.errors import InputError
from lse_stream.layouts import (
    OBSERVATION,
    VALUES_OF_DRAWS,
    VALUES_OF_OBSERVATIONS,
    Columns,
    DrawLists,
    ObservationLists,
)
from lse_stream.observations import VALUE
from lse_stream.parquet.scan import Dataset, find_files, first_schema, scan
from lse_stream.parquet.source import Convert
from lse_stream.scales import NATURAL
from lse_stream.state_column import STATE, StateType, aggregation_of, check_states, expected_states
from lse_stream.states.aggregations import Aggregation

from .cmdstan import Chains, are_csv, find_columns, read_headers, to_parquet
from .command import UsageError
from .key_options import KeyOptions
from .options import Options
from .output import prepare_output
from .run import errors_as_run_error, progress, temporary_directory


@dataclass(frozen=True)
class Found:
    """The log-likelihoods of a command line.

    Attributes:
      dataset: the files, or those that hold what is in them.
      layout: makes their tables rows, or checks states; None where they are rows.
      observation: the columns of rows that name observations.
      stored: what the states of observations are, where rows are such.
      draws: how many the observation has that has most, where the footers say it.
      nulls: how many values are null, by the footers; None where these do not say it.
      warmup: how many draws of warm-up were left out.
      temporary: directories that are not needed once all is read.
    """

    dataset: Dataset
    layout: Convert | None
    observation: tuple[str, ...]
    stored: Aggregation | None = None
    draws: int | None = None
    nulls: int | None = None
    warmup: int = 0
    temporary: tuple[str, ...] = ()


@contextmanager
def found_by(options: Options) -> Iterator[Found]:
    """Finds them, and keeps what it makes of CSV files until the end of the block.

    Raises:
      InputError, UsageError: files, columns or options that do not serve.
      RunError: a fault in the rows of a CSV file.
    """
    paths = find_files(options.input)
    if not are_csv(paths):
        yield _in_parquet(options)
        return
    if not options.wide:
        raise UsageError(f"--wide: expected a pattern of columns, as {paths[0]} is a CSV file, found none")
    asked = options.where.columns if options.where else ()
    chains = read_headers(paths, options.wide, [*KeyOptions(options).sources, *asked])
    prepare_output(options.output, options.input, overwrite=options.overwrite)  # not after minutes of reading
    with temporary_directory(options) as directory:
        warmup = _convert(options, chains, directory)
        yield _in_lists(options, chains.observations, [directory], VALUE, warmup=warmup, temporary=(directory,))


def _convert(options: Options, chains: Chains, directory: str) -> int:
    """Gives how many draws of warm-up were left out."""
    read = warmup = 0

    def line(seconds: float) -> str:
        return f"{read / 2**20:,.0f} MB of CSV files read, {seconds:.0f} s"

    with errors_as_run_error(options), progress(options, line, sys.stderr):
        for size, skipped in to_parquet(chains, directory):
            read, warmup = read + size, warmup + skipped
    return warmup


def _scan(
    options: Options,
    columns: Sequence[str],
    values: Sequence[str],
    others: dict[str, Callable[[pa.DataType], str | None]] | None = None,
    paths: Sequence[str] | None = None,
) -> Dataset:
    """As ``lse_stream.parquet.scan``, with the key columns as options have them, and further columns."""
    key_options = KeyOptions(options)
    names = [*key_options.sources, *columns]
    return key_options.coarsen(scan(paths or options.input, names, values, others or {}, where=options.where))


def _in_parquet(options: Options) -> Found:
    if options.wide:
        return _in_columns(options)
    if options.inner == "logmeanexp":
        path, schema = first_schema(options.input)
        index = schema.get_field_index(options.value)  # -1 of one that is there twice, too
        data_type = schema.field(index).type if index >= 0 else None
        if data_type is not None and is_list_type(data_type):
            return _of_lists(options, path)
        if options.value == STATE and isinstance(data_type, StateType):
            return _of_states(options)
        if not (options.observation or options.group):
            _scan(options, [], [options.value])  # says what else is wrong
            raise UsageError("--inner logmeanexp: expected --observation, found none")
    values = [options.value] if options.weight is None else [options.value, options.weight]
    dataset = _scan(options, [*options.observation, *options.group, *options.draw], values)
    return Found(dataset, None, tuple(options.group or options.observation), nulls=_nulls(dataset, [options.value]))


def _of_states(options: Options) -> Found:
    for word in ("weight", "group", "draws"):
        if getattr(options, word):
            raise UsageError(f"--{word}: expected none with a --value of states, found one")
    if not options.observation:
        raise UsageError("--value state: expected --observation, found none")

    needed = [*(["elpd_loo"] if options.loo else []), *(["variance"] if options.waic else []), "logmeanexp"]

    def expected(data_type: pa.DataType) -> str | None:
        if fault := expected_states(data_type):
            return fault
        if (found := aggregation_of(data_type, STATE)) and found[1] == NATURAL and {*needed} <= {*found[0].results}:
            return None
        return f"states with {' and '.join(needed)}, as loglik writes them with the same options"

    dataset = _scan(options, options.observation, [], {STATE: expected})
    found = aggregation_of(dataset.schema.field(STATE).type, STATE)
    nulls = _nulls(dataset, [STATE])
    return Found(dataset, check_states, tuple(options.observation), stored=found and found[0], nulls=nulls)


def _in_columns(options: Options) -> Found:
    path, schema = first_schema(options.input)
    columns, observations = find_columns(options.wide, path, schema.names)
    if same := set(options.key) & set(columns):
        raise UsageError(f"--key {min(same)}: expected a column that is none of --wide {options.wide}, found one")
    dataset = _scan(options, [], columns)
    for other, metadata in dataset.footers.items():
        names = metadata.schema.to_arrow_schema().names
        if more := set(find_columns(options.wide, other, names)[0]) - set(columns):
            raise InputError(f"{other}: expected the columns like {options.wide!r} of {path}, found {min(more)!r} too")
    layout = Columns(tuple(options.key), tuple(columns), observations)
    nulls, wide = _nulls(dataset, columns), dataset.widen(len(columns), VALUES_OF_DRAWS)
    return Found(wide, layout, (OBSERVATION,), draws=_draws(options, dataset, nulls), nulls=nulls)


def _of_lists(options: Options, path: str) -> Found:
    for word in ("weight", "group"):
        if getattr(options, word):
            raise UsageError(f"--{word}: expected a --value that is a column of numbers, found one of lists in {path}")
    if not options.observation:
        return _in_lists(options, None, options.input, options.value)
    names = [*options.key, *options.observation]
    dataset = _scan(options, options.observation, [], {options.value: expected_lists})
    width = max((-(-values // rows) for _, values, rows in _sizes(dataset, options.value)), default=1)
    layout, nulls = ObservationLists(tuple(names), options.value), _nulls(dataset, [options.value])
    return Found(dataset.widen(width, VALUES_OF_OBSERVATIONS), layout, tuple(options.observation), nulls=nulls)


def _in_lists(
    options: Options,
    observations: pa.Array | None,
    paths: Sequence[str],
    value: str,
    *,
    warmup: int = 0,
    temporary: tuple[str, ...] = (),
) -> Found:
    """Of draws with a list each: of ``observations``, or of the positions in the lists."""
    if OBSERVATION in options.key:
        raise UsageError(f"--key {OBSERVATION}: expected a name other than that of the positions in the lists")
    dataset = _scan(options, [], [], {value: expected_lists}, paths)
    if observations is None:
        observations = array_of(np.arange(_width(dataset, value)))
    layout, nulls = DrawLists(tuple(options.key), value, observations), _nulls(dataset, [value])
    return Found(
        dataset.widen(len(observations), VALUES_OF_DRAWS),
        layout,
        (OBSERVATION,),
        draws=_draws(options, dataset, nulls),
        nulls=nulls,
        warmup=warmup,
        temporary=temporary,
    )


def _draws(options: Options, dataset: Dataset, nulls: int | None) -> int | None:
    """The draws of an observation, which are the rows, if there are no keys to tell rows apart, and no nulls."""
    return None if options.key or nulls != 0 else dataset.num_rows


def _width(dataset: Dataset, value: str) -> int:
    """How many values the lists have, by the footers, which tell most of what is wrong with that."""
    data_type = dataset.schema.field(value).type
    if pa.types.is_fixed_size_list(data_type):
        return int(data_type.list_size)
    width, first = 0, ""
    for place, values, rows in _sizes(dataset, value):
        first = first or place
        width = width or values // rows
        if values != width * rows:
            like = f", {width} as in {first}" if place != first else ""
            raise InputError(
                f"{place}, column {value!r}: expected lists of one length{like}, found {values} values in {rows} "
                "rows; or --observation, if a row is an observation and its list the draws"
            )
    return width


def _sizes(dataset: Dataset, value: str) -> Iterator[tuple[str, int, int]]:
    """Each row group that is read: its place, how many values its lists have together, how many rows it has."""
    leaves = {path: _leaves(metadata, [value]) for path, metadata in dataset.footers.items()}
    for row_group in dataset.row_groups:
        if row_group.index is not None:
            [leaf] = leaves[row_group.path]
            chunk = dataset.footers[row_group.path].row_group(row_group.index).column(leaf)
            yield f"{row_group.path}, row group {row_group.index}", chunk.num_values, row_group.num_rows


def _leaves(metadata: pq.FileMetaData, names: Sequence[str]) -> list[int]:
    """Where a file has the numbers of columns, which may be lists."""
    wanted, found = set(names), []
    for i in range(metadata.num_columns):
        column = metadata.schema.column(i)
        # Of a list: "level.list.element"; and the name of a column may have dots itself.
        name = column.path.rsplit(".", 2)[0] if column.max_repetition_level else column.path
        if name in wanted:
            found.append(i)
    return found


def _nulls(dataset: Dataset, columns: Sequence[str]) -> int | None:
    """How many values of columns are null, by the footers; None where they do not say it of the rows."""
    if dataset.reading.where is not None:
        return None
    nulls = 0
    for metadata in dataset.footers.values():
        leaves = _leaves(metadata, columns)
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for found in (group.column(leaf).statistics for leaf in leaves):
                if found is None or not found.has_null_count:
                    return None
                nulls += found.null_count
    return nulls
