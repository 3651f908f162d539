"""The parser that every program's command line goes through, and the error for one that cannot be followed."""

import argparse
from typing import NoReturn

# From the wheel, and from a checkout.
COMMAND = "python -m pipelines" if __package__ == "pipelines" else "lse-stream"


class UsageError(ValueError):
    """An option that cannot be followed, found before any work."""


def print_version() -> None:
    """Prints the name and the version of the package."""
    from importlib.metadata import version  # with all that it imports

    print(f"lse-stream {version('lse-stream')}")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print_version()
        parser.exit()


class ArgumentParser(argparse.ArgumentParser):
    """Of a program, with its description and examples as they are written, where PROGRAM is how it is called."""

    def __init__(self, program: str, description: str, examples: str, usage: str) -> None:
        super().__init__(
            prog=f"{COMMAND} {program}",
            usage=f"%(prog)s {usage}",
            description=description,
            epilog=examples.replace("PROGRAM", f"{COMMAND} {program}").replace("COMMAND", COMMAND),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and exit"
        )

    def error(self, message: str) -> NoReturn:
        """Raises UsageError, in place of an exit."""
        raise UsageError(message.removeprefix("argument "))
