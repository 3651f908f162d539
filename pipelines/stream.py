"""Log-sum-exp per key and window of a stream: ``python -m pipelines.stream --help``."""

import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.pvalue import PCollection
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.window import Sessions

from lse_stream.arrow import finalise
from lse_stream.beam.parquet import ReadTables, WriteWindows
from lse_stream.parquet.scan import Dataset, scan
from lse_stream.scales import Scale
from lse_stream.state_column import STATE
from lse_stream.windows import check_event_time, event_times

from .command import UsageError
from .kafka import ReadTopic, WriteTopic, check_expansion_service, check_topics, parse_config
from .messages import DEAD, EVENT_TIME, FORMATS, KEY_TYPES, MESSAGES, Fields, ReadMessages, WriteLines, result_messages
from .on_beam import EMBEDDED_RUNNER, execute
from .options import Parser, check_columns
from .output import delete_results, has_results, make_output, prepare_output
from .run import guarded, staged
from .summary import counted, head, preview, read_totals
from .windows import FORMS, WINDOW, LastSessions, parse_duration, parse_window, total

PROGRAM = "stream"

DESCRIPTION = """\
Totals a stream by key and window of event time: ln(sum(exp(value))), with the
count of terms and their max.

The last accumulating pane of a window has the same bits as a batch job over the
window's rows, whatever their order, the bundles and the runner.
"""

EXAMPLES = """\
examples:
  # the shipped storms, replayed: no server needed
  PROGRAM --source replay \\
      --input pipelines/samples/storm_fixes.parquet --key name \\
      --value category --event_time time --window fixed:4w --output out/months

  # a Kafka topic of JSON messages to another one, on a Flink cluster
  PROGRAM --source kafka --bootstrap_servers broker:9092 \\
      --topic levels --key host --value loglik --event_time time \\
      --window sliding:1h/10m --allowed_lateness 10m --early_firing 1m \\
      --output_topic totals --dead_letter_topic rejected \\
      --runner=FlinkRunner --flink_master=jobmanager:8081 \\
      --environment_type=LOOPBACK

  # sessions of each visitor, with states, to files, a set per day
  PROGRAM --source replay --input visits/ \\
      --key visitor --value score --event_time time \\
      --window session:30m --state --output out/visits
"""

SOURCES = ("replay", "kafka")
PANES = ("accumulating", "discarding")
# Seconds, for a stream without an end.
PARTIAL_PANES = 10
RESULTS = ("logsumexp", "count", "max")

# What streams on Flink need and do not have by default: with its own limits a small stream waits for seconds, and
# nothing is saved from a crash.
FLINK_DEFAULTS = {"max_bundle_time_mills": 200, "checkpointing_interval": 10_000}


def build(pipeline: beam.Pipeline, options: Namespace, dataset: Dataset | None, directory: str | None) -> None:
    """Adds the graph to a pipeline.

    Args:
      options: as ``parse`` gives them; the directory of dead letters exists.
      dataset: of the source "replay"; None for Kafka.
      directory: where files of results go, which exists; None where none are wanted.
    """
    if dataset is not None:
        check = partial(_check_event_times, options.event_time)
        tables: PCollection[pa.Table] = pipeline | "ReadTables" >> ReadTables(dataset, check)
    else:
        tables = _read_kafka(pipeline, options)
    shards = total(
        tables,
        options.key,
        options.value,
        options.event_time if dataset is not None else EVENT_TIME,
        options.windowfn,
        scale=options.scale,
        num_shards=options.num_shards,
        partial_panes=options.partial_panes,
        early_firing=options.early_firing,
        allowed_lateness=options.allowed_lateness,
        discarding=options.discarding,
    )
    if options.output_topic:
        to_messages = beam.ParDo(_ToMessages(options.key, keep_state=options.state))
        messages = shards | "ToMessages" >> to_messages.with_output_types(tuple[bytes, bytes])
        messages | "WriteTopic" >> WriteTopic(
            options.config, options.output_topic, expansion_service=options.expansion_service
        )
    if directory is not None:
        if isinstance(options.windowfn, Sessions):
            shards = shards | "LastSessions" >> LastSessions(
                options.key, allowed_lateness=options.allowed_lateness, discarding=options.discarding
            )
        finish = partial(finalise, keep_state=options.state)
        results = shards | "Finalise" >> beam.MapTuple(lambda shard, table: (shard, finish(table)))
        results | "WriteWindows" >> WriteWindows(directory, options.num_shards, each_pane=options.discarding)


