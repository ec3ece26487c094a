"""The documentation in the code: every public class and function has an example, and every example runs."""

import inspect
import re
import textwrap
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import matplotlib
import numpy as np
import optax
import pytest

import odeopt
import odeopt.plot
from odeopt._named import available

# What an example may use without importing it.
NAMES = {
    "diffrax": diffrax,
    "eqx": eqx,
    "jax": jax,
    "jnp": jnp,
    "lx": lineax,
    "np": np,
    "optax": optax,
    "odeopt": odeopt,
}
# Data and results: what is read off them stands in the examples of the functions that return them.
RETURNED = {
    *(
        "Attempt",
        "BatchHistory",
        "BatchSolution",
        "Damping",
        "DecayBound",
        "History",
        "Oracle",
        "Predictor",
        "Progress",
        "RESULTS",
        "Solution",
        "State",
    ),
    *("Tolerance", "Trial", "Verdict", "InaccurateReferenceError", "Reference", "Report", "ConvergenceOrder"),
    *("DecayRate", "EdgeOfStability", "EnergyAudit", "Equivalence", "Stability", "StabilityOfMinimum"),
    *("StabilityRegion", "StepAudit", "ToleranceOrder", "WorkPrecision", "NotSavedError"),
}
# Their examples read a run folder that `odeopt train` has written.
NEED_A_RUN = {"Predictor", "load"}
PUBLIC = {
    name: value
    for name, value in vars(odeopt).items()
    if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
}


def examples(value) -> list[str]:
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", value.__doc__ or "", re.DOTALL)]


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - RETURNED))
def test_there_is_an_example(name):
    assert examples(PUBLIC[name]), f"{name} has no example in its docstring"


def test_the_page_of_all_flows_has_all_flows():
    page = (Path(__file__).parents[1] / "docs" / "flows.md").read_text(encoding="utf-8")
    flows = available(odeopt.AbstractFlow, vars(odeopt))
    assert not [name for name in flows if f"[{name}][odeopt.{name}]" not in page]


RUNNABLE = sorted(name for name in set(PUBLIC) - NEED_A_RUN if examples(PUBLIC[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    for code in examples(PUBLIC[name]):
        exec(compile(code, f"<example of {name}>", "exec"), dict(NAMES))
