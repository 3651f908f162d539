"""What programs send to workers loads where only the package is: a clone's top-level ``pipelines`` is not there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from programs import BEAM, RUNS

from pipelines.__main__ import PROGRAMS, main

_STREAM = ["stream", "--source=replay", "--input={}/in", "--key=text", "--value=x", "--event_time=time"]
GRAPHS = {name: [*arguments, BEAM] for name, arguments in RUNS.items() if "--memory=1MB" not in arguments}
GRAPHS |= {f"stream, {window}": [*_STREAM, f"--window={window}"] for window in ("fixed:1h", "session:1h")}

# Reads graphs as runners and workers do, with all DoFns, CombineFns, coders and windows; says what each one lacks.
LOAD = """
import json, sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pipelines":
            raise ModuleNotFoundError(f"no module named {name}")

sys.meta_path.insert(0, Refuse())
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext

def load(path):
    components = beam_runner_api_pb2.Pipeline.FromString(path.read_bytes()).components
    context = PipelineContext(components)
    for kind in ("coders", "windowing_strategies", "transforms"):
        for name in getattr(components, kind):
            getattr(context, kind).get_by_id(name)
    return len(components.transforms)

found = {}
for path in Path(sys.argv[1]).iterdir():
    try:
        found[path.name] = load(path)
    except Exception as error:
        found[path.name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


class Built(BaseException):
    """In place of a run, with what would have been run."""

    def __init__(self, graph: bytes) -> None:
        self.graph = graph


def stop(pipeline: beam.Pipeline) -> None:
    raise Built(pipeline.to_runner_api().SerializeToString())


@pytest.fixture(scope="module")
def loaded(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """How many transforms of each graph a process without ``pipelines`` has loaded, or what stopped it."""
    folder = tmp_path_factory.mktemp("travel")
    (folder / "graphs").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam.Pipeline, "run", stop)
        for name, arguments in GRAPHS.items():
            with pytest.raises(Built) as built:
                main([*(argument.format(inputs) for argument in arguments), f"--output={folder}/out"])
            (folder / "graphs" / name).write_bytes(built.value.graph)
    command = [sys.executable, "-c", LOAD, str(folder / "graphs")]
    return json.loads(subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_loads_without_the_programs(loaded: Any, name: str) -> None:
    assert isinstance(loaded[name], int), loaded[name]
    assert loaded[name] > 10


def test_all_programs_that_run_on_beam_are_here() -> None:
    assert {arguments[0] for arguments in GRAPHS.values()} == PROGRAMS.keys() - {"compare", "inspect", "typhoon"}