def _read_kafka(pipeline: beam.Pipeline, options: Namespace) -> PCollection[pa.Table]:
    """Tables of the topic's rows; what is no such message goes where dead letters go."""
    read = ReadMessages(
        Fields(options.keys, options.value, options.event_time), options.format, options.max_message_bytes
    )
    outputs = (
        pipeline
        | "ReadTopic"
        >> ReadTopic(
            options.config,
            options.topic,
            max_records=options.max_records,
            expansion_service=options.expansion_service,
        )
        | "ReadMessages" >> beam.ParDo(read).with_outputs(DEAD, main="tables")
    )
    letters = outputs[DEAD]
    letters.element_type = bytes
    if options.dead_letter_topic:
        (
            letters
            | "Keyless" >> beam.Map(lambda line: (b"", line)).with_output_types(tuple[bytes, bytes])
            | "DeadLetterTopic"
            >> WriteTopic(options.config, options.dead_letter_topic, expansion_service=options.expansion_service)
        )
    if options.dead_letters:
        letters | "DeadLetters" >> beam.ParDo(WriteLines(options.dead_letters))
    tables: PCollection[pa.Table] = outputs["tables"]
    tables.element_type = pa.Table
    return tables


class _ToMessages(beam.DoFn):
    """(shard, table of states) of a pane to the messages of its rows."""

    def __init__(self, keys: list[str], *, keep_state: bool) -> None:
        self._keys = keys
        self._keep_state = keep_state

    def process(
        self, element: tuple[int, pa.Table], pane: Any = beam.DoFn.PaneInfoParam
    ) -> Iterator[tuple[bytes, bytes]]:
        _, table = element
        results = finalise(table, keep_state=self._keep_state)
        columns = [*RESULTS, STATE] if self._keep_state else RESULTS
        yield from result_messages(results, self._keys, columns, pane)


def _check_event_times(name: str, table: pa.Table) -> pa.Table:
    """The table as it is; faults are found here, where its file is known."""
    event_times(table.column(name), name)
    return table


