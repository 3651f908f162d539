"""Log-likelihoods in other layouts become the rows that they are: names of columns, wide tables, lists."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lse_stream import layouts
from lse_stream.layouts import Columns, DrawLists, ObservationLists, columns_like, lists_of

INDEX = [1, 2, 10]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("log_lik[*]", ["log_lik[1]", "log_lik[2]", "log_lik[10]"]),
        ("log_lik[*]", ["log_lik.1", "log_lik.2", "log_lik.10"]),
        ("log_lik.*", ["log_lik[1]", "log_lik.2", "log_lik[10]"]),
        ("ll_*_y", ["ll_1_y", "ll_2_y", "ll_10_y"]),
        ("*", ["1", "2", "10"]),
        ("log_lik[*].v", ["log_lik[1].v", "log_lik[2].v", "log_lik.10.v"]),
    ],
)
def test_a_pattern_names_columns_with_an_index(pattern: str, names: list[str]) -> None:
    others = [
        "lp__",
        "log_lik",
        "log_lik_sum",
        "log_lik.x",
        "log_lik.",
        "log_lik[]",
        "log_lik[1",
        "my_log_lik[1]",
        "ll_1",
    ]
    columns, observations = columns_like(pattern, [*others, *names])
    assert columns == names
    assert observations.equals(pa.array(INDEX))


@pytest.mark.parametrize("pattern", ["log_lik[*]", "log_lik.*"])
@pytest.mark.parametrize("names", [["log_lik.1.2", "log_lik.3.4"], ["log_lik[1,2]", "log_lik[3, 4]"]])
def test_an_index_of_several_integers_is_a_string(pattern: str, names: list[str]) -> None:
    columns, observations = columns_like(pattern, names)
    assert columns == names
    assert observations.equals(pa.array(["1,2", "3,4"]))


@pytest.mark.parametrize(
    ("pattern", "names", "message"),
    [
        ("log_lik", ["log_lik"], r"expected one \* .* found 'log_lik'"),
        ("log_lik[*,*]", ["log_lik[1,2]"], r"expected one \*"),
        ("log_lik[*]", ["loglik[1]", "theta", "lp__"], r"found none \(nearest: loglik\[1\], "),
        ("log_lik[*]", [], "nearest: no column"),
        ("log_lik[*]", ["log_lik.1", "log_lik[1]"], r"two of 1: 'log_lik.1' and 'log_lik\[1\]'"),
        ("log_lik[*]", ["log_lik[1]", "log_lik[01]"], "two of 1"),
        ("log_lik[*]", ["log_lik[1,2]", "log_lik[5]"], r"one shape, found 'log_lik\[1,2\]' and 'log_lik\[5\]'"),
    ],
)
def test_patterns_that_do_not_serve(pattern: str, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        columns_like(pattern, names)


VALUES: list[list[Any]] = [[-1.0, None, -3.0], [-4.0, -5.0, -6.0]]  # of two draws, three observations
ROWS = {
    "chain": ["a", "b"] * 3,
    "observation": [1, 1, 2, 2, 10, 10],
    "value": [-1.0, -4.0, None, -5.0, -3.0, -6.0],
}
CHAINS = pa.array(["a", "b"])
OBSERVATIONS = pa.array(INDEX)

COLUMN_TYPES = [
    [pa.float64()] * 3,
    [pa.float32()] * 3,
    [pa.int64()] * 3,
    [pa.int8(), pa.float32(), pa.float64()],
    [pa.float16()] * 3,
]


def whole(layout: Columns | DrawLists) -> Callable[[pa.Table], pa.Table]:
    """The layout, with all rows as one table."""
    return lambda table: pa.concat_tables(layout(table))


@pytest.mark.parametrize("types", COLUMN_TYPES, ids=lambda types: str(types[0]))
def test_a_column_for_each_observation(types: list[pa.DataType]) -> None:
    columns = [pa.array(column).cast(kind) for column, kind in zip(zip(*VALUES, strict=True), types, strict=True)]
    table = pa.table([CHAINS, *columns], names=["chain", "x", "y", "z"])
    convert = whole(Columns(("chain",), ("x", "y", "z"), OBSERVATIONS))
    assert convert(table).to_pydict() == ROWS
    assert convert(pa.concat_tables([table[:1], table[1:]])).to_pydict() == ROWS
    nothing = convert(table[:0])
    assert nothing.schema.types == convert(table).schema.types
    assert nothing.num_rows == 0


def test_columns_may_be_dictionaries() -> None:
    columns = [pa.array(column, pa.float64()).dictionary_encode() for column in zip(*VALUES, strict=True)]
    table = pa.table([CHAINS, *columns], names=["chain", "x", "y", "z"])
    assert whole(Columns(("chain",), ("x", "y", "z"), OBSERVATIONS))(table).to_pydict() == ROWS


LIST_TYPES: list[Any] = [
    pa.list_(pa.float64()),
    pa.large_list(pa.float32()),
    pa.list_(pa.int64(), 3),
    pa.list_(pa.int8()),
]


@pytest.mark.parametrize("kind", LIST_TYPES, ids=str)
def test_a_list_for_each_draw(kind: pa.DataType) -> None:
    lists = pa.array([[0, 0, 0], *VALUES, [0, 0, 0]], kind)[1:3]
    table = pa.table({"chain": CHAINS, "ll": lists})
    convert = whole(DrawLists(("chain",), "ll", OBSERVATIONS))
    assert convert(table).to_pydict() == ROWS
    assert convert(pa.concat_tables([table[:1], table[1:]])).to_pydict() == ROWS
    assert convert(table[:0]).num_rows == 0


@pytest.mark.parametrize("kind", LIST_TYPES, ids=str)
def test_a_list_for_each_observation(kind: pa.DataType) -> None:
    lists = pa.array([[0, 0, 0], *VALUES, [0, 0, 0]], kind)[1:3]
    table = pa.table({"o": CHAINS, "ll": lists})
    convert = ObservationLists(("o",), "ll")
    expected = {"o": ["a"] * 3 + ["b"] * 3, "value": [x for row in VALUES for x in row]}
    assert convert(table).to_pydict() == expected
    assert convert(pa.concat_tables([table[:1], table[1:]])).to_pydict() == expected
    assert convert(table[:0]).num_rows == 0


def test_observations_may_have_any_number_of_draws() -> None:
    """One without any is not lost: it counts as a value that is null."""
    table = pa.table({"o": list("abcd"), "ll": [[-1.0], None, [], [-2.0, -3.0]]})
    found = ObservationLists(("o",), "ll")(table).to_pydict()
    assert found == {"o": list("abcdd"), "value": [-1.0, None, None, -2.0, -3.0]}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[1.0, 2.0, 3.0], [1.0, 2.0]], "column 'll', row 1: expected lists of 3 values, found one of 2"),
        ([[1.0, 2.0, 3.0], None], "column 'll', row 1: expected lists of 3 values, found null"),
        ([[1, 2, 2**60]], "column 'll': expected integers within"),
    ],
)
def test_lists_that_do_not_serve(lists: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        whole(DrawLists((), "ll", OBSERVATIONS))(pa.table({"ll": lists}))


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float64(), 0)], ids=str)
def test_lists_of_nothing_have_no_rows(kind: pa.DataType) -> None:
    for draws in (0, 2):
        found = whole(DrawLists((), "ll", OBSERVATIONS[:0]))(pa.table({"ll": pa.array([[]] * draws, kind)}))
        assert (found.column_names, found.num_rows) == (["observation", "value"], 0)


def test_columns_become_lists() -> None:
    columns = [pa.array(column, pa.float64()) for column in zip(*VALUES, strict=True)]
    assert lists_of(columns).to_pylist() == VALUES
    assert lists_of([column[:0] for column in columns]).to_pylist() == []


@pytest.mark.parametrize("rows", [1, 100, 120, 1 << 16])
def test_values_are_those_of_the_long_layout(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many draws and observations, some at a time, and so that equal keys follow each other."""
    monkeypatch.setattr(layouts, "ROWS", rows)
    x = np.random.default_rng(0).normal(size=(50, 30))
    masked = [[None if value > 1.0 else value for value in row] for row in x.tolist()]
    chain = ["a"] * 20 + ["b"] * 30
    expected = {
        "chain": chain * 30,
        "observation": np.repeat(np.arange(30), 50).tolist(),
        "value": [value for column in zip(*masked, strict=True) for value in column],
    }
    wide = pa.table({"chain": chain} | {str(i): [row[i] for row in masked] for i in range(30)})
    observations = pa.array(np.arange(30))
    for layout, table in (
        (Columns(("chain",), tuple(map(str, range(30))), observations), wide),
        (DrawLists(("chain",), "ll", observations), pa.table({"chain": chain, "ll": masked})),
    ):
        tables = list(layout(table))
        assert len(tables) == -(-30 // max(1, rows // 50))
        assert pa.concat_tables(tables).to_pydict() == expected
