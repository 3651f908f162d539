# The public names, each once: ``__init__.py`` reads them from here, and so do checkers of types. Those that need Apache
# Beam are in ``lse_stream.beam``.
from . import list_functions as list_functions
from ._kernel import StateError as StateError
from ._kernel import kernel_name as kernel_name
from .accumulators import CrossEntropyAccumulator as CrossEntropyAccumulator
from .accumulators import EffectiveSampleSizeAccumulator as EffectiveSampleSizeAccumulator
from .accumulators import ExactSumAccumulator as ExactSumAccumulator
from .accumulators import ExactSumSummary as ExactSumSummary
from .accumulators import LeaveOneOutAccumulator as LeaveOneOutAccumulator
from .accumulators import LeaveOneOutSummary as LeaveOneOutSummary
from .accumulators import LogLikelihoodAccumulator as LogLikelihoodAccumulator
from .accumulators import LogLikelihoodSummary as LogLikelihoodSummary
from .accumulators import LogSumExpAccumulator as LogSumExpAccumulator
from .accumulators import WeightedLogSumExpAccumulator as WeightedLogSumExpAccumulator
from .adapters import dask as dask
from .adapters import datafusion as datafusion
from .adapters import duckdb as duckdb
from .adapters import pandas as pandas
from .adapters import polars as polars
from .adapters import spark as spark
from .errors import DataError as DataError
from .errors import InputError as InputError
from .functions import log_softmax as log_softmax
from .functions import logaddexp as logaddexp
from .functions import logmeanexp as logmeanexp
from .functions import logsumexp as logsumexp
from .functions import softmax as softmax
from .functions import softmax_from_state as softmax_from_state
from .model_comparison import compare_models as compare_models
from .model_comparison import pseudo_bma_plus_weights as pseudo_bma_plus_weights
from .model_comparison import pseudo_bma_weights as pseudo_bma_weights
from .model_comparison import stacking_weights as stacking_weights
from .scales import Scale as Scale
from .state_column import StateType as StateType
from .table_functions import finalize as finalize
from .table_functions import group_states as group_states
from .table_functions import log_softmax_of_keys as log_softmax_of_keys
from .table_functions import merge_states as merge_states
from .table_functions import sort_by_keys as sort_by_keys

__all__: list[str]
__version__: str
