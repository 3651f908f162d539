"""The engine that runs plans in this process: threads over row groups, in bounded memory. It needs no Beam."""

from .engine import LocalEngine as LocalEngine
from .units import StoppedError as StoppedError
from .units import Watch as Watch
