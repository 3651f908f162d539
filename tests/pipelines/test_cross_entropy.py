"""``python -m pipelines.cross_entropy`` end to end: against mpmath and torch, lists and shards of classes, faults."""

import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import ROOT, check_bad, check_bytes, contents, split, write

from lse_stream import list_functions
from pipelines.cross_entropy import main

DIGITS = ROOT / "pipelines" / "samples" / "digits_logits.parquet"
LISTS = ["--logits=logits", "--label=label"]
ROWS = ["--value=logit", "--class=class", "--example=image", "--label=label"]

# torch.nn.functional.cross_entropy of the digits in float64, torch 2.15: mean, sum, and mean without label 3.
TORCH = 0.20684451023636563, 185.74637019225634, 0.19855634401699124


def sharded(table: pa.Table) -> pa.Table:
    """A row for each class of each example, in disorder."""
    rows = [
        {"image": row["image"], "class": i, "logit": logit, "label": row["label"], "fold": row["image"] % 3}
        for row in table.to_pylist()
        for i, logit in enumerate(row["logits"])
    ]
    schema = {"image": pa.int16(), "class": pa.int64(), "logit": pa.float32(), "label": pa.int8(), "fold": pa.int8()}
    return pa.Table.from_pylist(rows, pa.schema(schema)).take(np.random.default_rng(0).permutation(len(rows)))


def run(folder: Path, source: object, *arguments: str) -> dict[str, pa.Table]:
    argv = ["--input", str(source), "--output", str(folder), "--quiet", *arguments]
    assert main(argv) == 0
    return {path.name: pq.read_table(path, partitioning=None) for path in sorted(folder.iterdir()) if path.is_dir()}


def test_the_digits_are_the_true_values_and_those_of_torch(tmp_path: Path) -> None:
    found = run(tmp_path / "out", DIGITS, *LISTS, "--key=label")
    results = {"count": pa.int64(), "sum": pa.float64(), "mean": pa.float64(), "perplexity": pa.float64()}
    assert found["totals"].schema == pa.schema({"label": pa.int8()} | results)
    assert found["overall"].schema == pa.schema(results)
    table = pq.read_table(DIGITS).to_pylist()
    with mpmath.workprec(200):
        losses = [mpmath.log(mpmath.fsum(map(mpmath.exp, r["logits"]))) - r["logits"][r["label"]] for r in table]
        for row in [*found["totals"].to_pylist(), *found["overall"].to_pylist()]:
            own = [x for x, r in zip(losses, table, strict=True) if row.get("label", r["label"]) == r["label"]]
            assert row["count"] == len(own)
            assert row["sum"] == pytest.approx(float(mpmath.fsum(own)), rel=2e-15)
            assert row["mean"] == pytest.approx(float(mpmath.fsum(own) / len(own)), rel=2e-15)
            assert row["perplexity"] == pytest.approx(float(mpmath.exp(mpmath.fsum(own) / len(own))), rel=2e-15)
    [overall] = found["overall"].to_pylist()
    assert (overall["mean"], overall["sum"]) == pytest.approx(TORCH[:2], rel=1e-14)
    without = run(tmp_path / "without", DIGITS, *LISTS, "--ignore_label=3")["overall"].to_pylist()[0]
    assert without["mean"] == pytest.approx(TORCH[2], rel=1e-14)
    assert without["count"] == 805


def test_torch_says_so_still() -> None:
    torch = pytest.importorskip("torch")
    table = pq.read_table(DIGITS)
    logits, labels = (
        torch.tensor(table["logits"].to_pylist(), dtype=torch.float64),
        torch.tensor(table["label"].to_pylist()),
    )
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert (losses.mean().item(), losses.sum().item()) == pytest.approx(TORCH[:2], rel=1e-14)
    ours = list_functions.cross_entropy(table["logits"], table["label"]).to_numpy()
    np.testing.assert_allclose(ours, losses.numpy(), rtol=1e-13, atol=1e-15)


