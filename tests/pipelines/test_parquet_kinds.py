"""--kind, --scale, --weight and --result of the program parquet: what functions for tables give, on both engines."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mpmath import log10, mpf, workdps
from programs import BEAM, Bad, check_bad, write

from lse_stream.table_functions import finalize, group_states, sort_by_keys
from pipelines.parquet import main
from pipelines.rollup import main as rollup


def sample(n: int = 500) -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table({"k": rng.integers(0, 7, n), "x": rng.normal(size=n) * 20, "w": rng.random(n)})


@pytest.mark.parametrize("runner", [[], [BEAM]], ids=["here", "on Beam"])
@pytest.mark.parametrize(
    ("options", "aggregation", "scale", "results"),
    [
        ([], "logsumexp", "natural", None),
        (["--scale=dB"], "logsumexp", "decibel", None),
        (["--scale=base4", "--result=bonus", "--result=logmeanexp"], "logsumexp", "base 4", ["bonus", "logmeanexp"]),
        (["--weight=w"], "weighted_logsumexp", "natural", None),
        (["--weight=w", "--scale=magnitude", "--result=logmeanexp"], "weighted_logsumexp", "magnitude", ["logmeanexp"]),
        (["--kind=log_likelihood"], "log_likelihood", "natural", None),
        (["--kind=effective_sample_size"], "effective_sample_size", "natural", None),
        (["--kind=exact_sum"], "exact_sum", "natural", None),
        (["--kind=exact_sum", "--result=variance"], "exact_sum", "natural", ["variance"]),
        (["--result=count"], "logsumexp", "natural", ["count"]),
    ],
)
def test_it_is_what_tables_give(
    tmp_path: Path, options: list[str], aggregation: str, scale: str, results: list[str] | None, runner: list[str]
) -> None:
    table = sample()
    source = write(tmp_path / "a.parquet", table, row_group_size=100)
    arguments = [f"--input={source}", "--key=k", "--value=x", f"--output={tmp_path / 'out'}", *options, *runner]
    assert main([*arguments, "--state"]) == 0
    values = ["x", "w"] if aggregation.startswith("weighted") else "x"
    states = sort_by_keys(group_states(table, ["k"], values, aggregation=aggregation, scale=scale), ["k"])
    asked = None if results is None else list(dict.fromkeys([*results, "count"]))
    expected = finalize(states, results=asked, keep_state=True)
    found = pq.read_table(tmp_path / "out")
    assert found.column_names == expected.column_names
    assert found.equals(expected)


def test_two_sources_of_60_decibel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"level": [60, 60]})
    assert main([f"--input={source}", "--value=level", "--scale=dB", f"--output={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out.splitlines()[3:] == [
        "logsumexp  count  max   bonus",
        "  63.0103      2   60  3.0103",
    ]
    assert pq.read_table(tmp_path / "out")["logsumexp"].to_pylist() == [63.01029995663981]


def test_the_equivalent_level_of_an_hour(tmp_path: Path) -> None:
    """A quarter of the time at 70 dB, the rest at 60 dB: 10 log10((10^7 + 3 10^6) / 4)."""
    times = pa.array([0, 900, 3600], pa.timestamp("s", "UTC"))
    source = write(tmp_path / "a.parquet", {"time": times, "level": [70.0, 60.0, 50.0], "seconds": [900, 2700, 60]})
    options = "--key=time --truncate=time=hour --value=level --scale=decibel --weight=seconds --result=logmeanexp"
    assert main([f"--input={source}", *options.split(), f"--output={tmp_path / 'out'}"]) == 0
    found = pq.read_table(tmp_path / "out")
    assert found.column_names == ["time", "logmeanexp", "count"]
    assert found["logmeanexp"].to_pylist() == [pytest.approx(10 * np.log10(3.25e6), rel=1e-15), 50.0]


def test_the_magnitude_of_a_double_star(tmp_path: Path) -> None:
    """Two stars of magnitude 1 are 2.5 log10(2) brighter than one."""
    source = write(tmp_path / "a.parquet", {"star": ["a", "a"], "magnitude": [1.0, 1.0]})
    options = "--key=star --value=magnitude --scale=magnitude --result=logsumexp"
    assert main([f"--input={source}", *options.split(), f"--output={tmp_path / 'out'}"]) == 0
    with workdps(30):
        expected = float(1 - mpf("2.5") * log10(2))
    assert pq.read_table(tmp_path / "out")["logsumexp"].to_pylist() == [expected]


FILES: dict[str, Any] = {"in.parquet": {"k": ["a", "b"], "x": [1.0, 2.0], "w": [1.0, np.inf]}}
BASE = "--input in.parquet --value x --output out"
BAD: dict[str, Bad] = {
    "no such kind": (FILES, f"{BASE} --kind sum", ["--kind", "'sum'", "log_likelihood"]),
    "no such scale": (FILES, f"{BASE} --scale decibels", ["--scale", "'decibels'", "nearest: decibel"]),
    "no such result": (FILES, f"{BASE} --result mean", ["--result: expected some of logsumexp, count", "'mean'"]),
    "a result twice": (FILES, f"{BASE} --result max --result max", ["--result: ", "each once"]),
    "a kind on a scale": (FILES, f"{BASE} --kind log_likelihood --scale dB", ["--scale: expected natural", "decibel"]),
    "a kind with weights": (FILES, f"{BASE} --kind log_likelihood --weight w", ["--weight: expected none", "found w"]),
    "a key like a result": (FILES, f"{BASE} --key max", ["--key max", "columns of the result"]),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "parquet", tmp_path, capsys, BAD[name])


def test_weights_that_are_none_name_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = (FILES, f"{BASE} --weight w", ["in.parquet, row group 0, column 'w': expected finite weights, found inf"])
    check_bad(main, "parquet", tmp_path, capsys, bad, status=1)


@pytest.mark.parametrize("runner", [[], [BEAM]], ids=["here", "on Beam"])
def test_exact_totals_of_integers_in_files_of_several_types(tmp_path: Path, runner: list[str]) -> None:
    rng = np.random.default_rng(4)
    keys, values = rng.integers(0, 5, 900), rng.integers(-(2**62), 2**62, 900)
    values[:300] >>= 40
    column = pa.array(values)
    columns = [column[:300].cast(pa.int32()), column[300:600], column[600:].dictionary_encode()]
    for part, column in enumerate(columns):
        table = pa.table({"k": keys[300 * part : 300 * part + 300], "x": column})
        write(tmp_path / "data" / f"{part}.parquet", table, row_group_size=70)
    order = rng.permutation(900)
    write(tmp_path / "other" / "all.parquet", {"k": keys[order], "x": values[order]}, row_group_size=400)
    for name in ("data", "other"):
        arguments = [f"--input={tmp_path / name}", "--key=k", "--value=x", "--kind=exact_sum", *runner]
        assert main([*arguments, "--state", "--num_shards=2", f"--output={tmp_path / 'of' / name}"]) == 0
    files = sorted((tmp_path / "of" / "data").glob("part-*"))
    assert len(files) == 2
    for file in files:
        assert file.read_bytes() == (tmp_path / "of" / "other" / file.name).read_bytes()
    found = pq.read_table(tmp_path / "of" / "data").sort_by("k")
    assert found.schema.field("sum").type == pa.decimal128(38, 0)
    assert found["sum"].to_pylist() == [sum(values[keys == key].tolist()) for key in range(5)]
    assert found["max"].to_pylist() == [int(values[keys == key].max()) for key in range(5)]


def test_exact_totals_of_decimals_are_rolled_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, (value, precision) in enumerate([("99999999.99", 10), ("0.01", 3), ("-0.10", 5)]):
        data_type = pa.decimal128(precision, 2)
        table = pa.table({"k": [part], "amount": pa.array([Decimal(value)], data_type)})
        write(tmp_path / "data" / f"{part}.parquet", table)
    arguments = [f"--input={tmp_path / 'data'}", "--value=amount", "--kind=exact_sum", "--state"]
    assert main([*arguments, "--key=k", f"--output={tmp_path / 'fine'}"]) == 0
    assert rollup([f"--input={tmp_path / 'fine'}", "--state", f"--output={tmp_path / 'all'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == [
        *("99999999.90", "3", "3.33333e+07", "3.33333e+15", "-0.10", "99999999.99"),
    ]
    assert main([*arguments, f"--output={tmp_path / 'whole'}"]) == 0
    [one], [other] = (pq.read_table(tmp_path / name)["state"].to_pylist() for name in ("all", "whole"))
    assert one == other


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.array(["a"]), "column 'x': expected integers, floats, decimals or booleans, found string"),
        (
            pa.array([Decimal(10) ** 50], pa.decimal256(60, 0)),
            "row group 0, column 'x': expected values that decimal128",
        ),
        (pa.array([Decimal(1)], pa.decimal256(76, 50)), "expected decimals of at most 38 digits after the point"),
        (pa.array([Decimal(9 * 10**37)] * 2), "key k='b': expected a sum of at most 38 digits, found one of 192 bits"),
    ],
)
def test_exact_totals_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: pa.Array, found: str
) -> None:
    source = write(tmp_path / "a.parquet", pa.table({"k": ["b"] * len(column), "x": column}))
    arguments = [f"--input={source}", "--key=k", "--value=x", "--kind=exact_sum", f"--output={tmp_path / 'out'}"]
    assert main(arguments) != 0
    [line] = capsys.readouterr().err.splitlines()
    assert found in line
    assert not (tmp_path / "out").exists()


def test_money_that_is_taken_for_logarithms_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", pa.table({"amount": [Decimal("1.50")]}))
    for options, told in (([], True), (["--scale=decibel"], False), (["--kind=exact_sum"], False)):
        arguments = [f"--input={source}", "--value=amount", f"--output={tmp_path / 'out'}", "--overwrite", *options]
        assert main(arguments) == 0
        assert ("NOTE: amount has decimals, whose plain sum" in capsys.readouterr().out) == told
