"""Event times: columns of timestamps or dates as microseconds, within what Apache Beam and ISO 8601 can hold."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .buffers import numbers_of

Micros = npt.NDArray[np.int64]

# Microseconds since 1970. Beam has whole milliseconds whose microseconds fit 64 bits; less a century on both sides,
# which leaves room for the windows around a time.
_OF_BEAM = (2**63 - 1) // 1000 * 1000
_CENTURY = 100 * 366 * 86_400_000_000
EARLIEST, LATEST = _CENTURY - _OF_BEAM, _OF_BEAM - _CENTURY
# Years 1 to 9999: what ISO 8601 writes with four digits, and what Python's datetime holds.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999

# The columns of results that contain the times of their window.
WINDOW = ("window_start", "window_end")


def event_times(column: pa.ChunkedArray, name: str) -> Micros:
    """The times of a column (n,) as microseconds since 1970, rounded down.

    Raises:
      TypeError: neither timestamps nor dates.
      ValueError: a null, or a time beyond Beam's range; row and value named.
    """
    check_event_time(column.type, name)
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise ValueError(f"column {name!r}, row {row}: expected an event time, found null")
    data_type = column.type
    if pa.types.is_date(data_type):
        column = column.cast(pa.timestamp("s" if data_type == pa.date32() else "ms"))
    numbers: Micros = np.concatenate([np.zeros(0, np.int64), *(numbers_of(chunk) for chunk in column.chunks)])
    unit = column.type.unit
    if unit == "ns":
        return numbers // 1000
    micros = {"s": 1_000_000, "ms": 1000, "us": 1}[unit]
    beyond = (numbers < EARLIEST // micros) | (numbers > LATEST // micros)
    if beyond.any():
        row = int(beyond.argmax())
        raise ValueError(
            f"column {name!r}, row {row}: expected a time that Beam can hold, up to 292,000 years from 1970, "
            f"found {numbers[row]} {unit} since then"
        )
    return numbers * micros


def check_event_time(data_type: pa.DataType, name: str) -> None:
    """Raises TypeError for a column that holds neither timestamps nor dates."""
    if not (pa.types.is_timestamp(data_type) or pa.types.is_date(data_type)):
        raise TypeError(f"column {name!r}: expected timestamps or dates as event times, found {data_type}")


def is_in_years(micros: int, room: int = 0) -> bool:
    """Whether a time, and all that is within ``room`` microseconds of it, is in the years 1 to 9999."""
    return _FIRST + room <= micros <= _LAST - room


def check_years(times: Micros, name: str, room: int = 0) -> None:
    """Raises ValueError for the first of times (n,) that ``is_in_years`` says no of; row and value named."""
    beyond = (times < _FIRST + room) | (times > _LAST - room)
    if beyond.any():
        row = int(beyond.argmax())
        raise ValueError(
            f"column {name!r}, row {row}: expected a time that is, with its windows, in the years 1 to 9999, "
            f"found {times[row]} us since 1970"
        )


def check_times(name: str, room: int, table: pa.Table) -> pa.Table:
    """The table as it is, once its event times are checked.

    Raises:
      TypeError, ValueError: as ``event_times`` and ``check_years``.
    """
    check_years(event_times(table.column(name), name), name, room)
    return table
