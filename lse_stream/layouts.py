"""Log-likelihoods in other layouts than a row for each draw of an observation: their tables made into such rows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .buffers import Mask, array_of, is_primitive, nulls_of, numbers_of, strings_of, take
from .float64 import check_integers
from .keys import one_array
from .observations import VALUE

# The column that names observations where the input has no column which does.
OBSERVATION = "observation"

# Values that are read at a time. A column takes 10 microseconds or more a table to read, however few its rows are; and
# of a few draws an observation has so few rows that they are not worth to be added at once.
VALUES_OF_DRAWS, VALUES_OF_OBSERVATIONS = 1 << 21, 1 << 16
# Rows of the tables that these become, about: their arrays stay in the cache.
ROWS = 1 << 16

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[Any]

# Of an index: numbers, of so many digits that all are int64.
_NUMBER = r"\d{1,18}"
_NEAREST = 3


def columns_like(pattern: str, names: Sequence[str]) -> tuple[list[str], pa.Array]:
    """The columns that a pattern names, where ``*`` stands for an index, and the observations that these name.

    ``log_lik[*]`` and ``log_lik.*`` mean the same: log_lik.1, log_lik[1], log_lik.1.2 and log_lik[1,2]. Observations
    are int64 where an index is one integer, and strings such as "1,2" elsewhere.

    Raises:
      ValueError: a pattern without one ``*``, or that names nothing, two columns with one index, or indices of one
        integer and of several.

    >>> columns_like("log_lik[*]", ["lp__", "log_lik.1", "log_lik.2"])[0]
    ['log_lik.1', 'log_lik.2']
    """
    expression = _expression(pattern)
    indices: dict[tuple[int, ...], str] = {}
    for name in names:
        if found := expression.fullmatch(name):
            index = tuple(map(int, re.findall(_NUMBER, found["index"])))
            if index in indices:
                both = f"{indices[index]!r} and {name!r}"
                raise ValueError(f"expected a column for each index, found two of {_text(index)}: {both}")
            indices[index] = name
    if not indices:
        from difflib import get_close_matches  # where there is a fault alone

        near = ", ".join(get_close_matches(pattern, names, _NEAREST, 0.0))
        raise ValueError(f"expected columns like {pattern!r}, * an index, found none (nearest: {near or 'no column'})")
    shape, *others = {len(index): name for index, name in indices.items()}.items()
    if others:
        raise ValueError(f"expected indices of one shape, found {shape[1]!r} and {others[0][1]!r}")
    if shape[0] == 1:
        return list(indices.values()), array_of(np.array([index for [index] in indices], np.int64))
    return list(indices.values()), strings_of([_text(index) for index in indices])


def _expression(pattern: str) -> re.Pattern[str]:
    before, _, after = pattern.partition("*")
    if pattern.count("*") != 1:
        raise ValueError(f"expected one * where the index stands, as in 'log_lik[*]', found {pattern!r}")
    index = rf"(?P<index>{_NUMBER}(?:[.,]{_NUMBER})*)"
    if before.endswith("."):
        before, index = before[:-1], _any_index()
    elif before.endswith("[") and after.startswith("]"):
        before, after, index = before[:-1], after[1:], _any_index()
    return re.compile(re.escape(before) + index + re.escape(after), re.ASCII)


def _any_index() -> str:
    return rf"(?P<index>(?:\.{_NUMBER})+|\[{_NUMBER}(?:, ?{_NUMBER})*\])"


def _text(index: tuple[int, ...]) -> str:
    return ",".join(map(str, index))


@dataclass(frozen=True)
class Columns:
    """A row is a draw, and has a column for each observation.

    Attributes:
      keys: names of further columns.
      columns: of numbers.
      observations: their names, in the order of ``columns``.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    observations: pa.Array

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """The rows of the table, some observations at a time: keys, OBSERVATION and VALUE."""
        arrays = [one_array(table.column(name)) for name in self.columns]
        kinds = {array.type for array in arrays}
        is_cast = len(kinds) > 1 or not is_primitive(arrays[0].type)
        for some in _blocks(len(arrays), table.num_rows):
            values = pa.concat_arrays([array.cast(pa.float64()) if is_cast else array for array in arrays[some]])
            yield _rows_of(table.select(self.keys), self.observations[some], values)


