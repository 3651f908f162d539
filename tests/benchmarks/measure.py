"""Timing in turn, and tables of it."""

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lse_stream import kernel_name

PACKAGES = ("numpy", "pyarrow", "apache-beam", "scipy", "torch", "jax", "duckdb", "polars")


@dataclass
class Measurement:
    """Figures of one way to do some work. ``unit`` says what a figure is; ``peak`` is in MB, of whole processes."""

    name: str
    unit: str
    figures: list[float] = field(default_factory=list)
    peak: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.figures)


@dataclass(frozen=True)
class Target:
    """``ours`` is to take at most ``ratio`` times what the best of ``peers`` takes."""

    ours: str
    ratio: float
    peers: Sequence[str] = ()


def in_turn(ways: dict[str, Callable[[], object]], rounds: int, per: float, unit: str) -> list[Measurement]:
    """Seconds of each way divided by ``per``, after one call that does not count."""
    measurements = {name: Measurement(name, unit) for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            measurements[name].figures.append((time.perf_counter() - start) / per)
    return list(measurements.values())


def processes_in_turn(commands: dict[str, list[str]], rounds: int) -> list[Measurement]:
    """Seconds of whole processes, on two cores, after one run that does not count."""
    measurements = {name: Measurement(name, "s") for name in commands}
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    for name in ("POLARS_MAX_THREADS", "XLA_FLAGS"):
        environment.pop(name, None)
    for i in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            peak = 0.0
            with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    # Not from getrusage: there a child's peak begins with its parent's.
                    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                    peak = max([peak, *(float(kib) / 1024 for kib in re.findall(r"VmHWM:\s+(\d+)", status))])
                    time.sleep(0.01)
            seconds = time.perf_counter() - start
            if process.returncode:
                raise RuntimeError(f"{name} failed: {command}")
            if i or not rounds:
                measurements[name].figures.append(seconds)
                measurements[name].peak = max(measurements[name].peak, peak)
    return list(measurements.values())


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines() if sys.platform == "linux" else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    packages = []
    for name in PACKAGES:
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} absent")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, "
        f"kernel {kernel_name()}; {', '.join(packages)}"
    )


def report(title: str, measurements: list[Measurement], target: Target | None) -> str:
    """A Markdown table, fastest first, and the ratio that the target is about."""
    unit = measurements[0].unit
    lines = [f"**{title}**", "", f"| way | median, {unit} | min to max | peak MB |", "| --- | --- | --- | --- |"]
    for m in sorted(measurements, key=lambda m: m.median):
        peak = f"{m.peak:,.0f}" if m.peak else ""
        lines.append(f"| {m.name} | {m.median:.4g} | {min(m.figures):.4g} to {max(m.figures):.4g} | {peak} |")
    if target:
        medians = {m.name: m.median for m in measurements}
        peers = {name: medians[name] for name in target.peers or medians if name in medians and name != target.ours}
        best = min(peers, key=lambda name: peers[name])
        ratio = medians[target.ours] / peers[best]
        verdict = "met" if ratio <= target.ratio else "missed"
        lines += ["", f"{target.ours}: {ratio:.2f} x {best}; target {target.ratio} x: {verdict}"]
    return "\n".join([*lines, ""])
