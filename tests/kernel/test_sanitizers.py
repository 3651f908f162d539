"""The C code under AddressSanitizer and UndefinedBehaviorSanitizer: run with ``-m fuzz``, where gcc has both."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("LSE_STREAM_SANITIZED_SECONDS", "60")


@pytest.mark.fuzz
@pytest.mark.skipif(not shutil.which("gcc"), reason="it needs gcc")
def test_no_entry_does_what_is_undefined(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lse_stream", tmp_path / "lse_stream", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [extension] = project["tool"]["setuptools"]["ext-modules"]
    command = [
        "gcc",
        *(flag for flag in extension["extra-compile-args"] if not flag.startswith("-O")),
        *("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-shared", "-fPIC"),
        *(f"-D{name}={value}" for name, value in extension["define-macros"]),
        *(f"-I{sysconfig.get_paths()['include']}", *extension["sources"]),
        *("-o", str(tmp_path / "lse_stream" / "_kernel" / "native.abi3.so")),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    run = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("sanitized.py")), "1", SECONDS],
        env={
            **os.environ,
            "LD_PRELOAD": library.strip(),
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.endswith(" rounds\n")
