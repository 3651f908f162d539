"""The command line that programs share: threads, memory, temp, options that are none; and how much memory is free."""

import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from programs import ROOT, check_fault, contents, write

from pipelines import memory, parquet
from pipelines.command import UsageError
from pipelines.memory import free_memory
from pipelines.on_beam import quiet_logs
from pipelines.options import Options, Parser, parse_size

ALWAYS = ["--input=a", "--value=v", "--output=out"]


def parse(*arguments: str) -> dict[str, object]:
    return vars(Parser("parquet", "", "").parse([*ALWAYS, *arguments]))


def refused(*arguments: str) -> str:
    with pytest.raises(UsageError) as raised:
        parse(*arguments)
    return str(raised.value)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 << 30),
        ("4gb", 4 << 30),
        ("4 GB", 4 << 30),
        ("4G", 4 << 30),
        ("512M", 512 << 20),
        ("512MiB", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("0.5GB", 1 << 29),
        ("1MB", 1 << 20),
        ("2048K", 2 << 20),
        ("1T", 1 << 40),
        ("1048576", 1 << 20),
        ("1048576B", 1 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("memory", text) == size
    assert parse(f"--memory={text}")["memory"] == size


@pytest.mark.parametrize(
    "text",
    ["0.5 MB", "0", "1048575", "1000K", "-1GB", "", "GB", "4XB", "4GBs", "1,5GB", "1e9", "nan", "inf", "4 G B", ".5GB"],
)
def test_sizes_that_are_none_or_too_small(text: str) -> None:
    assert refused(f"--memory={text}") == f"--memory {text}: expected a size of 1MB or more, such as 4GB"


def test_a_size_beyond_all_numbers_is_refused() -> None:
    assert refused(f"--memory=1{'0' * 400}GB").startswith("--memory 1000")


def test_by_default_states_may_fill_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.options.free_memory", lambda: 8 << 30)
    assert parse()["memory"] == 4 << 30


def test_it_runs_where_nothing_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.parquet", {"k": [3, 1, 2, 1], "v": [0.0, 1.0, 2.0, 3.0]})
    argv = ["--input", str(source), "--key=k", "--value=v", "--quiet", "--output"]
    assert parquet.main([*argv, str(tmp_path / "much"), "--memory=1GB"]) == 0
    monkeypatch.setattr("pipelines.options.free_memory", lambda: 0)
    assert parquet.main([*argv, str(tmp_path / "none")]) == 0
    assert contents(tmp_path / "none") == contents(tmp_path / "much")


# --- threads and temp -------------------------------------------------------------------------------------------------


def test_by_default_there_is_a_thread_for_each_core_that_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse()["threads"] == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8})
    assert parse()["threads"] == 3
    assert parse("--threads=7")["threads"] == 7


@pytest.mark.parametrize("text", ["0", "-1"])
def test_fewer_threads_than_one_are_refused(text: str) -> None:
    assert refused(f"--threads={text}") == f"--threads: expected 1 or more, found {text}"


@pytest.mark.parametrize("text", ["x", "1.5", "", "two"])
def test_threads_that_are_no_number_are_refused(text: str) -> None:
    assert "--threads" in refused(f"--threads={text}")


def test_temp_is_a_directory(tmp_path: Path) -> None:
    assert parse()["temp"] is None
    assert parse("--temp", str(tmp_path))["temp"] == str(tmp_path)
    file = tmp_path / "file"
    file.write_bytes(b"")
    for place in (file, tmp_path / "none"):
        assert refused("--temp", str(place)) == f"--temp {place}: expected a directory, found none"


# --- with Beam, and without -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["--threads=2", "--memory=4GB", "--memory=nonsense", "--temp=/tmp"])
@pytest.mark.parametrize("runner", [["--runner=DirectRunner"], ["--runner", "DirectRunner"]], ids=["=", " "])
def test_options_of_this_process_are_refused_with_a_runner(argument: str, runner: list[str]) -> None:
    name, _, value = argument.partition("=")
    for arguments in ([argument, *runner], [*runner, argument]):
        assert refused(*arguments) == f"{name}: expected none with --runner, found {value}"


