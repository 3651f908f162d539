"""Fetches the jars of the engines that the tests run on: ``python tests/engines/fetch.py``. Needs Java and Maven.

Nothing else downloads: the tests only look for what this has put into the cache, ``~/.cache/lse-stream/engines`` or
the directory that the environment variable LSE_STREAM_ENGINES names. 150 MB; what is there already is left as it is.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FLINK_POM = Path(__file__).with_name("flink.pom.xml")
FLINK_MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"

# Packages of the JDK that Flink and Beam reach into, which Java 17 keeps shut.
OPENED = [
    *("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.text"),
    *("java.time", "java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks"),
    "sun.nio.ch",
]


class EngineError(RuntimeError):
    """An engine, or what is needed to fetch it, is not there. Says what to do."""


def find_flink() -> Path:
    """The jar that starts Beam's Flink job server.

    Raises:
      EngineError: there is no Java, or the jar was not fetched.
    """
    _need("java", "to run Flink")
    jar = _home(FLINK_POM) / "launcher.jar"
    if not jar.is_file():
        raise EngineError(f"{jar}: expected Beam's Flink runner, found none: run python tests/engines/fetch.py")
    return jar


def fetch(pom: Path, main: str) -> None:
    """Has Maven put the jars that a pom names into the cache, and one that starts the class ``main`` beside them.

    The directory gets its name when it is whole, and another one when the pom changes.

    Raises:
      EngineError: no Java or Maven, or Maven failed.
    """
    home = _home(pom)
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
        _write_launcher(new, main)
        try:
            new.rename(home)
        except OSError:
            if not home.is_dir():  # another one was faster
                raise


def _home(pom: Path) -> Path:
    cache = os.environ.get("LSE_STREAM_ENGINES") or Path("~/.cache/lse-stream/engines").expanduser()
    digest = hashlib.sha256("\n".join([pom.read_text(), *OPENED]).encode()).hexdigest()
    return Path(cache, f"{pom.name.removesuffix('.pom.xml')}-{digest[:12]}").absolute()


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
        fetch(FLINK_POM, FLINK_MAIN)
    except EngineError as error:
        sys.exit(f"fetch: error: {error}")
