"""Key columns: which rows have equal keys, in what order keys are, and to which shard a key belongs.

Keys are compared by value in one canonical form, the same on every machine and for every layout of the columns:

* -0.0 is 0.0, and there is one NaN;
* null is a key of its own;
* dictionaries count by their values;
* order: ascending, column by column; strings and binaries by bytes; NaN after all numbers; nulls last.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ._kernel import ByteIndex, WordIndex, checksum_bytes, hash_column
from .buffers import Mask, array_of, nulls_of, numbers_of, numpy_type, take, validity
from .columns import column_of

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.int32] | npt.NDArray[np.int64]
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
_LARGE_OF = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


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
    index = KeyIndex(key_schema(table, keys))
    return EncodedKeys(index.encode(table), index.keys())


def distinct_keys(tables: Iterable[pa.Table], keys: Sequence[str]) -> pa.Table:
    """The distinct keys of one table or more, in order of first appearance. Raises as ``encode_keys``."""
    index: KeyIndex | None = None
    for table in tables:
        if index is None:
            index = KeyIndex(key_schema(table, keys))
        index.encode(table)
    assert index is not None
    return index.keys()


def key_schema(table: pa.Table, keys: Sequence[str]) -> pa.Schema:
    """The key columns' names and types; raises KeyError for one that is not there."""
    return pa.schema([(name, column_of(table, name).type) for name in keys])


class KeyIndex:
    """A growing index of keys: each has a dense code, in order of first appearance, that stays the same.

    Any number of threads may ``find`` keys at once; one may ``encode`` while none does.

    Args:
      schema: of the key columns. Tables may have the values of a dictionary in place of it, and the reverse.

    Raises:
      TypeError: a column of a type that cannot be a key.
      ValueError: more than 63 columns.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        if len(schema) > 63:  # an int64 has a flag for each
            raise ValueError(f"key columns: expected 63 or fewer, found {len(schema)}")
        self._columns = [
            (_WordColumn if _is_word(_canonical_type(field.name, field.type)) else _ByteColumn)(field)
            for field in schema
        ]
        # The codes of one column of bytes are those of the keys.
        self._words = None if self._is_bytes or not self._columns else WordIndex(len(self._columns))
        self._has_nulls = False

    @property
    def _is_bytes(self) -> bool:
        return len(self._columns) == 1 and isinstance(self._columns[0], _ByteColumn)

    def __len__(self) -> int:
        if self._words is not None:
            return self._words.size
        return self._columns[0].size if self._columns else 1

    @property
    def nbytes(self) -> int:
        """About what it takes of memory."""
        parts = [self._words, *self._columns]
        return sum(part.nbytes for part in parts if part is not None)

    def encode(self, table: pa.Table) -> Codes:
        """The code (rows,) of each row's key; new ones are added."""
        return self._codes(table, add=True)

    def find(self, table: pa.Table) -> Codes:
        """The code (rows,) of each row's key; -1 for one that is not there."""
        return self._codes(table, add=False)

    def keys(self) -> pa.Table:
        """The key columns, one row per key, in the order of the codes; without columns a table without rows."""
        arrays = []
        rows = None if self._words is None else self._words.keys()
        for j, (column, field) in enumerate(zip(self._columns, self.schema, strict=True)):
            words = None if rows is None else np.ascontiguousarray(rows[:, j])
            null = (rows[:, -1] >> j & 1) != 0 if rows is not None and self._has_nulls else None
            values = column.values(words, null if null is not None and null.any() else None)
            arrays.append(_restore(values, field.type, field.name))
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _codes(self, table: pa.Table, *, add: bool) -> Codes:
        if not self._columns:
            return np.zeros(table.num_rows, np.int32)
        words, nulls = [], []
        for column, field in zip(self._columns, self.schema, strict=True):
            values = column_of(table, field.name)
            if values.type != field.type and _canonical_type(field.name, values.type) != column.type:
                raise TypeError(f"key column {field.name!r}: expected {field.type} as before, found {values.type}")
            found, null = column.words(values, add=add)
            words.append(found)
            nulls.append(null)
        if self._words is None:
            return words[0].astype(np.int32)
        any_null = [null for null in nulls if null is not None]
        if any_null and not self._has_nulls:
            if not add:
                codes = self._words.find(words)
                codes[np.logical_or.reduce(any_null)] = -1
                return codes
            self._add_flags()
        if self._has_nulls:
            flags = np.zeros(table.num_rows, np.int64)
            for j, null in enumerate(nulls):
                if null is not None:
                    flags |= null.astype(np.int64) << j
            words.append(flags)
        return self._words.encode(words) if add else self._words.find(words)

    def _add_flags(self) -> None:
        """Gives every key one more word, of flags: which columns are null."""
        assert self._words is not None
        keys = self._words.keys()
        self._words = WordIndex(len(self._columns) + 1)
        columns = [np.ascontiguousarray(keys[:, j]) for j in range(len(self._columns))]
        if keys.size:
            self._words.encode([*columns, np.zeros(keys.shape[0], np.int64)])
        self._has_nulls = True


