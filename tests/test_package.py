"""The package as a whole: its public names, and what importing it costs."""

import pickle
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import lse_stream
from lse_stream.states.aggregations import AGGREGATIONS, Aggregation

ROOT = Path(__file__).parent.parent


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)


def test_all_names_come_quietly_and_without_beam() -> None:
    found = run("from lse_stream import *; import sys; print(logsumexp([0, 0]), 'apache_beam' in sys.modules)")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "0.6931471805599453 False\n"


def test_all_names_of_beam_leave_those_of_the_package() -> None:
    found = run("from lse_stream import *; from lse_stream.beam import *; print(softmax([0.0]), LogSumExp.__name__)")
    assert (found.returncode, found.stdout) == (0, "[1.] LogSumExp\n")


def test_the_package_alone_loads_next_to_nothing() -> None:
    found = run("import sys, lse_stream; print({'numpy', 'pyarrow', 'apache_beam'} & set(sys.modules))")
    assert (found.returncode, found.stderr, found.stdout) == (0, "", "set()\n")


def test_public_names_are_listed_and_kept_when_used() -> None:
    assert set(lse_stream.__all__) <= set(dir(lse_stream))
    assert {"logsumexp", "group_states", "LogSumExpAccumulator", "Scale", "DataError"} <= set(lse_stream.__all__)
    assert lse_stream.logsumexp is vars(lse_stream)["logsumexp"]
    assert "AttributeError: " in run("import lse_stream; lse_stream.no_such_name").stderr


def test_the_version_is_stated_once() -> None:
    assert version("lse-stream") == lse_stream.__version__
    cited, changes = ((ROOT / name).read_text() for name in ("CITATION.cff", "CHANGELOG.md"))
    assert f"\nversion: {lse_stream.__version__}\n" in cited
    assert f"\n## {lse_stream.__version__} " in changes


@pytest.mark.parametrize("aggregation", AGGREGATIONS.values(), ids=AGGREGATIONS)
def test_there_is_one_of_each_aggregation(aggregation: Aggregation) -> None:
    assert pickle.loads(pickle.dumps(aggregation)) is aggregation
