"""The engine on Beam: what travels between workers, and how much of it the graph itself has."""

import copyreg
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from programs import BEAM, contents, split, write

from lse_stream.parquet.scan import scan
from lse_stream.state_table import StateTable
from pipelines import parquet, softmax


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    n = 1200
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "k": pa.array([f"k{i}" for i in rng.integers(0, 9, n)]).dictionary_encode(),
            "example": np.arange(n) // 3,
            "class": np.arange(n) % 3,
            "x": rng.normal(size=n),
        }
    )
    split(folder / "in", table, 3, row_group_size=100)
    write(folder / "labels.parquet", {"example": np.arange(n // 3), "label": np.arange(n // 3) % 3})
    arguments = [
        f"--input={folder}/in",
        "--value=x",
        "--key=k",
        "--key=example",
        "--state",
        f"--output={folder}/states",
    ]
    assert parquet.main([*arguments, "--quiet"]) == 0
    return folder


@pytest.fixture
def no_pickles() -> Iterator[None]:
    """Whoever pickles a table fails."""

    def refuse(table: Any) -> Any:
        raise TypeError(f"a pickled {type(table).__name__}")

    for kind in (pa.Table, pa.RecordBatch, StateTable):
        copyreg.pickle(kind, refuse)
    yield
    for kind in (pa.Table, pa.RecordBatch, StateTable):
        del copyreg.dispatch_table[kind]


@pytest.mark.usefixtures("no_pickles")
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("parquet", "--input={}/in --key=k --value=x --num_shards=2"),
        ("loglik", "--input={}/in --key=k --observation=example --value=x --inner=logsumexp --per_observation"),
        ("loglik", "--input={}/in --key=k --observation=class --value=x --inner=logmeanexp --waic"),
        ("softmax", "--input={}/in --key=k --value=x"),
        ("softmax", "--input={}/in --key=example --value=x --max_broadcast=1"),
        (
            "cross_entropy",
            "--input={}/in --value=x --class=class --example=example --labels={}/labels.parquet --label=label",
        ),
        ("rollup", "--input={}/states --key=k"),
    ],
)
def test_nothing_pickles_a_table(folder: Path, tmp_path: Path, program: str, arguments: str) -> None:
    argv = [*arguments.replace("{}", str(folder)).split(), f"--output={tmp_path}/out", "--quiet", BEAM]
    assert import_module(f"pipelines.{program}").main(argv) == 0
    assert contents(tmp_path / "out")


def test_the_check_for_pickles_sees_one(no_pickles: None) -> None:
    del no_pickles
    with pytest.raises(TypeError, match="a pickled Table"):
        copyreg.dispatch_table[pa.Table](pa.table({"a": [1]}))


def graph_bytes(program: Any, dataset: Any, directory: Path, **options: Any) -> int:
    pipeline = beam.Pipeline(FnApiRunner())
    program.build(pipeline, dataset, str(directory), **options)
    return len(pipeline.to_runner_api().SerializeToString())


@pytest.mark.parametrize("program", [parquet, softmax])
def test_a_graph_grows_by_few_bytes_per_row_group(tmp_path: Path, program: Any) -> None:
    """It is bounded where it is sent to a service: Dataflow takes some 10 MB."""
    table = pa.table({"k": np.arange(4000), "x": np.zeros(4000)})
    for name, rows in (("few", 4000), ("many", 1)):
        write(tmp_path / f"{name}.parquet", table, row_group_size=rows)
    assert pq.read_metadata(tmp_path / "many.parquet").num_row_groups == 4000
    few, many = (
        graph_bytes(program, scan([f"{tmp_path}/{name}.parquet"], ["k"], ["x"]), tmp_path, keys=["k"])
        for name in ("few", "many")
    )
    assert many - few < 12 * 4000
