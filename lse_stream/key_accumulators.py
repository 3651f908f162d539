"""One state per key, updated table by table; and the reducers, which say how rows or states are accumulated.

The index of the keys and the states of their groups persist between tables, so that a row costs a probe and an update.
Rows and states have an accumulator each, as they accumulate in different forms.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import _kernel
from .buffers import Mask
from .columns import columns_of
from .keys import KeyIndex, key_schema, with_dictionaries, without_dictionaries
from .reduction import Reduction
from .scales import Scale
from .state_table import StatesColumn, StateTable, split_by_shard
from .states.aggregations import Aggregation, ExactSum, Extremes, ScaledSum, SmallestValues
from .states.arrays import StateArray
from .states.extremes import GrowingExtremes

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# Rows of an exact sum that wait at least, and per group: adding them up costs a pass over all groups.
LEAST_WAITING, WAITING_PER_GROUP = 1 << 16, 8
# What such a row takes at most: a code and two numbers, with what aligns them.
ROW_BYTES = 24

# With lists of smallest values the states of so many groups are too large for the cache. Rows then wait until there are
# as many per group as its list keeps, and are added group by group: to sort them costs less than the misses, and those
# of a group are added at once. Rows that come in long runs do not wait; nor where too few could wait for each group.
MANY_GROUPS, RUN_TO_ADD_AT_ONCE, MOST_WAITING = 1 << 11, 8, 1 << 22
# What waits, of 24 bytes a row, takes half as much again as the lists will, of up to twice as many values.
WAITING_PER_VALUE = 1
# Sorted rows that are added together: they stay in the cache from part to part.
SORTED_TOGETHER = 1 << 15


class _WaitingRows:
    """Rows of one input that are to be added in the order of their groups."""

    def __init__(self) -> None:
        # As they come, and sorted.
        self._codes, self._values = np.empty((2, 0), np.int32), np.empty((2, 0))
        self.size = 0

    def add(self, codes: Codes, values: Floats, most: int) -> None:
        """Adds rows; there are never more than that many."""
        end = self.size + codes.size
        if end > self._codes.shape[1]:
            room = min(2 * end, most)
            self._codes, self._values = (self._grown(rows, room) for rows in (self._codes, self._values))
        self._codes[0, self.size : end], self._values[0, self.size : end] = codes, values
        self.size = end

    def _grown(self, rows: Any, size: int) -> Any:
        grown = np.empty((2, size), rows.dtype)
        grown[0, : self.size] = rows[0, : self.size]
        return grown

    def take(self, groups: int) -> Iterator[tuple[Codes, Floats]]:
        """All rows, sorted, some at a time."""
        n, self.size = self.size, 0
        (codes, sorted_codes), (values, sorted_values) = self._codes[:, :n], self._values[:, :n]
        _kernel.sort_rows(codes, values, groups, sorted_codes, sorted_values)
        for start in range(0, n, SORTED_TOGETHER):
            some = slice(start, start + SORTED_TOGETHER)
            yield sorted_codes[some], sorted_values[some]

    @property
    def nbytes(self) -> int:
        return self._codes.nbytes + self._values.nbytes


class _ExactSums:
    """The exact sums of groups whose number grows: in windows, and of rows that do not fit, which wait to be added."""

    def __init__(self, part: ExactSum) -> None:
        self._part = part
        self._rows: list[tuple[Codes, Floats, Floats | None]] = []
        self._stored: list[tuple[Codes, Words, Ints]] = []
        self._windows = _kernel.ExactWindows()
        self._waiting = 0
        self._words, self._at = np.empty(0, np.uint64), np.empty(0, np.int64)

    def add(self, codes: Codes, inputs: Sequence[Floats], groups: int) -> None:
        codes, first, second = self._part.rows(codes, inputs)
        others = self._windows.update(codes, first, second, groups)
        if others.size:
            factor = None if second is None or second is first else second[others]
            other = first[others]
            self._rows.append((codes[others], other, other if second is first else factor))
            self._wait(others.size, groups)

    def merge(self, codes: Codes, words: Words, at: Ints, groups: int) -> None:
        self._stored.append((codes, words, at))
        self._wait(codes.size, groups)

    def _wait(self, rows: int, groups: int) -> None:
        self._waiting += rows
        if self._waiting >= max(WAITING_PER_GROUP * groups, LEAST_WAITING):
            self.settle(groups)

    def settle(self, groups: int) -> tuple[Words, Ints]:
        """The words and the places of all sums."""
        parts = self._stored
        words, begins = self._windows.take()
        if begins.size > 1:
            parts = [(np.arange(begins.size - 1, dtype=np.int32), words, begins[:-1]), *parts]
        if self._at.size:
            parts = [(np.arange(self._at.size, dtype=np.int32), self._words, self._at), *parts]
        if self._rows:
            a = np.concatenate([first for _, first, _ in self._rows])
            factors = [second for _, _, second in self._rows if second is not None]
            # A square's factors are one array, which the kernel sorts once.
            same = all(second is first for _, first, second in self._rows)
            b = None if not factors else a if same else np.concatenate(factors)
            words, begins = _kernel.sum_products(np.concatenate([code for code, _, _ in self._rows]), a, b, groups)
            parts = [*parts, (np.arange(groups, dtype=np.int32), words, begins[:-1])]
        self._rows, self._stored, self._waiting = [], [], 0
        if len(parts) == 1 and parts[0][2].size == groups and (parts[0][0] == np.arange(groups)).all():
            _, self._words, self._at = parts[0]
            return self._words, self._at
        starts = np.cumsum([0, *(words.size for _, words, _ in parts)])
        codes = np.concatenate([np.empty(0, np.int32), *(code for code, _, _ in parts)])
        words = np.concatenate([np.empty(0, np.uint64), *(words for _, words, _ in parts)])
        places = [at + start for (_, _, at), start in zip(parts, starts, strict=False)]
        at = np.concatenate([np.empty(0, np.int64), *places])
        self._words, begins = _kernel.merge_sums(codes, words, at, groups)
        self._at = begins[:-1]
        return self._words, self._at

    @property
    def nbytes(self) -> int:
        waiting = sum(words.nbytes for _, words, _ in self._stored) + ROW_BYTES * self._waiting
        return int(self._words.nbytes + self._at.nbytes + self._windows.nbytes + waiting)


class _SmallestValues:
    """The smallest values of groups whose number grows."""

    def __init__(self, part: SmallestValues) -> None:
        self._lists = _kernel.Smallest(part.k)

    def add(self, codes: Codes, inputs: Sequence[Floats], groups: int) -> None:
        self._lists.update(codes, inputs[0], groups)

    def merge(self, codes: Codes, words: Words, at: Ints, groups: int) -> None:
        self._lists.merge(codes, words, at, groups)

    def settle(self, groups: int) -> tuple[Words, Ints]:
        """The words and the places of all lists."""
        words, begins = self._lists.stored(groups)
        return words, begins[:-1]

    def pour_others(self, sums: Sequence[tuple[float, _kernel.Groups]], groups: int) -> None:
        """Adds what is in no list, since that was last done, so many times its value to the sums of such values."""
        for times, of_groups in sums:
            of_groups.update_others(self._lists, times, groups)
        self._lists.drop_others()

    @property
    def nbytes(self) -> int:
        return self._lists.nbytes


def _growing_sums(part: ScaledSum | Extremes, scale: Scale, *, of_states: bool) -> _kernel.Groups | GrowingExtremes:
    if isinstance(part, Extremes):
        return GrowingExtremes(part.floats)
    if part.has_weights:
        return _kernel.Groups("weighted", scale.factor)
    return _kernel.Groups("values" if part.is_plain(scale) and not of_states else "terms", scale.factor)


class _GrowingStates:
    """The states of groups whose number grows, and which of them are null."""

    def __init__(self, aggregation: Aggregation, scale: Scale, *, of_states: bool) -> None:
        self._aggregation, self._scale = aggregation, scale
        self._sums = [_growing_sums(part, scale, of_states=of_states) for part in aggregation.sums]
        self._exact = [
            _SmallestValues(part) if isinstance(part, SmallestValues) else _ExactSums(part)
            for part in aggregation.exact
        ]
        self._of_null: list[Codes] = []
        kept = sum(part.k for part in aggregation.exact if isinstance(part, SmallestValues))
        self._most_per_group = int(WAITING_PER_VALUE * kept)
        self._waiting = _WaitingRows()

    def update(self, codes: Codes, inputs: Sequence[Floats], groups: int) -> None:
        """Adds rows to the groups of their codes: at once, or later together with others."""
        most = min(groups * self._most_per_group, MOST_WAITING)
        can_wait = groups >= MANY_GROUPS and most >= max(groups * RUN_TO_ADD_AT_ONCE, codes.size)
        if not can_wait or np.count_nonzero(codes[1:] != codes[:-1]) * RUN_TO_ADD_AT_ONCE <= codes.size:
            self._update(codes, inputs, groups)
            return
        if self._waiting.size + codes.size > most:
            self._update_waiting(groups)
        self._waiting.add(codes, inputs[0], most)

    def _update_waiting(self, groups: int) -> None:
        for codes, values in self._waiting.take(groups):
            self._update(codes, [values], groups)

    def _update(self, codes: Codes, inputs: Sequence[Floats], groups: int) -> None:
        for part, sums in zip(self._aggregation.sums, self._sums, strict=True):
            if isinstance(sums, GrowingExtremes):
                sums.update(codes, inputs, groups)
            elif isinstance(part, ScaledSum) and not part.of_others:
                x, weights = part.terms(inputs, self._scale)
                sums.update(codes, x, groups, _kernel.NONE if weights is None else weights)
        for exact in self._exact:
            exact.add(codes, inputs, groups)
        self._add_others(groups)

    def _add_others(self, groups: int) -> None:
        """Adds what the lists of smallest values do not keep to the sums of such."""
        for exact in self._exact:
            if isinstance(exact, _SmallestValues):
                parts = zip(self._aggregation.sums, self._sums, strict=True)
                others = [
                    (part.times, sums)
                    for part, sums in parts
                    if isinstance(part, ScaledSum) and isinstance(sums, _kernel.Groups) and part.of_others
                ]
                exact.pour_others(others, groups)

    def merge(self, codes: Codes, states: StateArray, groups: int) -> None:
        for sums, records in zip(self._sums, states.sums, strict=True):
            sums.merge(codes, records, groups)
        for exact, (words, at) in zip(self._exact, states.exact, strict=True):
            exact.merge(codes, words, at, groups)
        self._add_others(groups)

    def make_null(self, codes: Codes) -> None:
        self._of_null.append(np.unique(codes))

    def states(self, groups: int) -> StatesColumn:
        self._update_waiting(groups)
        self._waiting = _WaitingRows()
        settled = tuple(exact.settle(groups) for exact in self._exact)
        self._add_others(groups)
        for sums in self._sums:
            sums.grow(groups)
        array = StateArray(self._aggregation, self._scale, tuple(sums.states() for sums in self._sums), settled)
        null: Mask | None = None
        if self._of_null:
            null = np.zeros(groups, np.bool_)
            null[np.concatenate(self._of_null)] = True
        return StatesColumn(array, null)

    @property
    def nbytes(self) -> int:
        states = sum(sums.nbytes for sums in self._sums) + sum(exact.nbytes for exact in self._exact)
        return self._waiting.nbytes + states


class _KeyAccumulator:
    """An index of keys, and the states of its groups."""

    def __init__(self) -> None:
        self._index: KeyIndex | None = None
        self._states: dict[str, _GrowingStates] = {}
        self._like: StateTable | None = None

    def __len__(self) -> int:
        """How many keys there are."""
        return 0 if self._index is None else len(self._index)

    @property
    def nbytes(self) -> int:
        """About what it takes of memory."""
        index = 0 if self._index is None else self._index.nbytes
        return index + sum(states.nbytes for states in self._states.values())

    def table(self) -> StateTable | None:
        """The keys and their states; None where no table was added, as the types of the keys are not known."""
        if self._index is None:
            return None
        groups = len(self._index)
        return StateTable(self._index.keys(), {name: part.states(groups) for name, part in self._states.items()})

    def _begin(
        self, schema: pa.Schema, aggregations: Mapping[str, tuple[Aggregation, Scale]], *, of_states: bool
    ) -> KeyIndex:
        self._index = KeyIndex(schema)
        self._states = {
            name: _GrowingStates(*aggregation, of_states=of_states) for name, aggregation in aggregations.items()
        }
        return self._index

    def _merge(self, index: KeyIndex, table: StateTable) -> None:
        if self._like is None:
            self._like = table.slice(0, 0)
        self._like.check_alike(table)
        codes = index.encode(table.keys) if len(index.schema) else np.zeros(table.num_rows, np.int32)
        for name, column in table.states.items():
            self._states[name].merge(codes, column.array, len(index))
            if column.null is not None:
                self._states[name].make_null(codes[column.null])


class RowAccumulator(_KeyAccumulator):
    """The states of tables of rows, one per key.

    Args:
      reduction: keys and what their states are made of.
    """

    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        self._reduction = reduction
        self._aggregations = {name: (each.aggregation, each.scale) for name, each in reduction.aggregations.items()}

    def add(self, table: pa.Table) -> None:
        """Adds rows. The key columns of all tables have the same types. Raises as ``StateTable.group``."""
        index = self._index
        if index is None:
            index = self._begin(key_schema(table, self._reduction.keys), self._aggregations, of_states=False)
        codes = index.encode(table)
        for name, column in self._reduction.aggregations.items():
            used, inputs, of_null = column.inputs(table, codes)
            self._states[name].update(used, inputs, len(index))
            if of_null is not None and not self._reduction.skip_nulls:
                self._states[name].make_null(of_null)

    def absorb(self, table: StateTable) -> None:
        """Merges in what another accumulator of this reduction holds: up to 2^42 rows of a key."""
        index = self._index
        if index is None:
            index = self._begin(table.keys.schema, self._aggregations, of_states=False)
        self._merge(index, table)


class StateAccumulator(_KeyAccumulator):
    """The merged states of tables of states, one per key.

    Args:
      keys: names of the key columns: those of the tables, or fewer of them.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__()
        self._keys = keys

    def add(self, table: StateTable) -> None:
        """Merges states in. Raises as ``StateTable.merge``."""
        index = self._index
        if index is None:
            aggregations = {
                name: (column.array.aggregation, column.array.scale) for name, column in table.states.items()
            }
            index = self._begin(key_schema(table.keys, self._keys), aggregations, of_states=True)
        self._merge(index, table)

    absorb = add


