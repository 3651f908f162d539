"""Writes c/constants.h and constants.py: every number of the kernel, from one derivation, for C and for NumPy.

Run ``python lse_stream/_kernel/generate_constants.py`` (needs mpmath). The committed files are its output, which a test
checks. Changing any number changes bits: it takes a new record version (see ``lse_stream.states.codec``).
"""

import math
import re
import struct
import textwrap
from collections.abc import Callable
from pathlib import Path

from mpmath import findroot, log, mp, mpf, nint

mp.prec = 300

TABLE_SIZE = 128
LN2 = log(2)

LIMB_BITS = 50
ROUND = 1.5 * 2.0**52
FAULT_FIELDS = ("count", "max", "ties", "second", "base", "limbs")


class Pattern(int):
    """The bits of a double."""

    @classmethod
    def of(cls, value: float) -> "Pattern":
        return cls(struct.unpack("<Q", struct.pack("<d", value))[0])


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

    Steps of ln2/128 and a table of 2^(j/128) are those of P. T. P. Tang, "Table-driven implementation of the
    exponential function in IEEE floating-point arithmetic", ACM Trans. Math. Software 15 (1989). The polynomial is the
    Taylor series, with its first dropped term r^6/720 economised: in t = r/a, t^6 is replaced by c t^4, which is best
    where both extremes of |t^6 - c t^4| on [0, 1] agree: 1 - c = 4 c^3 / 27. What is left is below 2^-63; the odd part
    that comes next, r^7/5040, is below 2^-71.
    """
    a = LN2 / (2 * TABLE_SIZE)
    c = findroot(lambda c: 1 - c - 4 * c**3 / 27, 0.9)
    return [float(mpf(1) / 6), float(mpf(1) / 24 + c * a**2 / 720), float(mpf(1) / 120)]


def weight_base(exponent: int) -> int:
    """The multiple of LIMB_BITS that is next to an exponent, away from 0."""
    return int(math.copysign(LIMB_BITS * math.ceil(abs(exponent) / LIMB_BITS), exponent))


def numbers() -> dict[str, tuple[int | float, str]]:
    """Limits, formats and codes that C and Python share, each with its reason; "" where the reason is the one above."""
    values: dict[str, tuple[int | float, str]] = {
        "VERSION": (2, "Of a record. A change of any number in this file is a new version."),
        "LIMB_BITS": (
            LIMB_BITS,
            "Bits of a limb, of the 53 of a double: a term has at most 2^49 of a quantum, and rounding by ROUND"
            " bears 2^51. Three limbs reach 2^-100, where a term is known to about 2^-60.",
        ),
        "ROUND": (
            ROUND,
            "1.5 2^52: adding and subtracting it rounds to an integer, of either sign, which is in the low bits"
            " between.",
        ),
        "ROUND_BITS": (Pattern.of(ROUND), ""),
    }
    for i in range(3):
        magic = ROUND * 2.0 ** (-LIMB_BITS * i)
        reason = "ROUND for the quantum of limb i, 2^(-50 i): the bits of a sum beyond this pattern are the limb."
        values[f"LIMB_ROUND_{i}"] = (magic, "" if i else reason)
        values[f"LIMB_PATTERN_{i}"] = (Pattern.of(magic), "")
    values |= {
        "FAR": (
            2.0**23,
            "From this abs(x) on, x takes a first reduction: below, k = x 128 / ln2 has at most 31 bits, and "
            "its products with pieces of 22 bits are exact.",
        ),
        "TOO_FAR": (
            2.0**60,
            "From this abs(c x) on, only ties with the maximum count: neighbours are 2^7 apart or more, and "
            "e^-128 adds nothing. Below, the first reduction's multiple of 2^22 ln2 has at most 38 bits.",
        ),
        "SPAN": (
            192.0,
            "A value this far below the second adds nothing: 102 powers of 2, which are 71, would do. Where "
            "values are 2^7 apart, second - SPAN is rounded to second - 128 or less. A span of 128 would not do: above "
            "-2^59, second - 128 may be rounded to second - 64.",
        ),
        "FLUSH": (
            4096,
            "Terms whose limbs may be summed in an int64: limbs are below 2^50, and 2^12 of them below 2^62.",
        ),
        "NO_BASE": (-(2**63), "The base of a sum without a grid: below every base."),
        "VANISHING_BASE": (200, "On its grid every limb of e^0 is 0: half the last quantum is 2^99."),
        "LEAST_SHIFT": (
            -2040,
            "Clips the power of 2 of a rest over the term of the max, which is then below 2^-1074: unscaled it is below"
            " 2^116. Half of it is the exponent of a normal number.",
        ),
        "FAR_BASE": (
            LIMB_BITS << 56,
            "Added to the base of a sum of weights where abs(c max) >= TOO_FAR, a multiple of LIMB_BITS. A base"
            " from half of it on is such a one: other bases are at most 2^60 / ln2 and 1100, or 2^60.53, and "
            "half of this is 2^60.64.",
        ),
        "NO_EXPONENT": (
            -(2**61),
            "Exponent of a product that adds nothing: below those of all others, which are above -2^60.6, and "
            "so far from the ends of an int64 that a base may be subtracted from it.",
        ),
        "LEAST_WEIGHT_BASE": (
            weight_base(-1074),
            "What weights may add to the base of a term. They are from 2^-1074 to below 2^1024, and bases are "
            "multiples of 50: of 22 and 21 of these.",
        ),
        "MOST_WEIGHT_BASE": (weight_base(1024), ""),
        "MOST_SHIFT": (
            3000,
            "Clips the power of 2 that a quotient of weighted sums is scaled by. Unscaled, it is within 2^-214 and "
            "2^116, as counts are below 2^63 and the lowest limb is in units of 2^-100: shifted this far, all is 0 or "
            "infinite.",
        ),
        "MOST_EXPONENT": (
            2000,
            "Clips the exponent of a product of pairs within 1/4 and 8: beyond +-1100 it is 0 or infinite. Half"
            " of it is the exponent of a normal number.",
        ),
        "UNIT": (
            -2176,
            "Exponent of the unit of exact sums: a multiple of 64 below that of the least product, 2^-1074 2^-1074.",
        ),
        "CHUNKS": (
            140,
            "Chunks of 32 bits in an exact sum: they reach to 2^2304, for 2^255 of the largest products and a sign.",
        ),
        "MOST_WORDS": (140 // 2, "CHUNKS in words of 64 bits: as many as an exact sum may take."),
        "MOST_RECORD_WORDS": (
            67,
            "As many as one of a record may take: fewer than 2^63 products are below 2^2111. Merges never reach"
            " MOST_WORDS so.",
        ),
        "LEAST_TAIL": (5, "Values of the shortest tail that a distribution is fitted to."),
        "GRID_POINTS": (30, "Points of the grid of a fit, beside the root of the number of values."),
        "LEAST_SHARE": (
            10 * 2.0**-52,
            "What a point of the grid must have of the likelihood of all to be averaged.",
        ),
        "PRIOR_VALUES": (10, "Values whose k is 1/2: how much the prior of k weighs."),
        "LIFT": (
            512,
            "Weights of tails are times 2^512, and so normal numbers wherever they matter: the largest is 1, and the"
            " least quartile that is fitted about e^-709, which is 2^-1023.",
        ),
        "LEAST_LOG_WEIGHT": (
            -1000.0,
            "What a log-ratio counts as at least in a weight, which is 2^-420 of the least quartile then.",
        ),
        "FACTORS_TOGETHER": (512, "Factors within 1 and 2 whose product neither overflows nor does so when split."),
        "PLUS_INFINITY": (1, "What an exact sum is that is not finite. Infinities of both signs make NaN: bitwise or."),
        "MINUS_INFINITY": (2, ""),
        "NOT_A_NUMBER": (3, ""),
        "MOST_SMALLEST": (65535, "How many of the smallest values a list may keep: its head has 16 bits for that."),
    }
    for i, field in enumerate(FAULT_FIELDS):
        reason = "" if i else "What a record that is not canonical violates, in the order in which this is looked for."
        values[f"FAULT_{field.upper()}"] = (i, reason)
    return values


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


def literal(value: int | float) -> str:
    """The number in hexadecimal where it is not short."""
    if isinstance(value, Pattern):
        return f"0x{value:016X}"
    if isinstance(value, int):
        shift = (value & -value).bit_length() - 1
        return str(value) if abs(value) < 2**31 else f"{value >> shift} << {shift}"
    return repr(value) if value.is_integer() and abs(value) < 1e6 else re.sub(r"\.?0*p", "p", value.hex())


def c_literal(value: int | float) -> str:
    if isinstance(value, Pattern):
        return f"{literal(value)}ULL"
    if isinstance(value, int):
        if value == -(2**63):
            return "INT64_MIN"  # which has no literal
        odd, _, shift = literal(value).partition(" << ")
        return f"(INT64_C({odd}) * (INT64_C(1) << {shift}))" if shift else f"({odd})"
    return f"({literal(value)})"


def python_literal(value: int | float) -> str:
    return f'_f("{literal(value)}")' if "x" in literal(value) and not isinstance(value, int) else literal(value)


def render(
    note: Callable[[str], str],
    scalar: Callable[[str, int | float], str],
    table: Callable[[str, list[tuple[float, float]]], str],
) -> str:
    shared = "".join(
        (note(reason) if reason else "") + scalar(name, value) for name, (value, reason) in numbers().items()
    )
    coefficients = note("Coefficients and tables of e^x and log1p, whose reductions generate_constants.py describes.")
    return (
        shared
        + coefficients
        + "".join(
            table(name, value) if isinstance(value, list) else scalar(name, value)
            for name, value in constants().items()
        )
    )


def c_header() -> str:
    return "/* Written by generate_constants.py: do not edit. */\n" + render(
        lambda reason: "\n" + textwrap.fill(f"/* {reason} */", 120, subsequent_indent="   ") + "\n",
        lambda name, value: f"#define {name} {c_literal(value)}\n",
        lambda name, rows: (
            f"static const double {name}[{len(rows)}][2] __attribute__((aligned(64))) = {{\n"
            + "".join(f"    {{{high.hex()}, {low.hex()}}},\n" for high, low in rows)
            + "};\n"
        ),
    )


def python_module() -> str:
    return '"""Written by generate_constants.py: do not edit."""\n\n_f = float.fromhex\n' + render(
        lambda reason: "\n" + textwrap.fill(reason, 120, initial_indent="# ", subsequent_indent="# ") + "\n",
        lambda name, value: f"{name} = {python_literal(value)}\n",
        lambda name, rows: (
            f"{name} = (\n" + "".join(f'    (_f("{high.hex()}"), _f("{low.hex()}")),\n' for high, low in rows) + ")\n"
        ),
    )


FILES = {"c/constants.h": c_header, "constants.py": python_module}


def main() -> None:
    for name, content in FILES.items():
        (Path(__file__).parent / name).write_text(content(), encoding="ascii")


if __name__ == "__main__":
    main()
