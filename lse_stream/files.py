"""Files, local and of any filesystem that Beam knows (only these import Beam); written whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from .errors import errors_of_writing


def is_local(path: str) -> bool:
    """Whether a path has no scheme, such as ``gs://``."""
    return re.match("[a-zA-Z][-a-zA-Z0-9+.]*://", path) is None


def _beam() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def join(directory: str, *names: str) -> str:
    """The path of a name inside a directory."""
    return os.path.join(directory, *names) if is_local(directory) else str(_beam().join(directory, *names))


def part_name(part: int, parts: int) -> str:
    """The name of one of the files of a table."""
    return f"part-{part:05d}-of-{parts:05d}.parquet"


def open_file(path: str) -> pa.NativeFile:
    """A file for random access."""
    if is_local(path):
        return pa.OSFile(path)
    from apache_beam.io.filesystem import CompressionTypes

    return pa.PythonFile(_beam().open(path, compression_type=CompressionTypes.UNCOMPRESSED), mode="r")


@contextmanager
def create_file(path: str) -> Iterator[Any]:
    """A new file to write, under its name from the start; its directory must exist."""
    if is_local(path):
        with pa.OSFile(path, mode="wb") as sink:
            yield sink
        return
    from apache_beam.io.filesystem import CompressionTypes

    with _beam().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as sink:
        yield pa.PythonFile(sink, mode="w")


@contextmanager
def whole_file(path: str) -> Iterator[Any]:
    """A new file to write. It appears under its name at the end of the block, and replaces one of that name.

    If the block fails, nothing appears. An object of an object store appears when it is closed, and is deleted if the
    block fails. Elsewhere, as a file would be seen while it is written, it is written under a hidden name beside its
    own, and renamed. The directory must exist.
    """
    written = path if _is_object(path) else _hidden_beside(path)
    try:
        with create_file(written) as sink:
            yield sink
        if written != path:
            _replace(written, path)
    except BaseException:
        with suppress(Exception):  # another error is on its way already; and closing an object made it appear
            delete_files([written])
        raise


def _is_object(path: str) -> bool:
    """Whether a path is of an object store, which has no directories."""
    return not (is_local(path) or _beam().get_filesystem(path).has_dirs())


def _hidden_beside(path: str) -> str:
    folder, name = os.path.split(path) if is_local(path) else _beam().split(path)
    return join(folder, f".{name}.{os.urandom(8).hex()}")


def _replace(written: str, path: str) -> None:
    if is_local(path):
        os.replace(written, path)
        return
    if _beam().exists(path):  # HDFS does not rename to a name that is there
        delete_files([path])
    rename_remote([written], [path])


def make_directory(path: str) -> None:
    """Makes a directory, and those around it, that is not there yet; a remote one may be."""
    if is_local(path):
        os.makedirs(path)
    elif _is_object(path) or not _beam().exists(path):
        _beam().mkdirs(path)


# The beginning of the name of a file by which a local directory is known: another machine may have one of that name.
MARK = ".lse_stream-"


def mark_of(directory: str) -> str | None:
    """The path of the mark in a directory; None in one without, and where all machines see the same."""
    if not is_local(directory) or not os.path.isdir(directory):
        return None
    return next((os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(MARK)), None)


def mark_directory(directory: str) -> None:
    """Leaves a mark, an empty file with a random name, in a local directory that has none."""
    if is_local(directory) and mark_of(directory) is None:
        with open(os.path.join(directory, f"{MARK}{os.urandom(8).hex()}"), "xb"):
            pass


def check_mark(mark: str | None) -> None:
    """Raises DataError where the mark that the machine saw which started a run is not seen."""
    if mark is not None and not os.path.exists(mark):
        directory = os.path.dirname(mark)
        with errors_of_writing(directory):
            raise FileNotFoundError(f"not the {directory} of the machine that started the run")


def names_below(directory: str) -> list[str]:
    """The files below a directory, by their paths inside it; of a local one that is not there, none."""
    if is_local(directory):
        inside = [os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names]
        return [os.path.relpath(path, directory) for path in inside]
    directory = directory.rstrip("/") + "/"
    [result] = _beam().match([f"{directory}**"])
    return [file.path[len(directory) :] for file in result.metadata_list]


def match(pattern: str) -> list[str]:
    """The remote files that a pattern names."""
    return [file.path for result in _beam().match([pattern]) for file in result.metadata_list]


def delete_files(paths: Iterable[str]) -> None:
    """Deletes files, in their order."""
    for path in paths:
        if is_local(path):
            os.remove(path)
        else:
            _beam().delete([path])


def delete_tree(path: str) -> None:
    """Deletes a directory and all that is in it, if it is there."""
    if is_local(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        delete_files(join(path, name) for name in names_below(path))


def rename_remote(old: Sequence[str], new: Sequence[str]) -> None:
    """Renames remote files, and makes the directories for them."""
    for folder in sorted({_beam().split(path)[0] for path in new if not _is_object(path)}):
        make_directory(folder)
    _beam().rename(list(old), list(new))
