"""What runs in this process needs neither Beam nor pandas, which take seconds to import."""

import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT, RUNS, contents

# An import of either ends the process there and then, whoever would catch an error.
ALONE = """
import os, runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("apache_beam", "pandas"):
            import traceback
            traceback.print_stack()
            os._exit(77)
sys.meta_path.insert(0, Refuse())
sys.argv[0] = "pipelines"
runpy.run_module("pipelines", run_name="__main__", alter_sys=True)
"""


def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", RUNS)
def test_programs(inputs: Path, tmp_path: Path, name: str) -> None:
    arguments = [argument.format(inputs) for argument in RUNS[name]]
    done = alone(*arguments, f"--output={tmp_path}/out")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 3
    assert contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (0, "--help"),
        *((0, f"{program} --help") for program in ("parquet", "loglik", "softmax", "cross_entropy", "rollup")),
        (2, "parquet --input={}/in --key=number --value=nothing --output={}/out"),
        (2, "parquet --input={}/in --key=list --value=x --output={}/out"),
        (2, "parquet --input={}/nowhere --value=x --output={}/out"),
        (2, "parquet --input={}/in --value=x --output={}/out --direct_num_workers=2"),
        (1, "cross_entropy --input={}/in --value=x --class=class --example=example --label=label --output={}/out"),
        (1, "loglik --input={}/in --value=logit --observation=weight --inner=logmeanexp --waic --output={}/out"),
    ],
)
def test_help_and_faults(inputs: Path, status: int, arguments: str) -> None:
    done = alone(*arguments.format(*[inputs] * arguments.count("{}")).split())
    assert done.returncode == status
    assert done.stderr.count("\n") == (status > 0)
