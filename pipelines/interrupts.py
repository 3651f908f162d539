"""Signals that ask a program to end: raised once, at a moment that leaves nothing half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks to end. It is no Exception, so that nothing on the way takes it for a fault of its own.

    Its notes say what is left; without any, nothing is.

    Attributes:
      ended: whether what was begun writes no more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)
        self.ended = True


class _Asked:
    """Which signal asked to end, and whether it may be raised now. The main thread alone changes this."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.held = 0
        self.impatient = False

    def raise_if_asked(self) -> None:
        if self.number is not None and not self.held:
            self.held = 1  # once is enough: what follows is to clean up
            raise Interrupted(self.number)

    def raise_if_asked_again(self) -> None:
        if self.number is not None and self.impatient:
            self.impatient = False
            self.held += 1  # for good
            raise Interrupted(self.number)


_asked = _Asked()


def _handle(number: int, _: Any) -> None:
    _asked.raise_if_asked_again()
    _asked.number = _asked.number or number
    _asked.raise_if_asked()


@contextmanager
def interrupts() -> Iterator[None]:
    """Raises ``Interrupted`` in the block, in the main thread, for the first signal that asks to end."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked = _Asked()
    # Signals that were ignored, as under nohup, stay ignored.
    before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Lets signals wait until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = _asked
    asked.held += 1
    try:
        yield
    finally:
        asked.held -= 1
    asked.raise_if_asked()


@contextmanager
def second_ends() -> Iterator[None]:
    """Raises ``Interrupted`` in the block for a second signal, where the first one waits or was raised before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.impatient = True
    try:
        yield
    finally:
        _asked.impatient = False


def too_late() -> None:
    """All work is done: from here on a signal ends the process at once, as there is nothing to clean up."""
    if threading.current_thread() is threading.main_thread():
        _asked.held += 1
        for number in SIGNALS:
            if signal.getsignal(number) is _handle:
                signal.signal(number, signal.SIG_DFL)
