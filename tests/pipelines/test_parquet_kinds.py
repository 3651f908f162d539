"""--kind, --scale, --weight and --result of the program parquet: what functions for tables give, on both engines."""

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
