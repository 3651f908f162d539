"""The transforms and the Parquet program on Flink, with two workers in parallel: the same bytes as anywhere else.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched Flink. With LSE_STREAM_REQUIRE_ENGINES=1 in
the environment a missing engine is a failure.
"""

import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from programs import BEAM, IN_PROCESSES, check_fault, cli, contents, home

from engines.flink import FLINK_CONFIG, LOOPBACK, JobServer, finished, job_server
from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.beam import LogSoftmax, LogSumExp
from lse_stream.table_functions import group_states
from lse_stream.testing import bits
from pipelines.parquet import main

pytestmark = [
    pytest.mark.engine,
    # Beam's workers end when Flink hangs up, and that is how their threads take it.
    pytest.mark.filterwarnings(
        r"ignore:Exception in thread (read_grpc_client_inputs|read_state|run_worker)"
        ":pytest.PytestUnhandledThreadExceptionWarning"
    ),
]

EMBEDDED = ["--runner=FnApiRunner"]


@pytest.fixture(scope="module")
def flink_home() -> Path:
    return home("flink")


@pytest.fixture(scope="module")
def flink(flink_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    with job_server(flink_home, tmp_path_factory.mktemp("flink")) as server:
        yield server


def sample(rows: int = 6000) -> pa.Table:
    """Keys of three types with nulls, and values, some null, whose plain sum depends on its order."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=rows) * rng.choice([1e-3, 1.0, 30.0, 1e6], rows)
    values[:: rows // 5] = [np.nan, np.inf, -np.inf, 745.25, -0.0]
    return pa.table(
        {
            "fold": pa.array(rng.integers(-9, 30, rows), pa.int32(), mask=rng.random(rows) < 0.02),
            "model": pa.array(rng.choice(np.array(["small", "größer", ""]), rows)).dictionary_encode(),
            "day": pa.array(rng.integers(0, 4, rows) * 86_400_000, pa.timestamp("ms", "Europe/Oslo")),
            "value": pa.array(values, mask=rng.random(rows) < 0.05),
        }
    )


# --- transforms -------------------------------------------------------------------------------------------------------

KEYS = ["fold", "model", "day"]
SHARDS = 3
NUMBERS = sample()["value"].drop_null().to_pylist()
# Half of the pairs have one key.
PAIRS = [(i % 40 if i % 2 else -1, number) for i, number in enumerate(NUMBERS)]


def encode(output: Any) -> bytes:
    """Every bit of an output: a number, a pair of key and number, or a shard."""
    match output:
        case (shard, pa.Table() as table):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            return bytes([shard]) + bytes(sink.getvalue())
        case _:
            return bits(output)


def save(output: Any, directory: Path, way: str) -> None:
    (directory / f"{way}.{uuid.uuid4()}").write_bytes(encode(output))


def run_transforms(options: Sequence[str], directory: Path) -> dict[str, list[bytes]]:
    """All transforms in one job; what each one gave, sorted."""
    directory.mkdir()
    table = sample()
    tables = [table.slice(start, 700) for start in range(0, table.num_rows, 700)]
    # As these types, since Beam's methods, which they inherit, have none.
    globally: beam.CombineGlobally = LogSumExp.Globally()
    per_key: beam.CombinePerKey = LogSumExp.PerKey()
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        mixed = pipeline | "Mixed" >> beam.Create([*tables, table.drop_columns(["value"])])
        tables = pipeline | "Tables" >> beam.Create(tables)
        numbers = pipeline | "Numbers" >> beam.Create(NUMBERS)
        pairs = pipeline | "Pairs" >> beam.Create(PAIRS)
        reduce = LogSumExp.PerKeyFromTables(KEYS, "value", num_shards=SHARDS)
        handled = mixed | "Handled" >> reduce.with_exception_handling()
        ways = {
            "tables": tables | LogSumExp.PerKeyFromTables(KEYS, "value", num_shards=SHARDS),
            "few states": tables
            | "FewStates" >> LogSumExp.PerKeyFromTables(KEYS, "value", num_shards=SHARDS, max_states=100),
            "handled tables": handled.good,
            "bad tables": handled.bad | beam.Map(lambda pair: (0, pair[0])),
            "joined softmax": tables
            | "Softmax" >> LogSoftmax.PerKeyFromTables(KEYS, "value", max_broadcast=50)
            | "Number" >> beam.Map(lambda table: (0, table)).with_output_types(tuple[int, pa.Table]),
            "globally": numbers | "Globally" >> LogSumExp.Globally(),
            "fanout": numbers | "Fanout" >> globally.with_fanout(3),
            "per key": pairs | "PerKey" >> LogSumExp.PerKey(),
            "hot key": pairs | "HotKey" >> per_key.with_hot_key_fanout(lambda key: 3 if key == -1 else 0),
        }
        for way, outputs in ways.items():
            outputs | f"Save {way}" >> beam.Map(save, directory, way)
    return {way: sorted(path.read_bytes() for path in directory.glob(f"{way}.*")) for way in ways}


def test_transforms(flink: JobServer, tmp_path: Path) -> None:
    finished_before = flink.finished()
    found = run_transforms([*flink.options, LOOPBACK], tmp_path / "flink")
    assert flink.finished() == finished_before + 1

    states: dict[int, LogSumExpAccumulator] = {}
    for key, number in PAIRS:
        states.setdefault(key, LogSumExpAccumulator()).add(number)
    total = LogSumExpAccumulator()
    total.update(np.array(NUMBERS))
    assert found["globally"] == found["fanout"] == [bits(total.value())]
    assert found["per key"] == found["hot key"] == sorted(bits((key, state.value())) for key, state in states.items())

    assert len(found["tables"]) == SHARDS
    assert found["few states"] == found["handled tables"] == found["tables"]
    assert found["bad tables"] == [encode((0, sample().drop_columns(["value"])))]
    assert found == run_transforms(EMBEDDED, tmp_path / "embedded")


# --- the program ------------------------------------------------------------------------------------------------------


def write_input(folder: Path) -> Path:
    """The sample in files of different sizes, one of them without rows, and in many row groups."""
    folder.mkdir()
    table = sample()
    for name, start, rows in (("a", 0, 300), ("b", 300, 4700), ("c", 5000, 0), ("d", 5000, 1000)):
        part = table.slice(start, rows)
        pq.write_table(part, folder / f"{name}.parquet", row_group_size=400, write_page_checksum=True)
    return folder


def arguments(source: Path, output: Path) -> list[str]:
    keys = [f"--key={key}" for key in KEYS]
    return ["--input", str(source), *keys, "--value=value", "--output", str(output), "--num_shards=3", "--state"]


def test_the_program(flink: JobServer, tmp_path: Path) -> None:
    source = write_input(tmp_path / "in")
    finished_before = flink.finished()
    ways = {
        "local": [],
        "embedded": [BEAM],
        "processes": IN_PROCESSES,
        "flink": [*flink.options, LOOPBACK],
    }
    for way, options in ways.items():
        assert main([*arguments(source, tmp_path / way), "--quiet", *options]) == 0, way
    assert flink.finished() == finished_before + 1

    expected = contents(tmp_path / "local")
    assert sorted(expected) == [f"part-0000{shard}-of-00003.parquet" for shard in range(3)]
    for way in ways:
        assert contents(tmp_path / way) == expected, way


def two_levels() -> pa.Table:
    """Rows of classes of examples, or of draws of observations, which is one."""
    rng = np.random.default_rng(0)
    n, each = 400, 5
    order = rng.permutation(n * each)
    columns = {
        "k": np.arange(n * each) // each % 3,
        "id": np.arange(n * each) // each,
        "class": np.arange(n * each) % each,
        "label": np.repeat(rng.integers(0, each, n), each),
        "value": rng.normal(0, 10, n * each),
    }
    return pa.table({name: column[order] for name, column in columns.items()})


PROGRAMS = {
    "loglik": ["--observation=id", "--inner=logmeanexp", "--waic", "--per_observation", "--num_shards=2"],
    "softmax": [],
    "softmax, joined": ["--max_broadcast=1"],
    "cross_entropy": ["--example=id", "--class=class", "--label=label"],
    "rollup": ["--state", "--num_shards=2"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_other_programs(flink: JobServer, tmp_path: Path, name: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    table = two_levels()
    value = ["--value=value"]
    if name == "rollup":
        table, value = group_states(table, ["k", "id"], "value"), []
    for i in range(3):
        pq.write_table(table.take(np.arange(i, table.num_rows, 3)), source / f"{i}.parquet", row_group_size=200)
    program = import_module(f"pipelines.{name.partition(',')[0]}").main
    for way, options in {"local": [], "flink": [*flink.options, LOOPBACK]}.items():
        argv = ["--input", str(source), "--key=k", *value, "--output", str(tmp_path / way), "--quiet"]
        assert program([*argv, *PROGRAMS[name], *options]) == 0, way
    expected = contents(tmp_path / "local")
    assert len(expected) >= 2
    assert contents(tmp_path / "flink") == expected


def test_a_damaged_page(flink: JobServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_input(tmp_path / "in")
    path = source / "b.parquet"
    chunk = pq.read_metadata(path).row_group(7).column(3)
    data = bytearray(path.read_bytes())
    data[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(data)

    assert main([*arguments(source, tmp_path / "out"), "--quiet", *[*flink.options, LOOPBACK]]) == 1
    # Beam's worker has its say before.
    last_line = capfd.readouterr().err.splitlines()[-1]
    assert last_line.startswith(f"parquet: error: {path}, row group 7, column 'value': expected to read all rows, ")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_option_that_the_job_server_does_not_describe(
    flink: JobServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_input(tmp_path / "in")
    assert main([*arguments(source, tmp_path / "out"), *flink.options, "--checkpointing_intervall=3"]) == 2
    check_fault(capsys.readouterr().err, ["--checkpointing_intervall: expected", "nearest: --checkpointing_interval)"])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def command_line(path: Path) -> bytes:
    """Of a process; nothing of one that has ended."""
    with suppress(OSError):
        return path.read_bytes()
    return b""


def test_the_command_line_with_a_job_server_of_beams(flink_home: Path, tmp_path: Path) -> None:
    source = write_input(tmp_path / "in")
    assert main([*arguments(source, tmp_path / "embedded"), "--quiet"]) == 0
    log, configuration = tmp_path / "job-server.log", tmp_path / "configuration"
    configuration.mkdir()
    (configuration / "config.yaml").write_text(FLINK_CONFIG)
    properties = {"org.slf4j.simpleLogger.logFile": log, "java.io.tmpdir": tmp_path}
    command = [
        *(sys.executable, "-m", "pipelines.parquet", *arguments(source, tmp_path / "flink")),
        *("--runner=FlinkRunner", f"--flink_job_server_jar={flink_home / 'launcher.jar'}", LOOPBACK),
        *(f"--job_server_jvm_properties=-D{name}={value}" for name, value in properties.items()),
        *("--", f"--flink_conf_dir={configuration}"),
    ]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        # The job server has ended too, which has a session of its own.
        assert not [path for path in Path("/proc").glob("*/cmdline") if str(log).encode() in command_line(path)]
    finally:
        process.kill()
        process.wait()
    assert output.startswith("6,000 rows")
    assert finished(log) == 1
    # What stands behind the two dashes has arrived.
    assert f"configuration file from {configuration}/config.yaml" in log.read_text()
    assert contents(tmp_path / "flink") == contents(tmp_path / "embedded")


def test_an_option_behind_two_dashes_that_a_job_server_of_beams_does_not_describe(
    flink_home: Path, tmp_path: Path
) -> None:
    source = write_input(tmp_path / "in")
    server = ["--runner=FlinkRunner", f"--flink_job_server_jar={flink_home / 'launcher.jar'}", LOOPBACK]
    process = cli("parquet", *arguments(source, tmp_path / "out"), *server, "--", "--checkpointing_intervall=3")
    assert process.returncode == 2
    assert "--checkpointing_intervall: expected an option" in process.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
