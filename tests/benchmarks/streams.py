"""Streams from Kafka on the embedded runner and on a Flink cluster: records per second, checkpoints, latency, memory.

Needs the engines, by ``python tests/engines/fetch.py``, and half an hour: ``python tests/benchmarks/streams.py``.
Ours and the peers read the same topic and write the same kind of topic, in turn.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path += [str(Path(__file__).parents[n]) for n in (1, 2)]  # the tests, and what they test

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.combiners import Mean
from apache_beam.transforms.window import TimestampedValue
from cores import AVAILABLE, cores
from engines.flink import Cluster
from engines.kafka import Broker
from engines.kafka_on_flink import KafkaOnFlink, kafka_on_flink
from engines.processes import wait_for
from measure import Measurement, Result, details, machine, ratio

from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.beam import LogSumExp
from lse_stream.beam.kafka import Cluster as KafkaCluster
from lse_stream.beam.kafka import ReadTopic, WriteTopic
from lse_stream.state_table import to_ipc
from lse_stream.table_functions import group_states
from pipelines import stream
from pipelines.kafka_options import fields_of
from pipelines.on_beam import execute
from pipelines.options import Options
from pipelines.output import make_output

HOUR_MILLIS = 3_600_000
HOSTS, HOURS = 20, 8
MEAN = "Beam's Mean.PerKey"

Build = Callable[[Options, beam.Pipeline], None]


def arguments_for(place: KafkaOnFlink, topic: str, output: str, *more: str) -> list[str]:
    """Of the stream program, for a topic of rows."""
    place.kafka.create(output, f"{output}-dead")
    return [
        *(
            *place.source_options(),
            f"--topic={topic}",
            f"--output_topic={output}",
            f"--dead_letter_topic={output}-dead",
        ),
        *("--key=host", "--value=level", "--event_time=time", "--window=fixed:1h", *more),
    ]


@contextmanager
def job(place: KafkaOnFlink, build: Build, arguments: list[str]) -> Iterator[str]:
    """A stream that runs on the cluster for the block; gives the id of its job."""
    options = stream.parse([*arguments, *place.stream_options()])
    pipeline = beam.Pipeline(options=options.beam)
    build(options, pipeline)
    before = set(place.cluster.jobs())
    pipeline.run()
    running = place.cluster.wait_for_job(before)
    try:
        yield running
    finally:
        place.cluster.cancel(running)  # and wait for its end, which Beam's own cancel() does not


# --- the ways to total a topic of rows --------------------------------------------------------------------------------


def of_tables(options: Options, pipeline: beam.Pipeline) -> None:
    stream.build(pipeline, None, options.output, **stream.keywords_of(options, fields_of(options)))


def by_element(combine: beam.PTransform[Any, Any]) -> Build:
    """The pipeline that one would write by hand around a transform of Beam's."""

    def parse(message: Any) -> TimestampedValue[tuple[str, float]]:
        row = json.loads(message.value)
        return TimestampedValue((row["host"], float(row["level"])), row["time"] / 1000)

    def write(element: tuple[str, Any], window: Any = beam.DoFn.WindowParam) -> tuple[bytes, bytes]:
        key, result = element
        return key.encode(), json.dumps({"window_start": window.start.to_rfc3339(), "result": repr(result)}).encode()

    def build(options: Options, pipeline: beam.Pipeline) -> None:
        cluster = KafkaCluster(options.config, options.expansion_service)
        read = ReadTopic(cluster, options.topic, max_records=options.max_records)
        (
            pipeline
            | read
            | beam.Map(parse)
            | beam.WindowInto(options.windowfn)
            | combine
            | beam.Map(write).with_output_types(tuple[bytes, bytes])
            | WriteTopic(cluster, options.output_topic)
        )

    return build


class MaxSum(beam.CombineFn):
    """The pair that one would keep by hand: largest value, and sum of the powers below it."""

    def __init__(self) -> None:
        beam.CombineFn.__init__(self)

    def create_accumulator(self) -> tuple[float, float]:
        return float("-inf"), 0.0

    def add_input(self, accumulator: tuple[float, float], element: float) -> tuple[float, float]:
        return self.merge_accumulators([accumulator, (element, 1.0)])

    def merge_accumulators(self, accumulators: Iterable[tuple[float, float]]) -> tuple[float, float]:
        pairs = list(accumulators)
        largest = max(pair[0] for pair in pairs)
        return largest, sum(total * float(np.exp(top - largest)) for top, total in pairs if total)

    def extract_output(self, accumulator: tuple[float, float]) -> float:
        return accumulator[0] + float(np.log(accumulator[1]))