def test_classes_in_shards_give_the_bytes_of_lists(tmp_path: Path) -> None:
    table = pq.read_table(DIGITS).slice(0, 200)
    lists = write(
        tmp_path / "lists.parquet",
        table.append_column("fold", pa.array([i % 3 for i in table["image"].to_pylist()], pa.int8())),
    )
    run(tmp_path / "lists", lists, *LISTS, "--key=fold")
    rows = sharded(table)
    source = split(tmp_path / "rows", rows, 4, row_group_size=333)
    run(tmp_path / "rows_out", source, *ROWS, "--key=fold")
    assert contents(tmp_path / "rows_out") == contents(tmp_path / "lists")
    # Labels in files of their own, more of them than needed, in another integer type.
    labels = pq.read_table(DIGITS).select(["image", "label"])
    labels = labels.set_column(1, "label", labels["label"].cast(pa.uint16()))
    split(tmp_path / "labels", labels, 3)
    source = split(tmp_path / "bare", rows.drop_columns("label"), 4)
    run(tmp_path / "labels_out", source, *ROWS, "--key=fold", "--labels", str(tmp_path / "labels"))
    assert contents(tmp_path / "labels_out") == contents(tmp_path / "lists")


def test_classes_can_be_words(tmp_path: Path) -> None:
    words = pa.array(["cat", "dog", "cat", "dog", "cat", "dog"])
    rows = {"id": [1, 1, 2, 2, 3, 3], "class": words, "logit": [0.0, 0.0, 1.0, 0.0, 5.0, 5.0]}
    label = pa.array(["cat", "cat", "dog", "dog", "?", "?"]).dictionary_encode()
    source = write(tmp_path / "a.parquet", rows | {"label": label})
    always = ["--value=logit", "--class=class", "--example=id", "--label=label", "--ignore_label=?"]
    [row] = run(tmp_path / "out", source, *always)["overall"].to_pylist()
    assert row["count"] == 2
    assert row["sum"] == pytest.approx(math.log(2) + math.log1p(math.e), rel=1e-15)


def test_bits_are_nats_over_ln_2(tmp_path: Path) -> None:
    [nats] = run(tmp_path / "nats", DIGITS, *LISTS)["totals"].to_pylist()
    [bits] = run(tmp_path / "bits", DIGITS, *LISTS, "--unit=bits")["totals"].to_pylist()
    assert bits["count"] == nats["count"]
    assert bits["perplexity"] == nats["perplexity"] == pytest.approx(2 ** bits["mean"], rel=1e-14)
    for name in ("sum", "mean"):
        assert bits[name] == nats[name] / math.log(2)


def test_a_key_whose_examples_are_all_ignored_stays(tmp_path: Path) -> None:
    lists = {"k": ["a", "b"], "logits": [[1.0, 2.0], [3.0, 4.0]], "label": [-100, 1]}
    rows = {"k": ["a", "a", "b", "b"], "image": [1, 1, 2, 2], "class": [0, 1, 0, 1], "logit": [1.0, 2.0, 3.0, 4.0]}
    rows["label"] = [-100, -100, 1, 1]
    for name, table, arguments in (("lists", lists, LISTS), ("rows", rows, ROWS)):
        source = write(tmp_path / f"{name}.parquet", table)
        found = run(tmp_path / name, source, *arguments, "--key=k", "--ignore_label=-100")
        ignored, other = found["totals"].to_pylist()
        assert (ignored["k"], ignored["count"], ignored["sum"], str(ignored["mean"])) == ("a", 0, 0.0, "nan")
        assert (other["count"], other["mean"]) == (1, pytest.approx(math.log1p(math.exp(-1)), rel=1e-15))
    assert contents(tmp_path / "lists") == contents(tmp_path / "rows")


