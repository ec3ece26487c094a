"""The results of the catalogue as Markdown; imports nothing but the standard library, as the documentation reads it."""

import math
from collections.abc import Callable

PRECISIONS = ("float64", "float32")
SWEPT = ("adam", "nadam", "lion", "momentum sgd")
PARAMETER_FREE = ("prodigy", "dadapt_adamw")
# The flow of `odeopt.Solver()`.
DEFAULT = "Adam"
# All constants that a flow can set by itself are left open. AdamW and flows with a regulariser or a constraint solve
# other problems, and those with a metric, a potential or a kinetic energy of the user's are not at any default.
FLOWS = (
    *("GradientFlow", "PGradient(power=3)", "Normalized", "SmoothSign", "Sign", "ClippedByNorm", "ClippedByCoordinate"),
    *("Spectral", "AdaGrad", "RMSProp", "AEGD(shift=1)"),
    *("HeavyBall", "Nesterov", "AdaptiveRestart(Nesterov())", "BregmanLagrangian", "HighResolutionNesterov", "DIN"),
    *("HNAG", "Relativistic", "FrictionAdaptive", "EnergyFriction", "GraphTracking"),
    *(
        "Adam",
        "AdaptiveRestart(Adam())",
        "BiasCorrectedAdam",
        "NAdam",
        "AdaGradMomentum",
        "AMSGrad",
        "Padam",
        "Shampoo",
    ),
    *("Lion", "Muon", "ScheduleFree"),
)
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
# Between the name of a flow and that of a scheme.
WITH = " + "
# In the names of all controllers of the comparison, and in that of no scheme.
CONTROL = "Control"
# In place of names that would make a table wide.
SHORT = {
    "AdaptiveRestart(Nesterov())": "Nesterov, restarted",
    "AdaptiveRestart(Adam())": "Adam, restarted",
    "quadratic, condition 1e4": "quadratic",
    "logistic regression": "logistic",
    "digits, cross-entropy": "digits, entropy",
    "digits, mean square": "digits, square",
}


def flows(results: dict, precision: str) -> str:
    """All flows on all problems."""
    problems = results.get(precision, {})
    names = {name for rows in problems.values() for name in rows}
    return _rows("flow", problems, [name for name in FLOWS if name in names])


def schemes(results: dict, precision: str) -> str:
    """Flows with other schemes than the recommended one, below the same with that."""
    return _variants("flow and scheme", results.get(precision, {}), lambda other: CONTROL not in other)


def controllers(results: dict, precision: str) -> str:
    """Flows under other controllers than the recommended one, below the same under that."""
    return _variants("flow and controller", results.get(precision, {}), lambda other: CONTROL in other)


def _variants(first: str, problems: dict, wanted: Callable[[str], bool]) -> str:
    """In one table, for each flow what it recommends and the others; the best of each flow is bold."""
    others = dict.fromkeys(
        name for rows in problems.values() for name in rows if WITH in name and wanted(name.split(WITH)[1])
    )
    problems = {problem: rows for problem, rows in problems.items() if any(name in rows for name in others)}
    lines = _head(first, [*(SHORT.get(problem, problem) for problem in problems), "mean"])
    for flow in FLOWS:
        variants = [name for name in others if name.split(WITH)[0] == flow]
        if variants:
            lines += _cells(problems, [flow, *variants])
    return "\n".join(lines)


def peers(results: dict, precision: str) -> str:
    """The default flow, and every peer at the rate that suits each problem best."""
    problems = {name: rows for name, rows in results.get(precision, {}).items() if any(map(is_peer, rows))}
    lines = _head("problem", (DEFAULT, *SWEPT, *PARAMETER_FREE))
    for problem, rows in problems.items():
        chosen = [DEFAULT, *(_at_best(rows, family) for family in (*SWEPT, *PARAMETER_FREE))]
        best = _best(rows, [name for name in chosen if name])
        cells = [
            _cell(rows.get(name), best) + (f" at {name.split()[-1]}" if family in SWEPT and name else "")
            for family, name in zip((DEFAULT, *SWEPT, *PARAMETER_FREE), chosen, strict=True)
        ]
        lines.append(_line(problem, cells))
    return "\n".join(lines)


