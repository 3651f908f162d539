"""Files of windows, of which every further pane replaces the one before: never an older one a newer one."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import errors_of_writing
from ..files import is_local, join, match, open_file, part_name
from .sink import COUNTERS, TERMS, read_counts, write_shard

# The directory, inside that of the results, of what is written and not in place yet.
UNFINISHED = ".unfinished"

# In the metadata of a file of sessions that may be parts of longer ones, which late rows made of them, in another file.
SUPERSEDED = b"lse_stream sessions that later ones may contain"

# How far a pane is: how many terms it counts, then of how many keys. Panes that accumulate only grow in both, and of
# equal ones the bytes are equal.
_Progress = tuple[int, int]


def write_pane(directory: str, num_shards: int, shard: int, table: pa.Table, prefix: str) -> str:
    """Writes a table of results of a window to its file, unless that of a later pane is there; gives the path.

    Where several write at once, such as one that a runner has given up and the one in its place, the latest pane stays.
    On an object store each looks before it writes, and the last writer of those that look at the same time wins.

    Args:
      directory: where to; it must exist.
      num_shards, shard: of how many it is which.
      table: with a column "count"; without it each table replaces the one before.
      prefix: what the file's name begins with.

    Raises:
      DataError: the file cannot be written.
    """
    path = join(directory, prefix + part_name(shard, num_shards))
    if "count" not in table.column_names:
        return write_shard(directory, num_shards, shard, [table], table.schema, prefix=prefix)
    progress = COUNTERS[TERMS](table), table.num_rows
    if not is_local(directory):
        if _progress_of(path) < progress:
            write_shard(directory, num_shards, shard, [table], table.schema, prefix=prefix, counters=COUNTERS)
        return path
    with errors_of_writing(path):
        aside = os.path.join(directory, UNFINISHED)
        with suppress(FileExistsError):
            os.mkdir(aside)  # and not those around it: a directory that is gone is not made anew
        # One that puts a pane as far as this in place may have deleted this one, and be killed before it does.
        while _progress_of(path) < progress:
            name = f"{progress[0]}-{progress[1]}-{os.urandom(8).hex()}-{prefix}"
            write_shard(aside, num_shards, shard, [table], table.schema, prefix=name, counters=COUNTERS)
            _put_in_place(aside, path)
    return path


def _put_in_place(aside: str, path: str) -> None:
    """Renames the latest pane of those written aside for a path, if it is later than the one there; none is left aside.

    A writer that was overtaken finds that its own is gone: whoever puts a later one in place has first deleted all
    earlier ones that he saw, and those that he did not see were written by somebody who then saw his.
    """
    while written := sorted(_written(aside, os.path.basename(path))):
        for _, earlier in written[:-1]:
            with suppress(FileNotFoundError):
                os.remove(earlier)
        progress, latest = written[-1]
        with suppress(FileNotFoundError):
            if _progress_of(path) < progress:
                os.rename(latest, path)
            else:
                os.remove(latest)


def _written(aside: str, name: str) -> Iterator[tuple[_Progress, str]]:
    for entry in os.scandir(aside):
        found = re.fullmatch(rf"(\d+)-(\d+)-[0-9a-f]{{16}}-{re.escape(name)}", entry.name)
        if found is not None:
            yield (int(found[1]), int(found[2])), entry.path


def _progress_of(path: str) -> _Progress:
    """Of the pane in a file; of none, and of one that is not whole, less than that of any."""
    if not (os.path.exists(path) if is_local(path) else match(path)):
        return -1, -1
    try:
        with open_file(path) as source:
            metadata = pq.read_metadata(source)
    except pa.ArrowInvalid:
        return -1, -1
    return read_counts(metadata).get(TERMS, -1), metadata.num_rows
