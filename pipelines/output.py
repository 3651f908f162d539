"""What --output names: checked, written aside, and put in place as a whole or not at all."""

import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from lse_stream import files
from lse_stream.errors import DataError, InputError, one_line
from lse_stream.files import is_local, join, part_name
from lse_stream.parquet.lakes import place_of_table
from lse_stream.parquet.panes import UNFINISHED
from lse_stream.parquet.sink import is_result

# Marks a directory of an object store as whole, as Hadoop's committers do. Local ones are renamed as a whole instead.
SUCCESS = "_SUCCESS"

# What a stream without an end keeps when it goes on.
SETTINGS = "_stream.json"

# Says where results come from.
PROVENANCE = "_lse_stream.json"

# The directories inside the output of programs that write more than one table.
TABLES = TOTALS, OVERALL, OBSERVATIONS = "totals", "overall", "observations"

# What there may be at a place that is written to: results, which --overwrite replaces.
_WINDOW = r"-?[\d.T]+--?[\d.T]+-(pane-\d{5,}-[0-9a-f]{16}-)?"
_PART = r"part-\d{5,}-of-\d{5,}\.parquet"
_BESIDE = "|".join(map(re.escape, (SUCCESS, SETTINGS, PROVENANCE)))
_RESULT = re.compile(rf"(({'|'.join(TABLES)})/|{_WINDOW})?{_PART}|{_BESIDE}")

# What is written aside is named after the run that writes: host, process, the process's start, and a random number.
_INCOMPLETE = "_incomplete-"
_RUN = re.compile(rf"{_INCOMPLETE}(?P<host>.+)-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{{8}}(?P<kind>\.old|\.earlier)?")


# In a directory that was written aside: a job may go on to write there, though the run that began it has ended.
_GOES_ON = "_GOES_ON"

# Ends the name of earlier results that a stream is to replace; and marks them where it has, as they are being deleted.
_EARLIER, _REPLACED = ".earlier", "_REPLACED"


def prepare_output(directory: str, inputs: Iterable[str], *, overwrite: bool) -> None:
    """Checks a place for results, once what killed runs have left there is gone. Raises as the checks."""
    # What is wrong with the place is said by the checks, or where it is written to.
    with suppress(OSError, ValueError):
        remove_left_behind(directory)
    check_output(directory, overwrite=overwrite)
    check_apart(directory, inputs)


def check_output(directory: str, *, overwrite: bool) -> None:
    """Raises InputError where results cannot be put at ``directory``, or where there is what may not be replaced.

    That is everything but earlier results, and these too without ``overwrite``.
    """
    if is_local(directory) and _is_within(os.getcwd(), directory):
        raise InputError(
            f"--output {directory}: expected a directory that can be replaced, found the current one in it"
        )
    names = _names_in(directory)
    for name in names:
        if not _RESULT.fullmatch(name):
            raise InputError(f"--output {directory}: expected nothing there but earlier results, found {name}")
        if not overwrite:
            raise InputError(f"--output {directory}: expected nothing there yet (or --overwrite), found {name}")
    for name in names:
        if name.endswith(".parquet") and not _is_result(join(directory, name)):
            raise InputError(
                f"--output {directory}: expected nothing there but results of these programs, found {name}"
            )


def _is_result(path: str) -> bool:
    """Whether a file was written by one of the programs, and is not another's of such a name."""
    try:
        with files.open_file(path) as source:
            return is_result(pq.read_metadata(source))
    except (OSError, ValueError):  # Arrow's are these too
        return False


def check_apart(directory: str, others: Iterable[str], what: str = "the input") -> None:
    """Raises InputError where one of others, files or directories, lies in the output directory or around it."""
    for path in map(place_of_table, others):
        if _is_within(path, directory) or _is_within(directory, path):
            raise InputError(f"--output {directory}: expected a place apart from {what}, found {path}")


def _is_within(path: str, directory: str) -> bool:
    if is_local(path) and is_local(directory):
        path, directory = os.path.realpath(path), os.path.realpath(directory)
    return f"{path.rstrip('/')}/".startswith(directory.rstrip("/") + "/")


def place_of(directory: str) -> tuple[str, str]:
    """The parent and the name of a local directory where a link leads, as that may be another disk."""
    return os.path.split(os.path.realpath(directory))


