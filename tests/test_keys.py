"""Key columns of every type in every layout: equal keys, their order and their shards, against plain Python."""

import datetime as dt
import math
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_stream import _kernel
from lse_stream.keys import check_key_type, encode_keys, one_by_one, shard_of_keys, sort_keys
from lse_stream.state_column import StateType
from lse_stream.state_table import to_ipc

# Runs a test with C, where there is any, and with NumPy.
BOTH_KERNELS = pytest.mark.parametrize("kernel", list(dict.fromkeys([_kernel.available()[0], "numpy"])), indirect=True)

NAN = math.nan
OTHER_NAN: float = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0100_0000_0123))[0]
INF = math.inf


def day(year: int) -> dt.date:
    return dt.date(year, 2, 28)


def instant(year: int) -> dt.datetime:
    return dt.datetime(year, 2, 28, 1, 2, 3)


def decimals(*texts: str) -> list[Decimal]:
    return [Decimal(text) for text in texts]


# Distinct values in ascending order: the order in which sorted tables must have them.
KEYS: list[tuple[pa.DataType, list[Any]]] = [
    *((getattr(pa, f"int{bits}")(), [-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 1) - 1]) for bits in (8, 16, 32, 64)),
    *((getattr(pa, f"uint{bits}")(), [0, 1, 2 ** (bits - 1), 2**bits - 1]) for bits in (8, 16, 32, 64)),
    (pa.float16(), [-INF, -65504.0, -0.5, 0.0, 2.0**-24, 1.0, INF, NAN]),
    (pa.float32(), [-INF, -1.5, 0.0, 2.0**-149, 2.0, INF, NAN]),
    (pa.float64(), [-INF, -1e300, -1.0, 0.0, 5e-324, 2.0, INF, NAN]),
    (pa.bool_(), [False, True]),
    # By bytes: U+FFFF stands before U+10000, which UTF-16 would put first.
    (pa.string(), ["", "Z", "a", "a\0", "ab", "größer", "日本", "\uffff", "\U00010000"]),
    (pa.large_string(), ["", "a", "b"]),
    (pa.string_view(), ["", "a", "a string too long to be inlined", "a string too long to be inlined, two"]),
    (pa.binary(), [b"", b"\x00", b"\x00\x00", b"\x7f", b"\xff"]),
    (pa.large_binary(), [b"", b"a", b"\xff"]),
    (pa.binary_view(), [b"", b"a", b"\xff" * 20]),
    (pa.binary(3), [b"abc", b"abd", b"\xff\x00\x00"]),
    (pa.binary(0), [b""]),
    (pa.date32(), [day(1), day(1969), day(1970), day(2024)]),
    (pa.date64(), [day(1), day(1969), day(1970), day(2024)]),
    *((pa.time32(unit), [dt.time(0), dt.time(1), dt.time(23, 59, 59)]) for unit in ("s", "ms")),
    *((pa.time64(unit), [dt.time(0), dt.time(2, 3, 4, 5), dt.time(2, 3, 4, 6)]) for unit in ("us", "ns")),
    *((pa.timestamp(unit), [instant(1700), instant(1969), instant(2024)]) for unit in ("s", "ms", "us", "ns")),
    (pa.timestamp("ms", "Europe/Berlin"), [instant(year).replace(tzinfo=dt.UTC) for year in (1960, 2023, 2024)]),
    *((pa.duration(unit), [dt.timedelta(-1), dt.timedelta(0), dt.timedelta(1)]) for unit in ("s", "ms", "us", "ns")),
    *((pa.decimal32(5, scale), decimals("-200", "-100", "0", "100")) for scale in (0, 2)),
    (pa.decimal64(10, 2), decimals("-1.51", "-1.50", "0.00", "99999999.99")),
    (pa.decimal128(20, 2), decimals("-999999999999999999.99", "-1.50", "0.00", "999999999999999999.99")),
    (pa.decimal256(76, 2), decimals("-1e70", "-1.50", "0.00", "1e70")),
    (pa.null(), []),
    (pa.dictionary(pa.int8(), pa.string()), ["", "a", "b", "größer"]),
    (pa.dictionary(pa.uint64(), pa.string_view()), ["a", "b"]),
    (pa.dictionary(pa.int32(), pa.int64(), ordered=True), [-5, 7]),
    (pa.dictionary(pa.int16(), pa.float64()), [-1.0, 0.0, NAN]),
    (pa.dictionary(pa.int16(), pa.float16()), [-1.0, 0.0, NAN]),
    (pa.dictionary(pa.int16(), pa.decimal32(5, 1)), decimals("-1.5", "2.0")),
    (pa.dictionary(pa.int16(), pa.bool_()), [False, True]),
    (pa.dictionary(pa.int16(), pa.timestamp("us", "UTC")), [instant(year).replace(tzinfo=dt.UTC) for year in (1, 2)]),
    (pa.dictionary(pa.int8(), pa.null()), []),
    (pa.dictionary(pa.int8(), pa.dictionary(pa.int16(), pa.string())), ["a", "b"]),
]


