"""What runs in this process needs neither Beam nor pandas, which take seconds to import."""

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from programs import ROOT, RUNS, contents, write

# An import of either ends the process there and then, whoever would catch an error.
ALONE = """
import os, runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("apache_beam", "pandas") or name == os.environ.get("REFUSED"):
            import traceback
            traceback.print_stack()
            os._exit(77)
sys.meta_path.insert(0, Refuse())
sys.argv[0] = "pipelines"
runpy.run_module("pipelines", run_name="__main__", alter_sys=True)
"""


def alone(*arguments: object, refused: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, *map(str, arguments)]
    environment = {**os.environ, "REFUSED": refused}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize("name", RUNS)
def test_programs(inputs: Path, tmp_path: Path, name: str) -> None:
    arguments = [argument.format(inputs) for argument in RUNS[name]]
    done = alone(*arguments, f"--output={tmp_path}/out")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 3
    assert contents(tmp_path / "out")


def test_numbers_by_number_need_no_functions_of_arrow(tmp_path: Path) -> None:
    """Their import is a fifth of the time that a small run takes."""
    source = write(tmp_path / "in.parquet", {"k": [3, 1, 2, 1], "x": [1.0, None, 2.0, 3.0]})
    arguments = ["parquet", f"--input={source}", "--key=k", "--value=x", "--state"]
    done = alone(*arguments, f"--output={tmp_path}/out", refused="pyarrow.compute")
    assert (done.returncode, done.stderr) == (0, "")


CONDITION = (
    "number < 30 and number != 2.5 and text != 't1' and kind in ('d1', 'd2') and time < '2001-01-31' "
    "and (share in (0.5, 0.0) or share is not null or not number <= share) and amount >= 0.5 and flag"
)


@pytest.mark.parametrize(
    "options",
    [
        ["--key=number", "--value=share", "--where", CONDITION],
        ["--key=flag", "--value=amount", "--kind=exact_sum"],
        ["--key=flag", "--value=number", "--kind=exact_sum"],
        ["--key=number", "--key=time", "--bin=number=10", "--truncate=time=day", "--value=amount"],
    ],
    ids=["conditions", "decimals", "integers", "coarser keys"],
)
def test_options(tmp_path: Path, options: list[str]) -> None:
    numbers = list(range(40))
    table = {
        "number": numbers,
        "text": [f"t{i}" for i in numbers],
        "kind": pa.array([f"d{i % 3}" for i in numbers]).dictionary_encode(),
        "time": pa.array([i * 10**13 for i in numbers], pa.timestamp("us", "UTC")),
        "share": [i / 8 for i in numbers],
        "amount": pa.array([Decimal(i) / 2 for i in numbers], pa.decimal128(5, 2)),
        "flag": [i % 2 == 0 for i in numbers],
    }
    source = write(tmp_path / "in.parquet", table)
    done = alone("parquet", f"--input={source}", *options, f"--output={tmp_path}/out")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 3


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