def stage(directory: str, option: str = "--output") -> str:
    """Makes a directory aside to write to. Give it to ``publish`` or ``discard``.

    Raises:
      InputError: it cannot be made.
    """
    try:
        staging = _aside(directory)
        files.make_directory(staging)
        return staging
    except (OSError, ValueError) as error:  # Beam's own errors are these too
        raise InputError(
            f"{option} {directory}: expected a place that can be written, found {one_line(error)}"
        ) from error


def _aside(directory: str) -> str:
    """A place beside a local directory, or inside one of an object store, by whose name its run is known."""
    name = f"{_INCOMPLETE}{_host()}-{os.getpid()}-{_start_of(os.getpid())}-{os.urandom(4).hex()}"
    if is_local(directory):
        parent, base = place_of(directory)
        return os.path.join(parent, f".{base}{name}")
    return join(directory, name)


def remove_left_behind(directory: str) -> None:
    """Removes what runs to that output have left aside, if it is certain that they are gone; names what others left."""
    if is_local(directory):
        parent, base = place_of(directory)
        names = os.listdir(parent) if os.path.isdir(parent) else []
        found = {name: os.path.join(parent, name) for name in names if name.startswith(f".{base}{_INCOMPLETE}")}
    else:
        inside = {name.partition("/")[0] for name in files.names_below(directory)}
        found = {name: join(directory, name) for name in inside if name.startswith(_INCOMPLETE)}
    for name, path in found.items():
        run = _RUN.fullmatch(name[name.index(_INCOMPLETE) :])
        if run is None or run["host"] != _host() or _GOES_ON in files.names_below(path):
            print(f"left where it is, as its run may go on elsewhere: {path}", file=sys.stderr)
        elif _start_of(int(run["pid"])) == int(run["start"]):
            continue
        elif run["kind"] and not _names_in(directory):
            put_back(path, directory)  # the run was killed before others took their place
        elif run["kind"] == _EARLIER and _REPLACED not in files.names_below(path):
            print(f"left where it is, as what was to replace these results may not have: {path}", file=sys.stderr)
        else:
            files.delete_tree(path)


def _host() -> str:
    """This machine since it was started, and this namespace of processes: another has processes of its own."""
    since = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii") + os.readlink("/proc/self/ns/pid")
    return f"{os.uname().nodename}-{zlib.crc32(since.encode()):08x}"


