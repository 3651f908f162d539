"""Conditions on the rows of a table, such as ``season > 2000 and name != 'Amy'``, by SQL's three-valued logic.

A condition is true, false or null for a row; rows are chosen for which it is true. It is null where a column that it
needs is null, unless what it says of other columns decides; ``is null`` is never null. NaN compares as IEEE 754 says:
it is neither equal to, nor below, nor above anything.

A number is compared with integers, decimals and times as exactly what was written. With floating-point numbers it is
rounded to the type of the column first, so that ``x = 0.1`` finds what was stored as 0.1. Times without a zone, of
columns and of conditions, are UTC. Strings are in the order of their UTF-8 bytes.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cache, reduce
from math import ceil, floor
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Protocol

import pyarrow as pa

from .buffers import scalar_of
from .columns import decode_dictionary, value_type_of
from .errors import nearest

_GRAMMAR = r"""
?either: both (_OR both)*
?both: negation (_AND negation)*
?negation: NOT negation -> negated
    | test
?test: operand COMPARATOR operand -> compared
    | column _IS NOT? _NULL -> null
    | column NOT? _IN "(" literal ("," literal)* ")" -> listed
    | column -> holds
    | "(" either ")"
?operand: column | literal
column: NAME -> plain
    | QUOTED -> quoted
literal: NUMBER | STRING | _TIME STRING | TRUE | FALSE
COMPARATOR: "<=" | ">=" | "<>" | "!=" | "==" | "=" | "<" | ">"
_OR.2: /or\b/i
_AND.2: /and\b/i
_IS.2: /is\b/i
_IN.2: /in\b/i
_NULL.2: /null\b/i
_TIME.2: /(date|timestamp)(?=\s*')/i
NOT.2: /not\b/i
TRUE.2: /true\b/i
FALSE.2: /false\b/i
NUMBER: /[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\b/i
STRING: /'([^']|'')*'/
QUOTED: /"([^"]|"")+"/
NAME: /(?!(and|or|not|in|is|null|true|false)\b)[^\W\d]\w*(\.\w+)*/i
%ignore /\s+/
"""

_OPERATORS = {"<": lt, "<=": le, ">": gt, ">=": ge, "=": eq, "!=": ne}
_OF_ARROW = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal", "=": "equal", "!=": "not_equal"}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SYNONYMS = {"==": "=", "<>": "!="}

# A larger exponent makes a number that no column holds, and one of as many digits.
_LARGEST_EXPONENT = 400

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?\s*(Z|[+-]\d\d:\d\d)?)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
DAY_NANOS = 86400 * 10**9

# What may come of a condition for some rows.
Outcomes = frozenset[bool | None]


@dataclass(frozen=True)
class Range:
    """What is known of a column in some rows.

    Attributes:
      bounds: of the values that are neither null nor NaN; None where they are not known. Those of times are in
        nanoseconds since 1970.
      has_null, has_value: whether there may be nulls, and others.
    """

    bounds: tuple[Any, Any] | None = None
    has_null: bool = True
    has_value: bool = True


Ranges = Mapping[str, Range]


def natural(value: pa.Scalar) -> Any:
    """A value as ``Range`` has it; None for one of a type of which it has none."""
    types, data_type = pa.types, value.type
    if types.is_timestamp(data_type):
        return value.value * _NANOS[data_type.unit]
    if types.is_date(data_type):
        return value.cast(pa.date32()).value * DAY_NANOS
    if types.is_string(data_type) or types.is_integer(data_type) or types.is_boolean(data_type):
        return value.as_py()
    return None


class Predicate(Protocol):
    """A condition on the columns of a schema. It can be pickled."""

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """(n,) booleans with nulls, of the table's rows."""

    def outcomes(self, ranges: Ranges) -> Outcomes:
        """What may come out for rows of which so much is known; never less than what does."""


