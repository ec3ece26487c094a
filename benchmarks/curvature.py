"""What second derivatives and quasi-Newton methods are worth: prints tables and writes them as JSON.

python benchmarks/curvature.py               # everything, about an hour and a half on 2 cores
python benchmarks/curvature.py nist runge    # some tables
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
# Some of the problems are examples.
sys.path.append(str(Path(__file__).parent.parent / "examples"))

import _cutest_runs  # noqa: E402
import _fits  # noqa: E402
import _pinn_runs  # noqa: E402
import _single  # noqa: E402

TABLES = {
    "cutest": _cutest_runs.table_cutest,
    "cutest32": _cutest_runs.table_cutest_float32,
    "nist": _fits.table_nist,
    "runge": _fits.table_runge,
    "pinns": _pinn_runs.table_pinns,
    "nist32": _single.table_nist,
    "runge32": _single.table_runge,
    "pinns32": _single.table_pinns,
    "ends32": _single.table_ends,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"any of {', '.join(TABLES)}; default: all")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curvature.json")
    arguments = parser.parse_args()
    unknown = set(arguments.tables) - set(TABLES)
    if unknown:
        parser.error(f"unknown tables {sorted(unknown)}; there are {', '.join(TABLES)}")
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.tables or list(TABLES):
        print(f"\n{name}: {TABLES[name].__doc__}", flush=True)
        results[name] = {}
        for row, values in TABLES[name]():
            results[name][row] = values
            print(f"  {row:36s}", "  ".join(f"{key} {value}" for key, value in values.items()), flush=True)
        results["machine"] = {"python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count()}
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