@dataclass(frozen=True)
class DrawLists:
    """A row is a draw, and has a list of the values of all observations.

    Attributes:
      keys: names of further columns.
      value: name of the column of lists.
      observations: the names of a list's values.
    """

    keys: tuple[str, ...]
    value: str
    observations: pa.Array

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """The rows of the table, some observations at a time: keys, OBSERVATION and VALUE.

        Raises:
          ValueError: a list of another length, or an integer beyond +-2^53.
        """
        lists = one_array(table.column(self.value))
        width, lengths = len(self.observations), _lengths(lists)
        wrong = lengths != width
        if wrong.any():
            row = int(wrong.argmax())
            found = "null" if lists[row].as_py() is None else f"one of {lengths[row]}"
            raise ValueError(f"column {self.value!r}, row {row}: expected lists of {width} values, found {found}")
        values, draws = _items(lists, self.value), len(lists)
        for some in _blocks(width, draws):
            yield _rows_of(table.select(self.keys), self.observations[some], _transposed(values, draws, width, some))


@dataclass(frozen=True)
class ObservationLists:
    """A row is an observation, and has a list of the values of all its draws; one without any counts as a null value.

    Attributes:
      names: of further columns.
      value: name of the column of lists.
    """

    names: tuple[str, ...]
    value: str

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows of the table: the further columns, and VALUE.

        Raises:
          ValueError: an integer beyond +-2^53.
        """
        lists = one_array(table.column(self.value))
        values, lengths = _items(lists, self.value), _lengths(lists)
        empty = lengths == 0
        if empty.any():
            lengths = np.maximum(lengths, 1)
            missing = np.repeat(empty, lengths)
            values = values.take(array_of(np.cumsum(~missing) - 1, null=missing))
        rows = np.repeat(np.arange(len(lists)), lengths)
        columns = [take(table.column(name), rows) for name in self.names]
        return pa.Table.from_arrays([*columns, values], names=[*self.names, VALUE])


def _blocks(observations: int, draws: int) -> Iterator[slice]:
    """Observations of so many draws each that are some ROWS together; none at least once, for the types."""
    step = max(1, ROWS // max(draws, 1))
    for start in range(0, max(observations, 1), step):
        yield slice(start, min(start + step, observations))


def lists_of(columns: Sequence[pa.Array]) -> pa.Array:
    """A list for each row of columns (n,) of one type of numbers, as ``DrawLists`` takes them."""
    turned = _transposed(pa.concat_arrays(columns), len(columns), len(columns[0]))
    return pa.FixedSizeListArray.from_arrays(turned, len(columns))


def _rows_of(keys: pa.Table, observations: pa.Array, values: pa.Array) -> pa.Table:
    """Rows of the values of draws, whose keys there are, observation by observation.

    Equal ones that follow each other are grouped faster.
    """
    draws, width = keys.num_rows, len(observations)
    columns = [pa.concat_arrays([one_array(column)] * max(width, 1)).slice(0, draws * width) for column in keys.columns]
    if is_primitive(observations.type):
        observation = array_of(np.repeat(numbers_of(observations), draws))
    else:
        observation = take(observations, np.repeat(np.arange(width), draws))
    return pa.Table.from_arrays([*columns, observation, values], names=[*keys.column_names, OBSERVATION, VALUE])


def _lengths(lists: pa.Array) -> Ints:
    """How many values each list has (n,); a null 0."""
    n, null = len(lists), nulls_of(lists)
    if pa.types.is_fixed_size_list(lists.type):
        lengths = np.full(n, lists.type.list_size)
    else:
        lengths = np.diff(numbers_of(lists.offsets)).astype(np.int64)
    if null is not None:
        lengths[null] = 0
    return lengths


def _items(lists: pa.Array, name: str) -> pa.Array:
    """The values of all lists, one after another."""
    values = lists.flatten()
    if not is_primitive(values.type):
        values = values.cast(pa.float64())
    if pa.types.is_integer(values.type) and values.type.bit_width == 64:
        check_integers(values, f"column {name!r}")
    return values


def _transposed(values: pa.Array, rows: int, width: int, some: slice = slice(None)) -> pa.Array:
    """Of rows of so many values, one after another: first all their first values, then all their second; or some."""

    def turned(array: Numbers | Mask) -> Numbers:
        return np.ascontiguousarray(array.reshape(rows, width)[:, some].T).ravel()

    null = nulls_of(values)
    return array_of(turned(numbers_of(values)), values.type, None if null is None else turned(null))
