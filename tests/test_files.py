"""Files on remote file systems: an object store, and one with directories, as HDFS, where writing is seen."""

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem

from lse_stream.files import make_directory, rename_remote, whole_file


class Objects(FileSystem):
    """An object is there once it is closed, and directories are a part of its name."""

    files: ClassVar[dict[str, bytes]]

    @classmethod
    def scheme(cls) -> str:
        return "objects"

    def has_dirs(self) -> bool:
        return False

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        pass

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        raise NotImplementedError

    def create(self, path: str, *options: str) -> Any:
        assert CompressionTypes.UNCOMPRESSED in options
        files = self.files

        class Writer(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    files[path] = self.getvalue()
                super().close()

        return Writer()

    def open(self, path: str, *options: str) -> Any:
        raise NotImplementedError

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            self.files[destination] = self.files.pop(source)

    def exists(self, path: str) -> bool:
        return path in self.files

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.files[path]

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError

    def size(self, path: str) -> int:
        raise NotImplementedError

    def last_updated(self, path: str) -> float:
        raise NotImplementedError

    def checksum(self, path: str) -> str:
        raise NotImplementedError

    def metadata(self, path: str) -> FileMetadata:
        raise NotImplementedError


class Directories(Objects):
    """A file is there from its first byte on, and nothing takes the place of what is there: as on HDFS."""

    folders: ClassVar[set[str]]

    @classmethod
    def scheme(cls) -> str:
        return "directories"

    def has_dirs(self) -> bool:
        return True

    def mkdirs(self, path: str) -> None:
        if path in self.folders:
            raise BeamIOError(f"{path} is there")
        self.folders.add(path)

    def create(self, path: str, *options: str) -> Any:
        assert CompressionTypes.UNCOMPRESSED in options
        if path in self.files:
            raise BeamIOError(f"{path} is there")
        files = self.files
        files[path] = b""

        class Writer(io.BytesIO):
            def write(self, data: Any) -> int:
                files[path] += bytes(data)
                return super().write(data)

        return Writer()

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for destination in destination_file_names:
            if destination in self.files or self.split(destination)[0] not in self.folders:
                raise BeamIOError(f"{destination} is there, or its directory is not")
        super().rename(source_file_names, destination_file_names)

    def exists(self, path: str) -> bool:
        return path in self.files or path in self.folders


@pytest.fixture(autouse=True)
def files() -> dict[str, bytes]:
    Objects.files, Directories.folders = {}, set()
    return Objects.files


@pytest.mark.parametrize("folder", ["objects://bucket/out", "directories://host/out"])
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
