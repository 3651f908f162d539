"""Sorts results by key, into tables of one row group each."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..columns import columns_of
from ..keys import ranks_of_keys, sort_keys, with_dictionaries, without_dictionaries
from ..parquet.scan import OUTPUT_ROW_GROUP
from ..table_functions import take_rows
from .units import Watch, run_threads

Ints = npt.NDArray[np.int64]

# With fewer rows one thread sorts them: that takes about 50 ms, and threads have to merge.
MANY_ROWS = 1 << 19


def in_order(tables: list[pa.Table], keys: Sequence[str]) -> Iterator[pa.Table]:
    """All rows by key, in tables of a row group, of which there is one or more; keys are distinct."""
    whole = pa.concat_tables([without_dictionaries(table, keys) for table in tables]).combine_chunks()
    key_columns = columns_of(whole, keys)
    rows, key_columns = sort_keys(key_columns, keys) if keys else (np.arange(whole.num_rows), key_columns)
    others = whole.drop_columns(list(keys))
    for start in range(0, max(rows.size, 1), OUTPUT_ROW_GROUP):
        part = take_rows(others, rows[start : start + OUTPUT_ROW_GROUP], trusted=True)
        columns = [*key_columns.slice(start, OUTPUT_ROW_GROUP).columns, *part.columns]
        table = pa.Table.from_arrays(columns, names=[*keys, *part.column_names])
        yield with_dictionaries(table, tables[0].schema)


def groups_in_order(
    tables: list[pa.Table], keys: Sequence[str], threads: int, watch: Watch
) -> list[Callable[[], pa.Table]] | None:
    """Functions that make the tables of ``in_order`` one by one, for threads to share; None where that does not pay."""
    num_rows = sum(table.num_rows for table in tables)
    if num_rows < MANY_ROWS or threads == 1 or len(keys) != 1 or ranks_of_keys(tables[0], keys) is None:
        return None
    runs: list[tuple[Ints, Ints] | None] = [None] * len(tables)
    waiting = iter(range(len(tables)))

    def sort() -> None:
        for i in waiting:
            watch.check()
            ranks = ranks_of_keys(tables[i], keys)
            if ranks is not None:
                rows = np.argsort(ranks)
                runs[i] = ranks[rows], rows

    run_threads([sort] * threads, watch)
    found = [run for run in runs if run is not None]
    if len(found) < len(tables):  # null is a key somewhere
        return None
    ranks = [run for run, _ in found]
    bounds = [np.zeros(len(found), np.int64)]
    bounds += [_places(ranks, place) for place in range(OUTPUT_ROW_GROUP, num_rows, OUTPUT_ROW_GROUP)]
    bounds.append(np.array([run.size for run in ranks]))

    def group(begins: Ints, ends: Ints) -> pa.Table:
        pieces, order = [], []
        for table, (run, rows), begin, end in zip(tables, found, begins.tolist(), ends.tolist(), strict=True):
            if begin < end:
                pieces.append(take_rows(table, rows[begin:end], trusted=True))
                order.append(run[begin:end])
        return take_rows(pa.concat_tables(pieces).combine_chunks(), np.argsort(np.concatenate(order)), trusted=True)

    return [partial(group, begins, ends) for begins, ends in pairwise(bounds)]


def _places(runs: list[Ints], place: int) -> Ints:
    """Where sorted runs of distinct integers are to be cut, so that ``place`` of all are below the cuts."""
    low, high = min(int(run[0]) for run in runs if run.size), max(int(run[-1]) for run in runs if run.size)
    while low < high:  # the smallest integer with so many at or below it
        middle = (low + high) // 2
        if sum(int(np.searchsorted(run, middle, "right")) for run in runs) < place:
            low = middle + 1
        else:
            high = middle
    return np.array([np.searchsorted(run, low, "right") for run in runs], np.int64)
