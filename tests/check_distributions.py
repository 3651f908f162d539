"""What a wheel and an sdist contain: the package with its licence, no tests and nothing that came along by accident."""

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = {".py", ".pyi", ".typed", ".so", ".yaml", ".parquet", ".md", ".c", ".h", ".toml", ".cfg", ".txt", ".in"}
METADATA = {"LICENSE", "METADATA", "RECORD", "WHEEL", "PKG-INFO"}


def names_of(path: Path) -> list[str]:
    """The files of a wheel, or of an sdist without its folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return [name for name in wheel.namelist() if not name.endswith("/")]
    with tarfile.open(path) as sdist:
        return [member.name.partition("/")[2] for member in sdist if member.isfile()]


def faults_of(path: Path, names: Iterable[str]) -> list[str]:
    is_wheel = path.suffix == ".whl"
    found = [f"{name}: unexpected" for name in names if not is_expected(Path(name), is_wheel=is_wheel)]
    wanted = ["lse_stream/py.typed", "lse_stream/__init__.pyi"]
    wanted += ["lse_stream/_kernel/native.abi3.so"] if is_wheel else ["lse_stream/_kernel/c/native.c", "LICENSE"]
    found += [f"{name}: missing" for name in wanted if name not in names]
    if not any(name.endswith("LICENSE") for name in names):
        found.append("LICENSE: missing")
    return found


def is_expected(name: Path, *, is_wheel: bool) -> bool:
    top = name.parts[0]
    if top == "tests" or (is_wheel and top not in ("lse_stream",) and not top.endswith(".dist-info")):
        return False
    return name.suffix in SUFFIXES or name.name in METADATA


def main() -> int:
    status = 0
    for path in map(Path, sys.argv[1:]):
        for fault in faults_of(path, names_of(path)):
            print(f"{path.name}: {fault}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
