"""What a stored column of states holds: ``python -m pipelines.inspect --help``."""

import os
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lse_stream._kernel import StateError
from lse_stream._kernel.constants import VERSION
from lse_stream.errors import InputError, one_line
from lse_stream.state_column import STATE, StateType, states_from_arrow
from lse_stream.states.results import result_of

from .command import ArgumentParser
from .run import RunError, run_main
from .summary import aligned

PROGRAM = "inspect"

DESCRIPTION = """\
Shows what the columns of states in a Parquet or Arrow IPC file contain:
version, aggregation and scale, how many rows, the results of the first states.
Every record is checked; of a damaged one it names the row and the fault.

Exit status 0, 1 for a damaged state, 2 for a file without states or unreadable.
"""

EXAMPLES = """\
examples:
  COMMAND parquet --input pipelines/samples/storms.parquet \\
      --key season --value category --state --output out/s
  PROGRAM out/s/part-00000-of-00001.parquet

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
            shown[result] = pa.array(result_of(states.take(first), result), mask=None if null is None else null[first])
        except ValueError as error:  # of a part of an example's classes there is no cross-entropy
            lines[-1] = f"no {result}: {error}"
    return [*lines, *aligned(pa.table(shown)), *(["..."] if len(states) > FIRST_ROWS else [])]


def _run(argv: Sequence[str]) -> None:
    parser = ArgumentParser(PROGRAM, DESCRIPTION, EXAMPLES, "FILE")
    parser.add_argument("file", metavar="FILE", help="Parquet, or Arrow IPC (file or stream)")
    path: str = parser.parse_args(argv).file
    if os.path.isdir(path):
        raise InputError(f"{path}: expected a Parquet or Arrow IPC file, found a directory: name one of its files")
    try:
        table = read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: expected an undamaged Parquet or Arrow IPC file, found {one_line(error)}") from error
    names = columns_of_states(table)
    if not names:
        found = ", ".join(table.column_names) or "none"
        raise InputError(f"{path}: expected a column of states, found columns {found}")
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
