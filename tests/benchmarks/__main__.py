"""The benchmarks: ``uv run --group bench python tests/benchmarks [NAME ...] [--quick] [--rounds N] [--data DIR]``.

Every figure is taken in the same run as its peers', in turn (A B C A B C ...), and given as median with minimum and
maximum; the ratio is ours over the best peer's, or over the one that the target names. Results are compared too, so
that no peer has an easier job.
"""

import argparse
import sys

import cores  # noqa: F401 - first: it sets what the peers read when they are imported
from measure import machine, report
from work import WORK


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(WORK)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size: to see that it works")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default 5)")
    parser.add_argument("--data", default="out/benchmark_data", help="where generated files are kept between runs")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in WORK]
    if unknown:
        parser.error(f"expected names of {', '.join(WORK)}, found {', '.join(unknown)}")
    print(machine(), flush=True)
    for name in arguments.names or WORK:
        print(f"\n### {name}\n", flush=True)
        for title, measurements, target in WORK[name](arguments):
            print(report(title, measurements, target), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
