"""The command line that the programs share, and what is wrong with it."""

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lse_stream.coarsening import UNITS
from lse_stream.errors import nearest
from lse_stream.parquet.lakes import pinned
from lse_stream.predicates import Condition

from .command import ArgumentParser, UsageError
from .memory import free_memory


def _condition(text: str) -> Condition:
    try:
        return Condition(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# One word means one thing in every program that has it.
_WORDS: dict[str, dict[str, Any]] = {
    "input": {
        "nargs": "+",
        "action": "extend",
        "default": [],
        "metavar": "PATH",
        "help": "Parquet files, directories (searched for *.parquet) or quoted globs, on any filesystem that Beam "
        "knows. Directories named column=value give columns that can be keys. Or tables: delta:PATH[@VERSION], "
        "iceberg:CATALOG.TABLE[@SNAPSHOT].",
    },
    "key": {
        "action": "append",
        "default": [],
        "metavar": "COLUMN",
        "help": "key column; repeat it for a compound key; leave it out for one total over all rows",
    },
    "truncate": {
        "action": "append",
        "default": [],
        "metavar": "COLUMN=UNIT",
        "help": f"cut the times of a key column to one of {', '.join(UNITS)} (the weeks begin on Monday)",
    },
    "bin": {
        "action": "append",
        "default": [],
        "metavar": "COLUMN=WIDTH",
        "help": "cut the numbers of a key column to multiples of WIDTH, the lower edges of their bins",
    },
    "map": {
        "action": "append",
        "default": [],
        "metavar": "COLUMN=FILE",
        "help": "map the values of a column as FILE says, CSV with a header or Parquet, of two columns: the values, "
        "and what they become, a key with the name of the second column",
    },
    "value": {"metavar": "COLUMN", "help": "column of numbers to total"},
    "where": {
        "type": _condition,
        "metavar": "CONDITION",
        "help": "read those rows alone, such as \"season > 2000 and name != 'Amy'\": comparisons, 'in', 'is null', "
        "and/or/not, as in SQL",
    },
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
    "threads": {
        "type": int,
        "metavar": "N",
        "help": "how many threads work (default: one per core)",
    },
    "memory": {
        "metavar": "SIZE",
        "help": "how much the states of keys may fill, such as 4GB (default: half of what is free); what is more "
        "goes to --temp on its way",
    },
    "temp": {
        "metavar": "DIR",
        "help": "directory for states that memory does not hold (default: beside a local --output)",
    },
    "quiet": {"action": "store_true", "help": "no progress and no summary, of a runner its warnings alone"},
    "traceback": {"action": "store_true", "help": "show the whole traceback of a fault"},
}
_REQUIRED = ("input", "value", "output")
_LEAST = {"num_shards": 1, "min_count": 0, "threads": 1}
# More files or threads than that are a slip, such as a number of keys.
_MOST = {"num_shards": 10_000, "threads": 10_000}
# Of the engine in this process.
LOCAL = ("threads", "memory", "temp")
# Of keys.
COARSER = ("truncate", "bin", "map")
# Of every program that has it.
COMMON = (*LOCAL, "overwrite", "quiet", "traceback")

# The memory that is used even where less is free: below, every table would be put aside.
LEAST_MEMORY = 1 << 26

# Of the options so far and the name of the runner, more options for Beam.
BeamDefaults = Callable[[Mapping[str, Any], str], Mapping[str, object]]

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class Options:
    """What a command line says, by the names of its options. It cannot be changed.

    Attributes:
      program: whose they are.
      given: those that are not at their defaults, as they were parsed.
      beam: the options for Beam; None where this process does the work.
    """

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no option {name!r} among {', '.join(vars(self))}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"option {name!r}: expected to be left as it was parsed, found {value!r}")


