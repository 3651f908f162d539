"""Key columns: which rows have equal keys, in what order keys stand, and to which shard a key belongs.

Keys are compared by value in one canonical form, the same on every machine and for every layout of the columns:

* -0.0 is 0.0, and there is one NaN;
* null is a key of its own;
* dictionaries count by their values;
* order: ascending, column by column; strings and binaries by bytes; NaN after all numbers; nulls last.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from . import _kernel

Codes = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]

_INT64_IMAGES = (pa.types.is_timestamp, pa.types.is_duration, pa.types.is_time64, pa.types.is_date64)
_INT32_IMAGES = (pa.types.is_time32, pa.types.is_date32)
_AS_THEY_ARE = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_decimal128,
    pa.types.is_decimal256,
    pa.types.is_null,
)
_LARGE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


class EncodedKeys(NamedTuple):
    """``codes`` (rows,): dense group numbers; ``keys``: the key columns, one row per group."""

    codes: Codes
    keys: pa.Table


def encode_keys(table: pa.Table, keys: Sequence[str]) -> EncodedKeys:
    """Numbers the distinct keys of a table; without key columns all rows are one group.

    Raises:
      KeyError: a column that is not there.
      TypeError: a column of a type that cannot be a key.
    """
    codes: npt.NDArray[Any] = np.zeros(table.num_rows, np.int32)
    columns: list[tuple[Codes, pa.Array]] = []  # per key column: the code of each group, and what the codes mean
    for name in keys:
        column_codes, values = _encode_column(table, name)
        if columns:
            # Both factors are dense, so the product stays within int64.
            codes, pairs = _kernel.encode_int64(codes.astype(np.int64) * len(values) + column_codes)
            left, right = np.divmod(pairs, max(len(values), 1))
            columns = [(group_codes[left], meaning) for group_codes, meaning in columns]
            columns.append((right.astype(np.int32), values))
        else:
            codes = column_codes
            columns.append((np.arange(len(values), dtype=np.int32), values))
    arrays = [
        _restore(values.take(pa.array(group_codes)), table.schema.field(name).type, name)
        for (group_codes, values), name in zip(columns, keys, strict=True)
    ]
    return EncodedKeys(codes, pa.table(arrays, names=list(keys)))


def one_by_one(keys: pa.Table) -> Iterator[pa.Table]:
    """Each row of a table of keys alone, in one form: equal keys are equal to the byte, in Arrow's IPC format too.

    A slice would not be: its buffers tell of its neighbours, such as whether one of them is null.
    """
    columns = [(_plain(keys, field.name), field.type, field.name) for field in keys.schema]
    for i in range(keys.num_rows):
        yield pa.table(
            {name: _restore(pa.array([plain[i]], plain.type), data_type, name) for plain, data_type, name in columns}
        )


def shard_of_keys(table: pa.Table, keys: Sequence[str], num_shards: int) -> Codes:
    """The shard (rows,) of each row's key, 0 to num_shards - 1: a hash of its canonical form, the same everywhere.

    Integers, booleans and times hash by their number, floats by the bits of their float64, strings, binaries and the
    text of decimals by CRC-32 and length of their bytes, all mixed by SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).

    Raises:
      KeyError: a column that is not there.
      TypeError: a column of a type that cannot be a key.
      ValueError: ``num_shards`` below 1 or beyond int32.
    """
    if not 1 <= num_shards <= np.iinfo(np.int32).max:
        raise ValueError(f"num_shards: expected 1 to 2^31 - 1, found {num_shards}")
    total = np.zeros(table.num_rows, np.uint64)
    for name in keys:
        total = _mix(total + _hash_column(table, name))
    return (total % np.uint64(num_shards)).astype(np.int32)


def sort_keys(table: pa.Table, keys: Sequence[str]) -> tuple[npt.NDArray[np.int64], pa.Table]:
    """The row numbers in the order of the keys, and the key columns in that order.

    Dictionaries come out with their values in the order of the rows. Rows of equal keys stand in no particular order.
    """
    plain = {name: _plain(table, name) for name in keys}
    sortable = [column for column in plain.values() if not pa.types.is_null(column.type)]
    if not sortable:
        return np.arange(table.num_rows), table.select(keys)
    image = _int64_image(sortable[0]) if len(sortable) == 1 and sortable[0].null_count == 0 else None
    if image is not None and not (pa.types.is_floating(sortable[0].type) or pa.types.is_uint64(sortable[0].type)):
        rows = np.argsort(image.to_numpy())  # four times as fast
    else:
        names = [str(i) for i in range(len(sortable))]
        order = pc.sort_indices(pa.table(sortable, names=names), sort_keys=[(name, "ascending") for name in names])
        rows = order.to_numpy().view(np.int64)
    taken = pa.array(rows)
    columns = [_restore(column.take(taken), table.schema.field(name).type, name) for name, column in plain.items()]
    return rows, pa.table(columns, names=list(keys))


def check_key_type(name: str, data_type: pa.DataType) -> None:
    """Raises TypeError for a column that cannot be a key."""
    _plain_type(name, data_type)


def describe_key(table: pa.Table, keys: Sequence[str], row: int) -> str:
    """The key of a row as an error tells it: ``model='a', fold=3``."""

    def text(column: pa.ChunkedArray) -> str:
        if pa.types.is_temporal(column.type):  # Python has no nanoseconds
            column = column.cast(pa.string())
        return repr(column[0].as_py())

    return ", ".join(f"{name}={text(table.column(name).slice(row, 1))}" for name in keys)


# --- one column -------------------------------------------------------------------------------------------------------


def _plain_type(name: str, data_type: pa.DataType) -> pa.DataType:
    """The type in which values of ``data_type`` are compared: each has one form in it."""
    types = pa.types
    if types.is_dictionary(data_type):
        return _plain_type(name, data_type.value_type)
    if types.is_boolean(data_type) or types.is_integer(data_type) or types.is_float32(data_type):
        return data_type
    if types.is_float64(data_type) or any(test(data_type) for test in (*_INT64_IMAGES, *_INT32_IMAGES, *_AS_THEY_ARE)):
        return data_type
    if types.is_float16(data_type):
        return pa.float32()
    if types.is_decimal32(data_type) or types.is_decimal64(data_type):
        return pa.decimal128(data_type.precision, data_type.scale)
    if types.is_string_view(data_type):
        return pa.large_string()
    if types.is_binary_view(data_type):
        return pa.large_binary()
    raise TypeError(
        f"key column {name!r}: expected integers, floats, booleans, strings, binaries, dates, times, durations, "
        f"decimals, nulls or a dictionary of these, found {data_type}"
    )


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise KeyError(f"column {name!r}: expected one of {', '.join(table.column_names)}")
    return table.column(name)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.nbytes > np.iinfo(np.int32).max:  # more than the offsets of a plain string array can hold
        column = column.cast(_LARGE.get(column.type, column.type))
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _canonical(array: pa.Array, plain_type: pa.DataType) -> pa.Array:
    if array.type not in (plain_type, _LARGE.get(plain_type)):
        array = array.cast(plain_type)
    if pa.types.is_floating(array.type):
        numbers = array.fill_null(0).to_numpy() + 0.0
        numbers[np.isnan(numbers)] = np.nan
        mask = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        array = pa.array(numbers, array.type, mask=mask, from_pandas=False)
    return array


def _plain(table: pa.Table, name: str) -> pa.Array:
    """The column as one array of canonical values."""
    column = _column(table, name)
    plain_type = _plain_type(name, column.type)
    if pa.types.is_dictionary(column.type):
        codes, values = _encode_dictionary(column, plain_type)
        return values.take(pa.array(codes))
    return _canonical(_one_array(column), plain_type)


def _encode_column(table: pa.Table, name: str) -> tuple[Codes, pa.Array]:
    """Dense codes (rows,) and the distinct canonical values, of which null may be one."""
    column = _column(table, name)
    plain_type = _plain_type(name, column.type)
    if pa.types.is_dictionary(column.type):
        return _encode_dictionary(column, plain_type)
    return _encode_array(_canonical(_one_array(column), plain_type))


def _encode_dictionary(column: pa.ChunkedArray, plain_type: pa.DataType) -> tuple[Codes, pa.Array]:
    """Encodes the dictionaries' values, which may repeat or be null, and looks the indices up in that."""
    dictionaries = [_canonical(chunk.dictionary, plain_type) for chunk in column.chunks]
    # A null of its own stands first, for the rows whose index is null.
    value_codes, values = _encode_array(pa.concat_arrays([pa.nulls(1, plain_type), *dictionaries]))
    rows, start = [np.zeros(0, np.int32)], 1
    for chunk, dictionary in zip(column.chunks, dictionaries, strict=True):
        indices = chunk.indices.cast(pa.int64())
        rows.append(value_codes[pc.add(indices, start).fill_null(0).to_numpy(zero_copy_only=False)])
        start += len(dictionary)
    # A dictionary may hold values that no row has.
    codes, used = _kernel.encode_int64(np.concatenate(rows).astype(np.int64))
    return codes, values.take(pa.array(used))


