"""Writes constants.h and constants.py: every number of the kernel, from one derivation, for C and for NumPy.

Run ``python lse_stream/_kernel/generate_constants.py`` (needs mpmath). The committed files are its output, which a test
checks. Changing any number changes bits: it takes a new record version (see ``record.py``).
"""

from collections.abc import Callable
from pathlib import Path

from mpmath import findroot, log, mp, mpf, nint

mp.prec = 300

TABLE_SIZE = 128
LN2 = log(2)


def on_grid(value: mpf, bits: int) -> mpf:
    """``value`` rounded to a multiple of 2^-bits."""
    return nint(value * mpf(2) ** bits) / mpf(2) ** bits


def significant_bits(value: mpf) -> int:
    return int(abs(float(value)).as_integer_ratio()[0]).bit_length()


def split(value: mpf, grids: list[int], width: int) -> list[float]:
    """``value`` as short pieces, each on its grid and at most ``width`` bits wide, and a tail in full precision.

    A product of such a piece with an integer of up to 53 - width bits is exact, so that a fused and an unfused
    multiply-subtract give the same bits.
    """
    pieces = []
    for grid in grids:
        piece = on_grid(value, grid)
        if significant_bits(piece) > width:
            raise AssertionError(f"{piece} is wider than {width} bits")
        pieces.append(float(piece))
        value -= piece
    return [*pieces, float(value)]


def double_double(value: mpf) -> tuple[float, float]:
    high = float(value)
    return high, float(value - mpf(high))


def expm1_coefficients() -> list[float]:
    """E1, E2, E3 of e^r - 1 = r + r^2 (1/2 + r (E1 + r (E2 + r E3))) for |r| <= a = ln2/256.

    The Taylor series, with its first dropped term r^6/720 economised: c (a r^2)^2 r^4... in t = r/a, t^6 is replaced by
    c t^4, which is best where both extremes of |t^6 - c t^4| on [0, 1] agree: 1 - c = 4 c^3 / 27. What is left is
    below 2^-63; the odd part that comes next, r^7/5040, is below 2^-71.
    """
    a = LN2 / (2 * TABLE_SIZE)
    c = findroot(lambda c: 1 - c - 4 * c**3 / 27, 0.9)
    return [float(mpf(1) / 6), float(mpf(1) / 24 + c * a**2 / 720), float(mpf(1) / 120)]


def constants() -> dict[str, float | list[tuple[float, float]]]:
    step = split(LN2 / TABLE_SIZE, [29, 51], 22)
    far = split(LN2, [14, 28, 42], 14)
    log2_high = on_grid(LN2, 42)
    values: dict[str, float | list[tuple[float, float]]] = {
        # x = k ln2/128 + r
        "STEPS_PER_UNIT": float(TABLE_SIZE / LN2),
        "STEP_1": step[0],
        "STEP_2": step[1],
        "STEP_3": step[2],
        # for |x| >= 2^23: x = K 2^22 ln2 + x', K at most 38 bits
        "FAR_PER_UNIT": float(mpf(2) ** -22 / LN2),
        "FAR_1": far[0],
        "FAR_2": far[1],
        "FAR_3": far[2],
        "FAR_4": far[3],
        # e ln2 for the exponent e of log1p's argument: the high part has 42 bits, so that the product is exact
        "LN2_HIGH": float(log2_high),
        "LN2_LOW": float(LN2 - log2_high),
    }
    for i, value in enumerate(expm1_coefficients(), 1):
        values[f"E{i}"] = value
    # log1p(w) = w - w^2/2 + L3 w^3 + ... for |w| <= 2^-7: the first dropped term is below 2^-101 w
    for i in range(3, 14):
        values[f"L{i}"] = float(mpf((-1) ** (i + 1)) / i)
    values["EXP2_TABLE"] = [double_double(mpf(2) ** (mpf(j) / TABLE_SIZE)) for j in range(TABLE_SIZE)]
    values["NEG_LOG_TABLE"] = [double_double(-log(mpf(i) / TABLE_SIZE)) for i in range(TABLE_SIZE // 2, TABLE_SIZE + 1)]
    return values


def render(scalar: Callable[[str, float], str], table: Callable[[str, list[tuple[float, float]]], str]) -> str:
    return "".join(
        table(name, value) if isinstance(value, list) else scalar(name, value) for name, value in constants().items()
    )


def c_header() -> str:
    return "/* Written by generate_constants.py: do not edit. */\n" + render(
        lambda name, value: f"#define {name} ({value.hex()})\n",
        lambda name, rows: (
            f"static const double {name}[{len(rows)}][2] __attribute__((aligned(64))) = {{\n"
            + "".join(f"    {{{high.hex()}, {low.hex()}}},\n" for high, low in rows)
            + "};\n"
        ),
    )


def python_module() -> str:
    return '"""Written by generate_constants.py: do not edit."""\n\n_f = float.fromhex\n\n' + render(
        lambda name, value: f'{name} = _f("{value.hex()}")\n',
        lambda name, rows: (
            f"{name} = (\n" + "".join(f'    (_f("{high.hex()}"), _f("{low.hex()}")),\n' for high, low in rows) + ")\n"
        ),
    )


FILES = {"constants.h": c_header, "constants.py": python_module}


def main() -> None:
    for name, content in FILES.items():
        Path(__file__).with_name(name).write_text(content(), encoding="ascii")


if __name__ == "__main__":
    main()
