"""The command line that the programs share: our options, Beam's, and what is wrong with them."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from .command import ArgumentParser, UsageError

EMBEDDED_RUNNER = "FnApiRunner"

# One word means one thing in every program that has it.
_WORDS: dict[str, dict[str, Any]] = {
    "input": {
        "nargs": "+",
        "action": "extend",
        "default": [],
        "metavar": "PATH",
        "help": "Parquet files, directories (searched for *.parquet) or quoted globs, on any filesystem that Beam "
        "knows. Directories named column=value give columns that can be keys.",
    },
    "key": {
        "action": "append",
        "default": [],
        "metavar": "COLUMN",
        "help": "key column; repeat it for a compound key; leave it out for one total over all rows",
    },
    "value": {"metavar": "COLUMN", "help": "column of numbers to total"},
    "output": {"metavar": "DIR", "help": "directory to make; it appears when it is whole"},
    "num_shards": {
        "type": int,
        "default": 1,
        "metavar": "N",
        "help": "files to spread the keys over (default 1; about one per 10 million keys)",
    },
    "state": {
        "action": "store_true",
        "help": "also write the column 'state', from which results can be merged with later ones",
    },
    "skip_nulls": {
        "action": argparse.BooleanOptionalAction,
        "default": True,
        "help": "leave null values out (default); with --no-skip_nulls the result of a key with a null is null",
    },
    "min_count": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "with fewer terms than N the result is null (default 0: nothing gives -inf)",
    },
    "overwrite": {"action": "store_true", "help": "replace DIR if it exists"},
    "quiet": {"action": "store_true", "help": "no progress and no summary"},
    "traceback": {"action": "store_true", "help": "show the whole traceback of a fault"},
}
_REQUIRED = ("input", "value", "output")
_LEAST = {"num_shards": 1, "min_count": 0}


class Parser(ArgumentParser):
    """Parses the options of a program: those of ``words``, which programs share, and what ``add_argument`` adds.

    ``usage`` names those that it cannot do without.
    """

    def __init__(
        self,
        program: str,
        description: str,
        examples: str,
        words: Sequence[str] = tuple(_WORDS),
        usage: str = "--input PATH --output DIR",
    ) -> None:
        examples = f"{examples}\nEvery option of Beam is taken too, such as --runner and --direct_num_workers."
        super().__init__(program, description, examples, f"{usage} [OPTION ...]")
        self._words = words
        for word in words:
            self.add_argument(f"--{word}", **_WORDS[word])

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Our options, and as ``beam`` Beam's, with the embedded runner on all cores where none is named.

        Raises:
          UsageError: an option that is unknown, incomplete or out of range.
          SystemExit: for --help, which prints ours.
        """
        options, rest = self.parse_known_args(argv)
        options.beam = _beam_options(rest)
        for word in self._words:
            found = getattr(options, word)
            if word in _REQUIRED and not found:
                raise UsageError(f"--{word}: expected a value, found none")
            if word in _LEAST and found < _LEAST[word]:
                raise UsageError(f"--{word}: expected {_LEAST[word]} or more, found {found}")
        return options


def check_columns(keys: Mapping[str, Sequence[str]], others: Mapping[str, str | None], results: Sequence[str]) -> None:
    """Raises UsageError for a column that is named twice, or a key column with the name of a result.

    Args:
      keys: names of key columns, by the option that gave them; they come out beside the results.
      others: further columns that are read, likewise; None for an option that was left out.
      results: names of the columns that the program adds.
    """
    taken = {name: option for option, name in others.items() if name is not None}
    for option, names in keys.items():
        for name in names:
            if name in taken:
                raise UsageError(f"--{option} {name}: expected columns named once, found it as --{taken[name]} too")
            if name in results:
                raise UsageError(
                    f"--{option} {name}: expected a name other than the columns of the result ({', '.join(results)})"
                )
            taken[name] = option


def _beam_options(rest: list[str]) -> PipelineOptions:
    options = PipelineOptions(rest)
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
        return options  # other runners may know options that only their own job server names
    beam: Any = ArgumentParser("", "", "", "")
    for group in PipelineOptions.__subclasses__():
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
    return options
