"""Processes of the engines: started in a folder with a log of their own, ended by their process id."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

START_SECONDS = 90.0
ROOT = Path(__file__).parent.parent.parent


@contextmanager
def process(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the block, with stdout and stderr in ``log``."""
    with (
        log.open("ab") as sink,
        subprocess.Popen(command, stdout=sink, stderr=sink, cwd=log.parent, env=os.environ | environment) as started,
    ):
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()


def wait_for(condition: Callable[[], T], what: str, *, seconds: float = START_SECONDS) -> T:
    """Waits until a condition holds; gives what it gave.

    Raises:
      TimeoutError: it does not, in so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {what} within {seconds:.0f} s")
        time.sleep(0.1)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def worker_command(folder: Path, language: str, *, python: str = sys.executable, **environment: str) -> Path:
    """A program for Beam's PROCESS environment, which starts a worker and leaves its process id in ``folder``.

    Args:
      language: "python" or "java"; ids are in files named after it.
      python: which Python runs it.
      environment: more variables; the clone is on the worker's PYTHONPATH unless there is another one among them.
    """
    program = folder / f"{language}_worker.sh"
    boot = Path(__file__).with_name(f"{language}_worker.py")
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])} | environment
    settings = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
    program.write_text(
        f"#!/bin/sh\n{settings}place='{folder}/{language}'\n"
        f'echo $$ > "$place-$$.pid"\n'
        f"exec '{python}' '{boot}' \"$@\" >> \"$place-$$.log\" 2>&1\n"
    )
    program.chmod(0o755)
    return program


def workers(folder: Path, language: str) -> list[int]:
    """The ids of workers that run."""
    found = [int(path.read_text() or 0) for path in folder.glob(f"{language}-*.pid")]
    return [pid for pid in found if pid and _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