class Condition:
    """A condition as it was written, of any table.

    >>> table = pa.table({"season": [1999, 2005, None], "name": ["Amy", "Bob", "Cleo"]})
    >>> Condition("season > 2000 or name in ('Amy', 'Zoe')").of(table.schema).mask(table).to_pylist()
    [True, True, None]

    Attributes:
      columns: names of the columns that it needs, each once.

    Raises:
      ValueError: it cannot be read; where, and what was found.
    """

    def __init__(self, text: str) -> None:
        from lark import UnexpectedInput  # most runs have no conditions

        try:
            self._tree = _parser().parse(text)
            self.columns = tuple(dict.fromkeys(_columns_in(self._tree)))
        except UnexpectedInput as error:
            raise ValueError(_misread(text, error)) from None
        except RecursionError:
            raise ValueError("expected fewer parts within each other") from None
        self.text = text

    def of(self, schema: pa.Schema) -> Predicate:
        """This condition on the columns of a schema.

        Raises:
          KeyError: a column is missing, or contained more than once.
          TypeError: a column does not compare with what it is compared with.
          ValueError: a time that cannot be read, or a number that is out of all range.
        """
        try:
            return _predicate(self._tree, schema)
        except RecursionError:
            raise ValueError("expected fewer parts within each other") from None


@cache
def _parser() -> Any:
    from lark import Lark

    return Lark(_GRAMMAR, start="either", parser="lalr")


def _misread(text: str, error: Any) -> str:
    if getattr(getattr(error, "token", None), "type", None) == "$END":
        return f"expected {')' if text.count('(') > text.count(')') else 'more'} at its end"
    place = error.pos_in_stream
    hints = {
        "=": "a column on the left, as in season = 2000",
        "null": "'is null' or 'is not null'",
        "&": "'and'",
        "|": "'or'",
        "like": "a comparison, 'in' or 'is null'",
        "-": "a date or time in '...'",
        "between": "two comparisons, as in x >= 1 and x <= 2",
        "'": "a string that ends in '",
        '"': 'a column that ends in "',
    }
    found = text[place:]
    expected = next((hint for start, hint in hints.items() if found.lower().startswith(start)), None)
    return (
        f"expected {expected or 'column, comparison and value, and/or/not'} at character {place + 1}, found {found!r}"
    )


def _columns_in(tree: Any) -> Iterator[str]:
    if tree.data in ("plain", "quoted"):
        yield _name(tree)
        return
    for child in tree.children:
        if hasattr(child, "children"):
            yield from _columns_in(child)


def _name(column: Any) -> str:
    [text] = column.children
    return str(text) if column.data == "plain" else text[1:-1].replace('""', '"')


def _predicate(tree: Any, schema: pa.Schema) -> Predicate:
    children = tree.children
    match tree.data:
        case "either" | "both":
            return _Joined(tuple(_predicate(child, schema) for child in children), is_or=tree.data == "either")
        case "negated":
            return _Not(_predicate(children[1], schema))
        case "null":
            found: Predicate = _IsNull(_field(children[0], schema).name)
            return _Not(found) if len(children) == 2 else found
        case "listed":
            is_negated = getattr(children[1], "type", None) == "NOT"
            found = _listed(_field(children[0], schema), children[2 if is_negated else 1 :])
            return _Not(found) if is_negated else found
        case "compared":
            return _compared(children, schema)
    column = _field(children[0], schema)
    if _kind(column) != "booleans":
        raise TypeError(f"column {column.name!r} of {column.type}: expected a comparison, found the column alone")
    return _with_literal(column, "=", True)


def _field(column: Any, schema: pa.Schema) -> pa.Field:
    name = _name(column)
    if schema.names.count(name) != 1:
        found = "it more often" if name in schema.names else f"columns {', '.join(schema.names)}"
        hint = " (a string is in '...')" if column.data == "quoted" else nearest(name, schema.names)
        raise KeyError(f"column {name!r}: expected once, found {found}{hint}")
    return schema.field(name)


