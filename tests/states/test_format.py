"""The format of states as others read it: the test vectors of ``docs/state-format.md``, and an independent reader."""

import json
import shutil
import subprocess
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model import sealed
from test_states import CASES, Case, random_rows

from lse_stream import StateError
from lse_stream._kernel import constants
from lse_stream.accumulators import (
    EffectiveSampleSizeAccumulator,
    ExactSumAccumulator,
    LogLikelihoodAccumulator,
    LogSumExpAccumulator,
    WeightedLogSumExpAccumulator,
)
from lse_stream.integers import split_values
from lse_stream.state_column import states_from_arrow, states_to_arrow
from lse_stream.states.arrays import StateArray
from lse_stream.states.codec import encode_states

GOLDEN = Path(__file__).parents[1] / "golden"
READER = Path(__file__).parents[1] / "format" / "reader.mjs"

CONSTANTS = (
    *("FAR", "TOO_FAR", "FAR_PER_UNIT", "FAR_1", "FAR_2", "FAR_3", "FAR_4"),
    *("STEPS_PER_UNIT", "STEP_1", "STEP_2", "STEP_3", "E1", "E2", "E3"),
)
INTEGERS = (
    "VERSION",
    "LIMB_BITS",
    "NO_BASE",
    "FAR_BASE",
    "LEAST_WEIGHT_BASE",
    "MOST_WEIGHT_BASE",
    "UNIT",
    "MOST_RECORD_WORDS",
)


def write_golden() -> None:
    """Run once for a new version, after those of ``test_accumulators`` and ``test_states``."""
    table = [[part.hex() for part in row] for row in constants.EXP2_TABLE]
    floats = {name: float(getattr(constants, name)).hex() for name in CONSTANTS}
    integers = {name: str(getattr(constants, name)) for name in INTEGERS}
    _write("constants", [{**floats, **integers, "EXP2_TABLE": table}])
    _write("merges", [merge_of(name, case, seed) for name, case in CASES.items() for seed in range(6)])
    _write("refusals", refusals())
    entries = json.loads((GOLDEN / "aggregations_v2.json").read_text(encoding="ascii"))
    names = [entry["name"] for entry in entries]
    records = pa.array([bytes.fromhex(entry["record"]) for entry in entries], pa.binary())
    pq.write_table(pa.table({"name": names, "record": records}), GOLDEN / "states_v2.parquet")


def _write(name: str, entries: list[dict[str, Any]]) -> None:
    lines = "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n"
    (GOLDEN / f"{name}_v2.json").write_text(lines, encoding="ascii")


