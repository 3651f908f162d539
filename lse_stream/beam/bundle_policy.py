"""When the states of a bundle are sent on, and when rows are shuffled in their place."""

# A state takes about as many bytes of the shuffle as four rows of two keys and a number. Where there are fewer rows per
# key than that, rows are the shorter way to send them.
ROWS_PER_STATE = 4

# Where grouping was of no use, this many times ``max_states`` rows are sent as they are before it is tried again. A
# trial groups about one time ``max_states`` rows, so that trials are 6 % of the work.
MULTIPLES_AS_THEY_ARE = 16


class BundlePolicy:
    """The decisions for one bundle.

    Args:
      max_states: how many states may be held.
      may_send_rows: whether rows can be sent as they are; what comes as states cannot.
    """

    def __init__(self, max_states: int, *, may_send_rows: bool) -> None:
        self._max_states, self._may_send_rows = max_states, may_send_rows
        self._grouped_rows = 0
        self._rows_to_send = 0

    def sends(self, num_rows: int) -> bool:
        """Whether a table is sent as it is, and not grouped."""
        if self._rows_to_send <= 0:
            return False
        self._rows_to_send -= num_rows
        return True

    def is_full(self, num_rows: int, num_states: int) -> bool:
        """Whether the states are to be sent on, after a table of ``num_rows``, when there are ``num_states`` of them.

        Where grouping has made too little of the rows, the next tables are sent as they are.
        """
        self._grouped_rows += num_rows
        if num_states <= self._max_states:
            return False
        if self._may_send_rows and self._grouped_rows < ROWS_PER_STATE * num_states:
            self._rows_to_send = MULTIPLES_AS_THEY_ARE * self._max_states
        self._grouped_rows = 0
        return True
