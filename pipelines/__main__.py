"""The list of programs: ``lse-stream PROGRAM ...``, or ``python -m pipelines PROGRAM ...`` from a checkout."""

import sys
from collections.abc import Sequence
from importlib import import_module

from .command import COMMAND, print_version

PROGRAMS = {
    "parquet": "log-sum-exp per key over Parquet files",
    "loglik": "log-likelihood totals per key, of mixtures and of posterior draws (LOO, WAIC)",
    "compare": "models by their elpd: differences, how sure they are, weights, a picture",
    "softmax": "each row's share of its key, as columns beside the others",
    "cross_entropy": "loss and perplexity of logits and labels, also of classes in shards",
    "rollup": "stored states merged to coarser keys: hours to days, folds to models",
    "inspect": "what a stored column of states contains",
    "stream": "log-sum-exp per key and window, of a Kafka topic or of files replayed",
    "typhoon": "the lesson of the storms: what log-sum-exp does, step by step",
}

USAGE = f"usage: {COMMAND} PROGRAM [OPTION ...]\n\nprograms (PROGRAM --help says more):\n" + "".join(
    f"  {name:14} {what}\n" for name, what in PROGRAMS.items()
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program that the first argument names, with the rest; returns its exit status."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if name in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if name == "--version":
        print_version()
        return 0
    if name not in PROGRAMS:
        from lse_stream.errors import nearest  # with the package, which the list of programs does without

        found = f"{name!r}{nearest(name, list(PROGRAMS))}" if name else "none"
        print(
            f"{COMMAND}: error: expected a program ({', '.join(PROGRAMS)}), found {found}\n\n{USAGE}", file=sys.stderr
        )
        return 2
    status: int = import_module(f".{name}", __package__).main(rest)
    return status


if __name__ == "__main__":
    sys.exit(main())
