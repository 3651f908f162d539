"""What a stream without an end keeps when it goes on, recorded beside its results."""

import json
from typing import Any

from lse_stream.errors import InputError, one_line
from lse_stream.files import join, open_file, whole_file

from .command import UsageError
from .options import Options
from .output import SETTINGS

# What its state, its files and its windows depend on.
_KEPT = (
    *("topic", "format", "key", "value", "event_time", "scale", "window", "panes", "num_shards", "state"),
    *("max_out_of_orderness", "allowed_lateness", "early_firing", "pre_aggregate"),
)


def _settings(options: Options) -> dict[str, Any]:
    found = {name: getattr(options, name) for name in _KEPT}
    return found | {"key": [f"{name}:{data_type}" for name, data_type in options.key_types.items()]}


def write_settings(options: Options) -> None:
    """Records the options in --output."""
    with whole_file(join(options.output, SETTINGS)) as sink:
        sink.write(json.dumps(_settings(options), indent=1).encode())


def check_settings(options: Options) -> None:
    """Raises UsageError where an option is another one than that of the results in --output.

    Raises:
      InputError: there is no record of them.
    """
    path = join(options.output, SETTINGS)
    try:
        with open_file(path) as source:
            recorded = json.loads(source.read())
    except (OSError, ValueError) as error:
        raise InputError(
            f"--resume: expected results of a stream in --output {options.output}, with {SETTINGS}, found "
            f"{one_line(error)}"
        ) from None
    for name, found in _settings(options).items():
        if found != recorded.get(name):
            raise UsageError(
                f"--{name} {found}: expected {recorded.get(name)}, as of the results in {options.output}, which go on"
            )