def read(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((GOLDEN / f"{name}_v2.json").read_text(encoding="ascii"))
    return entries


def merge_of(name: str, case: Case, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rows = random_rows(case, rng, 24)
    parts = [case.of(rows[start : start + 6]) for start in range(0, 24, 6)]
    return {
        "name": f"{name}, {seed}",
        "parts": [part.to_bytes().hex() for part in parts],
        "merged": case.of(rows).to_bytes().hex(),
    }


def edited(record: bytes, place: int, value: float) -> bytes:
    """The record with another float or int64 at a place, and a check that fits."""
    data = np.float64(value).tobytes() if isinstance(value, float) else value.to_bytes(8, "little", signed=True)
    return sealed(record[:place] + data + record[place + 8 :])


def refusals() -> list[dict[str, Any]]:
    """Bytes that are no record."""
    good = LogSumExpAccumulator([1.0, 2.0, 3.0]).to_bytes()
    infinite, nan = (LogSumExpAccumulator([x, 1.0]).to_bytes() for x in (np.inf, np.nan))
    on_scale = LogSumExpAccumulator([1.0, 2.0, 3.0], scale="base 4").to_bytes()
    weighted = WeightedLogSumExpAccumulator([1.0, 2.0], [1.0, 3.0]).to_bytes()
    of_infinity = WeightedLogSumExpAccumulator([np.inf], [1.0]).to_bytes()
    likelihood, nothing = (LogLikelihoodAccumulator(x).to_bytes() for x in ([1.0, 2.0], []))
    effective = EffectiveSampleSizeAccumulator([1.0, 2.0]).to_bytes()
    plain, of_nan, of_none = (ExactSumAccumulator(x).to_bytes() for x in ([1.0, 2.0], [np.nan], []))
    integers = ExactSumAccumulator([-1, 2**60], digits=2).to_bytes()
    found = {
        "truncated": good[:-8],
        "longer": sealed(good + bytes(8)),
        "nothing": b"",
        "one wrong bit": good[:40] + bytes([good[40] ^ 4]) + good[41:],
        "a wrong check": good[:4] + bytes([good[4] ^ 1]) + good[5:],
        "version 1": sealed(b"\1" + good[1:]),
        "an aggregation that is not known": sealed(good[:1] + b"\x63" + good[2:]),
        "a scale that is not known": sealed(good[:2] + b"\x09" + good[3:]),
        "a scale that the aggregation does not have": sealed(likelihood[:2] + b"\x03" + likelihood[3:]),
        "a base of 1": edited(on_scale, 16, 1.0),
        "a negative count": edited(good, 8, -1),
        "a max without values": edited(good, 8, 0),
        "a max of another NaN": edited(good, 16, -0x0007_FFFF_FFFF_FFFF),
        "a max of -0.0": edited(LogSumExpAccumulator([0.0]).to_bytes(), 16, -0.0),
        "no ties": edited(good, 24, 0),
        "more ties than values": edited(good, 24, 4),
        "ties of NaN": edited(nan, 24, 1),
        "ties of some of -inf": edited(LogSumExpAccumulator([-np.inf, -np.inf]).to_bytes(), 24, 1),
        "nothing but ties, and a second": edited(good, 24, 3),
        "a second above the max": edited(good, 32, 4.0),
        "a second of -0.0": edited(LogSumExpAccumulator([0.0, 1.0]).to_bytes(), 32, -0.0),
        "a second that is not near": edited(good, 32, -(2.0**60)),
        "a second of a max that is not near": edited(infinite, 32, 1.0),
        "a rest below the term of the second": edited(good, 32, 2.5),
        "a rest of one value that is not its term": edited(good, 24, 2),
        "a rest without a second": edited(good, 32, -np.inf),
        "a rest that is too large": edited(good, 48, 1 << 40),
        "a second sum of other values": edited(effective, 88, 3.0),
        "a base between two": edited(weighted, 24, 1),
        "a base of no weight": edited(weighted, 24, -1150),
        "a base of +inf": edited(of_infinity, 24, 0),
        "a sign of 2": edited(of_infinity, 32, 2),
        "an exact sum with a word too many": sealed(
            likelihood[:88] + bytes([34, 0, 2, 0]) + likelihood[92:104] + bytes(8) + likelihood[104:]
        ),
        "an exact sum that no values have": sealed(likelihood[:88] + bytes([67, 0, 1, 0]) + likelihood[92:]),
        "an exact sum of another special": edited(likelihood, 88, 4 << 32),
        "an exact sum without rows": sealed(nothing[:88] + likelihood[88:]),
        "a special without rows": edited(nothing, 96, 3 << 32),
        "a min above the max": edited(plain, 16, 3.0),
        "a min of -0.0": edited(plain, 16, -0.0),
        "a min of NaN alone": edited(plain, 16, np.nan),
        "a min of another NaN": edited(of_nan, 16, -0x0007_FFFF_FFFF_FFFF),
        "extremes without rows": edited(of_none, 16, 0.0),
        "extremes of no rows": edited(plain, 8, 0),
        "39 digits after the point": edited(integers, 16, 39),
        "an extreme with a digit that is too large": edited(integers, 64, 2.0**53),
        "an extreme of two signs": edited(integers, 56, -(2.0**53)),
        "an extreme that is no integer": edited(integers, 40, -0.5),
        "an integer min above the max": edited(integers, 24, 2.0**106),
        "an extreme with a tiny term": edited(integers, 48, 5e-324),
        "an extreme of 39 digits": edited(integers, 48, 5 * 2.0**124),
        "an exact sum of integers that is special": edited(ExactSumAccumulator(digits=0).to_bytes(), 72, 1 << 32),
        "an exact sum of integers that has a fraction": edited(integers, 72, 33 | 1 << 16),
    }
    return [{"reason": reason, "record": record.hex()} for reason, record in found.items()]


@pytest.mark.usefixtures("kernel")
def test_the_vectors_of_merges() -> None:
    for entry in read("merges"):
        for parts in islice(permutations(entry["parts"]), 0, None, 5):
            column = pa.array([bytes.fromhex(part) for part in parts], pa.binary())
            merged = states_from_arrow(column)[0].merge(np.zeros(len(parts), np.int32), 1)
            assert encode_states(merged)[0].tobytes().hex() == entry["merged"], entry["name"]


@pytest.mark.usefixtures("kernel")
def test_the_vectors_of_refusals() -> None:
    entries = read("refusals")
    assert entries == refusals()
    for entry in entries:
        for rows in (1, 2):  # one row has a way of its own
            with pytest.raises(StateError):
                states_from_arrow(pa.array([bytes.fromhex(entry["record"])] * rows, pa.binary()))


def test_the_vectors_as_a_column() -> None:
    table = pq.read_table(GOLDEN / "states_v2.parquet")
    assert table["record"].to_pylist() == [bytes.fromhex(entry["record"]) for entry in read("aggregations")]


@pytest.mark.skipif(not shutil.which("node"), reason="the independent reader needs Node.js")
def test_an_independent_reader_agrees(tmp_path: Path) -> None:
    """On the vectors, and on 10^5 pairs of random states: it writes the bytes of their merge that are written here."""
    rng = np.random.default_rng(2)
    lines = []
    for case in CASES.values():
        n = 100_000 // len(CASES) + 1
        rows = random_rows(case, rng, 12 * n)
        columns = case.columns(rows)
        if case.digits is not None:
            columns = split_values(columns[0], case.digits, "value")
        fine, coarse = np.repeat(np.arange(2 * n, dtype=np.int32), 6), np.repeat(np.arange(n, dtype=np.int32), 12)
        aggregation, scale = case.make().states().aggregation, case.make().scale
        halves, wholes = (
            states_to_arrow(StateArray.group(aggregation, scale, codes, columns, groups)).to_pylist()
            for codes, groups in ((fine, 2 * n), (coarse, n))
        )
        for one, other, whole in zip(halves[::2], halves[1::2], wholes, strict=True):
            lines.append(f"{one.hex()} {other.hex()} {whole.hex()}")
    path = tmp_path / "merges.txt"
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    run = subprocess.run(["node", str(READER), str(GOLDEN), str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert f"{len(lines)} merges" in run.stdout
