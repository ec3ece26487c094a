"""All flows at their defaults on the ten problems, and optax at swept learning rates; prints tables and writes JSON.

python benchmarks/catalogue.py                                  # all flows: hours; what is in the file is kept
python benchmarks/catalogue.py --only Runge --seeds 1 --peers   # the optimizers of optax on one problem, one seed
python benchmarks/catalogue.py --flows "Adam + Heun"            # another scheme, or controller, than recommended
python benchmarks/catalogue.py --table                          # what the file holds, as Markdown
"""

import argparse
import json
import os
import platform
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import _tables  # noqa: E402
from _contest import PARAMETER_FREE, RATES, SWEPT, TOLERANCE, run_peer, run_solver, summary  # noqa: E402
from _ten import BENCHMARKS, available  # noqa: E402

import odeopt  # noqa: E402
from odeopt._named import build  # noqa: E402

# A vector is a single column for Shampoo: a matrix of 10^6 entries would have to be decomposed in every trial.
LEFT_OUT = {("Shampoo", "quadratic, condition 1e4")}


def flows(texts):
    """Names, and how each flow is run on a problem from a seed."""
    return {text: lambda *case, text=text: run_solver(_solver(text), *case) for text in texts}


def _solver(text: str) -> odeopt.Solver:
    """Of a flow, or of `flow + scheme` or `flow + controller` where another than the recommended one is measured."""
    flow, _, other = text.partition(_tables.WITH)
    public = vars(odeopt)
    made = build(flow, odeopt.AbstractFlow, public)
    if not other:
        return odeopt.Solver(made)
    if issubclass(public[other.partition("(")[0]], odeopt.AbstractController):
        return odeopt.Solver(made, controller=build(other, odeopt.AbstractController, public))
    return odeopt.Solver(made, build(other, odeopt.AbstractScheme, public))


def peers():
    """The same for the optimizers of optax."""
    swept = {
        f"{name} {rate:.0e}": lambda *case, make=make, rate=rate: run_peer(make, rate, *case)
        for name, make in SWEPT.items()
        for rate in RATES
    }
    free = {name: lambda *case, make=make: run_peer(make, None, *case) for name, make in PARAMETER_FREE.items()}
    return swept | free


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PROBLEM", help="problems whose names begin so; default: all")
    parser.add_argument(
        "--flows", nargs="+", metavar="FLOW", default=_tables.FLOWS, help="such as 'Adam(scaling_rate=1)'"
    )
    parser.add_argument("--peers", nargs="*", metavar="PEER", help="optimizers of optax in place of the flows")
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float64")
    parser.add_argument("--seeds", type=int, help="at most so many; default: five where the start is random")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "catalogue.json")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if not arguments.table:
        _run(arguments, results)
    print(markdown(results))


def _run(arguments, results: dict) -> None:
    chosen = [name for name in BENCHMARKS if not arguments.only or name.startswith(tuple(arguments.only))]
    for name in chosen:
        if not available(name):
            print(f"{name}: the data are not on this machine, not run", flush=True)
            continue
        benchmark = BENCHMARKS[name]
        seeds = min(benchmark.seeds, arguments.seeds or benchmark.seeds)
        rows = results.setdefault(arguments.dtype, {}).setdefault(name, {})
        for contestant, run in _contestants(arguments).items():
            if rows.get(contestant, {}).get("seeds", 0) >= seeds or (contestant, name) in LEFT_OUT:
                continue
            # Programs hold memory maps, of which a process may not have too many.
            jax.clear_caches()
            runs = [run(benchmark, seed, arguments.dtype) for seed in range(seeds)]
            rows[contestant] = summary(runs) | {"seeds": seeds, "lanes": benchmark.lanes, "budget": benchmark.budget}
            print(f"{arguments.dtype}  {name:28s} {contestant:24s} {rows[contestant]}", flush=True)
            results["machine"] = {"python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count()}
            arguments.out.parent.mkdir(exist_ok=True)
            # After every contestant, so that hours are not lost with the last minute.
            arguments.out.write_text(json.dumps(results, indent=2))


def _contestants(arguments) -> dict:
    if arguments.peers is None:
        return flows(arguments.flows)
    return {name: run for name, run in peers().items() if not arguments.peers or name in arguments.peers}


def markdown(results: dict) -> str:
    """Both comparisons in each precision, as far as they have been made."""
    tables = []
    for precision in _tables.PRECISIONS:
        if precision in results:
            tables += [f"{precision}: cost, or loss at the end of the budget", _tables.flows(results, precision)]
            tables += [f"{precision}: other schemes than the recommended one", _tables.schemes(results, precision)]
            tables += [f"{precision}: other controllers", _tables.controllers(results, precision)]
            tables += [f"{precision}: peers at their best rate", _tables.peers(results, precision)]
            tables += [_tables.one_rate(results, precision)]
    return "\n\n".join(tables)


if __name__ == "__main__":
    main()