def _int64_image(array: pa.Array) -> pa.Array | None:
    """Canonical values without nulls as int64, one to one; None for a type that has no such image."""
    types, data_type = pa.types, array.type
    if types.is_floating(data_type):
        return array.cast(pa.float64()).view(pa.int64())
    if types.is_uint64(data_type) or any(test(data_type) for test in _INT64_IMAGES):
        return array.view(pa.int64())
    if any(test(data_type) for test in _INT32_IMAGES):
        return array.view(pa.int32()).cast(pa.int64())
    if types.is_integer(data_type) or types.is_boolean(data_type):
        return array.cast(pa.int64())
    return None


def _from_int64_image(image: pa.Array, data_type: pa.DataType) -> pa.Array:
    types = pa.types
    if types.is_floating(data_type):
        return image.view(pa.float64()).cast(data_type)
    if types.is_uint64(data_type) or any(test(data_type) for test in _INT64_IMAGES):
        return image.view(data_type)
    if any(test(data_type) for test in _INT32_IMAGES):
        return image.cast(pa.int32()).view(data_type)
    return image.cast(data_type)


def _encode_array(array: pa.Array) -> tuple[Codes, pa.Array]:
    valid = array.drop_null() if array.null_count else array
    image = None if pa.types.is_null(array.type) else _int64_image(valid)
    if image is not None:
        valid_codes, uniques = _kernel.encode_int64(image.to_numpy())
        values = _from_int64_image(pa.array(uniques), array.type)
    else:
        encoded = valid.dictionary_encode()
        valid_codes, values = encoded.indices.to_numpy(), encoded.dictionary
    if len(valid) == len(array):
        return valid_codes, values
    codes = np.full(len(array), len(values), np.int32)
    codes[array.is_valid().to_numpy(zero_copy_only=False)] = valid_codes
    return codes, pa.concat_arrays([values, pa.nulls(1, values.type)])


