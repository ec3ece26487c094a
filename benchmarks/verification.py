"""The benchmarks of the verification: prints tables and writes them as JSON.

python benchmarks/verification.py              # everything, some minutes on 2 cores
python benchmarks/verification.py large        # some tables
"""

import argparse
import inspect
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from _problems import diagonal_quadratic

import odeopt

# What a flow is allowed to take until its report is there, on two cores.
ALLOWED = 60.0
# Made in a fresh process, so that it compiles everything as a user's first call does.
VERIFY = """
import json, sys, time
import odeopt
flow = getattr(odeopt, sys.argv[1])()
tick, processor = time.perf_counter(), time.process_time()
report = odeopt.verify(flow)
seconds, processor = time.perf_counter() - tick, time.process_time() - processor
print(json.dumps({"seconds": round(seconds, 1), "of processor": round(processor, 1), "passed": report.passed}))
"""
# The schemes whose tableaus both libraries have.
SHARED = ("Euler", "Heun", "Midpoint", "Ralston", "Bosh3", "Dopri5", "Tsit5")


def table_verify():
    """Seconds of odeopt.verify, compilation included, and of the processor (which say more on a shared machine)."""
    rows = {}
    for name, flow in inspect.getmembers(odeopt, inspect.isclass):
        if not issubclass(flow, odeopt.AbstractFlow) or inspect.isabstract(flow):
            continue
        required = [
            parameter.name
            for parameter in inspect.signature(flow).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        if required:
            rows[name] = {"not measured, needs": ", ".join(required)}
            continue
        done = subprocess.run([sys.executable, "-c", VERIFY, name], stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows[name] = row | {f"within {ALLOWED:.0f} s": row["seconds"] <= ALLOWED}
    return rows


def table_precision(errors=(1e-3, 1e-6, 1e-9)):
    """Gradients that an error costs over those of diffrax's solver with the same tableau; None: out of reach."""
    rows = {}
    for flow in (odeopt.GradientFlow(), odeopt.HeavyBall(0.5), odeopt.Adam()):
        result = odeopt.work_precision(
            flow,
            schemes=[getattr(odeopt, name)() for name in SHARED],
            solvers=[getattr(diffrax, name)() for name in SHARED],
            # Heun's error of 1e-9 takes some ten thousand steps.
            steps=tuple(2**k for k in range(17)),
            repeats=1,
        )
        for name in SHARED:
            row = {}
            for error in errors:
                ours, theirs = (result.gradients_at(one, error) for one in (name, f"diffrax.{name}"))
                # The errors of the two differ by rounding, which at 1e-9 is the sixth digit.
                row[f"{error:.0e}"] = None if np.isnan(ours / theirs) else round(ours / theirs, 4)
                row[f"gradients at {error:.0e}"] = None if np.isnan(ours) else round(ours)
            rows[f"{result.flow}, {name}"] = row
    return rows


def table_large(size=10**6, repeats=7):
    """Seconds until the same error at 1e6 parameters over diffrax's solver with the same tableau, float64."""
    loss, diagonal, x = diagonal_quadratic(size, jnp.float32)
    names = ("Heun", "Bosh3", "Tsit5")
    rows = {}
    for flow in (odeopt.GradientFlow(), odeopt.HeavyBall(0.5)):
        result = odeopt.work_precision(
            flow,
            (loss, x, diagonal),
            schemes=[getattr(odeopt, name)() for name in names],
            solvers=[getattr(diffrax, name)() for name in names],
            # Two step sizes at which all three are stable, so that an error between theirs is reached.
            steps=(4, 8),
            repeats=repeats,
        )
        for name in names:
            ours, theirs = (result.names.index(one) for one in (name, f"diffrax.{name}"))
            error = float(np.sqrt(np.prod(result.errors[theirs])))
            rows[f"{result.flow}, {name}"] = {
                "ratio": round(result.seconds_ratio(name, f"diffrax.{name}", error), 3),
                "error": f"{error:.1e}",
                "our ms": round(1e3 * result.seconds_at(name, error), 1),
                "their ms": round(1e3 * result.seconds_at(f"diffrax.{name}", error), 1),
                "difference of the errors": float(np.max(np.abs(result.errors[ours] - result.errors[theirs]))),
            }
    return rows


TABLES = {"verify": table_verify, "precision": table_precision, "large": table_large}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"any of {', '.join(TABLES)}; default: all")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("verification.json"))
    arguments = parser.parse_args()
    unknown = set(arguments.tables) - set(TABLES)
    if unknown:
        parser.error(f"unknown tables {sorted(unknown)}; there are {', '.join(TABLES)}")
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.tables or list(TABLES):
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
