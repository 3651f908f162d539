"""``python -m pipelines.loglik`` over the layouts that people have: the bytes of the long one, and what is wrong."""

import math
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from programs import BEAM, ROOT, check_bad, contents, write
from test_alone import alone

from pipelines import cmdstan
from pipelines.loglik import EXAMPLES, main

DRAWS, OBSERVATIONS = 120, 6
LOG_LIK = np.round(np.random.default_rng(7).normal(-2, 1, (DRAWS, OBSERVATIONS)), 4)
INDEX = np.arange(1, OBSERVATIONS + 1)
LOO = ["--inner=logmeanexp", "--loo", "--per_observation", "--state"]


def long(values: Any = LOG_LIK, observation: Any = INDEX, **keys: Any) -> pa.Table:
    """A row for each draw of an observation."""
    draws, width = len(values), len(observation)
    columns = {name: np.repeat(key, width) for name, key in keys.items()}
    names = pa.array(list(observation) * draws)
    flat = [x for row in values for x in row]
    return pa.table(
        {**columns, "observation": names, "draw": np.repeat(np.arange(draws), width), "value": pa.array(flat)}
    )


def wide(values: Any = LOG_LIK, names: Any = None, **keys: Any) -> pa.Table:
    """A row for each draw, and a column for each observation."""
    names = names or [f"log_lik[{i}]" for i in INDEX]
    columns = {name: pa.array(list(column)) for name, column in zip(names, zip(*values, strict=True), strict=True)}
    return pa.table({**keys, "lp__": [0.0] * len(values), **columns})


def result(folder: Path, source: object, *arguments: str) -> dict[str, bytes]:
    assert main(["--input", str(source), "--output", str(folder), "--overwrite", "--quiet", *arguments]) == 0
    return contents(folder)


def expected(tmp_path: Path, table: pa.Table, *arguments: str) -> dict[str, bytes]:
    """What the long layout gives."""
    source = write(tmp_path / "long.parquet", table)
    return result(tmp_path / "expected", source, "--observation=observation", "--value=value", *arguments)


def spread(folder: Path, table: pa.Table, row_group_size: int = 17) -> Path:
    """Rows in files of different length, in another order."""
    for name, part in (("b", table[:50]), ("a", table[50:51]), ("c", table[51:])):
        write(folder / f"{name}.parquet", part, row_group_size=row_group_size)
    return folder


