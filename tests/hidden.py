"""Programs that do not see a directory: each has a view of the file system of its own."""

import shutil
import subprocess
from pathlib import Path

import pytest

# What hides the directory $0 in such a view: an empty disk in its place.
EMPTY = 'mount -t tmpfs none "$0"'
_UNSHARE = ["unshare", "-r", "-m", "sh", "-c"]


def skip_without_views(directory: Path) -> None:
    """Skips the test where a process may not have such a view; the directory exists."""
    if shutil.which("unshare") is None or subprocess.run([*_UNSHARE, EMPTY, directory], capture_output=True).returncode:
        pytest.skip("no views of the file system for single processes here")


def write_blind(program: Path, directory: Path, command: str, hide: str = EMPTY) -> None:
    """Writes a program that hides a directory from a command, and is it then, with the same arguments."""
    program.write_text(f"""#!/bin/sh\nexec {" ".join(_UNSHARE)} '{hide} && exec "$@"' {directory} {command} "$@"\n""")
    program.chmod(0o755)
