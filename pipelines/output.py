"""Outputs that appear whole or not at all: written aside, then put in place."""

import os
import shutil
import uuid

from apache_beam.io.filesystems import FileSystems

from lse_stream.parquetio import InputError, is_local

# Marks a directory of an object store as whole, as Hadoop's committers do. Local ones are renamed as a whole instead.
SUCCESS = "_SUCCESS"


def check_output(directory: str, *, overwrite: bool) -> None:
    """Raises InputError where results cannot be put at ``directory``, or stand there and may not be replaced."""
    if not is_local(directory):
        if _files_below(directory) and not overwrite:
            raise InputError(f"--output {directory}: expected no files there yet (or --overwrite), found some")
        return
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise InputError(f"--output {directory}: expected a directory, found a file")
    if os.path.isdir(directory) and os.listdir(directory) and not overwrite:
        raise InputError(f"--output {directory}: expected no directory of that name yet (or --overwrite), found one")
    parent = os.path.dirname(os.path.abspath(directory))
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--output {directory}: expected to be able to write to {parent}, found that it cannot be")


def stage(directory: str) -> str:
    """Makes a directory aside to write to. Give it to ``publish`` or ``discard``."""
    name = uuid.uuid4().hex
    if not is_local(directory):
        staging = FileSystems.join(directory, f"_incomplete-{name}")
        FileSystems.mkdirs(staging)
        return staging
    parent, base = os.path.split(os.path.abspath(directory))
    staging = os.path.join(parent, f".{base}.incomplete-{name}")
    os.makedirs(staging)
    return staging


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
        directory = os.path.abspath(directory)
        old = f"{staging}.old"
        if os.path.isdir(directory):
            os.rename(directory, old)
        os.rename(staging, directory)
        shutil.rmtree(old, ignore_errors=True)
        return
    new = _files_below(staging)
    old_files = [path for path in _files_below(directory) if path not in new]
    if old_files:
        FileSystems.delete(old_files)
    FileSystems.rename(new, [FileSystems.join(directory, FileSystems.split(path)[1]) for path in new])
    FileSystems.create(FileSystems.join(directory, SUCCESS)).close()


def discard(staging: str) -> None:
    """Deletes what was written aside."""
    if is_local(staging):
        shutil.rmtree(staging, ignore_errors=True)
    elif paths := _files_below(staging):
        FileSystems.delete(paths)


def _files_below(directory: str) -> list[str]:
    [result] = FileSystems.match([directory.rstrip("/") + "/**"])
    return [file.path for file in result.metadata_list]
