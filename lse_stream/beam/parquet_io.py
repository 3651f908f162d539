"""Parquet in and out of Beam: row groups read as tables, shards and windows written as files."""

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PBegin, PCollection
from apache_beam.transforms.trigger import DefaultTrigger
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Duration, Timestamp

from ..files import check_mark, mark_of
from ..parquet.panes import write_pane
from ..parquet.scan import Dataset, Reading, RowGroup
from ..parquet.sink import Counters, write_shard
from ..parquet.source import Convert, RowGroupReader
from ..state_table import to_ipc
from .version import Version


class RowCounter:
    """Counts rows over the threads of this process, for whoever shows progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = 0

    def add(self, rows: int) -> None:
        with self._lock:
            self._rows += rows

    def read(self) -> int:
        return self._rows


rows_read = RowCounter()
# The name of the metric that counts them too, for runners whose workers are elsewhere.
ROWS_READ = "rows_read"


def count_rows(rows: int) -> None:
    """Counts rows that were read."""
    rows_read.add(rows)
    Metrics.counter("lse_stream", ROWS_READ).inc(rows)


class ReadTables(beam.PTransform[PBegin, PCollection[pa.Table]]):
    """The needed columns of all rows of a ``Dataset``, as tables of at most ``dataset.reading.table_rows`` rows.

    Work is spread by row groups.

    Args:
      dataset: as of ``lse_stream.parquet.scan.scan``.
      convert: makes of each table what comes out; raises ValueError for one with a fault, and names the column.

    Raises:
      DataError: when the pipeline runs: a damaged page, or a fault that ``convert`` found; with file, row group and
        column.

    >>> from lse_stream.parquet.scan import scan
    >>> dataset = scan(["pipelines/samples/storms.parquet"], ["season"], ["category"])
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     _ = pipeline | ReadTables(dataset) | beam.Map(lambda table: print(table.num_rows))
    511
    """

    def __init__(self, dataset: Dataset, convert: Convert | None = None) -> None:
        super().__init__()
        self._dataset = dataset
        self._convert = convert

    def expand(self, pbegin: PBegin) -> PCollection[pa.Table]:
        by_path = groupby(self._dataset.row_groups, lambda row_group: row_group.path)
        tables: PCollection[pa.Table] = (
            pbegin
            | "Files" >> beam.Create([file_of(list(group)) for _, group in by_path])
            | "RowGroups" >> beam.FlatMap(row_groups_of)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_ReadRowGroup(self._dataset.reading, self._convert)).with_output_types(pa.Table)
        )
        return tables


# Row groups of a file in short, as the graph has them, which is to stay small: path, what the directories give, number
# of the first row group (-1 for a file without rows), and as int32 how many rows each has from there on.
_File = tuple[str, tuple[Any, ...], int, bytes]


def file_of(row_groups: Sequence[RowGroup]) -> _File:
    """Row groups of one file, in short: see ``_File``."""
    path, partition, first = row_groups[0].path, row_groups[0].partition, row_groups[0].index
    if first is None:
        return path, partition, -1, b""
    numbers = [row_group.index for row_group in row_groups if row_group.index is not None]
    rows = np.zeros(numbers[-1] - first + 1, np.int32)
    rows[np.array(numbers) - first] = [row_group.num_rows for row_group in row_groups]
    return path, partition, first, rows.tobytes()


def row_groups_of(file: _File) -> Iterator[RowGroup]:
    """The row groups that ``file_of`` has put in short."""
    path, partition, first, rows = file
    if first < 0:
        yield RowGroup(path, None, partition, 0)
    for index, num_rows in enumerate(np.frombuffer(rows, np.int32).tolist(), first):
        if num_rows:
            yield RowGroup(path, index, partition, num_rows)


class _ReadRowGroup(beam.DoFn):
    """A RowGroup to tables."""

    def __init__(self, reading: Reading, convert: Convert | None) -> None:
        self._reading = reading
        self._convert = convert
        self._version = Version()

    def setup(self) -> None:
        self._reader = RowGroupReader(self._reading, self._convert, count=count_rows)

    def start_bundle(self) -> None:
        self._version.check()

    def process(self, row_group: RowGroup) -> Iterator[pa.Table]:
        for table in self._reader.tables([row_group]):
            count_rows(table.num_rows)
            yield table

    def teardown(self) -> None:
        self._reader.close()


class WriteShards(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[str]]):
    """(shard, table) to one Parquet file each; gives the paths.

    Files are named ``part-00000-of-0000N.parquet``. Equal tables give equal bytes with one version of pyarrow. A bundle
    that is tried again writes the same file again, and a file has its name only when it is whole.

    Args:
      directory: where to, on any Beam filesystem; it must exist.
      num_shards: N.
      keys, counters: as of ``lse_stream.parquet.sink.ShardWriter``.

    Raises:
      ValueError: an input in other than the global window, whose files would replace each other.
      DataError: when the pipeline runs: a file cannot be written.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as directory, beam.Pipeline("FnApiRunner") as pipeline:
    ...     shards = pipeline | beam.Create([(0, pa.table({"x": [1.0]}))])
    ...     _ = shards | WriteShards(directory, 1) | beam.Map(os.path.basename) | beam.Map(print)
    part-00000-of-00001.parquet
    """

    def __init__(
        self, directory: str, num_shards: int, keys: Sequence[str] = (), counters: Counters = MappingProxyType({})
    ) -> None:
        super().__init__()
        self._write = _WriteShard(directory, num_shards, list(keys), dict(counters))

    def expand(self, shards: PCollection[tuple[int, pa.Table]]) -> PCollection[str]:
        windowing = shards.windowing
        if not isinstance(windowing.windowfn, GlobalWindows) or windowing.triggerfn != DefaultTrigger():
            raise ValueError(
                "expected the global window with the default trigger, found "
                f"{windowing.windowfn} with {windowing.triggerfn}"
            )
        paths: PCollection[str] = shards | "Write" >> beam.ParDo(self._write)
        return paths


class _WriteShard(beam.DoFn):
    def __init__(self, directory: str, num_shards: int, keys: list[str], counters: Counters) -> None:
        self._directory, self._num_shards, self._keys, self._counters = directory, num_shards, keys, counters

    def process(self, element: tuple[int, pa.Table]) -> Iterator[str]:
        shard, table = element
        options = {"keys": self._keys, "counters": self._counters}
        yield write_shard(self._directory, self._num_shards, shard, [table], table.schema, **options)


class WriteWindows(beam.PTransform[PCollection[tuple[int, pa.Table]], PCollection[str]]):
    """(shard, table) in windows to one Parquet file per window and shard; gives the paths.

    Files are named ``START-END-part-00000-of-0000N.parquet``, with the window's times in UTC as in 20170905T120000, so
    that names sort by window (of the years 0 to 9999). A file appears whole; a further pane of the window replaces it,
    and no earlier one does, as ``lse_stream.parquet.panes.write_pane`` has it. Each table is one file, however many
    windows a bundle closes.

    Args:
      directory: where to, on any Beam filesystem; it must exist. Workers that do not see the mark that it has now, if
        it has one (see ``lse_stream.files``), fail.
      num_shards: N.
      each_pane: keep every pane, in a file of its own with the pane's index, and a digest of what it holds, ahead of
        the part: those of discarding panes, which only together are the whole. A job that begins anew counts its panes
        anew, and spreads rows otherwise over them.
      max_out_of_orderness: as of the ``WindowTables`` that the windows are from, seconds.
      metadata: for the files.

    Raises:
      DataError: when the pipeline runs: a file cannot be written.

    >>> import os, tempfile
    >>> from apache_beam.transforms.window import FixedWindows
    >>> from lse_stream.beam import WindowTables
    >>> rows = pa.table({"time": pa.array([86_400], pa.timestamp("s")), "x": [1.0]})
    >>> with tempfile.TemporaryDirectory() as directory, beam.Pipeline("FnApiRunner") as pipeline:
    ...     tables = pipeline | beam.Create([rows]) | WindowTables(FixedWindows(3600), "time")
    ...     shards = tables | beam.Map(lambda table: (0, table))
    ...     _ = shards | WriteWindows(directory, 1) | beam.Map(os.path.basename) | beam.Map(print)
    19700102T000000-19700102T010000-part-00000-of-00001.parquet
    """

    def __init__(
        self,
        directory: str,
        num_shards: int,
        *,
        each_pane: bool = False,
        max_out_of_orderness: float = 0.0,
        metadata: Mapping[bytes, bytes] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        delay = Duration.of(max_out_of_orderness)
        self._write = _WriteWindow(directory, num_shards, delay, dict(metadata), each_pane=each_pane)

    def expand(self, shards: PCollection[tuple[int, pa.Table]]) -> PCollection[str]:
        paths: PCollection[str] = shards | "Write" >> beam.ParDo(self._write)
        return paths


class _WriteWindow(beam.DoFn):
    def __init__(
        self, directory: str, num_shards: int, delay: Duration, metadata: dict[bytes, bytes], *, each_pane: bool
    ) -> None:
        self._directory, self._num_shards = directory, num_shards
        self._delay, self._metadata, self._each_pane = delay, metadata, each_pane
        self._mark = mark_of(directory)

    def process(
        self,
        element: tuple[int, pa.Table],
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[str]:
        shard, table = element
        pane_name = f"pane-{pane.index:05d}-{_digest(table)}-" if self._each_pane else ""
        prefix = f"{_compact(window.start - self._delay)}-{_compact(window.end - self._delay)}-{pane_name}"
        check_mark(self._mark)  # a disk may have come or gone since
        if self._metadata:
            table = table.replace_schema_metadata(self._metadata)
        yield write_pane(self._directory, self._num_shards, shard, table, prefix)


def _digest(table: pa.Table) -> str:
    return hashlib.sha256(to_ipc(table)).hexdigest()[:16]


def _compact(time: Timestamp) -> str:
    micros = np.datetime64(time.micros, "us")
    seconds = micros.astype("datetime64[s]")
    # Without a zone's letter: what follows a whole second, "-", sorts before the point of a fraction.
    text = str(micros if micros != seconds else seconds).replace(":", "")
    return text[:1] + text[1:].replace("-", "")  # years before 0 keep their sign