def value_type(data_type: pa.DataType) -> pa.DataType:
    return value_type(data_type.value_type) if pa.types.is_dictionary(data_type) else data_type


def array(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    """Like ``pa.array``, also for dictionaries and float16; NaN keeps its bits and is not null."""
    if pa.types.is_dictionary(data_type):
        distinct = list(dict.fromkeys(value for value in values if value is not None))
        indices = pa.array([None if v is None else distinct.index(v) for v in values], data_type.index_type)
        return pa.DictionaryArray.from_arrays(indices, array(distinct, data_type.value_type), ordered=data_type.ordered)
    if pa.types.is_floating(data_type):
        null = np.array([value is None for value in values], np.bool_)
        numbers = np.array([0 if value is None else value for value in values], data_type.to_pandas_dtype())
        return pa.array(numbers, data_type, mask=null, from_pandas=False)
    return pa.array(values, data_type)


def with_strange_dictionary(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    """A dictionary that has each value twice, and null, too; a null row is a null index or the index of null."""
    distinct = [None, *dict.fromkeys(value for value in values if value is not None)]
    at = [distinct.index(value) for value in values]
    twice = [None if i == 0 and row % 2 else i + (row % 2) * len(distinct) if i else 0 for row, i in enumerate(at)]
    indices = pa.array(twice, data_type.index_type)
    dictionary = array(distinct + distinct, data_type.value_type)
    return pa.DictionaryArray.from_arrays(indices, dictionary, ordered=data_type.ordered)


def chunked(values: Sequence[Any], data_type: pa.DataType, size: int = 7) -> pa.ChunkedArray:
    """Chunks of their own, one of them empty; of dictionaries each has another."""
    pieces = [values[:2], [], *(values[i : i + size] for i in range(2, len(values), size))]
    return pa.chunked_array([array(piece, data_type) for piece in pieces], data_type)


def sliced(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    """A slice that starts amid a byte of the bitmaps."""
    return array([*values[-3:], *values, *values[:2]], data_type)[len(values[-3:]) :][: len(values)]


Layout = Callable[[Sequence[Any], pa.DataType], Any]
LAYOUTS: dict[str, Layout] = {
    "array": array,
    "chunked": chunked,
    "sliced": sliced,
    "sliced chunks": lambda values, data_type: pa.chunked_array(
        [sliced(values[i : i + 9], data_type) for i in range(0, len(values), 9)], data_type
    ),
    "strange dictionary": with_strange_dictionary,
}
LAID_OUT = [
    pytest.param(data_type, values, layout, id=f"{data_type}-{name}")
    for data_type, values in KEYS
    for name, layout in LAYOUTS.items()
    if layout is not with_strange_dictionary or pa.types.is_dictionary(data_type)
]
EVERY_TYPE = [pytest.param(data_type, values, id=str(data_type)) for data_type, values in KEYS]


def canonical(values: Any) -> list[Any]:
    """A column as keys that compare in Python: one NaN, and the same object each time."""
    found = values if isinstance(values, list) else values.to_pylist()
    return [NAN if isinstance(v, float | np.floating) and math.isnan(v) else v for v in found]


def some_rows(data_type: pa.DataType, values: list[Any], n: int = 20) -> tuple[list[Any], list[Any]]:
    """n rows or more with every value, null and, of floats, every spelling; and the keys among them in order."""
    spellings = [-0.0, OTHER_NAN] if pa.types.is_floating(value_type(data_type)) else []
    pool = [*values, *spellings, None]
    rng = np.random.default_rng(1)
    rows = pool + [pool[i] for i in rng.integers(0, len(pool), n)]
    return [rows[i] for i in rng.permutation(len(rows))], canonical(array([*values, None], data_type))


# --- one column -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data_type", "values", "layout"), LAID_OUT)
def test_rows_with_equal_keys_have_one_code(data_type: pa.DataType, values: list[Any], layout: Layout) -> None:
    rows, distinct = some_rows(data_type, values)
    codes, keys = encode_keys(pa.table({"k": layout(rows, data_type)}), ["k"])
    assert keys.schema.names == ["k"]
    assert keys.schema.types == [data_type]
    keys.validate(full=True)
    meaning = canonical(keys["k"])
    assert len(meaning) == len(distinct)
    assert codes.dtype == np.int32
    assert [meaning[code] for code in codes] == canonical(array(rows, data_type))


@pytest.mark.parametrize(("data_type", "values", "layout"), LAID_OUT)
def test_keys_sort_ascending_then_nan_then_null(data_type: pa.DataType, values: list[Any], layout: Layout) -> None:
    some, distinct = some_rows(data_type, values)
    for rows in (some, [row for row in some if row is not None]):
        given_keys = canonical(array(rows, data_type))
        order, keys = sort_keys(pa.table({"k": layout(rows, data_type)}), ["k"])
        assert keys.schema.types == [data_type]
        keys.validate(full=True)
        assert sorted(order) == list(range(len(rows)))
        assert [given_keys[row] for row in order] == canonical(keys["k"])
        assert canonical(keys["k"]) == [key for key in distinct for _ in range(given_keys.count(key))]


# Arrow's IPC format cannot hold a dictionary of dictionaries.
@pytest.mark.parametrize(
    ("data_type", "values", "layout"), [case for case in LAID_OUT if "dictionary<values=dictionary" not in str(case.id)]
)
def test_a_key_alone_is_the_same_to_the_byte_whoever_its_neighbours_are(
    data_type: pa.DataType, values: list[Any], layout: Layout
) -> None:
    some, distinct = some_rows(data_type, values)
    # Each key alone, without null beside it, and with all others in several orders.
    found: dict[Any, set[bytes]] = {key: set() for key in distinct}
    for rows in (*([key] for key in distinct), [row for row in some if row is not None], some, some[::-1]):
        _, keys = encode_keys(pa.table({"k": layout(rows, data_type)}), ["k"])
        for key, alone in zip(canonical(keys["k"]), one_by_one(keys), strict=True):
            assert alone.schema.types == [data_type]
            assert canonical(alone["k"]) == [key]
            found[key].add(to_ipc(alone))
    assert [len(forms) for forms in found.values()] == [1] * len(distinct)
    assert len(set().union(*found.values())) == len(distinct)


@pytest.mark.parametrize(("data_type", "values", "layout"), LAID_OUT)
def test_shards_depend_on_the_keys_alone(data_type: pa.DataType, values: list[Any], layout: Layout) -> None:
    rows, distinct = some_rows(data_type, values)
    shards = shard_of_keys(pa.table({"k": layout(rows, data_type)}), ["k"], 10**9)
    assert shards.dtype == np.int32
    of_key = dict(zip(distinct, shard_of_keys(pa.table({"k": array(distinct, data_type)}), ["k"], 10**9), strict=True))
    assert shards.tolist() == [of_key[key] for key in canonical(array(rows, data_type))]
    assert len(set(of_key.values())) == len(distinct)


@pytest.mark.parametrize(("data_type", "values"), EVERY_TYPE)
def test_no_rows_and_nulls_alone(data_type: pa.DataType, values: list[Any]) -> None:
    some = pa.table({"k": array([*values, None], data_type)})
    for table in (some.slice(1, 0), pa.table({"k": pa.chunked_array([], data_type)})):
        codes, keys = encode_keys(table, ["k"])
        order, ordered = sort_keys(table, ["k"])
        assert codes.size == order.size == shard_of_keys(table, ["k"], 3).size == keys.num_rows == ordered.num_rows == 0
        assert keys.schema.types == ordered.schema.types == [data_type]
    nulls = pa.table({"k": chunked([None] * 5, data_type)})
    codes, keys = encode_keys(nulls, ["k"])
    assert codes.tolist() == [0] * 5
    assert keys["k"].to_pylist() == [None]
    assert keys.schema.types == [data_type]
    assert sort_keys(nulls, ["k"])[1]["k"].to_pylist() == [None] * 5
    assert set(shard_of_keys(nulls, ["k"], 1000)) == {535}


@pytest.mark.parametrize("in_dictionary", [False, True])
@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64])
def test_zeros_and_nans_come_out_in_one_form(number: type[np.floating[Any]], in_dictionary: bool) -> None:
    plain = pa.from_numpy_dtype(number)
    data_type = pa.dictionary(pa.int8(), plain) if in_dictionary else plain
    table = pa.table({"k": array([-0.0, OTHER_NAN, 0.0, -NAN, NAN], data_type)})
    for keys in (encode_keys(table, ["k"]).keys, sort_keys(table.slice(0, 2), ["k"])[1]):
        column = keys["k"].combine_chunks()
        decoded = column.dictionary_decode() if in_dictionary else column
        assert decoded.to_numpy().tobytes() == np.array([0.0, NAN], number).tobytes()


def test_dictionaries_come_out_with_the_values_of_the_rows_in_their_order() -> None:
    chunks = [
        pa.DictionaryArray.from_arrays(pa.array([2, 0, None], pa.int8()), ["b", "unused", "c"]),
        pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), ["c", "a"]),
    ]
    table = pa.table({"k": pa.chunked_array(chunks)})
    _, ordered = sort_keys(table, ["k"])
    assert ordered["k"].to_pylist() == ["a", "b", "c", "c", None]
    assert ordered["k"].chunk(0).dictionary.to_pylist() == ["a", "b", "c"]
    _, keys = encode_keys(table, ["k"])
    assert sorted(keys["k"].chunk(0).dictionary.to_pylist()) == ["a", "b", "c"]


