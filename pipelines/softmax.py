"""Softmax of every row within its key: ``python -m pipelines.softmax --help``."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsSingleton, PCollection

from lse_stream.arrow import log_softmax_of_keys, rows_of_keys, take_rows
from lse_stream.keys import encode_keys
from lse_stream.parquetio import (
    Dataset,
    InputError,
    ReadTables,
    RowGroup,
    RowGroupReader,
    find_files,
    scan,
    write_shard,
)
from lse_stream.transforms import MAX_BROADCAST, LogSumExp, from_ipc, split_by_shard, to_ipc

from .command import UsageError
from .options import Parser, check_columns
from .run import guarded, run
from .summary import counted, head, preview

PROGRAM = "softmax"

DESCRIPTION = """\
Adds to every row of Parquet files its share of its key, as columns
log_softmax, value - ln(sum(exp(value of the key's rows))), and softmax, the
exponential of that.

Rows and other columns stay as they are, and rows keep their order: the files
written, part-00000 and on, hold the rows of the input files in the order of
their paths, a file of more than 4 million rows in several parts. Columns of
directories named column=value become columns of the files.
"""

EXAMPLES = """\
examples:
  # each storm's share in the damage of its season
  PROGRAM --input pipelines/samples/storms.parquet \\
      --key season --value category --output out/shares

  # attention over documents, per query
  PROGRAM --input scores/ --key query --value score \\
      --output out/weights
"""

RESULTS = ("log_softmax", "softmax")

# Rows of one file of the output, which one worker writes.
PART_ROWS = 1 << 22

# Into how many shards the keys go on their way, so that all cores merge them.
SHARDS = 16

# Up to how many columns all are shown.
SHOWN = 8


def parts_of(dataset: Dataset) -> list[list[RowGroup]]:
    """The row groups of each file of the output: they follow each other in one file of the input."""
    parts: list[list[RowGroup]] = []
    for _, row_groups in groupby(dataset.row_groups, lambda row_group: row_group.path):
        rows = PART_ROWS
        for row_group in row_groups:
            if rows >= PART_ROWS:
                parts.append([])
                rows = 0
            parts[-1].append(row_group)
            rows += row_group.num_rows
    return parts


def build(
    pipeline: beam.Pipeline,
    dataset: Dataset,
    directory: str,
    *,
    keys: Sequence[str],
    max_broadcast: int = MAX_BROADCAST,
) -> PCollection[str]:
    """Adds the graph to a pipeline: the rows of ``dataset``, all their columns, to files in ``directory``; their paths.

    Rows are read twice, and are never shuffled. The states of up to ``max_broadcast`` keys are sent to every worker. Of
    more keys, each part is sent those of its own, looked up by shard.
    """
    [value] = dataset.values
    parts = parts_of(dataset)
    states = (
        pipeline
        | "ReadTables" >> ReadTables(dataset.select([*keys, value]))
        | "LogSumExp" >> LogSumExp.PerKeyOfTables(keys, value, num_shards=SHARDS)
    )
    numbers = pipeline | "Parts" >> beam.Create(range(len(parts))) | "Spread" >> beam.Reshuffle()
    total = AsSingleton(
        states | "Rows" >> beam.MapTuple(lambda _, table: table.num_rows) | "Keys" >> beam.CombineGlobally(sum)
    )

    def few(total: int) -> bool:
        return total <= max_broadcast

    def where(label: str, part: PCollection[Any], test: Callable[[int], bool]) -> PCollection[Any]:
        kept: PCollection[Any] = part | label >> beam.Filter(lambda _, total: test(total), total)
        return kept

    writer = _PartWriter(dataset, parts, directory, keys)
    few_states = where("FewStates", states, few) | "Broadcast" >> beam.Values()
    few_paths = where("FewParts", numbers, few) | "WriteFew" >> beam.Map(writer.write, AsIter(few_states))
    asked = where("ManyParts", numbers, lambda total: not few(total)) | "KeysOfPart" >> beam.FlatMap(
        writer.keys
    ).with_output_types(tuple[int, Any])
    held = where("ManyStates", states, lambda total: not few(total))
    many_paths = (
        {"asked": asked, "states": held}
        | "ByShard" >> beam.CoGroupByKey()
        | "LookUp" >> beam.FlatMapTuple(partial(_look_up, keys))
        | "ByPart" >> beam.GroupByKey()
        | "WriteMany" >> beam.MapTuple(writer.write)
    )
    paths: PCollection[str] = (few_paths, many_paths) | beam.Flatten()
    return paths


def _look_up(keys: Sequence[str], _: int, found: dict[str, list[Any]]) -> Iterator[tuple[int, pa.Table]]:
    """Of a shard: to each part the states of its keys."""
    for states in found["states"]:
        for number, stream in found["asked"]:
            yield number, take_rows(states, rows_of_keys(states, from_ipc(stream), keys).astype(np.int64))


class _PartWriter:
    """Reads and writes parts, by their numbers."""

    def __init__(self, dataset: Dataset, parts: list[list[RowGroup]], directory: str, keys: Sequence[str]) -> None:
        self._dataset = dataset
        self._parts = parts
        self._directory = directory
        self._keys = list(keys)

    def _tables(self, number: int, dataset: Dataset) -> Iterator[pa.Table]:
        reader = RowGroupReader(dataset)
        try:
            for row_group in self._parts[number]:
                yield from reader.tables(row_group)
        finally:
            reader.close()

    def keys(self, number: int) -> Iterator[tuple[int, tuple[int, bytes]]]:
        """Which keys a part has, by shard."""
        tables = self._tables(number, self._dataset.select(self._keys))
        distinct = pa.concat_tables([encode_keys(table, self._keys).keys for table in tables])
        for shard, part in enumerate(split_by_shard(encode_keys(distinct, self._keys).keys, self._keys, SHARDS)):
            yield shard, (number, to_ipc(part))

    def write(self, number: int, states: Iterable[pa.Table]) -> str:
        """Writes a part, with the states of its keys at hand; gives the path."""
        [value] = self._dataset.values
        held = pa.concat_tables(states)
        schema = self._dataset.schema
        for name in RESULTS:
            schema = schema.append(pa.field(name, pa.float64()))
        tables = (log_softmax_of_keys(table, held, self._keys, value) for table in self._tables(number, self._dataset))
        rows = self._dataset.table_rows
        return write_shard(self._directory, len(self._parts), number, schema, tables, rows)


def _run(argv: Sequence[str]) -> None:
    words = ("input", "key", "value", "output", "overwrite", "quiet", "traceback")
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words)
    parser.add_argument(
        "--max_broadcast",
        type=int,
        default=MAX_BROADCAST,
        metavar="N",
        help="how many keys every worker may hold (default %(default)s, some 0.3 GB); of more, each part of the "
        "output is sent its own. The output is the same",
    )
    options = parser.parse(argv)
    if options.max_broadcast < 1:
        raise UsageError(f"--max_broadcast: expected 1 or more, found {options.max_broadcast}")
    check_columns({"key": options.key}, {"value": options.value}, RESULTS)
    dataset = scan(options.input, options.key, [options.value], all_columns=True)
    for name in RESULTS:
        if name in dataset.schema.names:
            path = dataset.row_groups[0].path
            raise InputError(f"{path}: expected columns other than {' and '.join(RESULTS)}, found column {name!r}")

    def graph(pipeline: beam.Pipeline, directory: str) -> None:
        build(pipeline, dataset, directory, keys=options.key, max_broadcast=options.max_broadcast)

    seconds = run(options, graph, 2 * dataset.num_rows)
    if not options.quiet:
        columns = dataset.schema.names if len(dataset.schema.names) <= SHOWN else [*options.key, options.value]
        files = len(find_files([options.output]))
        lines = [
            f"{counted(dataset.num_rows, 'row')} of {counted(dataset.num_files, 'file')} to {counted(files, 'file')}, "
            f"{seconds:.1f} s",
            f"results in {options.output}",
            *preview(head(options.output, [*columns, *RESULTS]), dataset.num_rows),
        ]
        print("\n".join(lines), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault in mid-run."""
    return guarded(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
