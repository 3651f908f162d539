"""Where results come from: a file beside them that names the program, its options and its input."""

import json
from typing import Any

from lse_stream import __version__
from lse_stream.files import join, open_file, whole_file
from lse_stream.predicates import Condition
from lse_stream.scales import Scale

from .options import Options
from .output import PROVENANCE
from .summary import pluralize

# Options that decide no result: where it goes, how the work is done, and what is named by itself.
_NOT_DECIDING = (
    *("input", "output", "overwrite", "quiet", "traceback", "picture"),
    *("threads", "memory", "temp", "max_broadcast", "beam", "expansion_service"),
    "kafka_config",  # which may have passwords
)


def write_provenance(directory: str, options: Options, num_rows: int) -> None:
    """Writes it to a directory of results; ``num_rows`` is how many rows the input has."""
    found = {
        "program": options.program,
        "version": __version__,
        "arguments": {name: value for name, value in options.given.items() if name not in _NOT_DECIDING},
        "input": options.input,
        "rows": num_rows,
    }
    with whole_file(join(directory, PROVENANCE)) as sink:
        sink.write(f"{json.dumps(found, indent=2, default=_as_written)}\n".encode())


def _as_written(value: Any) -> str:
    if isinstance(value, Condition):
        return value.text
    return value.name if isinstance(value, Scale) else str(value)


def read_provenance(directory: str) -> dict[str, Any] | None:
    """What was written there; None where nothing was, or is not readable any more."""
    try:
        with open_file(join(directory, PROVENANCE)) as source:
            found = json.loads(source.read())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def said_of(provenance: dict[str, Any]) -> str:
    """It as one line."""
    options = [
        f"--{name}" if each is True else f"--no-{name}" if each is False else f"--{name} {each}"
        for name, value in provenance["arguments"].items()
        for each in (value if isinstance(value, list) else [value])
    ]
    rows, paths = pluralize(provenance["rows"], "row"), " ".join(provenance["input"])
    return f"by {provenance['program']} {provenance['version']} {' '.join(options)}, of {rows} of {paths}"
