"""All flows at their defaults on the ten problems, and optax at swept learning rates; prints tables and writes JSON.

python benchmarks/catalogue.py                                  # everything: hours; what is in the file is kept
python benchmarks/catalogue.py --only Runge --seeds 1 --peers   # the optimizers of optax on one problem, one seed
python benchmarks/catalogue.py --table                          # what the file holds, as Markdown
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

from _contest import PARAMETER_FREE, RATES, SWEPT, TOLERANCE, run_flow, run_peer, summary  # noqa: E402
from _ten import BENCHMARKS, available  # noqa: E402

import odeopt  # noqa: E402

# All constants that a flow can set by itself are left open. AdamW and flows with a regulariser or a constraint solve
# other problems, and those with a metric, a potential or a kinetic energy of the user's are not at any default.
FLOWS: dict[str, Callable[[], odeopt.AbstractFlow]] = {
    flow.__name__: flow
    for flow in (
        odeopt.GradientFlow,
        odeopt.Normalized,
        odeopt.SmoothSign,
        odeopt.Sign,
        odeopt.ClippedByNorm,
        odeopt.ClippedByCoordinate,
        odeopt.Spectral,
        odeopt.AdaGrad,
        odeopt.RMSProp,
        odeopt.HeavyBall,
        odeopt.Nesterov,
        odeopt.BregmanLagrangian,
        odeopt.HighResolutionNesterov,
        odeopt.DIN,
        odeopt.HNAG,
        odeopt.Relativistic,
        odeopt.FrictionAdaptive,
        odeopt.EnergyFriction,
        odeopt.GraphTracking,
        odeopt.Adam,
        odeopt.BiasCorrectedAdam,
        odeopt.NAdam,
        odeopt.AdaGradMomentum,
        odeopt.AMSGrad,
        odeopt.Padam,
        odeopt.Shampoo,
        odeopt.Lion,
        odeopt.Muon,
        odeopt.ScheduleFree,
    )
}
FLOWS |= {
    "PGradient(power=3)": lambda: odeopt.PGradient(power=3),
    "AEGD(shift=1)": lambda: odeopt.AEGD(shift=1),
    "AdaptiveRestart(Nesterov())": lambda: odeopt.AdaptiveRestart(odeopt.Nesterov()),
    "AdaptiveRestart(Adam())": lambda: odeopt.AdaptiveRestart(odeopt.Adam()),
}


def contestants(peers: bool):
    """Names, and how each is run on a problem from a seed."""
    if not peers:
        return {name: lambda *case, flow=flow: run_flow(flow(), *case) for name, flow in FLOWS.items()}
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
    parser.add_argument("--flows", nargs="+", metavar="FLOW", help="some flows; default: all")
    parser.add_argument("--peers", action="store_true", help="the optimizers of optax in place of the flows")
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float64")
    parser.add_argument("--seeds", type=int, help="at most so many; default: five where the start is random")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("catalogue.json"))
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
        for contestant, run in contestants(arguments.peers).items():
            if arguments.flows and contestant not in arguments.flows:
                continue
            if rows.get(contestant, {}).get("seeds", 0) >= seeds:
                continue
            runs = [run(benchmark, seed, arguments.dtype) for seed in range(seeds)]
            rows[contestant] = summary(runs) | {"seeds": seeds}
            print(f"{arguments.dtype}  {name:28s} {contestant:24s} {rows[contestant]}", flush=True)
            results["machine"] = {"python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count()}
            # After every contestant, so that hours are not lost with the last minute.
            arguments.out.write_text(json.dumps(results, indent=2))


def markdown(results: dict) -> str:
    """One table for each precision: cost where a problem was solved, otherwise the loss at the end of the budget."""
    tables = []
    for dtype in TOLERANCE:
        problems = results.get(dtype, {})
        names = sorted({name for rows in problems.values() for name in rows}, key=_place)
        if not names:
            continue
        lines = [f"{dtype}\n", "| | " + " | ".join(problems) + " |", "|---|" + "---|" * len(problems)]
        for name in names:
            cells = [_cell(rows[name]) if name in rows else "" for rows in problems.values()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _place(name: str) -> tuple[int, str]:
    return (list(FLOWS).index(name), "") if name in FLOWS else (len(FLOWS), name)


def _cell(row: dict) -> str:
    if row["solved"] == 1:
        return f"{row['cost']:.0f}"
    share = f" ({row['solved']:.0%})" if row["solved"] else ""
    return f"{row['loss']:.1e}{share}"


if __name__ == "__main__":
    main()