# --- several columns --------------------------------------------------------------------------------------------------

COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int8(), st.sampled_from([None, -3, 0, 127])),
    "uint": (pa.uint64(), st.sampled_from([0, 2**63, 2**64 - 1, None])),
    "float": (pa.float64(), st.sampled_from([None, NAN, OTHER_NAN, -0.0, 0.0, -INF, 5.5])),
    "string": (pa.string(), st.sampled_from([None, "", "a", "aa", "b", "é"])),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["x", "y", "", None])),
    "null": (pa.null(), st.none()),
    "decimal": (pa.decimal128(5, 1), st.sampled_from([*decimals("-1.5", "0.0", "2.5"), None])),
}


def rank(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """What Python sorts by as keys sort."""

    def of(value: Any) -> tuple[Any, ...]:
        if value is None:
            return (2,)
        if value is NAN:
            return (1,)
        return (0, value.encode() if isinstance(value, str) else value)

    return tuple(map(of, key))


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
@given(st.data())
def test_several_columns_count_and_sort_as_tuples(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=4, unique=True))
    rows = data.draw(st.lists(st.tuples(*(COLUMNS[name][1] for name in names)), max_size=25))
    layouts = st.sampled_from([array, chunked, sliced])
    columns = {name: data.draw(layouts)([row[i] for row in rows], COLUMNS[name][0]) for i, name in enumerate(names)}
    table = pa.table({"other": range(len(rows)), **columns})
    expected = [tuple(canonical(list(row))) for row in rows]

    codes, keys = encode_keys(table, names)
    meaning = list(zip(*(canonical(keys[name]) for name in names), strict=True))
    assert keys.column_names == names
    assert [meaning[code] for code in codes] == expected
    assert len(meaning) == len(set(expected))

    order, ordered = sort_keys(table, names)
    assert list(zip(*(canonical(ordered[name]) for name in names), strict=True)) == sorted(expected, key=rank)
    assert [expected[row] for row in order] == sorted(expected, key=rank)
    assert ordered.column_names == names

    shards = shard_of_keys(table, names, 2**31 - 1)
    assert len(set(zip(shards.tolist(), expected, strict=True))) == len(meaning)


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
def test_many_distinct_keys_in_each_of_several_columns() -> None:
    n = 3000
    a, b, c = (np.random.default_rng(seed).permutation(n) for seed in range(3))
    codes, keys = encode_keys(pa.table({"a": a, "b": b, "c": c}), ["a", "b", "c"])
    assert keys.num_rows == n
    for name, numbers in (("a", a), ("b", b), ("c", c)):
        assert (keys[name].to_numpy()[codes] == numbers).all()