class _WordColumn:
    """A key column whose values have images of 64 bits, one to one."""

    def __init__(self, field: pa.Field) -> None:
        self.type = _canonical_type(field.name, field.type)

    @property
    def size(self) -> int:
        """How many values it holds: none, as it computes them from their images."""
        return 0

    @property
    def nbytes(self) -> int:
        """About what these take of memory."""
        return 0

    def words(self, column: pa.ChunkedArray, *, add: bool) -> tuple[Ints, Mask | None]:
        """The images (rows,), 0 for null, and where the column is null."""
        parts = [self._chunk(chunk, add=add) for chunk in column.chunks]
        if len(parts) == 1:
            return parts[0]
        words = np.concatenate([np.zeros(0, np.int64), *(found for found, _ in parts)])
        if all(null is None for _, null in parts):
            return words, None
        masks = [np.zeros(found.size, np.bool_) if null is None else null for found, null in parts]
        return words, np.concatenate(masks)

    def values(self, words: Ints | None, null: Mask | None) -> pa.Array:
        """The canonical values (rows,) of images; of all that there are, in their order, without."""
        assert words is not None  # only a column of bytes knows all
        return _values_of(words, self.type, null)

    def _chunk(self, array: pa.Array, *, add: bool) -> tuple[Ints, Mask | None]:
        if pa.types.is_dictionary(array.type):
            return self._dictionary(array, add=add)
        null = nulls_of(array)
        words = _words_of(array)
        return (words if null is None else np.where(null, 0, words)), null

    def _dictionary(self, array: pa.Array, *, add: bool) -> tuple[Ints, Mask | None]:
        """By the values, of which a dictionary may have some twice, null too, and some that no row has."""
        null = nulls_of(array.indices)
        indices = numbers_of(array.indices).astype(np.int64)
        used, number = _numbered(indices if null is None else indices[~null], len(array.dictionary))
        words, value_null = self._chunk(_dictionary_of(array).take(array_of(used)), add=add)
        if null is None:
            return words[number], None if value_null is None else value_null[number]
        found = np.full(len(array), self._null(add=add), np.int64)
        found[~null] = words[number]
        null[~null] = False if value_null is None else value_null[number]
        return found, null

    def _null(self, *, add: bool) -> int:
        """The image of null."""
        del add
        return 0


def _numbered(indices: Ints, size: int) -> tuple[Ints, Ints]:
    """The distinct indices, ascending, and the number of each row's among them; all are less than ``size``."""
    if size > indices.size:
        used, number = np.unique(indices, return_inverse=True)
        return used, number
    is_used = np.zeros(size, np.bool_)
    is_used[indices] = True
    return np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[indices]


