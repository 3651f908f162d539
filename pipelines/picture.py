"""Pictures that programs draw with matplotlib, an extra: to files that are whole, and the same bytes each time."""

import os
import tempfile
from importlib.util import find_spec
from typing import Any

from lse_stream.errors import one_line
from lse_stream.files import is_local, whole_file

from .command import ArgumentParser, UsageError

KINDS = (".svg", ".png")


def add_picture_option(parser: ArgumentParser) -> None:
    """Adds --picture."""
    parser.add_argument("--picture", metavar="FILE", help="draw it to a file .svg or .png; needs matplotlib")


def check_picture(path: str, *, overwrite: bool) -> None:
    """Raises UsageError where no picture can be drawn at a path, or where there is what may not be replaced."""
    if os.path.splitext(path)[1].lower() not in KINDS:
        raise UsageError(f"--picture {path}: expected a name that ends in {' or '.join(KINDS)}")
    if not is_local(path):
        raise UsageError(f"--picture {path}: expected a local path, found another")
    if os.path.isdir(path):
        raise UsageError(f"--picture {path}: expected the name of a file, found a directory")
    if os.path.exists(path) and not overwrite:
        raise UsageError(f"--picture {path}: expected nothing there yet (or --overwrite), found a file")
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = f"{folder}: {one_line(error)}"
        raise UsageError(f"--picture {path}: expected a directory that can be written to, found {found}") from error
    if find_spec("matplotlib") is None:
        raise UsageError("--picture: expected matplotlib, found none: pip install 'lse-stream[picture]'")


def save_picture(figure: Any, path: str, program: str) -> None:
    """Writes a figure of matplotlib, and makes the directory for it; raises OSError where it cannot."""
    import matplotlib

    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    kind = os.path.splitext(path)[1].lower().removeprefix(".")
    # What changes from run to run is left out, so that the picture is the same each time.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with whole_file(path) as sink, matplotlib.rc_context({"svg.hashsalt": program, "svg.fonttype": "none"}):
        figure.savefig(sink, format=kind, dpi=144, metadata=metadata)