def test_without_key_columns_rows_are_one_group_in_one_shard() -> None:
    for n in (0, 3):
        table = pa.table({"k": list(range(n))})
        codes, keys = encode_keys(table, [])
        assert codes.tolist() == [0] * n
        assert keys.num_columns == 0
        assert shard_of_keys(table, [], 5).tolist() == [0] * n
        assert sort_keys(table, [])[0].tolist() == list(range(n))


# --- refused ----------------------------------------------------------------------------------------------------------

REFUSED = [
    pa.list_(pa.int8()),
    pa.large_list(pa.int8()),
    pa.list_(pa.int8(), 2),
    pa.struct([("a", pa.int8())]),
    pa.map_(pa.int8(), pa.int8()),
    pa.month_day_nano_interval(),
    pa.run_end_encoded(pa.int32(), pa.string()),
    pa.uuid(),
    StateType(),
    pa.dictionary(pa.int8(), pa.list_(pa.int8())),
]


@pytest.mark.parametrize("data_type", REFUSED, ids=str)
def test_other_types_are_refused_by_name(data_type: pa.DataType) -> None:
    table = pa.table({"a": pa.array([], pa.int8()), "k": pa.chunked_array([], data_type)})
    calls: list[Callable[[], object]] = [
        lambda: check_key_type("k", data_type),
        lambda: encode_keys(table, ["a", "k"]),
        lambda: sort_keys(table, ["a", "k"]),
        lambda: shard_of_keys(table, ["a", "k"], 2),
    ]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).startswith("key column 'k': expected integers, ")
        assert str(caught.value).endswith(f"found {value_type(data_type)}")


