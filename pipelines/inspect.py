"""What stored columns of states hold: ``python -m pipelines.inspect --help``."""

import os
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lse_stream._kernel import StateError
from lse_stream._kernel.constants import VERSION
from lse_stream.errors import InputError, one_line
from lse_stream.parquet.scan import find_files
from lse_stream.state_column import STATE, StateType, states_from_arrow
from lse_stream.state_table import result_to_arrow

from .command import ArgumentParser
from .provenance import read_provenance, said_of
from .run import RunError, run_main
from .summary import aligned

PROGRAM = "inspect"

DESCRIPTION = """\
Shows what the columns of states in Parquet or Arrow IPC files contain, or in
the directories that programs write with --state:
version, aggregation and scale, how many rows, the results of the first states.
Every record is checked; of a damaged one it names the row and the fault.

Exit status 0, 1 for a damaged state, 2 for a file without states or unreadable.
Of a directory of results without states it says where they come from.
"""

EXAMPLES = """\
examples:
  COMMAND parquet --input pipelines/samples/storms.parquet \\
      --key season --value category --state --output out/s
  PROGRAM out/s

  # states in an Arrow IPC stream
  PROGRAM states.arrows
"""

FIRST_ROWS = 5


def read_table(path: str) -> pa.Table:
    """The table of a Parquet file, or of an Arrow IPC file or stream.

    Raises:
      OSError, pa.ArrowException: it is none of these, or cannot be read.
    """
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic[:4] == b"PAR1":
        return pq.read_table(path, partitioning=None, page_checksum_verification=True)
    with pa.memory_map(path) as source:
        reader = pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)
        return reader.read_all()


def columns_of_states(table: pa.Table) -> list[str]:
    """Names of the columns of states, found by their type, or by name where the type was lost on the way."""
    return [
        field.name
        for field in table.schema
        if isinstance(field.type, StateType) or (field.name == STATE and field.type in (pa.binary(), pa.large_binary()))
    ]


def lines_of_column(table: pa.Table, name: str) -> list[str]:
    """What a column of states holds, as lines.

    Raises:
      StateError: a record is damaged, or of a version that this release does not read.
    """
    column = table.column(name)
    states, null = states_from_arrow(column, name)
    lines = [
        f"column {name!r}: version {VERSION}, aggregation {states.aggregation.name}, scale {states.scale.name}",
        f"{len(states):,} states ({0 if null is None else null.sum():,} null), {column.nbytes:,} bytes",
        "",
    ]
    first = np.arange(min(FIRST_ROWS, len(states)))
    shown = {"row": pa.array(first)}
    for field in table.schema:
        if (
            field.name not in states.aggregation.results
            and not isinstance(field.type, StateType)
            and field.name != name
        ):
            shown[field.name] = table.column(field.name).slice(0, FIRST_ROWS)
    for result in states.aggregation.results:
        try:
            shown[result] = result_to_arrow(states.take(first), result, None if null is None else null[first])
        except ValueError as error:  # of a part of an example's classes there is no cross-entropy
            lines[-1] = f"no {result}: {error}"
    return [*lines, *aligned(pa.table(shown)), *(["..."] if len(states) > FIRST_ROWS else [])]


def _run(argv: Sequence[str]) -> None:
    parser = ArgumentParser(PROGRAM, DESCRIPTION, EXAMPLES, "FILE [FILE ...]")
    parser.add_argument(
        "file", nargs="+", metavar="FILE", help="Parquet, Arrow IPC (file or stream), or a directory of Parquet files"
    )
    shown = 0
    for given in parser.parse_args(argv).file:
        before, others = shown, dict[str, None]()
        origin = read_provenance(given) if os.path.isdir(given) else None
        if origin is not None:
            print(said_of(origin))
        for path in find_files([given]) if os.path.isdir(given) else [given]:
            table = _table_of(path)
            if names := columns_of_states(table):
                print("\n" if shown else "", end="")
                _print(path, table, names)
                shown += 1
            others |= dict.fromkeys(table.column_names)
        if shown == before:
            columns = ", ".join(others) or "none"
            if origin is None:
                raise InputError(f"{given}: expected a column of states, found columns {columns}")
            print(f"{given}: no states, which --state writes; columns {columns}")


def _table_of(path: str) -> pa.Table:
    try:
        return read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: expected an undamaged Parquet or Arrow IPC file, found {one_line(error)}") from error


def _print(path: str, table: pa.Table, names: Sequence[str]) -> None:
    print(f"{path}: {table.num_rows:,} rows, columns {', '.join(table.column_names)}")
    for name in names:
        try:
            lines = lines_of_column(table, name)
        except (StateError, TypeError) as error:
            raise RunError(f"{path}: {error}") from error
        print("\n".join(["", *lines]), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 1 for a damaged state, 2 for a file that cannot be read or has none."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
