"""Outputs that appear whole or not at all: written aside, then put in place."""

import os
import re
import shutil
import uuid
from collections.abc import Iterable

from apache_beam.io.filesystems import FileSystems

from lse_stream.parquetio import InputError, is_local, one_line

# Marks a directory of an object store as whole, as Hadoop's committers do. Local ones are renamed as a whole instead.
SUCCESS = "_SUCCESS"

# The directories inside the output of programs that write more than one table.
TABLES = TOTALS, OVERALL, OBSERVATIONS, EXAMPLES = "totals", "overall", "observations", "examples"

# What may stand at a place that is written to: results, which --overwrite replaces.
_WINDOW = r"-?[\d.T]+--?[\d.T]+-(pane-\d{5,}-)?"
_PART = r"part-\d{5,}-of-\d{5,}\.parquet"
# A stream's files appear one by one, each first under a name of its own: that of one which was killed stays.
_UNFINISHED = rf"\.{_WINDOW}{_PART}\.[0-9a-f]+"
_RESULT = re.compile(rf"(({'|'.join(TABLES)})/|{_WINDOW})?{_PART}|{_UNFINISHED}|{SUCCESS}")
_INCOMPLETE = "_incomplete-"


def check_output(directory: str, *, overwrite: bool) -> None:
    """Raises InputError where results cannot be put at ``directory``, or where there is what may not be replaced.

    That is everything but earlier results, and these too without ``overwrite``.
    """
    for name in _names_in(directory):
        if not _RESULT.fullmatch(name):
            raise InputError(f"--output {directory}: expected nothing there but earlier results, found {name}")
        if not overwrite:
            raise InputError(f"--output {directory}: expected nothing there yet (or --overwrite), found {name}")


def check_apart(directory: str, inputs: Iterable[str]) -> None:
    """Raises InputError where an input, a file or a directory, lies in the output directory or around it."""
    for path in inputs:
        if _is_within(path, directory) or _is_within(directory, path):
            raise InputError(f"--output {directory}: expected a place apart from the input, found {path}")


def _is_within(path: str, directory: str) -> bool:
    if is_local(path) and is_local(directory):
        path, directory = os.path.realpath(path), os.path.realpath(directory)
    return f"{path.rstrip('/')}/".startswith(directory.rstrip("/") + "/")


def stage(directory: str) -> str:
    """Makes a directory aside to write to. Give it to ``publish`` or ``discard``.

    Raises:
      InputError: it cannot be made.
    """
    name = _INCOMPLETE + uuid.uuid4().hex
    try:
        if not is_local(directory):
            staging = FileSystems.join(directory, name)
            FileSystems.mkdirs(staging)
            return staging
        # Where a link leads, as that may be another disk.
        parent, base = os.path.split(os.path.realpath(directory))
        staging = os.path.join(parent, f".{base}{name}")
        os.makedirs(staging)
        return staging
    except (OSError, ValueError) as error:  # Beam's own errors are these too
        raise InputError(
            f"--output {directory}: expected a place that can be written, found {one_line(error)}"
        ) from error


def has_results(directory: str) -> bool:
    """Whether there is any file of results."""
    return any(name.endswith(".parquet") for name in _names_in(directory))


def delete_results(directory: str) -> None:
    """Deletes what ``check_output`` lets be replaced."""
    # Sorted, so that _SUCCESS goes before what it vouches for.
    for name in sorted(_names_in(directory)):
        FileSystems.delete([FileSystems.join(directory, name)])


def make_output(option: str, directory: str) -> None:
    """Makes a directory, if it is not there, for files that appear in it one by one.

    Raises:
      InputError: it cannot be made.
    """
    try:
        if is_local(directory):
            os.makedirs(directory, exist_ok=True)
        else:
            FileSystems.mkdirs(directory)
    except (OSError, ValueError) as error:  # Beam's own errors are these too
        raise InputError(f"--{option} {directory}: expected a directory to be made, found {one_line(error)}") from error


def make_directory(staging: str, name: str) -> str:
    """Makes the directory of one of ``TABLES`` inside a staged one; gives its path."""
    path: str = FileSystems.join(staging, name)
    FileSystems.mkdirs(path)
    return path


def publish(staging: str, directory: str, *, overwrite: bool = False) -> None:
    """Puts what was written aside in place, as a whole.

    A local directory takes its place by one rename; with ``overwrite`` the old one is set aside by another just before,
    and deleted afterwards. On an object store the old files go first, then the new ones are moved in, and last of all
    ``_SUCCESS`` is written: without it a reader knows that the directory is not whole.

    Raises:
      InputError: results have come to stand there meanwhile.
    """
    check_output(directory, overwrite=overwrite)
    if is_local(directory):
        directory = os.path.realpath(directory)
        old = f"{staging}.old"
        if os.path.isdir(directory):
            os.rename(directory, old)
        os.rename(staging, directory)
        shutil.rmtree(old, ignore_errors=True)
        return
    delete_results(directory)
    names = _names_below(staging)
    FileSystems.rename(
        [FileSystems.join(staging, name) for name in names], [FileSystems.join(directory, name) for name in names]
    )
    FileSystems.create(FileSystems.join(directory, SUCCESS)).close()


def discard(staging: str) -> None:
    """Deletes what was written aside."""
    if is_local(staging):
        shutil.rmtree(staging, ignore_errors=True)
    elif names := _names_below(staging):
        FileSystems.delete([FileSystems.join(staging, name) for name in names])


def _names_in(directory: str) -> list[str]:
    """What is at a place, but for what runs put aside there.

    Raises:
      InputError: it cannot be listed.
    """
    try:
        if is_local(directory):
            return _local_names_below(directory) if os.path.exists(directory) else []
        return [name for name in _names_below(directory) if not name.startswith(_INCOMPLETE)]
    except (OSError, ValueError) as error:  # Beam's own errors are these too
        raise InputError(f"--output {directory}: expected a directory to be made, found {one_line(error)}") from error


def _local_names_below(directory: str) -> list[str]:
    names = []
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        inside = os.listdir(path) if name in TABLES and os.path.isdir(path) else []
        names += [f"{name}/{below}" for below in inside] or [name]
    return names


def _names_below(directory: str) -> list[str]:
    directory = directory.rstrip("/") + "/"
    [result] = FileSystems.match([f"{directory}**"])
    return [file.path[len(directory) :] for file in result.metadata_list]
