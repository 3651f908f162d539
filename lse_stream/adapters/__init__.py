"""States and results within the queries of other engines: one module for each, which imports its engine at first use.

``pandas`` and ``polars`` have functions for ``groupby(...).agg`` and ``group_by(...).agg``; ``duckdb`` and
``datafusion`` have ``register``, which gives SQL the same functions. All make the bytes of ``lse_stream.group_states``.
Nulls are skipped, NaN is a value. A whole table is grouped faster by ``lse_stream.group_states`` itself, which takes
tables of all of these.
"""

from importlib import import_module
from types import ModuleType

ENGINES = ("dask", "datafusion", "duckdb", "pandas", "polars", "spark")


def __getattr__(name: str) -> ModuleType:
    if name in ENGINES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(name)
