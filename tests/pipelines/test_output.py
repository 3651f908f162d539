"""Directories aside: how they are called, which are left by runs that are gone, and how they take their place."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import ROOT, check_fault, contents, result_file, write

from lse_stream.errors import DataError, InputError
from lse_stream.local import LocalEngine
from pipelines import parquet
from pipelines.output import check_whole, discard, prepare_output, publish, remove_left_behind, stage

PART = "part-00000-of-00001.parquet"

# Makes a directory aside, tells its path, and ends without cleaning up when it is told to.
RUN = "import sys; from pipelines.output import stage; print(stage(sys.argv[1]), flush=True); sys.stdin.read()"


class Run:
    """Another process that writes to an output."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.staging = Path(self._process.stdout.readline().strip())
        self.pid = self._process.pid

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "out")
    yield run
    run.end()


@pytest.fixture(scope="session")
def name_of_the_dead(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run that has ended called its directory aside, for an output called "out"."""
    run = Run(tmp_path_factory.mktemp("dead") / "out")
    run.end()
    assert run.staging.is_dir()
    return run.staging.name


OLD, NEW = result_file(1), result_file(2)


def filled(directory: Path, content: bytes = OLD) -> Path:
    directory.mkdir(parents=True)
    (directory / PART).write_bytes(content)
    return directory


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_directory_aside_tells_whose_it_is(tmp_path: Path) -> None:
    first, second = (Path(stage(str(tmp_path / "out"))) for _ in range(2))
    assert first != second
    start = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    host = re.escape(socket.gethostname())
    for path in (first, second):
        assert path.parent == tmp_path
        assert path.is_dir()
        assert re.fullmatch(rf"\.out_incomplete-{host}-[0-9a-f]{{8}}-{os.getpid()}-{start}-[0-9a-f]{{8}}", path.name)


def test_a_directory_aside_lies_where_a_link_leads(tmp_path: Path) -> None:
    filled(tmp_path / "disk" / "results")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "results")
    staging = Path(stage(str(tmp_path / "out")))
    assert staging.parent == tmp_path / "disk"
    assert staging.name.startswith(".results_incomplete-")
    (staging / PART).write_bytes(NEW)
    publish(str(staging), str(tmp_path / "out"), overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert contents(tmp_path / "disk") == {f"results/{PART}": NEW}
    assert left(tmp_path / "disk") == ["results"]


def test_folders_around_an_output_are_made(tmp_path: Path) -> None:
    staging = Path(stage(str(tmp_path / "a" / "b" / "out")))
    assert staging.parent == tmp_path / "a" / "b"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=rf"--output {tmp_path}/file/out: expected a place that can be written"):
        stage(str(tmp_path / "file" / "out"))


# --- what is left behind ----------------------------------------------------------------------------------------------


def test_what_a_process_that_ended_has_left_is_removed(
    tmp_path: Path, name_of_the_dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path / name_of_the_dead)
    filled(tmp_path / name_of_the_dead.replace(".out_", ".other_"))
    remove_left_behind(str(tmp_path / "out"))
    assert left(tmp_path) == [name_of_the_dead.replace(".out_", ".other_")]
    assert capsys.readouterr().err == ""


def test_a_new_run_removes_it_too(tmp_path: Path, name_of_the_dead: str) -> None:
    filled(tmp_path / name_of_the_dead)
    prepare_output(str(tmp_path / "out"), [], overwrite=False)
    assert left(tmp_path) == []


def test_what_a_living_process_writes_is_left(tmp_path: Path, living: Run) -> None:
    own = Path(stage(str(tmp_path / "out")))
    filled(tmp_path / f"{living.staging.name}.old")
    remove_left_behind(str(tmp_path / "out"))
    assert left(tmp_path) == sorted([own.name, living.staging.name, f"{living.staging.name}.old"])


def test_of_a_process_that_has_the_number_of_another_nothing_is_left(tmp_path: Path, living: Run) -> None:
    found = re.fullmatch(r"(.+-)(\d+)-(\d+)(-[0-9a-f]{8})", living.staging.name)
    assert found
    assert int(found[2]) == living.pid
    filled(tmp_path / f"{found[1]}{living.pid}-{int(found[3]) - 1}{found[4]}")
    remove_left_behind(str(tmp_path / "out"))
    assert left(tmp_path) == [living.staging.name]


@pytest.mark.parametrize("suffix", ["", ".old"])
def test_what_runs_on_another_host_may_write_is_left_and_named(
    tmp_path: Path, name_of_the_dead: str, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    name = name_of_the_dead.replace("_incomplete-", "_incomplete-elsewhere-") + suffix
    filled(tmp_path / name)
    remove_left_behind(str(tmp_path / "out"))
    assert left(tmp_path) == [name]
    assert capsys.readouterr().err == f"left where it is, as its run may go on elsewhere: {tmp_path / name}\n"


def test_a_name_that_is_not_ours_is_left_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / ".out_incomplete-0")
    remove_left_behind(str(tmp_path / "out"))
    assert left(tmp_path) == [".out_incomplete-0"]
    assert str(tmp_path / ".out_incomplete-0") in capsys.readouterr().err


def test_after_another_start_of_the_machine_it_is_another_host(
    tmp_path: Path, name_of_the_dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.fullmatch(r"(.+-)[0-9a-f]{8}(-\d+-\d+-[0-9a-f]{8})", name_of_the_dead)
    assert found
    name = f"{found[1]}00000000{found[2]}"
    filled(tmp_path / name)
    remove_left_behind(str(tmp_path / "out"))
    assert left(tmp_path) == [name]
    assert name in capsys.readouterr().err


def test_results_that_were_set_aside_come_back(tmp_path: Path, name_of_the_dead: str) -> None:
    # Killed between the two renames: the old results are aside, and so are the new ones, though whole.
    filled(tmp_path / name_of_the_dead, NEW)
    filled(tmp_path / f"{name_of_the_dead}.old", OLD)
    remove_left_behind(str(tmp_path / "out"))
    assert left(tmp_path) == ["out"]
    assert contents(tmp_path) == {f"out/{PART}": OLD}


def test_results_that_were_replaced_go(tmp_path: Path, name_of_the_dead: str) -> None:
    # Killed between the second rename and the end.
    filled(tmp_path / "out", NEW)
    filled(tmp_path / f"{name_of_the_dead}.old", OLD)
    remove_left_behind(str(tmp_path / "out"))
    assert left(tmp_path) == ["out"]
    assert contents(tmp_path) == {f"out/{PART}": NEW}


def test_results_that_come_back_are_not_replaced_without_being_asked_for(
    tmp_path: Path, name_of_the_dead: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for results that were there all the time, that is found before any work."""
    source = write(tmp_path / "in" / "a.parquet", {"value": [1.0]})
    filled(tmp_path / f"{name_of_the_dead}.old", OLD)
    worked: list[bool] = []
    engine_run = LocalEngine.run

    def run(engine: LocalEngine) -> None:
        worked.append(True)
        engine_run(engine)

    monkeypatch.setattr(LocalEngine, "run", run)
    argv = ["--input", str(source), "--value=value", "--output", str(tmp_path / "out"), "--quiet"]
    status = parquet.main(argv)
    assert contents(tmp_path / "out") == {PART: OLD}
    check_fault(capsys.readouterr().err, [f"--output {tmp_path / 'out'}", "--overwrite"])
    assert (status, worked) == (2, [])


# --- in place ---------------------------------------------------------------------------------------------------------


def test_what_was_written_aside_takes_its_place(tmp_path: Path) -> None:
    staging = Path(stage(str(tmp_path / "out")))
    (staging / PART).write_bytes(NEW)
    publish(str(staging), str(tmp_path / "out"))
    assert left(tmp_path) == ["out"]
    assert contents(tmp_path / "out") == {PART: NEW}


def test_what_killed_writers_have_left_does_not(tmp_path: Path) -> None:
    staging = Path(stage(str(tmp_path / "out")))
    for name in (f".{PART}.0123456789abcdef", ".unfinished/1-1-0123456789abcdef", f"totals/.{PART}.0123456789abcdef"):
        (staging / name).parent.mkdir(exist_ok=True)
        (staging / name).touch()
    (staging / "totals" / PART).write_bytes(NEW)
    publish(str(staging), str(tmp_path / "out"))
    assert left(tmp_path) == ["out"]
    assert contents(tmp_path / "out") == {f"totals/{PART}": NEW}


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([], "part-00000-of-00001.parquet"),
        (["part-00000-of-00003.parquet", "part-00002-of-00003.parquet"], "part-00001-of-00003.parquet"),
        (["totals/part-00000-of-00001.parquet", "overall/"], "overall/part-00000-of-00001.parquet"),
        (["totals/part-00000-of-00002.parquet"], "totals/part-00001-of-00002.parquet"),
        ([".part-00000-of-00001.parquet.0123456789abcdef"], "part-00000-of-00001.parquet"),
    ],
)
def test_a_table_without_all_of_its_files_is_not_whole(tmp_path: Path, names: list[str], missing: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"--output out: expected {missing} after the run, found none"):
        check_whole(str(tmp_path), "out")
    (tmp_path / missing).touch()
    check_whole(str(tmp_path), "out")


