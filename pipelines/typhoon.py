"""The lesson of the storms: what log-sum-exp does, step by step. ``python -m pipelines.typhoon --help``."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lse_stream.scales import NATURAL, Scale
from lse_stream.states.aggregations import LOGSUMEXP
from lse_stream.states.arrays import StateArray
from lse_stream.states.results import result_of

from .command import ArgumentParser, UsageError
from .picture import add_picture_option, check_picture, save_picture
from .summary import aligned

PROGRAM = "typhoon"

DESCRIPTION = """\
The lesson of the storms. A storm's category is a logarithm: from each to the
next, damage grows by a factor, the base. What category is one storm as bad as
all of these together?

  1  category          the storms, on the scale of logarithms
  2  damage            leave it: base ** category
  3  total Z           add up real amounts
  4  log of Z          come back: that is log-sum-exp, the smooth maximum

The consensus bonus is what the other storms add to the strongest: next to
nothing where it dominates, ln n / ln base where n storms are tied.
"""

EXAMPLES = """\
examples:
  # categories 1 to 5, each e times as bad as the one before
  PROGRAM

  # as in life, where the factor is about 4, and with a picture
  PROGRAM 5 5 3 1 --base 4 --picture out/storms.svg
"""

# How far below the strongest the others are where one dominates: to the base e, each does 1/22,000 of its damage.
DOMINATED_BY = 10
# How far the picture lets the strongest pull ahead: there log-sum-exp and max are one line.
LEAD = 6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """The results of several mixes of storms (n,), in categories."""

    logsumexp: Floats
    max: Floats
    bonus: Floats
    exp_bonus: Floats


def sums_of(mixes: Sequence[Sequence[float]], scale: Scale) -> Sums:
    """Sums each mix of categories by the library's own states."""
    values = np.array([category for mix in mixes for category in mix], np.float64)
    codes = np.repeat(np.arange(len(mixes), dtype=np.int32), [len(mix) for mix in mixes])
    states = StateArray.group(LOGSUMEXP, scale, codes, [values], len(mixes))
    names = ("logsumexp", "max", "bonus", "exp_bonus")
    return Sums(*(np.asarray(result_of(states, name), np.float64) for name in names))


def shares_of(categories: Sequence[float], logsumexp: float, base: float) -> Floats:
    """Each storm's part of the total damage: no damage is computed, so none can overflow."""
    return np.asarray(np.exp((np.array(categories) - logsumexp) * math.log(base)))


def mixes_of(categories: Sequence[float]) -> dict[str, list[float]]:
    """Mixes of as many storms as there are, with the same strongest."""
    strongest, others = max(categories), len(categories) - 1
    return {
        "these storms": list(categories),
        "one dominates": [strongest, *[strongest - DOMINATED_BY] * others],
        "all tied": [strongest] * (others + 1),
        "spread by 1": [strongest - i for i in range(others + 1)],
    }


def steps(categories: Sequence[float], scale: Scale, base: float) -> pa.Table:
    """The four steps: a row for each storm, one for the total, and one for the way back."""
    total = sums_of([categories], scale).logsumexp[0]
    with np.errstate(over="ignore"):
        damage = np.power(base, np.array(categories))
        z = float(np.sum(damage))
    n = len(categories)
    return pa.table(
        {
            "step": [*(f"storm {i}" for i in range(1, n + 1)), "total Z", "log of Z"],
            "1 category": [*categories, None, None],
            "2 damage": [*damage.tolist(), None, None],
            "3 total": [*[None] * n, z, None],
            "4 back": [*[None] * (n + 1), total],
            "share %": [*(100.0 * shares_of(categories, total, base)).tolist(), None, None],
        }
    )


def readings(categories: Sequence[float], scale: Scale) -> pa.Table:
    """The table of mixes."""
    mixes = mixes_of(categories)
    sums = sums_of(list(mixes.values()), scale)
    return pa.table(
        {
            "mix": list(mixes),
            "categories": [_short(mix) for mix in mixes.values()],
            "max": sums.max,
            "log-sum-exp": sums.logsumexp,
            "bonus": sums.bonus,
            "as many as": sums.exp_bonus,
        }
    )


