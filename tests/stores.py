"""File systems that are not local, in memory: a store of objects, and one with directories, as HDFS."""

import hashlib
import io
from collections.abc import Iterator
from typing import Any, ClassVar

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem

from pipelines.output import SUCCESS


class Store(FileSystem):
    """Objects by name, as stores of objects have them: no directories, and an object is there once it is closed."""

    objects: ClassVar[dict[str, bytes]] = {}
    journal: ClassVar[list[str]] = []

    @classmethod
    def scheme(cls) -> str:
        return "testfs"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        pass

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for path, data in list(self.objects.items()):
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data))

    def create(self, path: str, *options: str) -> io.BytesIO:
        assert CompressionTypes.UNCOMPRESSED in options or path.endswith(SUCCESS)
        store = self

        class Writer(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    store.journal.append(f"create {path}")
                    store.objects[path] = self.getvalue()
                super().close()

        return Writer()

    def open(self, path: str, *options: str) -> io.BytesIO:
        assert CompressionTypes.UNCOMPRESSED in options
        return io.BytesIO(self.objects[path])

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            self.objects[destination] = self.objects[source]

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            self.journal.append(f"rename {source} {destination}")
            self.objects[destination] = self.objects.pop(source)

    def exists(self, path: str) -> bool:
        return path in self.objects

    def size(self, path: str) -> int:
        return len(self.objects[path])

    def last_updated(self, path: str) -> float:
        return float(self.metadata(path).last_updated_in_seconds)

    def checksum(self, path: str) -> str:
        return hashlib.sha256(self.objects[path]).hexdigest()

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, self.size(path))

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            self.journal.append(f"delete {path}")
            del self.objects[path]


class Directories(Store):
    """A file is there from its first byte on, and nothing takes the place of what is there: as on HDFS."""

    folders: ClassVar[set[str]] = set()

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
        if path in self.objects:
            raise BeamIOError(f"{path} is there")
        objects = self.objects
        objects[path] = b""

        class Writer(io.BytesIO):
            def write(self, data: Any) -> int:
                objects[path] += bytes(data)
                return super().write(data)

        return Writer()

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for destination in destination_file_names:
            if destination in self.objects or self.split(destination)[0] not in self.folders:
                raise BeamIOError(f"{destination} is there, or its directory is not")
        super().rename(source_file_names, destination_file_names)

    def exists(self, path: str) -> bool:
        return path in self.objects or path in self.folders
