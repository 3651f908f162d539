"""Panes of a window, written in any order and at the same time: the latest stays, whole, and nothing else."""

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lse_stream.parquet.panes import UNFINISHED, write_pane

PREFIX = "20170905T000000-20170905T010000-"
NAME = f"{PREFIX}part-00000-of-00001.parquet"


def pane(*counts: int) -> pa.Table:
    """Of so many keys, each with that count; a key of nulls alone counts 0."""
    return pa.table({"key": range(len(counts)), "count": pa.array(counts, pa.int64())})


PANES = [pane(1), pane(1, 0), pane(2, 0), pane(2, 3)]


def write(directory: Path, table: pa.Table) -> None:
    assert write_pane(str(directory), 1, 0, table, PREFIX) == str(directory / NAME)


def found(directory: Path) -> pa.Table:
    assert sorted(path.name for path in directory.iterdir()) == [UNFINISHED, NAME]
    assert list((directory / UNFINISHED).iterdir()) == []
    return pq.read_table(directory / NAME)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_latest_stays_in_every_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    for i, number in enumerate(order):
        write(tmp_path, PANES[number])
        assert found(tmp_path).equals(PANES[max(order[: i + 1])])


@contextmanager
def stopped_at(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The thread that is called "stopped" stops ahead of that function of ``os``: it says so, and waits to go on."""
    there, go_on = threading.Event(), threading.Event()
    original = getattr(os, name)

    def stopping(*arguments: Any) -> Any:
        # Of the function's calls that are ours; whole_file has its own ways.
        if threading.current_thread().name == "stopped" and UNFINISHED in str(arguments[0]):
            there.set()
            assert go_on.wait(30)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, stopping)
        yield there, go_on
        go_on.set()


@pytest.mark.parametrize("step", ["scandir", "rename"])
def test_a_writer_that_was_stopped_puts_back_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write(tmp_path, PANES[0])
    with stopped_at(monkeypatch, step) as (there, go_on):
        zombie = threading.Thread(target=write, args=(tmp_path, PANES[1]), name="stopped")
        zombie.start()
        assert there.wait(30)
        write(tmp_path, PANES[2])
        assert pq.read_table(tmp_path / NAME).equals(PANES[2])
        go_on.set()
        zombie.join()
    assert found(tmp_path).equals(PANES[2])


def test_a_stopped_writer_has_its_pane_put_in_place_by_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_at(monkeypatch, "rename") as (there, go_on):
        latest = threading.Thread(target=write, args=(tmp_path, PANES[3]), name="stopped")
        latest.start()
        assert there.wait(30)
        write(tmp_path, PANES[1])
        assert found(tmp_path).equals(PANES[3])
        go_on.set()
        latest.join()
    assert found(tmp_path).equals(PANES[3])


def test_a_pane_that_a_killed_writer_has_deleted_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two write the same pane; the second deletes that of the first, and is killed ahead of its own rename."""
    write(tmp_path, PANES[0])
    with stopped_at(monkeypatch, "rename") as (there, go_on):
        first = threading.Thread(target=write, args=(tmp_path, PANES[2]), name="stopped")
        first.start()
        assert there.wait(30)
        with monkeypatch.context() as patch:

            def killed(*_: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(os, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path, PANES[2])
        for path in (tmp_path / UNFINISHED).iterdir():
            path.unlink()  # whichever of the two is left
        go_on.set()
        first.join()
    assert found(tmp_path).equals(PANES[2])


def test_many_writers_at_once(tmp_path: Path) -> None:
    tables = [pane(number) for number in range(1, 60)]
    writers = [threading.Thread(target=write, args=(tmp_path, table)) for table in tables[::-1] + tables]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert found(tmp_path).equals(tables[-1])


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"PAR1")
    write(tmp_path, PANES[0])
    assert found(tmp_path).equals(PANES[0])


def test_a_directory_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        write_pane(str(tmp_path / "nowhere"), 1, 0, PANES[0], PREFIX)
    assert list(tmp_path.iterdir()) == []


def test_tables_that_count_nothing_replace_each_other(tmp_path: Path) -> None:
    for start in (2, 1):
        write_pane(str(tmp_path), 1, 0, pa.table({"start": [start]}), PREFIX)
        assert pq.read_table(tmp_path / NAME)["start"].to_pylist() == [start]