def test_with_a_runner_the_options_of_beam_are_taken() -> None:
    assert parse()["beam"] is None
    assert parse("--runner=DirectRunner", "--direct_num_workers=2")["beam"] is not None


@pytest.mark.parametrize(
    "argument",
    [
        "--direct_num_workers=2",
        "--direct_running_mode=multi_processing",
        "--environment_type=LOOPBACK",
        "--extra_package=a.tar.gz",
        "--flink_master=localhost:8081",
        "--job_name=a",
        "--max_num_workers=3",
        "--profile_memory",
        "--project=a",
        "--region=b",
        "--requirements_file=r.txt",
        "--setup_file=setup.py",
        "--streaming",
        "--temp_location=gs://a/b",
        "--update",
    ],
)
def test_options_of_beam_are_said_to_need_a_runner(argument: str) -> None:
    error = refused(argument)
    assert error.startswith(f"{argument.partition('=')[0]}: expected an option of this program")
    assert "need --runner" in error


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("--thread=2", "--threads"),
        ("--thraeds=2", "--threads"),
        ("--memroy=1GB", "--memory"),
        ("--num_shard=2", "--num_shards"),
        ("--num-shards=2", "--num_shards"),
        ("--keys=k", "--key"),
        ("--outptu=o", "--output"),
        ("--overwrit", "--overwrite"),
        ("--skip-nulls", "--skip_nulls"),
        ("--tmp=/tmp", "--temp"),
        ("--runer=FlinkRunner", "--runner"),
    ],
)
def test_of_an_option_that_is_none_the_nearest_is_named(argument: str, nearest: str) -> None:
    error = refused(argument)
    assert error.startswith(
        f"{argument.partition('=')[0]}: expected an option of this program, found none of that name"
    )
    assert f"(nearest: {nearest}; options of Beam need --runner)" in error


def test_an_argument_without_an_option_is_refused() -> None:
    assert refused("--key=k", "stray").startswith("stray: expected an option, found a value without one")