def lesson(categories: Sequence[float], scale: Scale, base: float) -> str:
    """All that is printed."""
    name = "e" if scale == NATURAL else _number(base)
    sums = sums_of([categories], scale)
    tied = math.log(len(categories)) / math.log(base)
    return "\n".join(
        [
            f"Base {name}: from a category to the next, damage grows {base:.6g} times.",
            "",
            *aligned(steps(categories, scale, base), null=""),
            "",
            f"log-sum-exp      {_number(sums.logsumexp[0])}: the category of one storm as bad as all together",
            f"max              {_number(sums.max[0])}: the strongest storm",
            f"consensus bonus  {_number(sums.bonus[0])}: what the others add to the strongest",
            "",
            "Reading the numbers",
            "",
            *aligned(readings(categories, scale)),
            "",
            "One giant hides the rest: log-sum-exp is the max, bonus 0. Tied, n storms add",
            f"ln n / ln base = {_number(tied)} here. Everything else lies between.",
        ]
    )


def draw(categories: Sequence[float], scale: Scale, base: float, path: str) -> None:
    """Draws log-sum-exp against the max as the strongest storm pulls ahead of the others; the same bytes each time."""
    import matplotlib.figure

    *others, strongest = sorted(categories)
    lowest = (others[-1] if others else strongest) - 2.0
    x = np.linspace(lowest, max(lowest + 2.0, strongest) + LEAD, 400)
    sums = sums_of([[*others, ahead] for ahead in x.tolist()], scale)
    [at], [top] = sums_of([categories], scale).logsumexp, sums_of([categories], scale).max
    figure = matplotlib.figure.Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(x, sums.max, sums.logsumexp, color="tab:orange", alpha=0.35, label="consensus bonus")
    axes.plot(x, sums.logsumexp, color="tab:red", label="log-sum-exp: all storms together")
    axes.plot(x, sums.max, color="tab:blue", linestyle="--", label="max: the strongest alone")
    axes.plot([strongest, strongest], [top, at], color="black", marker="o", markersize=4)
    axes.annotate(
        f"these storms: {at:.3g}, bonus {at - top:.3g}",
        (strongest, top),
        xytext=(12, -4),
        textcoords="offset points",
        verticalalignment="top",
    )
    rest = f"beside others of {_short(sorted(others))}" if others else "alone"
    axes.set_xlabel(f"category of one storm, {rest}")
    axes.set_ylabel("category")
    axes.set_title(
        f"As one storm pulls ahead, the others stop counting (base {'e' if scale == NATURAL else f'{base:g}'})"
    )
    axes.margins(y=0.1)
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_picture(figure, path, PROGRAM)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _short(mix: Sequence[float]) -> str:
    shown = [f"{category:g}" for category in mix]
    return " ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-3:]])


def _base(text: str) -> float:
    try:
        base = math.e if text == "e" else float(text)
        Scale.base(base)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected e or a number above 1, found {text!r}") from error
    return base


def _category(text: str) -> float:
    try:
        category = float(text)
    except ValueError:
        category = math.nan
    if not math.isfinite(category):
        raise argparse.ArgumentTypeError(f"expected finite numbers, found {text!r}")
    return category


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(PROGRAM, DESCRIPTION, EXAMPLES, "[CATEGORY ...] [OPTION ...]")
    parser.add_argument(
        "category", nargs="*", type=_category, default=[1.0, 2.0, 3.0, 4.0, 5.0], help="of each storm (default 1 to 5)"
    )
    parser.add_argument("--base", type=_base, default=math.e, help="factor of damage per category (default e)")
    add_picture_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    options = parser.parse_args(argv)
    if options.picture is not None:
        check_picture(options.picture, overwrite=options.overwrite)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the lesson, and draws it; returns 0, or 2 for a picture that cannot be written."""
    try:
        options = _parse(argv)
        scale = NATURAL if options.base == math.e else Scale.base(options.base)
        if options.picture is not None:
            draw(options.category, scale, options.base, options.picture)
    except UsageError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{PROGRAM}: error: --picture {options.picture}: expected to write it, found {error}", file=sys.stderr)
        return 2
    print(lesson(options.category, scale, options.base))
    if options.picture is not None:
        print(f"\npicture in {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