class RowReducer:
    """How tables of rows are reduced. ``columns`` are those that it takes to that."""

    def __init__(self, reduction: Reduction) -> None:
        self._reduction = reduction
        self.keys, self.columns = list(reduction.keys), reduction.columns

    def accumulator(self) -> RowAccumulator:
        """An accumulator for prepared tables."""
        return RowAccumulator(self._reduction)

    def prepare(self, table: pa.Table) -> pa.Table:
        """What is accumulated of a table."""
        return columns_of(table, self.columns)

    def nulls_in(self, prepared: pa.Table) -> int:
        """How many values are null."""
        return sum(prepared.column(name).null_count for name in set(self.columns) - set(self.keys))

    def check(self, table: pa.Table) -> None:
        """Raises what there is to raise for a table that is the only one; its keys are not looked up for that."""
        prepared = self.prepare(table)
        KeyIndex(key_schema(prepared, self.keys))
        for column in self._reduction.aggregations.values():
            column.inputs(prepared, np.zeros(prepared.num_rows, np.int32))

    def split(self, tables: Sequence[pa.Table], num_shards: int) -> Iterator[pa.Table]:
        """What is accumulated of several tables, by shard."""
        whole = pa.concat_tables(tables)
        try:
            plain = whole.combine_chunks()
        except pa.ArrowInvalid:  # dictionaries that have too many values together
            plain = without_dictionaries(whole, self.keys).combine_chunks()
        for part in split_by_shard(plain, self.keys, num_shards):
            yield with_dictionaries(part, whole.schema)


