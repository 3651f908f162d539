"""Finds the row of a table by its key: the index is built once, and used for any number of tables."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .columns import column_of, value_type_of
from .keys import KeyIndex, describe_key, key_schema


class LookUp:
    """Finds the rows of a table by their keys, which are unique; built once, used for any number of tables.

    Any number of threads may look rows up.

    Args:
      held: the key columns, one row per key; none for one row.
      num_rows: how many rows there are.
      what: what errors call a row.

    Raises:
      TypeError: a column of a type that cannot be a key.
      ValueError: a key is there twice, or, without keys, not one row.
    """

    def __init__(self, held: pa.Table, num_rows: int, *, what: str = "state") -> None:
        self._keys, self._what = held.column_names, what
        self._schema = key_schema(held, self._keys)
        self._index = KeyIndex(self._schema)
        if not self._keys:
            if num_rows != 1:
                raise ValueError(f"expected one {what} where there are no keys, found {num_rows}")
            return
        codes = self._index.encode(held)
        if len(self._index) < num_rows:
            row = int((np.bincount(codes)[codes] > 1).argmax())
            raise ValueError(f"expected one {what} for every key, found more for {describe_key(held, self._keys, row)}")
        # Codes need not go in the order of the rows. The last stands for the code -1.
        self._rows = np.full(num_rows + 1, -1, np.int32)
        self._rows[codes] = np.arange(num_rows, dtype=np.int32)

    def find(self, table: pa.Table) -> npt.NDArray[np.int32]:
        """The row (n,) of the key of each row of a table; -1 where it is not there.

        Raises:
          KeyError: a column is not there.
          TypeError: key columns of different types.
        """
        for name, held in zip(self._keys, self._schema.types, strict=True):
            found = column_of(table, name).type
            if value_type_of(found) != value_type_of(held):
                raise TypeError(f"key column {name!r}: expected {held} as in the {self._what}s, found {found}")
        codes = self._index.find(table)
        return self._rows[codes] if self._keys else codes

    def rows(self, table: pa.Table) -> npt.NDArray[np.int32]:
        """The row (n,) of the key of each row of a table; raises KeyError for a key that is missing, named."""
        rows = self.find(table)
        if rows.size and rows.min() < 0:
            missing = describe_key(table, self._keys, int(rows.argmin()))
            raise KeyError(f"expected one {self._what} for every key, found none for {missing}")
        return rows