class _ByteColumn(_WordColumn):
    """A key column of strings, binaries or decimals: the images are codes of an index, in which null has one too."""

    def __init__(self, field: pa.Field) -> None:
        super().__init__(field)
        self._index = ByteIndex()

    @property
    def size(self) -> int:
        return self._index.size

    @property
    def nbytes(self) -> int:
        return self._index.nbytes

    def words(self, column: pa.ChunkedArray, *, add: bool) -> tuple[Ints, Mask | None]:
        codes, _ = super().words(column, add=add)
        return codes, None

    def values(self, words: Ints | None, null: Mask | None) -> pa.Array:
        del null  # it has a code
        values = _from_bytes(*self._index.keys(), self.type, self._index.null_code)
        return values if words is None else take(values, words)

    def _chunk(self, array: pa.Array, *, add: bool) -> tuple[Ints, Mask | None]:
        if pa.types.is_dictionary(array.type):
            return self._dictionary(array, add=add)
        null = nulls_of(array)
        offsets, data = _bytes_of(array)
        valid = np.zeros(0, np.uint8) if null is None else (~null).view(np.uint8)
        return self._encode(offsets, data, valid, add=add), null

    def _null(self, *, add: bool) -> int:
        return int(self._encode(np.zeros(2, np.int64), np.zeros(0, np.uint8), np.zeros(1, np.uint8), add=add)[0])

    def _encode(self, offsets: Offsets, data: Bytes, valid: Bytes, *, add: bool) -> Ints:
        index = self._index
        codes = index.encode(offsets, data, valid) if add else index.find(offsets, data, valid)
        return codes.astype(np.int64)


def one_by_one(keys: pa.Table) -> Iterator[pa.Table]:
    """Each row of a table of keys alone, in one form: equal keys are equal to the byte, in Arrow's IPC format too.

    A slice would not be: its buffers show its neighbours, such as whether one of them is null.
    """
    columns = [(_canonical_values(keys, field.name), field.type, field.name) for field in keys.schema]
    for i in range(keys.num_rows):
        arrays = [_restore(pa.array([plain[i]], plain.type), data_type, name) for plain, data_type, name in columns]
        yield pa.Table.from_arrays(arrays, schema=keys.schema)


