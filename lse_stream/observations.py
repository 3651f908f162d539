"""Observations of many rows each, components or posterior draws: weights, values, WAIC and leave-one-out."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ._kernel.constants import LEAST_TAIL
from .buffers import array_of, nulls_of, numbers_of
from .errors import DataError
from .float64 import to_float64_exact, valid_numbers
from .keys import describe_key
from .state_column import STATE, states_to_arrow
from .state_table import StateTable
from .states.aggregations import LOG_LIKELIHOOD, Aggregation, leave_one_out
from .states.leave_one_out import LeaveOneOut, cross_validate, good_k, tail_length
from .states.results import result_of, variances

# Columns of a table of observations, beside their keys; with WAIC and with leave-one-out these too (Vehtari, Gelman,
# Gabry, Statistics and Computing 27, 2017).
VALUE, COUNT = "value", "count"
# How many rows the draw of a group has, on the way.
ROWS = "rows"
LPPD, P_WAIC, ELPD_WAIC = "lppd", "p_waic", "elpd_waic"
ELPD_LOO, P_LOO, PARETO_K, MCSE = "elpd_loo", "p_loo", "pareto_k", "mcse"
# Beyond this p_waic of an observation that paper calls WAIC unreliable.
DOUBTFUL = 0.4

# Columns of totals over observations; with WAIC and with leave-one-out these too. ``looic`` is elpd_loo on the scale of
# deviances; ``mcse`` is null where a Pareto k is too large; the last three count observations by their Pareto k.
RESULTS = ("log_likelihood", COUNT, "max")
WAIC = (LPPD, P_WAIC, ELPD_WAIC, "se_waic")
GOOD, BAD, VERY_BAD = "k_good", "k_bad", "k_very_bad"
LOO = (LPPD, ELPD_LOO, P_LOO, "looic", "se", MCSE, GOOD, BAD, VERY_BAD)
# The square of mcse, on the way.
MC_VARIANCE = "mc_variance"


@dataclass(frozen=True)
class Evaluation:
    """How predictions of observations are evaluated.

    Attributes:
      waic: by WAIC, with the ``ddof`` of its variances.
      loo: by leave-one-out, from so many ``smallest`` values of a state, with r_eff and rounding of the tail's length.
    """

    waic: bool = False
    ddof: int = 1
    loo: bool = False
    smallest: int = 1
    r_eff: float = 1.0
    round_up: bool = False

    def __bool__(self) -> bool:
        return self.waic or self.loo

    @property
    def aggregation(self) -> Aggregation:
        """Of the draws of an observation."""
        return leave_one_out(self.smallest) if self.loo else LOG_LIKELIHOOD

    @property
    def per_observation(self) -> list[str]:
        """The columns of observations that are summed to totals."""
        loo = [ELPD_LOO, P_LOO, MC_VARIANCE, GOOD, BAD, VERY_BAD] if self.loo else []
        return [LPPD, *([P_WAIC, ELPD_WAIC] if self.waic else []), *loo]

    @property
    def totals(self) -> list[str]:
        """The columns of totals, behind the count."""
        return list(dict.fromkeys([*(WAIC if self.waic else ()), *(LOO if self.loo else ())]))


def check_weights(weight: str, inner: str, table: pa.Table) -> pa.Table:
    """The table as it is; raises ValueError for a weight in that column which ``inner`` does not take."""
    least = 0.0 if inner == "logmeanexp" else -math.inf
    for array in valid_numbers(table.column(weight)):
        weights = to_float64_exact(array, f"column {weight!r}")
        wrong = ~(np.isfinite(weights) & (weights >= least))
        if wrong.any():
            expected = "finite weights" + (" of 0 or more, to take a mean by" if least == 0.0 else "")
            raise ValueError(f"column {weight!r}: expected {expected}, found {weights[wrong.argmax()]}")
    return table


def sums_of(names: list[str], states: StateTable) -> pa.Table:
    """States of the rows of a draw to those key columns, their sum VALUE and how many they are, ROWS.

    Both are null where all values are null.
    """
    found = states.results(STATE, ["log_likelihood", COUNT], 1)
    rows = array_of(numbers_of(found[COUNT]), null=nulls_of(found["log_likelihood"]))
    columns = [*(states.keys.column(name) for name in names), found["log_likelihood"], rows]
    return pa.Table.from_arrays(columns, names=[*names, VALUE, ROWS])


def of_whole_draws(finish: Callable[[StateTable], pa.Table], states: StateTable) -> pa.Table:
    """What is made of states of groups, once every draw of a group has as many rows.

    Raises:
      DataError: a group of which some draws have fewer rows; named.
    """
    array, _ = states.states[ROWS]
    most = array.sums[0]["max"]
    mean = result_of(array, "mean")
    _require(
        states,
        (mean == most) | (array.counts == 0),
        lambda row: f"{most[row]:.0f} rows in each of {array.counts[row]} draws, found {mean[row]:.6g} on average",
        "group",
    )
    return finish(states)


def values_of(inner: str, keep_state: bool, states: StateTable) -> pa.Table:
    """States of observations to their values."""
    results = states.finalize([inner, COUNT], keep_state=keep_state)
    return results.rename_columns([VALUE if name == inner else name for name in results.column_names])


def evaluate(evaluation: Evaluation, keep_state: bool, states: StateTable) -> pa.Table:
    """States of the draws of observations to what the evaluation has of each.

    Raises:
      DataError: an observation of too few draws, or, for leave-one-out, with one that is NaN or +inf, or with more than
        the states were made for; named.
    """
    array, null = states.states[STATE]
    is_null = np.zeros(len(array), np.bool_) if null is None else null
    least = 2 if evaluation.loo else evaluation.ddof + 1
    _require(states, (array.counts >= least) | is_null, lambda row: f"{least} draws or more, found {array.counts[row]}")
    left_out = _leave_out(evaluation, states) if evaluation.loo else None
    lppd = array_of(left_out.lppd, null=null) if left_out else states.results(STATE, ["logmeanexp"], 0)["logmeanexp"]
    found = {VALUE: lppd, **states.results(STATE, [COUNT], 0), LPPD: lppd}
    if evaluation.waic:
        p_waic = variances(array, evaluation.ddof)
        found[P_WAIC] = array_of(p_waic, null=null)
        found[ELPD_WAIC] = array_of(numbers_of(lppd) - p_waic, null=null)
    if left_out:
        columns = (left_out.elpd, left_out.p, left_out.pareto_k, left_out.mcse)
        for name, values in zip((ELPD_LOO, P_LOO, PARETO_K, MCSE), columns, strict=True):
            found[name] = array_of(values, null=null)
    if keep_state:
        found[STATE] = states_to_arrow(array, null)
    return pa.Table.from_arrays([*states.keys.columns, *found.values()], names=[*states.keys.column_names, *found])


def _leave_out(evaluation: Evaluation, states: StateTable) -> LeaveOneOut:
    array, null = states.states[STATE]
    is_null = np.zeros(len(array), np.bool_) if null is None else null
    largest, draws = array.sums[0]["max"], array.counts
    _require(
        states,
        (largest < np.inf) | is_null,
        lambda row: f"log-likelihoods below inf, found {'NaN' if np.isnan(largest[row]) else 'inf'} among them",
    )
    tails, kept = tail_length(draws, evaluation.r_eff, round_up=evaluation.round_up), evaluation.smallest
    _require(
        states,
        (tails < LEAST_TAIL) | (tails < kept) | is_null,
        lambda row: (
            f"fewer draws than it has, {draws[row]}, as its states keep {kept} values and its tail has {tails[row]} "
            "(they were made for too few draws, by --draws, or for a larger r_eff)"
        ),
    )
    return cross_validate(array, evaluation.r_eff, round_up=evaluation.round_up)


def _require(
    states: StateTable, fits: npt.NDArray[np.bool_], message: Callable[[int], str], what: str = "observation"
) -> None:
    if not fits.all():
        row = int(fits.argmin())
        key = describe_key(states.keys, states.keys.column_names, row)
        raise DataError(f"{what} {key}: expected {message(row)}")


def classify(observations: pa.Table) -> pa.Table:
    """Observations with the square of mcse, and with columns that count them by their Pareto k.

    It is good, bad, or very bad, which is above 1.
    """
    for name, chunks in zip((GOOD, BAD, VERY_BAD), _classes(observations), strict=True):
        observations = observations.append_column(name, pa.chunked_array(chunks, pa.float64()))
    errors = [(numbers_of(chunk), nulls_of(chunk)) for chunk in observations[MCSE].chunks]
    squares = [array_of(error * error, null=null) for error, null in errors]
    return observations.append_column(MC_VARIANCE, pa.chunked_array(squares, pa.float64()))


def _classes(observations: pa.Table) -> list[list[pa.Array]]:
    classes: list[list[pa.Array]] = [[], [], []]
    for batch in observations.select([PARETO_K, COUNT]).to_batches():
        k, draws = (batch.column(name) for name in (PARETO_K, COUNT))
        shape, null = numbers_of(k), nulls_of(k)
        good, very_bad = shape <= good_k(numbers_of(draws)), shape > 1.0
        for chunks, mask in zip(classes, (good, ~(good | very_bad), very_bad), strict=True):
            chunks.append(array_of(mask.astype(np.float64), null=null))
    return classes


def count_unsure(observations: pa.Table) -> int:
    """How many there are whose p_waic puts WAIC in doubt."""
    return sum(int((numbers > DOUBTFUL).sum()) for numbers in valid_numbers(observations[P_WAIC]))


def total(evaluation: Evaluation, states: StateTable) -> pa.Table:
    """The states of what an evaluation has of the observations, a column of them for each, to totals."""
    columns = dict(zip(states.keys.column_names, states.keys.columns, strict=True))
    columns |= states.results(LPPD, RESULTS, 0)
    for name in evaluation.per_observation:
        columns[name] = states.results(name, RESULTS[:1], 0)[RESULTS[0]]
    for elpd, error, ddof in ((ELPD_WAIC, "se_waic", evaluation.ddof), (ELPD_LOO, "se", 1)):
        if elpd in columns:
            array, null = states.states[elpd]
            with np.errstate(invalid="ignore"):
                columns[error] = array_of(np.sqrt(array.counts * variances(array, ddof)), null=null)
    if evaluation.loo:
        columns["looic"] = array_of(0.0 - 2.0 * numbers_of(columns[ELPD_LOO]), null=nulls_of(columns[ELPD_LOO]))
        for name in (GOOD, BAD, VERY_BAD):
            columns[name] = columns[name].cast(pa.int64())
        columns[MCSE] = _total_error(columns[MC_VARIANCE], columns[BAD], columns[VERY_BAD])
    names = [*states.keys.column_names, *RESULTS, *evaluation.totals]
    return pa.Table.from_arrays([columns[name] for name in names], names=names)


def _total_error(variance: pa.Array, bad: pa.Array, very_bad: pa.Array) -> pa.Array:
    """The Monte Carlo standard errors of totals: null where a Pareto k is too large, as it says nothing then."""
    null = nulls_of(variance)
    large = (numbers_of(bad) > 0) | (numbers_of(very_bad) > 0)
    with np.errstate(invalid="ignore"):
        return array_of(np.sqrt(numbers_of(variance)), null=large if null is None else large | null)
