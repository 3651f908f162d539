"""Log-sum-exp over data too big for one process, whose partial results combine exactly.

The names that need Beam are loaded at their first use, so that the rest does not import it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._kernel import StateError as StateError
from ._kernel import kernel_name as kernel_name
from .accumulator import CrossEntropyAccumulator as CrossEntropyAccumulator
from .accumulator import EffectiveSampleSizeAccumulator as EffectiveSampleSizeAccumulator
from .accumulator import LogLikelihoodAccumulator as LogLikelihoodAccumulator
from .accumulator import LogLikelihoodSummary as LogLikelihoodSummary
from .accumulator import LogSumExpAccumulator as LogSumExpAccumulator
from .accumulator import ScaledLogSumExpAccumulator as ScaledLogSumExpAccumulator
from .accumulator import WeightedLogSumExpAccumulator as WeightedLogSumExpAccumulator
from .rows import gradient as gradient
from .rows import log_softmax as log_softmax
from .rows import logaddexp as logaddexp
from .rows import logmeanexp as logmeanexp
from .rows import logsumexp as logsumexp
from .rows import softmax as softmax
from .scales import Scale as Scale

if TYPE_CHECKING:
    from .combine_fn import CrossEntropyCombineFn as CrossEntropyCombineFn
    from .combine_fn import EffectiveSampleSizeCombineFn as EffectiveSampleSizeCombineFn
    from .combine_fn import LogLikelihoodCombineFn as LogLikelihoodCombineFn
    from .combine_fn import LogMeanExpCombineFn as LogMeanExpCombineFn
    from .combine_fn import LogSumExpCombineFn as LogSumExpCombineFn
    from .combine_fn import WeightedLogSumExpCombineFn as WeightedLogSumExpCombineFn
    from .transforms import CrossEntropy as CrossEntropy
    from .transforms import EffectiveSampleSize as EffectiveSampleSize
    from .transforms import LogLikelihood as LogLikelihood
    from .transforms import LogMeanExp as LogMeanExp
    from .transforms import LogSoftmax as LogSoftmax
    from .transforms import LogSumExp as LogSumExp
    from .transforms import WeightedLogSumExp as WeightedLogSumExp

_TRANSFORMS = [
    "CrossEntropy",
    "EffectiveSampleSize",
    "LogLikelihood",
    "LogMeanExp",
    "LogSoftmax",
    "LogSumExp",
    "WeightedLogSumExp",
]
_COMBINE_FNS = [f"{name}CombineFn" for name in _TRANSFORMS if name != "LogSoftmax"]

__all__ = [
    "CrossEntropy",
    "CrossEntropyAccumulator",
    "CrossEntropyCombineFn",
    "EffectiveSampleSize",
    "EffectiveSampleSizeAccumulator",
    "EffectiveSampleSizeCombineFn",
    "LogLikelihood",
    "LogLikelihoodAccumulator",
    "LogLikelihoodCombineFn",
    "LogLikelihoodSummary",
    "LogMeanExp",
    "LogMeanExpCombineFn",
    "LogSoftmax",
    "LogSumExp",
    "LogSumExpAccumulator",
    "LogSumExpCombineFn",
    "Scale",
    "ScaledLogSumExpAccumulator",
    "StateError",
    "WeightedLogSumExp",
    "WeightedLogSumExpAccumulator",
    "WeightedLogSumExpCombineFn",
    "gradient",
    "kernel_name",
    "log_softmax",
    "logaddexp",
    "logmeanexp",
    "logsumexp",
    "softmax",
]


def __getattr__(name: str) -> Any:
    if name in _TRANSFORMS:
        return getattr(import_module(".transforms", __name__), name)
    if name in _COMBINE_FNS:
        return getattr(import_module(".combine_fn", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
