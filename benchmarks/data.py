"""Real data: what they cost, and what is reached on them: prints tables and writes them as JSON.

python benchmarks/data.py                        # everything, with files of 5 GB in the folder for temporary files
python benchmarks/data.py streaming --gigabytes 1
python benchmarks/data.py lenet rejection minibatch checkpoints devices
"""

import argparse
import json
import os
import platform
from functools import partial
from pathlib import Path

import _checkpointing
import _devices
import _lenet
import _minibatch
import _streaming
import jax


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="any of them; default: all")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of each file of the table streaming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data.json")
    arguments = parser.parse_args()
    tables = {
        "lenet": lambda: _lenet.table_gradient().items(),
        "rejection": lambda: _lenet.table_early_rejection().items(),
        "streaming": partial(_streaming.streaming, arguments.gigabytes),
        "minibatch": _minibatch.minibatch,
        "checkpoints": lambda: _checkpointing.table_checkpointing().items(),
        "devices": lambda: ((f"{row.pop('devices')} devices", row) for row in _devices.rows()),
    }
    unknown = set(arguments.tables) - set(tables)
    if unknown:
        parser.error(f"unknown tables {sorted(unknown)}; there are {', '.join(tables)}")
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.tables or list(tables):
        print(f"\n{name}", flush=True)
        results[name] = {}
        for row, values in tables[name]():
            results[name][row] = values
            print(f"  {row:24s}", "  ".join(f"{key} {value}" for key, value in values.items()), flush=True)
        results["machine"] = {"python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count()}
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