def one_rate(results: dict, precision: str) -> str:
    """On how many problems the default flow is better than each peer with one rate for all problems."""
    problems = {name: rows for name, rows in results.get(precision, {}).items() if any(map(is_peer, rows))}
    contestants = list(dict.fromkeys(name for rows in problems.values() for name in rows if is_peer(name)))
    lines = _head("one rate for all problems", ("problems solved", f"problems on which {DEFAULT} is better"))
    solved = {name: sum(_solved(rows[name]) for rows in problems.values() if name in rows) for name in contestants}
    for family in (*SWEPT, *PARAMETER_FREE):
        members = [name for name in contestants if _family(name) == family]
        if members:
            name = max(members, key=lambda name: solved[name])
            met = [rows for rows in problems.values() if name in rows and DEFAULT in rows]
            better = sum(score(rows[DEFAULT]) < score(rows[name]) for rows in met)
            lines.append(_line(name, [f"{solved[name]} of {len(met)}", f"{better} of {len(met)}"]))
    return "\n".join(lines)


def is_peer(name: str) -> bool:
    return _family(name) in (*SWEPT, *PARAMETER_FREE)


def score(row: dict) -> tuple:
    """The smaller the better: of many starts first the share solved; then the cost if solved, otherwise the loss."""
    if row["lanes"]:
        return -row["solved"], row["cost"]
    return (0, row["cost"]) if _solved(row) else (1, row["loss"])


def _solved(row: dict) -> bool:
    """More than half of the seeds, so that the median of the costs is that of a solution; of starts in lanes all."""
    return row["solved"] == 1 if row["lanes"] else row["solved"] > 0.5


def _family(name: str) -> str:
    family, _, last = name.rpartition(" ")
    return family if "e-" in last or "e+" in last else name


def _at_best(rows: dict, family: str) -> str | None:
    members = [name for name in rows if _family(name) == family]
    return min(members, key=lambda name: score(rows[name])) if members else None


def _best(rows: dict, names: list[str]) -> tuple:
    return min((score(rows[name]) for name in names if name in rows), default=())


def _cell(row: dict | None, best: tuple) -> str:
    if row is None:
        return ""
    text = _number(row["cost"]) if row["lanes"] or _solved(row) else f"loss {row['loss']:.2e}"
    if row["lanes"] and row["solved"] < 1:
        # Rounded down: one start that failed is not all of them.
        text += f" ({int(1000 * row['solved']) / 10:.1f}%)"
    elif 0 < row["solved"] < 1:
        text += f" ({row['solved']:.0%})"
    return f"**{text}**" if score(row) == best else text


def _rows(first: str, problems: dict, names: list[str]) -> str:
    problems = {problem: rows for problem, rows in problems.items() if any(name in rows for name in names)}
    lines = _head(first, [*(SHORT.get(problem, problem) for problem in problems), "mean"])
    return "\n".join(lines + _cells(problems, names))


def _cells(problems: dict, names: list[str]) -> list[str]:
    """A line for each name: its cost on every problem, the best one bold, and the mean."""
    lines = []
    for name in names:
        cells = [_cell(rows.get(name), _best(rows, names)) for rows in problems.values()]
        flow, *other = name.split(WITH)
        short = WITH.join([SHORT.get(flow, flow), *other])
        lines.append(_line(short, [*cells, _mean([rows.get(name) for rows in problems.values()])]))
    return lines


def _mean(rows: list[dict | None]) -> str:
    """The geometric mean of all costs, a problem that is not solved counted as twice its budget."""
    if None in rows:
        return ""
    costs = []
    for row in rows:
        if row["lanes"]:
            costs.append(row["cost"] / max(row["solved"], 1e-3))
        else:
            costs.append(row["cost"] if _solved(row) else 2 * row["budget"])
    return _number(math.exp(sum(map(math.log, costs)) / len(costs)))


def _number(cost: float) -> str:
    return f"{cost:,.0f}".replace(",", NARROW_SPACE)


def _head(first: str, columns) -> list[str]:
    return [_line(first, columns), "|---|" + "---:|" * len(columns)]


def _line(first: str, cells) -> str:
    # Hyphens that do not break: a number stays on one line.
    return f"| {first} | " + " | ".join(cell.replace("e-", "e\N{NON-BREAKING HYPHEN}") for cell in cells) + " |"
