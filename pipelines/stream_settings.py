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
    *("topic", "format", "key", "value", "event_time", "window", "panes", "num_shards", "state"),
    *("max_out_of_orderness", "allowed_lateness", "early_firing", "pre_aggregate"),
)


# Of the topic, of which none can be added.
_PARTITIONS = "partitions"


def _settings(options: Options, partitions: int) -> dict[str, Any]:
    found = {name: getattr(options, name) for name in _KEPT}
    key = [f"{name}:{data_type}" for name, data_type in options.key_types.items()]
    durations = {name: f"{found[name]:g}s" for name in ("max_out_of_orderness", "allowed_lateness")}
    return found | durations | {"key": key, "scale": str(options.scale), _PARTITIONS: partitions}


def write_settings(options: Options, partitions: int) -> None:
    """Records the options in --output, and how many partitions the topic has."""
    with whole_file(join(options.output, SETTINGS)) as sink:
        sink.write(json.dumps(_settings(options, partitions), indent=1).encode())


def check_settings(options: Options, partitions: int) -> None:
    """Checks that a stream goes on as it was.

    Raises:
      UsageError: an option, or the count of partitions, is another one than that of the results in --output.
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
    for name, found in _settings(options, partitions).items():
        if found != recorded.get(name):
            what = f"topic {options.topic}, partitions" if name == _PARTITIONS else f"--{name}"
            raise UsageError(
                f"{what}: expected {recorded.get(name)}, as of the results in {options.output} that --resume is to go "
                f"on with, found {found}"
            )