def _literal(tree: Any) -> bool | str | Decimal:
    """A string for a string; what is a time is known from its column alone."""
    token = tree.children[-1]
    if token.type in ("TRUE", "FALSE"):
        return bool(token.type == "TRUE")
    if token.type == "STRING":
        return str(token[1:-1].replace("''", "'"))
    try:
        return Decimal(str(token))
    except InvalidOperation:
        raise ValueError(f"expected a number that a column can hold, found {token}") from None


def _compared(children: Sequence[Any], schema: pa.Schema) -> Predicate:
    left, comparator, right = children
    operator = _SYNONYMS.get(str(comparator), str(comparator))
    if left.data == right.data == "literal":
        raise TypeError(f"expected a column on one side of {comparator}")
    if right.data == "literal":
        return _with_literal(_field(left, schema), operator, _literal(right))
    if left.data == "literal":
        return _with_literal(_field(right, schema), _MIRRORED.get(operator, operator), _literal(left))
    fields = [_field(column, schema) for column in (left, right)]
    first, second = (_kind(each) for each in fields)
    if first != second and "nulls" not in (first, second):
        raise TypeError(
            f"columns {fields[0].name!r} and {fields[1].name!r}: expected one type, found {first}, {second}"
        )
    return _OfColumns(fields[0].name, operator, fields[1].name)


_KINDS = {
    "numbers": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    "strings": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    "booleans": (pa.types.is_boolean,),
    "times": (pa.types.is_timestamp, pa.types.is_date),
    "nulls": (pa.types.is_null,),
}
_LITERALS = {bool: "booleans", str: "strings", Decimal: "numbers"}
_EXAMPLES = {
    "numbers": "a number",
    "strings": "a string in '...'",
    "booleans": "true or false",
    "times": "a date or time in '...'",
}


def _kind(column: pa.Field) -> str:
    data_type = value_type_of(column.type)
    for kind, tests in _KINDS.items():
        if any(test(data_type) for test in tests):
            return kind
    raise TypeError(f"column {column.name!r}: expected {', '.join(_EXAMPLES)} to compare, found {column.type}")


def _with_literal(column: pa.Field, operator: str, literal: bool | str | Decimal) -> Predicate:
    if _kind(column) == "nulls":
        return _Constant(column.name, value=False)
    value = _value_of(column, literal)
    if not isinstance(value, Fraction):
        return _Compared(column.name, operator, value, _scalar(value, column))
    unit, least, largest = _integers_of(column)
    units = value / unit
    if operator in ("=", "!=") and (units.denominator != 1 or not least <= units <= largest):
        return _Constant(column.name, value=operator == "!=")
    # x < 2.5 is x < 3, and x <= 2.5 is x <= 2.
    whole = ceil(units) if operator in ("<", ">=") else floor(units)
    if not least <= whole <= largest:
        return _Constant(column.name, value=_OPERATORS[operator](0, whole))
    return _Compared(column.name, operator, value, _scalar(whole, column))


def _listed(column: pa.Field, literals: Sequence[Any]) -> Predicate:
    """Any of which equals the column."""
    equal = [_with_literal(column, "=", _literal(literal)) for literal in literals]
    return _Listed(column.name, tuple(each for each in equal if isinstance(each, _Compared)))


def _value_of(column: pa.Field, literal: bool | str | Decimal) -> Any:
    """What a literal means for a column: a float for one of floats; exact numbers for others, nanoseconds for times.

    Raises:
      TypeError: they do not compare.
      ValueError: a time that is none, or a number that is out of all range.
    """
    kind = _kind(column)
    if kind == "times" and isinstance(literal, str):
        return Fraction(_nanoseconds(column.name, literal))
    if _LITERALS[type(literal)] != kind:
        shown = repr(literal) if isinstance(literal, str) else str(literal).lower()
        raise TypeError(f"column {column.name!r} of {column.type}: expected {_EXAMPLES[kind]}, found {shown}")
    if not isinstance(literal, Decimal):
        return literal
    data_type = value_type_of(column.type)
    if pa.types.is_floating(data_type):
        return scalar_of(str(literal), data_type).as_py()  # rounded once
    if literal and abs(literal.adjusted()) > _LARGEST_EXPONENT:
        raise ValueError(f"column {column.name!r} of {column.type}: expected a number in its range, found {literal}")
    return Fraction(literal)


