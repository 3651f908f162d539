"""Makes diabetes_draws.parquet and diabetes_folds.parquet: log-likelihoods of real data under exact posterior draws.

``pip install scikit-learn && python -m pipelines.samples.make_diabetes``
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent

Floats = npt.NDArray[np.float64]

# Each model by the columns of its features, beside an intercept.
MODELS = {"bmi": ["bmi"], "all": ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]}
DRAWS = 250
# Each patient is in one fold, and predicted from the patients of the others.
FOLDS, DRAWS_OF_FOLD = 10, 100

SCHEMA = pa.schema(
    {
        "model": pa.dictionary(pa.int8(), pa.string()),
        "draw": pa.int16(),
        "patient": pa.int16(),
        "log_likelihood": pa.float32(),
    }
)


def log_likelihoods(
    features: Floats,
    target: Floats,
    rng: np.random.Generator,
    draws: int = DRAWS,
    fitted: npt.NDArray[np.bool_] | slice = slice(None),
) -> Floats:
    """ln p(target_i | draw), (draws, observations), of a linear regression with its conjugate prior.

    The posterior is that of the observations that are ``fitted``: all of them unless told otherwise.

    With standardised features and target: coefficients given the variance are N(0, variance * I), the variance is
    inverse gamma with shape and scale 1. The posterior is of the same family (Gelman et al., Bayesian Data Analysis,
    chapter 14), so its draws are exact and independent: no chain has to converge.
    """
    scale = target.std()
    y = (target - target.mean()) / scale
    x = np.column_stack([np.ones(len(y)), (features - features.mean(0)) / features.std(0)])
    x_fitted, y_fitted = x[fitted], y[fitted]
    precision = x_fitted.T @ x_fitted + np.eye(x.shape[1])
    mean = np.linalg.solve(precision, x_fitted.T @ y_fitted)
    shape = 1.0 + len(y_fitted) / 2
    rate = 1.0 + (y_fitted @ y_fitted - mean @ precision @ mean) / 2
    variance = rate / rng.gamma(shape, size=draws)
    # If L L' is the precision, the covariance of L'^-1 z is its inverse.
    noise = np.linalg.solve(np.linalg.cholesky(precision).T, rng.normal(size=(x.shape[1], draws)))
    residuals = y[:, None] - x @ (mean[:, None] + noise * np.sqrt(variance))
    # The last term brings the density to the target's own unit.
    density = -0.5 * (np.log(2 * np.pi * variance) + residuals**2 / variance) - np.log(scale)
    return np.asarray(density.T)


def held_out(features: Floats, target: Floats, seed: int) -> Floats:
    """ln p(target_i | draw), (draws, observations), from the observations of the other folds."""
    found = np.empty((DRAWS_OF_FOLD, len(target)))
    fold = np.arange(len(target)) % FOLDS
    for number in range(FOLDS):
        rng = np.random.default_rng([seed, number])
        some = fold == number
        found[:, some] = log_likelihoods(features, target, rng, DRAWS_OF_FOLD, ~some)[:, some]
    return found


def make(folder: Path = FOLDER) -> None:
    """Writes the files, from the data that scikit-learn has."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    features = dict(zip(data.feature_names, data.data.T, strict=True))
    draws, folds = [], []
    for seed, (model, names) in enumerate(MODELS.items()):
        columns = np.column_stack([features[name] for name in names])
        draws.append(_table(model, log_likelihoods(columns, data.target, np.random.default_rng(seed))))
        folds.append(_table(model, held_out(columns, data.target, seed)))
    for name, tables in (("diabetes_draws", draws), ("diabetes_folds", folds)):
        pq.write_table(
            pa.concat_tables(tables).combine_chunks(),
            folder / f"{name}.parquet",
            compression="zstd",
            use_dictionary=["model", "draw"],
            column_encoding={"patient": "DELTA_BINARY_PACKED", "log_likelihood": "BYTE_STREAM_SPLIT"},
        )


def _table(model: str, found: Floats) -> pa.Table:
    draw, patient = np.divmod(np.arange(found.size), found.shape[1])
    arrays = [pa.array([model] * found.size), draw, patient, found.ravel().astype(np.float32)]
    return pa.table(arrays, names=SCHEMA.names).cast(SCHEMA)


if __name__ == "__main__":
    make()
