"""Event times: within what Beam holds."""

from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from lse_stream.event_times import EARLIEST, LATEST


def test_their_bounds_leave_room_for_windows_of_a_century() -> None:
    century = 100 * 366 * 86_400_000_000
    assert EARLIEST - century == MIN_TIMESTAMP.micros
    assert LATEST + century == MAX_TIMESTAMP.micros
    assert Timestamp(micros=EARLIEST) < Timestamp(micros=LATEST)