@pytest.mark.parametrize(("data_type", "values"), EVERY_TYPE)
def test_every_other_type_is_taken(data_type: pa.DataType, values: list[Any]) -> None:
    check_key_type("k", data_type)
    assert array(values, data_type).type == data_type


def test_a_column_that_is_not_there_is_named() -> None:
    table = pa.table({"a": [1], "b": [2]})
    calls: list[Callable[[], object]] = [
        lambda: encode_keys(table, ["a", "z"]),
        lambda: sort_keys(table, ["a", "z"]),
        lambda: shard_of_keys(table, ["a", "z"], 2),
    ]
    for call in calls:
        with pytest.raises(KeyError, match="column 'z': expected once among the columns"):
            call()


def test_more_values_than_an_index_can_tell_apart_are_refused() -> None:
    data_type = pa.dictionary(pa.int8(), pa.int64())
    halves = [array(range(start, start + 100), data_type) for start in (0, 100)]
    assert encode_keys(pa.table({"k": halves[0]}), ["k"]).keys.num_rows == 100
    both = pa.table({"k": pa.chunked_array(halves)})
    message = "key column 'k': expected at most as many distinct values as int8 can index, found 200"
    with pytest.raises(ValueError, match=message):
        encode_keys(both, ["k"])
    with pytest.raises(ValueError, match=message):
        sort_keys(both, ["k"])


