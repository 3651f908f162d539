"""One type for a column whose files have it in several, where these differ harmlessly."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from ..columns import field_path, is_string_type, value_type_of

_UNITS = ("s", "ms", "us", "ns")
# How writers call the zone of times that have none.
_UTC = {"UTC", "Etc/UTC", "+00:00", "Z", "utc"}


def with_nested(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The schema with those fields of its columns, "column.field" and on, that are no columns themselves."""
    for name in dict.fromkeys(names):
        if name not in schema.names and (path := field_path(schema, name)) is not None:
            schema = schema.append(pa.field(name, path[-1].type))
    return schema


def unified_type(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """The type that holds the values of all; None where there is none. The order of types does not matter.

    * A type alone stays as it is, and so does one beside columns that are null throughout.
    * Strings, large strings, views and dictionaries of strings are strings; binaries likewise.
    * Numbers are the widest of them: of signed and unsigned integers a signed one that holds both, of integers and
      floats float64 (of integers of 8 bits and float32 this).
    * Decimals, also beside integers, have the most digits after the point that one has, and as many before it as fit.
    * Timestamps are in the finest unit, without a zone, in UTC, or in a zone that all have; dates are days.
    * Lists of any kind are lists of what their values are together.
    * Of dictionaries the types of their values count, unless all are of one type.
    """
    held = list(dict.fromkeys(data_type for data_type in types if not pa.types.is_null(data_type)))
    if len(held) < 2:
        return held[0] if held else pa.null()
    values = [value_type_of(data_type) for data_type in held]
    if len(set(values)) == 1:
        return values[0]
    for unify in (_strings, _binaries, _numbers, _decimals, _timestamps, _dates, _lists):
        if (found := unify(values)) is not None:
            return found
    return None


def _all(values: Sequence[pa.DataType], *tests: Callable[[pa.DataType], bool]) -> bool:
    return all(any(test(data_type) for test in tests) for data_type in values)


def _strings(values: Sequence[pa.DataType]) -> pa.DataType | None:
    return pa.string() if _all(values, is_string_type) else None


def _binaries(values: Sequence[pa.DataType]) -> pa.DataType | None:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return pa.binary() if _all(values, *tests) else None


def _numbers(values: Sequence[pa.DataType]) -> pa.DataType | None:
    if not _all(values, pa.types.is_integer, pa.types.is_floating):
        return None
    floats = [data_type.bit_width for data_type in values if pa.types.is_floating(data_type)]
    unsigned = [data_type.bit_width for data_type in values if pa.types.is_unsigned_integer(data_type)]
    signed = [data_type.bit_width for data_type in values if pa.types.is_signed_integer(data_type)]
    if floats:
        needed = max([*floats, *(32 if bits == 8 else 64 for bits in (*unsigned, *signed))])
        return {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}[needed]
    if not unsigned or not signed:
        names = "uint" if unsigned else "int"
        return getattr(pa, f"{names}{max(unsigned or signed)}")()
    needed = max(*signed, 2 * max(unsigned))
    return getattr(pa, f"int{needed}")() if needed <= 64 else None


def _decimals(values: Sequence[pa.DataType]) -> pa.DataType | None:
    decimals = [data_type for data_type in values if pa.types.is_decimal(data_type)]
    if not decimals or not _all(values, pa.types.is_decimal, pa.types.is_integer):
        return None
    wide = any(data_type.bit_width > 128 for data_type in decimals)
    scale = max(0, *(data_type.scale for data_type in decimals))
    return pa.decimal256(76, scale) if wide else pa.decimal128(38, scale)


def _timestamps(values: Sequence[pa.DataType]) -> pa.DataType | None:
    if not _all(values, pa.types.is_timestamp):
        return None
    zones = {"UTC" if data_type.tz in _UTC else data_type.tz for data_type in values}
    unit = max((data_type.unit for data_type in values), key=_UNITS.index)
    return pa.timestamp(unit, *zones) if len(zones) == 1 else None


def _dates(values: Sequence[pa.DataType]) -> pa.DataType | None:
    return pa.date32() if _all(values, pa.types.is_date) else None


def _lists(values: Sequence[pa.DataType]) -> pa.DataType | None:
    if not _all(values, pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list):
        return None
    found = unified_type([data_type.value_type for data_type in values])
    return None if found is None else pa.list_(found)
