"""One core for every peer: they take it from the environment when they are imported, and the affinity holds them to it.

Import this before anything that computes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Where set, the first two make a current NumPy slower than it is; the rows say themselves which kernel they run.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "LSE_STREAM_KERNEL"):
    os.environ.pop(variable, None)
# What whole processes are started with. An import is to find bytecode, as it mostly does in life.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
AVAILABLE = sorted(os.sched_getaffinity(0))

for variable in ("OMP", "OPENBLAS", "MKL", "ARROW"):
    os.environ[f"{variable}_NUM_THREADS"] = "1"
os.environ["POLARS_MAX_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
# Threads and processes inherit it from the thread that starts them.
os.sched_setaffinity(0, AVAILABLE[-1:])


@contextmanager
def cores(n: int) -> Iterator[None]:
    """Lets this thread, and what it starts, run on ``n`` cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, AVAILABLE[:n])
    yield
    os.sched_setaffinity(0, before)