class StateReducer:
    """How tables of states are reduced, ``StateTable`` s or ``pa.Table`` s with a column "state".

    Args:
      keys: names of the key columns: those of the tables, or fewer.
      trusted: that column was checked where its bytes came in.
    """

    columns: Sequence[str] = ()

    def __init__(self, keys: Sequence[str], *, trusted: bool) -> None:
        self.keys, self._trusted = list(keys), trusted

    def accumulator(self) -> StateAccumulator:
        """An accumulator for prepared tables."""
        return StateAccumulator(self.keys)

    def prepare(self, table: StateTable | pa.Table) -> StateTable:
        """What is accumulated of a table."""
        if isinstance(table, StateTable):
            return table.select(self.keys)
        return StateTable.from_arrow(table, self.keys, trusted=self._trusted)

    def nulls_in(self, prepared: StateTable) -> int:
        """How many states are null."""
        return sum(int(column.null.sum()) for column in prepared.states.values() if column.null is not None)

    def check(self, table: StateTable | pa.Table) -> None:
        """Raises what there is to raise for a table that is the only one."""
        KeyIndex(key_schema(self.prepare(table).keys, self.keys))

    def split(self, tables: Sequence[StateTable], num_shards: int) -> Iterator[StateTable]:
        """What is accumulated of several tables, by shard."""
        return iter(StateTable.concat(tables).split(num_shards))


Reducer = RowReducer | StateReducer
