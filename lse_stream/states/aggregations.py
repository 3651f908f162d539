"""The aggregations: what a state of each is made of, and which results it has. One table, at the end of this file.

An aggregation is plain data. Its states are arrays of parts (``arrays``), their bytes follow from the parts
(``codec``), and results are functions of such arrays (``results``). To add one, add its entry here, and each result
that is new there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import index
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .._kernel.constants import MOST_SMALLEST
from ..scales import NATURAL, Scale

# Digits of decimals of 128 bits; and of how many floats integers and decimals are the sum.
MOST_DIGITS, INTEGER_FLOATS = 38, 3

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScaledSum:
    """A part that is the sum of ``w exp(c x)``, c being the factor of the scale.

    Attributes:
      has_weights: w is the second input; otherwise 1.
      times: x is so many times the value: 1, 2, -1 or -2.
      of_others: of the values alone that ``SmallestValues`` of the same state do not keep.
    """

    has_weights: bool = False
    times: float = 1.0
    of_others: bool = False

    def is_plain(self, scale: Scale) -> bool:
        """Whether it is a sum of ``exp(x)``, which has a kernel of its own."""
        return scale == NATURAL and not self.has_weights

    def terms(self, inputs: Sequence[Floats], scale: Scale) -> tuple[Floats, Floats | None]:
        """The x and the weights of the kernel's terms."""
        x = inputs[0]
        if self.times != 1.0:
            with np.errstate(over="ignore"):
                x = self.times * x
        return -x if scale.descends else x, inputs[1] if self.has_weights else None


@dataclass(frozen=True)
class Extremes:
    """A part that is the least and the largest of the values.

    Attributes:
      floats: of how many inputs a value is the sum: 1; or INTEGER_FLOATS, which ``lse_stream.integers`` makes of one.
    """

    floats: int = 1
    of_others: ClassVar[bool] = False


@dataclass(frozen=True)
class ExactSum:
    """A part that is the exact sum of the product of two inputs, or of one input.

    A product whose second factor is 0 adds nothing, whatever the first one is.

    Attributes:
      first, second: positions among the inputs.
      floats: of how many inputs, the first ones, a value is the sum; the product is its square then.
    """

    first: int
    second: int | None = None
    floats: int = 1

    def rows(self, codes: Codes, inputs: Sequence[Floats]) -> tuple[Codes, Floats, Floats | None]:
        """Codes and factors of the products (n,) that are added up; of squares both factors are one array."""
        if self.floats == 1:
            return codes, inputs[self.first], None if self.second is None else inputs[self.second]
        used = [values for values in inputs[: self.floats] if values.any()] or [inputs[0]]
        if len(used) == 1:
            return codes, used[0], None if self.second is None else used[0]
        if self.second is None:
            return np.tile(codes, len(used)), np.concatenate(used), None
        pairs = [(a, a if i == j else 2.0 * b) for i, a in enumerate(used) for j, b in enumerate(used) if i <= j]
        first, second = (np.concatenate(factors) for factors in zip(*pairs, strict=True))
        return np.tile(codes, len(pairs)), first, second


@dataclass(frozen=True)
class SmallestValues:
    """A part that is the k smallest of the values, copies counted; nothing where one is NaN or +inf."""

    k: int