def _restore(values: pa.Array, data_type: pa.DataType, name: str) -> pa.Array:
    """Canonical values in the column's own type."""
    if not pa.types.is_dictionary(data_type):
        return values if values.type == data_type else values.cast(data_type)
    encoded = values.dictionary_encode()
    try:
        indices = encoded.indices.cast(data_type.index_type)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"key column {name!r}: expected at most as many distinct values as {data_type.index_type} can index, "
            f"found {len(encoded.dictionary)}"
        ) from error
    # Only now the values' own type: Arrow cannot encode each of them.
    dictionary = _restore(encoded.dictionary, data_type.value_type, name)
    return pa.DictionaryArray.from_arrays(indices, dictionary, ordered=data_type.ordered)


# --- hash -------------------------------------------------------------------------------------------------------------


def _mix(words: Words) -> Words:
    """SplitMix64's step and finaliser."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)


def _hash_column(table: pa.Table, name: str) -> Words:
    """The hash (rows,) of a column."""
    column = _column(table, name)
    plain_type = _plain_type(name, column.type)
    if plain_type == column.type and not column.null_count:
        array = _canonical(_one_array(column), plain_type)
        if _int64_image(array) is not None:
            return _hash(array)  # quicker than to find the distinct values first
    codes, values = _encode_column(table, name)
    return _hash(values)[codes]


def _hash(values: pa.Array) -> Words:
    """The hash (n,) of canonical values; of null, 0."""
    hashes = np.zeros(len(values), np.uint64)
    valid = values.drop_null()
    image = None if pa.types.is_null(values.type) else _int64_image(valid)
    if image is not None:
        words = image.to_numpy().view(np.uint64)
    else:
        texts = valid.cast(pa.string()) if pa.types.is_decimal(valid.type) else valid
        data = [text.encode() if isinstance(text, str) else text for text in texts.to_pylist()]
        words = np.array([zlib.crc32(item) | len(item) << 32 for item in data], np.uint64)
    hashes[values.is_valid().to_numpy(zero_copy_only=False)] = _mix(words)
    return hashes