@pytest.mark.parametrize("program", ["parquet", "loglik", "softmax", "cross_entropy", "rollup"])
def test_every_program_tells_it_in_one_line(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = import_module(f"pipelines.{program}").main
    for argument, fragments in (
        ("--direct_num_workers=2", ["--direct_num_workers", "need --runner"]),
        ("--theads=2", ["--theads", "nearest: --threads"]),
    ):
        assert main(["--input=a", "--output=out", argument]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        check_fault(captured.err, fragments, program)


# --- free memory ------------------------------------------------------------------------------------------------------

MB = 1 << 20
MEMINFO = (
    f"MemTotal:       {16 << 20} kB\nMemFree:          100 kB\nMemAvailable:    {8 << 20} kB\nHugePages_Total:   0\n"
)


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Lets ``free_memory`` see these files alone; MEMINFO where they do not say otherwise."""
    for name, text in ({"/proc/meminfo": MEMINFO} | files).items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(memory, "Path", lambda path: folder / str(path).lstrip("/"))
    monkeypatch.setattr(memory, "_CGROUP", folder / "sys/fs/cgroup")


def group(path: str, most: object, used: int, inactive: int = 0) -> dict[str, str]:
    """The files of a control group of version 2."""
    folder = f"/sys/fs/cgroup{path}"
    return {
        f"{folder}/memory.max": f"{most}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {inactive}\nactive_file 7\n",
    }


def old_group(path: str, most: object, used: int, inactive: int = 0) -> dict[str, str]:
    """The files of a control group of version 1, whose own files are fewer than those of all groups in it."""
    folder = f"/sys/fs/cgroup/memory{path}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{most}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 0\ntotal_inactive_file {inactive}\n",
    }


UNLIMITED = 2**63 - 4096  # how version 1 says that there is no limit


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/\n", {}, 8 << 30),
        ("0::/a/b\n", group("/a/b", 100 * MB, 40 * MB), 60 * MB),
        ("0::/a/b\n", group("/a/b", 100 * MB, 40 * MB, inactive=10 * MB), 70 * MB),
        ("0::/a/b\n", group("/a/b", "max", 40 * MB), 8 << 30),
        ("0::/a/b\n", group("/a/b", 64 << 30, 40 * MB), 8 << 30),
        ("0::/a/b\n", group("/a", 50 * MB, 45 * MB) | group("/a/b", 100 * MB, 40 * MB), 5 * MB),
        ("0::/a/b\n", group("/a", "max", 45 * MB) | group("/a/b", 100 * MB, 40 * MB), 60 * MB),
        ("0::/a/b\n", group("/a", 300 * MB, 45 * MB) | group("/other", 20 * MB, 1 * MB), 255 * MB),
        ("0::/a\n", group("/a", 30 * MB, 31 * MB), 0),
        ("0::/docker/x\n", group("", 100 * MB, 40 * MB), 60 * MB),
        ("0::/../x\n", group("", 100 * MB, 40 * MB), 60 * MB),
        ("5:memory:/d\n4:cpu,cpuacct:/e\n", old_group("/d", 100 * MB, 40 * MB), 60 * MB),
        ("5:hugetlb,memory:/d\n", old_group("/d", 100 * MB, 40 * MB), 60 * MB),
        ("5:memory:/d\n", old_group("/d", 100 * MB, 40 * MB, inactive=10 * MB), 70 * MB),
        ("5:memory:/d\n", old_group("/d", UNLIMITED, 40 * MB), 8 << 30),
        ("5:memory:/docker/x\n", old_group("", 100 * MB, 40 * MB), 60 * MB),
        ("5:memory:/d\n0::/d\n", old_group("/d", 100 * MB, 40 * MB) | group("/d", 90 * MB, 40 * MB), 50 * MB),
    ],
    ids=[
        "no limit",
        "a limit",
        "files in memory make room",
        "max",
        "more than there is",
        "a group around it is narrower",
        "a group around it without a limit",
        "another group does not count",
        "beyond the limit",
        "the path of the host",
        "the path of another namespace",
        "version 1",
        "version 1, several controllers",
        "version 1, files in memory of all groups inside",
        "version 1, no limit",
        "version 1, the path of the host",
        "both versions",
    ],
)
def test_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], free: int
) -> None:
    machine(tmp_path, monkeypatch, {"/proc/self/cgroup": groups} | files)
    assert free_memory() == free


def test_free_memory_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a kernel that was built without them."""
    machine(tmp_path, monkeypatch, {})
    assert free_memory() == 8 << 30


def test_free_memory_of_this_machine() -> None:
    assert 0 <= free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_options_are_as_they_were_parsed() -> None:
    options = Options(key=["a"], quiet=True)
    assert (options.key, options.quiet) == (["a"], True)
    with pytest.raises(AttributeError, match="option 'quiet': expected to be left as it was parsed, found False"):
        options.quiet = False
    with pytest.raises(AttributeError, match="no option 'loud' among key, quiet"):
        _ = options.loud


@pytest.mark.parametrize(("runner", "level"), [("FnApiRunner", logging.CRITICAL), ("FlinkRunner", logging.INFO)])
def test_loggers_are_changed_for_a_run_alone_and_not_with_traceback(runner: str, level: int) -> None:
    root = logging.getLogger()
    loggers = [logging.getLogger("apache_beam"), root]
    before = [logger.level for logger in loggers], root.handlers[:]
    beam = parse(f"--runner={runner}")["beam"]
    with quiet_logs(Options(beam=beam, quiet=False, traceback=False)):
        assert [logger.level for logger in loggers] == [level] * 2
        assert len(root.handlers) == 1
    assert ([logger.level for logger in loggers], root.handlers) == before
    with quiet_logs(Options(beam=beam, quiet=False, traceback=True)):
        assert ([logger.level for logger in loggers], root.handlers) == before


def test_importing_the_programs_changes_no_logger() -> None:
    program = "import logging, pipelines.stream, pipelines.parquet; print(logging.getLogger().filters)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (found.stdout, found.stderr, found.returncode) == ("[]\n", "", 0)
