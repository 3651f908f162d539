"""Tables of Delta Lake and Iceberg as input: the bytes of their rows in a file; versions; what is refused."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from programs import BEAM, check_fault, cli, contents, write
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.types import DoubleType

from pipelines import parquet
from pipelines.output import PROVENANCE

ROWS = pa.table(
    {
        "day": pa.array([date(2020, 1, 1), date(2020, 1, 2), None, date(2020, 1, 2)]),
        "name": ["a b", "c/d", "é", "c/d"],
        "x": [1.0, 2.0, 3.0, 0.5],
    }
)
OPTIONS = ["--key=day", "--key=name", "--value=x", "--quiet"]


def of_file(folder: Path, table: pa.Table, *more: str) -> dict[str, bytes]:
    source = write(folder / "rows.parquet", table)
    return of_table(f"{source}", folder / "of_file", *more)


def of_table(name: str, output: Path, *more: str) -> dict[str, bytes]:
    assert parquet.main([f"--input={name}", *OPTIONS, f"--output={output}", "--overwrite", *more]) == 0
    return contents(output)


# --- Delta Lake -------------------------------------------------------------------------------------------------------


@pytest.fixture
def delta(tmp_path: Path) -> str:
    write_deltalake(tmp_path / "table", ROWS, partition_by=["day", "name"])
    write_deltalake(tmp_path / "table", ROWS.slice(0, 1), mode="append")
    return f"delta:{tmp_path / 'table'}"


@pytest.mark.parametrize("runner", [[], [BEAM]], ids=["here", "on Beam"])
def test_versions_of_a_delta_table(tmp_path: Path, delta: str, runner: list[str]) -> None:
    both = pa.concat_tables([ROWS, ROWS.slice(0, 1)])
    assert of_table(delta, tmp_path / "out", *runner) == of_file(tmp_path, both)
    assert of_table(f"{delta}@0", tmp_path / "out", *runner) == of_file(tmp_path, ROWS)
    assert json.loads((tmp_path / "out" / PROVENANCE).read_text())["input"] == [f"{delta}@0"]
    of_table(delta, tmp_path / "out", *runner)
    assert json.loads((tmp_path / "out" / PROVENANCE).read_text())["input"] == [f"{delta}@1"]


def test_partitions_are_pruned(tmp_path: Path, delta: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = "--where=day = date '2020-01-02' or day is null and name = 'é'"
    arguments = [f"--input={delta}", *OPTIONS[:-1], where, f"--output={tmp_path / 'out'}"]
    assert parquet.main(arguments) == 0
    assert "(skipped 2 of 4 row groups)" in capsys.readouterr().out
    assert contents(tmp_path / "out") == of_file(tmp_path, ROWS.slice(1))


def test_files_older_than_a_column_have_nulls_there(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", ROWS.drop_columns(["name"]))
    write_deltalake(tmp_path / "table", ROWS, mode="append", schema_mode="merge")
    older = ROWS.set_column(1, "name", pa.nulls(4, pa.string()))
    assert of_table(f"delta:{tmp_path / 'table'}", tmp_path / "out") == of_file(
        tmp_path, pa.concat_tables([older, ROWS])
    )


def test_rows_that_were_deleted_are_not_read(tmp_path: Path, delta: str) -> None:
    DeltaTable(tmp_path / "table").delete("name = 'c/d'")
    left = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(0, 1), ROWS.slice(2, 1)])
    assert of_table(delta, tmp_path / "out") == of_file(tmp_path, left)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"readerFeatures": ["deletionVectors", "variantType"]}, "found variantType"),
        (
            {"readerFeatures": ["columnMapping"], "configuration": {"delta.columnMapping.mode": "name"}},
            "Column mapping",
        ),
    ],
)
def test_features_that_are_not_known_are_refused(
    tmp_path: Path, delta: str, capsys: pytest.CaptureFixture[str], change: dict[str, Any], expected: str
) -> None:
    [log] = (tmp_path / "table" / "_delta_log").glob("*0.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "protocol" in line:
            features = {"readerFeatures": change["readerFeatures"], "writerFeatures": change["readerFeatures"]}
            line["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, **features}
        if "metaData" in line:
            line["metaData"]["configuration"] = change.get("configuration", {})
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert parquet.main([f"--input={delta}", *OPTIONS, f"--output={tmp_path / 'out'}"]) == 2
    check_fault(capsys.readouterr().err, [delta, expected])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("delta:{}/none", "delta:{}/none: expected a table that can be read"),
        ("delta:{}/table@7", "delta:{}/table@7: expected a table that can be read"),
    ],
)
def test_tables_that_are_not_there(
    tmp_path: Path, delta: str, capsys: pytest.CaptureFixture[str], name: str, expected: str
) -> None:
    assert delta
    assert parquet.main([f"--input={name.format(tmp_path)}", *OPTIONS, f"--output={tmp_path / 'out'}"]) == 2
    check_fault(capsys.readouterr().err, [expected.format(tmp_path)])


def test_the_output_lies_apart_from_the_table(tmp_path: Path, delta: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parquet.main([f"--input={delta}", *OPTIONS, f"--output={tmp_path / 'table' / 'out'}"]) == 2
    check_fault(capsys.readouterr().err, ["expected a place apart from the input"])


def test_the_directory_of_a_table_is_none_of_files(
    tmp_path: Path, delta: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = delta.removeprefix("delta:")
    assert parquet.main([f"--input={place}", *OPTIONS, f"--output={tmp_path / 'out'}"]) == 2
    check_fault(capsys.readouterr().err, [f"{place}: expected {delta}, as it is a table of Delta Lake"])


def test_a_table_that_is_named_twice_counts_once(tmp_path: Path, delta: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = of_table(delta, tmp_path / "once")
    (tmp_path / "link").symlink_to("table")
    arguments = ["--input", delta, "delta:./table", "delta:link@1", "--overwrite", *OPTIONS]
    assert parquet.main([*arguments, f"--output={tmp_path / 'out'}"]) == 0
    assert contents(tmp_path / "out") == expected


# --- Iceberg ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    found = SqlCatalog("lake", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/lake")
    found.create_namespace("weather")
    yield found
    found.close()


def environment(folder: Path) -> dict[str, str]:
    prefix = "PYICEBERG_CATALOG__LAKE__"
    return {
        f"{prefix}TYPE": "sql",
        f"{prefix}URI": f"sqlite:///{folder}/catalog.db",
        f"{prefix}WAREHOUSE": f"file://{folder}/lake",
    }


def test_snapshots_of_an_iceberg_table(tmp_path: Path, catalog: Catalog) -> None:
    table = catalog.create_table("weather.storms", schema=ROWS.schema)
    table.append(ROWS)
    first = table.current_snapshot()
    assert first is not None
    table.append(ROWS.slice(0, 1))
    outputs: dict[str, dict[str, bytes]] = {}
    for name in ("lake.weather.storms", f"lake.weather.storms@{first.snapshot_id}"):
        output = tmp_path / f"out {len(outputs)}"
        run = cli("parquet", f"--input=iceberg:{name}", *OPTIONS, f"--output={output}", **environment(tmp_path))
        assert (run.returncode, run.stderr) == (0, "")
        outputs[name] = contents(output)
    latest, older = outputs.values()
    assert latest == of_file(tmp_path, pa.concat_tables([ROWS, ROWS.slice(0, 1)]))
    assert older == of_file(tmp_path, ROWS)
    second = table.current_snapshot()
    assert second is not None
    expected = [f"iceberg:lake.weather.storms@{second.snapshot_id}"]
    assert json.loads((tmp_path / "out 0" / PROVENANCE).read_text())["input"] == expected


def test_a_column_that_was_renamed_is_refused(tmp_path: Path, catalog: Catalog) -> None:
    table = catalog.create_table("weather.storms", schema=ROWS.schema)
    table.append(ROWS)
    with table.update_schema() as update:
        update.rename_column("name", "storm")
    table.append(ROWS.rename_columns(["day", "storm", "x"]))
    arguments = ["--input=iceberg:lake.weather.storms", "--key=storm", "--value=x", f"--output={tmp_path / 'out'}"]
    run = cli("parquet", *arguments, **environment(tmp_path))
    assert run.returncode == 2
    check_fault(run.stderr, ["expected columns that were never renamed or made anew, found 'storm' as 'name' in "])


def test_a_column_that_was_made_anew_is_refused(tmp_path: Path, catalog: Catalog) -> None:
    table = catalog.create_table("weather.storms", schema=ROWS.schema)
    table.append(ROWS)
    with table.update_schema() as update:
        update.delete_column("x")
    with table.update_schema() as update:
        update.add_column("x", DoubleType())
    table.append(ROWS.slice(0, 1))
    arguments = ["--input=iceberg:lake.weather.storms", "--value=x", f"--output={tmp_path / 'out'}"]
    run = cli("parquet", *arguments, **environment(tmp_path))
    assert run.returncode == 2
    check_fault(run.stderr, ["expected columns that were never renamed or made anew, found 'x' as 'x' in "])


def test_a_catalog_that_is_not_there(tmp_path: Path) -> None:
    run = cli("parquet", "--input=iceberg:none.a.b", "--value=x", f"--output={tmp_path / 'out'}")
    assert run.returncode == 2
    check_fault(run.stderr, ["iceberg:none.a.b: expected a table that can be read"])