def test_an_empty_directory_may_stand_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    staging = Path(stage(str(tmp_path / "out")))
    (staging / PART).write_bytes(NEW)
    publish(str(staging), str(tmp_path / "out"))
    assert left(tmp_path) == ["out"]
    assert contents(tmp_path / "out") == {PART: NEW}


def test_earlier_results_are_replaced_as_a_whole(tmp_path: Path) -> None:
    filled(tmp_path / "out", OLD)
    (tmp_path / "out" / "part-00001-of-00002.parquet").write_bytes(OLD)
    staging = Path(stage(str(tmp_path / "out")))
    (staging / PART).write_bytes(NEW)
    publish(str(staging), str(tmp_path / "out"), overwrite=True)
    assert left(tmp_path) == ["out"]
    assert contents(tmp_path / "out") == {PART: NEW}


@pytest.mark.parametrize(
    ("name", "overwrite", "said"), [(PART, False, "or --overwrite"), ("notes.txt", True, "nothing there but earlier")]
)
def test_what_has_come_to_stand_there_meanwhile_stays(tmp_path: Path, name: str, overwrite: bool, said: str) -> None:
    staging = stage(str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"another's")
    with pytest.raises(InputError, match=said):
        publish(staging, str(tmp_path / "out"), overwrite=overwrite)
    assert contents(tmp_path / "out") == {name: b"another's"}
    discard(staging)
    assert left(tmp_path) == ["out"]


