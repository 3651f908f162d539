"""The command line that the programs share: our options, Beam's, and what is wrong with them."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

EMBEDDED_RUNNER = "FnApiRunner"

# How the programs are called, from the wheel and from a checkout.
COMMAND = "python -m pipelines" if __package__ == "pipelines" else "lse-stream"


class UsageError(ValueError):
    """An option that cannot be followed, found before any work."""


class LogSumExpOptions(PipelineOptions):
    """Options of every program that totals a column by key."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--input",
            nargs="+",
            action="extend",
            default=[],
            metavar="PATH",
            help="Parquet files, directories (searched for *.parquet) or quoted globs, on any filesystem that Beam "
            "knows. Directories named column=value give columns that can be keys.",
        )
        parser.add_argument(
            "--key",
            action="append",
            default=[],
            metavar="COLUMN",
            help="key column; repeat it for a compound key; leave it out for one total over all rows",
        )
        parser.add_argument("--value", metavar="COLUMN", help="column of numbers to total")
        parser.add_argument("--output", metavar="DIR", help="directory to make; it appears when it is whole")
        parser.add_argument(
            "--num_shards",
            type=int,
            default=1,
            metavar="N",
            help="files to spread the keys over (default 1; about one per 10 million keys)",
        )
        parser.add_argument(
            "--state",
            action="store_true",
            help="also write the column 'state', from which results can be merged with later ones",
        )
        parser.add_argument(
            "--skip_nulls",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="leave null values out (default); with --no-skip_nulls the result of a key with a null is null",
        )
        parser.add_argument(
            "--min_count",
            type=int,
            default=0,
            metavar="N",
            help="with fewer terms than N the result is null (default 0: nothing gives -inf)",
        )
        parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")
        parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
        parser.add_argument("--traceback", action="store_true", help="show the whole traceback of a fault")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(program: str, description: str, examples: str, argv: Sequence[str]) -> LogSumExpOptions:
    """The options of a command line, ours and Beam's, with the embedded runner on all cores where none is named.

    Raises:
      UsageError: an option that is unknown, incomplete or out of range.
      SystemExit: for --help, which prints ours.
    """
    parser = _Parser(
        prog=f"{COMMAND} {program}",
        description=description,
        epilog=examples.replace("PROGRAM", f"{COMMAND} {program}")
        + "\nEvery option of Beam is taken too, such as --runner and --direct_num_workers.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    LogSumExpOptions._add_argparse_args(parser)
    _, rest = parser.parse_known_args(argv)
    options = PipelineOptions(list(argv))
    _check_runner(options, rest)
    ours = options.view_as(LogSumExpOptions)
    for option in ("input", "value", "output"):
        if not getattr(ours, option):
            raise UsageError(f"--{option}: expected a value, found none")
    if ours.num_shards < 1:
        raise UsageError(f"--num_shards: expected 1 or more, found {ours.num_shards}")
    if ours.min_count < 0:
        raise UsageError(f"--min_count: expected 0 or more, found {ours.min_count}")
    return ours


def _check_runner(options: PipelineOptions, rest: list[str]) -> None:
    standard = options.view_as(StandardOptions)
    runner = str(standard.runner or EMBEDDED_RUNNER)
    standard.runner = runner
    if "dask" in runner.lower():
        raise UsageError(
            f"--runner {runner}: it gives silently wrong results with windows, finish_bundle and file sinks; "
            "expected another runner, such as FlinkRunner"
        )
    try:
        create_runner(runner)
    except Exception as error:  # also what a runner misses of its own requirements
        raise UsageError(f"--runner {runner}: {' '.join(str(error).split())}") from error
    if not runner.endswith(EMBEDDED_RUNNER):
        return  # other runners may know options that only their own job server names
    beam: Any = _Parser(add_help=False, allow_abbrev=False)
    for group in PipelineOptions.__subclasses__():
        if group is not LogSumExpOptions:
            group._add_argparse_args(beam)
    _, unknown = beam.parse_known_args(rest)
    if unknown:
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}")
    direct = options.view_as(DirectOptions)
    named = {argument.split("=")[0] for argument in rest}
    if "--direct_running_mode" not in named:
        # The kernel and pyarrow release the GIL, so threads do.
        direct.direct_running_mode = "multi_threading"
    if "--direct_num_workers" not in named:
        direct.direct_num_workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
