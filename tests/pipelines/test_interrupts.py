"""A run that is asked to end, or killed: what it says, its exit status, and that nothing is left for long."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, cli, contents, result_file, write

ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OLD = {"part-00000-of-00001.parquet": result_file(1)}


@pytest.fixture(autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """As the tests may run under nohup, or in the background of a shell, and children inherit that."""
    ignored = [number for number in ASKED if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="module")
def long_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes seconds to read, for its many row groups, and has more keys than 1 MB holds."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("long")
    table = {"key": rng.integers(0, 40_000, 20_000), "value": rng.normal(size=20_000)}
    first = write(folder / "0.parquet", table, row_group_size=10)
    for i in range(1, 12):
        os.link(first, folder / f"{i}.parquet")
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, long_input: Path) -> dict[str, bytes]:
    """The results of a run that nobody disturbs."""
    out = tmp_path_factory.mktemp("expected") / "out"
    assert cli("parquet", *arguments(long_input, out), "--quiet").returncode == 0
    return contents(out)


class Places:
    """Where a run writes: beside its output, and in the machine's own folder for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.results, self.temporary = folder / "results", folder / "temporary"
        self.results.mkdir()
        self.temporary.mkdir()
        self.output = self.results / "out"

    def left(self) -> list[str]:
        return sorted(path.name for folder in (self.results, self.temporary) for path in folder.iterdir())


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def arguments(source: Path, output: Path) -> list[str]:
    return ["--input", str(source), "--key=key", "--value=value", "--output", str(output)]


def start(places: Places, command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(places.temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(places: Places, source: Path, *more: str) -> subprocess.Popen[str]:
    return start(places, ["-m", "pipelines.parquet", *arguments(source, places.output), *more])


def open_files(process: subprocess.Popen[str]) -> list[str]:
    folder = Path(f"/proc/{process.pid}/fd")
    found = []
    for path in folder.iterdir():
        try:
            found.append(os.readlink(path))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.001)


def wait_until_it_reads(process: subprocess.Popen[str], places: Places, source: Path, *, spilling: bool) -> None:
    """Until rows are read, after the check of the footers; with ``spilling``, until states are on disk."""

    def reads() -> bool:
        if not any(name.startswith(".out_incomplete-") for name in places.left()):
            return False
        files = open_files(process)
        spilled = any(path.startswith(f"{places.results}/") and path.endswith(" (deleted)") for path in files)
        return spilled if spilling else any(path.startswith(str(source)) for path in files)

    wait_until(process, reads)


MEMORY = pytest.mark.parametrize("memory", [[], ["--memory=1MB"]], ids=["in memory", "spilling"])


# --- asked to end -----------------------------------------------------------------------------------------------------


@MEMORY
@pytest.mark.parametrize("number", ASKED, ids=lambda number: number.name)
def test_asked_to_end_while_it_reads(
    places: Places, long_input: Path, number: signal.Signals, memory: list[str]
) -> None:
    process = run(places, long_input, *memory)
    wait_until_it_reads(process, places, long_input, spilling=bool(memory))
    process.send_signal(number)
    printed, said = process.communicate(timeout=30)
    assert said == f"parquet: interrupted ({number.name}); no output was written\n"
    assert (process.returncode, printed) == (128 + number, "")
    assert places.left() == []


def test_earlier_results_stay_when_it_is_asked_to_end(places: Places, long_input: Path) -> None:
    place_old(places)
    process = run(places, long_input, "--overwrite")
    wait_until_it_reads(process, places, long_input, spilling=False)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert places.left() == ["out"]
    assert contents(places.output) == OLD


def test_asked_twice_and_in_two_ways(places: Places, long_input: Path) -> None:
    """As when a terminal is closed, or by who is impatient."""
    process = run(places, long_input)
    wait_until_it_reads(process, places, long_input, spilling=False)
    process.send_signal(signal.SIGSTOP)
    for number in (signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    for _ in range(5):
        process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=30)
    assert process.returncode in (129, 130, 143)
    name = signal.Signals(process.returncode - 128).name
    assert (printed, said) == ("", f"parquet: interrupted ({name}); no output was written\n")
    assert places.left() == []


def test_a_signal_that_was_to_be_ignored_is(places: Places, long_input: Path, expected: dict[str, bytes]) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = run(places, long_input, "--quiet")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until_it_reads(process, places, long_input, spilling=False)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert contents(places.output) == expected


# --- asked to end at moments that count -------------------------------------------------------------------------------

# The function before which or after which the process sends itself a signal.
DISTURBED = """
import os, sys, time
from pipelines import output, parquet, run
of, name, when, number = {"run": run, "output.os": output.os}[sys.argv[1]], *sys.argv[2:4], int(sys.argv[4])
function = getattr(of, name)
def disturbed(*arguments, **options):
    setattr(of, name, function)  # the first call alone
    if when == "before":
        ask()
    found = function(*arguments, **options)
    if when == "after":
        ask()
    return found
def ask():
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # another thread, as pyarrow has, may be the one that the system tells
setattr(of, name, disturbed)
sys.exit(parquet.main(sys.argv[5:]))
"""


@pytest.fixture(scope="module")
def short_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("short") / "a.parquet", {"key": [1, 2, 1], "value": [0.0, 1.0, 2.0]})


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory, short_input: Path) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("new") / "out"
    assert cli("parquet", *arguments(short_input, out), "--quiet").returncode == 0
    return contents(out)