def _start_of(pid: int) -> int:
    """When a process was started, in ticks since the machine was; 0 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return 0 if fields[0] in "ZX" else int(fields[19])  # one that is dead may wait for its parent


def set_aside(directory: str) -> str | None:
    """Moves earlier results aside, for what takes their place; gives where to, or None where there are none.

    Give it to ``put_back`` or ``replaced``.

    Raises:
      InputError: they cannot be moved.
    """
    aside, names = f"{_aside(directory)}{_EARLIER}", _names_in(directory)
    if not names:
        return None
    try:
        if is_local(directory):
            os.rename(os.path.realpath(directory), aside)
        else:
            _move(directory, aside, names)
    except (OSError, ValueError) as error:  # Beam's own errors are these too
        raise InputError(
            f"--output {directory}: expected earlier results that can be moved to {aside}, found {one_line(error)}"
        ) from error
    return aside


def put_back(aside: str | None, directory: str) -> bool:
    """Puts earlier results in place again, where there are no new ones; says whether it has."""
    if has_results(directory):
        return False
    if is_local(directory):
        files.delete_tree(directory)
        if aside is not None:
            os.rename(aside, os.path.realpath(directory))
    else:
        delete_results(directory)
        if aside is not None:
            _move(aside, directory, files.names_below(aside))
    return True


def replaced(aside: str | None) -> None:
    """Deletes earlier results, in whose place there are others now."""
    if aside is None:
        return
    # So that a later run, if this is killed, does not take what is left for results.
    if is_local(aside):
        whole, aside = aside, aside.removesuffix(_EARLIER)
        os.rename(whole, aside)
    else:
        with files.create_file(join(aside, _REPLACED)):
            pass
    files.delete_tree(aside)


def _move(source: str, target: str, names: list[str]) -> None:
    files.rename_remote([join(source, name) for name in names], [join(target, name) for name in names])


def has_results(directory: str) -> bool:
    """Whether there is any file of results."""
    return any(name.endswith(".parquet") for name in _names_in(directory))


def delete_results(directory: str) -> None:
    """Deletes what ``check_output`` lets be replaced."""
    # Sorted, so that _SUCCESS goes before what it vouches for.
    files.delete_files(join(directory, name) for name in sorted(_names_in(directory)))


def make_output(option: str, directory: str) -> None:
    """Makes a directory, if it is not there, for files that appear in it one by one, and marks it for the workers.

    Raises:
      InputError: it cannot be made.
    """
    try:
        if is_local(directory):
            os.makedirs(os.path.realpath(directory), exist_ok=True)  # where a link leads, be it to nothing
            files.mark_directory(directory)
        else:
            files.make_directory(directory)
    except (OSError, ValueError) as error:  # Beam's own errors are these too
        raise InputError(f"--{option} {directory}: expected a directory to be made, found {one_line(error)}") from error


def make_table_directory(staging: str, name: str) -> str:
    """Makes the directory of one of ``TABLES`` inside a staged one; gives its path."""
    path = join(staging, name)
    files.make_directory(path)
    return path


def check_whole(staging: str, directory: str) -> None:
    """Raises DataError unless each table that was written aside has all of its files.

    There is one at least, and the name of each says how many there are.
    """
    tables: dict[str, set[str]] = {}
    if is_local(staging):
        tables = {f"{entry.name}/": set() for entry in os.scandir(staging) if entry.is_dir()}
    for name in files.names_below(staging):
        folder, slash, part = name.rpartition("/")
        tables.setdefault(folder + slash, set()).add(part)
    for folder, names in (tables or {"": set()}).items():
        # Others are what a worker that was killed has left of a file.
        whole = [name for name in names if re.fullmatch(_PART, name)]
        parts = max((int(name.rpartition("-")[2].removesuffix(".parquet")) for name in whole), default=1)
        for name in [part_name(part, parts) for part in range(parts)]:
            if name not in names:
                raise DataError(
                    f"--output {directory}: expected {folder}{name} after the run, found none: all workers have to "
                    "write where this machine reads"
                )


def publish(staging: str, directory: str, *, overwrite: bool = False) -> None:
    """Puts what was written aside in place, as a whole.

    A local directory takes its place by one rename; with ``overwrite`` the old one is set aside by another just before,
    and deleted afterwards. On an object store the old files go first, then the new ones are moved in, and last of all
    ``_SUCCESS`` is written: without it a reader knows that the directory is not whole.

    Raises:
      InputError: results have appeared there meanwhile.
    """
    check_output(directory, overwrite=overwrite)
    if is_local(directory):
        directory = os.path.realpath(directory)
        old = f"{staging}.old"
        _delete_hidden(staging)
        if os.path.isdir(directory):
            os.rename(directory, old)
        os.rename(staging, directory)
        shutil.rmtree(old, ignore_errors=True)
        return
    delete_results(directory)
    _move(staging, directory, files.names_below(staging))
    with files.create_file(join(directory, SUCCESS)):
        pass


def _delete_hidden(directory: str) -> None:
    """Deletes what writers, some of which may have been killed, have left of files: it is hidden until it is whole."""
    for path in [*Path(directory).glob(".*"), *Path(directory).glob("*/.*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def leave_to_job(staging: str) -> None:
    """Keeps what was written aside from being deleted by later runs, as a job may go on to write there."""
    with suppress(OSError, ValueError), files.create_file(join(staging, _GOES_ON)):
        pass


def discard(staging: str) -> None:
    """Deletes what was written aside."""
    files.delete_tree(staging)


def _names_in(directory: str) -> list[str]:
    """What is at a place, but for its mark, what is unfinished and what runs put aside there.

    Raises:
      InputError: it cannot be listed.
    """
    try:
        if is_local(directory):
            names = _local_names_below(directory) if os.path.exists(directory) else []
            return [name for name in names if name != UNFINISHED and not name.startswith(files.MARK)]
        return [name for name in files.names_below(directory) if not name.startswith(_INCOMPLETE)]
    except (OSError, ValueError) as error:  # Beam's own errors are these too
        raise InputError(f"--output {directory}: expected a directory to be made, found {one_line(error)}") from error


def _local_names_below(directory: str) -> list[str]:
    names = []
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        inside = os.listdir(path) if name in TABLES and os.path.isdir(path) else []
        names += [f"{name}/{below}" for below in inside] or [name]
    return names
