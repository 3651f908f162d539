"""Draws in CSV files, as CmdStan writes them: found, checked, and made into Parquet files that programs can read."""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lse_stream.errors import DataError, InputError, errors_of_writing, one_line
from lse_stream.files import open_file
from lse_stream.layouts import columns_like, lists_of
from lse_stream.observations import VALUE
from lse_stream.parquet.scan import hive_partition

# Bytes that are parsed at once: of lines of 100,000 numbers, which are 2 MB, several.
BLOCK_BYTES = 1 << 24
# Of the comments above the header, and a header of any length in so many steps.
HEADER_BYTES = 1 << 16
# As NumPy, R and pandas write what is missing. CmdStan writes nan for what is no number.
NULLS = ("", "NA")
# Methods of CmdStan that write no draws, or, of an approximation, its mean ahead of them.
NO_DRAWS = ("optimize", "diagnose", "variational")
# Characters of a fault that are shown.
SHOWN = 40


@dataclass(frozen=True)
class Chain:
    """A CSV file whose header was read.

    Attributes:
      path: where it is.
      header: the names of the columns.
      lines, begin: how many lines and bytes there are up to and with the header.
      warmup: how many rows of warm-up come first.
      draws: how many rows the comments promise after these; None where they do not.
    """

    path: str
    header: tuple[str, ...]
    lines: int
    begin: int
    warmup: int
    draws: int | None


@dataclass(frozen=True)
class Chains:
    """CSV files that agree.

    Attributes:
      chains: each.
      columns: the indices of the columns that hold log-likelihoods.
      observations: of which observation each column is.
    """

    chains: tuple[Chain, ...]
    columns: tuple[int, ...]
    observations: pa.Array


def are_csv(paths: Sequence[str]) -> bool:
    """Whether all files are CSV files, by their names. Raises InputError where only some are."""
    found = [path.lower().endswith(".csv") for path in paths]
    if any(found) and not all(found):
        raise InputError(f"{paths[found.index(False)]}: expected CSV files alone, as {paths[found.index(True)]}")
    return any(found)


def read_headers(paths: Sequence[str], pattern: str, keys: Sequence[str]) -> Chains:
    """Reads and checks the headers of CSV files.

    Args:
      pattern: of the columns, as of ``lse_stream.layouts.columns_like``.
      keys: names of key columns, which CSV files have as directories ``name=value`` alone.

    Raises:
      InputError: no CSV file, a header that differs from the first one or has no such columns, a key that is not there.
    """
    chains = tuple(_read_header(path) for path in paths)
    first = chains[0]
    for chain in chains:
        for key in keys:
            if key not in hive_partition(chain.path):
                expected = f"expected a directory {key}=... in the path of a CSV file, found none"
                raise InputError(f"{chain.path}: column {key!r}: {expected}")
        if chain.header != first.header:
            pairs = enumerate(zip_longest(chain.header, first.header), 1)
            number, found, expected = next((i, one, other) for i, (one, other) in pairs if one != other)
            what, other = ("no further one" if name is None else repr(name) for name in (expected, found))
            raise InputError(
                f"{chain.path}, column {number} of the header: expected {what} as in {first.path}, found {other}"
            )
    names, observations = find_columns(pattern, first.path, first.header)
    for name in names:
        if (copies := first.header.count(name)) > 1:
            raise InputError(f"{first.path}: column {name!r}: expected once in the header, found it {copies} times")
    places = {name: i for i, name in enumerate(first.header)}
    return Chains(chains, tuple(places[name] for name in names), observations)


