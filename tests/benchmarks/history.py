"""What earlier runs found: one JSON file for each machine and version, in ``results``."""

import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from measure import Result, machine, table
from packaging.version import Version

RESULTS = Path(__file__).parent / "results"


def place() -> Path:
    """The file of this machine and version."""
    model = machine().partition(",")[0]
    return RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', model.lower()).strip('-')}-{version('lse-stream')}.json"


def save(results: Sequence[Result]) -> Path:
    """Puts results beside those of other work that the file has."""
    path = place()
    path.parent.mkdir(exist_ok=True)
    held = json.loads(path.read_text()) if path.exists() else {"work": {}}
    held["machine"] = machine()
    for result in results:
        ours = result.measurements[0]
        held["work"][result.title] = {
            ours.unit: [round(figure, 6) for figure in (ours.median, min(ours.wall), max(ours.wall))],
            **{check.what: round(check.found, 4) for check in result.checks},
        }
    held["work"] = dict(sorted(held["work"].items()))
    path.write_text(json.dumps(held, indent=1) + "\n")
    return path


def last() -> Path | None:
    """The file of this machine with the newest version."""
    model = place().name.removesuffix(f"{version('lse-stream')}.json")
    return max(RESULTS.glob(f"{model}*.json"), key=lambda path: Version(path.stem.removeprefix(model)), default=None)


def compared(results: Sequence[Result], path: Path) -> str:
    """A Markdown table of what is measured against the last figures: above 1 is slower."""
    held = json.loads(path.read_text())["work"]
    rows = []
    for result in results:
        for check in result.checks:
            then = held.get(result.title, {}).get(check.what)
            change = "new" if then is None else f"{check.found / then:.2f}"
            rows.append([result.title, check.what, "" if then is None else f"{then:.3f}", f"{check.found:.3f}", change])
    return table(["work", "target is", f"in {path.stem}", "now", "now over then"], rows)
