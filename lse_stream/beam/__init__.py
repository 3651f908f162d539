"""What runs on Apache Beam: the aggregations as transforms and CombineFns, over elements and over tables."""

from .coders import AccumulatorCoder as AccumulatorCoder
from .combine_fns import CrossEntropyCombineFn as CrossEntropyCombineFn
from .combine_fns import EffectiveSampleSizeCombineFn as EffectiveSampleSizeCombineFn
from .combine_fns import LogLikelihoodCombineFn as LogLikelihoodCombineFn
from .combine_fns import LogMeanExpCombineFn as LogMeanExpCombineFn
from .combine_fns import LogSumExpCombineFn as LogSumExpCombineFn
from .combine_fns import MergeStatesCombineFn as MergeStatesCombineFn
from .combine_fns import ToStateCombineFn as ToStateCombineFn
from .combine_fns import WeightedLogSumExpCombineFn as WeightedLogSumExpCombineFn
from .parquet_io import ReadTables as ReadTables
from .parquet_io import WriteShards as WriteShards
from .parquet_io import WriteWindows as WriteWindows
from .pre_aggregate import PreAggregate as PreAggregate
from .pre_aggregate import PreCombinePerKey as PreCombinePerKey
from .softmax import LogSoftmax as LogSoftmax
from .transforms import CrossEntropy as CrossEntropy
from .transforms import EffectiveSampleSize as EffectiveSampleSize
from .transforms import Finalize as Finalize
from .transforms import LogLikelihood as LogLikelihood
from .transforms import LogMeanExp as LogMeanExp
from .transforms import LogSumExp as LogSumExp
from .transforms import MergeStates as MergeStates
from .transforms import WeightedLogSumExp as WeightedLogSumExp
from .windows import WindowTables as WindowTables
