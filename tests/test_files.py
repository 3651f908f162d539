"""Files on remote file systems: an object store, and one with directories, as HDFS, where writing is seen."""

from typing import Any

import pytest
from stores import Store

from lse_stream.files import make_directory, rename_remote, whole_file


@pytest.fixture
def files(store: type[Store]) -> dict[str, bytes]:
    return store.objects


@pytest.mark.parametrize("folder", ["testfs://bucket/out", "directories://host/out"])
def test_a_file_appears_whole_or_not_at_all(files: dict[str, bytes], folder: str) -> None:
    path = f"{folder}/file"
    make_directory(folder)

    def interrupted() -> None:
        with whole_file(path) as sink:
            sink.write(b"half")
            assert path not in files
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files == {}
    for data in (b"whole", b"another"):  # which takes its place
        with whole_file(path) as sink:
            sink.write(data[:2])
            assert files.get(path) in (None, b"whole")
            sink.write(data[2:])
        assert files == {path: data}


def test_what_is_seen_of_a_file_has_a_hidden_name(files: dict[str, bytes]) -> None:
    make_directory("directories://host/out")
    with whole_file("directories://host/out/file") as sink:
        sink.write(b"half")
        sink.flush()
        [name] = files
        assert name.startswith("directories://host/out/.file.")


def test_directories_may_be_there_already(files: dict[str, bytes]) -> None:
    for _ in range(2):
        make_directory("directories://host/out")
    files["directories://host/a"] = b"data"
    rename_remote(["directories://host/a"], ["directories://host/out/totals/a"])
    assert files == {"directories://host/out/totals/a": b"data"}


def test_a_local_file_appears_whole_or_not_at_all(tmp_path: Any) -> None:
    path = tmp_path / "file"

    def interrupted() -> None:
        with whole_file(str(path)) as sink:
            sink.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with whole_file(str(path)) as sink:
        sink.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
