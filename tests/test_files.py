"""Files on a remote file system: here one of Beam's, whose objects lie in a local directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.localfilesystem import LocalFileSystem

from lse_stream.files import whole_file

REMOTE = "remote://"


class RemoteFileSystem(LocalFileSystem):
    """Beam finds it by its scheme."""

    @classmethod
    def scheme(cls) -> str:
        return REMOTE.removesuffix("://")

    def create(
        self,
        path: str,
        mime_type: str = "application/octet-stream",
        compression_type: str = CompressionTypes.UNCOMPRESSED,
    ) -> Any:
        return super().create(path.removeprefix(REMOTE), mime_type, compression_type)

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            Path(path.removeprefix(REMOTE)).unlink()


@pytest.mark.parametrize("prefix", ["", REMOTE])
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "file"

    def interrupted() -> None:
        with whole_file(f"{prefix}{path}") as sink:
            sink.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with whole_file(f"{prefix}{path}") as sink:
        sink.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
