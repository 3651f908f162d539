"""``python -m pipelines.compare`` end to end: figures, layouts, bytes, the picture, faults."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import ROOT, check_bad, contents, split, write

from lse_stream import compare_models
from pipelines import loglik
from pipelines.compare import main

DRAWS = ROOT / "pipelines" / "samples" / "diabetes_draws.parquet"
MODELS = ("wide", "narrow", "off")


def observations(n: int = 200) -> pa.Table:
    """As loglik writes them of three models, in the order of their keys: of leave-one-out, with k."""
    rng = np.random.default_rng(0)
    common = rng.normal(-2.0, 1.0, n)
    tables = []
    for m, model in enumerate(MODELS):
        elpd = common + rng.normal(-0.1 * m, 0.3, n)
        columns = {
            "model": pa.array([model] * n),
            "site": pa.array([f"s{i // 10:02}" for i in range(n)]),
            "day": pa.array(np.arange(n) % 10, pa.int16()),
            "value": elpd + 0.1,
            "count": pa.array(np.full(n, 1000)),
            "lppd": elpd + 0.1,
            "elpd_loo": elpd,
            "p_loo": np.full(n, 0.1),
            "pareto_k": np.where(np.arange(n) < 2 * m, 0.69, 0.2),
            "elpd_waic": elpd - 0.001 * m,
            "p_waic": np.full(n, 0.09),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def of_model(table: pa.Table, model: str) -> pa.Table:
    return table.filter(pa.compute.equal(table["model"], model)).drop_columns("model")


def run(folder: Path, *arguments: object) -> pa.Table:
    argv = [*map(str, arguments), "--output", str(folder), "--overwrite", "--quiet"]
    assert main(argv) == 0
    assert [path.name for path in folder.glob("*.parquet")] == ["part-00000-of-00001.parquet"]
    return pq.read_table(folder)


def test_the_figures_are_those_of_the_library(tmp_path: Path) -> None:
    table = observations()
    by_model = {model: of_model(table, model) for model in MODELS}
    source = write(tmp_path / "in.parquet", table)
    elpd, p, k, draws = (
        {model: rows[name].to_numpy() for model, rows in by_model.items()}
        for name in ("elpd_loo", "p_loo", "pareto_k", "count")
    )
    for weights in ("stacking", "pseudo-bma", "pseudo-bma+"):
        found = run(tmp_path / "out", "--input", source, "--model=model", "--weights", weights, "--seed=5", "--ddof=0")
        expected = compare_models(elpd, p=p, pareto_k=k, draws=draws, weights=weights, seed=5, ddof=0)
        assert found.equals(expected)
    assert found["bad_k"].to_pylist() == [2 * MODELS.index(model) for model in found["model"].to_pylist()]
    found = run(tmp_path / "out", "--input", source, "--model=model", "--value=elpd_waic")
    waic = {model: rows["elpd_waic"].to_numpy() for model, rows in by_model.items()}
    assert found.equals(compare_models(waic, p={model: by_model[model]["p_waic"].to_numpy() for model in MODELS}))
    found = run(tmp_path / "out", "--input", source, "--model=model", "--value=lppd")
    assert found["p"].null_count == 3


def test_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    """However they are spread: in one table, in files of several, and as a directory of each model."""
    table = observations()
    shuffled = table.take(np.random.default_rng(1).permutation(table.num_rows))
    models = ["--model=model"]
    layouts: list[list[object]] = [
        ["--input", write(tmp_path / "whole.parquet", table), *models],
        ["--input", write(tmp_path / "small.parquet", shuffled, row_group_size=7), *models],
        ["--input", split(tmp_path / "seven", shuffled, 7), *models],
        ["--input", *(tmp_path / "seven").iterdir(), *models],
    ]
    for model in MODELS:
        split(tmp_path / "named" / f"model={model}", of_model(shuffled, model), 2)
        write(tmp_path / model / "observations" / "part-00000-of-00001.parquet", of_model(shuffled, model))
        write(tmp_path / model / "overall" / "part-00000-of-00001.parquet", {"elpd_loo": [1.0]})
    layouts += [
        ["--input", tmp_path / "named", *models],
        ["--input", *(tmp_path / model for model in reversed(MODELS))],
        ["--input", *(f"{model}={tmp_path}/named/model={model}" for model in MODELS)],
        [
            "--input",
            *(tmp_path / model / "observations" for model in MODELS),
            "--observation=day",
            "--observation=site",
        ],
    ]
    for weights in ("--weights=stacking", "--weights=pseudo-bma+"):
        found = []
        for layout in layouts[:-1] if weights == "--weights=pseudo-bma+" else layouts:
            run(tmp_path / "out", *layout, weights)
            found.append(contents(tmp_path / "out"))
        assert all(files == found[0] for files in found)


def test_from_draws_to_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sample: what loglik says of WAIC, compared and printed."""
    argv = ["--input", str(DRAWS), "--observation=patient", "--value=log_likelihood", "--inner=logmeanexp", "--waic"]
    waic = tmp_path / "waic"
    argv += ["--per_observation", "--quiet", "--key=model", f"--output={waic}"]
    assert loglik.main(argv) == 0
    totals = {row["model"]: row for row in pq.read_table(waic / "totals").to_pylist()}
    picture = tmp_path / "new" / "models.svg"
    assert main(["--input", str(waic), "--model=model", f"--output={tmp_path}/out", f"--picture={picture}"]) == 0
    for row in pq.read_table(tmp_path / "out").to_pylist():
        of_loglik = totals[row["model"]]
        found = [row[name] for name in ("count", "elpd", "se", "p")]
        assert found == [of_loglik[name] for name in ("count", "elpd_waic", "se_waic", "p_waic")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 models, 442 observations: elpd_waic, weights by stacking, ")
    assert lines[1:4] == [f"results in {tmp_path}/out", f"picture in {picture}", ""]
    assert lines[4].split() == ["model", "elpd", "se", "p", "elpd_diff", "se_diff", "p_worse", "weight"]
    assert lines[5].split()[:6] == ["all", "-2397.63", "14.0337", "11.046", "0", "0"]
    assert lines[6].split()[:2] == ["bmi", "-2456.6"]
    assert len(lines) == 7


def test_what_is_to_be_taken_with_care_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.parquet", observations(20))
    assert main(["--input", str(source), "--model=model", f"--output={tmp_path}/out"]) == 0
    out = capsys.readouterr().out
    assert out.count("N < 100") == 2
    assert "not reliable for fewer than 100 observations, and for differences below 4\n" in out
    assert "2 of 20 observations of narrow with a k too large: their elpd is not reliable\n" in out


def test_models_by_columns_of_any_type(tmp_path: Path) -> None:
    """And keys of dictionaries, of which each file has its own."""
    elpd, kinds = [-1.0, -2.0, -1.5, -2.5], ["x", "y", "y", "x"]
    columns: dict[str, pa.Array] = {
        "7 8": pa.array([7, 7, 8, 8], pa.int8()),
        "None b": pa.array([None, None, "b", "b"]),
        "c d": pa.array(["c", "c", "d", "d"]).dictionary_encode(),
        "1970-01-01 1970-01-02": pa.array([0, 0, 1, 1], pa.date32()),
    }
    for names, column in columns.items():
        first, second = names.split()
        table = pa.table({"by": column, "kind": pa.array(kinds).dictionary_encode(), "elpd_loo": elpd})
        folder = tmp_path / names
        for i in range(2):
            write(folder / f"{i}.parquet", table.slice(2 * i, 2))
        found = run(tmp_path / "out", "--input", folder, "--model=by")
        assert found.equals(compare_models({first: [-1.0, -2.0], second: [-2.5, -1.5]}))


def test_k_that_one_model_has_not_is_left_out(tmp_path: Path) -> None:
    models = {"a": {"pareto_k": [0.9]}, "b": {"p_loo": [1.0]}}
    paths = [
        write(tmp_path / f"{name}.parquet", {"id": [1], "elpd_loo": [-1.0], **columns})
        for name, columns in models.items()
    ]
    found = run(tmp_path / "out", "--input", *paths)
    assert found["p"].null_count == found["bad_k"].null_count == 2


def test_an_observation_that_a_model_rules_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elpd = {"a": [-1.0, -2.0, -1.0], "b": [-1.0, -np.inf, -0.5]}
    inputs = [
        f"{name}={write(tmp_path / f'{name}.parquet', {'id': ['x', 'y', None], 'elpd_loo': x})}"
        for name, x in elpd.items()
    ]
    argv = ["--input", *inputs, f"--output={tmp_path}/out", f"--picture={tmp_path}/a.svg"]
    assert main(argv) == 0
    assert "-inf" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out").equals(compare_models(elpd))


# --- the picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_picture_is_whole_and_the_same_each_time(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / "in.parquet", observations())
    pictures = []
    for i in range(2):
        picture = tmp_path / "new" / f"{i}.{suffix}"
        run(tmp_path / "out", "--input", source, "--model=model", "--picture", picture)
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"{i}.{suffix}" for i in range(2)]
    if suffix == "png":
        assert pictures[0].startswith(b"\x89PNG\r\n")
        return
    words = " ".join(ElementTree.fromstring(pictures[0].decode()).itertext())
    for text in ("elpd_loo", "difference to the best", *(f"{model} (" for model in MODELS)):
        assert text in words


