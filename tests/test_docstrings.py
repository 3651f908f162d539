"""What is public has a docstring that is read alone, with an example that runs."""

import doctest
import importlib
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any

import pytest
from programs import ROOT

import lse_stream
import lse_stream.beam
from lse_stream import list_functions, testing

NAMES = {f"lse_stream.{name}": getattr(lse_stream, name) for name in lse_stream.__all__}
NAMES |= {f"lse_stream.beam.{name}": value for name, value in vars(lse_stream.beam).items() if isinstance(value, type)}
NAMES |= {f"lse_stream.list_functions.{name}": getattr(list_functions, name) for name in ("logsumexp", "softmax")}
NAMES |= {
    f"lse_stream.testing.{name}": getattr(testing, name)
    for name in ("bits", "check_combine_fn", "check_accumulators", "check_pipelines")
}
ENGINES = ("pandas", "polars", "duckdb", "datafusion", "dask")
NAMES |= {
    f"{module}.{name}": value
    for module in (f"lse_stream.adapters.{engine}" for engine in ENGINES)
    for name, value in vars(importlib.import_module(module)).items()
    if getattr(value, "__module__", None) == module and not name.startswith("_")
}
MODULES = {value.__module__ for value in NAMES.values() if not isinstance(value, ModuleType)}
MODULES.add("lse_stream.beam.exception_handling")  # a method of many


@pytest.mark.parametrize("name", NAMES)
def test_what_is_public_is_documented(name: str) -> None:
    value: Any = NAMES[name]
    documentation = value.__doc__ or ""
    assert documentation
    assert not documentation.startswith("The same")
    is_plain = isinstance(value, ModuleType) or (isinstance(value, type) and issubclass(value, Exception))
    is_plain |= is_dataclass(value) and name.endswith("Summary")  # what accumulators give: their examples show it
    if not is_plain and name != "lse_stream.kernel_name":
        assert ">>> " in documentation, "an example"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 or name in ("lse_stream.errors", "lse_stream._kernel", "lse_stream._kernel.sums")
    assert found.failed == 0
