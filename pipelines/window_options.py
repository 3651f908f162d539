"""Windows and durations on the command line."""

import re
from datetime import timedelta
from typing import Any

from .command import UsageError

_UNITS = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# No more digits than numbers of 64 bits hold.
_DURATION = re.compile(rf"(\d{{1,18}})({'|'.join(_UNITS)})")
# A century, as days of its calendar: more is a slip, and Beam's times would overflow in the end.
_MOST_SECONDS = timedelta(days=36525).total_seconds()
_YEAR = _MOST_SECONDS / 100
# Of sliding windows. More is a slip: a row is copied to each window that it is in.
_MOST_WINDOWS = 10_000

FORMS = "fixed:1h, sliding:1h/10m or session:30m"


def parse_duration(option: str, text: str, whole: str | None = None, example: str = "30m") -> float:
    """The seconds of a duration such as "90s", "15m", "1h", "2d", "1w" or "500ms"; ``whole`` is all that was typed.

    Raises:
      UsageError: it cannot be read, or is more than a century.
    """
    found = _DURATION.fullmatch(text)
    typed = f"--{option} {whole or text}"
    if found is None:
        raise UsageError(
            f"{typed}: expected a whole number and a unit of {', '.join(_UNITS)}, such as {example}, found {text!r}"
        )
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > _MOST_SECONDS:
        raise UsageError(f"{typed}: expected at most 100 years, found {seconds / _YEAR:,.1f}")
    return seconds


def parse_window(text: str) -> Any:
    """The ``WindowFn`` that --window names, aligned to 1970-01-01 00:00 UTC (so those of a week begin on Thursdays).

    Raises:
      UsageError: it cannot be read.
    """
    from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows  # what needs Beam imports it
    from apache_beam.utils.timestamp import Duration

    form, _, lengths = text.partition(":")
    seconds = [parse_duration("window", length, text) for length in lengths.split("/")] if lengths else []
    if not all(seconds):
        raise UsageError(f"--window {text}: expected durations of more than 0, found 0")
    match form, [Duration(micros=round(length * 1e6)) for length in seconds]:
        case "fixed", [size]:
            return FixedWindows(size)
        case "sliding", [size, period]:
            if period > size:
                raise UsageError(f"--window {text}: expected a period no longer than the size, or rows fall between")
            if size.micros > _MOST_WINDOWS * period.micros:
                raise UsageError(
                    f"--window {text}: expected each row in at most {_MOST_WINDOWS:,} windows, "
                    f"found it in {-(-size.micros // period.micros):,}"
                )
            return SlidingWindows(size, period)
        case "sliding", [_]:
            raise UsageError(f"--window {text}: expected a period behind the size, such as sliding:1h/10m, found none")
        case "session", [gap]:
            return Sessions(gap)
    raise UsageError(f"--window {text}: expected {FORMS}, found {text!r}")