def _nanoseconds(name: str, text: str) -> int:
    found = _TIME.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        day, clock, digits, zone = found.groups()
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}{zone or '+00:00'}")
    except ValueError:
        raise ValueError(
            f"column {name!r}: expected a date or time such as '2020-01-31' or '2020-01-31 12:30', found {text!r}"
        ) from None
    return (moment - _EPOCH) // timedelta(seconds=1) * 10**9 + int(f"{digits or 0:0<9}")


def _integers_of(column: pa.Field) -> tuple[Fraction, int, int]:
    """What a column of no floats holds: multiples of a unit, from the least to the largest."""
    data_type = value_type_of(column.type)
    if pa.types.is_decimal(data_type):
        largest = 10**data_type.precision - 1
        return Fraction(10) ** -data_type.scale, -largest, largest
    bits = data_type.bit_width
    if pa.types.is_unsigned_integer(data_type):
        return Fraction(1), 0, 2**bits - 1
    unit = 1
    if pa.types.is_timestamp(data_type):
        unit = _NANOS[data_type.unit]
    elif pa.types.is_date(data_type):
        unit = DAY_NANOS
    return Fraction(unit), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


# Types for which Arrow has not all functions, and others that hold the same. Times in a zone are instants as well.
_PLAIN = {pa.float16(): pa.float32(), pa.string_view(): pa.large_string(), pa.date64(): pa.date32()}


def _plain_type(data_type: pa.DataType) -> pa.DataType:
    held = value_type_of(data_type)
    if pa.types.is_decimal(held) and held.bit_width < 128:
        return pa.decimal128(held.precision, held.scale)
    if pa.types.is_timestamp(held):
        return pa.timestamp(held.unit)
    return _PLAIN.get(held, held)


