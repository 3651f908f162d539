"""Arithmetic of double-doubles: unevaluated sums of two floats, as arrays or alone."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Veltkamp's factor, 2^27 + 1: it splits a double into two halves of 26 bits, whose products are exact.
SPLIT = 134217729.0


def two_sum(a: Floats, b: Floats | float) -> tuple[Floats, Floats]:
    """Sum and its rounding error (Knuth, TAOCP 4.2.2)."""
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


def quick_two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Sum and its rounding error for abs(a) >= abs(b) (Dekker, Numer. Math. 18, 1971)."""
    s = a + b
    return s, b - (s - a)


def two_prod(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Product and its rounding error (Dekker, Numer. Math. 18, 1971, with Veltkamp's split by 2^27 + 1)."""
    ca = SPLIT * a
    ah = ca - (ca - a)
    al = a - ah
    cb = SPLIT * b
    bh = cb - (cb - b)
    bl = b - bh
    p = a * b
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def divide(ah: Floats, al: Floats, bh: Floats, bl: Floats) -> tuple[Floats, Floats]:
    """Quotient of two double-doubles."""
    q = ah / bh
    ph, pl = two_prod(q, bh)
    return quick_two_sum(q, ((((ah - ph) - pl) + al) - q * bl) / bh)
