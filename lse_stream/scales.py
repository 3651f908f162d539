"""Scales: what a unit of a value means, and so which sum it stands for."""

from decimal import Context, Decimal
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from .values import widen_scalar

# Digits of the constants: far more than a double-double holds. Decimal's logarithm is the same on every machine.
_PRECISION = Context(prec=80)
# Within these, no product of a value that matters and its factor overflows or underflows.
_LEAST, _MOST = 1e-100, 1e100


def _pair(value: Decimal) -> tuple[float, float]:
    high = float(value)
    return high, float(_PRECISION.subtract(value, Decimal(high)))


class Scale:
    """A scale of logarithms: of values x it sums ``exp(x c)`` and takes ``ln(sum) / c``.

    Make one by ``Scale.of(name)``, ``Scale.base(b)`` or ``Scale.temperature(t)``. Equal scales are equal however they
    were made.

    Attributes:
      name: "natural", "base 2.0", "temperature 0.5", "decibel" or "magnitude".
      code, parameter: what a record stores.
    """

    CODES = ("natural", "base", "temperature", "decibel", "magnitude")

    def __init__(self, code: int, parameter: float | None = None) -> None:
        self.code = code
        self.parameter = parameter

    @classmethod
    def of(cls, scale: "Scale | str") -> "Scale":
        """The scale of a name: "natural", "log2", "log10", "decibel" (10 log10), "magnitude" (-2.5 log10; the brighter
        the smaller), or "base B" or "temperature T" with a number.

        Raises:
          ValueError: another name.
          TypeError: neither a name nor a scale.
        """
        if isinstance(scale, Scale):
            return scale
        if not isinstance(scale, str):
            raise TypeError(f"scale: expected a name or a Scale, found {type(scale).__name__}")
        if scale in _PLAIN:
            return _PLAIN[scale]
        if scale in ("log2", "log10"):
            return cls.base(float(scale.removeprefix("log")))
        kind, _, number = scale.partition(" ")
        try:
            if kind in ("base", "temperature"):
                return cls.base(float(number)) if kind == "base" else cls.temperature(float(number))
        except ValueError as error:
            raise ValueError(f"scale {scale!r}: {error}") from error
        raise ValueError(
            "scale: expected 'natural', 'log2', 'log10', 'decibel', 'magnitude', 'base B' or 'temperature T', "
            f"found {scale!r}"
        )

    @classmethod
    def base(cls, b: float) -> Self:
        """``log_b(sum(b ** x))``.

        Raises:
          ValueError: b is not a number above 1, of at most 1e100.
        """
        b = widen_scalar(b)
        if not 1.0 < b <= _MOST:
            raise ValueError(f"base: expected a number above 1, of at most {_MOST:g}, found {b!r}")
        return cls(1, b)

    @classmethod
    def temperature(cls, t: float) -> Self:
        """``t ln(sum(exp(x / t)))``. A temperature of 1 is the natural scale.

        Raises:
          ValueError: t is not a number from 1e-100 to 1e100.
        """
        t = widen_scalar(t)
        if not _LEAST <= t <= _MOST:
            raise ValueError(f"temperature: expected a number above 0, from {_LEAST:g} to {_MOST:g}, found {t!r}")
        return cls(0) if t == 1.0 else cls(2, t)

    @property
    def name(self) -> str:
        kind = self.CODES[self.code]
        return kind if self.parameter is None else f"{kind} {self.parameter!r}"

    @property
    def descends(self) -> bool:
        """Whether the largest amount has the smallest value."""
        return self.code == 4

    @cached_property
    def _exact(self) -> Decimal:
        context, ten = _PRECISION, Decimal(10)
        match self.code:
            case 0:
                return Decimal(1)
            case 1:
                return context.ln(Decimal(self.parameter or 0))
            case 2:
                return context.divide(Decimal(1), Decimal(self.parameter or 0))
            case 3:
                return context.divide(context.ln(ten), ten)
            case _:
                return context.divide(context.ln(ten), Decimal("2.5"))

    @cached_property
    def factor(self) -> npt.NDArray[np.float64]:
        """c as a double-double (2,); of a scale that descends, of the values negated."""
        return np.array(_pair(self._exact))

    @cached_property
    def unit(self) -> tuple[float, float]:
        """1 / c as a double-double."""
        return _pair(_PRECISION.divide(Decimal(1), self._exact))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scale) and (self.code, self.parameter) == (other.code, other.parameter)

    def __hash__(self) -> int:
        return hash((self.code, self.parameter))

    def __repr__(self) -> str:
        return f"Scale.of({self.name!r})"


_PLAIN = {Scale.CODES[code]: Scale(code) for code in (0, 3, 4)}
NATURAL = _PLAIN["natural"]
