"""What runs in this process needs neither Beam nor pandas, which take seconds to import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from programs import ROOT, contents, split, write

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with keys of many types, classes and labels, and stored states."""
    rng = np.random.default_rng(0)
    n = 6000
    table = pa.table(
        {
            "number": rng.integers(0, 40, n),
            "text": [f"t{i}" for i in rng.integers(0, 30, n)],
            "kind": pa.array([f"d{i}" for i in rng.integers(0, 3, n)]).dictionary_encode(),
            "time": pa.array(rng.integers(0, 10**12, n) // 10**9 * 10**9, pa.timestamp("ns", "UTC")),
            "share": pa.array(np.round(rng.normal(size=n), 1), mask=rng.random(n) < 0.1),
            "example": np.arange(n) // 3,
            "class": np.arange(n) % 3,
            "label": np.arange(n) // 3 % 3,
            "x": pa.array(rng.normal(size=n) * 30, mask=rng.random(n) < 0.05),
            "logit": rng.normal(size=n),
            "weight": rng.random(n),
            "list": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=4 * n)), 4),
        }
    )
    folder = tmp_path_factory.mktemp("alone")
    split(folder / "in", table, 3, row_group_size=500)
    labels = {"example": np.arange(n // 3), "label": np.arange(n // 3) % 3}
    write(folder / "labels.parquet", labels)
    write(folder / "map.parquet", {"number": np.arange(40), "half": np.arange(40) % 2})
    done = alone(
        "parquet",
        f"--input={folder}/in",
        "--key=number",
        "--key=time",
        "--value=x",
        "--state",
        f"--output={folder}/states",
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


KEYS = ["--key=number", "--key=text", "--key=kind", "--key=time", "--key=share"]

# What each program is asked for.
RUNS: dict[str, list[str]] = {
    "parquet": ["parquet", "--input={}/in", "--value=x", *KEYS],
    "parquet, states": ["parquet", "--input={}/in", "--value=x", "--key=text", "--state", "--num_shards=3"],
    "parquet, spilled": ["parquet", "--input={}/in", "--value=x", "--key=example", "--key=text", "--memory=1MB"],
    "parquet, nulls": ["parquet", "--input={}/in", "--value=x", "--key=share", "--no-skip_nulls", "--min_count=2"],
    "loglik": ["loglik", "--input={}/in", "--value=x", "--key=kind"],
    "mixtures": [
        *["loglik", "--input={}/in", "--value=x", "--key=kind", "--observation=example", "--inner=logsumexp"],
        "--weight=weight",
    ],
    "waic": [
        *["loglik", "--input={}/in", "--value=logit", "--key=number", "--observation=kind", "--inner=logmeanexp"],
        *["--waic", "--per_observation"],
    ],
    "softmax": ["softmax", "--input={}/in", "--value=x", "--key=text"],
    "cross_entropy": ["cross_entropy", "--input={}/in", "--logits=list", "--label=label", "--key=text"],
    "cross_entropy, rows": [
        *["cross_entropy", "--input={}/in", "--value=logit", "--class=class", "--example=example"],
        *["--labels={}/labels.parquet", "--label=label", "--unit=bits"],
    ],
    "rollup": [
        *["rollup", "--input={}/states", "--key=half", "--key=time", "--truncate=time=minute"],
        "--map=number={}/map.parquet",
    ],
}


@pytest.mark.parametrize("name", RUNS)
def test_programs(folder: Path, tmp_path: Path, name: str) -> None:
    arguments = [argument.format(folder) for argument in RUNS[name]]
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
def test_help_and_faults(folder: Path, status: int, arguments: str) -> None:
    done = alone(*arguments.format(*[folder] * arguments.count("{}")).split())
    assert done.returncode == status
    assert done.stderr.count("\n") == (status > 0)