def add_words(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Adds options that mean the same in every program that has them."""
    for word in words:
        parser.add_argument(f"--{word}", **_WORDS[word])


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
        if set(LOCAL) & set(words):
            ends = "It runs in this process; with --runner on Beam, whose options are taken then,"
        else:
            ends = "Options of Beam are taken too, such as --runner and --direct_num_workers,"
        ends += (
            "\nand those of the job server at --job_endpoint. What a runner alone knows, and\n"
            "cannot be asked, goes behind -- at the end:\n"
            "  --runner=FlinkRunner ... -- --checkpointing_interval=10000"
        )
        super().__init__(program, description, f"{examples}\n{ends}", f"{usage} [OPTION ...]")
        self.program, self._words = program, words
        add_words(self, words)

    def parse(self, argv: Sequence[str], beam_defaults: BeamDefaults | None = None) -> Options:
        """Our options, and as "beam" those for Beam: None where this process does the work.

        Args:
          beam_defaults: gives Beam's options that take the place of those that are not given.

        Raises:
          UsageError: an option that is unknown, incomplete or out of range.
          SystemExit: for --help, which prints ours.
        """
        end = argv.index("--") if "--" in argv else len(argv)
        unasked = argv[end + 1 :]
        parsed, rest = self.parse_known_args(argv[:end])
        options = vars(parsed) | {"program": self.program, "given": given(self, parsed)}
        on_beam = not set(LOCAL) <= set(self._words) or any(re.match("--runner(=|$)", argument) for argument in rest)
        options["beam"] = None
        if on_beam:
            from .on_beam import parse_options  # what needs Beam alone imports it

            defaults = partial(beam_defaults, options) if beam_defaults else None
            options["beam"] = parse_options(rest, unasked, self._names(), defaults)
        elif rest:
            first = rest[0].partition("=")[0]
            if not first.startswith("-"):
                raise UsageError(
                    f"{first}: expected an option, found a value without one (of several: --key a --key b)"
                )
            raise UsageError(no_such_option(first, "this program", self._names(), "options of Beam need --runner"))
        elif unasked:
            raise UsageError(f"--: expected nothing behind it without --runner, found {unasked[0]}")
        if options.get("input"):
            options["input"] = [pinned(pattern) for pattern in options["input"]]
        for word in self._words:
            found = options[word]
            if word in _REQUIRED and not found:
                raise UsageError(f"--{word}: expected a value, found none")
            if word in LOCAL and found is not None and on_beam:
                raise UsageError(f"--{word}: expected none with --runner, found {found}")
        for word, least in _LEAST.items():
            found = options.get(word)
            if found is not None and found < least:
                raise UsageError(f"--{word}: expected {least} or more, found {found}")
            if found is not None and found > _MOST.get(word, found):
                raise UsageError(f"--{word}: expected {_MOST[word]:,} or fewer, found {found}")
        if "memory" in self._words:  # with a runner too: what has to be known before its job is found in this process
            temp, memory = options["temp"], options["memory"]
            options["threads"] = options["threads"] or len(os.sched_getaffinity(0))
            free = max(free_memory() // 2, LEAST_MEMORY)
            options["memory"] = free if memory is None else parse_size("memory", memory)
            if temp is not None and not os.path.isdir(temp):
                raise UsageError(f"--temp {temp}: expected a directory, found none")
        return Options(**options)

    def _names(self) -> list[str]:
        """Of the options that are ours, and of the one that makes Beam's."""
        return [*(name for action in self._actions for name in action.option_strings), "--runner"]


def given(parser: ArgumentParser, parsed: argparse.Namespace) -> dict[str, Any]:
    """The options that are not at their defaults, by name."""
    return {name: value for name, value in vars(parsed).items() if value != parser.get_default(name)}


def no_such_option(name: str, whose: str, known: Sequence[str], *hints: str) -> str:
    """What is said of an argument that is none of the options that there are."""
    return f"{name}: expected an option of {whose}, found none of that name{nearest(name, known, *hints)}"


def parse_size(option: str, text: str) -> int:
    """A number of bytes, such as 4GB, 512M or 1.5GiB: units are powers of 1024.

    Raises:
      UsageError: no such number, or less than a megabyte.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = float(found[1]) * 2 ** _UNITS[found[2].upper()] if found else 0.0
    if not 1 << 20 <= size < 1 << 63:
        raise UsageError(f"--{option} {text}: expected a size of 1MB or more, such as 4GB")
    return int(size)


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
