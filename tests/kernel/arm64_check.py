"""Run by an arm64 Python, with NumPy alone: every kernel gives the known answers and the golden records.

``python arm64_check.py GOLDEN_FOLDER`` prints how many records each kernel gave.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lse_stream import _kernel
from lse_stream.accumulators import LogSumExpAccumulator
from lse_stream.states.arrays import StateArray
from lse_stream.states.codec import decode_states, encode_states


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / f"{name}_v2.json").read_text(encoding="ascii"))
    return entries


def check_golden(folder: Path) -> int:
    for entry in read(folder, "states"):
        state = LogSumExpAccumulator([float.fromhex(x) for x in entry["values"]])
        assert state.to_bytes().hex() == entry["record"], entry["name"]
        assert np.float64(state.value()).tobytes() == np.float64(float.fromhex(entry["value"])).tobytes(), entry["name"]
    for entry in read(folder, "aggregations"):
        record = np.frombuffer(bytes.fromhex(entry["record"]), np.uint64)
        known = decode_states(record, np.array([0, record.size]))
        rows = [[float.fromhex(x) for x in row] for row in entry["rows"]]
        columns = np.array(rows).reshape(len(rows), len(known.aggregation.inputs)).T
        codes = np.zeros(len(rows), np.int32)
        found = StateArray.group(known.aggregation, known.scale, codes, list(columns), 1)
        assert encode_states(found)[0].tobytes() == record.tobytes(), entry["name"]
    for entry in read(folder, "merges"):
        parts = [np.frombuffer(bytes.fromhex(part), np.uint64) for part in entry["parts"]]
        offsets = np.cumsum([0, *(part.size for part in parts)])
        merged = decode_states(np.concatenate(parts), offsets).merge(np.zeros(len(parts), np.int32), 1)
        assert encode_states(merged)[0].tobytes().hex() == entry["merged"], entry["name"]
    return sum(len(read(folder, name)) for name in ("states", "aggregations", "merges"))


if __name__ == "__main__":
    for name in _kernel.available():
        _kernel.select(name)  # which checks the known answers
        print(name, check_golden(Path(sys.argv[1])), flush=True)
