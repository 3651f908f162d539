"""The bits on ARM64, under emulation: run with ``-m arm64`` where the parts are.

It needs, of Debian or Ubuntu, qemu-user-static, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross, with
``dpkg --add-architecture arm64`` and ``apt-get update`` for what it fetches itself: an arm64 Python and its libraries.
"""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libexpat1", "zlib1g", "libssl3"),
    *("libffi8", "libgcc-s1", "libstdc++6", "liblzma5", "libbz2-1.0", "libuuid1", "libcrypt1"),
]
PARTS = ("qemu-aarch64-static", "aarch64-linux-gnu-gcc", "apt-get", "dpkg", "uv")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    found = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{' '.join(map(str, command))}\n{found.stdout[-2000:]}{found.stderr[-2000:]}"
    return found.stdout


@pytest.mark.arm64
@pytest.mark.skipif(not all(map(shutil.which, PARTS)), reason=f"it needs {', '.join(PARTS)}")
def test_every_kernel_gives_the_golden_records(tmp_path: Path) -> None:
    run("apt-get", "download", "-q", *(f"{name}:arm64" for name in PACKAGES), cwd=tmp_path)
    for package in tmp_path.glob("*.deb"):
        run("dpkg", "-x", package, tmp_path / "root")
    site = tmp_path / "site"
    target = ("--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.11", "--target", site)
    run("uv", "pip", "install", "--quiet", *target, "numpy", "lazy-loader")
    shutil.copytree(ROOT / "lse_stream", site / "lse_stream", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [extension] = project["tool"]["setuptools"]["ext-modules"]
    run(
        "aarch64-linux-gnu-gcc",
        *extension["extra-compile-args"],
        *(f"-D{name}={value}" for name, value in extension["define-macros"]),
        *("-shared", "-fPIC", f"-I{sysconfig.get_paths()['include']}", *extension["sources"]),
        *("-o", site / "lse_stream" / "_kernel" / "native.abi3.so"),
    )
    python = tmp_path / "root" / "usr" / "bin" / "python3.11"
    emulated = ("qemu-aarch64-static", "-L", tmp_path / "root", "-E", f"PYTHONPATH={site}", python)
    out = run(*emulated, Path(__file__).with_name("arm64_check.py"), ROOT / "tests" / "golden")
    assert [line.split()[0] for line in out.splitlines()] == ["neon", "portable", "numpy"]
    print(out, file=sys.stderr)
