"""Log-sum-exp per key and window of a stream: ``python -m pipelines.stream --help``."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from lse_stream.columns import plain_strings
from lse_stream.event_times import WINDOW, check_event_time, check_times
from lse_stream.messages import EVENT_TIME, KEY_TYPES, MAX_MESSAGE_BYTES, READERS, Fields
from lse_stream.parquet.scan import Dataset, scan
from lse_stream.scales import Scale
from lse_stream.state_column import STATE
from lse_stream.states.aggregations import LOGSUMEXP

from .command import UsageError
from .endless import check_partitions, check_resume, check_settings, taking_place, watch
from .kafka_options import Broker, check_expansion_service, field_types, fields_of, parse_config
from .key_options import KeyOptions
from .options import COARSER, Options, Parser, check_columns
from .output import check_apart, has_results, make_output, prepare_output
from .provenance import write_provenance
from .run import print_line, run_main, staged
from .summary import files_of, head, pluralize, preview, read_totals
from .window_options import FORMS, parse_duration, parse_window

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
# Seconds, for a stream without an end: how long a record may take from its producer to the broker while its partition
# is idle, and Beam's watermark follows the clock.
ON_THE_WAY = 1.0
# Of options that are for no other source.
KAFKA_DEFAULTS = {"format": "json", "max_message_bytes": MAX_MESSAGE_BYTES, "max_out_of_orderness": "10s"}
RESULTS = LOGSUMEXP.columns

# What streams on Flink need and do not have by default: with its own limits a small stream waits for seconds, each
# thousand messages of a large one wait for two workers in turn, each is copied between steps, and nothing is saved from
# a crash.
# A checkpoint that is kept is what a stream goes on from.
FLINK_DEFAULTS = {
    "max_bundle_time_mills": 200,
    "max_bundle_size": 10_000,
    "faster_copy": True,
    "checkpointing_interval": 10_000,
    "externalized_checkpoints_enabled": True,
    "retain_externalized_checkpoints_on_cancellation": True,
}


def build(
    pipeline: Any,
    dataset: Dataset | None,
    directory: str | None,
    *,
    keys: Sequence[str],
    value: str,
    event_time: str,
    windowfn: Any,
    topic: Any = None,
    output_topic: Any = None,
    state: bool = False,
    discarding: bool = False,
    allowed_lateness: float = 0.0,
    max_out_of_orderness: float = 0.0,
    num_shards: int = 1,
    **windowing: Any,
) -> None:
    """Adds the graph to a pipeline.

    Args:
      dataset: what is replayed; None where rows come from a topic.
      directory: where files of results go, which exists; None where none are wanted.
      topic: ``lse_stream.beam.kafka.ReadRows``, where rows come from a topic.
      output_topic: ``lse_stream.beam.kafka.WriteTopic``, where results go to one.
      state: whether results have the column "state".
      keys, value, event_time, windowfn, discarding, num_shards, allowed_lateness, max_out_of_orderness, windowing:
        as of ``lse_stream.beam.window_states.WindowStates``.
    """
    import apache_beam as beam  # with the modules below, which import it too: only what builds the graph needs it
    from apache_beam.transforms.window import Sessions

    from lse_stream.beam.kafka import ToMessages
    from lse_stream.beam.parquet_io import ReadTables, WriteWindows
    from lse_stream.beam.sessions import LastSessions
    from lse_stream.beam.transforms import Finalize
    from lse_stream.beam.window_states import WindowStates
    from lse_stream.beam.windows import reach_of
    from lse_stream.parquet.panes import SUPERSEDED

    if dataset is not None:
        convert = partial(check_times, event_time, reach_of(windowfn))
        tables = pipeline | "ReadTables" >> ReadTables(dataset, convert)
    else:
        tables = pipeline | "ReadRows" >> topic
    common: dict[str, Any] = {
        "allowed_lateness": allowed_lateness,
        "max_out_of_orderness": max_out_of_orderness,
        "discarding": discarding,
    }
    shards = tables | "Windows" >> WindowStates(
        keys, value, event_time, windowfn, num_shards=num_shards, **common, **windowing
    )
    if output_topic is not None:
        to_messages = beam.ParDo(ToMessages(list(keys), keep_state=state)).with_output_types(tuple[bytes, bytes])
        shards | "ToMessages" >> to_messages | "WriteTopic" >> output_topic
    if directory is not None:
        if isinstance(windowfn, Sessions):
            shards = shards | "LastSessions" >> LastSessions(keys, **common)
        plain = beam.MapTuple(lambda shard, table: (shard, plain_strings(table)))
        results = shards | "Finalize" >> Finalize(keep_state=state)
        results = results | "Strings" >> plain.with_output_types(tuple[int, pa.Table])
        # Of a session that late rows lengthen beyond its day, the earlier panes stay where they are.
        moves = isinstance(windowfn, Sessions) and allowed_lateness > 0 and not discarding
        results | "WriteWindows" >> WriteWindows(
            directory,
            num_shards,
            each_pane=discarding,
            max_out_of_orderness=max_out_of_orderness,
            metadata={SUPERSEDED: b"yes"} if moves else {},
        )


# --- the command line -------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    words = ("where", *COARSER, "value", "state", "overwrite", "quiet", "traceback")
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, words, "--source SOURCE --window SPEC")
    add = parser.add_argument
    add("--source", required=True, choices=SOURCES, help="where rows come from: Parquet files, or a Kafka topic")
    add("--input", nargs="+", action="extend", default=[], metavar="PATH", help="replay: Parquet files or directories")
    add("--bootstrap_servers", metavar="HOST:PORT", help="kafka: the brokers, separated by commas")
    add("--topic", help="kafka: where messages come from")
    add(
        "--format",
        choices=READERS,
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
        metavar="N",
        help=f"kafka: a longer message is a dead letter (default {MAX_MESSAGE_BYTES})",
    )
    add(
        "--dead_letters",
        metavar="DIR",
        help="kafka: files for messages that are no rows, and for those that come too late, with the reason; this or "
        "--dead_letter_topic is required",
    )
    add("--dead_letter_topic", metavar="TOPIC", help="kafka: a topic for them")
    add(
        "--key",
        action="append",
        default=[],
        metavar="COLUMN[:TYPE]",
        help=f"key column or field; repeat it for a compound key. In messages it has a TYPE of {', '.join(KEY_TYPES)} "
        "(default string), that of the field it is made from; in files that of the file",
    )
    add(
        "--field",
        action="append",
        default=[],
        metavar="NAME[:TYPE]",
        help="kafka, JSON: a field that --where needs and that is no key, value or event time, with its TYPE (default "
        "string); repeat it for more. A field that a message does not have is null to --where",
    )
    add(
        "--event_time",
        metavar="COLUMN",
        help="column or field of event times: timestamps, in JSON as ISO 8601 or in milliseconds since 1970; "
        "kafka: without it the time of the record",
    )
    add("--window", required=True, metavar="SPEC", help=f"{FORMS}; UTC")
    add(
        "--max_out_of_orderness",
        metavar="DURATION",
        help="kafka: how much older than its record a row may be and never be late (default 10s): windows close that "
        "much later",
    )
    add(
        "--allowed_lateness",
        default="1h",
        metavar="DURATION",
        help="how long a closed window takes rows that are late, each in a further pane (default 1h, as long as a "
        "producer may be cut off); later ones go where dead letters go",
    )
    add("--early_firing", metavar="DURATION", help="panes ahead of a window's end, so often in processing time")
    add(
        "--panes",
        choices=PANES,
        default="accumulating",
        help="a pane holds all rows of its window so far (default), or those since the last pane",
    )
    add(
        "--num_shards",
        type=int,
        metavar="N",
        help="files per window, and parts of the work, to spread the keys over (default 1; of a stream without an end "
        "on Flink its --parallelism)",
    )
    add("--scale", default="natural", metavar="SCALE", help='of the values: natural (default), decibel, "base 4" ...')
    add(
        "--resume",
        metavar="PATH",
        help="kafka on Flink: go on from a savepoint, or from a checkpoint that was kept, with the results in --output",
    )
    add(
        "--output",
        metavar="DIR",
        help="directory for Parquet files, a set for each window; with an end (replay, --max_records) it appears when "
        "all are whole, otherwise each file does",
    )
    add("--output_topic", metavar="TOPIC", help="kafka: topic for the results of every pane, as JSON")
    return parser


def parse(argv: Sequence[str]) -> Options:
    """The options, with durations in seconds, keys with their types, and what else ``build`` needs.

    Raises:
      UsageError: an option that is unknown, incomplete, out of range, or not for this source.
    """
    options = vars(_parser().parse(argv, _beam_defaults)).copy()
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    from .on_beam import is_embedded  # what needs Beam alone imports it

    kafka, bounded, embedded = options["source"] == "kafka", _is_bounded(options), is_embedded(options["beam"])
    if options["resume"] is not None:
        check_resume(options, bounded=bounded)
    if not bounded and embedded:
        raise UsageError("--source kafka: expected --max_records, or a runner of streams such as --runner=FlinkRunner")
    _check_together(options, kafka=kafka)
    options |= {name: default for name, default in KAFKA_DEFAULTS.items() if options[name] is None}
    if options["early_firing"] is not None:
        options["early_firing"] = _whole_seconds("early_firing", options["early_firing"], embedded=embedded)
    if options["num_shards"] is None:
        options["num_shards"] = 1 if bounded else max(1, options["beam"].view_as(FlinkRunnerOptions).parallelism)
    windowfn = parse_window(options["window"])
    try:
        scale = Scale(options["scale"])
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    types = field_types(options, "key") if kafka else {}
    if kafka and options["value"] == EVENT_TIME:
        raise UsageError(f"--value {options['value']}: expected another name, found that of the event times")
    keys = list(types) if kafka else options["key"]
    given = {"value": options["value"], "event_time": options["event_time"]}
    check_columns({"key": keys}, given, [*WINDOW, *RESULTS, STATE, EVENT_TIME])
    found = {
        "bounded": bounded,
        "key": keys,
        "key_types": types,
        "field_types": field_types(options, "field"),
        "windowfn": windowfn,
        "scale": scale,
        **{
            option: parse_duration(option, options[option], example="30m, or 0s for none")
            for option in ("allowed_lateness", "max_out_of_orderness")
        },
        "discarding": options["panes"] == "discarding",
        "config": parse_config("kafka_config", options["kafka_config"])
        | {"bootstrap.servers": options["bootstrap_servers"]},
    }
    return Options(**options | found)


def _is_bounded(options: Mapping[str, Any]) -> bool:
    return options["source"] != "kafka" or options["max_records"] is not None


def _beam_defaults(options: Mapping[str, Any], runner: str) -> Mapping[str, object]:
    from .jobs import is_flink  # what needs Beam alone imports it

    if _is_bounded(options):
        return {}
    if not is_flink(runner):
        return {"streaming": True}
    resume = {"savepoint_path": options["resume"]} if options["resume"] else {}
    return {"streaming": True, **FLINK_DEFAULTS, **resume}


def _whole_seconds(option: str, text: str, *, embedded: bool) -> int:
    seconds = parse_duration(option, text)
    if seconds < 1 or seconds % 1:
        raise UsageError(f"--{option} {text}: expected whole seconds, 1 or more, which is all Beam's triggers know")
    if embedded:
        raise UsageError(
            f"--{option} {text}: expected a runner of streams such as --runner=FlinkRunner; "
            "the embedded one fires every window once, at the end"
        )
    return int(seconds)


def _check_together(options: Mapping[str, Any], *, kafka: bool) -> None:
    """Raises UsageError for what is missing for the source, or not for it."""
    topics = options["output_topic"] or options["dead_letter_topic"]
    for option, needed, refused in (
        ("input", not kafka, kafka),
        ("event_time", not kafka, False),
        ("field", False, not kafka or options["format"] == "arrow"),
        ("topic", kafka, not kafka),
        ("bootstrap_servers", kafka or topics, False),
        ("dead_letters", kafka and not options["dead_letter_topic"], not kafka),
        ("dead_letter_topic", False, not kafka),
        ("max_records", False, not kafka),
        *((option, False, not kafka) for option in KAFKA_DEFAULTS),
        ("output", not options["output_topic"], False),
    ):
        found = options[option]
        if needed and not found:
            also = {"output": " or --output_topic", "dead_letters": " or --dead_letter_topic"}.get(option, "")
            raise UsageError(f"--{option}: expected a value{also} with --source {options['source']}, found none")
        if refused and found:
            which = "--format arrow" if kafka and option == "field" else f"--source {options['source']}"
            raise UsageError(f"--{option}: expected none with {which}, found {found}")
    for option in ("output_topic", "dead_letter_topic"):
        if kafka and options[option] == options["topic"]:
            raise UsageError(f"--{option} {options['topic']}: expected another topic than --topic, found the same")
    if options["output_topic"] and options["output_topic"] == options["dead_letter_topic"]:
        raise UsageError(
            f"--dead_letter_topic {options['output_topic']}: expected another topic than --output_topic, found the same"
        )
    for option in ("max_records", "max_message_bytes"):
        number = options[option]
        if number is not None and number < 1:
            raise UsageError(f"--{option}: expected 1 or more, found {number}")
    if options["expansion_service"] is None and (kafka or topics) and shutil.which("java") is None:
        raise UsageError("--source kafka: expected Java, which Beam's KafkaIO needs, found none on PATH")


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
        others = {options.event_time: _event_time_type}
        key_options = KeyOptions(options)
        dataset = scan(options.input, key_options.sources, [options.value], others, where=options.where)
        dataset = key_options.coarsen(dataset)
    fields = fields_of(options) if options.source == "kafka" else None
    if options.output:
        if options.dead_letters:
            check_apart(options.output, [options.dead_letters], "--dead_letters")
        prepare_output(options.output, options.input, overwrite=options.overwrite or options.resume is not None)
        if options.resume is not None:
            check_settings(options)
    # Last of what is checked, as a broker that does not answer is waited for.
    broker = Broker(options.config) if options.bootstrap_servers else None
    partitions = 0 if broker is None else _check_kafka(options, broker)
    if options.dead_letters:
        make_output("dead_letters", options.dead_letters)
    from .on_beam import execute  # what needs Beam alone imports it

    start = time.monotonic()
    rows = dataset.num_rows if dataset else options.max_records
    with _place(options, partitions) as (directory, begun):
        # The transforms are made inside, where their faults become one line.
        graph = partial(build, dataset=dataset, directory=directory)
        follow = None if options.bounded or broker is None else partial(watch, options, broker, partitions, begun)
        result = execute(options, lambda pipeline: graph(pipeline, **keywords_of(options, fields)), rows, follow)
        if directory is not None and rows is not None:
            write_provenance(directory, options, dataset.total_rows if dataset else rows)
    if not options.quiet:
        print(summary(options, dataset, result, time.monotonic() - start), flush=True)


def _check_kafka(options: Options, broker: Broker) -> int:
    """Checks that topics are there, and records; gives how many partitions the topic of a stream without end has."""
    check_expansion_service(options.expansion_service)
    topics = {name: getattr(options, name) for name in ("topic", "output_topic", "dead_letter_topic")}
    broker.check_topics({name: topic for name, topic in topics.items() if topic})
    from_first = "auto.offset.reset" not in options.config and options.resume is None
    if options.bounded:
        if options.topic and from_first and not options.quiet:
            found, wanted = sum(broker.records(options.topic).values()), options.max_records
            if found < wanted:
                text = f"{PROGRAM}: {options.topic} has {found:,} records of --max_records {wanted:,}; waiting for more"
                print_line(text, sys.stderr)
        return 0
    partitions = broker.partitions(options.topic)
    if options.output and options.resume is not None:
        check_partitions(options, partitions)
    if from_first:
        broker.check_records(options.topic)
    return partitions


# The options that go to ``WindowStates`` by their names.
_WINDOWING = ("windowfn", "scale", "num_shards", "early_firing", "discarding")


def keywords_of(options: Options, fields: Fields | None) -> dict[str, Any]:
    """The keyword arguments for ``build``; ``fields`` are those of messages, where there are any."""
    from lse_stream.beam.kafka import KEPT_LONGER  # what needs Beam alone imports it

    return {
        "keys": options.key,
        "value": options.value,
        "event_time": options.event_time if options.source == "replay" else EVENT_TIME,
        "state": options.state,
        # Of a source with an end nothing is late.
        "allowed_lateness": 0.0 if options.bounded else options.allowed_lateness + KEPT_LONGER,
        "max_out_of_orderness": 0.0 if options.bounded else options.max_out_of_orderness + ON_THE_WAY,
        **_topics(options, fields),
        **{name: getattr(options, name) for name in _WINDOWING},
    }


def _topics(options: Options, fields: Fields | None) -> dict[str, Any]:
    """Where messages come from and go to."""
    if not options.bootstrap_servers:
        return {}
    from lse_stream.beam.kafka import Cluster, Lateness, ReadRows, WriteTopic

    cluster = Cluster(options.config, options.expansion_service)
    topics: dict[str, Any] = {}
    if fields is not None:
        topics["topic"] = ReadRows(
            cluster,
            options.topic,
            fields,
            message_format=options.format,
            max_message_bytes=options.max_message_bytes,
            lateness=None
            if options.bounded
            else Lateness(options.windowfn, options.max_out_of_orderness + ON_THE_WAY, options.allowed_lateness),
            directories=[place for place in (options.output, options.dead_letters) if place and not options.bounded],
            log_append_time=Broker(options.config).is_log_append_time(options.topic),
            max_records=options.max_records,
            dead_letters=options.dead_letters,
            dead_letter_topic=options.dead_letter_topic,
        )
    if options.output_topic:
        topics["output_topic"] = WriteTopic(cluster, options.output_topic)
    return topics


@contextmanager
def _place(options: Options, partitions: int) -> Iterator[tuple[str | None, Callable[[], None]]]:
    """Where files of results go, and what is to be called when the job has begun.

    Those of a stream without an end appear one by one, others all at once.
    """
    if options.output is None:
        yield None, lambda: None
    elif options.bounded:
        with staged(options) as directory:
            yield directory, lambda: None
    elif options.resume is not None:
        make_output("output", options.output)
        yield options.output, lambda: None
    else:
        with taking_place(options, partitions) as begun:
            yield options.output, begun


def summary(options: Options, dataset: Dataset | None, result: Any, seconds: float) -> str:
    """What was done, and the first rows."""
    if dataset is not None:
        lines = [f"{pluralize(dataset.total_rows, 'row')} of {files_of(dataset)}, {seconds:.1f} s"]
    else:
        from lse_stream.beam.kafka import DEAD, MESSAGES, ROWS

        from .on_beam import counter_value

        messages, dead = counter_value(result, MESSAGES), counter_value(result, DEAD)
        lines = [f"{pluralize(messages, 'message')} of {options.topic}, {dead:,} of them bad, {seconds:.1f} s"]
        if options.where is not None:
            lines.append(f"{pluralize(counter_value(result, ROWS), 'row')} chosen by --where")
    if options.output_topic:
        lines.append(f"results in the topic {options.output_topic}")
    if options.output and not has_results(options.output):
        lines.append(f"no results in {options.output}")
    elif options.output:
        totals = read_totals(options.output)
        lines.append(f"{pluralize(totals.rows, 'result')} in {pluralize(totals.files, 'file')} in {options.output}")
        lines += preview(head(options.output, [*options.key, *WINDOW, *RESULTS]), totals.rows)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for what was found before any work, 1 for a fault during the run."""
    return run_main(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
