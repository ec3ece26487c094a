"""The development half of CUTEst's small unconstrained problems, and how contestants are compared on them.

Cost: forward 1, backward 2. A problem counts as solved where `max |g| <= tolerance * max(1, max |g0|)` within the
budget. That is loose where the first gradient is large, and holds on plateaus and in other valleys too: so it is also
counted where 99.9 % of the best known decrease has been made (Moré and Wild, 2009, Benchmarking derivative-free
optimization algorithms), and where the value is the best known.
"""

import math

import numpy as np
import sif2jax

BUDGET = 30_000
LARGEST = 200
DECREASE = 0.999
TOLERANCE = {"float64": 1e-6, "float32": 1e-4}


def development() -> list:
    """Every other problem of at most 200 variables, by the name of its class; the others are kept for validation."""
    small = [p for p in sif2jax.unconstrained_minimisation_problems if 0 < p.y0.size <= LARGEST]
    return sorted(small, key=lambda problem: type(problem).__name__)[::2]


def judged(runs: dict[str, dict[str, dict]]) -> dict[str, dict[str, dict]]:
    """The runs, `runs[contestant][problem]`, each with `descended` and `lowest` added: how its value compares."""
    best = {}
    for of_one in runs.values():
        for name, run in of_one.items():
            if math.isfinite(run["value"]):
                best[name] = min(best.get(name, math.inf), run["value"])

    def judge(name, run):
        decrease = run["first"] - run["value"] >= DECREASE * (run["first"] - best[name])
        lowest = run["value"] - best[name] <= 1e-6 * max(1.0, abs(best[name]))
        return run | {"descended": bool(run["solved"] and decrease), "lowest": bool(run["solved"] and lowest)}

    return {who: {name: judge(name, run) for name, run in of_one.items()} for who, of_one in runs.items()}


def geometric_ratio(runs: dict[str, dict], reference: dict[str, dict]) -> float:
    """The geometric mean of the cost over that of the reference, on problems that both solve."""
    both = [name for name, run in runs.items() if run["solved"] and reference[name]["solved"]]
    return float(np.exp(np.mean([np.log(runs[name]["cost"] / reference[name]["cost"]) for name in both])))


def profile(runs: dict[str, dict[str, dict]], factors: tuple[float, ...]) -> dict[str, list[float]]:
    """The performance profile: the share of problems solved at a cost of at most a factor times that of the best.

    (Dolan and Moré, 2002, Benchmarking optimization software with performance profiles.)
    """
    names = next(iter(runs.values()))
    least = {n: min((of_one[n]["cost"] for of_one in runs.values() if of_one[n]["solved"]), default=1) for n in names}

    def share(of_one, factor):
        return float(np.mean([run["solved"] and run["cost"] <= factor * least[n] for n, run in of_one.items()]))

    return {who: [share(of_one, factor) for factor in factors] for who, of_one in runs.items()}