def place_old(places: Places) -> None:
    places.output.mkdir()
    for name, content in OLD.items():
        (places.output / name).write_bytes(content)


def disturbed(places: Places, source: Path, where: str, number: signal.Signals) -> tuple[int, str]:
    """Replaces old results, with a signal at a moment such as "run.stage after"; the exit status, and what is said."""
    function, when = where.split()
    of, _, name = function.rpartition(".")
    more = [*arguments(source, places.output), "--overwrite", "--quiet"]
    process = start(places, ["-c", DISTURBED, of, name, when, str(int(number)), *more])
    printed, said = process.communicate(timeout=60)
    assert printed == ""
    return process.returncode, said


@pytest.mark.parametrize(
    "where",
    [
        "run.prepare_output before",
        "run.stage before",
        "run.stage after",
        "run.publish before",
        "output.os.rename before",
        "output.os.rename after",
        "run.publish after",
        "run.discard before",
        "run.discard after",
    ],
)
def test_asked_to_end_at_a_moment_that_counts(
    places: Places, short_input: Path, new: dict[str, bytes], where: str
) -> None:
    """The old results are in place or the new ones, nothing else, and what is said is true."""
    place_old(places)
    status, said = disturbed(places, short_input, where, signal.SIGTERM)
    assert places.left() == ["out"]
    found = contents(places.output)
    assert found in (OLD, new)
    if found == OLD:
        assert (status, said) == (143, "parquet: interrupted (SIGTERM); no output was written\n")
    else:
        assert "no output was written" not in said
        assert said.count("\n") <= 1


# --- killed -----------------------------------------------------------------------------------------------------------


@MEMORY
def test_the_next_run_removes_what_one_that_was_killed_has_left(
    places: Places, long_input: Path, expected: dict[str, bytes], memory: list[str]
) -> None:
    process = run(places, long_input, *memory)
    wait_until_it_reads(process, places, long_input, spilling=bool(memory))
    process.kill()
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -signal.SIGKILL
    [left] = places.left()  # and no file of what memory did not hold
    assert left.startswith(".out_incomplete-")

    process = run(places, long_input, "--quiet", *memory)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert places.left() == ["out"]
    assert contents(places.output) == expected


@pytest.mark.parametrize(
    "where",
    ["run.stage after", "run.publish before", "output.os.rename before", "output.os.rename after", "run.publish after"],
)
def test_the_next_run_after_one_that_was_killed_at_a_moment_that_counts(
    places: Places, short_input: Path, new: dict[str, bytes], where: str
) -> None:
    place_old(places)
    assert disturbed(places, short_input, where, signal.SIGKILL) == (-signal.SIGKILL, "")
    if where != "output.os.rename after":  # between the two renames
        assert contents(places.output) == (new if where == "run.publish after" else OLD)
    process = run(places, short_input, "--quiet", "--overwrite")
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert places.left() == ["out"]
    assert contents(places.output) == new