def test_more_than_63_key_columns_are_refused() -> None:
    columns = {f"k{i}": pa.array([i, None]) for i in range(64)}
    assert encode_keys(pa.table(columns), list(columns)[:63]).keys.num_rows == 2
    with pytest.raises(ValueError, match="key columns: expected 63 or fewer, found 64"):
        encode_keys(pa.table(columns), list(columns))


# --- shards -----------------------------------------------------------------------------------------------------------

# (type, keys, their shards of 1000), computed once and apart from this code. A change moves stored keys to other files.
SHARDS: list[tuple[pa.DataType, list[Any], list[int]]] = [
    (pa.int64(), [0, 1, -1, 2**40, -(2**63), None], [55, 158, 767, 996, 976, 535]),
    (pa.uint64(), [0, 1, 2**64 - 1], [55, 158, 767]),
    (pa.float64(), [0.0, 1.5, -1.5, NAN, INF, None], [55, 358, 827, 463, 993, 535]),
    (pa.string(), ["", "a", "größer", "日本", None], [55, 189, 566, 694, 535]),
    (pa.binary(), [b"", b"a", b"\x00"], [55, 189, 292]),
    (pa.bool_(), [False, True], [55, 158]),
    (pa.decimal128(10, 2), [*decimals("1.50", "-2.00", "0.00"), None], [23, 454, 339, 535]),
    (pa.decimal256(40, 0), decimals("-1", "12345678901234567890123456789"), [383, 14]),
    (pa.timestamp("us"), [dt.datetime(2024, 1, 1), dt.datetime(1960, 1, 1)], [79, 709]),
    (pa.timestamp("us", "Asia/Tokyo"), [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], [79]),
    (pa.date32(), [dt.date(2024, 1, 1), dt.date(1969, 12, 31)], [692, 767]),
    (pa.date64(), [dt.date(2024, 1, 1)], [203]),
    (pa.time32("s"), [dt.time(0), dt.time(0, 0, 1)], [55, 158]),
    (pa.time64("ns"), [dt.time(0)], [55]),
    (pa.duration("ms"), [dt.timedelta(milliseconds=-1)], [767]),
    (pa.null(), [None], [535]),
]


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("data_type", "values", "shards"), SHARDS, ids=[str(case[0]) for case in SHARDS])
def test_shards_never_change(data_type: pa.DataType, values: list[Any], shards: list[int]) -> None:
    assert shard_of_keys(pa.table({"k": array(values, data_type)}), ["k"], 1000).tolist() == shards


@BOTH_KERNELS
@pytest.mark.usefixtures("kernel")
def test_shards_of_several_columns_never_change() -> None:
    table = pa.table({"a": [1, 1, 2, None], "b": ["x", "y", "x", None], "c": [0.5, NAN, -0.0, None]})
    assert shard_of_keys(table, ["a", "b"], 1000).tolist() == [651, 854, 325, 55]
    assert shard_of_keys(table, ["b", "a"], 1000).tolist() == [152, 312, 501, 55]
    assert shard_of_keys(table, ["a", "b", "c"], 1000).tolist() == [589, 263, 754, 433]


