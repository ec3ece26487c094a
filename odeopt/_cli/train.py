"""What `odeopt train` prints, and where it puts the run."""

import json
import shlex
import sys
from datetime import datetime
from pathlib import Path

import equinox as eqx
from rich.table import Table

from .._experiment import Experiment, Outcome, reason
from .._minibatch import EnergyTournament
from .._results import RESULTS
from .._solver import Solver
from .._tree import size
from .energy import energy_verdict
from .messages import FAILED, out_console
from .predict import SCORES


def fresh_name(experiment: Experiment) -> Path:
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name_of(experiment.solver.flow).lower()}"
    names = (Path("runs") / (stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
    return next(name for name in names if not name.exists())


def name_of(part) -> str:
    return type(part).__name__


def print_beginning(experiment: Experiment) -> None:
    data, preprocessing = experiment.data_set, experiment.data_set.preprocessing
    parameters = size(eqx.filter(experiment.network, eqx.is_inexact_array))
    out_console.print(
        f"{preprocessing.task} of {experiment.description}: {len(data.x)} examples to train on, {len(data.x_test)} to "
        f"test; network {experiment.architecture.describe()}, {parameters} parameters, {experiment.options.dtype}",
        soft_wrap=True,
        markup=False,
    )


def what_to_do_next(experiment: Experiment, folder: Path) -> str:
    beginning = f"The run is in {folder}: look at picture.png, and predict"
    if experiment.options.data is not None:
        own = f" --model {shlex.quote(experiment.options.model)}" if experiment.architecture.is_own else ""
        return f"{beginning} with: odeopt predict {shlex.quote(str(folder))} --data FILE{own}"
    code = (
        "import odeopt, sklearn.datasets; "
        f"print(odeopt.load({json.dumps(str(folder))}).labels(sklearn.datasets.load_digits().data[:20]))"
    )
    return f"{beginning} with:\n{shlex.join([_python(), '-c', code])}"


def _python() -> str:
    """The interpreter that has odeopt, as short as it can be written from here."""
    here, executable = Path.cwd(), Path(sys.executable)
    return str(executable.relative_to(here)) if executable.is_relative_to(here) else str(executable)


def summary(experiment: Experiment, outcome: Outcome) -> Table:
    solver, solution = experiment.solver, outcome.solution
    table = Table(
        show_header=False,
        title_justify="left",
        title=" · ".join(map(name_of, _parts(solver))),
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("loss", f"{float(solution.loss):.6g}")
    for name in outcome.train:
        label, form = SCORES[name]
        table.add_row(f"{label}, train", form.format(outcome.train[name]))
        table.add_row(f"{label}, test", form.format(outcome.test[name]))
    for name, count in _counts(outcome).items():
        table.add_row(name, count)
    table.add_row(
        "time",
        f"{outcome.seconds:.1f} s, of which {outcome.seconds_to_first_step:.1f} s up to the first step (compilation)",
    )
    table.add_row("stopped because", reason(experiment.options, solution))
    table.add_row("energy", energy_verdict(outcome.history))
    return table


def _parts(solver: Solver | EnergyTournament) -> tuple:
    if isinstance(solver, EnergyTournament):
        return solver.flow, solver.scheme, solver
    return solver.flow, solver.scheme, solver.controller


def _counts(outcome: Outcome) -> dict[str, str]:
    stats = outcome.solution.stats
    if "windows" not in stats:
        return {name: str(int(stats[name])) for name in ("accepted", "rejected", "gradients")}
    kept = f"{stats['windows'] - stats['rolled_back']} kept, {stats['rolled_back']} rolled back"
    return {"steps": str(stats["steps"]), "windows": kept, "cost": f"that of {stats['cost'] / 3:.2f} epochs, in all"}


def exit_code(outcome: Outcome) -> int:
    failures = (
        RESULTS.nonfinite_start,
        RESULTS.nonfinite_dissipation,
        RESULTS.energy_rises,
        RESULTS.step_underflow,
        RESULTS.unbounded_below,
    )
    return FAILED if any(bool(outcome.solution.result == failure) for failure in failures) else 0
