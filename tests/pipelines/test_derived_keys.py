"""--truncate, --bin and --map: in every program the bytes of files that have such a key."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from programs import BOTH, Bad, check_bad, contents, write

from pipelines import parquet
from pipelines.__main__ import main

FAMILIES = {f"t{i}": f"family {i % 4}" for i in range(30)}

# Each with the three kinds of keys.
PROGRAMS = {
    "parquet": ["parquet", "--value=x", "--num_shards=3"],
    "loglik": ["loglik", "--value=x", "--observation=example", "--inner=logsumexp"],
    "lists": ["loglik", "--value=list", "--inner=logmeanexp", "--observation=example", "--per_observation"],
    "cross_entropy": ["cross_entropy", "--logits=list", "--label=label"],
    "softmax": ["softmax", "--value=x"],
    "stream": ["stream", "--source=replay", "--value=x", "--event_time=at", "--window=fixed:1h"],
}
DERIVED = ["--key=time", "--truncate=time=minute", "--key=share", "--bin=share=0.5", "--key=family"]


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_bytes_are_those_of_files_with_such_keys(
    tmp_path: Path, inputs: Path, name: str, runner: list[str]
) -> None:
    program, *arguments = PROGRAMS[name]
    lines = "".join(f"{text},{family}\n" for text, family in FAMILIES.items())
    (tmp_path / "families.csv").write_text(f"text,family\n{lines}")
    for path in (inputs / "in").iterdir():
        table = pq.read_table(path)
        table = table.append_column("at", table["time"])
        write(tmp_path / "in" / path.name, table)
        share = np.array(table["share"].to_numpy(zero_copy_only=False))
        cut = pc.floor_temporal(table["time"], unit="minute").cast(table["time"].type)
        table = table.set_column(table.column_names.index("time"), "time", cut)
        edges = pa.array(np.floor(share * 2) / 2 + 0.0, mask=np.isnan(share))
        table = table.set_column(table.column_names.index("share"), "share", edges)
        families = pa.array([FAMILIES[text] for text in table["text"].to_pylist()])
        write(tmp_path / "made" / path.name, table.set_column(table.column_names.index("text"), "family", families))

    def run(folder: str, *more: str) -> dict[str, bytes]:
        output = tmp_path / f"{folder}_out"
        given = [program, f"--input={tmp_path / folder}", *arguments, f"--output={output}", "--quiet", *more]
        assert main([*given, *(runner if program != "stream" else [])]) == 0
        return contents(output)

    made = run("made", "--key=time", "--key=share", "--key=family")
    assert sum(map(len, made.values())) > 2000
    assert run("in", *DERIVED, f"--map=text={tmp_path / 'families.csv'}") == made


def test_where_sees_what_is_in_the_file(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", {"k": [1, 12, 19, 25], "x": [0.0, 1.0, 2.0, 3.0]})
    arguments = [f"--input={source}", "--value=x", "--key=k", "--bin=k=10", f"--output={tmp_path / 'out'}", "--quiet"]
    assert parquet.main([*arguments, "--where=k > 12"]) == 0
    found = pq.read_table(tmp_path / "out")
    assert found.select(["k", "count"]).to_pylist() == [{"k": 10, "count": 1}, {"k": 20, "count": 1}]


FILES: dict[str, Any] = {
    "in.parquet": {"k": ["a", "b"], "n": [1, 2], "t": pa.array([0, 1], pa.timestamp("s")), "x": [1.0, 2.0]},
    "map.csv": b"k,g\na,1\nb,2\n",
}
BASE = "--input in.parquet --value x --output out"
BAD: dict[str, Bad] = {
    "a bin without a width": (FILES, f"{BASE} --key n --bin n", ["--bin n", "COLUMN="]),
    "a width of zero": (FILES, f"{BASE} --key n --bin n=0", ["--bin n=0", "above 0", "'0'"]),
    "a width that is none": (FILES, f"{BASE} --key n --bin n=wide", ["--bin n=wide", "above 0", "'wide'"]),
    "a width of many digits": (FILES, f"{BASE} --key n --bin n=1.00000000000000001", ["--bin n=", "fewer digits"]),
    "half a whole number": (FILES, f"{BASE} --key n --bin n=0.5", ["--bin n=0.5", "whole number", "int64"]),
    "bins of text": (FILES, f"{BASE} --key k --bin k=2", ["--bin k=2", "found string"]),
    "no key": (FILES, f"{BASE} --bin n=2", ["--bin n: ", "--key, or is mapped to one, found none"]),
    "the value": (FILES, f"{BASE} --key k --bin x=2", ["--bin x: ", "--key, or is mapped to one, found k"]),
    "cut twice": (FILES, f"{BASE} --key t --truncate t=day --bin t=5", ["--bin t", "found both"]),
    "the mapped column": (FILES, f"{BASE} --key k --key g --map k=map.csv", ["--key k: expected g"]),
    "a map of the value": (FILES, f"{BASE} --key g --map x=map.csv", ["map.csv: expected two columns, 'x'"]),
    "a map of the weight": (
        FILES | {"map.csv": b"n,g\n1,1\n2,2\n"},
        f"{BASE} --key g --map n=map.csv --weight n",
        ["--map n: expected a column that is no --weight too"],
    ),
    "a map of no key": (FILES, f"{BASE} --key n --map k=map.csv", ["--map k: ", "--key, or is mapped to one, found n"]),
    "no such key": (FILES, f"{BASE} --key nn --bin nn=2", ["in.parquet: column 'nn'", "nearest: n"]),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(parquet.main, "parquet", tmp_path, capsys, BAD[name])


def test_a_number_without_a_bin_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"in.parquet": {"k": [1.0, 1e300], "x": [1.0, 2.0]}}
    bad = (files, f"{BASE} --key k --bin k=0.1", ["in.parquet, row group 0, column 'k', row 1: ", "found 1e+300"])
    check_bad(parquet.main, "parquet", tmp_path, capsys, bad, status=1)
