"""--where: the bytes of files that have those rows alone, in every program; and what need not be read for that."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import BEAM, BOTH, RUNS, check_fault, contents, damage, write

from lse_stream.predicates import Condition
from pipelines.__main__ import main
from pipelines.output import PROVENANCE

NUMBERS = "number >= 10 and not (number in (12, 13) or number = 20)"
CONDITIONS = {
    "parquet": "time > '1970-01-01 00:05' and (kind = 'd1' or share is null) and label <= x",
    "parquet, states": f"{NUMBERS} and text != 't3'",
    "parquet, spilled": NUMBERS,
    "parquet, nulls": "share < 0.3",
    "loglik": "x > -20.5",
    "mixtures": "example < 1000",
    "waic": "number < 3",
    "lists": "example < 500 and kind in ('d0', 'd2')",
    "groups": "example < 300",
    "softmax": NUMBERS,
    "cross_entropy": NUMBERS,
    "rollup": NUMBERS,
}


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("name", CONDITIONS)
def test_the_bytes_are_those_of_files_with_these_rows(
    tmp_path: Path, inputs: Path, name: str, runner: list[str]
) -> None:
    condition = CONDITIONS[name]
    for path in inputs.rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        if set(Condition(condition).columns) <= set(table.column_names):
            table = table.filter(Condition(condition).of(table.schema).mask(table))
        write(tmp_path / path.relative_to(inputs), table)
    program, *arguments = RUNS[name]

    def run(folder: Path, output: Path, *more: str) -> dict[str, bytes]:
        given = [argument.format(folder) for argument in arguments if not (runner and "--memory" in argument)]
        assert main([program, *given, "--quiet", f"--output={output}", *more, *runner]) == 0
        return contents(output)

    expected = run(tmp_path, tmp_path / "of these rows")
    assert sum(map(len, expected.values())) > 1000
    assert run(inputs, tmp_path / "where", "--where", condition) == expected


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """Of three days a file each, with ten row groups; values rise from row to row."""
    for day in range(3):
        rows = np.arange(100 * day, 100 * day + 100)
        table = {"n": rows, "x": pa.array(rows, pa.float64()), "name": [f"name {i:04}" for i in rows]}
        write(tmp_path / "days" / f"day={day}" / "a.parquet", table, row_group_size=10)
    return tmp_path / "days"


@pytest.mark.parametrize(
    ("condition", "skipped", "rows"),
    [
        ("n >= 295", 29, 5),
        ("n < 5 or n > 290", 28, 14),
        ("day = 1", 20, 100),
        ("day = 1 and n < 110", 29, 10),
        ("day = 7", 30, 0),
        ("not (day = 1)", 10, 200),
        ("name >= 'name 0250' and name < 'name 0260'", 29, 10),
        ("x > 1e300", 30, 0),
        ("not (x <= 1e300)", 0, 0),  # of NaN this were true, and statistics do not tell that there is none
        ("n is null", 30, 0),
    ],
)
@pytest.mark.parametrize("runner", [[], [BEAM]], ids=["here", "on Beam"])
def test_row_groups_are_skipped(
    tmp_path: Path, days: Path, capsys: pytest.CaptureFixture[str], condition: str, skipped: int, rows: int, runner: Any
) -> None:
    arguments = ["parquet", "--input", str(days), "--key=n", "--value=x", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--where", condition, *runner]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert f"({rows} terms chosen)" in first.replace("1 term ", "1 terms ")
    assert f"of 3 files (skipped {skipped} of 30 row groups): " in first


def test_what_is_skipped_is_not_read(tmp_path: Path, days: Path) -> None:
    damage(days / "day=0" / "a.parquet", 3, 1)
    arguments = ["parquet", "--input", str(days), "--key=n", "--value=x", "--quiet"]
    assert main([*arguments, "--where=n > 40", f"--output={tmp_path / 'out'}"]) == 0
    assert main([*arguments, "--where=n > 30", f"--output={tmp_path / 'none'}"]) == 1


def test_without_statistics_all_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.parquet", {"n": [1, 2], "x": [1.0, 2.0]}, write_statistics=False, row_group_size=1)
    arguments = ["parquet", "--input", str(path), "--key=n", "--value=x", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--where=n > 1"]) == 0
    assert "2 rows (1 term chosen) of 1 file (skipped 0 of 2 row groups): 1 key " in capsys.readouterr().out


def test_faults_of_rows_that_are_not_chosen_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.parquet", {"k": [1, 2, 2], "x": [1, 2**60 + 1, 5]})
    arguments = ["parquet", "--input", str(path), "--key=k", "--value=x", f"--output={tmp_path / 'out'}", "--quiet"]
    assert main([*arguments, "--where=k = 1"]) == 0
    assert main([*arguments, "--where=k = 2", "--overwrite"]) == 1
    check_fault(capsys.readouterr().err, ["a.parquet, row group 0, of the rows chosen, column 'x': expected integers"])


@pytest.mark.parametrize(
    ("condition", "fragments"),
    [
        ("seson > 2000", ["column 'seson'", "found columns season, x (nearest: season)"]),
        ("season > 'a'", ["a.parquet: condition \"season > 'a'\": column 'season' of int64: expected a number"]),
        ("season >", ["--where: expected more at its end"]),
        ("season = null", ["--where: expected 'is null' or 'is not null' at character 10"]),
    ],
)
def test_bad_conditions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], condition: str, fragments: list[str]
) -> None:
    path = write(tmp_path / "a.parquet", {"season": [1999, 2005], "x": [1.0, 2.0]})
    output = tmp_path / "out"
    arguments = ["--input", str(path), "--key=season", "--value=x", f"--output={output}", "--where", condition]
    assert main(["parquet", *arguments]) == 2
    check_fault(capsys.readouterr().err, fragments)
    assert not output.exists()


def run(program: str, source: Path, output: Path, *options: str) -> int:
    status: int = main([program, f"--input={source}", f"--output={output}", "--quiet", *options])
    return status


def test_a_condition_on_a_field_adds_no_column(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", {"id": [1, 2], "x": [1.0, 2.0], "s": [{"k": 1}, {"k": 2}]})
    assert run("softmax", source, tmp_path / "out", "--value=x", "--key=id", "--where=s.k > 1") == 0
    found = pq.read_table(tmp_path / "out")
    assert found.column_names == ["id", "x", "s", "log_softmax", "softmax"]
    assert found["id"].to_pylist() == [2]


def test_conditions_see_values_as_they_are_in_the_file(tmp_path: Path) -> None:
    price = pa.array([Decimal("0.1"), Decimal("0.2")], pa.decimal128(10, 2))
    source = write(tmp_path / "a.parquet", {"ok": [True, False], "price": price})
    for options in (["--value=ok", "--where=ok"], ["--value=price", "--where=price < 0.2"]):
        assert run("parquet", source, tmp_path / "out", *options, "--overwrite") == 0
        assert pq.read_table(tmp_path / "out")["count"].to_pylist() == [1]


def test_lists_of_rows_that_are_not_chosen_may_be_longer(tmp_path: Path) -> None:
    table = pa.table({"model": ["a", "a", "b", "b"], "x": [[1.0, 2.0], [3.0, 4.0], [5.0], [6.0]]})
    source = write(tmp_path / "a.parquet", table, row_group_size=2)
    options = ["--value=x", "--inner=logmeanexp", "--where=model = 'b'"]
    assert run("loglik", source, tmp_path / "out", *options) == 0
    assert pq.read_table(tmp_path / "out" / "overall")["count"].to_pylist() == [1]


def test_csv_files_are_chosen_by_their_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in "ab":
        (tmp_path / "in" / f"model={model}").mkdir(parents=True)
        (tmp_path / "in" / f"model={model}" / "1.csv").write_text("lp__,y.1\n1,-1\n2,-2\n")
    arguments = ["loglik", f"--input={tmp_path / 'in'}/*/*.csv", "--wide=y.*", "--inner=logmeanexp"]
    assert main([*arguments, "--where=model = 'a'", f"--output={tmp_path / 'out'}"]) == 0
    assert "observations of 1 key" in capsys.readouterr().out.replace("1 observation ", "1 observations ")
    assert main([*arguments, "--where=lp__ < 2", f"--output={tmp_path / 'none'}"]) == 2
    check_fault(capsys.readouterr().err, ["lp__"], "loglik")


def test_results_say_how_many_rows_the_input_has(tmp_path: Path, days: Path) -> None:
    assert run("parquet", days, tmp_path / "out", "--value=x", "--where=n > 1000") == 0
    assert json.loads((tmp_path / "out" / PROVENANCE).read_text())["rows"] == 300


@pytest.mark.parametrize("view", [pa.string_view(), pa.binary_view()], ids=str)
def test_rows_with_views_are_chosen(tmp_path: Path, view: pa.DataType) -> None:
    """Which Delta Lake writes where it has changed rows."""
    texts = pa.array(["O'Hara", None, "Zoe"], pa.string()).cast(pa.binary()).cast(view)
    source = write(tmp_path / "a.parquet", {"s": texts, "x": [1.0, 2.0, 3.0]})
    assert run("softmax", source, tmp_path / "all", "--value=x", "--key=s", "--where=x < 3") == 0
    found = pq.read_table(tmp_path / "all")
    assert found["s"].to_pylist() == texts[:2].to_pylist()
    if view == pa.string_view():
        assert run("parquet", source, tmp_path / "out", "--value=x", "--key=s", "--where=s = 'O''Hara'") == 0
        assert pq.read_table(tmp_path / "out")["s"].to_pylist() == ["O'Hara"]


def test_it_is_said_where_no_row_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"k": ["a"], "x": [1.0]})
    for program in ("parquet", "loglik"):
        arguments = [program, f"--input={source}", "--key=k", "--value=x", f"--output={tmp_path / program}"]
        assert main([*arguments, "--where=k = 'A'"]) == 0
        assert "no row fulfils --where" in capsys.readouterr().out.splitlines()


def test_a_string_in_double_quotes_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"k": ["a"], "x": [1.0]})
    assert run("parquet", source, tmp_path / "out", "--value=x", '--where=k = "a"') == 2
    check_fault(
        capsys.readouterr().err, ["column 'a': expected once in the file, found columns k, x (a string is in '...')"]
    )
