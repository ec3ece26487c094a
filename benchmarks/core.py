"""The benchmarks of the core: prints tables and writes them as JSON.

python benchmarks/core.py                    # everything, about 15 minutes on 2 cores
python benchmarks/core.py digits trial       # some tables
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

# One XLA device for each core, so that independent starting points use all of them; set before jax is imported, and for
# that table alone: devices share the threads that a single one would have, and every other table runs on one.
if sys.argv[1:2] == ["starts"]:
    os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={os.cpu_count()}")

import jax

jax.config.update("jax_enable_x64", True)

import _cost  # noqa: E402
import _speed  # noqa: E402

TABLES = {
    "digits": _cost.table_digits,
    "scaling": _cost.table_scaling,
    "float32": _cost.table_float32,
    "initial_step": _cost.table_initial_step,
    "controller": _cost.table_controller,
    "constants": _cost.table_constants,
    "inertial": _cost.table_inertial,
    "trial": _speed.table_trial,
    "diffrax": _speed.table_diffrax,
    "runge_kutta": _speed.table_runge_kutta,
    "starts": _speed.table_starts,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"any of {', '.join(TABLES)}; default: all")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("core.json"))
    arguments = parser.parse_args()
    unknown = set(arguments.tables) - set(TABLES)
    if unknown:
        parser.error(f"unknown tables {sorted(unknown)}; there are {', '.join(TABLES)}")
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    wanted = arguments.tables or list(TABLES)
    for name in wanted:
        if name == "starts" and len(wanted) > 1:
            subprocess.run([sys.executable, __file__, name, "--out", str(arguments.out)], check=True)
            results[name] = json.loads(arguments.out.read_text())[name]
            continue
        rows = TABLES[name]()
        results[name] = rows
        print(f"\n{name}: {TABLES[name].__doc__}")
        for row, values in rows.items():
            print(f"  {row:45s}", "  ".join(f"{key} {value}" for key, value in values.items()), flush=True)
    results["machine"] = {"python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count()}
    arguments.out.write_text(json.dumps(results, indent=2))
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