HOW = {"loo": LOO, "waic": ["--inner=logmeanexp", "--waic", "--per_observation"], "plain": ["--inner=logmeanexp"]}
NAMES = {
    "brackets": [f"log_lik[{i}]" for i in INDEX],
    "dots": [f"log_lik.{i}" for i in INDEX],
    "matrix": ["log_lik[1,1]", "log_lik[1,2]", "log_lik[2,1]", "log_lik[2,2]", "log_lik[10,1]", "log_lik[10,2]"],
    "matrix, dots": [f"log_lik.{i}.{j}" for i in (1, 2, 10) for j in (1, 2)],
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("how", HOW)
def test_wide_gives_the_bytes_of_long(tmp_path: Path, names: str, how: str) -> None:
    observation = ["1,1", "1,2", "2,1", "2,2", "10,1", "10,2"] if "matrix" in names else INDEX
    right = expected(tmp_path, long(observation=observation), *HOW[how])
    table = wide(names=NAMES[names])
    one = write(tmp_path / "wide.parquet", table)
    assert result(tmp_path / "out", one, "--wide=log_lik[*]", *HOW[how]) == right
    many = spread(tmp_path / "wide", table)
    assert result(tmp_path / "out", many, "--wide=log_lik.*", "--threads=3", *HOW[how]) == right


def test_the_observation_is_an_integer_column_and_sorted(tmp_path: Path) -> None:
    source = write(tmp_path / "wide.parquet", wide(names=[f"log_lik.{i}" for i in (10, 9, 2, 1, 100, 3)]))
    result(tmp_path / "out", source, "--wide=log_lik[*]", *HOW["plain"], "--per_observation")
    table = pq.read_table(tmp_path / "out" / "observations")
    assert table["observation"].equals(pa.chunked_array([[1, 2, 3, 9, 10, 100]]))
    assert table["count"].to_pylist() == [DRAWS] * OBSERVATIONS


LISTS = {
    "list": pa.list_(pa.float64()),
    "large_list": pa.large_list(pa.float64()),
    "fixed_size_list": pa.list_(pa.float64(), OBSERVATIONS),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_all_observations_gives_the_bytes_of_long(tmp_path: Path, kind: str) -> None:
    right = expected(tmp_path, long(observation=INDEX - 1), *LOO)
    table = pa.table({"ll": pa.array(list(LOG_LIK)).cast(LISTS[kind])})
    assert result(tmp_path / "out", write(tmp_path / "lists.parquet", table), "--value=ll", *LOO) == right
    assert result(tmp_path / "out", spread(tmp_path / "lists", table), "--value=ll", *LOO) == right


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_all_draws_gives_the_bytes_of_long(tmp_path: Path, kind: str) -> None:
    right = expected(tmp_path, long(), *LOO)
    data_type = pa.list_(pa.float64(), DRAWS) if kind == "fixed_size_list" else LISTS[kind]
    table = pa.table({"observation": INDEX, "ll": pa.array(list(LOG_LIK.T)).cast(data_type)})
    always = ["--value=ll", "--observation=observation", *LOO]
    assert result(tmp_path / "out", write(tmp_path / "lists.parquet", table), *always) == right
    halves = pa.concat_tables(
        [table.set_column(1, "ll", pa.array(list(LOG_LIK.T[:, part]))) for part in (slice(0, 30), slice(30, None))]
    )
    assert result(tmp_path / "out", write(tmp_path / "halves.parquet", halves, row_group_size=2), *always) == right


@pytest.mark.parametrize("nulls", [[], ["--no-skip_nulls"]], ids=["skip", "keep"])
def test_keys_and_nulls_are_those_of_long(tmp_path: Path, nulls: list[str]) -> None:
    values = [[None if (i + j) % 11 == 0 and j < 4 else x for j, x in enumerate(row)] for i, row in enumerate(LOG_LIK)]
    keys = {"model": ["a", "b"] * (DRAWS // 2), "fold": np.arange(DRAWS) % 3}
    always = ["--key=model", "--key=fold", *LOO, *nulls]
    right = expected(tmp_path, long(values, **keys), *always)
    table = wide(values, **keys)
    for source in (write(tmp_path / "wide.parquet", table), spread(tmp_path / "wide", table)):
        assert result(tmp_path / "out", source, "--wide=log_lik[*]", *always) == right
    right = expected(tmp_path, long(values, INDEX - 1, **keys), *always)
    lists = write(tmp_path / "lists.parquet", {**keys, "ll": values})
    assert result(tmp_path / "out", lists, "--value=ll", *always) == right


def test_nulls_count_as_draws_that_are_not_there(tmp_path: Path) -> None:
    """Without keys: the footers tell how many draws there are, but for nulls."""
    values = [[None, *row[1:]] if i % 2 else [None, None, *row[2:]] for i, row in enumerate(LOG_LIK)]
    values[0] = list(LOG_LIK[0])
    values[2][0] = values[3][1] = -1.0
    values = [[x if j < 2 else None if i > 5 else x for j, x in enumerate(row)] for i, row in enumerate(values)]
    right = expected(tmp_path, long(values), *LOO)
    assert result(tmp_path / "out", write(tmp_path / "a.parquet", wide(values)), "--wide=log_lik[*]", *LOO) == right


@pytest.mark.parametrize("key", ["", "model"])
def test_on_beam_too(tmp_path: Path, key: str) -> None:
    always = [*LOO, *(["--key=model"] if key else [])]
    keys = {"model": ["a", "b"] * (DRAWS // 2)} if key else {}
    right = expected(tmp_path, long(**keys), *always)
    source = spread(tmp_path / "wide", wide(**keys))
    assert result(tmp_path / "out", source, "--wide=log_lik[*]", BEAM, *always) == right
    if not key:
        chains(tmp_path)
        assert result(tmp_path / "out", tmp_path / "chain_*.csv", "--wide=log_lik[*]", BEAM, *always) == right


# --- CSV files --------------------------------------------------------------------------------------------------------

HEADER = ",".join(["lp__", "accept_stat__", *(f"log_lik.{i}" for i in INDEX), "mu"])


def csv_text(values: Any, *, warmup: int = 0, thin: int = 1, saved: str | None = None, end: str = "\n") -> str:
    """As CmdStan writes them: comments above the header, below the warm-up, and at the end."""
    saved = saved or ("1" if warmup else "0 (Default)")
    lines = [
        "# stan_version_major = 2",
        "# method = sample (Default)",
        "#   sample",
        f"#     num_samples = {len(values) * thin}",
        f"#     num_warmup = {warmup * thin or 1000}",
        f"#     save_warmup = {saved}",
        f"#     thin = {thin}",
        "#     algorithm = hmc (Default)",
        "# id = 1 (Default)",
        HEADER,
    ]
    lines += [",".join(["-7.5", "1", *(["1e300"] * OBSERVATIONS), "nan"])] * warmup
    lines += ["# Adaptation terminated", "# Step size = 0.8", "# Diagonal elements of inverse mass matrix:", "# 0.5, 1"]
    lines += [",".join(["-7.5", "0.99", *map(str, row), "-0.1"]) for row in values]
    lines += ["# ", "#  Elapsed Time: 0.005 seconds (Warm-up)", "#                0.01 seconds (Total)", "# "]
    return end.join(lines) + end


def chains(folder: Path, **options: Any) -> None:
    for number, values in enumerate(np.split(LOG_LIK, [50]), 1):
        (folder / f"chain_{number}.csv").write_text(csv_text(values, **options), newline="")


@pytest.mark.parametrize(
    "options",
    [{}, {"warmup": 25}, {"warmup": 25, "thin": 3, "saved": "true"}, {"end": "\r\n"}],
    ids=["draws", "warm-up", "thinned", "Windows"],
)
@pytest.mark.parametrize("block", [1 << 24, 500], ids=["whole", "blocks"])
def test_cmdstan_gives_the_bytes_of_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], block: int
) -> None:
    monkeypatch.setattr(cmdstan, "BLOCK_BYTES", block)
    monkeypatch.setattr(cmdstan, "HEADER_BYTES", block)
    right = expected(tmp_path, long(), *LOO)
    chains(tmp_path, **options)
    before = sorted(tmp_path.iterdir())
    assert result(tmp_path / "out", tmp_path / "chain_*.csv", "--wide=log_lik[*]", *LOO) == right
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])


def test_models_may_be_directories(tmp_path: Path) -> None:
    right = expected(tmp_path, long(model=["a"] * 50 + ["b"] * 70), "--key=model", *LOO)
    for model, values in zip("ab", np.split(LOG_LIK, [50]), strict=True):
        (tmp_path / "in" / f"model={model}").mkdir(parents=True)
        (tmp_path / "in" / f"model={model}" / "chain.csv").write_text(csv_text(values))
    source = tmp_path / "in" / "*" / "chain.csv"
    assert result(tmp_path / "out", source, "--wide=log_lik.*", "--key=model", *LOO) == right


def test_other_csv_files_are_taken_too(tmp_path: Path) -> None:
    """As R and pandas write them: names in quotes, which may have commas, and values that are missing."""
    values = [[None if i == 3 and j < 2 else x for j, x in enumerate(row)] for i, row in enumerate(LOG_LIK)]
    observation = [f"{i},1" for i in INDEX]
    lines = [",".join(['""', *(f'"log_lik[{name}]"' for name in observation)])]
    for number, row in enumerate(values, 1):
        missing = iter(["NA", ""])
        lines.append(",".join([f'"{number}"', *(next(missing) if x is None else str(x) for x in row)]))
    (tmp_path / "draws.csv").write_text("\n".join(lines) + "\n")
    right = expected(tmp_path, long(values, observation), *LOO)
    assert result(tmp_path / "out", tmp_path / "draws.csv", "--wide=log_lik[*]", *LOO) == right


def test_the_summary_tells_of_warm_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chains(tmp_path, warmup=1000)
    argv = ["--input", str(tmp_path / "chain_*.csv"), "--wide=log_lik[*]", "--inner=logmeanexp"]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("120 rows of 2 files, without 2,000 draws of warm-up: 6 observations of 1 key, ")


def test_the_summary_tells_of_nulls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every layout, by the footers of the files."""
    values = [[None if i < 3 and j == 1 else x for j, x in enumerate(row)] for i, row in enumerate(LOG_LIK)]
    lists = pa.table({"ll": values})
    of_observation = pa.table({"o": INDEX, "ll": [list(column) for column in zip(*values, strict=True)]})
    for table, arguments in (
        (long(values), ["--value=value", "--observation=observation"]),
        (wide(values), ["--wide=log_lik[*]"]),
        (lists, ["--value=ll"]),
        (of_observation, ["--value=ll", "--observation=o"]),
    ):
        source = write(tmp_path / "a.parquet", table)
        argv = ["--input", str(source), "--inner=logmeanexp", "--overwrite", "--output", str(tmp_path / "out")]
        assert main([*argv, *arguments]) == 0
        assert " rows of 1 file with 3 nulls: 6 observations of 1 key, " in capsys.readouterr().out


def test_fixed_parameters_have_no_warm_up(tmp_path: Path) -> None:
    text = csv_text(LOG_LIK, saved="1").replace("algorithm = hmc (Default)", "algorithm = fixed_param")
    (tmp_path / "chain.csv").write_text(text)
    right = expected(tmp_path, long(), *LOO)
    assert result(tmp_path / "out", tmp_path / "chain.csv", "--wide=log_lik[*]", *LOO) == right


# The program with a CSV file that takes its time.
SLOWLY = """
import signal, sys, time
from pipelines import cmdstan, loglik
signal.signal(signal.SIGINT, signal.SIG_DFL)  # the tests may run where it is ignored
lists_of = cmdstan.lists_of
calls = []
def slow(columns):
    calls.append(1)
    if len(calls) > 1:  # the file is there
        time.sleep(20)
    return lists_of(columns)
cmdstan.lists_of = slow
cmdstan.BLOCK_BYTES = 2000
sys.exit(loglik.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left_of_a_run_that_ends_early(tmp_path: Path, number: signal.Signals) -> None:
    """Where it is killed, the next run with that --temp and --output removes what is left."""
    temp = tmp_path / "temp"
    temp.mkdir()
    (tmp_path / "chain.csv").write_text(csv_text(LOG_LIK))
    argv = ["--input", str(tmp_path / "chain.csv"), "--wide=log_lik[*]", "--inner=logmeanexp", "--quiet"]
    argv += ["--temp", str(temp), "--output", str(tmp_path / "out")]
    command = [sys.executable, "-c", SLOWLY, *argv]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not list(temp.rglob("draws.parquet")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert (process.returncode, err) == (130, "loglik: interrupted (SIGINT); no output was written\n")
    else:
        assert list(temp.iterdir())
        assert main(argv) == 0
    assert list(temp.iterdir()) == []


# --- groups -----------------------------------------------------------------------------------------------------------


def test_a_group_is_left_out_as_a_whole(tmp_path: Path) -> None:
    """The same as if the exact sums of its rows had been the log-likelihoods."""
    group = np.array(["x", "y", "x", "z", "y", "x"])
    values = LOG_LIK + 1e9 * np.array([1, 1, -1, 1, -1, 0])  # whose sums in float64 depend on the order
    values[:, 3] -= 1e9
    rows = long(values)
    keys = pa.array(np.tile(group, DRAWS))
    rows = rows.append_column("group", keys).take(np.random.default_rng(1).permutation(rows.num_rows))
    sums = [[math.fsum(row[group == name]) for name in "xyz"] for row in values]
    right = expected(tmp_path, long(sums, ["x", "y", "z"]).rename_columns(["observation", "draw", "value"]), *LOO)
    source = spread(tmp_path / "rows", rows.rename_columns(["o", "draw", "value", "observation"]))
    always = ["--group=observation", "--draw=draw", "--value=value", *LOO]
    assert result(tmp_path / "out", source, *always) == right
    assert result(tmp_path / "out", source, *always, BEAM) == right


def test_draws_may_be_told_apart_by_several_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = long().append_column("g", pa.array(np.tile([1, 1, 2, 2, 3, 3], DRAWS)))
    rows = rows.append_column("chain", pc.divide(rows["draw"], 60))
    rows = rows.append_column("number", pc.subtract(rows["draw"], pc.multiply(rows["chain"], 60)))
    source = write(tmp_path / "rows.parquet", rows)
    always = ["--group=g", "--value=value", "--inner=logmeanexp"]
    one = result(tmp_path / "one", source, *always, "--draw=draw")
    assert result(tmp_path / "two", source, *always, "--draw=chain", "--draw=number") == one
    capsys.readouterr()
    argv = ["--input", str(source), *always, "--draw=draw", "--output", str(tmp_path / "out")]
    assert main(argv) == 0
    assert ": 3 groups of 1 key, " in capsys.readouterr().out


def test_a_draw_of_nulls_takes_its_group_with_it_or_is_left_out(tmp_path: Path) -> None:
    rows = {"g": [1, 1, 1, 1, 2, 2], "d": [0, 0, 1, 1, 0, 1], "v": [-1.0, -1.5, -2.0, -3.0, None, -4.0]}
    source = write(tmp_path / "rows.parquet", rows)
    always = ["--group=g", "--draw=d", "--value=v", "--inner=logmeanexp", "--per_observation"]
    for nulls, counts in (([], [2, 1]), (["--no-skip_nulls"], [2, None])):
        result(tmp_path / "out", source, *always, *nulls)
        table = pq.read_table(tmp_path / "out" / "observations")
        found = [
            count if value is not None else None
            for value, count in zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True)
        ]
        assert found == counts


# --- faults -----------------------------------------------------------------------------------------------------------

END = " --output out --inner logmeanexp"
ARGUMENTS = "--input in/a.csv --wide log_lik[*]" + END
WIDE: dict[str, Any] = {"in/a.parquet": {"k": ["x"], "log_lik[1]": [-1.0], "log_lik[2]": [-2.0], "t[1]": ["a"]}}
LONG: dict[str, Any] = {"in/a.parquet": {"g": [1], "d": [1], "v": [-1.0], "o": [1]}}
CSV = csv_text(LOG_LIK[:3]).encode()
DATA = CSV.decode().splitlines(keepends=True)
FIRST = next(i for i, line in enumerate(DATA) if line.startswith("-7.5"))


def with_row(text: str) -> bytes:
    """The file with another row in place of the first draw."""
    return "".join([*DATA[:FIRST], text, *DATA[FIRST + 1 :]]).encode()


BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "no star": (WIDE, "--input in --wide log_lik" + END, ["--wide log_lik: expected one *", "'log_lik[*]'"]),
    "no match": (WIDE, "--input in --wide loglik[*]" + END, ["in/a.parquet", "'loglik[*]'", "nearest: log_lik["]),
    "text": (WIDE, "--input in --wide t[*]" + END, ["in/a.parquet", "'t[1]'", "found string"]),
    "wide and value": (WIDE, "--input in --wide log_lik[*] --value k" + END, ["--value: expected none with --wide"]),
    "wide and observation": (WIDE, "--input in --wide log_lik[*] --observation k" + END, ["--observation", "--wide"]),
    "wide and weight": (WIDE, "--input in --wide log_lik[*] --weight k" + END, ["--weight", "--wide"]),
    "wide of a mixture": (
        WIDE,
        "--input in --wide log_lik[*] --output out --inner none",
        ["--wide", "--inner logmeanexp"],
    ),
    "key among the columns": (
        WIDE,
        "--input in --wide log_lik[*] --key log_lik[1]" + END,
        ["--key log_lik[1]", "--wide"],
    ),
    "key called observation": (WIDE, "--input in --wide log_lik[*] --key observation" + END, ["--key observation"]),
    "an index twice": (
        {"in/a.parquet": {"log_lik[1]": [1.0], "log_lik.1": [1.0]}},
        "--input in --wide log_lik[*]" + END,
        ["in/a.parquet", "two of 1: 'log_lik[1]' and 'log_lik.1'"],
    ),
    "more columns": (
        WIDE | {"in/b.parquet": WIDE["in/a.parquet"] | {"log_lik[3]": [-1.0]}},
        "--input in --wide log_lik[*]" + END,
        ["in/b.parquet", "columns like 'log_lik[*]'", "in/a.parquet", "found 'log_lik[3]' too"],
    ),
    "fewer columns": (
        WIDE | {"in/b.parquet": {"log_lik[1]": [-1.0]}},
        "--input in --wide log_lik[*]" + END,
        ["in/b.parquet", "column 'log_lik[2]'"],
    ),
    "neither": (WIDE, "--input in" + END, ["--value: expected it, or --wide"]),
    "no observation": (LONG, "--input in --value v" + END, ["--inner logmeanexp: expected --observation"]),
    "lists of strings": (
        {"in/a.parquet": {"o": [1], "ll": [["a"]]}},
        "--input in --value ll --observation o" + END,
        ["in/a.parquet", "column 'll'", "expected", "found list<"],
    ),
    "lists of two lengths": (
        {"in/a.parquet": {"ll": [[-1.0, -2.0]]}, "in/b.parquet": {"ll": [[-1.0, -2.0], [-3.0, -4.0], [-1.0]]}},
        "--input in --value ll" + END,
        ["in/b.parquet, row group 0, column 'll'", "2 as in", "in/a.parquet", "found 5 values in 3 rows"],
    ),
    "lists with weights": (
        {"in/a.parquet": {"ll": [[-1.0]], "w": [1.0]}},
        "--input in --value ll --weight w" + END,
        ["--weight", "found one of lists"],
    ),
    "lists of a mixture": (
        {"in/a.parquet": {"ll": [[-1.0]]}},
        "--input in --value ll --output out",
        ["in/a.parquet", "'ll'", "found list<"],
    ),
    "lists and groups": (
        {"in/a.parquet": {"ll": [[-1.0]], "g": [1], "d": [1]}},
        "--input in --value ll --group g --draw d" + END,
        ["--group", "found one of lists"],
    ),
    "group without draw": (LONG, "--input in --value v --group g" + END, ["--group: expected --draw"]),
    "draw without group": (LONG, "--input in --value v --observation o --draw d" + END, ["--draw: expected --group"]),
    "group and observation": (
        LONG,
        "--input in --value v --group g --draw d --observation o" + END,
        ["--observation: expected none with --group"],
    ),
    "group of a mixture": (
        LONG,
        "--input in --value v --group g --draw d --inner logsumexp --output out",
        ["--group", "--inner logmeanexp"],
    ),
    "group is the draw": (
        LONG,
        "--input in --value v --group g --draw g" + END,
        ["--draw g: expected columns named once"],
    ),
    "CSV without wide": ({"in/a.csv": CSV}, "--input in/a.csv --value v --observation o" + END, ["--wide", "in/a.csv"]),
    "CSV and Parquet": (
        LONG | {"in/b.csv": CSV},
        "--input in in/b.csv --wide log_lik[*]" + END,
        ["in/a.parquet", "in/b.csv"],
    ),
    "CSV with a key": (
        {"in/a.csv": CSV},
        "--input in/a.csv --wide log_lik[*] --key mu" + END,
        ["in/a.csv: column 'mu': expected a directory mu=..."],
    ),
    "CSV without match": (
        {"in/a.csv": CSV},
        "--input in/a.csv --wide loglik[*]" + END,
        ["in/a.csv", "nearest: log_lik."],
    ),
    "no CSV": (
        {"in/a.csv": b"PAR1\x15\x04\xff\xfe\n"},
        "--input in/a.csv --wide a[*]" + END,
        ["in/a.csv", "CSV file", "PAR1"],
    ),
    "no number of warm-up": (
        {"in/a.csv": csv_text(LOG_LIK[:3], warmup=2).replace("num_warmup = 2", "num_warmup = all").encode()},
        ARGUMENTS,
        ["in/a.csv: expected numbers of draws", "found num_warmup = all and thin = 1"],
    ),
    "an index twice in another file": (
        WIDE | {"in/b.parquet": WIDE["in/a.parquet"] | {"log_lik.2": [-1.0]}},
        "--input in --wide log_lik[*]" + END,
        ["in/b.parquet", "two of 2"],
    ),
    "CSV of no draws": (
        {"in/a.csv": CSV.replace(b"method = sample (Default)", b"method = variational")},
        ARGUMENTS,
        ["in/a.csv: expected draws", "found those of method = variational"],
    ),
    "a directory of CSV": (
        {"in/a.csv": CSV},
        "--input in --wide log_lik[*]" + END,
        ["in: expected a file, a directory or a glob of Parquet files, found none named *.parquet, *.parq, *.pq in it"],
    ),
    "an empty file": ({"in/a.csv": b""}, "--input in/a.csv --wide a[*]" + END, ["in/a.csv", "header", "found none"]),
    "comments alone": ({"in/a.csv": b"# a\n# b"}, "--input in/a.csv --wide a[*]" + END, ["in/a.csv", "found none"]),
    "no header": (
        {"in/a.csv": "".join(DATA[FIRST:]).encode(), "in/b.csv": CSV},
        "--input in/*.csv --wide log_lik[*]" + END,
        ["in/a.csv: expected a header of names, found numbers: '-7.5,"],
    ),
    "another header": (
        {"in/a.csv": CSV, "in/b.csv": CSV.replace(b"log_lik.3", b"log_lik.7")},
        "--input in/*.csv --wide log_lik[*]" + END,
        ["in/b.csv, column 5 of the header", "expected 'log_lik.3' as in", "in/a.csv", "found 'log_lik.7'"],
    ),
    "a shorter header": (
        {"in/a.csv": CSV, "in/b.csv": CSV.replace(b",mu", b"")},
        "--input in/*.csv --wide log_lik[*]" + END,
        ["in/b.csv, column 9 of the header", "expected 'mu'", "found no further one"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "loglik", tmp_path, capsys, BAD[name])


BAD_ROWS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "lists of two lengths": (
        {"in/a.parquet": {"ll": [[-1.0, -2.0], [-3.0, -4.0, -5.0], [-1.0]]}},
        "--input in --value ll" + END,
        ["in/a.parquet, row group 0, column 'll', row 1: expected lists of 2 values, found one of 3"],
    ),
    "a list that is null": (
        {"in/a.parquet": {"ll": pa.array([[-1.0], None], pa.list_(pa.float64()))}},
        "--input in --value ll" + END,
        ["in/a.parquet, row group 0, column 'll', row 1: expected lists of 1 values, found null"],
    ),
    "NaN": (
        {"in/a.parquet": {"log_lik[7]": [-1.0, float("nan"), -2.0]}},
        "--input in --wide log_lik[*] --loo" + END,
        ["observation observation=7", "found NaN"],
    ),
    "a row that is not there in one draw": (
        {"in/a.parquet": {"g": [1, 1, 1, 2, 2], "d": [0, 0, 1, 0, 1], "v": [-1.0, -2.0, -3.0, -4.0, -5.0]}},
        "--input in --value v --group g --draw d" + END,
        ["group g=1: expected 2 rows in each of 2 draws, found 1.5 on average"],
    ),
    "a null in one draw": (
        {"in/a.parquet": {"g": [1, 1, 1, 1], "d": [0, 0, 1, 1], "v": [-1.0, None, -2.0, -3.0]}},
        "--input in --value v --group g --draw d --loo" + END,
        ["group g=1: expected 2 rows in each of 2 draws, found 1.5 on average"],
    ),
    "an observation without draws": (
        {"in/a.parquet": {"o": [1, 2], "ll": [[-1.0, -2.0], []]}},
        "--input in --value ll --observation o --loo" + END,
        ["observation o=2", "expected 2 draws or more, found 0"],
    ),
    "too few values": (
        {"in/a.csv": with_row("1,2\n")},
        ARGUMENTS,
        [f"in/a.csv, line {FIRST + 1}: expected 9 values", "found 2"],
    ),
    "too many values": (
        {"in/a.csv": with_row("1," * 9 + "1\n")},
        ARGUMENTS,
        [f"line {FIRST + 1}: expected 9", "found 10"],
    ),
    "text": (
        {"in/a.csv": with_row("1,2,3,4,abc,5,6,7,8\n")},
        ARGUMENTS,
        [f"in/a.csv, line {FIRST + 1}, column 'log_lik.3': expected a number, found 'abc'"],
    ),
    "text that Python takes for a number": (
        {"in/a.csv": with_row("1,2,3,4,-1_0,5,6,7,8\n")},
        ARGUMENTS,
        [f"in/a.csv, line {FIRST + 1}, column 'log_lik.3': expected a number, found '-1_0'"],
    ),
    "cut off": (
        {"in/a.csv": CSV[: CSV.rindex(b"-0.1") - 2]},
        ARGUMENTS,
        ["in/a.csv", "end of the last line", "cut off"],
    ),
    "cut off in a number": (
        {"in/a.csv": CSV[: CSV.rindex(b"-0.1") + 2]},
        ARGUMENTS,
        ["in/a.csv", "end of the last line"],
    ),
    "no draws": ({"in/a.csv": "".join(DATA[:FIRST]).encode()}, ARGUMENTS, ["in/a.csv: expected draws", "found none"]),
    "warm-up alone": (
        {"in/a.csv": csv_text(LOG_LIK[:3], warmup=9).replace("num_warmup = 9", "num_warmup = 99").encode()},
        ARGUMENTS,
        ["in/a.csv: expected draws", "found 12 of warm-up"],
    ),
    "bytes": ({"in/a.csv": with_row("\x00\x01\n")}, ARGUMENTS, ["in/a.csv, line"]),
    "cut off at the end of a line": (
        {"in/a.csv": "".join(DATA[: FIRST + 2]).encode()},
        ARGUMENTS,
        ["in/a.csv: expected 3 draws, as num_samples says", "found 2", "cut off"],
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_faults_found_in_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "loglik", tmp_path, capsys, BAD_ROWS[name], status=1)


def test_output_that_exists_is_found_before_csv_files_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chain.csv").write_bytes(with_row("no numbers\n"))
    write(tmp_path / "out" / "totals" / "part-00000-of-00001.parquet", {"x": [1]})
    argv = ["--input", str(tmp_path / "chain.csv"), "--wide=log_lik[*]", "--inner=logmeanexp"]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 2
    assert "or --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wide.parquet", "chain_*.csv"])
def test_neither_pandas_nor_beam_is_imported(tmp_path: Path, name: str) -> None:
    chains(tmp_path)
    write(tmp_path / "wide.parquet", wide(names=NAMES["matrix"]))
    argv = [f"--input={tmp_path / name}", "--wide=log_lik[*]", f"--output={tmp_path / 'out'}", *HOW["plain"]]
    done = alone("loglik", *argv)
    assert (done.returncode, done.stderr) == (0, "")


# --- documents --------------------------------------------------------------------------------------------------------


def place_layouts(folder: Path) -> None:
    """The files that the examples are about."""
    chains(folder)
    write(folder / "wide.parquet", wide(names=[f"log_lik.{i}" for i in INDEX], model=["a", "b"] * (DRAWS // 2)))
    write(folder / "draws.parquet", {"log_lik": list(LOG_LIK)})
    write(folder / "observations.parquet", {"patient": INDEX, "log_lik": list(LOG_LIK.T)})
    rows = long().rename_columns(["visit", "draw", "log_lik"])
    write(folder / "visits.parquet", rows.append_column("patient", pc.bit_wise_and(rows["visit"], 3)))


def test_the_commands_of_the_help_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that read one of these files."""
    files = "chain_|wide.parquet|draws.parquet|observations.parquet|visits.parquet"
    found = re.findall(rf"PROGRAM (--input '?(?:{files}).*)", EXAMPLES.replace("\\\n", ""))
    assert len(found) >= 4
    monkeypatch.chdir(tmp_path)
    place_layouts(tmp_path)
    for command in found:
        assert main(shlex.split(command)) == 0


def test_draws_that_are_null_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draws = {"ll.1": [-1.0, -2.0, None], "ll.2": [-1.0, -1.5, -1.2]}
    source = write(tmp_path / "wide.parquet", draws)
    arguments = ["--wide=ll[*]", "--inner=logmeanexp", f"--output={tmp_path / 'out'}", "--overwrite"]
    for options, told in ((["--loo"], True), (["--waic"], True), ([], False)):
        assert main([f"--input={source}", *arguments, *options]) == 0
        assert ("NOTE: 1 log-likelihood null: such an observation" in capsys.readouterr().out) == told
