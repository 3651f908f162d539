"""Makes diabetes_draws.parquet: log-likelihoods of real data under exact draws from a posterior.

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

SCHEMA = pa.schema(
    {
        "model": pa.dictionary(pa.int8(), pa.string()),
        "draw": pa.int16(),
        "patient": pa.int16(),
        "log_likelihood": pa.float32(),
    }
)


def log_likelihoods(features: Floats, target: Floats, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
    """ln p(target_i | draw), (draws, observations), of a linear regression with its conjugate prior.

    With standardised features and target: coefficients given the variance are N(0, variance * I), the variance is
    inverse gamma with shape and scale 1. The posterior is of the same family (Gelman et al., Bayesian Data Analysis,
    chapter 14), so its draws are exact and independent: no chain has to converge.
    """
    scale = target.std()
    y = (target - target.mean()) / scale
    x = np.column_stack([np.ones(len(y)), (features - features.mean(0)) / features.std(0)])
    precision = x.T @ x + np.eye(x.shape[1])
    mean = np.linalg.solve(precision, x.T @ y)
    shape = 1.0 + len(y) / 2
    rate = 1.0 + (y @ y - mean @ precision @ mean) / 2
    variance = rate / rng.gamma(shape, size=draws)
    # If L L' is the precision, the covariance of L'^-1 z is its inverse.
    noise = np.linalg.solve(np.linalg.cholesky(precision).T, rng.normal(size=(x.shape[1], draws)))
    residuals = y[:, None] - x @ (mean[:, None] + noise * np.sqrt(variance))
    # The last term brings the density to the target's own unit.
    density = -0.5 * (np.log(2 * np.pi * variance) + residuals**2 / variance) - np.log(scale)
    return np.asarray(density.T)


def make(folder: Path = FOLDER) -> None:
    """Writes the file, from the data that scikit-learn has."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    features = dict(zip(data.feature_names, data.data.T, strict=True))
    tables = []
    for seed, (model, names) in enumerate(MODELS.items()):
        columns = np.column_stack([features[name] for name in names])
        found = log_likelihoods(columns, data.target, np.random.default_rng(seed))
        draw, patient = np.divmod(np.arange(found.size), len(data.target))
        arrays = [pa.array([model] * found.size), draw, patient, found.ravel().astype(np.float32)]
        tables.append(pa.table(arrays, names=SCHEMA.names).cast(SCHEMA))
    pq.write_table(
        pa.concat_tables(tables).combine_chunks(),
        folder / "diabetes_draws.parquet",
        compression="zstd",
        use_dictionary=["model", "draw"],
        column_encoding={"patient": "DELTA_BINARY_PACKED", "log_likelihood": "BYTE_STREAM_SPLIT"},
    )


if __name__ == "__main__":
    make()
