"""What runs on Apache Beam: the aggregations as transforms and CombineFns, over elements and over tables."""

from .coders import AccumulatorCoder
from .combine_fns import (
    CrossEntropyCombineFn,
    EffectiveSampleSizeCombineFn,
    ExactSumCombineFn,
    LeaveOneOutCombineFn,
    LogLikelihoodCombineFn,
    LogMeanExpCombineFn,
    LogSumExpCombineFn,
    MergeStatesCombineFn,
    ToStateCombineFn,
    WeightedLogSumExpCombineFn,
)
from .parquet_io import ReadTables, WriteShards, WriteWindows
from .pre_aggregate import PreAggregate, PreCombinePerKey
from .rows import ToRows
from .softmax import LogSoftmax
from .transforms import (
    CrossEntropy,
    EffectiveSampleSize,
    ExactSum,
    Finalize,
    LeaveOneOut,
    LogLikelihood,
    LogMeanExp,
    LogSumExp,
    MergeStates,
    WeightedLogSumExp,
)
from .windows import WindowTables

__all__ = [
    "AccumulatorCoder",
    "CrossEntropy",
    "CrossEntropyCombineFn",
    "EffectiveSampleSize",
    "EffectiveSampleSizeCombineFn",
    "ExactSum",
    "ExactSumCombineFn",
    "Finalize",
    "LeaveOneOut",
    "LeaveOneOutCombineFn",
    "LogLikelihood",
    "LogLikelihoodCombineFn",
    "LogMeanExp",
    "LogMeanExpCombineFn",
    "LogSoftmax",
    "LogSumExp",
    "LogSumExpCombineFn",
    "MergeStates",
    "MergeStatesCombineFn",
    "PreAggregate",
    "PreCombinePerKey",
    "ReadTables",
    "ToRows",
    "ToStateCombineFn",
    "WeightedLogSumExp",
    "WeightedLogSumExpCombineFn",
    "WindowTables",
    "WriteShards",
    "WriteWindows",
]