def test_infinite_logits(tmp_path: Path) -> None:
    inf = math.inf
    logits = [[-inf, 0.0], [-inf, 0.0], [-inf, -inf], [inf, 0.0], [1e308, -1e308]]
    losses = list_functions.cross_entropy(pa.array(logits), pa.array([1, 0, 0, 1, 1])).to_pylist()
    assert [str(loss) for loss in losses] == ["0.0", "inf", "nan", "inf", "inf"]
    rows = [(i, c, x) for i, row in enumerate(logits) for c, x in enumerate(row)]
    label = [[1, 0, 0, 1, 1][i] for i, _, _ in rows]
    ids, classes, values = map(list, zip(*rows, strict=True))
    columns = {"k": ids, "image": ids, "class": classes, "logit": values, "label": label}
    found = run(tmp_path / "out", write(tmp_path / "a.parquet", columns), *ROWS, "--key=k")
    assert [str(x) for x in found["totals"]["mean"].to_pylist()] == [str(loss) for loss in losses]


@pytest.mark.parametrize("list_type", [pa.list_(pa.float32()), pa.large_list(pa.float16()), pa.list_(pa.int32(), 3)])
def test_every_kind_of_list(list_type: pa.DataType) -> None:
    lists = pa.chunked_array([[[1, 2, 3], None, [0, 0, 0]], [], [[5, 4, 3]]], list_type)
    labels = pa.array([2, 0, None, 0], pa.uint8())
    found = list_functions.cross_entropy(lists, labels)
    assert found.type == pa.float64()
    first, *middle, last = found.to_pylist()
    assert middle == [None, None]
    assert first == last == pytest.approx(math.log(math.exp(-2) + math.exp(-1) + 1), rel=1e-15)
    assert list_functions.cross_entropy(lists.slice(3), labels.slice(3)).to_pylist() == [last]


@pytest.mark.parametrize(
    ("lists", "labels", "error", "message"),
    [
        ([[1.0, 2.0], [3.0]], [0, 1], ValueError, "row 1: expected a label from 0 to 0, found 1"),
        ([[1.0, 2.0], [3.0]], [-1, 0], ValueError, "row 0: expected a label from 0 to 1, found -1"),
        ([[1.0, None]], [0], ValueError, "row 0: expected numbers, found a null"),
        ([[1.0]], [0, 0], ValueError, "expected 1 as in lists, found 2"),
        ([[1.0]], [0.0], TypeError, "expected a pyarrow array of integers, found double"),
        ([["a"]], [0], TypeError, "lists"),
    ],
)
def test_what_the_function_refuses(lists: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list_functions.cross_entropy(pa.array(lists), pa.array(labels))


@pytest.mark.engine
def test_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    rows = sharded(pq.read_table(DIGITS).slice(0, 100))
    check_bytes("cross_entropy", main, tmp_path, rows, [*ROWS, "--key=fold", "--num_shards=2"])


def test_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input", str(DIGITS), *LISTS, "--key=label", "--output", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("898 rows of 1 file: 898 examples of 10 keys, ")
    assert lines[3].split() == ["label", "count", "sum", "mean", "perplexity"]
    assert lines[-3:-1] == ["overall", "count      sum      mean  perplexity"]
    assert lines[-1] == "  898  185.746  0.206845     1.22979"


# --- faults -----------------------------------------------------------------------------------------------------------

WIDE = {"id": ["x", "y"], "logits": [[1.0, 2.0], [3.0, 4.0]], "label": [0, 1]}
LONG = {"id": ["x", "x", "y", "y"], "class": [0, 1, 0, 1], "logit": [1.0, 2.0, 3.0, 4.0], "label": [0, 0, 1, 1]}
BARE = {name: column for name, column in LONG.items() if name != "label"}
LABELS = {"id": ["x", "y"], "label": [0, 1]}
OF_LISTS = "--input in --output out --logits logits --label label"
OF_ROWS = "--input in --output out --value logit --class class --example id --label label"
BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "neither form": ({"in/a.parquet": WIDE}, "--input in --output out --label label", ["--logits, --value"]),
    "both forms": ({"in/a.parquet": WIDE}, f"{OF_LISTS} --value logit", ["--logits, --value"]),
    "no label": ({"in/a.parquet": WIDE}, "--input in --output out --logits logits", ["--label: expected"]),
    "labels of lists": ({"in/a.parquet": WIDE}, f"{OF_LISTS} --labels in", ["--labels", "--logits"]),
    "no classes": ({"in/a.parquet": LONG}, OF_ROWS.replace("--class class ", ""), ["--class", "--value"]),
    "no example": ({"in/a.parquet": LONG}, OF_ROWS.replace("--example id ", ""), ["--example", "--value"]),
    "the label is the class": (
        {"in/a.parquet": LONG},
        OF_ROWS.replace("label label", "label class"),
        ["--label class"],
    ),
    "lists of strings": (
        {"in/a.parquet": WIDE | {"logits": [["a"], ["b"]]}},
        OF_LISTS,
        ["in/a.parquet: column 'logits': expected lists of integers", "found list<"],
    ),
    "labels that are floats": ({"in/a.parquet": WIDE | {"label": [0.0, 1.0]}}, OF_LISTS, ["'label'", "found double"]),
    "labels unlike the classes": (
        {"in/a.parquet": LONG | {"label": list("abcd")}},
        OF_ROWS,
        ["'label'", "int64", "found string"],
    ),
    "no files of labels": ({"in/a.parquet": BARE}, f"{OF_ROWS} --labels none", ["none: expected a file"]),
    "labels without examples": (
        {"in/a.parquet": BARE, "l/a.parquet": {"label": [1]}},
        f"{OF_ROWS} --labels l",
        ["l/a.parquet: column 'id'"],
    ),
    "labels of other examples": (
        {"in/a.parquet": BARE, "l/a.parquet": {"id": [1], "label": [1]}},
        f"{OF_ROWS} --labels l",
        ["l/a.parquet: column 'id': expected string", "found int64"],
    ),
    "a label to ignore of another type": ({"in/a.parquet": WIDE}, f"{OF_LISTS} --ignore_label x", ["--ignore_label x"]),
    "no such unit": ({"in/a.parquet": WIDE}, f"{OF_LISTS} --unit bans", ["--unit", "'bans'"]),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "cross_entropy", tmp_path, capsys, BAD[name])


