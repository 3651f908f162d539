"""Stored states with coarser keys: times cut to hours, days or months, values mapped to groups."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from .state_column import STATE, states_from_arrow


def coarsen(truncate: Mapping[str, str], mapped: Mapping[str, pa.Table], table: pa.Table) -> pa.Table:
    """The table with its key columns changed; the states, which are checked, stay as they are and may be merged.

    Args:
      truncate: units, by the names of columns of times.
      mapped: by the name of a column, a table of two columns: its values, each once, and what they become. The
        column takes the name of the second.
      table: with the column "state".

    Raises:
      StateError: a state that is damaged.
      ValueError: a value that is not in its table.
    """
    states_from_arrow(table.column(STATE))  # a damaged one is found here, where its file is known
    for name, unit in truncate.items():
        position = table.column_names.index(name)
        column = table.column(name)
        table = table.set_column(position, name, pc.floor_temporal(column, unit=unit).cast(column.type))
    for name, groups in mapped.items():
        position = table.column_names.index(name)
        values = groups.column(0).combine_chunks()
        column = table.column(name).cast(values.type)
        rows = pc.index_in(column, values)
        missing = column.filter(pc.and_(rows.is_null(), column.is_valid()))
        if len(missing):
            raise ValueError(f"column {name!r}: expected values that its map contains, found {missing[0]}")
        table = table.set_column(position, groups.column_names[1], groups.column(1).take(rows))
    return table
