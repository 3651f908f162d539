"""``python -m pipelines.loglik`` end to end: totals in one level and two, WAIC against ArviZ, bytes, faults."""

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from programs import ROOT, check_bad, check_bytes, contents, write

from lse_stream.state_column import StateType
from lse_stream.table_functions import finalize, merge_states, sort_by_keys
from pipelines.loglik import main

DRAWS = ROOT / "pipelines" / "samples" / "diabetes_draws.parquet"


def sample(n: int = 3000) -> pa.Table:
    """Rows of observations of 2 to 9 rows each, in disorder, with weights."""
    rng = np.random.default_rng(0)
    observation = np.repeat(np.arange(n), rng.integers(2, 10, n))[:n]
    fold = rng.integers(0, 4, n)[observation]
    rows = {
        "fold": pa.array(fold, pa.int8()),
        "id": pa.array([f"o{i}" for i in observation]),
        "value": rng.normal(-5, 3, n),
        "w": rng.random(n),
    }
    return pa.table(rows).take(rng.permutation(n))


def run(folder: Path, source: object, *arguments: str) -> dict[str, pa.Table]:
    argv = ["--input", str(source), "--output", str(folder), "--quiet", *arguments]
    assert main(argv) == 0
    return {path.name: pq.read_table(path, partitioning=None) for path in sorted(folder.iterdir()) if path.is_dir()}


def observations(table: pa.Table, keys: Sequence[str]) -> dict[Any, list[dict[str, Any]]]:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def exact_value(rows: list[dict[str, Any]], inner: str, weight: bool) -> Any:
    terms = [(row["w"] if weight else 1) * mpmath.exp(row["value"]) for row in rows]
    divisor = mpmath.fsum(row["w"] if weight else 1 for row in rows) if inner == "logmeanexp" else 1
    return mpmath.log(mpmath.fsum(terms) / divisor)


@pytest.mark.parametrize("weight", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("inner", ["logsumexp", "logmeanexp"])
def test_two_levels_are_the_true_values(tmp_path: Path, inner: str, weight: bool) -> None:
    table = sample()
    source = write(tmp_path / "a.parquet", table)
    arguments = ["--key=fold", "--observation=id", "--value=value", f"--inner={inner}", "--per_observation"]
    found = run(tmp_path / "out", source, *arguments, *(["--weight=w"] if weight else []))
    groups = observations(table, ["fold", "id"])
    columns = {"value": pa.float64(), "count": pa.int64()}
    assert found["observations"].schema == pa.schema({"fold": pa.int8(), "id": pa.string()} | columns)
    assert [(row["fold"], row["id"]) for row in found["observations"].to_pylist()] == sorted(groups)
    values = defaultdict(list)
    with mpmath.workprec(300):
        for row in found["observations"].to_pylist():
            rows = groups[row["fold"], row["id"]]
            assert row["count"] == len(rows)
            assert abs(row["value"] - exact_value(rows, inner, weight)) <= 0.52 * np.spacing(max(abs(row["value"]), 1))
            values[row["fold"]].append(row["value"])
    # Of the values, the totals are exact: math.fsum rounds once, too.
    expected = [
        {"fold": fold, "log_likelihood": math.fsum(values[fold]), "count": len(values[fold]), "max": max(values[fold])}
        for fold in sorted(values)
    ]
    assert found["totals"].to_pylist() == expected
    everything = [value for fold in values.values() for value in fold]
    assert found["overall"].to_pylist() == [
        {"log_likelihood": math.fsum(everything), "count": len(everything), "max": max(everything)}
    ]


def test_one_level_is_the_exact_sum(tmp_path: Path) -> None:
    values = [1e300, 1.0, -1e300, 1e-300, 0.1, 0.2, None]
    source = write(tmp_path / "a.parquet", {"k": list("aaaabbb"), "value": values})
    found = run(tmp_path / "out", source, "--key=k", "--value=value")
    assert found["totals"].to_pylist() == [
        {"k": "a", "log_likelihood": 1.0, "count": 4, "max": 1e300},
        {"k": "b", "log_likelihood": 0.1 + 0.2, "count": 2, "max": 0.2},
    ]
    assert found["overall"]["log_likelihood"].to_pylist() == [math.fsum([1.0, 1e-300, 0.1, 0.2])]
    nothing = run(tmp_path / "nulls", source, "--key=k", "--value=value", "--no-skip_nulls")
    assert nothing["totals"]["log_likelihood"].to_pylist() == [1.0, None]
    assert nothing["overall"]["log_likelihood"].to_pylist() == [None]


def test_the_column_may_have_the_name_of_a_result(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"fold": [1, 1, 2], "log_likelihood": [-1.0, -2.0, -4.0]})
    found = run(tmp_path / "out", source, "--key=fold", "--value=log_likelihood", "--state")
    assert found["totals"].column_names == ["fold", "log_likelihood", "count", "max", "state"]
    assert found["totals"]["log_likelihood"].to_pylist() == [-3.0, -4.0]
    assert found["overall"]["log_likelihood"].to_pylist() == [-7.0]
    assert finalize(found["totals"].select(["fold", "state"]))["log_likelihood"].to_pylist() == [-3.0, -4.0]


