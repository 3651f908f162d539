"""Streams on a Flink cluster from Kafka: stopped, resumed, drained, with late rows, and with topics that change.

Whatever happens, every row is in a final pane or a dead letter, and panes are the batch result.

Run with ``-m engine``, once ``python tests/engines/fetch.py`` has fetched the engines.
"""

import json
import time
from pathlib import Path

import pytest
from hidden import skip_without_views, write_blind

from engines.kafka_on_flink import KafkaOnFlink
from engines.processes import wait_for
from engines.streams import PARTITIONS, Run, Topic, fixed, of_files, sessions
from pipelines import stream as program

pytestmark = [
    pytest.mark.engine,
    # Beam's workers end when the runner hangs up, and that is how their threads take it.
    pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning"),
]

HOUR = 3_600_000


def test_a_stream_is_stopped_and_goes_on(
    engines: KafkaOnFlink, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the defaults but for early panes: what is as much older than its record as is allowed, late, and too late."""
    topic = Topic(engines, f"going-on-{time.time():.0f}")
    with Run(engines, topic, tmp_path, "--window=fixed:10s", "--early_firing=2s") as run:
        run.start()
        topic.send_some(12)
        saved = run.stop()
        for changes, message in (
            ([], "expected nothing there yet (or --overwrite), found"),
            ([f"--resume={saved}", "--num_shards=3"], "--num_shards: expected 2, as of the results in"),
            ([f"--resume={saved}", "--window=fixed:20s"], "--window: expected fixed:10s, as of the results in"),
        ):
            assert program.main([*run.arguments, *changes]) == 2
            assert message in capsys.readouterr().err
        before = len(topic.sent)
        topic.send_some(3)
        waited = topic.sent[:PARTITIONS] + topic.sent[before:]
        run.start(f"--resume={saved}")
        topic.send_some(15)
        in_time = list(topic.sent)
        topic.send([("a", 1.0, topic.now() - HOUR // 2)] * 5)  # late, and counted
        counted = list(topic.sent)
        topic.send([("b", 2.0, topic.now() - 2 * HOUR)] * 7)  # too late
        wait_for(lambda: len(topic.letters()) == 7, "dead letters")
        run.stop(drain=True)
    assert topic.last_panes() == fixed(counted, 10_000), run.log()
    assert of_files(tmp_path / "out") == fixed(counted, 10_000)
    assert all(letter["reason"].startswith("late: ") for letter in topic.letters())
    assert len(topic.sent) == sum(total[0] for total in topic.last_panes().values()) + len(topic.letters())
    # What is no more than 10 s older than its record was never late. (A drained window fires again, with what it has.)
    # Rows that waited while no job ran are left out: after a start Beam may take the time of the day for the watermark
    # ahead of handing them out. They are counted all the same, in late panes.
    in_panes: dict[str, dict[tuple[str, int, int], int]] = {"EARLY": {}, "ON_TIME": {}, "LATE": {}}
    for place, timing, total in topic.panes():
        in_panes[timing][place] = max(total[0], in_panes[timing].get(place, 0))
    assert in_panes["EARLY"]
    wanted = {place: total[0] for place, total in fixed(in_time, 10_000).items()}
    live = wanted.keys() - fixed(waited, 10_000).keys()
    assert len(live) > 6
    assert {place: in_panes["ON_TIME"].get(place) for place in live} == {place: wanted[place] for place in live}


def test_sessions(engines: KafkaOnFlink, tmp_path: Path) -> None:
    topic = Topic(engines, f"sessions-{time.time():.0f}", **{"message.timestamp.type": "LogAppendTime"})
    with Run(engines, topic, tmp_path, "--window=session:2s", "--early_firing=2s", "--num_shards=2") as run:
        run.start()
        for _ in range(4):
            topic.send_some(2, oldest=1500)
            time.sleep(3)
        run.stop(drain=True)
    wanted = sessions(topic.sent, 2000)
    assert len(wanted) > 3
    found = topic.last_panes()
    # Panes of sessions that grew have the names of what they were.
    assert {place: total for place, total in found.items() if place in wanted} == wanted, run.log()
    assert of_files(tmp_path / "out") == wanted
    assert topic.letters() == []


def test_a_stream_with_an_end_says_what_it_has_read(
    engines: KafkaOnFlink, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines.kafka.create("counted", "counted_bad", partitions=1)
    rows = [json.dumps({"v": i, "time": 0}).encode() for i in range(50)]
    engines.kafka.produce("counted", [(row, None, 0) for row in [*rows, b"?", b"{}"]])
    arguments = [
        *(option for option in engines.source_options() if option != "--quiet"),
        *("--topic=counted", "--max_records=52", "--value=v", "--event_time=time", "--window=fixed:1h"),
        *("--dead_letter_topic=counted_bad", f"--output={tmp_path / 'out'}", *engines.stream_options()),
    ]
    assert program.main(arguments) == 0
    assert "52 messages of counted, 2 of them bad" in capsys.readouterr().out


def test_partitions_that_are_added_end_a_stream(engines: KafkaOnFlink, tmp_path: Path) -> None:
    topic = Topic(engines, f"growing-{time.time():.0f}")
    with Run(engines, topic, tmp_path, "--window=fixed:10s") as run:
        run.start()
        engines.kafka.add_partitions(topic.rows, PARTITIONS + 1)
        assert run.program.wait(90) == 1, run.log()
        assert f"topic {topic.rows}: expected 3 partitions as at the start, found 4: " in run.log()
        wait_for(lambda: engines.cluster.jobs()[run.job] == "CANCELED", "the job to end")


def test_records_that_were_deleted_before_they_were_read_are_an_error(engines: KafkaOnFlink, tmp_path: Path) -> None:
    topic = Topic(engines, f"expired-{time.time():.0f}")
    with Run(engines, topic, tmp_path, "--window=fixed:10s") as run:
        run.start()
        saved = run.stop()
        topic.send_some(2)
        engines.kafka.delete_records(topic.rows, PARTITIONS)
        topic.send_some(1)
        before = len(topic.panes())
        run.launch(f"--resume={saved}")
        run.wait_for_fault("OffsetOutOfRange")
        assert len(topic.panes()) == before


def test_workers_that_do_not_see_the_output_are_an_error(engines: KafkaOnFlink, tmp_path: Path) -> None:
    skip_without_views(tmp_path)
    topic = Topic(engines, f"hidden-{time.time():.0f}")
    worker = tmp_path / "worker.sh"
    command = json.loads(engines.cluster.worker_options()[1].partition("=")[2])["command"]
    write_blind(worker, tmp_path / "out", command)
    config = f"--environment_config={json.dumps({'command': str(worker)})}"
    with Run(engines, topic, tmp_path, "--window=fixed:10s", config) as run:
        run.launch()
        run.wait_for_fault(f"not the {tmp_path / 'out'} of the machine that started the run")
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == ["_stream.json"]
