"""The stream program on real engines: a Kafka topic to windows, bad messages aside; and files replayed on Flink, Prism.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched the engines.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import ROOT, contents, home, write

from engines.flink import LOOPBACK, job_server
from engines.kafka import Broker, broker, expansion_service
from lse_stream.state_column import STATE
from lse_stream.table_functions import finalize, group_states, sort_by_keys
from pipelines import parquet
from pipelines.stream import main

# Beam's workers end when the runner hangs up, and that is how their threads take it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

SAMPLE = Path(__file__).parents[2] / "pipelines" / "samples" / "storm_fixes.parquet"
HOUR = 3_600_000


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(home("kafka"), tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with expansion_service(home("flink"), tmp_path_factory.mktemp("service")) as address:
        yield address


@pytest.mark.engine
def test_a_topic_in_windows(kafka: Broker, service: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [(f"host-{rng.randrange(5)}", rng.gauss(0, 50), rng.randrange(4 * HOUR)) for _ in range(2000)]
    bad = [b"?", b"{}", json.dumps({"host": "a", "level": "loud", "time": 0}).encode()]
    kafka.create("rows", "totals", "rejected")
    good = [json.dumps(dict(zip(("host", "level", "time"), row, strict=True))).encode() for row in rows]
    kafka.produce("rows", [(message, None, None) for message in [*good, *bad]])
    arguments = [
        *("--source=kafka", f"--bootstrap_servers={kafka.servers}", f"--expansion_service={service}", "--quiet"),
        *(
            "--topic=rows",
            "--max_records=2003",
            "--key=host",
            "--value=level",
            "--event_time=time",
            "--window=fixed:1h",
        ),
        *("--state", f"--output={tmp_path / 'out'}", "--output_topic=totals"),
        *(f"--dead_letters={tmp_path / 'bad'}", "--dead_letter_topic=rejected"),
    ]
    assert main(arguments) == 0
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(files) == 4
    for i, path in enumerate(files):
        mine = [row for row in rows if row[2] // HOUR == i]
        table = pa.table({"host": [row[0] for row in mine], "level": [row[1] for row in mine]})
        wanted = finalize(sort_by_keys(group_states(table, ["host"], "level"), ["host"]), keep_state=True)
        assert pq.read_table(path).drop(["window_start", "window_end"]).equals(wanted)
    results = kafka.results("totals")
    assert sorted((r["window_start"], r["key"]["host"], r["logsumexp"], r["count"]) for r in results) == sorted(
        (row["window_start"].isoformat().replace("+00:00", "Z"), row["host"], row["logsumexp"], row["count"])
        for path in files
        for row in pq.read_table(path).drop([STATE]).to_pylist()
    )
    letters = kafka.results("rejected")
    assert sorted(letter["payload"].encode() for letter in letters) == sorted(bad)
    lines = [line for path in (tmp_path / "bad").iterdir() for line in path.read_text().splitlines()]
    assert sorted(map(json.loads, lines), key=repr) == sorted(letters, key=repr)


@pytest.mark.engine
def test_chosen_rows_and_derived_keys_of_a_topic_give_the_bytes_of_files(
    kafka: Broker, service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    rows: list[dict[str, Any]] = [
        {
            "model": f"m{rng.randrange(9)}",
            "size": rng.randrange(100),
            "level": rng.gauss(0, 50),
            "ok": rng.random() < 0.7,
        }
        | {"seen": 1000 * rng.randrange(3 * 86_400), "time": rng.randrange(4 * HOUR)}
        for _ in range(1000)
    ]
    (tmp_path / "families.csv").write_text("".join(["model,family\n", *(f"m{i},f{i % 2}\n" for i in range(8))]))
    files = {name: [row[name] for row in rows] for name in rows[0] if name not in ("seen", "time")}
    times = {name: pa.array([row[name] for row in rows], pa.timestamp("ms", "UTC")) for name in ("seen", "time")}
    write(tmp_path / "rows.parquet", pa.table(files | times))
    good = [json.dumps(row).encode() for row in rows]
    other = [b'{"time": "never"}', b'{"ok": false, "level": {}}']
    bad = [b'{"ok": true, "model": "m1"}']
    kafka.create("mixed", "unread")
    kafka.produce("mixed", [(message, None, None) for message in [*good, *other, *bad]])
    common = [
        *("--value=level", "--event_time=time", "--window=fixed:1h", "--state", "--where=ok and model != 'm8'"),
        *("--truncate=seen=day", "--bin=size=25", f"--map=model={tmp_path / 'families.csv'}"),
    ]
    replay = ["--source=replay", f"--input={tmp_path / 'rows.parquet'}", "--key=family", "--key=size", "--key=seen"]
    assert main([*replay, *common, f"--output={tmp_path / 'files'}"]) == 0
    arguments = [
        *("--source=kafka", f"--bootstrap_servers={kafka.servers}", f"--expansion_service={service}", "--topic=mixed"),
        *("--max_records=1003", "--key=family", "--key=size:int64", "--key=seen:timestamp", "--field=ok:bool"),
        *("--dead_letter_topic=unread", f"--output={tmp_path / 'topic'}"),
    ]
    capsys.readouterr()
    assert main([*arguments, *common]) == 0
    chosen = sum(row["ok"] and row["model"] != "m8" for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1,003 messages of mixed, 1 of them bad, ")
    assert lines[1] == f"{chosen} rows chosen by --where"
    names = sorted(path.name for path in (tmp_path / "files").glob("*.parquet"))
    assert sorted(path.name for path in (tmp_path / "topic").glob("*.parquet")) == names
    for name in names:
        # Times of files are in the unit of the file.
        found, wanted = (pq.read_table(tmp_path / place / name) for place in ("topic", "files"))
        assert found.cast(wanted.schema).equals(wanted)
    [letter] = kafka.results("unread")
    assert letter["payload"].encode() == bad[0]


@pytest.mark.engine
def test_transactions_that_were_aborted_do_not_count(kafka: Broker, service: str, tmp_path: Path) -> None:
    kafka.create("committed", partitions=1, **{"message.timestamp.type": "LogAppendTime"})

    def rows(*levels: float) -> list[bytes]:
        return [json.dumps({"level": level, "time": 0}).encode() for level in levels]

    kafka.produce("committed", [(row, None, 0) for row in rows(1.0, 2.0)])
    kafka.abort("committed", rows(100.0, 200.0), 0)
    kafka.produce("committed", [(row, None, 0) for row in rows(3.0, 4.0, 5.0)])
    arguments = [
        *("--source=kafka", f"--bootstrap_servers={kafka.servers}", f"--expansion_service={service}", "--quiet"),
        *("--topic=committed", "--max_records=5", "--value=level", "--event_time=time", "--window=fixed:1h"),
        *(f"--output={tmp_path / 'out'}", f"--dead_letters={tmp_path / 'bad'}"),
    ]
    assert main(arguments) == 0
    [row] = pq.read_table(tmp_path / "out").to_pylist()
    assert (row["count"], row["max"], row["logsumexp"]) == (5, 5.0, 5.451914395937593)


@pytest.mark.engine
def test_partitions_without_records_are_an_error(
    kafka: Broker, service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka.create("filled", "letters", partitions=8)
    kafka.produce("filled", [(b"{}", None, 5)])
    arguments = [
        *("--source=kafka", f"--bootstrap_servers={kafka.servers}", f"--expansion_service={service}", "--quiet"),
        *("--topic=filled", "--value=v", "--window=fixed:1h", f"--output={tmp_path / 'out'}"),
        *("--dead_letter_topic=letters", "--runner=FlinkRunner", "--flink_master=localhost:1"),
    ]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "--topic filled: expected a record in each of its 8 partitions, as until then no window closes" in error
    assert "found none in 0, 1, 2, 3, 4, 6, 7: " in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.engine
def test_topics_that_are_not_there(kafka: Broker, service: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *(
            "--source=kafka",
            f"--bootstrap_servers={kafka.servers}",
            f"--expansion_service={service}",
            "--max_records=1",
        ),
        *("--topic=nowhere", "--key=k", "--value=v", "--window=fixed:1h", "--output_topic=o", "--dead_letter_topic=d"),
    ]
    assert main(arguments) == 2
    assert f"--topic nowhere: expected a topic of {kafka.servers}, found" in capsys.readouterr().err


@pytest.mark.engine
@pytest.mark.parametrize("window", ["fixed:12w", "sliding:8w/4w"])
def test_files_replayed_on_flink(window: str, tmp_path: Path) -> None:
    replay = [
        "--source=replay",
        f"--input={SAMPLE}",
        "--key=season",
        "--value=category",
        "--event_time=time",
        "--quiet",
    ]
    replay += [f"--window={window}", "--state"]
    (tmp_path / "flink").mkdir()
    assert main([*replay, f"--output={tmp_path / 'embedded'}"]) == 0
    with job_server(home("flink"), tmp_path / "flink") as flink:
        assert main([*replay, f"--output={tmp_path / 'batch'}", *flink.options, LOOPBACK]) == 0
        assert main([*replay, f"--output={tmp_path / 'stream'}", *flink.options, LOOPBACK, "--streaming"]) == 0
    assert contents(tmp_path / "batch") == contents(tmp_path / "embedded")
    assert contents(tmp_path / "stream") == contents(tmp_path / "embedded")


@pytest.mark.engine
def test_a_batch_on_prism(tmp_path: Path) -> None:
    always = ["--quiet", f"--input={SAMPLE}", "--key=season", "--value=category", "--state"]
    prism = ["--runner=PrismRunner", f"--prism_location={home('prism')}", LOOPBACK]
    assert parquet.main([*always, f"--output={tmp_path / 'embedded'}"]) == 0
    assert parquet.main([*always, f"--output={tmp_path / 'prism'}", *prism]) == 0
    assert contents(tmp_path / "prism") == contents(tmp_path / "embedded")


@pytest.mark.engine
def test_ctrl_c_during_a_batch_on_prism(tmp_path: Path) -> None:
    """It reaches Prism too, which the terminal sends it to as well: the job has ended with it."""
    source = write(tmp_path / "in" / "a.parquet", {"v": np.arange(50_000) / 7}, row_group_size=1)
    arguments = ["--input", str(source), "--value=v", f"--output={tmp_path / 'results' / 'out'}", LOOPBACK]
    command = [sys.executable, "-m", "pipelines.parquet", *arguments, f"--prism_location={home('prism')}"]
    (tmp_path / "results").mkdir()
    with subprocess.Popen(
        [*command, "--runner=PrismRunner"], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert any("submitted to PrismRunner" in line for line in process.stderr)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "parquet: interrupted (SIGINT); " in said
    assert " cancelled" in said.partition("interrupted")[2]
    assert "; no output was written\n" in said
    assert list((tmp_path / "results").iterdir()) == []
