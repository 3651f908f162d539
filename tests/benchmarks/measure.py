"""Timing in turn, and tables of it."""

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cores import AVAILABLE, ENVIRONMENT, cores

from lse_stream import kernel_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("numpy", "pyarrow", "apache-beam", "scipy", "torch", "jax", "duckdb", "polars")


@dataclass
class Measurement:
    """Figures of one way to do some work, in seconds or in what ``unit`` says.

    ``wall`` is what a user waits. ``cpu`` is the processor time of all threads, which hardly changes with what else the
    machine does. ``peak`` is memory in MB, of whole processes.
    """

    name: str
    unit: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)

    def take(self, work: Callable[[], object], per: float) -> None:
        """Measures ``work`` once more, and divides by ``per``."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall.append((time.perf_counter() - wall) / per)
        self.cpu.append((time.process_time() - cpu) / per)


@dataclass(frozen=True)
class Check:
    """A target: ``found`` is to be at most ``limit``. ``cpu`` is the same by processor time."""

    what: str
    found: float
    limit: float
    cpu: float | None = None

    @property
    def verdict(self) -> str:
        return "met" if self.found <= self.limit else "**missed**"


@dataclass(frozen=True)
class Result:
    """One piece of work: ours is the first measurement."""

    title: str
    measurements: list[Measurement]
    checks: list[Check]


def ratio(measurements: Sequence[Measurement], limit: float, names: Sequence[str] = ()) -> Check:
    """Ours, the first, over the fastest of the peers, or of those of them that are named."""
    ours, *peers = measurements
    best = min((peer for peer in peers if not names or peer.name in names), key=lambda peer: peer.median)
    return Check(f"time over {best.name}'s", ours.median / best.median, limit, ours.median_cpu / best.median_cpu)


def in_turn(
    ways: dict[str, Callable[[], Any]], same: Callable[[dict[str, Any]], None], rounds: int, per: float, unit: str
) -> list[Measurement]:
    """Measures each way, A B C A B C ..., after one call that does not count and whose results ``same`` compares."""
    same({name: way() for name, way in ways.items()})
    measurements = [Measurement(name, unit) for name in ways]
    for _ in range(rounds):
        for measurement, way in zip(measurements, ways.values(), strict=True):
            measurement.take(way, per)
    return measurements


def processes_in_turn(commands: dict[str, list[str]], rounds: int) -> list[Measurement]:
    """Whole processes on two cores, from start to exit, after one run of each that does not count."""
    measurements = [Measurement(name, "s") for name in commands]
    with cores(2):
        for _ in range(rounds + 1):
            for measurement, command in zip(measurements, commands.values(), strict=True):
                _run(measurement, command)
    for measurement in measurements:
        del measurement.wall[0], measurement.cpu[0]
    return measurements


def alone(data: Path) -> Path:
    """The Python of an environment with this project alone, built anew: pyarrow and Beam import what else they find."""
    python = data / "environment" / "bin" / "python"
    if python not in _BUILT:
        subprocess.run(
            ["uv", "venv", "--quiet", "--clear", "--python", sys.executable, data / "environment"], check=True
        )
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, ROOT], check=True)
        subprocess.run([python, "-m", "compileall", "-q", data / "environment"], check=False)
        _BUILT.add(python)
    return python


_BUILT: set[Path] = set()


def _run(measurement: Measurement, command: list[str]) -> None:
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while True:
        # Not the peak from wait4: that of a child begins with its parent's.
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii"))
        measurement.peak = max(measurement.peak, int(found[1]) / 1024 if found else 0.0)
        pid, exit_status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.01)
    measurement.wall.append(time.perf_counter() - start)
    measurement.cpu.append(usage.ru_utime + usage.ru_stime)
    process.returncode = os.waitstatus_to_exitcode(exit_status)
    if process.returncode:
        raise RuntimeError(f"{measurement.name}: expected exit status 0, found {process.returncode}: {command}")


def machine() -> str:
    """The machine and the versions, in one paragraph."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    packages = []
    for name in PACKAGES:
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} absent")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {len(AVAILABLE)} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, kernel {kernel_name()}; {', '.join(packages)}"
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join([_row(head), _row("---" for _ in head), *map(_row, rows)])


def details(result: Result) -> str:
    """A Markdown table of one result, fastest first, and how it stands to its targets."""
    rows = [
        [
            m.name,
            f"{m.median:.4g}",
            f"{min(m.wall):.4g} to {max(m.wall):.4g}",
            f"{m.median_cpu:.4g}",
            f"{m.peak:,.0f}" if m.peak else "",
        ]
        for m in sorted(result.measurements, key=lambda m: m.median)
    ]
    head = ["way", f"median, {result.measurements[0].unit}", "min to max", "processor time", "peak MB"]
    lines = [f"{c.what}: {c.found:.3f}, target at most {c.limit:g}: {c.verdict}" for c in result.checks]
    return "\n\n".join([f"**{result.title}**", table(head, rows), "  \n".join(lines)]) + "\n"


def summary(results: Sequence[Result]) -> str:
    """A Markdown table of all results: one row per target."""
    rows = []
    for result in results:
        ours, *peers = result.measurements
        figures = ", ".join(f"{peer.name} {peer.median:.3g}" for peer in sorted(peers, key=lambda peer: peer.median))
        for i, check in enumerate(result.checks):
            cpu = "" if check.cpu is None else f"{check.cpu:.3f}"
            figure = f"{ours.median:.3g} {ours.unit}"
            first = [result.title, figure, figures] if i == 0 else ["", "", ""]
            rows.append([*first, check.what, f"{check.found:.3f}", cpu, f"{check.limit:g}", check.verdict])
    head = ["work", "ours", "peers", "target is", "found", "by processor time", "at most", "verdict"]
    return table(head, rows)