@dataclass(frozen=True, eq=False)
class Aggregation:
    """What the states of an aggregation are made of, and which results follow from them.

    Attributes:
      name: as arguments and the metadata of columns have it.
      code: as records have it.
      inputs: what a row consists of; the first is the value.
      sums, exact: the parts; the first of the sums knows how many rows there are.
      parameter: a number that records and the name have too; None for most.
      results: names of all results (``lse_stream.states.results``); the first is the aggregation's own.
      columns: the results of a table unless others are asked for.
      has_scales: whether it knows other scales than the natural one.
      digits: of values that are integers and decimals, how many there are after the point; None of floats.
    """

    name: str
    code: int
    inputs: tuple[str, ...]
    sums: tuple[ScaledSum | Extremes, ...]
    exact: tuple[ExactSum | SmallestValues, ...]
    results: tuple[str, ...]
    columns: tuple[str, ...]
    has_scales: bool = False
    parameter: int | None = None
    digits: int | None = None

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return find_aggregation, (self.name,)  # there is one of each

    @property
    def num_inputs(self) -> int:
        """Of how many columns of floats rows consist: a value that is no float is the sum of several."""
        return len(self.inputs) if self.digits is None else INTEGER_FLOATS

    @property
    def has_weights(self) -> bool:
        """Whether its terms have weights."""
        return "weight" in self.inputs

    @property
    def family(self) -> str:
        """The name without the parameter."""
        return self.name.partition(" ")[0]

    def check_scale(self, scale: Scale) -> None:
        """Raises ValueError for a scale that this aggregation does not know."""
        if scale != NATURAL and not self.has_scales:
            raise ValueError(f"scale: expected natural, the one of {self.name}, found {scale.name}")

    def check_inputs(self, inputs: Sequence[Floats], names: Sequence[str]) -> None:
        """Raises ValueError for a weight or target that is not finite, or a negative target; named."""
        for role, name, array in list(zip(self.inputs, names, inputs, strict=True))[1:]:
            # Without an array in between: this is a good part of the time that weights cost.
            least, most = (array.min(), array.max()) if array.size else (0.0, 0.0)
            if -np.inf < least and most < np.inf and (role == "weight" or least >= 0.0):
                continue
            bad = ~np.isfinite(array) | ((role != "weight") & (array < 0.0))
            expected = "finite weights" if role == "weight" else "finite targets of 0 or more"
            raise ValueError(f"{name}: expected {expected}, found {array[bad.argmax()]}")


LOGSUMEXP = Aggregation(
    name="logsumexp",
    code=0,
    inputs=("value",),
    sums=(ScaledSum(),),
    exact=(),
    results=("logsumexp", "count", "max", "logmeanexp", "bonus", "exp_bonus"),
    columns=("logsumexp", "count", "max"),
    has_scales=True,
)
WEIGHTED_LOGSUMEXP = Aggregation(
    name="weighted_logsumexp",
    code=1,
    inputs=("value", "weight"),
    sums=(ScaledSum(has_weights=True),),
    exact=(ExactSum(1),),
    results=("logsumexp", "log_abs_sum", "sign", "count", "max", "weight", "logmeanexp"),
    columns=("logsumexp", "log_abs_sum", "sign", "count", "max", "weight"),
    has_scales=True,
)
LOG_LIKELIHOOD = Aggregation(
    name="log_likelihood",
    code=2,
    inputs=("value",),
    sums=(ScaledSum(),),
    exact=(ExactSum(0), ExactSum(0, 0)),
    results=("log_likelihood", "count", "max", "logsumexp", "logmeanexp", "mean", "variance", "sum_of_squares"),
    columns=("log_likelihood", "count", "max", "logsumexp", "mean", "variance"),
)
EFFECTIVE_SAMPLE_SIZE = Aggregation(
    name="effective_sample_size",
    code=3,
    inputs=("value",),
    sums=(ScaledSum(), ScaledSum(times=2.0)),
    exact=(),
    results=("effective_sample_size", "count", "max", "largest_weight", "logsumexp", "logmeanexp"),
    columns=("effective_sample_size", "count", "max", "largest_weight"),
)
CROSS_ENTROPY = Aggregation(
    name="cross_entropy",
    code=4,
    inputs=("value", "target"),
    sums=(ScaledSum(),),
    exact=(ExactSum(0, 1), ExactSum(1)),
    results=("cross_entropy", "count", "max", "logsumexp"),
    columns=("cross_entropy", "count", "max"),
)
EXACT_SUM = Aggregation(
    name="exact_sum",
    code=6,
    inputs=("value",),
    sums=(Extremes(),),
    exact=(ExactSum(0), ExactSum(0, 0)),
    results=("sum", "count", "mean", "variance", "min", "max"),
    columns=("sum", "count", "mean", "variance", "min", "max"),
)
AGGREGATIONS = {
    aggregation.name: aggregation
    for aggregation in (LOGSUMEXP, WEIGHTED_LOGSUMEXP, LOG_LIKELIHOOD, EFFECTIVE_SAMPLE_SIZE, CROSS_ENTROPY, EXACT_SUM)
}
# Names and codes of what has a parameter: of all that ``leave_one_out`` gives, and ``exact_sum``. The number comes
# behind the name.
LEAVE_ONE_OUT, LEAVE_ONE_OUT_CODE = "leave_one_out", 5
EXACT_SUM_CODE = 7


