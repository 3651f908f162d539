"""Sessions of rows: what is found of parts, in any order, is what is found of all rows, bit for bit."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.event_times import WINDOW
from lse_stream.reduction import ColumnAggregation
from lse_stream.sessions import SessionTable, last_panes
from lse_stream.state_column import STATE

GAP = 5
COLUMN = ColumnAggregation.of("logsumexp", "natural", "x")

# Key, value and time.
Row = tuple[str | None, float | None, int]
rows = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.none() | st.floats(-800, 800), st.integers(0, 60)), max_size=30
)


def find(rows: Sequence[Row], keys: tuple[str, ...] = ("k",)) -> SessionTable:
    names, values, times = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "k": pa.array(names, pa.string()).dictionary_encode(),
            "x": pa.array(values, pa.float64()),
            "t": pa.array(times, pa.timestamp("us")),
        }
    )
    return SessionTable.find(table, keys, COLUMN, "t", GAP)


def contents(sessions: SessionTable) -> set[tuple[str | None, int, int, bytes]]:
    table = sessions.to_arrow()
    keys = table["k"].to_pylist() if "k" in table.column_names else [""] * table.num_rows
    times = [table[name].cast(pa.int64()).to_pylist() for name in WINDOW]
    found = list(zip(keys, *times, table[STATE].to_pylist(), strict=True))
    assert len(set(found)) == len(found)
    return set(found)


def wanted(rows: list[Row], *, keyed: bool = True) -> set[tuple[str | None, int, int, bytes]]:
    """By one row after the other."""
    found = set()
    for key in {row[0] if keyed else "" for row in rows}:
        mine = sorted((t, x) for k, x, t in rows if x is not None and (not keyed or k == key))
        breaks = [i for i in range(1, len(mine)) if mine[i][0] >= mine[i - 1][0] + GAP]
        for start, end in zip([0, *breaks], [*breaks, len(mine)], strict=True):
            if part := mine[start:end]:
                state = LogSumExpAccumulator([x for _, x in part]).to_bytes()
                found.add((key, part[0][0], part[-1][0] + GAP, state))
    return found


@given(rows, st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_sessions_of_parts_are_those_of_all_rows(rows: list[Row], parts: list[int]) -> None:
    assert contents(find(rows)) == wanted(rows)
    split = [find([row for row, part in zip(rows, parts, strict=False) if part == number]) for number in range(4)]
    assert contents(SessionTable.merge(split)) == wanted(rows)
    by_pairs = SessionTable.merge([SessionTable.merge(split[2:]), SessionTable.merge(split[:2])])
    again = SessionTable.from_ipc(by_pairs.to_ipc())
    assert contents(again) == wanted(rows)
    assert again.is_new.all()


@given(rows)
def test_sessions_without_keys(rows: list[Row]) -> None:
    halves = [find(rows[0::2], ()), find(rows[1::2], ())]
    assert contents(SessionTable.merge(halves)) == wanted(rows, keyed=False)
    assert all(shard == 0 for shard, _ in SessionTable.merge(halves).split(3))


@given(rows, st.integers(1, 5))
def test_shards_share_no_key(rows: list[Row], num_shards: int) -> None:
    sessions = find(rows)
    shards = dict(sessions.split(num_shards))
    assert set().union(*map(contents, shards.values())) == contents(sessions)
    keys = [key for part in shards.values() for key in {found[0] for found in contents(part)}]
    assert len(keys) == len(set(keys))


def test_what_has_come_out_is_kept_through_a_merge() -> None:
    first = find([("a", 1.0, 0), ("b", 2.0, 0)])
    given_out = SessionTable(
        first.keys,
        first.starts,
        first.ends,
        first.states.emptied(np.array([True, False])),
        np.array([2, 1]),
        np.array([False, False]),
        np.array([True, False]),
    )
    merged = SessionTable.merge([given_out, find([("a", 3.0, 4), ("c", 0.0, 100)])])
    found = {
        key: tuple(values)
        for key, *values in zip(
            merged.keys["k"].to_pylist(),
            merged.panes.tolist(),
            merged.is_new.tolist(),
            merged.is_closed.tolist(),
            merged.states.counts.tolist(),
            strict=True,
        )
    }
    assert found == {"a": (2, True, True, 1), "b": (1, False, False, 1), "c": (0, True, False, 1)}


def test_the_last_pane_of_a_session_has_the_most_terms() -> None:
    panes = [[("a", 1.0, 0)], [("a", 1.0, 8)], [("a", 1.0, 0), ("a", 2.0, 4), ("a", 1.0, 8)], [("b", 5.0, 3)]]
    tables = [find(rows).to_arrow() for rows in panes]
    expected = find([*panes[2], *panes[3]])
    for order in ((0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)):
        last = last_panes(pa.concat_tables([tables[i] for i in order]), ["k"])
        assert last["k"].to_pylist() == ["a", "b"]
        assert last[STATE].to_pylist() == expected.to_arrow()[STATE].to_pylist()


def test_values_and_times_that_cannot_be() -> None:
    table = pa.table({"k": ["a"], "x": [2**53 + 1], "t": pa.array([0], pa.timestamp("us"))})
    with pytest.raises(ValueError, match="column 'x'"):
        SessionTable.find(table, ["k"], COLUMN, "t", GAP)
    with pytest.raises(TypeError, match="column 'x': expected timestamps or dates"):
        SessionTable.find(table.set_column(1, "x", pa.array([1.0])), ["k"], COLUMN, "x", GAP)