WAYS: dict[str, Build] = {
    "pipelines.stream": of_tables,
    "LogSumExp.PerKey": by_element(LogSumExp.PerKey()),
    MEAN: by_element(Mean.PerKey()),
}


def produce_rows(kafka: Broker, topic: str, n: int) -> None:
    """``n`` JSON rows, in order of time over some hours that are past, which their records carry too."""
    rng = np.random.default_rng(n)
    kafka.create(topic)
    first = int(time.time() * 1000) // HOUR_MILLIS * HOUR_MILLIS - (HOURS + 1) * HOUR_MILLIS
    times = first + np.arange(n) * HOURS * HOUR_MILLIS // n
    rows = zip(rng.integers(HOSTS, size=n).tolist(), rng.normal(0, 50, n).tolist(), times.tolist(), strict=True)
    kafka.produce(
        topic,
        (
            (json.dumps({"host": f"host-{host}", "level": level, "time": millis}).encode(), millis, i % 2)
            for i, (host, level, millis) in enumerate(rows)
        ),
    )


# --- what is measured -------------------------------------------------------------------------------------------------


def embedded(place: KafkaOnFlink, n: int, rounds: int) -> Iterator[Result]:
    """Time per record on the embedded runner: of n records less that of a tenth of them, which start alike."""
    sizes = (n // 10, n)
    for size in sizes:
        produce_rows(place.kafka, f"embedded-{size}", size)
    measurements = {name: Measurement(name, "µs per record") for name in WAYS}
    for round_ in range(rounds):
        for number, (name, build) in enumerate(WAYS.items()):
            seconds = []
            for size in sizes:
                output = f"embedded-{round_}-{number}-{size}"
                options = stream.parse(arguments_for(place, f"embedded-{size}", output, f"--max_records={size}"))
                wall, cpu = time.perf_counter(), time.process_time()
                execute(options, partial(build, options), size)
                seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
            (wall_small, cpu_small), (wall, cpu) = seconds
            measurements[name].wall.append((wall - wall_small) / (n - n // 10) * 1e6)
            measurements[name].cpu.append((cpu - cpu_small) / (n - n // 10) * 1e6)
    found = list(measurements.values())
    yield Result(f"Kafka to windows, embedded runner, {n:,} records", found, [ratio(found, 1.1, [MEAN])])


def flink(place: KafkaOnFlink, n: int, rounds: int) -> Iterator[Result]:
    """Time per record on a Flink cluster: between the results of the first window and of the last but one."""
    produce_rows(place.kafka, "flink", n)
    measurements = {name: Measurement(name, "µs per record") for name in WAYS}
    for round_ in range(rounds):
        for number, (name, build) in enumerate(WAYS.items()):
            output = f"flink-{round_}-{number}"
            with job(place, build, arguments_for(place, "flink", output)):
                seconds = _seconds_of_windows(place.kafka, output, HOSTS, HOURS)
            measurements[name].wall.append(seconds / (n * (HOURS - 2) / HOURS) * 1e6)
            measurements[name].cpu.append(float("nan"))
    found = list(measurements.values())
    yield Result(f"Kafka to windows, Flink cluster, {n:,} records", found, [ratio(found, 1.1, [MEAN])])


def _seconds_of_windows(kafka: Broker, output: str, keys: int, windows: int) -> float:
    """Waits for all results, and says how long it took from those of the first window to those of the last but one."""
    wait_for(lambda: kafka.size(output) >= keys * windows, f"all results in {output}", seconds=300)
    ends: dict[str, int] = {}
    for message in kafka.read(output):
        start = json.loads(message.value() or b"")["window_start"]
        ends[start] = max(ends.get(start, 0), message.timestamp()[1])
    first, *_, last, _ = (ends[start] for start in sorted(ends))
    return (last - first) / 1000


def throughput(place: KafkaOnFlink, rounds: int) -> None:
    """Rows per second of topics with a backlog, with checkpoints, on all cores."""
    print("\n**Kafka to windows, Flink cluster, rows per second**\n")
    print("| messages | keys | windows | disorder | rows | median | range | target |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for form, rows, keys, seconds, windows, disorder, target in (
        ("json", 2_000_000, 20, 3600, 8, 0, 1e5),
        ("arrow", 20_000_000, 20, 3600, 8, 0, 2e6),
        ("arrow", 10_000_000, 1000, 10, 60, 3, 5e5),
    ):
        topic = f"throughput-{form}-{keys}"
        _produce_backlog(place.kafka, topic, form, rows, keys, seconds * windows, disorder)
        found = []
        for round_ in range(rounds):
            output = f"{topic}-{round_}"
            arguments = [*arguments_for(place, topic, output, f"--format={form}"), f"--window=fixed:{seconds}s"]
            with job(place, of_tables, arguments):
                taken = _seconds_of_windows(place.kafka, output, keys, windows)
            found.append(rows * (windows - 2) / windows / taken)
        shown = f"{statistics.median(found):,.0f} | {min(found):,.0f} to {max(found):,.0f} | {target:,.0f}"
        print(f"| {form} | {keys} | {windows} of {seconds} s | {disorder} s | {rows:,} | {shown} |", flush=True)


def _produce_backlog(kafka: Broker, topic: str, form: str, rows: int, keys: int, seconds: int, disorder: int) -> None:
    """Messages of past times that rise, but for so many seconds; Arrow ones of 1,000 rows each."""
    rng = np.random.default_rng(rows)
    kafka.create(topic)
    batch = 1000
    hosts = pa.array([f"host-{key}" for key in range(keys)])
    first = (int(time.time()) // seconds - 2) * seconds * 1000

    def messages() -> Iterator[tuple[bytes, int, int]]:
        for start in range(0, rows, batch):
            millis = first + (start + np.arange(batch)) * (seconds * 1000) // rows
            at = np.maximum(first, millis - rng.integers(0, 1000 * disorder + 1, batch))
            table = pa.table(
                {
                    "host": hosts.take(pa.array(rng.integers(keys, size=batch))),
                    "level": rng.normal(0, 50, batch),
                    "time": pa.array(at, pa.timestamp("ms", "UTC")),
                }
            )
            for i, message in enumerate(ENCODERS[form](table)):
                yield message, int(millis[-1]), (start // batch + i) % 2

    kafka.produce(topic, messages())


def checkpoints(place: KafkaOnFlink) -> None:
    """Size of checkpoints while a window is open: ours and a (max, sum) pair's, by rows per key."""
    keys = 1000
    print("\n**Checkpoint per key, one open window, 1,000 keys**\n")
    print("| way | rows per key | bytes | bytes per key |")
    print("| --- | --- | --- | --- |")
    for name, build, form, per_keys in (
        ("pipelines.stream", of_tables, "arrow", (100, 100_000)),
        ("(max, sum) by CombinePerKey", by_element(beam.CombinePerKey(MaxSum())), "json", (100, 1000)),
    ):
        for rows in per_keys:
            topic = f"checkpoints-{form}-{rows}"
            settings = ["--window=fixed:1d", f"--format={form}"]
            arguments = arguments_for(place, topic, f"{topic}-out", *settings)
            _open(place.kafka, topic, ENCODERS[form])
            with job(place, build, arguments) as running:
                empty = _settled(place.cluster, running, 0)
                _fill(place.kafka, topic, keys, rows, ENCODERS[form])
                full = _settled(place.cluster, running, 15)
            print(f"| {name} | {rows:,} | {full - empty:,} | {(full - empty) / keys:,.0f} |", flush=True)


def _open(kafka: Broker, topic: str, encode: Callable[[pa.Table], list[bytes]]) -> None:
    """Makes a topic with a row in each partition, without which no window closes."""
    kafka.create(topic)
    now = pa.array([int(time.time() * 1000)], pa.timestamp("ms", "UTC"))
    table = pa.table({"host": ["host-0"], "level": [0.0], "time": now})
    kafka.produce(topic, [(message, None, partition) for partition in range(2) for message in encode(table)])


def _fill(kafka: Broker, topic: str, keys: int, rows: int, encode: Callable[[pa.Table], list[bytes]]) -> None:
    rng = np.random.default_rng(rows)
    batch = 10_000
    hosts = pa.array([f"host-{i % keys}" for i in range(batch)])
    times = pa.repeat(pa.scalar(int(time.time() * 1000), pa.timestamp("ms", "UTC")), batch)
    for _ in range(0, keys * rows, batch):
        table = pa.table({"host": hosts, "level": rng.normal(0, 50, batch), "time": times})
        kafka.produce(topic, [(message, None, None) for message in encode(table)])


def _arrow(table: pa.Table) -> list[bytes]:
    return [to_ipc(table)]


def _json(table: pa.Table) -> list[bytes]:
    millis = table.set_column(2, "time", table.column("time").cast(pa.int64()))
    return [json.dumps(row).encode() for row in millis.to_pylist()]


ENCODERS = {"arrow": _arrow, "json": _json}


def _settled(cluster: Cluster, job: str, seconds: float) -> int:
    """Bytes of the last checkpoint, once so many seconds are past and three in a row are alike."""
    found: list[tuple[int, int]] = []
    start = time.monotonic()

    def settled() -> bool:
        latest = cluster.checkpoints(job)["latest"]["completed"]
        if latest and (not found or latest["id"] != found[-1][0]):
            found.append((latest["id"], latest["state_size"]))
        sizes = {size for _, size in found[-3:]}
        return time.monotonic() - start > seconds and len(found) >= 3 and max(sizes) - min(sizes) < 100

    wait_for(settled, "checkpoints of one size", seconds=240)
    return found[-1][1]


class Sample(NamedTuple):
    """Of a job at some moment: bundles that were merged, bytes of the last checkpoint, and what merging has taken."""

    parts: int
    checkpoint: int
    busy_millis: float


def long_windows(place: KafkaOnFlink, firings: int) -> None:
    """One open window of a day, of which all keys change between early firings: what grows with the number of parts."""
    print("\n**One window of a day, Flink cluster, early firings every 4 s, all keys changing between them**\n")
    print("| keys | parts | firings | checkpoint, MB | ms of merging per part | seconds between firings beyond 4 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for keys, parts in ((100, 10_000), (100_000, 60 * firings)):
        topic = f"long-{keys}"
        _open(place.kafka, topic, _arrow)
        settings = ["--window=fixed:1d", "--format=arrow", "--early_firing=4s", "--num_shards=2", "--max_bundle_size=1"]
        with tempfile.TemporaryDirectory() as folder:
            arguments = [*arguments_for(place, topic, f"{topic}-out", *settings), f"--output={folder}"]
            arguments = [each for each in arguments if not each.startswith("--output_topic")]
            make_output("output", folder)
            with job(place, of_tables, arguments) as running:
                _settled(place.cluster, running, 0)
                _change_all(place, topic, keys, parts, firings, running, Path(folder))


def _change_all(
    place: KafkaOnFlink, topic: str, keys: int, parts: int, firings: int, running: str, folder: Path
) -> None:
    """Sends parts with all keys in turn, and prints a line for every sixth of the way."""
    rng = np.random.default_rng(keys)
    rows = min(keys, 5000)
    fired: dict[str, list[float]] = {}
    samples = [_sample(place.cluster, running)]
    start, sent, lines = time.monotonic(), 0, 0
    while lines < 6:
        now = pa.array([int(time.time() * 1000)] * rows, pa.timestamp("ms", "UTC"))
        hosts = pa.array([f"host-{(sent * rows + i) % keys}" for i in range(rows)])
        table = pa.table({"host": hosts, "level": rng.normal(0, 50, rows), "time": now})
        place.kafka.produce(topic, [(message, None, sent % 2) for message in _arrow(table)])
        sent += 1
        for path in folder.glob("*.parquet"):
            times = fired.setdefault(path.name, [])
            if (changed := path.stat().st_mtime) not in times[-1:]:
                times.append(changed)
        done = max(map(len, fired.values()), default=0) / firings if keys > 1000 else sent / parts
        if done * 6 >= lines + 1:
            lines += 1
            samples.append(_sample(place.cluster, running))
            merged = samples[-1].parts - samples[-2].parts
            busy = (samples[-1].busy_millis - samples[-2].busy_millis) / max(merged, 1)
            times = max(fired.values(), key=len, default=[])
            gap = statistics.median(np.diff(times[-10:])) - 4 if len(times) > 10 else float("nan")
            found = f"{len(times)} | {samples[-1].checkpoint / 1e6:.2f} | {busy:.1f} | {gap:.2f}"
            print(f"| {keys:,} | {samples[-1].parts:,} | {found} |", flush=True)
        time.sleep(max(0.0, start + sent * (0.02 if keys <= 1000 else 0.1) - time.monotonic()))


def _sample(cluster: Cluster, job: str) -> Sample:
    cluster.get(f"jobs/{job}")
    time.sleep(11)  # Flink fetches its metrics when asked, at most every 10 s
    vertices = cluster.get(f"jobs/{job}")["vertices"]
    [merging] = [vertex["metrics"] for vertex in vertices if not vertex["name"].startswith("Source: ")]
    size = cluster.checkpoints(job)["latest"]["completed"]["state_size"]
    return Sample(merging["read-records"], size, merging["accumulated-busy-time"])


def latency(place: KafkaOnFlink, seconds: int) -> None:
    """From a window's end to its pane in the output topic, of a stream in real time, whose rows are in order."""
    _open(place.kafka, "latency", _json)
    settings = ["--window=fixed:2s", "--max_out_of_orderness=0s"]
    arguments = arguments_for(place, "latency", "latency-out", *settings)
    with job(place, of_tables, arguments):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = int(time.time() * 1000)
            rows = [{"host": f"host-{i % HOSTS}", "level": float(i), "time": now} for i in range(100)]
            place.kafka.produce("latency", [(json.dumps(row).encode(), now, i % 2) for i, row in enumerate(rows)])
            time.sleep(0.1)
    found: dict[str, float] = {}
    for message in place.kafka.read("latency-out"):
        row = json.loads(message.value() or b"")
        window_end = np.datetime64(row["window_end"].rstrip("Z"), "ms").astype(np.int64)
        if row["timing"] == "ON_TIME":
            found[row["window_end"]] = (message.timestamp()[1] - int(window_end)) / 1000
    late = sorted(found[window] for window in sorted(found)[len(found) // 2 :])  # once it has caught up
    print(
        f"\n**Latency, from a 2 s window's end to its pane in the topic**: median {statistics.median(late):.2f} s, "
        f"{late[0]:.2f} to {late[-1]:.2f} s, {len(late)} windows\n",
        flush=True,
    )


def memory(keys: int, windows: int) -> None:
    """Resident memory of states of many keys and windows, as columns and as accumulators."""
    hosts = pa.array([f"host-{key}" for key in range(keys)])
    rng = np.random.default_rng(0)
    tables = []
    before = _resident()
    for _ in range(windows):
        table = pa.table({"host": hosts, "level": rng.normal(0, 50, keys)})
        tables.append(group_states(table, ["host"], "level"))
    columns = _resident() - before
    held = sum(table.nbytes for table in tables)
    del tables
    before = _resident()
    accumulators: dict[tuple[int, int], LogSumExpAccumulator] = {}
    for window in range(windows):
        for key, level in enumerate(rng.normal(0, 50, keys).tolist()):
            accumulators[window, key] = LogSumExpAccumulator()
            accumulators[window, key].add(level)
    single = _resident() - before
    number = keys * windows
    print(
        f"\n**Memory of {keys:,} keys in {windows} windows**: as tables {columns / 1e6:,.0f} MB "
        f"({held / number:.0f} bytes per state in the columns), as accumulators {single / 1e6:,.0f} MB "
        f"({single / number:.0f} bytes per state with its place in a dict)\n",
        flush=True,
    )


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


WORK = ("memory", "embedded", "flink", "throughput", "checkpoints", "long_windows", "latency")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/benchmarks/streams.py", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK), help="not all, but these")
    parser.add_argument("--records", type=int, default=500_000, metavar="N", help="of the topics (default 500000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measurements of each (default 3)")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # or Beam's warnings stand between the figures
    print(machine(), flush=True)
    if "memory" in arguments.only:
        memory(100_000, 24)
    if set(arguments.only) == {"memory"}:
        return
    with (
        cores(len(AVAILABLE)),
        tempfile.TemporaryDirectory(prefix="lse_stream_streams") as folder,
        kafka_on_flink(Path(folder)) as place,
    ):
        for name, work in (("embedded", embedded), ("flink", flink)):
            if name in arguments.only:
                for result in work(place, arguments.records, arguments.rounds):
                    print(details(result), flush=True)
        if "throughput" in arguments.only:
            throughput(place, arguments.rounds)
        if "checkpoints" in arguments.only:
            checkpoints(place)
        if "long_windows" in arguments.only:
            long_windows(place, 66)
        if "latency" in arguments.only:
            latency(place, 60)


if __name__ == "__main__":
    main()
