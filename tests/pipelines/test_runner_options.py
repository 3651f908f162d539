"""Options for Beam and its runner: each arrives, or is an error that names the nearest; none vanishes."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from job_service import Importance, JobService, State, serve
from programs import BEAM, check_fault, contents, write

from pipelines import parquet, stream
from pipelines.command import UsageError
from pipelines.on_beam import execute
from pipelines.options import Parser
from pipelines.run import RunError

ALWAYS = ["--input=a", "--value=v", "--output=out"]
FLINK = "--runner=FlinkRunner"


def parse(*arguments: str) -> Any:
    return Parser("parquet", "", "").parse([*ALWAYS, *arguments]).beam


def refused(*arguments: str) -> str:
    with pytest.raises(UsageError) as raised:
        parse(*arguments)
    return str(raised.value)


@pytest.fixture
def service() -> Iterator[JobService]:
    with serve(JobService(State.FAILED)) as listening:
        yield listening


# --- what nobody knows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["FnApiRunner", "DirectRunner", "FlinkRunner", "SparkRunner", "PrismRunner"])
@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("--num_shard=8", "--num_shards"),
        ("--max_paralelism=2", "--max_parallelism"),
        ("--enviroment_type=LOOPBACK", "--environment_type"),
        ("--flink_mster=a:1", "--flink_master"),
    ],
)
def test_of_an_option_that_is_none_the_nearest_is_named(runner: str, argument: str, nearest: str) -> None:
    name = argument.partition("=")[0]
    said = refused(f"--runner={runner}", *argument.split("="))
    assert said.startswith(f"{name}: expected an option of this program or of {runner}, found none of that name")
    assert f"nearest: {nearest}" in said
    assert refused(f"--runner={runner}", argument) == said


def test_a_stream_on_flink(capsys: pytest.CaptureFixture[str]) -> None:
    """The options that a stream has beside those of batches."""
    arguments = "--source=replay --input=a --value=v --event_time=t --window=fixed:1h --output=out --runner=FlinkRunner"
    assert stream.main([*arguments.split(), "--allowed_latness", "1h", "--num_shard", "8"]) == 2
    check_fault(capsys.readouterr().err, ["--allowed_latness: expected", "nearest: --allowed_lateness"], "stream")


def test_what_the_runner_alone_knows_goes_behind_two_dashes() -> None:
    said = refused(FLINK, "--checkpointing_interval=3")
    assert said.startswith("--checkpointing_interval: expected an option of this program or of FlinkRunner, found none")
    assert said.endswith("what the runner alone knows goes behind -- at the end)")
    options = parse(FLINK, "--parallelism=3", "--", "--checkpointing_interval=3", "--object_reuse")
    assert options.get_all_options(retain_unknown_options=True)["checkpointing_interval"] == "3"


@pytest.mark.parametrize("runner", ["FnApiRunner", "DirectRunner"])
def test_a_runner_in_this_process_knows_none_but_beams(runner: str) -> None:
    said = refused(f"--runner={runner}", "--", "--checkpointing_interval=3")
    assert said.startswith("--checkpointing_interval: expected an option of this program or of")
    assert parse(f"--runner={runner}", "--", "--direct_num_workers=3") is not None


def test_two_dashes_need_a_runner() -> None:
    assert refused("--", "--parallelism=3") == "--: expected nothing behind it without --runner, found --parallelism=3"
    assert parse("--") is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--parallelism=two"],
        ["--streaming=true"],
        ["--flink_version=1"],
        ["--", "--parallelism=two"],
        ["--", "--flink_version"],
    ],
)
def test_values_of_another_type(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for runner in (FLINK, BEAM):
        assert refused(runner, *arguments).startswith(f"argument {arguments[-1].partition('=')[0]}: ")
    assert capsys.readouterr().err == ""


# --- what a job server describes --------------------------------------------------------------------------------------


def test_a_job_server_is_asked_before_any_work(
    service: JobService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write(out / "part-00000-of-00001.parquet", {"k": [1]})
    before = contents(out)
    arguments = [f"--input={tmp_path / 'nowhere'}", "--value=v", f"--output={out}", "--overwrite"]
    flink = [FLINK, f"--job_endpoint={service.endpoint}"]
    for more in (["--checkpointing_intervall=3"], ["--", "--checkpointing_intervall=3"]):
        assert parquet.main([*arguments, *flink, *more]) == 2
        said = capsys.readouterr().err
        check_fault(said, ["--checkpointing_intervall: expected an option", "nearest: --checkpointing_interval)"])
    assert contents(out) == before
    assert service.options is None


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("--checkpointing_interval=soon", "invalid int value: 'soon'"),
        ("--object_reuse=yes", "expected true or false, found 'yes'"),
        ("--operator_chaining", "expected one argument"),
        ("--state_backend", "expected one argument"),
    ],
)
def test_described_options_of_another_type(service: JobService, argument: str, found: str) -> None:
    said = refused(FLINK, f"--job_endpoint={service.endpoint}", argument)
    assert said == f"argument {argument.partition('=')[0]}: {found}"


ARRIVE = {
    "--checkpointing_interval=7000": ("checkpointing_interval", "7000"),
    "--max_bundle_time_mills 123": ("max_bundle_time_mills", "123"),
    "--max_cache_memory_usage_percent=12.5": ("max_cache_memory_usage_percent", "12.5"),
    "--state_backend=hashmap": ("state_backend", "hashmap"),
    "--files_to_stage=a --files_to_stage=b": ("files_to_stage", ["a", "b"]),
    "--object_reuse": ("object_reuse", True),
    "--faster_copy=false": ("faster_copy", False),
    "--operator_chaining=false": ("operator_chaining", False),
    "--fail_on_checkpointing_errors=true": ("fail_on_checkpointing_errors", True),
    "--parallelism=3": ("parallelism", "3"),
}


@pytest.mark.parametrize("behind", [False, True], ids=["before --", "behind --"])
def test_described_options_arrive(service: JobService, tmp_path: Path, *, behind: bool) -> None:
    source = write(tmp_path / "a.parquet", {"v": [1.0]})
    arguments = ["--input", str(source), "--value=v", f"--output={tmp_path / 'out'}", "--quiet"]
    flink = [FLINK, f"--job_endpoint={service.endpoint}", "--environment_type=LOOPBACK", *["--"] * behind]
    assert parquet.main([*arguments, *flink, *(word for text in ARRIVE for word in text.split())]) == 1
    assert service.options is not None
    found = {name: service.options[name] for name, _ in ARRIVE.values()}
    found["files_to_stage"] = list(found["files_to_stage"])
    assert found == dict(ARRIVE.values())


def test_described_options_that_are_not_given_are_left_to_the_job_server(service: JobService, tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", {"v": [1.0]})
    arguments = ["--input", str(source), "--value=v", f"--output={tmp_path / 'out'}", "--quiet"]
    assert parquet.main([*arguments, FLINK, f"--job_endpoint={service.endpoint}", "--environment_type=LOOPBACK"]) == 1
    assert service.options is not None
    assert not {"checkpointing_interval", "object_reuse", "operator_chaining"} & set(service.options)


def test_what_a_stream_sets_for_flink_arrives(service: JobService) -> None:
    arguments = "--source=kafka --bootstrap_servers=a:1 --topic=t --value=v --window=fixed:1h --output_topic=o"
    arguments += f" --dead_letter_topic=d {FLINK} --job_endpoint={service.endpoint} --environment_type=LOOPBACK --quiet"
    for more, interval in (
        ((), "10000"),
        (["--checkpointing_interval=5"], "5"),
        (["--", "--checkpointing_interval=5"], "5"),
    ):
        options = stream.parse([*arguments.split(), *more])
        with pytest.raises(RunError):
            execute(options, lambda pipeline: pipeline | beam.Create([1]), None)
        assert service.options is not None
        found = [service.options[name] for name in ("streaming", "checkpointing_interval", "max_bundle_time_mills")]
        assert found == [True, interval, "200"]
        assert [service.options[name] for name in ("max_bundle_size", "faster_copy")] == ["10000", True]
        kept = ("externalized_checkpoints_enabled", "retain_externalized_checkpoints_on_cancellation")
        assert [service.options[name] for name in kept] == [True, True]


def test_a_job_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    said = refused(FLINK, f"--job_endpoint=127.0.0.1:{port}")
    start = f"--job_endpoint 127.0.0.1:{port}: expected a job server of Beam that answers, found none (UNAVAILABLE"
    assert said.startswith(start)
    assert "\n" not in said


def test_a_job_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.on_beam.ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        said = refused(FLINK, f"--job_endpoint={endpoint}")
    assert said.startswith(f"--job_endpoint {endpoint}: expected a job server of Beam that answers, found none (")
    assert time.monotonic() - start < 5


# --- what Beam and the runner have to say -----------------------------------------------------------------------------


def run_with_logs(service: JobService, folder: Path, *more: str) -> int:
    source = write(folder / "a.parquet", {"v": [1.0]})
    arguments = ["--input", str(source), "--value=v", f"--output={folder / 'out'}"]
    flink = [FLINK, f"--job_endpoint={service.endpoint}", "--environment_type=LOOPBACK", "--flink_master=host:8081"]
    return parquet.main([*arguments, *flink, *more])


@pytest.mark.parametrize("quiet", [[], ["--quiet"]], ids=["", "quiet"])
def test_what_the_runner_says(
    service: JobService, tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: list[str]
) -> None:
    """Once each: the job, addresses of one line, warnings; not what it does from moment to moment."""
    service.messages = [
        (Importance.JOB_MESSAGE_BASIC, "starting the job"),
        (Importance.JOB_MESSAGE_BASIC, "see http://host:8081/#/job/1"),
        (Importance.JOB_MESSAGE_BASIC, f"http://host {'and all its options ' * 20}"),
        (Importance.JOB_MESSAGE_DEBUG, "a detail of http://host:8081/"),
        (Importance.JOB_MESSAGE_WARNING, "slots are few"),
        (Importance.JOB_MESSAGE_WARNING, "slots are few"),
        (Importance.JOB_MESSAGE_ERROR, "all\nis lost"),
    ]
    assert run_with_logs(service, tmp_path, *quiet) == 1
    informative = [
        f"job job-1_uuid submitted to FlinkRunner (job server at {service.endpoint}, Flink at host:8081)",
        "see http://host:8081/#/job/1",
    ]
    assert capsys.readouterr().err.splitlines() == [
        *([] if quiet else informative),
        "slots are few",
        "parquet: error: RuntimeError: is lost (--traceback shows all)",
    ]