def test_a_null_row_is_left_out_or_makes_its_observation_null(tmp_path: Path) -> None:
    rows = {"k": [0, 0, 0, 1], "id": [1, 1, 2, 1], "value": [0.0, None, 3.0, 1.0]}
    source = write(tmp_path / "a.parquet", rows)
    always = ["--key=k", "--observation=id", "--value=value", "--inner=logsumexp", "--per_observation"]
    found = run(tmp_path / "skip", source, *always)
    assert found["observations"]["value"].to_pylist() == [0.0, 3.0, 1.0]
    assert found["totals"]["log_likelihood"].to_pylist() == [3.0, 1.0]
    found = run(tmp_path / "keep", source, *always, "--no-skip_nulls")
    assert found["observations"]["value"].to_pylist() == [None, 3.0, 1.0]
    assert found["totals"]["log_likelihood"].to_pylist() == [None, 1.0]


def test_states_of_parts_merge_to_those_of_the_whole(tmp_path: Path) -> None:
    table = sample()
    late = pc.greater_equal(table["fold"], 2)
    always = ["--key=fold", "--observation=id", "--value=value", "--inner=logsumexp", "--state"]
    parts = {"all": table, "early": table.filter(pc.invert(late)), "late": table.filter(late)}
    found = {
        name: run(tmp_path / name, write(tmp_path / f"{name}.parquet", part), *always) for name, part in parts.items()
    }
    state = found["all"]["overall"].schema.field("state").type
    assert state == StateType(aggregation="log_likelihood")
    merged = merge_states([found[name]["totals"].select(["fold", "state"]) for name in ("early", "late")], ["fold"])
    assert sort_by_keys(merged, ["fold"]) == found["all"]["totals"].select(["fold", "state"])
    overall = merge_states([found["early"]["totals"], found["late"]["overall"]], [])
    results = ["log_likelihood", "count", "max"]
    assert finalize(overall, results=results) == found["all"]["overall"].select(results)


