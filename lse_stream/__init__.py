"""Log-sum-exp over data too big for one process, whose partial results combine exactly.

The names that need Beam are loaded at their first use, so that the accumulator alone does not import it.
"""

from typing import TYPE_CHECKING, Any

from ._kernel import StateError as StateError
from ._kernel import kernel_name as kernel_name
from .accumulator import LogSumExpAccumulator as LogSumExpAccumulator
from .accumulator import logsumexp as logsumexp

if TYPE_CHECKING:
    from .combine_fn import LogSumExpCombineFn as LogSumExpCombineFn
    from .transforms import LogSumExp as LogSumExp

__all__ = [
    "LogSumExp",
    "LogSumExpAccumulator",
    "LogSumExpCombineFn",
    "StateError",
    "kernel_name",
    "logsumexp",
]


def __getattr__(name: str) -> Any:
    if name == "LogSumExp":
        from .transforms import LogSumExp

        return LogSumExp
    if name == "LogSumExpCombineFn":
        from .combine_fn import LogSumExpCombineFn

        return LogSumExpCombineFn
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
