"""Fixtures and strategies that several tests share."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from programs import write_inputs

from lse_stream import _kernel

# The fixture `kernel` stays as it is while Hypothesis draws.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
# To find out which lines tests reach takes fewer examples.
settings.register_profile("few", settings.get_profile("default"), max_examples=10)
settings.load_profile("default")

# Where the kernel's paths meet: signs of zero, subnormals, both boundaries of the reduction, ties beyond 2^60.
EDGES = [
    0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.0, -1.0, 745.2, -745.2, 709.78,
    2.0**23, -(2.0**23), np.nextafter(2.0**23, 0), 2.0**23 - 192, 2.0**23 - 191, 2.0**22, 2.0**30, -(2.0**30), 2.0**52,
    2.0**59, -(2.0**59), 2.0**60, -(2.0**60), np.nextafter(2.0**60, 0), np.nextafter(-(2.0**60), 0),
    1e300, -1e300, 1.7976931348623157e308, -1.7976931348623157e308, -np.inf,
]  # fmt: skip

finite_or_minus_inf = st.one_of(
    st.sampled_from(EDGES),
    st.floats(-800, 800),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-40, 40).map(lambda k: k * float(np.log(2)) / 128),
)
any_float = st.one_of(finite_or_minus_inf, st.sampled_from([np.inf, np.nan]))


def pytest_collection_finish() -> None:
    """What was collected stays to the end: it is not looked through again whenever a test leaves garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=_kernel.available())
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each kernel of this machine."""
    before = _kernel.kernel_name()
    _kernel.select(request.param)
    yield request.param
    _kernel.select(before)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``programs.RUNS`` read from."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True, scope="session")
def slow_machine() -> Iterator[None]:
    """Where a run takes its time, no line of progress comes between what a test expects."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipelines.run.IN_LOG", threading.TIMEOUT_MAX)
        yield


def misaligned(x: np.ndarray) -> np.ndarray:
    """The same items, each between two words."""
    return np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape)


def random_values(rng: np.random.Generator, n: int) -> np.ndarray:
    """n values of one of many shapes: spreads, edges, ties, sorted, around far centres."""
    match rng.integers(8):
        case 0:
            x = rng.normal(size=n) * 10 ** rng.uniform(-3, 10)
        case 1:
            x = rng.choice(EDGES, n)
        case 2:
            x = rng.choice(EDGES[:22]) + rng.normal(size=n) * 10 ** rng.uniform(0, 3)
        case 3:
            x = np.sort(rng.normal(size=n) * 200)
        case 4:
            x = rng.choice(rng.normal(size=4) * 50, n)
        case 5:
            x = rng.integers(0, 2**64, n, dtype=np.uint64).view(np.float64)
            x = np.where(np.isfinite(x), x, 0.0)
        case 6:
            x = np.round(rng.normal(size=n) * 3000) * (np.log(2) / 128) + rng.integers(-1, 2) * 1e-16
        case _:
            x = rng.standard_cauchy(n) * 30
            x[rng.random(n) < 0.05] = rng.choice([*EDGES, np.nan, np.inf])
    return np.ascontiguousarray(x)


@pytest.fixture
def store() -> Iterator[Any]:
    """An empty ``stores.Store``, and its ``Directories``."""
    from stores import Directories, Store  # with Beam, which few tests need

    Store.objects.clear()
    Store.journal.clear()
    Directories.folders.clear()
    yield Store
    Store.objects.clear()
