"""The benchmarks of lse_stream and its peers.

Every figure is taken in the same run as its peers', in turn (A B C A B C ...), and given as median with minimum and
maximum. Peers get the same data and the same cores, and results are compared, so that nobody has an easier job. Those
that group use the safe formula, shifted by each group's maximum. Needs Linux and the dependency group "bench".
"""

import argparse
import sys
import tempfile
from pathlib import Path

import cores  # noqa: F401 - first: it sets what the peers read when they are imported
from files import WORK as OF_FILES
from history import compared, last, save
from measure import details, machine, summary
from work import WORK as IN_MEMORY
from work import Settings

from lse_stream import kernel_name

WORK = IN_MEMORY | OF_FILES

EXAMPLES = """\
examples:
  python tests/benchmarks --quick                        # all of it, small: to see that it works
  python tests/benchmarks --only global grouped --rounds 9
  python tests/benchmarks --only parquet --data /var/tmp/lse  # keeps the files that it makes, 6 GB
  python tests/benchmarks --only parquet where --save    # into results/, for later runs to be compared with
"""


def main() -> int:
    work = "\n".join(f"  {name:9} {function.__doc__}" for name, function in WORK.items())
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks",
        description=f"{__doc__}\nwork:\n{work}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=WORK, default=list(WORK), help="not all, but these"
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size: the verdicts mean little")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measurements of each (default 5)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep generated files here between runs")
    parser.add_argument("--save", action="store_true", help="keep the figures of this machine and version")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, found {arguments.rounds}")
    if kernel_name() == "numpy":
        parser.error("expected the kernel in C, found none: build the package where there is a compiler")

    print(machine(), flush=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="lse_stream_benchmarks") as temporary:
        settings = Settings(
            scale=0.05 if arguments.quick else 1.0,
            rounds=arguments.rounds,
            data=(arguments.data or Path(temporary)).absolute(),
        )
        for name in arguments.only:
            print(f"\n### {name}\n", flush=True)
            for result in WORK[name](settings):
                print(details(result), flush=True)
                results.append(result)
    print(f"\n### summary\n\n{summary(results)}\n\n{machine()}")
    if (path := last()) is not None:
        print(f"\n### against the last figures of this machine\n\n{compared(results, path)}")
    if arguments.save:
        print(f"\nsaved in {save(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