# --- the command line -------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    words = ("value", "num_shards", "state", "overwrite", "quiet", "traceback")
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words, "--source SOURCE --window SPEC")
    add = parser.add_argument
    add("--source", required=True, choices=SOURCES, help="where rows come from: Parquet files, or a Kafka topic")
    add("--input", nargs="+", action="extend", default=[], metavar="PATH", help="replay: Parquet files or directories")
    add("--bootstrap_servers", metavar="HOST:PORT", help="kafka: the brokers, separated by commas")
    add("--topic", help="kafka: where messages come from")
    add(
        "--format",
        choices=FORMATS,
        default="json",
        help="kafka: a row as a JSON object (default), or an Arrow IPC stream",
    )
    add(
        "--max_records",
        type=int,
        metavar="N",
        help="kafka: read N messages and end; the embedded runner needs it, as it only runs what ends",
    )
    add(
        "--kafka_config",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="kafka: a setting of the clients, such as security.protocol=SSL; repeat it for more",
    )
    add(
        "--expansion_service",
        metavar="HOST:PORT",
        help="kafka: of Beam's Java expansion service; without it Beam downloads and starts its own",
    )
    add(
        "--max_message_bytes",
        type=int,
        default=1 << 24,
        metavar="N",
        help="kafka: a longer message is a dead letter (default 16777216)",
    )
    add("--dead_letters", metavar="DIR", help="kafka: files for messages that are no rows, with the reason")
    add("--dead_letter_topic", metavar="TOPIC", help="kafka: a topic for them")
    add(
        "--key",
        action="append",
        default=[],
        metavar="COLUMN[:TYPE]",
        help=f"key column or field; repeat it for a compound key. In messages it has a TYPE of {', '.join(KEY_TYPES)} "
        "(default string); in files that of the file",
    )
    add(
        "--event_time",
        metavar="COLUMN",
        help="column or field of event times: timestamps, in JSON as ISO 8601 or in milliseconds since 1970; "
        "kafka: without it the time of the record",
    )
    add("--window", required=True, metavar="SPEC", help=f"{FORMS}; UTC")
    add(
        "--allowed_lateness",
        default="0s",
        metavar="DURATION",
        help="how far behind the watermark rows still count, in a further pane (default 0s); later ones are dropped",
    )
    add("--early_firing", metavar="DURATION", help="panes ahead of a window's end, so often in processing time")
    add(
        "--panes",
        choices=PANES,
        default="accumulating",
        help="a pane holds all rows of its window so far (default), or those since the last pane",
    )
    add(
        "--partial_panes",
        metavar="DURATION",
        help="rows within so long, in processing time, are one state ahead of the window's own (kafka: default 10s)",
    )
    add("--scale", default="natural", metavar="SCALE", help='of the values: natural (default), decibel, "base 4" ...')
    add(
        "--output",
        metavar="DIR",
        help="directory for Parquet files, a set for each window; with an end (replay, --max_records) it appears when "
        "all are whole, otherwise each file does",
    )
    add("--output_topic", metavar="TOPIC", help="kafka: topic for the results of every pane, as JSON")
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    """The options, with durations in seconds, keys with their types, and what else ``build`` needs.

    Raises:
      UsageError: an option that is unknown, incomplete, out of range, or not for this source.
    """
    options = _parser().parse(argv)
    kafka = options.source == "kafka"
    options.bounded = not kafka or options.max_records is not None
    runner = str(options.beam.view_as(StandardOptions).runner)
    if not options.bounded and runner.endswith(EMBEDDED_RUNNER):
        raise UsageError("--source kafka: expected --max_records, or a runner of streams such as --runner=FlinkRunner")
    if not options.bounded and "flink" in runner.lower():
        named = {argument.split("=")[0] for argument in argv}
        defaults = [f"--{name}={value}" for name, value in FLINK_DEFAULTS.items() if f"--{name}" not in named]
        options.beam = _parser().parse([*argv, *defaults]).beam
    options.beam.view_as(StandardOptions).streaming |= not options.bounded
    _check_together(options, kafka=kafka)
    options.discarding = options.panes == "discarding"
    options.windowfn = parse_window(options.window)
    options.allowed_lateness = parse_duration("allowed_lateness", options.allowed_lateness)
    for option in ("early_firing", "partial_panes"):
        if (text := getattr(options, option)) is not None:
            seconds = parse_duration(option, text)
            if seconds < 1 or seconds % 1:
                raise UsageError(
                    f"--{option} {text}: expected whole seconds, 1 or more, which is all Beam's triggers know"
                )
            setattr(options, option, int(seconds))
            if runner.endswith(EMBEDDED_RUNNER):
                raise UsageError(
                    f"--{option} {text}: expected a runner of streams such as --runner=FlinkRunner; "
                    "the embedded one fires every window once, at the end"
                )
    if options.partial_panes is None and not options.bounded:
        options.partial_panes = PARTIAL_PANES
    if isinstance(options.windowfn, Sessions) and options.num_shards > 1:
        raise UsageError(f"--num_shards {options.num_shards}: expected 1 with sessions, found more")
    try:
        options.scale = Scale.of(options.scale)
    except ValueError as error:
        raise UsageError(f"--scale {options.scale}: {error}") from None
    if kafka:
        options.keys = dict(_typed_key(text) for text in options.key)
        if len(options.keys) < len(options.key):
            raise UsageError(f"--key: expected fields named once, found {', '.join(options.key)}")
        options.key = list(options.keys)
        if options.value == EVENT_TIME:
            raise UsageError(f"--value {options.value}: expected another name, found that of the event times")
    given = {"value": options.value, "event_time": options.event_time}
    check_columns({"key": options.key}, given, [*WINDOW, *RESULTS, STATE, EVENT_TIME])
    servers = {"bootstrap.servers": options.bootstrap_servers}
    options.config = parse_config("kafka_config", options.kafka_config) | servers
    return options