def test_the_old_results_are_aside_for_no_longer_than_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the process is killed, the old results or the new ones are whole, and found by the next run."""
    filled(tmp_path / "out", OLD)
    staging = Path(stage(str(tmp_path / "out")))
    (staging / PART).write_bytes(NEW)
    seen = []
    rename = os.rename

    def watched(old: str, new: str) -> None:
        rename(old, new)
        seen.append({path: content for path, content in contents(tmp_path).items() if not path.startswith("out/")})

    monkeypatch.setattr(os, "rename", watched)
    publish(str(staging), str(tmp_path / "out"), overwrite=True)
    assert seen == [
        {f"{staging.name}/{PART}": NEW, f"{staging.name}.old/{PART}": OLD},
        {f"{staging.name}.old/{PART}": OLD},
    ]


def test_what_was_written_aside_is_discarded_with_all_that_is_in_it(tmp_path: Path) -> None:
    staging = stage(str(tmp_path / "out"))
    filled(Path(staging) / "totals")
    discard(staging)
    assert left(tmp_path) == []
    discard(staging)  # of what is gone nothing is said


# --- what is not replaced ---------------------------------------------------------------------------------------------


def test_files_of_others_that_are_called_like_results_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", {"x": [1.0]})
    arguments = [f"--input={source}", "--value=x", "--quiet", "--overwrite"]
    for content in (source.read_bytes(), b"no Parquet at all"):
        place = tmp_path / f"out {len(content)}"
        place.mkdir()
        (place / PART).write_bytes(content)
        assert parquet.main([*arguments, f"--output={place}"]) == 2
        check_fault(capsys.readouterr().err, [f"--output {place}: expected nothing there but results", f"found {PART}"])
        assert contents(place) == {PART: content}
    assert parquet.main([*arguments, f"--output={tmp_path / 'own'}"]) == 0
    assert parquet.main([*arguments, f"--output={tmp_path / 'own'}"]) == 0


@pytest.mark.parametrize("place", [".", "..", "../here", "/"])
def test_the_current_directory_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    source = write(tmp_path / "a.parquet", {"x": [1.0]})
    (tmp_path / "there" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there" / "here")
    assert parquet.main([f"--input={source}", "--value=x", f"--output={place}", "--overwrite"]) == 2
    check_fault(capsys.readouterr().err, [f"--output {place}: expected a directory that can be replaced"])
    assert Path.cwd().exists()
    assert list((tmp_path / "there").rglob("*")) == [tmp_path / "there" / "here"]
