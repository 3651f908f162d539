"""Functions for the SQL of DuckDB, over lists: ``logsumexp(list(x))``.

DuckDB has no aggregates in Python, so ``list`` collects the values of a group. A function is called for up to 2,048
groups at a time.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ..scales import NATURAL
from ..state_column import states_from_arrow
from ..state_table import StatesColumn
from ..states.aggregations import LOGSUMEXP
from .states import Column, as_float64, errors_of, group_lists, merge_lists, option, records_of, values_of


def register(connection: Any) -> None:
    """Creates the functions in a connection, for all connections to its database. Once more does nothing.

    ============================================== ======== ====================================================
    function                                       gives
    ============================================== ======== ====================================================
    ``logsumexp(list(x) [, scale])``               DOUBLE   ``ln(sum(exp(x)))``
    ``logmeanexp(list(x) [, scale])``              DOUBLE   ``ln(mean(exp(x)))``
    ``lse_state(list(x) [, aggregation, scale])``  BLOB     the state, with the bytes of ``lse_stream.group_states``
    ``lse_merge(list(state))``                     BLOB     the states merged, as if of one list
    ``lse_value(state [, result])``                DOUBLE   a result of a state, by default "logsumexp"
    ============================================== ======== ====================================================

    Nulls in lists are skipped, NaN is a value, and an empty list gives -inf or an empty state; ``lse_merge`` gives NULL
    of no states. NULL in place of a list or a state gives NULL. ``list`` of no rows at all is NULL, which
    ``coalesce(list(x), [])`` makes an empty list.
    Numbers come as they are, as ``lse_stream.group_states`` takes them: decimals, which literals like 1.5 are, need
    ``x::DOUBLE``. For an aggregation of two inputs x is a struct of both, in their order: ``list({'x': x, 'w': w})``.

    Args:
      connection: a ``duckdb.DuckDBPyConnection``, or the module ``duckdb`` for its default one.

    Raises:
      duckdb.CatalogException: one of these names is taken by a function of another kind, such as a macro.

    What is wrong with arguments is found by the query: ``duckdb.InvalidInputException`` then names function and fault.

    >>> import duckdb
    >>> connection = duckdb.connect()
    >>> register(connection)
    >>> connection.sql("select logsumexp(list(x)) from (values (0::double), (0)) as t(x)").fetchall()
    [(0.6931471805599453,)]
    """
    found = connection.execute(
        "select function_name from duckdb_functions() where function_type = 'scalar' and varargs = 'ANY'"
    )
    there = {name for (name,) in found.fetchall()}
    for name, (function, return_type) in _FUNCTIONS.items():
        if name not in there:
            # Without types of parameters the arguments come as they are. Types would make DuckDB cast them, and round
            # integers beyond 2^53. Without special handling of NULL a function may not return it.
            connection.create_function(
                name, _caller(name, function), None, return_type, type="arrow", null_handling="special"
            )


def _caller(name: str, function: Callable[..., Column]) -> Callable[..., Column]:
    def call(*columns: Column) -> Column:
        with errors_of(name):
            if not columns:
                raise TypeError("expected arguments, found none")
            if columns[0].null_count == len(columns[0]):  # of any type: that of a plain NULL says nothing
                return pa.nulls(len(columns[0]))
            return function(columns[0], *map(option, columns[1:]))

    return call


def _logsumexp(lists: Column, scale: str = NATURAL.name) -> Column:
    return values_of(group_lists(lists, LOGSUMEXP.name, scale), "logsumexp")


def _logmeanexp(lists: Column, scale: str = NATURAL.name) -> Column:
    return values_of(group_lists(lists, LOGSUMEXP.name, scale), "logmeanexp")


def _lse_state(lists: Column, aggregation: str = LOGSUMEXP.name, scale: str = NATURAL.name) -> Column:
    return records_of(group_lists(lists, aggregation, scale))


def _lse_merge(lists: Column) -> Column:
    return records_of(merge_lists(lists))


def _lse_value(states: Column, result: str = "logsumexp") -> Column:
    return as_float64(values_of(StatesColumn(*states_from_arrow(states)), result))


_FUNCTIONS: dict[str, tuple[Callable[..., Column], str]] = {
    "logsumexp": (_logsumexp, "DOUBLE"),
    "logmeanexp": (_logmeanexp, "DOUBLE"),
    "lse_state": (_lse_state, "BLOB"),
    "lse_merge": (_lse_merge, "BLOB"),
    "lse_value": (_lse_value, "DOUBLE"),
}