def with_own_dictionaries(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The table with dictionaries of key columns that hold the values of its rows, in the order of the rows.

    A slice would have the whole dictionary with it, in a file or on its way to another worker.
    """
    for name in keys:
        position = table.schema.get_field_index(name)
        field = table.schema.field(position)
        if pa.types.is_dictionary(field.type):
            table = table.set_column(position, field, _restore(_canonical_values(table, name), field.type, name))
    return table


def without_dictionaries(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The table with the values of key columns that are dictionaries: those of several tables may not go into one."""
    for name in keys:
        column = column_of(table, name)
        while pa.types.is_dictionary(column.type):
            chunks = [_dictionary_of(chunk).take(chunk.indices) for chunk in column.chunks]
            column = pa.chunked_array(chunks, chunks[0].type if chunks else column.type.value_type)
        if column.type != table.schema.field(name).type:
            table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def with_dictionaries(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with key columns as a schema has them, of the values of its own rows."""
    for position, field in enumerate(schema):
        if table.schema.field(position).type != field.type:
            values = one_array(table.column(position))
            table = table.set_column(position, field, _restore(values, field.type, field.name))
    return table


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
    hashes = np.zeros(table.num_rows, np.uint64)
    for name in keys:
        column = column_of(table, name)
        _canonical_type(name, column.type)
        parts = [_hashable(chunk) for chunk in column.chunks]
        words = np.concatenate([np.zeros(0, np.uint64), *(found for found, _ in parts)])
        valid = np.zeros(0, np.uint8)
        if any(null is not None for _, null in parts):
            masks = [np.ones(found.size, np.bool_) if null is None else ~null for found, null in parts]
            valid = np.concatenate(masks).view(np.uint8)
        hash_column(hashes, words, valid)
    return (hashes % np.uint64(num_shards)).astype(np.int32)


def sort_keys(table: pa.Table, keys: Sequence[str]) -> tuple[npt.NDArray[np.int64], pa.Table]:
    """The row numbers in the order of the keys, and the key columns in that order.

    Dictionaries come out with their values in the order of the rows. Rows of equal keys are in no particular order.
    """
    plain = {name: _canonical_values(table, name) for name in keys}
    sortable = [column for column in plain.values() if not pa.types.is_null(column.type)]
    if not sortable:
        return np.arange(table.num_rows), table.select(keys)
    ranks = _ranks_of(sortable[0]) if len(sortable) == 1 else None
    if ranks is not None:
        rows = np.argsort(ranks)  # four times as fast
    else:
        names = [str(i) for i in range(len(sortable))]
        by_name = pa.Table.from_arrays(sortable, names=names)
        import pyarrow.compute as pc  # its import takes longer than most that is done here

        rows = numbers_of(pc.sort_indices(by_name, sort_keys=[(name, "ascending") for name in names])).view(np.int64)
    columns = [_restore(take(column, rows), table.schema.field(name).type, name) for name, column in plain.items()]
    return rows, pa.Table.from_arrays(columns, schema=key_schema(table, keys))


def ranks_of_keys(table: pa.Table, keys: Sequence[str]) -> Ints | None:
    """Integers (rows,) that are in the order of the keys; None for keys that have none, such as strings."""
    return _ranks_of(_canonical_values(table, keys[0])) if len(keys) == 1 else None


def _ranks_of(array: pa.Array) -> Ints | None:
    if array.null_count or not _is_word(array.type):
        return None
    words = _words_of(array)
    if pa.types.is_uint64(array.type):
        return words ^ np.int64(np.iinfo(np.int64).min)
    if pa.types.is_floating(array.type):  # of negative ones the greater image is the smaller number
        return words ^ (words >> 63 & np.int64(np.iinfo(np.int64).max))
    return words


def check_key_type(name: str, data_type: pa.DataType) -> None:
    """Raises TypeError for a column that cannot be a key."""
    _canonical_type(name, data_type)


def describe_key(table: pa.Table, keys: Sequence[str], row: int) -> str:
    """The key of a row as errors show it: ``model='a', fold=3``."""

    def text(column: pa.ChunkedArray) -> str:
        if pa.types.is_temporal(column.type):  # Python has no nanoseconds
            column = column.cast(pa.string())
        return repr(column[0].as_py())

    return ", ".join(f"{name}={text(table.column(name).slice(row, 1))}" for name in keys)


# --- one column -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _canonical_type(name: str, data_type: pa.DataType) -> pa.DataType:
    """The type in which values of ``data_type`` are compared: each has one form in it."""
    types = pa.types
    if types.is_dictionary(data_type):
        return _canonical_type(name, data_type.value_type)
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


def _is_word(data_type: pa.DataType) -> bool:
    """Whether values of a plain type have images of 64 bits."""
    types = pa.types
    if types.is_null(data_type) or types.is_boolean(data_type) or types.is_integer(data_type):
        return True
    return types.is_floating(data_type) or any(test(data_type) for test in (*_INT64_IMAGES, *_INT32_IMAGES))


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; of large strings or binaries where there is too much for small ones."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.nbytes > np.iinfo(np.int32).max:  # more than the offsets of a plain string array can hold
        column = column.cast(_LARGE_OF.get(column.type, column.type))
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def _dictionary_of(array: pa.Array) -> pa.Array:
    """The values of a dictionary, in a form that Arrow can take rows of."""
    values = array.dictionary
    is_view = pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type)
    return values.cast(_canonical_type("", values.type)) if is_view else values


def _canonical_values(table: pa.Table, name: str) -> pa.Array:
    """The column as one array of canonical values."""
    plain_type = _canonical_type(name, column_of(table, name).type)
    array = one_array(column_of(without_dictionaries(table, [name]), name))
    if array.type not in (plain_type, _LARGE_OF.get(plain_type)):
        array = array.cast(plain_type)
    if pa.types.is_floating(array.type):
        array = _values_of(_words_of(array), array.type, nulls_of(array))
    return array


def _words_of(array: pa.Array) -> Ints:
    """The images of values as int64 (n,), one to one; anything for null."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64)
    numbers = numbers_of(array)
    if pa.types.is_floating(array.type):
        numbers = numbers.astype(np.float64) + 0.0
        numbers[np.isnan(numbers)] = np.nan
        return numbers.view(np.int64)
    return numbers.view(np.int64) if numbers.itemsize == 8 else numbers.astype(np.int64)


def _values_of(words: Ints, data_type: pa.DataType, null: Mask | None) -> pa.Array:
    if pa.types.is_null(data_type):
        return pa.nulls(words.size)
    if pa.types.is_boolean(data_type):
        return array_of(words != 0, null=null)
    if pa.types.is_floating(data_type):
        with np.errstate(over="ignore"):  # where it is null
            return array_of(words.view(np.float64).astype(numpy_type(data_type)), data_type, null)
    dtype = numpy_type(data_type)
    return array_of(words.view(dtype) if dtype.itemsize == 8 else words.astype(dtype), data_type, null)


def _bytes_of(array: pa.Array) -> tuple[Offsets, Bytes]:
    """The bytes of values: offsets (n + 1,) into data."""
    types, n = pa.types, len(array)
    if types.is_string_view(array.type) or types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    elif types.is_decimal32(array.type) or types.is_decimal64(array.type):
        array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
    buffers = array.buffers()
    data = np.zeros(0, np.uint8) if buffers[-1] is None else np.frombuffer(buffers[-1], np.uint8)
    if types.is_fixed_size_binary(array.type) or types.is_decimal(array.type):
        width = array.type.byte_width
        return np.arange(array.offset, array.offset + n + 1) * width, data
    is_large = types.is_large_string(array.type) or types.is_large_binary(array.type)
    offset_type = np.dtype(np.int64 if is_large else np.int32)
    if buffers[1] is None or n == 0:
        return np.zeros(n + 1, np.int64), data
    return np.frombuffer(buffers[1], offset_type, n + 1, array.offset * offset_type.itemsize), data


def _from_bytes(offsets: Ints, data: Bytes, data_type: pa.DataType, null_code: int) -> pa.Array:
    """Canonical values of the bytes between offsets; null at ``null_code``, where those are none."""
    n = offsets.size - 1
    null = None if null_code < 0 else np.arange(n) == null_code
    if pa.types.is_fixed_size_binary(data_type) or pa.types.is_decimal(data_type):
        if null_code >= 0:  # it takes as much as the others
            gap = np.zeros(data_type.byte_width, np.uint8)
            data = np.concatenate([data[: offsets[null_code]], gap, data[offsets[null_code] :]])
        return pa.Array.from_buffers(data_type, n, [validity(null), pa.py_buffer(data)])
    if data_type in _LARGE_OF and data.size <= np.iinfo(np.int32).max:
        offsets32 = offsets.astype(np.int32)
        return pa.Array.from_buffers(data_type, n, [validity(null), pa.py_buffer(offsets32), pa.py_buffer(data)])
    data_type = _LARGE_OF.get(data_type, data_type)
    return pa.Array.from_buffers(data_type, n, [validity(null), pa.py_buffer(offsets), pa.py_buffer(data)])


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


def _hashable(array: pa.Array) -> tuple[Words, Mask | None]:
    """A word (n,) for each value, the same for equal ones of any type that holds them, and where the array is null."""
    if pa.types.is_dictionary(array.type):
        words, null = _hashable(array.dictionary)
        # The last one is for the rows whose index is null.
        of_null = nulls_of(array.indices)
        indices = numbers_of(array.indices).astype(np.int64)
        if of_null is not None:
            indices[of_null] = words.size
        is_null = np.append(np.zeros(words.size, np.bool_) if null is None else null, True)
        return np.append(words, np.uint64(0))[indices], is_null[indices]
    null = nulls_of(array)
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.decimal256(array.type.precision, array.type.scale)).cast(pa.string())
    if _is_word(_canonical_type("", array.type)):
        return _words_of(array).view(np.uint64), null
    return checksum_bytes(*_bytes_of(array)), null
