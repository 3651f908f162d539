"""The package's version, which workers share with the process that starts a job."""

import socket

from .. import __version__
from ..errors import DataError


class Version:
    """That of the process which makes it; travels with what workers run."""

    def __init__(self) -> None:
        self._version = __version__

    def check(self) -> None:
        """Raises DataError on a worker that has another one."""
        if self._version != __version__:
            raise DataError(
                f"lse-stream: expected version {self._version} on every worker, as on the machine that started the "
                f"job, found {__version__} on {socket.gethostname()}"
            )
