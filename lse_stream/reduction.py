"""What is computed of rows: which keys, and which aggregations of which columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .buffers import array_of, nulls_of_column
from .columns import column_of, numeric_column
from .float64 import column_to_float64_exact
from .integers import split_column
from .scales import Scale
from .states.aggregations import Aggregation, find_aggregation

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ColumnAggregation:
    """An aggregation of columns.

    Attributes:
      aggregation, scale: of the states.
      values: names of the columns, in the order of ``aggregation.inputs``.
    """

    aggregation: Aggregation
    scale: Scale
    values: tuple[str, ...]

    @classmethod
    def of(cls, aggregation: str, scale: Scale | str, value: str | Sequence[str]) -> Self:
        """From the names of aggregation, scale and columns.

        Raises:
          ValueError: no such aggregation or scale, a scale that the aggregation does not know, or another number of
            columns than it has inputs.
        """
        found, on_scale = find_aggregation(aggregation), Scale(scale)
        found.check_scale(on_scale)
        names, inputs = [value] if isinstance(value, str) else list(value), found.inputs
        if len(names) != len(inputs):
            raise ValueError(
                f"value: expected {len(inputs)} names for {aggregation} ({', '.join(inputs)}), found {names}"
            )
        return cls(found, on_scale, tuple(names))

    def inputs(self, table: pa.Table, codes: Codes) -> tuple[Codes, list[Floats], Codes | None]:
        """Codes and values of the rows in which no value is null; and the codes of the others, if there are any.

        Raises:
          KeyError: a column is missing.
          TypeError: a column of another type.
          ValueError: an integer beyond +-2^53, or a weight or target that the aggregation does not take; of an
            aggregation of integers and decimals, a value that is neither.
        """
        pairs = list(zip(self.aggregation.inputs, self.values, strict=True))
        digits = self.aggregation.digits
        columns = [column_of(table, name) for _, name in pairs]
        if digits is None:
            columns = [
                numeric_column(column, f"column {name!r}", role)
                for column, (role, name) in zip(columns, pairs, strict=True)
            ]
        nulls = [null for column in columns if (null := nulls_of_column(column)) is not None]
        of_null = None
        if nulls:
            null = np.logical_or.reduce(nulls)
            of_null, codes = codes[null], codes[~null]
            if len(columns) > 1:
                columns = [column.filter(array_of(~null)) for column in columns]
        names = [f"column {name!r}" for name in self.values]
        if digits is not None:
            return codes, split_column(columns[0], digits, names[0]), of_null
        arrays = [column_to_float64_exact(column, name) for column, name in zip(columns, names, strict=True)]
        self.aggregation.check_inputs(arrays, names)
        return codes, arrays, of_null


@dataclass(frozen=True)
class Reduction:
    """From rows to one state per key, or several side by side.

    Attributes:
      keys: names of the key columns.
      aggregations: by the name of the column of states, what they are made of.
      skip_nulls: False makes the state of a key that has a null value null.
    """

    keys: tuple[str, ...]
    aggregations: Mapping[str, ColumnAggregation]
    skip_nulls: bool = True

    @property
    def columns(self) -> list[str]:
        """Those that are read, each once."""
        values = [name for aggregation in self.aggregations.values() for name in aggregation.values]
        return list(dict.fromkeys([*self.keys, *values]))


def check_names(keys: Sequence[str], *, others: Iterable[str]) -> None:
    """Raises TypeError for what is no sequence of names, a str included, ValueError for a name that is used twice."""
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        raise TypeError(f"keys: expected a sequence of column names, found the {type(keys).__name__} {keys!r}")
    taken = set(others)
    for name in keys:
        if name in taken:
            raise ValueError(
                f"key column {name!r}: expected names that differ from each other and from {sorted(others)}"
            )
        taken.add(name)


def check_results(aggregation: Aggregation, results: Sequence[str] | None, min_count: int = 0) -> Sequence[str]:
    """The names of the results that are asked for: None for those of the aggregation's columns.

    Raises:
      TypeError: a ``min_count`` that is no integer.
      ValueError: no such result, one that is asked for twice, or a negative ``min_count``.
    """
    if not isinstance(min_count, Integral):
        raise TypeError(f"min_count: expected an integer, found {min_count!r}")
    if min_count < 0:
        raise ValueError(f"min_count: expected 0 or more, found {min_count}")
    names = aggregation.columns if results is None else results
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"results: expected a sequence of names, each once, found {names!r}")
    for name in names:
        if name not in aggregation.results:
            raise ValueError(f"results: expected some of {', '.join(aggregation.results)}, found {name!r}")
    return names
