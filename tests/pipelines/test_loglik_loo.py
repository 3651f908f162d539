"""``python -m pipelines.loglik --loo`` end to end: against arviz-stats, the same bytes however draws lie, faults."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from loo_references import read
from programs import BEAM, ROOT, check_bad, check_bytes, check_fault, contents, damage, write

from pipelines import rollup
from pipelines.loglik import main

DRAWS = ROOT / "pipelines" / "samples" / "diabetes_draws.parquet"
ALWAYS = ["--observation=o", "--value=v", "--inner=logmeanexp", "--loo"]


def run(folder: Path, source: object, *arguments: str) -> dict[str, pa.Table]:
    argv = ["--input", str(source), "--output", str(folder), "--quiet", *arguments]
    assert main(argv) == 0
    return {path.name: pq.read_table(path, partitioning=None) for path in sorted(folder.iterdir()) if path.is_dir()}


def sample(draws: int = 200, observations: int = 40) -> pa.Table:
    """Log-likelihoods, some of heavy tails, in disorder."""
    rng = np.random.default_rng(5)
    spread = np.linspace(0.1, 3.0, observations)
    values = -1.0 - spread[:, None] * rng.standard_exponential((observations, draws))
    rows = {
        "model": np.repeat(np.where(np.arange(observations) % 3 == 0, "a", "b"), draws),
        "o": np.repeat(np.arange(observations), draws),
        "draw": np.tile(np.arange(draws), observations),
        "v": values.ravel(),
    }
    return pa.table(rows).take(rng.permutation(draws * observations))


def test_loo_is_that_of_arviz_stats(tmp_path: Path) -> None:
    always = ["--key=model", "--observation=patient", "--value=log_likelihood", "--inner=logmeanexp"]
    found = run(tmp_path / "out", DRAWS, *always, "--loo", "--per_observation")
    assert found["totals"].column_names == [
        *("model", "log_likelihood", "count", "max", "lppd", "elpd_loo", "p_loo"),
        *("looic", "se", "mcse", "k_good", "k_bad", "k_very_bad"),
    ]
    observations = found["observations"]
    for row in found["totals"].to_pylist():
        [entry] = [entry for entry in read("arviz_stats") if entry["set"] == f"diabetes {row['model']}"]
        own = observations.filter(pc.equal(observations["model"].cast("string"), row["model"]))
        for name in ("elpd_loo", "p_loo", "pareto_k"):
            tolerance = 1e-8 if name == "pareto_k" else 1e-10 * np.maximum(1.0, np.abs(entry["elpd_loo"]))
            assert (np.abs(own[name].to_numpy() - entry[name]) <= tolerance).all()
        assert [row["elpd_loo"], row["se"], row["p_loo"]] == pytest.approx(
            [entry["totals"][name] for name in ("elpd", "se", "p_loo")], rel=1e-12
        )
        assert row["looic"] == -2.0 * row["elpd_loo"]
        assert row["mcse"] == pytest.approx(math.sqrt(math.fsum((own["mcse"].to_numpy() ** 2).tolist())), rel=1e-12)
        bad = sum(k > entry["totals"]["good_k"] for k in entry["pareto_k"])
        assert (row["k_good"], row["k_bad"] + row["k_very_bad"]) == (442 - bad, bad)


def test_the_same_bytes_with_and_without_counting(tmp_path: Path) -> None:
    arguments, here = [*ALWAYS, "--key=model", "--per_observation"], [("whole", []), ("seven", ["--threads=3"])]
    counted = check_bytes("loglik", main, tmp_path, sample(), arguments, ways=here, processes=False)
    arguments.append("--draws=200")
    assert check_bytes("loglik", main, tmp_path, sample(), arguments, ways=here, processes=False) == counted


def test_waic_and_loo_in_one_pass_are_those_of_two(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", sample())
    both = run(tmp_path / "both", source, *ALWAYS, "--waic", "--per_observation")
    loo = run(tmp_path / "loo", source, *ALWAYS, "--per_observation")
    waic = run(tmp_path / "waic", source, *ALWAYS[:-1], "--waic", "--per_observation")
    for table in ("totals", "overall", "observations"):
        for alone in (loo[table], waic[table]):
            assert both[table].select(alone.column_names) == alone


def test_chains_merged_later_are_all_draws(tmp_path: Path) -> None:
    table = sample()
    chains = table["draw"].to_numpy() // 50
    options = [*ALWAYS, "--draws=200", "--per_observation", "--state"]
    for chain in range(4):
        run(
            tmp_path / f"{chain}",
            write(tmp_path / f"{chain}.parquet", table.filter(pa.array(chains == chain))),
            *options,
        )
    parts = [str(tmp_path / f"{chain}" / "observations") for chain in range(4)]
    assert rollup.main(["--input", *parts, "--key", "o", "--output", str(tmp_path / "all"), "--quiet"]) == 0
    merged = pq.read_table(tmp_path / "all")
    whole = run(tmp_path / "whole", write(tmp_path / "whole.parquet", table), *ALWAYS, "--per_observation")[
        "observations"
    ]
    for name in ("o", "elpd_loo", "p_loo", "pareto_k", "lppd", "count"):
        assert merged[name].to_numpy().tobytes() == whole[name].to_numpy().tobytes()


@pytest.mark.parametrize("options", [[], ["--waic"], ["--tail=r"], ["--r_eff=1.5"], [BEAM]], ids=" ".join)
def test_stored_states_give_the_bytes_of_all_draws(tmp_path: Path, options: list[str]) -> None:
    """Totals too, by whatever r_eff and tail they are asked for."""
    table = sample(401)
    whole = run(
        tmp_path / "whole",
        write(tmp_path / "whole.parquet", table),
        *(*ALWAYS, "--key=model", "--per_observation", "--state", "--draws=401", *options),
    )
    chains = table["draw"].to_numpy() % 3
    always = [*ALWAYS, "--key=model", "--draws=401", "--per_observation", "--state"]
    for chain in range(3):
        part = write(tmp_path / f"{chain}.parquet", table.filter(pa.array(chains == chain)))
        run(tmp_path / "chains" / f"{chain}", part, *always)
    found = run(
        tmp_path / "all",
        tmp_path / "chains" / "*" / "observations",
        *("--value=state", "--key=model", "--observation=o", "--inner=logmeanexp", "--loo"),
        *("--per_observation", "--state", *options),
    )
    assert found.keys() == whole.keys() == {"observations", "overall", "totals"}
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")


def test_stored_states_of_waic_and_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", sample())
    waic = ["--observation=o", "--inner=logmeanexp", "--waic"]
    run(tmp_path / "waic", source, "--value=v", "--per_observation", "--state", *waic)
    run(tmp_path / "both", source, "--per_observation", "--state", *ALWAYS)
    right = contents(tmp_path / "waic" / "totals")
    for states in ("waic", "both"):
        argv = ["--input", f"{tmp_path}/{states}/observations", "--value=state", *waic]
        assert main([*argv, "--output", f"{tmp_path}/from_{states}"]) == 0
        assert contents(tmp_path / f"from_{states}" / "totals") == right
        assert "40 states of 1 file: 40 observations of 1 key" in capsys.readouterr().out
    argv = ["--input", f"{tmp_path}/waic/observations", "--value=state", *waic, "--loo"]
    assert main([*argv, "--output", f"{tmp_path}/none"]) == 2
    check_fault(capsys.readouterr().err, ["'state'", "expected states with elpd_loo and variance", "found"], "loglik")


def test_stored_states_of_held_out_draws(tmp_path: Path) -> None:
    """As of folds: of the mean alone."""
    table = sample()
    options = ["--observation=o", "--inner=logmeanexp", "--per_observation", "--state"]
    whole = run(tmp_path / "whole", write(tmp_path / "a.parquet", table), "--value=v", *options)
    for i in range(3):
        part = write(tmp_path / f"{i}.parquet", table.take(np.arange(i, table.num_rows, 3)))
        run(tmp_path / "parts" / f"{i}", part, "--value=v", *options)
    found = run(tmp_path / "all", tmp_path / "parts" / "*" / "observations", "--value=state", *options)
    assert whole["observations"].column_names == ["o", "value", "count", "state"]
    assert found.keys() == whole.keys()
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")


def test_stored_states_that_do_not_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another number of draws, of too many draws, and damaged."""
    table = sample(300)
    for name, draws in (("a", 300), ("b", 200)):
        options = [f"--draws={draws}", "--per_observation", "--state"]
        run(tmp_path / name, write(tmp_path / f"{name}.parquet", table.slice(0, 3000)), *ALWAYS, *options)
    always = ["--value=state", *ALWAYS[:1], *ALWAYS[2:], "--output", str(tmp_path / "none"), "--quiet"]
    both = ["--input", f"{tmp_path}/a/observations", f"{tmp_path}/b/observations"]
    assert main([*both, *always]) == 2
    check_fault(capsys.readouterr().err, ["column 'state'", "leave_one_out 53", "leave_one_out 41"], "loglik")
    inputs = [str(write(tmp_path / "c" / f"{i}.parquet", pq.read_table(tmp_path / "b/observations"))) for i in range(9)]
    assert main(["--input", *inputs, *always]) == 1
    check_fault(capsys.readouterr().err, ["observation o=", "as its states keep 41 values"], "loglik")
    for option in ("--draws=9", "--group=o", "--weight=v"):
        assert main([*both[:2], *always, option, *(["--draw=o"] if "group" in option else [])]) == 2
        assert option.split("=")[0] in capsys.readouterr().err
    damage(Path(inputs[0]), 0, pq.read_schema(inputs[0]).names.index("state"))
    assert main(["--input", *inputs, *always]) == 1
    check_fault(capsys.readouterr().err, [inputs[0]], "loglik")
    assert not (tmp_path / "none").exists()


