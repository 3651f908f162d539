"""Reference values of PSIS leave-one-out and of comparisons of models, made by ``write_loo_references.py``.

| file in ``golden/loo`` | contents |
| --- | --- |
| ``log_likelihoods.parquet`` | log-likelihoods, a row per observation, by the name of their set |
| ``arviz_stats.json`` | what arviz-stats says of a set, per observation and in total; a k of NaN: nothing fitted |
| ``formulas.json`` | what arviz-stats refuses or says NaN of, by ``loo_model.py``; and what arviz-stats said |
| ``comparisons.json`` | models by their elpd per observation, what arviz-stats says, and the optimum of stacking |

The sets ``diabetes bmi`` and ``diabetes all`` are the models of the shipped sample. ``centered_eight`` and
``non_centered_eight`` are the example data of that name in arviz-base (Apache-2.0). Numbers are the shortest that read
back as the same double, and Infinity and NaN, as Python's json has them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "golden" / "loo"
SAMPLE = Path(__file__).parents[1] / "pipelines" / "samples" / "diabetes_draws.parquet"

# Per observation its log-likelihood under each draw; observations may have different numbers of draws.
Observations = list[npt.NDArray[np.float64]]


def diabetes(model: str) -> Observations:
    rows = pq.read_table(SAMPLE, filters=[("model", "==", model)]).sort_by(
        [("patient", "ascending"), ("draw", "ascending")]
    )
    patients = 1 + rows["patient"][-1].as_py()
    return list(rows["log_likelihood"].to_numpy().astype(np.float64).reshape(patients, -1))


def log_likelihoods() -> dict[str, Observations]:
    """The sets by their names."""
    sets: dict[str, Observations] = {f"diabetes {model}": diabetes(model) for model in ("bmi", "all")}
    table = pq.read_table(FOLDER / "log_likelihoods.parquet")
    for name, values in zip(table["set"].to_pylist(), table["log_likelihood"], strict=True):
        sets.setdefault(name, []).append(values.values.to_numpy())
    return sets


def read(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))
    return entries
