"""Programs over ``lse_stream``: ``python -m pipelines`` from a checkout, ``lse-stream`` from the wheel."""

import os
import signal
import sys

if sys.argv[:1] == ["-m"]:  # as Python has it while it looks for a program's module
    # There is nothing to clean up yet, and nobody wants to see where in an import Ctrl-C came.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# NumPy would start threads for linear algebra, which no program here does. It takes this at its import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
