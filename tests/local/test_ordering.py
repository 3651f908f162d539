"""Results sorted by key: by several threads, row group by row group, the same tables as by one."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_stream.local import ordering
from lse_stream.local.ordering import groups_in_order, in_order
from lse_stream.local.units import Watch

TYPES = [pa.int64(), pa.int8(), pa.uint64(), pa.timestamp("us"), pa.float64(), pa.bool_()]


def tables_of(keys: list[Any], data_type: pa.DataType, parts: int) -> list[pa.Table]:
    """Rows with distinct keys, dealt to tables."""
    table = pa.table({"k": pa.array(keys, pa.int64()).cast(data_type), "value": np.arange(len(keys)) / 4})
    return [table.take(np.arange(part, len(keys), parts)) for part in range(parts)]


@given(
    st.sets(st.integers(-128, 127), min_size=1, max_size=60), st.sampled_from(TYPES), st.integers(1, 5), st.randoms()
)
def test_threads_give_the_row_groups_of_one(keys: set[int], data_type: pa.DataType, parts: int, rng: Any) -> None:
    if pa.types.is_unsigned_integer(data_type):
        keys = {abs(key) for key in keys}
    elif pa.types.is_boolean(data_type):
        keys = {key % 2 for key in keys}
    shuffled = list(keys)
    rng.shuffle(shuffled)
    tables = tables_of(shuffled, data_type, parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "MANY_ROWS", 0)
        patch.setattr(ordering, "OUTPUT_ROW_GROUP", 7)
        groups = groups_in_order(tables, ["k"], 2, Watch())
        expected = [*in_order(tables, ["k"])]
    assert groups is not None
    assert [make().to_pydict() for make in groups] == [table.to_pydict() for table in expected]


@pytest.mark.parametrize(
    ("tables", "keys", "threads"),
    [
        (tables_of([3, None, 1, 2], pa.int64(), 2), ["k"], 2),
        (tables_of([3, 1, 2], pa.int64(), 2), ["k"], 1),
        (tables_of([3, 1, 2], pa.int64(), 2), [], 2),
        ([pa.table({"k": ["b", "a"], "value": [1.0, 2.0]})], ["k"], 2),
    ],
    ids=["a null key", "one thread", "no keys", "strings"],
)
def test_others_are_sorted_by_one(
    monkeypatch: pytest.MonkeyPatch, tables: list[pa.Table], keys: list[str], threads: int
) -> None:
    monkeypatch.setattr(ordering, "MANY_ROWS", 0)
    assert groups_in_order(tables, keys, threads, Watch()) is None