def find_columns(pattern: str, path: str, names: Sequence[str]) -> tuple[list[str], pa.Array]:
    """``lse_stream.layouts.columns_like`` of the names in a file; raises InputError, with the path."""
    try:
        return columns_like(pattern, names)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _read_header(path: str) -> Chain:
    settings: dict[str, str] = {}
    lines = begin = 0
    try:
        with open_file(path) as source:
            for block in _whole_lines(source, path, HEADER_BYTES):
                for line in block.splitlines(keepends=True):
                    lines, begin = lines + 1, begin + len(line)
                    text = line.decode().strip()
                    if text.startswith("#"):
                        if setting := re.match(r"#\s*(\w+)\s*=\s*(\S+)", text):
                            settings[setting[1]] = setting[2]
                    elif text:
                        if not text.isprintable():
                            raise InputError(f"{path}: expected a header of names, found {text[:SHOWN]!r}")
                        [header] = csv.reader([text])
                        if all(map(_is_number, header)) and not all(map(str.isdigit, header)):
                            raise InputError(f"{path}: expected a header of names, found numbers: {text[:SHOWN]!r}")
                        warmup, draws = _promised(path, settings)
                        return Chain(path, tuple(header), lines, begin, warmup, draws)
    except UnicodeDecodeError as error:
        found = f"{error.object[:SHOWN]!r}"
        raise InputError(f"{path}: expected a CSV file with a header of names, found {found}") from error
    except OSError as error:
        raise InputError(f"{path}: expected a readable CSV file, found {one_line(error)}") from error
    except DataError as error:
        raise InputError(str(error)) from error
    raise InputError(f"{path}: expected a CSV file with a header of names, found none")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _promised(path: str, settings: Mapping[str, str]) -> tuple[int, int | None]:
    """How many rows of warm-up and of draws the comments promise."""
    if settings.get("method") in NO_DRAWS:
        found = f"those of method = {settings['method']}"
        raise InputError(f"{path}: expected draws from a posterior, such as of method = sample, found {found}")
    thin = settings.get("thin", "1")

    def rows(name: str) -> int:
        number = settings.get(name, "")
        if not re.fullmatch(r"\d+", number) or not re.fullmatch(r"0*[1-9]\d*", thin):
            found = f"{name} = {number} and thin = {thin}"
            raise InputError(f"{path}: expected numbers of draws in the comments, found {found}")
        return -(-int(number) // int(thin))

    has_warmup = settings.get("save_warmup") in ("1", "true") and settings.get("algorithm") != "fixed_param"
    return rows("num_warmup") if has_warmup else 0, rows("num_samples") if "num_samples" in settings else None


def to_parquet(chains: Chains, directory: str) -> Iterator[tuple[int, int]]:
    """Writes the draws of each chain to a Parquet file in a directory: in a column VALUE a list for each draw.

    Yields, now and then, how many bytes were read and how many draws of warm-up were left out since.

    Raises:
      DataError: a line that is no row of numbers, or a file without draws; file and line named.
    """
    schema = pa.schema({VALUE: pa.list_(pa.float64(), len(chains.columns))})
    for number, chain in enumerate(chains.chains):
        # The directories that name a key stay.
        named = [part for part in chain.path.split("/")[:-1] if "=" in part]
        folder = os.path.join(directory, f"{number:06d}", *named)
        path = os.path.join(folder, "draws.parquet")
        with errors_of_writing(path):
            os.makedirs(folder)
            # Read once, and soon: it need not be small.
            writer = pq.ParquetWriter(path, schema, compression="none", use_dictionary=False)
        kept, warmup = 0, chain.warmup
        with writer:
            for size, table in _tables(chain, chains.columns):
                skipped = min(warmup, table.num_rows)
                warmup -= skipped
                kept += table.num_rows - skipped
                draws = lists_of([column.combine_chunks() for column in table.slice(skipped).columns])
                with errors_of_writing(path):
                    writer.write_table(pa.Table.from_arrays([draws], schema=schema))
                yield size, skipped
        if not kept:
            found = f"{chain.warmup - warmup} of warm-up" if chain.warmup else "none"
            raise DataError(f"{chain.path}: expected draws below the header, found {found}")
        if chain.draws is not None and kept < chain.draws:
            promised = f"expected {chain.draws} draws, as num_samples says in its comments, found {kept}"
            raise DataError(f"{chain.path}: {promised}: it is still being written, or is cut off")


def _tables(chain: Chain, columns: Sequence[int]) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a file, warm-up too, in blocks; and how many bytes each was."""
    names = list(map(str, range(len(chain.header))))  # those of other columns may be there twice
    kept = [names[i] for i in columns]
    convert = pyarrow.csv.ConvertOptions(
        include_columns=kept, column_types=dict.fromkeys(kept, pa.float64()), null_values=NULLS
    )
    line = chain.lines + 1
    with open_file(chain.path) as source:
        source.seek(chain.begin)
        for block in _whole_lines(source, chain.path, BLOCK_BYTES):
            rows = block
            if b"#" in block:
                rows = b"".join(row for row in block.splitlines(keepends=True) if not row.startswith(b"#"))
            if rows.strip():
                read = pyarrow.csv.ReadOptions(column_names=names, block_size=len(rows))
                try:
                    yield len(block), pyarrow.csv.read_csv(pa.BufferReader(rows), read, convert_options=convert)
                except pa.ArrowInvalid as error:
                    _check_lines(chain, block, line, columns)
                    raise DataError(
                        f"{chain.path}, from line {line}: expected rows, found {one_line(error)}"
                    ) from error
            line += block.count(b"\n")


def _whole_lines(source: Any, path: str, size: int) -> Iterator[bytes]:
    """What is left of a file in blocks of about that many bytes, each up to the end of a line.

    Raises:
      DataError: the last line has no end, and so may lack part of a number.
    """
    rest = b""
    while block := source.read(size):
        whole, end, rest = (rest + block).rpartition(b"\n")
        if end:
            yield whole + end
    if rest and not rest.startswith(b"#"):
        raise DataError(f"{path}: expected an end of the last line, found {_shown(rest)}, which may be cut off")


def _check_lines(chain: Chain, block: bytes, first: int, columns: Sequence[int]) -> None:
    """Raises DataError for the first line of a block that is no row of numbers; the block's own first line is given."""
    for number, line in enumerate(block.splitlines(), first):
        if not line.strip() or line.startswith(b"#"):
            continue
        fields = line.split(b",")
        if len(fields) != len(chain.header):
            raise DataError(
                f"{chain.path}, line {number}: expected {len(chain.header)} values, as many as names in the header, "
                f"found {len(fields)}"
            )
        for i in columns:
            text = fields[i].decode(errors="replace").strip()
            try:
                pa.scalar("0" if text in NULLS else text).cast(pa.float64())
            except pa.ArrowInvalid:
                raise DataError(
                    f"{chain.path}, line {number}, column {chain.header[i]!r}: expected a number, "
                    f"found {_shown(fields[i])}"
                ) from None


def _shown(text: bytes) -> str:
    return repr(text[-SHOWN:].decode(errors="replace"))
