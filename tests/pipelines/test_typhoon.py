"""``python -m pipelines.typhoon``: the numbers of the lesson against mpmath, what is printed, and the picture."""

import builtins
import importlib.util
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from programs import ROOT

from lse_stream.scales import NATURAL, Scale
from pipelines import picture
from pipelines.typhoon import main, mixes_of, readings, shares_of, steps, sums_of

CASES = {
    "the lesson": ([1.0, 2.0, 3.0, 4.0, 5.0], math.e),
    "as in life": ([5.0, 5.0, 3.0, 1.0], 4.0),
    "one storm": ([2.5], math.e),
    "below 0": ([-3.0, -2.0, -2.0], 10.0),
    "damage beyond the floats": ([2000.0, 1999.0], math.e),
}


def scale_of(base: float) -> Scale:
    return NATURAL if base == math.e else Scale.base(base)


def true_logsumexp(categories: list[float], base: float) -> Any:
    # Of base e the real number, not the float that is nearest to it.
    factor = mpmath.e if base == math.e else mpmath.mpf(base)
    return mpmath.log(mpmath.fsum(factor**x for x in categories)) / mpmath.log(factor)


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_the_true_ones(case: str) -> None:
    categories, base = CASES[case]
    mixes = mixes_of(categories)
    table = readings(categories, scale_of(base)).to_pydict()
    assert table["mix"] == ["these storms", "one dominates", "all tied", "spread by 1"]
    with mpmath.workprec(10_000):
        for i, mix in enumerate(mixes.values()):
            true = true_logsumexp(mix, base)
            assert abs(table["log-sum-exp"][i] - true) <= np.spacing(max(abs(table["log-sum-exp"][i]), 1.0))
            assert table["max"][i] == max(mix) == max(categories)
            assert table["bonus"][i] == pytest.approx(float(true - max(mix)), rel=1e-14, abs=1e-300)
            factor = mpmath.e if base == math.e else mpmath.mpf(base)
            many = mpmath.fsum(factor ** (x - max(mix)) for x in mix)
            assert table["as many as"][i] == pytest.approx(float(many), rel=1e-14)
        total = sums_of([categories], scale_of(base)).logsumexp[0]
        true = true_logsumexp(categories, base)
        for x, share in zip(categories, shares_of(categories, total, base), strict=True):
            assert share == pytest.approx(float(factor ** (x - true)), rel=1e-13)


def test_one_hides_the_rest_and_the_tied_add_ln_n() -> None:
    table = readings([1.0, 2.0, 3.0, 4.0, 5.0], NATURAL).to_pydict()
    by_mix = dict(zip(table["mix"], table["bonus"], strict=True))
    assert by_mix["one dominates"] < 2e-4
    assert by_mix["all tied"] == math.log(5)
    assert by_mix["these storms"] == by_mix["spread by 1"] == 0.45191439593759336


def test_the_steps() -> None:
    table = steps([1.0, 2.0, 3.0, 4.0, 5.0], NATURAL, math.e).to_pydict()
    damage = [math.e**x for x in range(1, 6)]
    assert table["2 damage"][:5] == pytest.approx(damage, rel=1e-15)
    assert table["3 total"] == [*[None] * 5, pytest.approx(math.fsum(damage), rel=1e-15), None]
    assert table["4 back"] == [*[None] * 6, 5.451914395937593]
    assert math.fsum(table["share %"][:5]) == pytest.approx(100.0, rel=1e-14)


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "storm 5            5   148.413                    63.6409" in out
    assert "log-sum-exp      5.45191: " in out
    assert "consensus bonus  0.451914: " in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["2000", "1999"]) == 0
    assert "log of Z                                 2000.31" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_picture_is_whole_and_the_same_each_time(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / "new" / f"{i}.{suffix}" for i in range(2)]
    for path in paths:
        assert main(["5", "5", "3", "1", "--base", "4", "--picture", str(path)]) == 0
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [path.name for path in paths]
    if suffix == "png":
        assert first.startswith(b"\x89PNG\r\n")
        return
    words = "".join(ElementTree.fromstring(first.decode()).itertext())
    for text in ("consensus bonus", "max: the strongest alone", "these storms: 5.52, bonus 0.524", "base 4", "1 3 5"):
        assert text in words


def test_the_picture_shows_what_the_states_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = []
    import matplotlib.figure

    plain = matplotlib.figure.Figure

    def figure(*arguments: Any, **options: Any) -> Any:
        figures.append(plain(*arguments, **options))
        return figures[-1]

    monkeypatch.setattr(matplotlib.figure, "Figure", figure)
    assert main(["--picture", str(tmp_path / "a.svg")]) == 0
    [axes] = figures[0].axes
    (x, y), (_, top), (_, mark) = (np.asarray(line.get_data(), np.float64) for line in axes.lines)
    for at, value in zip(x[::50], y[::50], strict=True):
        assert value == pytest.approx(float(true_logsumexp([1.0, 2.0, 3.0, 4.0, at], math.e)), rel=1e-14)
    assert (top == np.maximum(x, 4.0)).all()
    assert mark.tolist() == [5.0, 5.451914395937593]
    assert x[0] < 4.0 < 5.0 + 5.0 < x[-1]


BAD = {
    "a base of 1": (["--base", "1"], ["--base", "above 1", "'1'"]),
    "a base that is no number": (["--base", "pi"], ["--base", "'pi'"]),
    "a category that is no number": (["1", "two"], ["finite numbers", "'two'"]),
    "an infinite category": (["inf"], ["finite numbers", "'inf'"]),
    "another kind of picture": (["--picture", "a.gif"], ["--picture a.gif", ".svg or .png"]),
    "a picture that is there": (["--picture", "there.svg"], ["there.svg", "--overwrite"]),
    "a picture below a file": (
        ["--picture", "there.svg/a.svg"],
        ["there.svg/a.svg", "expected a directory that can be written to"],
    ),
    "an unknown option": (["--colour"], ["--colour"]),
}


@pytest.mark.parametrize("case", BAD)
def test_faults(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.svg").write_text("mine")
    argv, fragments = BAD[case]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("typhoon: error: ")
    assert err.count("\n") == 1
    assert all(fragment in err for fragment in fragments)
    assert [path.name for path in tmp_path.iterdir()] == ["there.svg"]
    assert (tmp_path / "there.svg").read_text() == "mine"


def test_without_matplotlib_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(picture, "find_spec", lambda name: importlib.util.find_spec(f"no_{name}"))
    plain = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *rest: plain(f"no_{name}" if "matplotlib" in name else name, *rest)
    )
    assert main(["--picture", str(tmp_path / "a.svg")]) == 2
    assert "pip install 'lse-stream[picture]'" in capsys.readouterr().err
    assert main([]) == 0


def test_it_needs_no_beam() -> None:
    program = "import sys; from pipelines.typhoon import main; main([]); sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == 0