def _plain(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = decode_dictionary(table.column(name))
    return column.cast(_plain_type(column.type))


def _scalar(value: bool | str | float | int, column: pa.Field) -> pa.Scalar:
    return scalar_of(value, _plain_type(column.type))


# --- what conditions are made of --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Joined:
    parts: tuple[Predicate, ...]
    is_or: bool

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        import pyarrow.compute as pc  # most runs have no conditions

        join = pc.or_kleene if self.is_or else pc.and_kleene
        return reduce(join, (part.mask(table) for part in self.parts))

    def outcomes(self, ranges: Ranges) -> Outcomes:
        return reduce(self._join, (part.outcomes(ranges) for part in self.parts))

    def _join(self, left: Outcomes, right: Outcomes) -> Outcomes:
        # What decides by itself, or else null where there is one.
        order = (self.is_or, None, not self.is_or)
        return frozenset(min(a, b, key=order.index) for a in left for b in right)


@dataclass(frozen=True)
class _Not:
    part: Predicate

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        import pyarrow.compute as pc

        return pc.invert(self.part.mask(table))

    def outcomes(self, ranges: Ranges) -> Outcomes:
        return frozenset(None if each is None else not each for each in self.part.outcomes(ranges))


@dataclass(frozen=True)
class _IsNull:
    name: str

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        return table.column(self.name).is_null()

    def outcomes(self, ranges: Ranges) -> Outcomes:
        known = ranges.get(self.name, Range())
        return frozenset([True] * known.has_null + [False] * known.has_value)


@dataclass(frozen=True)
class _Constant:
    """The same for all that is not null."""

    name: str
    value: bool

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        import pyarrow.compute as pc

        return pc.if_else(table.column(self.name).is_valid(), *(scalar_of(x, pa.bool_()) for x in (self.value, None)))

    def outcomes(self, ranges: Ranges) -> Outcomes:
        known = ranges.get(self.name, Range())
        return frozenset([None] * known.has_null + [self.value] * known.has_value)


@dataclass(frozen=True)
class _Compared:
    """With a value; ``scalar`` is what Arrow compares with."""

    name: str
    operator: str
    value: Any
    scalar: pa.Scalar

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        import pyarrow.compute as pc

        return getattr(pc, _OF_ARROW[self.operator])(_plain(table, self.name), self.scalar)

    def outcomes(self, ranges: Ranges) -> Outcomes:
        known = ranges.get(self.name, Range())
        return frozenset([None] * known.has_null).union(self._of_values(known.bounds) if known.has_value else ())

    def _of_values(self, bounds: tuple[Any, Any] | None) -> Collection[bool]:
        if bounds is None:
            return (True, False)
        operate = _OPERATORS[self.operator]
        found = {operate(bound, self.value) for bound in bounds}
        if self.operator in ("=", "!=") and bounds[0] < self.value < bounds[1]:
            found = {True, False}
        if isinstance(self.value, float):  # there may be NaN
            found.add(self.operator == "!=")
        return found


@dataclass(frozen=True)
class _Listed:
    name: str
    equal: tuple[_Compared, ...]

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        import pyarrow.compute as pc

        column = _plain(table, self.name)
        values = [each.scalar for each in self.equal]
        if pa.types.is_floating(column.type):  # of which Arrow tells 0 from -0 here
            values += [scalar_of(-each.as_py(), column.type) for each in values if not each.as_py()]
        of_type = [pa.nulls(0, column.type), *(pa.repeat(each, 1) for each in values)]
        found = pc.is_in(column, pa.concat_arrays(of_type))
        return pc.if_else(column.is_valid(), found, scalar_of(None, pa.bool_()))

    def outcomes(self, ranges: Ranges) -> Outcomes:
        none = _Constant(self.name, value=False)
        return _Joined((none, *self.equal), is_or=True).outcomes(ranges)


@dataclass(frozen=True)
class _OfColumns:
    """A comparison of two columns; integers and decimals are compared with floating-point numbers as float64."""

    left: str
    operator: str
    right: str

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        import pyarrow.compute as pc

        left, right = _comparable(_plain(table, self.left), _plain(table, self.right))
        if left is None:
            return pa.chunked_array([pa.nulls(table.num_rows, pa.bool_())])
        return getattr(pc, _OF_ARROW[self.operator])(left, right)

    def outcomes(self, ranges: Ranges) -> Outcomes:
        known = [ranges.get(name, Range()) for name in (self.left, self.right)]
        values = (True, False) if all(each.has_value for each in known) else ()
        return frozenset([None] * any(each.has_null for each in known)).union(values)


# Holds the largest values of all exact types, in the smallest unit of any.
_WIDEST = 76


def _comparable(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[Any, Any]:
    """Two columns of one kind in types that Arrow compares without a value out of range; nothing where all are null."""
    import pyarrow.compute as pc

    types = left.type, right.type
    if pa.null() in types:
        return None, None
    if types[0] == types[1] or not all(map(_is_number_or_time, types)):
        return left, right
    if any(map(pa.types.is_floating, types)):
        return tuple(pc.cast(column, pa.float64(), safe=False) for column in (left, right))
    scale = max(data_type.scale if pa.types.is_decimal(data_type) else 0 for data_type in types)
    return tuple(_exact(column).cast(pa.decimal256(_WIDEST, scale)) for column in (left, right))


def _is_number_or_time(data_type: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_timestamp, pa.types.is_date)
    return any(test(data_type) for test in tests)


def _exact(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Integers and times as decimals, these in nanoseconds since 1970."""
    import pyarrow.compute as pc

    if pa.types.is_decimal(column.type):
        return column
    is_date, is_time = pa.types.is_date(column.type), pa.types.is_timestamp(column.type)
    if not (is_date or is_time):
        return column.cast(pa.decimal128(20, 0))
    unit = DAY_NANOS if is_date else _NANOS[column.type.unit]
    numbers = column.cast(pa.int32()) if is_date else column
    return pc.multiply(numbers.cast(pa.int64()).cast(pa.decimal128(19, 0)), scalar_of(unit, pa.decimal128(15, 0)))
