"""How much memory is free, by what bounds this process: the machine, or a control group."""

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_VERSION_2 = ("memory.max", "memory.current")


def free_memory() -> int:
    """Bytes that may still be used: what the machine has available, or less, where a control group is limited."""
    found = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    }
    return max(min([found["MemAvailable"], *_group_limits()]), 0)


def _group_limits() -> list[int]:
    """What is left of the limit of each control group around this process, of version 1 and 2."""
    left = []
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUP / "memory" if controllers else _CGROUP
        limit, usage = _VERSION_1 if controllers else _VERSION_2
        # In a container the path may be that of the host, and the group's files are at the root.
        folder = root / path.lstrip("/")
        while folder.is_relative_to(root):
            try:
                most = (folder / limit).read_text(encoding="ascii").strip()
                if most != "max":
                    left.append(int(most) - _used(folder, usage))
            except (OSError, ValueError):
                pass  # no such group here
            folder = folder.parent
    return left


def _used(folder: Path, usage: str) -> int:
    """What a group uses, but for files in memory, which make room when it is needed."""
    used = int((folder / usage).read_text(encoding="ascii"))
    stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    # Version 1 reports a group's own and, as the usage is, that of all groups within it.
    return used - int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