def leave_one_out(k: int) -> Aggregation:
    """Leave-one-out cross-validation of an observation, whose values are its log-likelihoods under posterior draws.

    Args:
      k: how many of the smallest values a state keeps. For S draws in all, over every part that is ever merged, it
        needs one more than ``states.leave_one_out.tail_length(S)``.

    Raises:
      ValueError: a k that is not within 1 to 65,535.
    """
    if not 1 <= k <= MOST_SMALLEST:
        raise ValueError(f"{LEAVE_ONE_OUT}: expected 1 to {MOST_SMALLEST} values to keep, found {k}")
    return _leave_one_out(index(k))


@lru_cache(maxsize=64)
def _leave_one_out(k: int) -> Aggregation:
    return Aggregation(
        name=f"{LEAVE_ONE_OUT} {k}",
        code=LEAVE_ONE_OUT_CODE,
        inputs=("value",),
        sums=(ScaledSum(), ScaledSum(times=-1.0, of_others=True), ScaledSum(times=-2.0, of_others=True)),
        exact=(ExactSum(0), ExactSum(0, 0), SmallestValues(k)),
        results=(
            *("elpd_loo", "count", "max", "p_loo", "pareto_k", "mcse", "lppd", "p_waic"),
            *("log_likelihood", "mean", "variance", "logsumexp", "logmeanexp"),
        ),
        columns=("elpd_loo", "p_loo", "pareto_k", "mcse", "lppd", "count"),
        parameter=k,
    )


def exact_sum(digits: int) -> Aggregation:
    """Exact totals of integers (0) and decimals of up to 38 digits.

    Args:
      digits: how many there are after the point.

    Raises:
      ValueError: digits that are not within 0 to 38.
    """
    if not 0 <= digits <= MOST_DIGITS:
        raise ValueError(f"{EXACT_SUM.name}: expected 0 to {MOST_DIGITS} digits after the point, found {digits}")
    return _exact_sum(index(digits))


@lru_cache(maxsize=64)
def _exact_sum(digits: int) -> Aggregation:
    return replace(
        EXACT_SUM,
        name=f"{EXACT_SUM.name} {digits}",
        code=EXACT_SUM_CODE,
        sums=(Extremes(INTEGER_FLOATS),),
        exact=(ExactSum(0, floats=INTEGER_FLOATS), ExactSum(0, 0, floats=INTEGER_FLOATS)),
        parameter=digits,
        digits=digits,
    )


# Of the code and of the name.
WITH_PARAMETER = {LEAVE_ONE_OUT_CODE: (LEAVE_ONE_OUT, leave_one_out), EXACT_SUM_CODE: (EXACT_SUM.name, exact_sum)}


def find_aggregation(name: str) -> Aggregation:
    """The aggregation of a name.

    Raises:
      ValueError: no such aggregation.
    """
    family, _, parameter = name.partition(" ")
    if parameter.isdecimal() and len(parameter) < 6 and parameter == str(int(parameter)):
        for known, make in WITH_PARAMETER.values():
            if family == known:
                return make(int(parameter))
    if name in AGGREGATIONS:
        return AGGREGATIONS[name]
    raise ValueError(
        f"aggregation: expected {', '.join(AGGREGATIONS)}, {EXACT_SUM.name} DIGITS or {LEAVE_ONE_OUT} K, found {name!r}"
    )
