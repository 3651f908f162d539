"""Arrays of dask and xarray: the bits of one array in memory, whatever the chunks and the tree of merges."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import dask.bag
import numpy as np
import pytest
import xarray as xr
from conftest import random_values
from hypothesis import given, settings
from hypothesis import strategies as st

import lse_stream
from lse_stream.adapters.dask import logmeanexp, logsumexp

FUNCTIONS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (logsumexp, lse_stream.logsumexp),
    (logmeanexp, lse_stream.logmeanexp),
]
both = pytest.mark.parametrize(("of_dask", "of_numpy"), FUNCTIONS, ids=["logsumexp", "logmeanexp"])


@pytest.fixture(autouse=True)
def threads() -> Any:
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def assert_same(found: Any, expected: Any) -> None:
    """Lazy, and of the same bits, shape and dtype once computed, as was said before."""
    assert isinstance(found, da.Array)
    computed = found.compute()
    assert type(computed) is type(expected)
    assert found.shape == computed.shape == expected.shape
    assert found.dtype == computed.dtype == expected.dtype
    assert computed.tobytes() == expected.tobytes()


def chunks_of(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Sizes of chunks, some of them 0, that add up to a size."""
    cuts = st.lists(st.integers(0, size), max_size=6).map(sorted)
    return cuts.map(lambda at: tuple(np.diff([0, *at, size]).tolist()))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, Any, dict[str, Any]]:
    shape = draw(st.lists(st.integers(0, 7), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = random_values(rng, int(np.prod(shape))).reshape(shape)
    array = array.astype(draw(st.sampled_from(["<f8", "<f8", ">f8", "<f4"])))
    chunks = tuple(draw(chunks_of(size)) for size in shape)
    axes = st.lists(st.integers(0, len(shape) - 1), unique=True).map(tuple)
    options = {
        "axis": draw(st.none() | st.integers(-len(shape), len(shape) - 1) | axes),
        "keepdims": draw(st.booleans()),
    }
    split_every = draw(st.none() | st.integers(2, 9))
    return array, da.from_array(array, chunks), {"split_every": split_every, **options}


@both
@settings(max_examples=60)
@given(case=cases())
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_any_chunks_give_the_bits_of_one_array(
    of_dask: Callable[..., Any], of_numpy: Callable[..., Any], case: tuple[Any, Any, dict[str, Any]]
) -> None:
    array, chunked, options = case
    expected = of_numpy(array, options["axis"], keepdims=options["keepdims"])
    assert_same(of_dask(chunked, **options), expected)


@both
def test_many_chunks(of_dask: Callable[..., Any], of_numpy: Callable[..., Any]) -> None:
    array = np.random.default_rng(0).normal(size=(200, 300)) * 30
    array[::50, ::70] = [np.nan, np.inf, -np.inf, -0.0, 745.2]
    for chunks in ((13, 7), (200, 1), (1, 300), (200, 300)):
        for axis in (None, 0, 1):
            assert_same(of_dask(da.from_array(array, chunks), axis), of_numpy(array, axis))


@both
def test_what_is_masked_is_left_out(of_dask: Callable[..., Any], of_numpy: Callable[..., Any]) -> None:
    array = np.random.default_rng(0).normal(size=(8, 9))
    masked = np.ma.masked_array(array, (array > 0.5) | (np.arange(8) == 3)[:, None])
    for axis in (None, 0, 1):
        assert_same(of_dask(da.from_array(masked, 4), axis), of_numpy(masked, axis))


@both
@pytest.mark.parametrize("dtype", ["int8", "uint64", "float16", ">f4"])
def test_dtypes(of_dask: Callable[..., Any], of_numpy: Callable[..., Any], dtype: str) -> None:
    array = np.arange(24).reshape(4, 6).astype(dtype)
    assert_same(of_dask(da.from_array(array, 3), 1), of_numpy(array, 1))


def test_chunks_of_unknown_size_and_arrays_without_dimensions() -> None:
    array = np.random.default_rng(0).normal(size=(20, 3))
    chunked = da.from_array(array, (4, 2))
    some = chunked[chunked[:, 0] > 0]
    assert np.isnan(some.shape[0])
    assert_same(logsumexp(some, 0), lse_stream.logsumexp(array[array[:, 0] > 0], 0))
    assert logsumexp(da.asarray(3.0)).compute() == 3.0


def test_no_chunk_is_computed_before_the_result_is_and_none_is_the_whole() -> None:
    sizes = []

    def seen(chunk: Any) -> Any:
        sizes.append(chunk.size)
        return chunk

    result = logsumexp(da.zeros(1000, chunks=100).map_blocks(seen, meta=np.empty(0)))
    assert sizes == []
    assert result.compute() == np.log(1000)
    assert sizes == [100] * 10


def test_errors_say_what_is_wrong() -> None:
    array = da.zeros((2, 3), chunks=1)
    axes: list[Any] = [2, (0, 0), "x"]
    for axis in axes:
        with pytest.raises((ValueError, TypeError)) as expected:  # AxisError is a ValueError
            lse_stream.logsumexp(array.compute(), axis)
        with pytest.raises(expected.type) as found:
            logsumexp(array, axis)
        assert str(found.value) == str(expected.value)
    with pytest.raises(TypeError, match="array: expected integers, float16, float32 or float64, found complex128"):
        logsumexp(array.astype(complex))
    with pytest.raises(TypeError, match="dim: expected an array of xarray, which has dimensions, found Array"):
        logsumexp(array, dim="x")
    with pytest.raises(TypeError, match="array: expected an array of dask, found Bag"):
        logsumexp(dask.bag.from_sequence([1.0]))
    with pytest.raises(ValueError, match=r"expected integers within \+-2\^53"):
        logsumexp(da.full(3, 2**53 + 1, chunks=1)).compute()


# --- xarray -----------------------------------------------------------------------------------------------------------


def data_array() -> xr.DataArray:
    values = random_values(np.random.default_rng(1), 120).reshape(4, 5, 6)
    coords = {"chain": list("abcd"), "weight": ("draw", np.arange(5.0)), "place": 3}
    return xr.DataArray(values, dims=["chain", "draw", "patient"], coords=coords, name="ll", attrs={"unit": "nat"})


@both
@pytest.mark.parametrize("dim", [None, ..., "draw", ["chain", "patient"]])
@pytest.mark.parametrize("chunks", [None, 2])
def test_data_arrays(of_dask: Callable[..., Any], of_numpy: Callable[..., Any], dim: Any, chunks: int | None) -> None:
    array = data_array()
    expected = array.reduce(of_numpy, dim)
    if chunks is not None:
        array = array.chunk(chunks)
    found = of_dask(array, dim=dim)
    assert isinstance(found.data, da.Array) == (chunks is not None)
    assert found.values.tobytes() == expected.values.tobytes()
    like = array.sum(dim)
    assert (found.dims, found.name, found.attrs) == (like.dims, like.name, like.attrs)
    assert found.coords.equals(like.coords)


def test_options_of_xarray() -> None:
    array = data_array().chunk(2)
    expected = lse_stream.logsumexp(array.values, 1, keepdims=True)
    found = logsumexp(array, dim="draw", keepdims=True, split_every=2)
    assert found.dims == array.dims
    assert found.values.tobytes() == logsumexp(array, 1, True).values.tobytes() == expected.tobytes()
    with xr.set_options(keep_attrs=False):
        assert logsumexp(array, dim="draw").attrs == {}
    by_chain = array.groupby("chain").reduce(logsumexp, ...)
    assert by_chain.values.tobytes() == lse_stream.logsumexp(array.values, (1, 2)).tobytes()
    dataset = xr.Dataset({"a": array, "b": ("chain", np.zeros(4))})
    assert logsumexp(dataset, dim="chain")["b"] == np.log(4)
    with pytest.raises(ValueError, match="'model' not found"):
        logsumexp(array, dim="model")


def test_it_is_imported_without_dask() -> None:
    program = "import sys, lse_stream.adapters.dask; sys.exit(bool({'dask', 'xarray', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
