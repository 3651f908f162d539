"""Streams without an end: how they take the place of earlier results, go on with them, and are watched."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from lse_stream.errors import InputError, one_line
from lse_stream.files import join, open_file, whole_file

from .command import UsageError
from .interrupts import undisturbed
from .kafka_options import Broker
from .options import COARSER, Options
from .output import SETTINGS, has_results, make_output, put_back, replaced, set_aside

# What its state, its files and its windows depend on.
_KEPT = (
    *("topic", "format", "value", "event_time", "window", "panes", "num_shards", "state", *COARSER),
    *("max_out_of_orderness", "allowed_lateness", "early_firing"),
)

# Of the topic, of which none can be added.
_PARTITIONS = "partitions"


def _settings(options: Options) -> dict[str, Any]:
    found = {name: getattr(options, name) for name in _KEPT}
    types = {"key": options.key_types, "field": options.field_types}
    fields = {name: [f"{field}:{data_type}" for field, data_type in found.items()] for name, found in types.items()}
    durations = {name: f"{found[name]:g}s" for name in ("max_out_of_orderness", "allowed_lateness")}
    where = options.where.text if options.where else None
    return found | durations | fields | {"scale": options.scale.name, "where": where}


def _write_settings(options: Options, partitions: int) -> None:
    """Records the options in --output, and how many partitions the topic has."""
    with whole_file(join(options.output, SETTINGS)) as sink:
        sink.write(json.dumps(_settings(options) | {_PARTITIONS: partitions}, indent=1).encode())


def check_settings(options: Options) -> None:
    """Checks that a stream goes on with the options that it had.

    Raises:
      UsageError: one is not that of the results in --output.
      InputError: there is no record of them.
    """
    recorded = _recorded(options)
    for name, found in _settings(options).items():
        _check_same(options, f"--{name}", recorded.get(name), found)


def check_partitions(options: Options, partitions: int) -> None:
    """As ``check_settings``, of how many partitions the topic has, which only a broker can say."""
    _check_same(options, f"topic {options.topic}, partitions", _recorded(options).get(_PARTITIONS), partitions)


def _recorded(options: Options) -> dict[str, Any]:
    path = join(options.output, SETTINGS)
    try:
        with open_file(path) as source:
            recorded: dict[str, Any] = json.loads(source.read())
    except (OSError, ValueError) as error:
        raise InputError(
            f"--resume: expected results of a stream in --output {options.output}, with {SETTINGS}, found "
            f"{one_line(error)}"
        ) from None
    return recorded


def _check_same(options: Options, what: str, recorded: object, found: object) -> None:
    if found != recorded:
        raise UsageError(
            f"{what}: expected {recorded}, as of the results in {options.output} that --resume is to go on with, "
            f"found {found}"
        )


def check_resume(options: Mapping[str, Any], *, bounded: bool) -> None:
    """Raises UsageError where there is no going on from a savepoint."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    from .jobs import INSIDE, is_flink  # what needs Beam alone imports it
    from .on_beam import job_endpoint, runner_name

    beam, found = options["beam"], None
    runner = runner_name(beam)
    # What is not here may be where the cluster is.
    here = re.sub("^file:(//)?", "", options["resume"])
    if bounded:
        found = "expected a stream without an end (--source kafka, no --max_records), found one with an end"
    elif not is_flink(runner):
        found = f"expected --runner=FlinkRunner, which can go on from a savepoint, found {runner}"
    elif not job_endpoint(beam) and beam.view_as(FlinkRunnerOptions).flink_master in INSIDE:
        found = "expected a cluster, by --flink_master or --job_endpoint, found a Flink that ends with this run"
    elif options["overwrite"]:
        found = "expected results to go on with, found --overwrite"
    elif os.path.isdir(here) and not os.path.exists(os.path.join(here, "_metadata")):
        found = "expected the directory of a savepoint or a checkpoint, with _metadata, found one without"
    if found is not None:
        raise UsageError(f"--resume {options['resume']}: {found}")


@contextmanager
def taking_place(options: Options, partitions: int) -> Iterator[Callable[[], None]]:
    """Makes --output for a new stream, and gives what is to be called when its job has begun.

    Earlier results are aside until then. They are put back where the block fails before, unless there are new ones or
    the job may go on: then the error says where they are.
    """
    aside, has_begun = set_aside(options.output), threading.Event()

    def begun() -> None:
        has_begun.set()
        replaced(aside)

    try:
        make_output("output", options.output)
        _write_settings(options, partitions)
        yield begun
        if not has_begun.is_set():
            begun()
    except BaseException as error:
        if not has_begun.is_set():
            with undisturbed():
                is_back = getattr(error, "ended", True) and put_back(aside, options.output)
            if aside is not None and not is_back:
                error.add_note(f"what was in {options.output} before stays in {aside}")
        raise


def watch(options: Options, broker: Broker, partitions: int, begun: Callable[[], None], job: Any) -> Any:
    """What follows a stream's job: it ends when there are partitions that it does not read."""
    from .jobs import Watch  # what needs Beam alone imports it

    def why_end() -> str | None:
        try:
            found = broker.partitions(options.topic)
        except UsageError:
            return None  # it may come back
        if found <= partitions:
            return None
        return (
            f"topic {options.topic}: expected {partitions} partitions as at the start, found {found}: Beam's KafkaIO "
            "does not read those that were added, with --resume neither: start anew, with --overwrite or another "
            "--output, to read all that there is"
        )

    return Watch(job, partial(has_results, options.output) if options.output else lambda: True, begun, why_end)
