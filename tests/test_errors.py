"""Errors of ours: one line, found again in whatever text a runner makes of them."""

import pickle
import traceback

import pytest

from lse_stream.errors import DataError, message_in, one_line

MESSAGES = [
    "a.parquet, row group 3: column 'x': expected integers, found 9007199254740993",
    'it has [brackets], "quotes", a \\ backslash, 100 % and\n  two lines',
    "ключ='ü', [lse_stream error: no]",
    "/data/\udcff.parquet, column 'x': a path whose bytes are no UTF-8",
]


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_found_in_a_traceback(message: str) -> None:
    error = DataError(message)
    assert str(error) == message
    assert message_in(printed(error)) == message
    assert message_in(printed(pickle.loads(pickle.dumps(error)))) == message


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_found_in_what_runners_make_of_it(message: str) -> None:
    # Beam makes an error of the same class, of a message to which the step is appended, and runners wrap the text.
    error = DataError(f"{message} [while running 'Read/ParDo(_ReadRowGroup)-ptransform-17']")
    wrapped = RuntimeError(f"bundle inst005 failed: {printed(error)!r}")
    assert message_in(printed(wrapped)) == message
    assert message_in(printed(error).replace("\n", " ").replace('"', '\\"')) == message


def test_other_texts_have_none() -> None:
    assert message_in("lse_stream.errors.DataError: a message as Python prints it") is None
    assert message_in(printed(ValueError("x"))) is None


def test_an_error_on_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
