"""Errors of input: one line each, which names the place, and is found again in the text that a runner returns."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote, unquote

# Runners return the text of an exception that a worker has printed: somewhere among tracebacks, cut and escaped in
# their own ways. The message is found again by this marker, whose characters none of them changes.
_MARKER = re.compile(r"\[lse_stream error: ([\w.~%/-]*)\]")
# What Beam appends to the message of an exception.
_STEP = re.compile(r" \[while running .*", re.DOTALL)


class InputError(ValueError):
    """The input cannot be used, found before any work. One line: file, column, expected, found."""


class DataError(ValueError):
    """Found during a run: damaged input, or a file that cannot be written.

    The message is one line: file, row group, column, expected, found.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.add_note(f"[lse_stream error: {quote(message, errors='surrogatepass')}]")


@contextmanager
def errors_of_writing(path: str) -> Iterator[None]:
    """Makes a DataError of what a file system says within the block, with the host: a worker may have other disks."""
    try:
        yield
    except OSError as error:
        found = f"{one_line(error)} (on host {os.uname().nodename})"
        raise DataError(f"{path}: expected a file that can be written, found {found}") from error


def nearest(name: str, known: Sequence[str], *hints: str) -> str:
    """What to say of a name that is none of those known: " (nearest: NAME; HINT)"; nothing where there is neither."""
    import difflib  # most runs need no hint

    near = [other for other in known if other.lower() == name.lower()] or difflib.get_close_matches(name, known, 1)
    said = [*(f"nearest: {other}" for other in near[:1]), *hints]
    return f" ({'; '.join(said)})" if said else ""


def message_in(text: str) -> str | None:
    """The message of a ``DataError`` that has been printed somewhere in a text; None if there is none."""
    found = _MARKER.findall(text)
    # The last, as a marker follows its message, which may look like one itself.
    return _STEP.sub("", unquote(found[-1], errors="surrogatepass")) if found else None


def one_line(error: BaseException) -> str:
    """An error as one line: its type and what it says."""
    return " ".join(f"{type(error).__name__}: {error}".split())
