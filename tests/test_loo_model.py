"""The model of leave-one-out against what arviz-stats says; neither was made from the other."""

from typing import Any

import numpy as np
import pytest
from loo_model import leave_one_out
from loo_references import log_likelihoods, read

SETS = log_likelihoods()


def check(entry: dict[str, Any], observations: range) -> None:
    """elpd_loo and p_loo to 1e-12 of the larger of 1 and elpd_loo, k to 1e-10."""
    for i in observations:
        elpd, p_loo, k = leave_one_out(SETS[entry["set"]][i].tolist(), entry["r_eff"])
        assert entry["elpd_loo"][i] == pytest.approx(elpd, rel=1e-12, abs=1e-12)
        assert entry["p_loo"][i] == pytest.approx(p_loo, rel=0, abs=1e-12 * max(1.0, abs(elpd)))
        assert entry["pareto_k"][i] == pytest.approx(k, rel=0, abs=1e-10) or (
            k == np.inf and np.isnan(entry["pareto_k"][i])
        )


def test_the_model_agrees_with_arviz_stats() -> None:
    for entry in read("arviz_stats"):
        if entry["set"].startswith("random"):
            continue
        check(entry, range(min(2, len(entry["elpd_loo"]))))


@pytest.mark.fuzz
def test_the_model_agrees_with_arviz_stats_everywhere() -> None:
    for entry in read("arviz_stats"):
        check(entry, range(len(entry["elpd_loo"])))


def test_the_references_by_formulas_are_those_of_the_model() -> None:
    for entry in read("formulas"):
        for observation, expected in zip(
            SETS[entry["set"]],
            zip(*(entry[name] for name in ("elpd_loo", "p_loo", "pareto_k")), strict=True),
            strict=True,
        ):
            assert np.array_equal(leave_one_out(observation.tolist(), entry["r_eff"]), expected, equal_nan=True)


def test_totals_are_those_of_the_observations() -> None:
    for entry in read("arviz_stats"):
        if "totals" not in entry:
            continue
        elpd = np.array(entry["elpd_loo"])
        found = elpd.sum(), np.sqrt(len(elpd) * elpd.var(ddof=1)), sum(entry["p_loo"])
        assert [entry["totals"][name] for name in ("elpd", "se", "p_loo")] == pytest.approx(found, rel=1e-13)


def test_no_model_deserves_more_weight_than_at_the_optimum() -> None:
    """The mean of e^elpd_im / sum_l w_l e^elpd_il is 1 for models that have weight, and 1 at most for others."""
    for entry in read("comparisons"):
        elpd = np.array(entry["elpd_loo"])
        weights = np.array([float(w) for w in entry["optimal_weights"]])
        densities = np.exp(elpd - elpd.max(0))
        means = (densities / (weights @ densities)).mean(1)
        assert means[weights > 0] == pytest.approx(1.0, rel=0, abs=1e-12)
        assert means.max() <= 1 + 1e-12
        assert float(entry["optimal_objective"]) >= float(entry["stacking_objective"])