NUMBERS = [3, None, 0, 100]
TEXTS = ["x", None, "", "größer"]
SAME: dict[str, list[pa.Array]] = {
    "integers": [
        *(array(NUMBERS, getattr(pa, f"{sign}int{bits}")()) for sign in ("", "u") for bits in (8, 16, 32, 64)),
        array(NUMBERS, pa.dictionary(pa.int8(), pa.int64())),
        with_strange_dictionary(NUMBERS, pa.dictionary(pa.uint8(), pa.int16())),
    ],
    "negative integers": [array([-7, -1], getattr(pa, f"int{bits}")()) for bits in (8, 16, 32, 64)],
    "floats": [
        *(array([1.5, None, -0.0, NAN], getattr(pa, f"float{bits}")()) for bits in (16, 32, 64)),
        array([1.5, None, 0.0, OTHER_NAN], pa.float64()),
        array([1.5, None, 0.0, OTHER_NAN], pa.dictionary(pa.int8(), pa.float16())),
    ],
    "strings": [
        *(array(TEXTS, data_type) for data_type in (pa.string(), pa.large_string(), pa.string_view())),
        *(array(TEXTS, pa.binary()).cast(data_type) for data_type in (pa.binary(), pa.large_binary())),
        array(TEXTS, pa.dictionary(pa.int8(), pa.string())),
        with_strange_dictionary(TEXTS, pa.dictionary(pa.int8(), pa.large_string())),
    ],
    "binaries": [
        array([b"abc", None, b"\xff\x00\x00"], data_type)
        for data_type in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3))
    ],
    "decimals": [
        array([*decimals("-1.50", "22.00"), None], data_type)
        for data_type in (pa.decimal32(5, 2), pa.decimal64(5, 2), pa.decimal128(38, 2), pa.decimal256(50, 2))
    ],
}


@pytest.mark.parametrize("columns", SAME.values(), ids=SAME.keys())
def test_shards_are_the_same_in_every_type_that_holds_the_keys(columns: list[pa.Array]) -> None:
    expected, *others = (shard_of_keys(pa.table({"k": column}), ["k"], 2**31 - 1).tolist() for column in columns)
    assert len(set(expected)) == len(expected) > 1
    for column, shards in zip(columns[1:], others, strict=True):
        assert shards == expected, column.type


@pytest.mark.parametrize("num_shards", [1, 2, 16, 100])
def test_shards_are_in_range_and_even(num_shards: int) -> None:
    n = 20_000
    numbers = np.arange(n)
    tables = {
        "integers": pa.table({"k": numbers}),
        "strides": pa.table({"k": numbers * 4096}),
        "negative": pa.table({"k": -numbers}),
        "floats": pa.table({"k": numbers * 0.5}),
        "strings": pa.table({"k": [f"key-{i}" for i in numbers]}),
        "decimals": pa.table({"k": pa.array(numbers).cast(pa.decimal128(20, 0))}),
        "pairs": pa.table({"k": numbers // 100, "j": numbers % 100}),
    }
    expected = n / num_shards
    for kind, table in tables.items():
        sizes = np.bincount(shard_of_keys(table, table.column_names, num_shards))
        assert sizes.size == num_shards, kind
        # Of random shards about one in 10^9 is six standard deviations off.
        assert np.abs(sizes - expected).max() <= 6 * math.sqrt(expected), kind


@pytest.mark.parametrize("num_shards", [0, -1, 2**31])
def test_numbers_of_shards_that_are_refused(num_shards: int) -> None:
    for keys in ([], ["k"]):
        with pytest.raises(ValueError, match=rf"num_shards: expected 1 to 2\^31 - 1, found {num_shards}$"):
            shard_of_keys(pa.table({"k": [1]}), keys, num_shards)
