"""Fetches the jars of the engines that the tests run on: ``python tests/engines/fetch.py``. Needs Java and Maven.

Nothing else downloads: the tests only look for what this has put into the cache, ``~/.cache/lse-stream/engines`` or
the directory that the environment variable LSE_STREAM_ENGINES names. 300 MB; what is there already is left as it is.
Prism, Beam's portable runner in Go, is built too where there is Go.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Engines by the names of their poms, and the classes that their launchers start.
MAINS = {
    "flink": "org.apache.beam.runners.flink.FlinkJobServerDriver",
    "kafka": "kafka.Kafka",
}
PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"

# Packages of the JDK that Flink and Beam reach into, which Java 17 keeps shut.
OPENED = [
    *("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.text"),
    *("java.time", "java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks"),
    "sun.nio.ch",
]


class EngineError(RuntimeError):
    """An engine, or what is needed to fetch it, is not there. Says what to do."""


def find(engine: str) -> Path:
    """The directory of an engine: ``launcher.jar``, which starts its main class, and the jars themselves in ``lib``.

    Raises:
      EngineError: there is no Java, or the engine was not fetched.
    """
    _need("java", f"to run {engine}")
    home = _home(engine)
    if not home.is_dir():
        raise EngineError(f"{home}: expected the jars of {engine}, found none: run python tests/engines/fetch.py")
    return home


def find_prism() -> Path:
    """The Prism program.

    Raises:
      EngineError: it was not built.
    """
    program = _cache() / PRISM.rpartition("/")[2] / "prism"
    if not program.is_file():
        raise EngineError(f"{program}: expected Beam's Prism, found none: run python tests/engines/fetch.py, with Go")
    return program


def build_prism() -> None:
    """Has Go build Prism into the cache.

    Raises:
      EngineError: Go failed.
    """
    home = _cache() / PRISM.rpartition("/")[2]
    if home.is_dir():
        print(f"{home} is there")
        return
    print(f"building {home}", flush=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as scratch:
        environment = os.environ | {"GOBIN": scratch}
        go = subprocess.run(
            ["go", "install", PRISM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if go.returncode:
            raise EngineError(f"Go could not build {PRISM} (status {go.returncode}):\n{go.stdout}")
        home.mkdir(exist_ok=True)
        Path(scratch, "prism").replace(home / "prism")


def fetch(engine: str) -> None:
    """Has Maven put the jars that an engine's pom names into the cache, and a launcher beside them.

    The directory gets its name when it is whole, and another one when the pom changes.

    Raises:
      EngineError: no Java or Maven, or Maven failed.
    """
    home, pom = _home(engine), _pom(engine)
    if home.is_dir():
        print(f"{home} is there")
        return
    _need("java", "to run Maven")
    _need("mvn", "to fetch jars")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as scratch:
        new = Path(scratch, "new")
        print(f"fetching {home}", flush=True)
        command = [
            *("mvn", "--batch-mode", "--quiet", "--strict-checksums", f"--file={pom}"),
            *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={new / 'lib'}"),
        ]
        maven = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if maven.returncode:
            raise EngineError(
                f"Maven could not fetch what {pom.name} names (status {maven.returncode}):\n{maven.stdout}"
            )
        _write_launcher(new, MAINS[engine])
        try:
            new.rename(home)
        except OSError:
            if not home.is_dir():  # another one was faster
                raise


def _pom(engine: str) -> Path:
    return Path(__file__).with_name(f"{engine}.pom.xml")


def _cache() -> Path:
    return Path(os.environ.get("LSE_STREAM_ENGINES") or Path("~/.cache/lse-stream/engines").expanduser()).absolute()


def _home(engine: str) -> Path:
    digest = hashlib.sha256("\n".join([_pom(engine).read_text(), *OPENED]).encode()).hexdigest()
    return _cache() / f"{engine}-{digest[:12]}"


def _need(program: str, purpose: str) -> None:
    if shutil.which(program) is None:
        raise EngineError(f"{program}: expected the program {purpose}, found none on PATH")


def _write_launcher(home: Path, main: str) -> None:
    """A jar of nothing but a manifest, which puts those in ``lib`` on the class path."""
    manifest = {
        "Manifest-Version": "1.0",
        "Main-Class": main,
        "Class-Path": " ".join(sorted(f"lib/{jar.name}" for jar in home.glob("lib/*.jar"))),
        "Add-Opens": " ".join(f"java.base/{package}" for package in OPENED),
    }
    with zipfile.ZipFile(home / "launcher.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "".join(_attribute(*item) for item in manifest.items()) + "\r\n")


def _attribute(name: str, value: str) -> str:
    """An attribute of a manifest, whose lines hold 72 bytes; a further one of the same value begins with a space."""
    text = f"{name}: {value}"
    return "\r\n ".join([text[:72], *(text[i : i + 71] for i in range(72, len(text), 71))]) + "\r\n"


if __name__ == "__main__":
    try:
        for name in MAINS:
            fetch(name)
        if shutil.which("go"):
            build_prism()
    except EngineError as error:
        sys.exit(f"fetch: error: {error}")
