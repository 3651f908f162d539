"""One core for every peer, which they take from the environment when they are imported."""

import os

for variable in ("OMP", "OPENBLAS", "MKL", "ARROW"):
    os.environ[f"{variable}_NUM_THREADS"] = "1"
os.environ["POLARS_MAX_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
# Where set, they make a current NumPy slower than it is.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)