BAD_ROWS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "a label outside a list": (
        {"in/a.parquet": WIDE | {"label": [0, 2]}},
        OF_LISTS,
        ["in/a.parquet, row group 0, row 1: expected a label from 0 to 1, found 2"],
    ),
    "a label outside a list with a name": (
        {"in/a.parquet": WIDE | {"label": [0, 2]}},
        f"{OF_LISTS} --example id",
        ["in/a.parquet, row group 0, example id='y', row 1: expected a label from 0 to 1, found 2"],
    ),
    "a null label": (
        {"in/a.parquet": WIDE | {"label": [0, None]}},
        OF_LISTS,
        ["in/a.parquet, row group 0, column 'label', row 1", "found null"],
    ),
    "a null logit": ({"in/a.parquet": LONG | {"logit": [1.0, 2.0, None, 4.0]}}, OF_ROWS, ["column 'logit', row 2"]),
    "a label outside the classes": (
        {"in/a.parquet": LONG | {"label": [0, 0, 7, 7]}},
        OF_ROWS,
        ["example id='y'", "among its classes (2), once, found it 0 times"],
    ),
    "a class twice": (
        {"in/a.parquet": LONG | {"class": [0, 1, 1, 1]}},
        OF_ROWS,
        ["example id='y'", "once, found it 2 times"],
    ),
    "an example without a label": (
        {"in/a.parquet": BARE, "l/a.parquet": {"id": ["x"], "label": [1]}},
        f"{OF_ROWS} --labels l",
        ["labels: expected one label for every key, found none for id='y'"],
    ),
    "an example with two labels": (
        {"in/a.parquet": BARE, "l/a.parquet": {"id": ["x", "y", "x"], "label": [1, 1, 0]}},
        f"{OF_ROWS} --labels l",
        ["labels: expected one label for every key, found more for id='x'"],
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_faults_found_in_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "cross_entropy", tmp_path, capsys, BAD_ROWS[name], status=1)