def test_observations_may_have_different_numbers_of_draws(tmp_path: Path) -> None:
    table = sample()
    kept = table.filter(pa.array(table["draw"].to_numpy() < 100 + 5 * (table["o"].to_numpy() % 7)))
    found = run(tmp_path / "out", write(tmp_path / "a.parquet", kept), *ALWAYS, "--per_observation")["observations"]
    assert found["count"].to_pylist() == [100 + 5 * (o % 7) for o in range(40)]


def test_the_tail_of_r_and_dependent_draws_change_k(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", sample(401))
    shapes = [
        run(tmp_path / f"{i}", source, *ALWAYS, "--per_observation", *options)["observations"]["pareto_k"].to_pylist()
        for i, options in enumerate(([], ["--tail=r"], ["--r_eff=0.7"], ["--tail=floor", "--r_eff=1"]))
    ]
    assert shapes[0] == shapes[3]
    assert shapes[0] != shapes[1]
    assert shapes[0] != shapes[2]


def test_the_summary_says_what_large_k_ask_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", sample())
    assert main(["--input", str(source), "--output", str(tmp_path / "out"), *ALWAYS]) == 0
    text = capsys.readouterr().out
    [counts] = pq.read_table(tmp_path / "out" / "overall").to_pylist()
    large = counts["k_bad"] + counts["k_very_bad"]
    assert (
        f"{large} of 40 observations with a Pareto k that is too large, {counts['k_very_bad']} of them above 1" in text
    )
    assert "K-fold" in text


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_picture_is_the_same_each_time(tmp_path: Path, kind: str) -> None:
    few = pa.table({"o": [99] * 9, "v": [0.0] * 9})  # not fitted
    source = write(tmp_path / "a.parquet", pa.concat_tables([sample().select(["o", "v"]), few]))
    pictures = []
    for i in range(2):
        run(tmp_path / f"out{i}", source, *ALWAYS, "--per_observation", f"--picture={tmp_path}/{i}.{kind}")
        pictures.append((tmp_path / f"{i}.{kind}").read_bytes())
    assert pictures[0] == pictures[1]
    assert kind == "png" or b"with a Pareto k that is too large" in pictures[0]


def test_totals_have_no_monte_carlo_error_where_a_k_is_too_large(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", sample())
    found = run(tmp_path / "out", source, *ALWAYS, "--key=model", "--per_observation")
    assert found["totals"]["mcse"].to_pylist() == found["overall"]["mcse"].to_pylist() * 2 == [None, None]
    assert found["observations"]["mcse"].null_count == 0
    calm = write(tmp_path / "b.parquet", {"o": [1] * 200 + [2] * 200, "v": np.linspace(-1.1, -1.0, 400)})
    [total] = run(tmp_path / "calm", calm, *ALWAYS)["overall"]["mcse"].to_pylist()
    assert 0.0 < total < 1e-2


def test_minus_infinity_is_a_verdict(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", {"o": [1] * 30 + [2] * 30, "v": [-1.0] * 59 + [-math.inf]})
    found = run(tmp_path / "out", source, *ALWAYS, "--per_observation")
    [_, worst] = found["observations"].to_pylist()
    assert [worst[name] for name in ("elpd_loo", "p_loo", "pareto_k")] == [-math.inf, math.inf, math.inf]
    assert found["overall"]["elpd_loo"].to_pylist() == [-math.inf]


GOOD: dict[str, Any] = {"o": [1, 1, 2, 2], "v": [1.0, 2.0, 3.0, 4.0], "w": [1.0, 0.5, 0.5, 1.0]}
FILES = {"in/a.parquet": GOOD}
BASE = "--input in --observation o --value v --output out --loo "
BAD = {
    "loo of a mixture": (
        BASE + "--inner logsumexp",
        ["--loo", "--inner logmeanexp", "--observation", "found --inner logsumexp"],
    ),
    "loo with weights": (BASE + "--inner logmeanexp --weight w", ["--loo", "--weight"]),
    "states of totals": (BASE + "--inner logmeanexp --state", ["--state", "--per_observation", "--loo"]),
    "no draws": (BASE + "--inner logmeanexp --draws 0", ["--draws", "expected 1 or more", "found 0"]),
    "r_eff": (BASE + "--inner logmeanexp --r_eff 0", ["--r_eff", "expected a positive number", "found 0"]),
    "draws without loo": (BASE.replace("--loo", "--draws 3") + "--inner logmeanexp", ["--draws", "--loo"]),
    "a picture without observations": (BASE + "--inner logmeanexp --picture k.svg", ["--picture", "--per_observation"]),
    "a picture elsewhere": (
        BASE + "--inner logmeanexp --per_observation --picture s3://nobucket/k.svg",
        ["--picture s3://nobucket/k.svg: expected a local path"],
    ),
    "a picture where nothing can be": (
        BASE + "--inner logmeanexp --per_observation --picture /proc/k.svg",
        ["--picture /proc/k.svg: expected a directory that can be written to"],
    ),
    "ddof without waic": (BASE + "--inner logmeanexp --ddof 0", ["--ddof: expected --waic with it"]),
    "no column of states": (
        BASE.replace("--value v", "--value state") + "--inner logmeanexp",
        ["in/a.parquet: column 'state': expected once in the file, found columns o, v, w"],
    ),
    "no such column, and no observation": (
        BASE.replace("--observation o --value v", "--value u") + "--inner logmeanexp",
        ["in/a.parquet: column 'u': expected once in the file, found columns o, v, w"],
    ),
    "a picture of no kind": (
        BASE + "--inner logmeanexp --per_observation --picture k.pdf",
        ["--picture k.pdf", ".svg"],
    ),
    "tail": (BASE + "--inner logmeanexp --tail up", ["--tail", "'up'"]),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, fragments = BAD[name]
    check_bad(main, "loglik", tmp_path, capsys, (FILES, arguments, fragments))


BAD_ROWS = {
    "one draw": (GOOD | {"o": [1, 1, 1, 2]}, "", ["observation o=2", "expected 2 draws or more", "found 1"]),
    "NaN": (GOOD | {"v": [1.0, 2.0, math.nan, 4.0]}, "", ["observation o=2", "found NaN among them"]),
    "inf": (GOOD | {"v": [1.0, math.inf, 3.0, 4.0]}, "", ["observation o=1", "found inf among them"]),
    "more draws than said": (
        {"o": [1] * 300, "v": [float(i) for i in range(300)]},
        "--draws 100",
        ["observation o=1", "expected fewer draws than it has, 300", "keep 21 values and its tail has 51"],
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_faults_found_in_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rows, arguments, fragments = BAD_ROWS[name]
    monkeypatch.chdir(tmp_path)
    files = {"in/a.parquet": rows}
    check_bad(main, "loglik", tmp_path, capsys, (files, f"{BASE} --inner logmeanexp {arguments}", fragments), status=1)
    assert not contents(tmp_path / "out")