def test_waic_is_that_of_arviz(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
    always = ["--key=model", "--observation=patient", "--value=log_likelihood", "--inner=logmeanexp", "--waic"]
    found = run(tmp_path / "out", DRAWS, *always, "--ddof=0", "--per_observation")
    draws = pq.read_table(DRAWS)
    assert found["totals"]["model"].to_pylist() == ["all", "bmi"]
    for row in found["totals"].to_pylist():
        rows = draws.filter(pc.equal(draws["model"].cast(pa.string()), row["model"])).sort_by("draw")
        logs = rows["log_likelihood"].to_numpy().astype(np.float64).reshape(250, 442)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = arviz.from_dict(posterior={"x": np.zeros((1, 250))}, log_likelihood={"y": logs[None]})
            expected = arviz.waic(data, pointwise=True)
        for name, theirs in (("elpd_waic", "elpd_waic"), ("se_waic", "se"), ("p_waic", "p_waic")):
            assert abs(row[name] - expected[theirs]) <= 1e-10 * abs(expected[theirs])
        own = found["observations"].filter(pc.equal(found["observations"]["model"].cast(pa.string()), row["model"]))
        np.testing.assert_allclose(own["elpd_waic"], expected.waic_i.values, rtol=1e-12)


def test_waic_is_the_true_value(tmp_path: Path) -> None:
    """By the equations of Vehtari, Gelman and Gabry (2017), with sample variances."""
    table = sample(400)
    source = write(tmp_path / "a.parquet", table)
    always = ["--observation=id", "--value=value", "--inner=logmeanexp", "--waic", "--per_observation"]
    table = table.filter(pc.greater(table["fold"], -1))
    groups = observations(table, ["id"])
    if any(len(rows) < 2 for rows in groups.values()):
        pytest.fail("the sample has observations of one row")
    found = run(tmp_path / "out", source, *always)
    with mpmath.workprec(300):
        lppd, p = {}, {}
        for [name], rows in groups.items():
            lppd[name] = exact_value(rows, "logmeanexp", False)
            mean = mpmath.fsum(row["value"] for row in rows) / len(rows)
            p[name] = mpmath.fsum((row["value"] - mean) ** 2 for row in rows) / (len(rows) - 1)
        elpd = {name: lppd[name] - p[name] for name in lppd}
        mean = mpmath.fsum(elpd.values()) / len(elpd)
        variance = mpmath.fsum((x - mean) ** 2 for x in elpd.values()) / (len(elpd) - 1)
        true = {
            "lppd": mpmath.fsum(lppd.values()),
            "p_waic": mpmath.fsum(p.values()),
            "elpd_waic": mpmath.fsum(elpd.values()),
            "se_waic": mpmath.sqrt(len(elpd) * variance),
        }
        for row in found["observations"].to_pylist():
            for name, expected in (("lppd", lppd), ("p_waic", p), ("elpd_waic", elpd)):
                assert abs(row[name] - expected[row["id"]]) <= 1e-15 * max(1, abs(row["lppd"]), row["p_waic"])
    for name in ("totals", "overall"):
        assert found[name].schema.names == ["log_likelihood", "count", "max", *true]
        [row] = found[name].to_pylist()
        assert row["log_likelihood"] == row["lppd"]
        for column, expected in true.items():
            assert abs(row[column] - expected) <= 1e-13 * abs(expected)


CASES = {
    "none": ["--state", "--num_shards=3"],
    "mixture": ["--observation=id", "--weight=w", "--inner=logsumexp", "--per_observation"],
    "waic and loo": ["--observation=fold", "--inner=logmeanexp", "--waic", "--loo", "--num_shards=2"],
}


@pytest.mark.parametrize("case", [*list(CASES)[:2], pytest.param("waic and loo", marks=pytest.mark.engine)])
def test_bytes_depend_on_the_rows_alone(tmp_path: Path, case: str) -> None:
    key = "digit" if case == "waic and loo" else "fold"
    table = sample(1200)
    table = table.append_column("digit", pc.utf8_slice_codeunits(table["id"], -1))
    arguments = [f"--key={key}", "--value=value", *CASES[case]]
    found = check_bytes("loglik", main, tmp_path, table, arguments, processes=case == "waic and loo")
    shards = {"none": 3, "mixture": 1, "waic and loo": 2}[case]
    totals = [f"totals/part-0000{i}-of-0000{shards}.parquet" for i in range(shards)]
    observations = ["observations/part-00000-of-00001.parquet"] if case == "mixture" else []
    assert list(found) == [*observations, "overall/part-00000-of-00001.parquet", *totals]


def test_results_are_replaced_on_demand_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", sample(100))
    out = tmp_path / "out"
    always = ["--input", str(source), "--output", str(out), "--value=value", "--observation=id", "--inner=logsumexp"]
    assert main([*always, "--per_observation", "--quiet"]) == 0
    before = contents(out)
    assert main([*always, "--quiet"]) == 2
    assert "expected nothing there yet (or --overwrite), found observations/part-00000" in capsys.readouterr().err
    assert contents(out) == before
    assert main([*always, "--quiet", "--overwrite"]) == 0
    assert list(contents(out)) == list(before)[1:]
    (out / "totals" / "notes.txt").write_text("mine")
    assert main([*always, "--quiet", "--overwrite"]) == 2
    assert "nothing there but earlier results, found totals/notes.txt" in capsys.readouterr().err
    assert (out / "totals" / "notes.txt").exists()


def test_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--input", str(DRAWS), "--key=model", "--observation=patient", "--value=log_likelihood"]
    assert main([*argv, "--inner=logmeanexp", "--waic", "--output", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("221,000 rows of 1 file: 884 observations of 2 keys, ")
    assert [line.split() for line in lines[3:6]] == [
        ["model", "count", "lppd", "p_waic", "elpd_waic", "se_waic", "waic"],
        ["all", "442", "-2386.58", "11.046", "-2397.63", "14.0337", "4795.26"],
        ["bmi", "442", "-2454.26", "2.33905", "-2456.6", "12.665", "4913.19"],
    ]


def test_the_summary_tells_what_puts_waic_in_doubt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"o": [1, 1, 2, 2, 3, 3], "v": [0.0, 0.1, 0.0, 3.0, 0.0, None]})
    always = ["--observation=o", "--value=v", "--inner=logmeanexp", "--waic", "--ddof=0", "--per_observation"]
    assert main(["--input", str(source), *always, "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith("\n1 of 3 observations with p_waic above 0.4: WAIC is in doubt\n")
    assert (
        main(
            [
                "--input",
                str(DRAWS),
                "--key=model",
                *["--observation=patient", "--value=log_likelihood", *always[2:]],
                "--output",
                str(tmp_path / "fine"),
            ]
        )
        == 0
    )
    assert "doubt" not in capsys.readouterr().out


GOOD = {"k": ["a", "b", "b"], "o": [1, 2, 2], "v": [1.0, 2.0, 3.0], "w": [1.0, 0.5, 0.5]}
FILES = {"in/a.parquet": GOOD}
BASE = "--input in --key k --observation o --value v --output out --inner "
BAD = {
    "no such inner": (FILES, BASE + "median", ["--inner", "'median'"]),
    "no observation": (FILES, "--input in --value v --output out --inner logsumexp", ["--inner", "--observation"]),
    "observation in one level": (FILES, BASE + "none", ["--observation", "--inner logsumexp or logmeanexp"]),
    "weight in one level": (FILES, "--input in --value v --weight w --output out", ["--weight", "--inner"]),
    "waic of a mixture": (
        FILES,
        BASE + "logsumexp --waic",
        ["--waic", "--inner logmeanexp", "--observation", "found --inner logsumexp"],
    ),
    "waic with weights": (FILES, BASE + "logmeanexp --waic --weight w", ["--waic", "--weight"]),
    "waic with states": (FILES, BASE + "logmeanexp --waic --state", ["--waic", "--state"]),
    "ddof": (FILES, BASE + "logmeanexp --waic --ddof 2", ["--ddof", "2"]),
    "key is the observation": (FILES, BASE + "logsumexp --key o", ["o: expected columns named once"]),
    "weight is the key": (FILES, BASE + "logsumexp --weight k", ["k: expected columns named once", "--weight"]),
    "key with the name of a result": (FILES, BASE + "logsumexp --key se", ["--key se", "elpd_waic"]),
    "no such observation": (FILES, BASE.replace("n o", "n id") + "logsumexp", ["in/a.parquet", "column 'id'"]),
    "observation missing in one file": (
        FILES | {"in/b.parquet": {"k": ["a"], "v": [1.0]}},
        BASE + "logsumexp",
        ["in/b.parquet", "column 'o'", "found columns k, v"],
    ),
    "key of another type in one file": (
        FILES | {"in/b.parquet": GOOD | {"k": [1, 2, 3]}},
        BASE + "logsumexp",
        ["in/b.parquet", "column 'k'", "expected string", "found int64"],
    ),
    "weight is a string": (FILES, BASE + "logsumexp --weight k2", ["column 'k2'"]),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "loglik", tmp_path, capsys, BAD[name])


BAD_ROWS = {
    "weight NaN": (
        GOOD | {"w": [1.0, math.nan, 1.0]},
        "logsumexp --weight w",
        ["row group 0, column 'w'", "found nan"],
    ),
    "weight infinite": (GOOD | {"w": [1.0, math.inf, 1.0]}, "logsumexp --weight w", ["column 'w'", "found inf"]),
    "negative weight of a mean": (GOOD | {"w": [1.0, 1.0, -2.0]}, "logmeanexp --weight w", ["'w'", "found -2.0"]),
    "one draw": (GOOD, "logmeanexp --waic", ["observation k='a', o=1", "expected 2 draws or more", "found 1"]),
    "an integer too large": (GOOD | {"v": [1, 2, 2**60]}, "logsumexp", ["in/a.parquet, row group 0, column 'v'"]),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_faults_found_in_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rows, arguments, fragments = BAD_ROWS[name]
    monkeypatch.chdir(tmp_path)
    check_bad(main, "loglik", tmp_path, capsys, ({"in/a.parquet": rows}, BASE + arguments, fragments), status=1)


def test_negative_weights_are_no_fault_where_no_mean_is_asked(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", GOOD | {"w": [1.0, 3.0, -1.0]})
    argv = ["--key=k", "--observation=o", "--value=v", "--weight=w", "--inner=logsumexp"]
    found = run(tmp_path / "out", source, *argv)
    expected = math.log(3 * math.exp(2.0) - math.exp(3.0))
    assert found["totals"]["log_likelihood"].to_pylist() == pytest.approx([1.0, expected], rel=1e-15)


def test_a_negative_sum_has_no_logarithm(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", {"k": ["a", "b"], "o": [1, 2], "v": [1.0, 2.0], "w": [-1.0, 1.0]})
    argv = ["--key=k", "--observation=o", "--value=v", "--weight=w", "--inner=logsumexp"]
    found = run(tmp_path / "out", source, *argv)["totals"]
    assert found["count"].to_pylist() == [1, 1]
    assert math.isnan(found["log_likelihood"][0].as_py())
    assert found["log_likelihood"][1].as_py() == 2.0
