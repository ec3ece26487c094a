"""The results of curvature.py as Markdown; imports nothing but the standard library, as the documentation reads it."""

EQUATIONS = {"poisson": "Poisson, 2-D", "heat": "heat, 1-D", "burgers": "Burgers", "allen_cahn": "Allen-Cahn"}


def pinns(results: dict) -> str:
    """Errors of the networks, and how long they took."""
    rows = [
        r"| equation | solver | relative \(L^2\) error | seconds | trials | mean square of the residuals |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in results["pinns"].items():
        equation, solver = name.split(", ", 1)
        numbers = " | ".join(str(run[key]) for key in ("error", "seconds", "trials", "loss"))
        rows.append(f"| {EQUATIONS[equation]} | {solver} | {numbers} |")
    return "\n".join(rows)


def cutest(results: dict) -> str:
    """Quasi-Newton methods on CUTEst."""
    factors = list(next(iter(results["cutest"].values()))["profile"])
    head = ["solver", "solved of 63", "99.9 % of the decrease", "cost", *(f"≤ {float(f):g}" for f in factors)]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, run in results["cutest"].items():
        shares = [f"{share:.2f}" for share in run["profile"].values()]
        descended, cost = run["of them with 99.9% of the best decrease"], f"{run['cost ratio']:.2f}"
        rows.append(f"| {' | '.join([name, str(run['solved']), str(descended), cost, *shares])} |")
    return "\n".join(rows)


def nist(results: dict) -> str:
    """From how many starts the certified parameters are found."""
    return results["nist"]["LevenbergMarquardt"]["found"]


def single(results: dict) -> str:
    """How near to the limit of rounding fits in float32 end."""
    rows = ["| fit | loss | over the limit of rounding | result |", "|---|---|---|---|"]
    runge = {f"Runge's function, {name}": run for name, run in results["runge32"].items()}
    networks = {EQUATIONS[name]: run for name, run in results["pinns32"].items()}
    for name, run in (runge | networks).items():
        rows.append(f"| {name} | {run['loss']} | {run['over limit']} | `{run['end']}` |")
    return "\n".join(rows)


def nist_single(results: dict) -> str:
    """From how many starts a fit in float32 comes within ten times the limit of rounding."""
    return results["nist32"]["LevenbergMarquardt"]["within ten times"]