def test_the_picture_shows_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.figure

    figures: list[Any] = []
    plain = matplotlib.figure.Figure

    def figure(**options: Any) -> Any:
        figures.append(plain(**options))
        return figures[-1]

    monkeypatch.setattr(matplotlib.figure, "Figure", figure)
    source = write(tmp_path / "in.parquet", observations())
    rows = run(tmp_path / "out", "--input", source, "--model=model", "--picture", tmp_path / "a.svg").to_pylist()
    for axes, name, error in zip(figures[0].axes, ("elpd", "elpd_diff"), ("se", "se_diff"), strict=True):
        [points] = [line for line in axes.lines if line.get_marker() == "o"]
        assert points.get_xdata().tolist() == [row[name] for row in rows]
        for width, lines in zip((2.0, 1.0), axes.collections, strict=True):
            ends = [[segment[0][0], segment[1][0]] for segment in lines.get_segments()]
            assert ends == [[row[name] - width * row[error], row[name] + width * row[error]] for row in rows]
    assert figures[0].axes[0].get_ylim() == (2.5, -0.5)  # the best is on top


# --- faults -----------------------------------------------------------------------------------------------------------

GOOD = {"id": [1, 2, 3], "elpd_loo": [-1.0, -2.0, -3.0]}
BOTH = {"model": ["a", "a", "b", "b"], "id": [1, 2, 2, 1], "elpd_loo": [-1.0, -2.0, -3.0, -4.0]}
TWO = "--input a.parquet b.parquet --output out"


