"""Makes and judges hard cases: values whose exact result lies within 2^-10 ULP of a midpoint of two doubles.

An error of a thousandth of an ULP rounds such a result to the other double, so that the worst errors show. Half have
mantissas above 1.9, where an ULP is smallest beside the number, and terms where the kernel's exponential errs most.

Run ``python tests/hard_cases.py 100000`` for the worst errors over so many cases of each sort, and
``python tests/hard_cases.py --write`` for the sample that the tests have.
"""

import json
import math
import random
import sys
from pathlib import Path

from model import NATURAL, term
from mpmath import exp, expm1, floor, log, log1p, mp, mpf

from lse_stream.accumulators import LogSumExpAccumulator

SAMPLE = Path(__file__).parent / "golden" / "hard_cases.json"
NEAR = mpf(2) ** -10

mp.prec = 300


def error_of_term(x: float) -> float:
    """The relative error of a term, in units of 2^-60."""
    high, low, exponent = term(x, NATURAL)
    return float(abs((mpf(high) + mpf(low)) * mpf(2) ** exponent / exp(mpf(x)) - 1) * mpf(2) ** 60)


def worst_terms(rng: random.Random, size: int = 300) -> list[float]:
    """Values whose terms err most, of a hundred times as many."""
    tried = [rng.uniform(-40, 0) for _ in range(100 * size)]
    return sorted(tried, key=error_of_term)[-size:]


def bonus_of(values: list[float]) -> mpf:
    top = max(values)
    return log1p(sum(exp(mpf(x) - mpf(top)) for x in values) - 1)


def to_midpoint(result: mpf) -> mpf:
    """The midpoint of the two doubles next to it."""
    ulp = mpf(math.ulp(float(result)))
    return (floor(result / ulp) + mpf(1) / 2) * ulp


def distance(result: mpf) -> mpf:
    return abs(result - to_midpoint(result)) / mpf(math.ulp(float(result)))


def tuned(values: list[float], rng: random.Random, *, of_bonus: bool) -> list[float] | None:
    """The values with one more, small beside them, that brings the result near a midpoint; None where it does not."""
    top = mpf(max(values))
    bonus = bonus_of(values)
    result = bonus if of_bonus else top + bonus
    ulp = mpf(math.ulp(float(result)))
    wanted = to_midpoint(result) + rng.uniform(-1, 1) * NEAR * ulp - (0 if of_bonus else top)
    missing = expm1(wanted) - expm1(bonus)
    if missing <= 0:
        missing += exp(bonus) * ulp
    x = float(top + log(missing))
    found = bonus_of([*values, x])
    result = found if of_bonus else top + found
    return [*values, x] if x < top and distance(result) < NEAR else None


def one_case(rng: random.Random, pool: list[float], *, of_bonus: bool, hard: bool) -> list[float]:
    """Values of a hard case, for the bonus or for log-sum-exp."""
    while True:
        if hard:
            gaps = [rng.choice(pool) for _ in range(rng.choice([1, 1, 2, 3]))]
            wanted = rng.uniform(1.9, 2.0) * 2.0 ** rng.randrange(-4, 6)
        else:
            gaps = [-rng.expovariate(1 / 8) for _ in range(rng.choice([1, 2, 5]))]
            wanted = rng.uniform(1, 2) * 2.0 ** rng.randrange(-4, 12)
        top = 0.0 if of_bonus else wanted - float(bonus_of([0.0, *gaps]))
        if top < 0.0:
            continue
        others = [top + gap for gap in gaps]
        if hard and not of_bonus:  # of terms elsewhere the worst of a few
            others = [max((x - rng.random() for _ in range(20)), key=error_of_term) for x in others]
        values = tuned([top, *others], rng, of_bonus=of_bonus)
        if values is None or (hard and of_bonus and _mantissa(bonus_of(values)) < 1.9):
            continue
        return values


def _mantissa(result: mpf) -> float:
    return 2 * math.frexp(float(result))[0]


def exact(values: list[float], *, of_bonus: bool) -> mpf:
    """The bonus, or log-sum-exp."""
    return bonus_of(values) if of_bonus else mpf(max(values)) + bonus_of(values)


def error(values: list[float], *, of_bonus: bool) -> float:
    """The error of the library's result, in ULPs."""
    state, expected = LogSumExpAccumulator(values), exact(values, of_bonus=of_bonus)
    found = state.bonus() if of_bonus else state.value()
    return float(abs(mpf(found) - expected) / mpf(math.ulp(float(expected))))


def cases(n: int, seed: int, *, of_bonus: bool) -> list[list[float]]:
    rng = random.Random(seed)
    pool = worst_terms(rng)
    return [one_case(rng, pool, of_bonus=of_bonus, hard=i % 2 == 0) for i in range(n)]


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        sample = {
            name: [[x.hex() for x in values] for values in cases(1000, 1, of_bonus=name == "bonus")]
            for name in ("bonus", "logsumexp")
        }
        SAMPLE.write_text(json.dumps(sample, indent=0) + "\n", encoding="ascii")
        return
    for name in ("bonus", "logsumexp"):
        of_bonus = name == "bonus"
        errors = [error(values, of_bonus=of_bonus) for values in cases(int(sys.argv[1]), 2, of_bonus=of_bonus)]
        wrong = sum(found > 0.5 for found in errors)
        print(
            f"{name}: {len(errors):,} cases, worst error {max(errors):.5f} ULP, {wrong:,} not the nearest", flush=True
        )


if __name__ == "__main__":
    main()
