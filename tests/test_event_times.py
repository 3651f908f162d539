"""Event times: within what Beam holds, and what ISO 8601 writes."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from lse_stream.event_times import EARLIEST, LATEST, check_years, is_in_years


def test_their_bounds_leave_room_for_windows_of_a_century() -> None:
    century = 100 * 366 * 86_400_000_000
    assert EARLIEST - century == MIN_TIMESTAMP.micros
    assert LATEST + century == MAX_TIMESTAMP.micros
    assert Timestamp(micros=EARLIEST) < Timestamp(micros=LATEST)


def test_the_years_1_to_9999_are_those_of_datetime() -> None:
    epoch, step = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
    first, last = ((end.replace(tzinfo=UTC) - epoch) // step for end in (datetime.min, datetime.max))
    for room in (0, 5):
        assert is_in_years(first + room, room)
        assert is_in_years(last - room, room)
        check_years(np.array([first + room, last - room]), "time", room)
        for beyond in (first + room - 1, last - room + 1):
            assert not is_in_years(beyond, room)
            with pytest.raises(ValueError, match=rf"column 'time', row 1: expected .*, found {beyond} us since 1970"):
                check_years(np.array([0, beyond, beyond]), "time", room)
