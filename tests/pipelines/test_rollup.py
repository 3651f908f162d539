"""``python -m pipelines.rollup`` against one job over all the rows: the same bytes."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from programs import check_bad, check_bytes, contents, parts, write

from lse_stream import state_column
from lse_stream.state_column import StateType
from lse_stream.states.aggregations import AGGREGATIONS
from lse_stream.table_functions import group_states
from pipelines import loglik, parquet
from pipelines.rollup import main

FIRST = datetime.datetime(2025, 12, 30, tzinfo=datetime.UTC)


def sample(n: int = 3000) -> pa.Table:
    """Rows over a week, with nulls among keys and values, and values of many magnitudes."""
    rng = np.random.default_rng(0)
    times = [FIRST + datetime.timedelta(minutes=int(minutes)) for minutes in rng.integers(0, 7 * 24 * 60, n)]
    return pa.table(
        {
            "time": pa.array(times, pa.timestamp("ms", "UTC")),
            "model": pa.array([f"m{i}" if i else None for i in rng.integers(0, 6, n)]),
            "value": pa.array(rng.normal(size=n) * rng.choice([1.0, 100.0, 1e6], n), mask=rng.random(n) < 0.05),
        }
    )


def cut(table: pa.Table, unit: str) -> pa.Table:
    return table.set_column(0, "time", pc.floor_temporal(table["time"], unit=unit))


def run(program: Any, folder: Path, *arguments: object) -> dict[str, bytes]:
    assert program([*map(str, arguments), "--output", str(folder), "--quiet"]) == 0
    return contents(folder)


def total(folder: Path, table: pa.Table, keys: Sequence[str], *arguments: str) -> dict[str, bytes]:
    """The files of one job over all rows."""
    source = write(folder.with_suffix(".parquet"), table)
    return run(parquet.main, folder, "--input", source, *(f"--key={key}" for key in keys), "--value=value", *arguments)


def hourly(folder: Path, table: pa.Table) -> Path:
    """A directory of results for each day, by hour and model."""
    hours = cut(table, "hour")
    days = pc.floor_temporal(table["time"], unit="day")
    for day in days.unique().to_pylist():
        rows = hours.filter(pc.equal(days, pa.scalar(day, days.type)))
        total(folder / f"{day:%Y-%m-%d}", rows, ["time", "model"], "--state", "--num_shards=2")
    for path in folder.glob("*.parquet"):
        path.unlink()
    return folder


def test_hours_to_days_to_months_are_the_bytes_of_one_job(tmp_path: Path) -> None:
    table = sample()
    states = hourly(tmp_path / "hourly", table)
    always = ["--key=time", "--key=model", "--state", "--num_shards=3"]
    daily = run(main, tmp_path / "daily", "--input", states, "--truncate=time=day", *always)
    assert daily == total(tmp_path / "day", cut(table, "day"), ["time", "model"], "--state", "--num_shards=3")
    # And on from there, which is no other than from the hours.
    month = total(tmp_path / "month", cut(table, "month"), ["time"])
    for source in (tmp_path / "daily", states):
        out = tmp_path / f"from_{source.name}"
        assert run(main, out, "--input", source, "--truncate=time=month", "--key=time") == month
    assert pq.read_table(tmp_path / "month")["count"].to_pylist() == [
        pc.sum(pq.read_table(tmp_path / "from_daily")["count"][i : i + 1]).as_py() for i in range(2)
    ]


def test_dropped_and_mapped_keys_are_the_bytes_of_one_job(tmp_path: Path) -> None:
    table = sample()
    states = hourly(tmp_path / "hourly", table)
    assert run(main, tmp_path / "one", "--input", states) == total(tmp_path / "all", table, [])
    families = {"m1": "a", "m2": "b", "m3": "a", "m4": "b", "m5": "c"}
    (tmp_path / "families.csv").write_text("model,family\n" + "".join(f"{m},{f}\n" for m, f in families.items()))
    write(tmp_path / "families.pq.parquet", {"model": [*families, None], "family": [*families.values(), None]})
    family = pa.array([families.get(model) for model in table["model"].to_pylist()])
    expected = total(tmp_path / "families", table.append_column("family", family), ["family"], "--min_count=900")
    assert pq.read_table(tmp_path / "families")["logsumexp"].null_count == 2
    for name in ("families.csv", "families.pq.parquet"):
        mapping = f"--map=model={tmp_path / name}"
        found = run(main, tmp_path / f"by_{name}", "--input", states, mapping, "--key=family", "--min_count=900")
        assert found == expected


def test_dictionaries_are_mapped(tmp_path: Path) -> None:
    table = pa.table({"k": pa.array(["a", "b", "a"]).dictionary_encode(), "value": [1.0, 2.0, 3.0]})
    total(tmp_path / "states", table, ["k"], "--state")
    (tmp_path / "map.csv").write_text("k,group\na,1\nb,1\n")
    run(main, tmp_path / "out", "--input", tmp_path / "states", f"--map=k={tmp_path / 'map.csv'}", "--key=group")
    assert parts(tmp_path / "out")[0].select(["group", "count"]).to_pylist() == [{"group": 1, "count": 3}]


def test_totals_of_log_likelihoods_are_rolled_up_too(tmp_path: Path) -> None:
    table = sample()
    source = write(tmp_path / "a.parquet", table)
    always = ["--input", source, "--value=value", "--state"]
    run(loglik.main, tmp_path / "fine", *always, "--key=model")
    run(loglik.main, tmp_path / "whole", *always)
    found = run(main, tmp_path / "out", "--input", tmp_path / "fine" / "totals", "--state")
    assert found == contents(tmp_path / "whole" / "overall")


@pytest.mark.parametrize("unit", ["hour", "week", "quarter", "year"])
def test_units_of_time(tmp_path: Path, unit: str) -> None:
    table = sample(500)
    states = total(tmp_path / "states", table, ["time"], "--state")
    assert states
    found = run(main, tmp_path / "out", "--input", tmp_path / "states", f"--truncate=time={unit}", "--key=time")
    assert found == total(tmp_path / "one", cut(table, unit), ["time"])


@pytest.mark.engine
def test_bytes_depend_on_the_states_alone(tmp_path: Path) -> None:
    total(tmp_path / "states", cut(sample(), "hour"), ["time", "model"], "--state")
    [states] = parts(tmp_path / "states")
    check_bytes("rollup", main, tmp_path, states, ["--key=model", "--state", "--num_shards=2"])


def test_states_without_results_beside_them_get_those_of_their_kind(tmp_path: Path) -> None:
    bare = group_states(sample(), ["model"], "value", aggregation="log_likelihood")
    some = bare.append_column("mean", pa.nulls(bare.num_rows, pa.float64()))
    for name, table in (("bare", bare), ("some", some)):
        run(main, tmp_path / name, "--input", write(tmp_path / f"{name}.parquet", table), "--key=model")
        assert parts(tmp_path / name)[0].schema.names == ["model", *AGGREGATIONS["log_likelihood"].columns]


def test_states_that_lost_their_type_are_rolled_up_all_the_same(tmp_path: Path) -> None:
    table = group_states(pa.table({"k": [1, 2], "value": [1.0, 1.0]}), ["k"], "value")
    plain = table.set_column(1, "state", pa.chunked_array([c.storage for c in table["state"].chunks], pa.binary()))
    source = write(tmp_path / "plain.parquet", plain)
    run(main, tmp_path / "out", "--input", source)
    assert parts(tmp_path / "out")[0]["count"].to_pylist() == [2]


def test_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total(tmp_path / "states", sample(), ["time", "model"], "--state")
    argv = ["--input", str(tmp_path / "states"), "--key=model", "--output", str(tmp_path / "out")]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    states = parts(tmp_path / "states")[0].num_rows
    assert lines[0].startswith(f"{states:,} states of 1 file: 6 keys in 1 file, 2,")
    assert lines[3].split() == ["model", "logsumexp", "count", "max"]
    assert len(lines) == 10


# --- faults -----------------------------------------------------------------------------------------------------------

STATES = group_states(pa.table({"k": ["a", "b"], "v": [1.0, 2.0]}), ["k"], "v")
COARSE = group_states(pa.table({"j": ["a", "b"], "v": [1.0, 2.0]}), ["j"], "v")
DECIBEL = group_states(pa.table({"k": ["a", "b"], "v": [1.0, 2.0]}), ["k"], "v", scale="decibel")
WEIGHTED = group_states(
    pa.table({"k": ["a"], "v": [1.0], "w": [1.0]}), ["k"], ["v", "w"], aggregation="weighted_logsumexp"
)
TIMES = group_states(pa.table({"k": ["a"], "t": [FIRST], "v": [1.0]}), ["k", "t"], "v")


def later_version() -> pa.Table:
    state_type = StateType(9, "logsumexp", "natural")
    storage = STATES["state"].chunk(0).storage
    return STATES.set_column(1, "state", pa.ExtensionArray.from_storage(state_type, storage))


FILES = {"in/a.parquet": STATES}
BASE = "--input in --output out"
MAP = FILES | {"map.csv": b"k,g\na,1\nb,2\n"}
BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "no states": ({"in/a.parquet": {"k": [1]}}, BASE, ["in/a.parquet", "column 'state'", "found columns k"]),
    "no true states": (
        {"in/a.parquet": {"state": [1]}},
        BASE,
        ["column 'state'", "expected states", "int64"],
    ),
    "other keys": (FILES | {"in/b.parquet": COARSE}, f"{BASE} --key k", ["in/b.parquet", "column 'k'", "columns j"]),
    "more keys": (FILES | {"in/b.parquet": TIMES}, f"{BASE} --key k", ["in/b.parquet", "found more: t"]),
    "other scales": (FILES | {"in/b.parquet": DECIBEL}, BASE, ["in/b.parquet", "scale natural", "scale decibel"]),
    "other kinds": (
        FILES | {"in/b.parquet": WEIGHTED},
        BASE,
        ["in/b.parquet", "aggregation logsumexp", "aggregation weighted"],
    ),
    "a newer version": ({"in/a.parquet": later_version()}, BASE, ["in/a.parquet", "version 2", "found", "version 9"]),
    "no such key": (FILES, f"{BASE} --key x", ["--key x", "found k, state"]),
    "the key is the state": (FILES, f"{BASE} --key state", ["--key state"]),
    "truncate without a unit": (FILES, f"{BASE} --truncate k", ["--truncate k", "COLUMN="]),
    "truncate to no unit": (FILES, f"{BASE} --truncate k=fortnight", ["--truncate k=fortnight", "hour, day"]),
    "truncate of text": (FILES, f"{BASE} --key k --truncate k=day", ["--truncate k=day", "found string"]),
    "truncate of nothing": (FILES, f"{BASE} --key k --truncate t=day", ["--truncate t", "--key", "found k"]),
    "truncate twice": (FILES, f"{BASE} --truncate k=day --truncate k=hour", ["--truncate k=hour", "twice"]),
    "map without a file": (FILES, f"{BASE} --map k=none.csv", ["--map k=none.csv", "FileNotFoundError"]),
    "map of nothing": (MAP, f"{BASE} --map j=map.csv", ["--map j=map.csv", "'j'", "found ['k', 'g']"]),
    "map of other columns": (MAP | {"map.csv": b"a,b\n1,2\n"}, f"{BASE} --map k=map.csv", ["'k'", "['a', 'b']"]),
    "map of three columns": (MAP | {"map.csv": b"k,b,c\n1,2,3\n"}, f"{BASE} --map k=map.csv", ["['k', 'b', 'c']"]),
    "map with a value twice": (
        MAP | {"map.csv": b"k,g\na,2\na,3\n"},
        f"{BASE} --map k=map.csv --key g",
        ["once", "found a"],
    ),
    "map to a column that is there": (
        {"in/a.parquet": TIMES, "map.csv": b"k,t\na,1\n"},
        f"{BASE} --map k=map.csv --key t",
        ["--map k=map.csv", "found 't'"],
    ),
    "the mapped key is gone": (
        MAP,
        f"{BASE} --map k=map.csv --key k",
        ["--key k: expected g, which --map makes of it"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "rollup", tmp_path, capsys, BAD[name])


def damaged() -> pa.Table:
    records = [bytearray(record) for record in STATES["state"].chunk(0).storage.to_pylist()]
    records[1][20] ^= 1
    storage = pa.array(map(bytes, records), pa.binary())
    return STATES.set_column(1, "state", pa.ExtensionArray.from_storage(StateType(), storage))


BAD_ROWS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "a damaged state": (
        FILES | {"in/b.parquet": damaged()},
        BASE,
        ["in/b.parquet, row group 0, column 'state', row 1: expected", "found"],
    ),
    "a value that the map lacks": (
        MAP | {"map.csv": b"k,g\na,1\n"},
        f"{BASE} --map k=map.csv --key g",
        ["in/a.parquet, row group 0, column 'k'", "found b"],
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_faults_found_in_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "rollup", tmp_path, capsys, BAD_ROWS[name], status=1)


def test_a_column_of_states_says_what_it_is() -> None:
    assert (
        str(DECIBEL.schema.field("state").type) == "lse_stream.state of version 2, aggregation logsumexp, scale decibel"
    )
    assert state_column.aggregation_of(pa.binary(), "state") is None
