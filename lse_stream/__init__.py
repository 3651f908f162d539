"""Log-sum-exp over data too big for one process, whose partial results combine exactly.

Names are loaded at their first use: programs do not need them all, and only some need Beam.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._kernel import StateError as StateError
    from ._kernel import kernel_name as kernel_name
    from .accumulator import CrossEntropyAccumulator as CrossEntropyAccumulator
    from .accumulator import EffectiveSampleSizeAccumulator as EffectiveSampleSizeAccumulator
    from .accumulator import LogLikelihoodAccumulator as LogLikelihoodAccumulator
    from .accumulator import LogLikelihoodSummary as LogLikelihoodSummary
    from .accumulator import LogSumExpAccumulator as LogSumExpAccumulator
    from .accumulator import ScaledLogSumExpAccumulator as ScaledLogSumExpAccumulator
    from .accumulator import WeightedLogSumExpAccumulator as WeightedLogSumExpAccumulator
    from .combine_fn import CrossEntropyCombineFn as CrossEntropyCombineFn
    from .combine_fn import EffectiveSampleSizeCombineFn as EffectiveSampleSizeCombineFn
    from .combine_fn import LogLikelihoodCombineFn as LogLikelihoodCombineFn
    from .combine_fn import LogMeanExpCombineFn as LogMeanExpCombineFn
    from .combine_fn import LogSumExpCombineFn as LogSumExpCombineFn
    from .combine_fn import WeightedLogSumExpCombineFn as WeightedLogSumExpCombineFn
    from .rows import gradient as gradient
    from .rows import log_softmax as log_softmax
    from .rows import logaddexp as logaddexp
    from .rows import logmeanexp as logmeanexp
    from .rows import logsumexp as logsumexp
    from .rows import softmax as softmax
    from .scales import Scale as Scale
    from .transforms import CrossEntropy as CrossEntropy
    from .transforms import EffectiveSampleSize as EffectiveSampleSize
    from .transforms import LogLikelihood as LogLikelihood
    from .transforms import LogMeanExp as LogMeanExp
    from .transforms import LogSoftmax as LogSoftmax
    from .transforms import LogSumExp as LogSumExp
    from .transforms import WeightedLogSumExp as WeightedLogSumExp

# In which module each public name is.
_MODULES = {
    "_kernel": ["StateError", "kernel_name"],
    "accumulator": [
        "CrossEntropyAccumulator",
        "EffectiveSampleSizeAccumulator",
        "LogLikelihoodAccumulator",
        "LogLikelihoodSummary",
        "LogSumExpAccumulator",
        "ScaledLogSumExpAccumulator",
        "WeightedLogSumExpAccumulator",
    ],
    "combine_fn": [
        "CrossEntropyCombineFn",
        "EffectiveSampleSizeCombineFn",
        "LogLikelihoodCombineFn",
        "LogMeanExpCombineFn",
        "LogSumExpCombineFn",
        "WeightedLogSumExpCombineFn",
    ],
    "rows": ["gradient", "log_softmax", "logaddexp", "logmeanexp", "logsumexp", "softmax"],
    "scales": ["Scale"],
    "transforms": [
        "CrossEntropy",
        "EffectiveSampleSize",
        "LogLikelihood",
        "LogMeanExp",
        "LogSoftmax",
        "LogSumExp",
        "WeightedLogSumExp",
    ],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