def _check_together(options: Namespace, *, kafka: bool) -> None:
    """Raises UsageError for what is missing for the source, or not for it."""
    topics = options.output_topic or options.dead_letter_topic
    for option, needed, refused in (
        ("input", not kafka, kafka),
        ("event_time", not kafka, False),
        ("topic", kafka, not kafka),
        ("bootstrap_servers", kafka or topics, False),
        ("dead_letters", kafka and not options.dead_letter_topic, not kafka),
        ("dead_letter_topic", False, not kafka),
        ("max_records", False, not kafka),
        ("output", not options.output_topic, False),
    ):
        found = getattr(options, option)
        if needed and not found:
            also = {"output": " or --output_topic", "dead_letters": " or --dead_letter_topic"}.get(option, "")
            raise UsageError(f"--{option}: expected a value{also} with --source {options.source}, found none")
        if refused and found:
            raise UsageError(f"--{option}: expected none with --source {options.source}, found {found}")
    for option in ("output_topic", "dead_letter_topic"):
        if kafka and getattr(options, option) == options.topic:
            raise UsageError(f"--{option} {options.topic}: expected another topic than --topic, found the same")
    for option in ("max_records", "max_message_bytes"):
        number = getattr(options, option)
        if number is not None and number < 1:
            raise UsageError(f"--{option}: expected 1 or more, found {number}")
    if options.expansion_service is None and (kafka or topics) and shutil.which("java") is None:
        raise UsageError("--source kafka: expected Java, which Beam's KafkaIO needs, found none on PATH")


def _typed_key(text: str) -> tuple[str, pa.DataType]:
    name, colon, type_name = text.rpartition(":")
    if not colon:
        return text, KEY_TYPES["string"]
    if not name or type_name not in KEY_TYPES:
        raise UsageError(
            f"--key {text}: expected COLUMN:TYPE with a type of {', '.join(KEY_TYPES)}, found {type_name!r}"
        )
    return name, KEY_TYPES[type_name]


def _event_time_type(data_type: pa.DataType) -> str | None:
    try:
        check_event_time(data_type, EVENT_TIME)
    except TypeError:
        return "timestamps or dates"
    return None


def _run(argv: Sequence[str]) -> None:
    options = parse(argv)
    dataset = None
    if options.source == "replay":
        dataset = scan(options.input, options.key, [options.value], {options.event_time: _event_time_type})
    if options.bootstrap_servers:
        check_expansion_service(options.expansion_service)
        topics = {name: getattr(options, name) for name in ("topic", "output_topic", "dead_letter_topic")}
        check_topics(options.config, {name: topic for name, topic in topics.items() if topic})
    if options.output:
        prepare_output(options.output, options.input, overwrite=options.overwrite)
    if options.dead_letters:
        make_output("dead_letters", options.dead_letters)
    start = time.monotonic()
    rows = dataset.num_rows if dataset else options.max_records
    with _place(options) as directory:
        result = execute(options, lambda pipeline: build(pipeline, options, dataset, directory), rows)
    if not options.quiet:
        print(summary(options, dataset, result, time.monotonic() - start), flush=True)


@contextmanager
def _place(options: Namespace) -> Iterator[str | None]:
    """Where files of results go. Those of a stream without an end appear one by one, others all at once."""
    if options.output is None:
        yield None
    elif options.bounded:
        with staged(options) as directory:
            yield directory
    else:
        make_output("output", options.output)
        delete_results(options.output)
        yield options.output


def summary(options: Namespace, dataset: Dataset | None, result: PipelineResult, seconds: float) -> str:
    """What was done, and the first rows."""
    if dataset is not None:
        lines = [f"{counted(dataset.num_rows, 'row')} of {counted(dataset.num_files, 'file')}, {seconds:.1f} s"]
    else:
        found = {
            name: sum(c.attempted for c in result.metrics().query(MetricsFilter().with_name(name))["counters"])
            for name in (MESSAGES, DEAD)
        }
        lines = [
            f"{counted(found[MESSAGES], 'message')} of {options.topic}, {found[DEAD]:,} of them bad, {seconds:.1f} s"
        ]
    if options.output_topic:
        lines.append(f"results in the topic {options.output_topic}")
    if options.output and not has_results(options.output):
        lines.append(f"no results in {options.output}")
    elif options.output:
        totals = read_totals(options.output)
        lines.append(f"{counted(totals.rows, 'result')} in {counted(totals.files, 'file')} in {options.output}")
        lines += preview(head(options.output, [*options.key, *WINDOW, *RESULTS]), totals.rows)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault in mid-run."""
    return guarded(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
