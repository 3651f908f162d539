"""Log-sum-exp over data too big for one process, whose partial results combine exactly.

``__init__.pyi`` lists the public names. Each is imported at its first use, as a program needs few of them. What runs on
Apache Beam is in ``lse_stream.beam``, the programs are in ``lse_stream.pipelines``.
"""

from typing import Any

import lazy_loader

__version__ = "0.2.0"

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    found = globals()[name] = _import(name)  # kept, so that the next use takes no time
    return found
