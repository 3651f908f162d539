"""The decisions of a bundle: when states are sent on, and when rows go in their place."""

from lse_stream.beam.bundle_policy import MULTIPLES_AS_THEY_ARE, ROWS_PER_STATE, BundlePolicy


def test_states_are_sent_on_when_there_are_too_many() -> None:
    policy = BundlePolicy(100, may_send_rows=True)
    assert not policy.is_full(1000, 100)
    assert policy.is_full(1000, 101)
    assert not policy.sends(10)  # there were many rows per state


def test_rows_go_as_they_are_where_grouping_makes_too_little_of_them() -> None:
    policy = BundlePolicy(100, may_send_rows=True)
    assert policy.is_full(ROWS_PER_STATE * 120 - 1, 120)
    sent = 0
    while policy.sends(50):
        sent += 50
    assert sent == MULTIPLES_AS_THEY_ARE * 100
    # It is tried again, with rows counted anew: those of the last trial are not taken for this one's.
    assert not policy.is_full(ROWS_PER_STATE * 101 - 1, 100)
    assert policy.is_full(1, 101)
    assert not policy.sends(50)


def test_the_rows_of_all_tables_since_the_last_time_count() -> None:
    policy = BundlePolicy(10, may_send_rows=True)
    assert not policy.is_full(30, 10)
    assert policy.is_full(14, 11)
    assert not policy.sends(1)


def test_states_are_never_sent_as_rows() -> None:
    policy = BundlePolicy(10, may_send_rows=False)
    assert policy.is_full(11, 11)
    assert not policy.sends(1)