def two(**changed: Any) -> dict[str, Any]:
    """A model as it should be, and one that is changed."""
    return {"a.parquet": GOOD, "b.parquet": GOOD | changed}


BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "no input": ({}, "--output out", ["--input: expected a value, found none"]),
    "no output": (two(), "--input a.parquet b.parquet", ["--output: expected a value, found none"]),
    "nothing there": (two(), "--input a.parquet c.parquet --output out", ["c.parquet: expected a file"]),
    "one model": (
        {"a.parquet": GOOD},
        "--input a.parquet --output out",
        ["two models or more", "--model", "found one"],
    ),
    "one model of a column": (
        {"a.parquet": BOTH | {"model": ["a"] * 4, "id": [1, 2, 3, 4]}},
        "--input a.parquet --model model --output out",
        ["two models or more", "found a"],
    ),
    "a model twice": (
        two(),
        "--input a=a.parquet a=b.parquet --output out",
        ["--input a=b.parquet", "each model once"],
    ),
    "a model under two names": (
        two(),
        "--input a=a.parquet b=./a.parquet --output out",
        ["--input b=./a.parquet", "results of another model", "those of a"],
    ),
    "no name": (two(), "--input =a.parquet b.parquet --output out", ["--input =a.parquet", "NAME=DIR"]),
    "totals alone": (
        {
            "w/totals/part-00000-of-00001.parquet": GOOD,
            "w/overall/part-00000-of-00001.parquet": GOOD,
            "b.parquet": GOOD,
        },
        "--input w b.parquet --output out",
        ["--input w", "expected observations, from loglik --per_observation", "totals alone"],
    ),
    "an observation that one misses": (
        two(id=[1, 4, 3]),
        TWO,
        ["observation id=2: expected in every model, found none in model 'b'"],
    ),
    "an observation that one misses, and then the other": (
        two(id=[1, 4, 3]),
        "--input b.parquet a.parquet --output out",
        ["observation id=2: expected in every model, found none in model 'b'"],
    ),
    "an observation more": (
        {"a.parquet": GOOD, "b.parquet": {"id": [9, 3, 2, 1, 4], "elpd_loo": [0.0] * 5}},
        TWO,
        ["observation id=4: expected in every model, found none in model 'a'"],
    ),
    "an observation twice": (two(id=[1, 2, 2]), TWO, ["model 'b'", "one observation for every key", "id=2"]),
    "an observation twice of a column": (
        {"a.parquet": BOTH | {"id": [1, 1, 2, 1]}},
        "--input a.parquet --model model --output out",
        ["model 'a'", "one observation for every key", "id=1"],
    ),
    "keys of another type": (
        two(id=["1", "2", "3"]),
        TWO,
        ["model 'b'", "'id'", "int64 as in model 'a'", "string"],
    ),
    "no elpd": ({"a.parquet": {"id": [1], "x": [1.0]}, "b.parquet": GOOD}, TWO, ["--value", "elpd_waic", "id, x"]),
    "no such value": (two(), f"{TWO} --value x", ["--value x: expected a column of the input, found id, elpd_loo"]),
    "a value that one misses": (
        {"a.parquet": GOOD, "b.parquet": {"id": [1], "elpd_waic": [1.0]}},
        TWO,
        ["b.parquet: column 'elpd_loo'", "found columns id, elpd_waic"],
    ),
    "words for k": (
        {
            "a.parquet": GOOD | {"elpd_loo": [0.0] * 3, "pareto_k": ["x"] * 3},
            "b.parquet": GOOD | {"pareto_k": [0.1] * 3},
        },
        TWO,
        ["a.parquet", "'pareto_k'", "found string"],
    ),
    "words for numbers": (two(elpd_loo=["x", "y", "z"]), TWO, ["b.parquet", "'elpd_loo'", "floats", "found string"]),
    "no such model column": (two(), f"{TWO} --model fold", ["column 'fold'", "found columns id, elpd_loo"]),
    "no such observation": (two(), f"{TWO} --observation id --observation day", ["column 'day'", "id, elpd_loo"]),
    "no keys": ({"a.parquet": {"elpd_loo": [1.0]}, "b.parquet": GOOD}, TWO, ["--observation", "before 'elpd_loo'"]),
    "a column twice": (two(), f"{TWO} --model id --observation id", ["--observation id", "--model too"]),
    "nan": (two(elpd_loo=[-1.0, -2.0, np.nan]), TWO, ["observation id=3, model 'b'", "below +inf", "found nan"]),
    "inf": (two(elpd_loo=[np.inf, -2.0, 0.0]), TWO, ["observation id=1, model 'b'", "found inf"]),
    "null": (two(elpd_loo=[0.0, None, 0.0]), TWO, ["observation id=2, model 'b'", "expected an elpd", "null"]),
    "ruled out by all": (
        {name: GOOD | {"elpd_loo": [-1.0, -np.inf, -1.0]} for name in ("a.parquet", "b.parquet")},
        TWO,
        ["column 'elpd_loo', observation id=2: expected an elpd above -inf in one of the models"],
    ),
    "no observations": (
        two(id=pa.array([], pa.int64()), elpd_loo=pa.array([], pa.float64())),
        TWO,
        ["b.parquet: expected observations, found no rows"],
    ),
    "another method": (two(), f"{TWO} --weights waic", ["--weights", "'waic'"]),
    "a seed": (two(), f"{TWO} --seed -1", ["--seed", "0 to 2^64 - 1", "-1"]),
    "a runner": (two(), f"{TWO} --runner FlinkRunner", ["--runner"]),
    "output that is there": (two() | {"out/part-00000-of-00001.parquet": GOOD}, TWO, ["--output out", "--overwrite"]),
    "output around the input": (two(), "--input a.parquet b.parquet --output .", ["--output .", "found"]),
    "another kind of picture": (two(), f"{TWO} --picture a.gif", ["--picture a.gif", ".svg or .png"]),
    "a picture that is there": (two() | {"a.svg": b"mine"}, f"{TWO} --picture a.svg", ["a.svg", "--overwrite"]),
    "a picture below a file": (
        two(),
        f"{TWO} --picture a.parquet/a.svg",
        ["--picture a.parquet/a.svg: expected a directory that can be written to", "a.parquet: NotADirectoryError"],
    ),
    "a directory in place of a picture": (
        two() | {"a.svg/b": b""},
        f"{TWO} --picture a.svg --overwrite",
        ["--picture a.svg", "found a directory"],
    ),
    "a picture in the output": (two(), f"{TWO} --picture out/a.svg", ["--output out", "apart from the picture"]),
}


@pytest.mark.parametrize("case", BAD)
def test_faults(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    check_bad(main, "compare", tmp_path, capsys, BAD[case])


def test_faults_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture that cannot be written: there are no results without it."""
    monkeypatch.chdir(tmp_path)
    name = "a" * 300 + ".svg"  # longer than a file system takes
    bad = (two(), f"{TWO} --picture {name}", [f"{name}: expected a file that can be written"])
    check_bad(main, "compare", tmp_path, capsys, bad, status=1)


def test_it_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", observations())
    argv = ["--input", str(source), "--model=model", f"--output={tmp_path}/out"]
    heavy = {"apache_beam", "matplotlib", "pandas"}
    program = (
        f"import sys; from pipelines.compare import main; main({argv}); sys.exit(not {heavy}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == 0
