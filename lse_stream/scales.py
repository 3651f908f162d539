"""Scales of logarithms: natural, of a base, of a temperature, decibel, magnitude."""

import re
from decimal import Context, Decimal
from functools import cache, cached_property, lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from .errors import nearest
from .float64 import to_float_exact

# Digits of the constants: far more than a double-double holds. Decimal's logarithm is the same on every machine.
_PRECISION = Context(prec=80)
# Within these, no product of a value that matters and its factor overflows or underflows.
_LEAST, _MOST = 1e-100, 1e100


def _pair(value: Decimal) -> tuple[float, float]:
    high = float(value)
    return high, float(_PRECISION.subtract(value, Decimal(high)))


class Scale:
    """A scale of logarithms: of values x it sums ``exp(x c)`` and takes ``ln(sum) / c``.

    Equal scales are equal however they were made.

    Args:
      scale: "natural", "log2", "log10", "decibel" or "dB" (10 log10), "magnitude" (-2.5 log10; the brighter the
        smaller), or "base B" or "temperature T" with a number, in letters of any case; or a Scale, which is returned as
        it is.

    Attributes:
      name: "natural", "base 2.0", "temperature 0.5", "decibel" or "magnitude".
      code, parameter: what a record stores.

    Raises:
      ValueError: another name, or a number out of range: see ``base`` and ``temperature``.
      TypeError: neither a name nor a scale.

    >>> Scale("log2") == Scale.base(2)
    True
    """

    CODES = ("natural", "base", "temperature", "decibel", "magnitude")

    code: int
    parameter: float | None

    def __new__(cls, scale: "Scale | str") -> "Scale":
        if isinstance(scale, Scale):
            return scale
        if not isinstance(scale, str):
            raise TypeError(f"scale: expected a name or a Scale, found {type(scale).__name__}")
        name = scale.strip().lower()
        if name in ("log2", "log10"):
            return cls.base(float(name.removeprefix("log")))
        if found := re.fullmatch(r"(base|temperature)(?![a-z])(.*)", name):
            name, number = found.groups()
            try:
                parameter = float(number)
            except ValueError:
                raise ValueError(f"scale: expected {name} and a number, found {scale!r}") from None
            try:
                return cls.base(parameter) if name == "base" else cls.temperature(parameter)
            except ValueError as error:
                raise ValueError(f"scale {scale!r}: {error}") from error
        name = "decibel" if name == "db" else name
        if name not in cls.CODES:
            raise ValueError(
                "scale: expected 'natural', 'log2', 'log10', 'decibel', 'magnitude', 'base B' or 'temperature T', "
                f"found {scale!r}{nearest(name, cls.CODES)}"
            )
        return cls._named(name)

    @classmethod
    def _new(cls, name: str, parameter: float | None = None) -> Self:
        self = super().__new__(cls)
        self.code, self.parameter = cls.CODES.index(name), parameter
        return self

    @classmethod
    @cache  # for good: the natural scale is known by its identity
    def _named(cls, name: str) -> Self:
        return cls._new(name)

    @classmethod
    @lru_cache(maxsize=256)  # for the factor, which takes 0.1 ms to compute
    def _numbered(cls, name: str, parameter: float) -> Self:
        return cls._new(name, parameter)

    @classmethod
    def base(cls, b: float) -> Self:
        """``log_b(sum(b ** x))``.

        Args:
          b: the factor between amounts whose values differ by 1.

        Raises:
          ValueError: b is not a number above 1, of at most 1e100.
        """
        b = to_float_exact(b)
        if not 1.0 < b <= _MOST:
            raise ValueError(f"base: expected a number above 1, of at most {_MOST:g}, found {b!r}")
        return cls._numbered("base", b)

    @classmethod
    def temperature(cls, t: float) -> Self:
        """``t ln(sum(exp(x / t)))``. A temperature of 1 is the natural scale.

        Args:
          t: what values are divided by.

        Raises:
          ValueError: t is not a number from 1e-100 to 1e100.
        """
        t = to_float_exact(t)
        if not _LEAST <= t <= _MOST:
            raise ValueError(f"temperature: expected a number above 0, from {_LEAST:g} to {_MOST:g}, found {t!r}")
        return cls._named("natural") if t == 1.0 else cls._numbered("temperature", t)

    def __reduce__(self) -> tuple[type["Scale"], tuple[str]]:
        return Scale, (self.name,)

    @property
    def name(self) -> str:
        """As ``Scale`` takes it, with the number where it has one."""
        name = self.CODES[self.code]
        return name if self.parameter is None else f"{name} {self.parameter!r}"

    @property
    def descends(self) -> bool:
        """Whether the largest amount has the smallest value."""
        return self.CODES[self.code] == "magnitude"

    @cached_property
    def _exact(self) -> Decimal:
        context, ten = _PRECISION, Decimal(10)
        match self.CODES[self.code]:
            case "base":
                return context.ln(Decimal(self.parameter or 0))
            case "temperature":
                return context.divide(Decimal(1), Decimal(self.parameter or 0))
            case "decibel":
                return context.divide(context.ln(ten), ten)
            case "magnitude":
                return context.divide(context.ln(ten), Decimal("2.5"))
            case "natural":
                return Decimal(1)
        raise AssertionError(f"a scale without a factor: {self.name}")

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
        return f"Scale({self.name!r})"


NATURAL = Scale("natural")
