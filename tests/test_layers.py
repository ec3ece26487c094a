"""What may import what, what importing the package does, and the names that it promises."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import odeopt

PACKAGE = Path(inspect.getfile(odeopt)).parent

# Data flow one way: a module imports only modules of lines above its own, and those of its own package.
LAYERS = (
    ("_tree", "_parameters", "_hyperparameter", "_results"),
    ("_objective",),
    ("_flow",),
    ("_scheme", "_controller", "_stop"),
    ("_solver", "_snapshot"),
    ("_run", "_sequence"),
    ("_record", "_check", "_error"),
    ("_trial",),
    ("_loop",),
    ("_relay",),
    ("_course", "_solution"),
    ("_minimise",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TOP = len(LAYERS)  # everything else (the trainer, pictures, the command line): may import all, no layer imports it


def layer_of(module: tuple[str, ...]) -> str:
    return module[0] if module else "__init__"


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(path: Path):
    """The modules of this package that a file imports, and the line.

    Exempt: what only type checkers read, the scheme and the controller that a flow or a scheme recommends, and the
    schemes for which a flow states its discrete equivalent.
    """
    package = path.relative_to(PACKAGE).parent.parts

    class Reader(ast.NodeVisitor):
        def __init__(self):
            self.found = []

        def visit_If(self, node):
            if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_FunctionDef(self, node):
            exempt = {
                ("_flow",): ("recommended", "newton_steps", "discrete_equivalent"),
                ("_scheme",): ("recommended_controller",),
            }
            if node.name not in exempt.get(package, ()):
                self.generic_visit(node)

        def visit_ImportFrom(self, node):
            if node.level:
                base = package[: len(package) - (node.level - 1)]
                named = tuple((node.module or "").split(".")) if node.module else ()
                targets = [base + named] if named else [(*base, alias.name) for alias in node.names]
            elif (node.module or "").split(".")[0] == "odeopt":
                targets = [tuple(node.module.split(".")[1:])]
            else:
                targets = []
            self.found += [(target, node.lineno) for target in targets]

        def visit_Import(self, node):
            names = [alias.name.split(".") for alias in node.names]
            self.found += [(tuple(name[1:]), node.lineno) for name in names if name[0] == "odeopt"]

    reader = Reader()
    reader.visit(ast.parse(path.read_text()))
    return reader.found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if module_of(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_layer_imports_only_lower_layers(path):
    own = layer_of(module_of(path))
    for target, line in imported(path):
        other = layer_of(target)
        lower = RANKS.get(other, TOP) < RANKS.get(own, TOP)
        assert lower or other == own or RANKS.get(own, TOP) == TOP, f"{path.name}:{line}: {own} imports {other}"


def test_every_layer_has_a_file():
    assert set(RANKS) <= {layer_of(module_of(path)) for path in FILES}


def test_the_exemption_for_recommendations_is_needed():
    """If flows no longer recommend by a late import the exemption above can go."""
    assert "_controller" in (PACKAGE / "_flow" / "base.py").read_text()


def fresh_python(code: str):
    """What a new interpreter without any setting prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_switches_no_precision_on_and_loads_nothing_heavy():
    found = fresh_python(
        "import sys, json, odeopt, jax\n"
        "heavy = {'matplotlib', 'typer', 'sklearn', 'rich', 'sif2jax', 'orbax', 'grain'} & set(sys.modules)\n"
        "print(json.dumps({'x64': jax.config.jax_enable_x64, 'heavy': sorted(heavy)}))"
    )
    assert found == {"x64": False, "heavy": []}


def test_all_flows_run_in_single_precision_where_double_is_switched_off():
    found = fresh_python(
        "import json, jax.numpy as jnp, odeopt, warnings\n"
        "warnings.simplefilter('error')\n"
        "ends = []\n"
        "for flow in (odeopt.GradientFlow(), odeopt.HeavyBall(), odeopt.Adam()):\n"
        "    stop = odeopt.Stop(gradient_norm=1e-4)\n"
        "    fn = lambda y, args: 1 + jnp.sum((y**2 - 1) ** 2)\n"
        "    s = odeopt.minimise(fn, odeopt.Solver(flow), jnp.array([2.0, 0.3]), stop=stop)\n"
        "    ends.append([str(s.value.dtype), str(s.history.energy.dtype), str(s.result)])\n"
        "print(json.dumps(ends))"
    )
    assert found == [["float32", "float32", "The stopping tolerance has been met."]] * 3


# The names of design.md that this version has.
PROMISED = (
    "AbstractController", "AbstractFlow", "AbstractObjective", "AbstractScheme", "Adam", "Bosh3", "ConstantStep",
    "Dopri5", "Euler", "ExplicitRK", "ExponentialEuler", "GradientFlow", "HeavyBall", "Heun", "History",
    "LyapunovControl", "Midpoint", "Objective", "Oracle", "RESULTS", "RK4", "Ralston", "SemiImplicitEuler", "Solution",
    "Solver", "State", "Stop", "Trial", "Tsit5", "minimise",
)  # fmt: skip


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_name_is_public_and_documented(name):
    assert inspect.getdoc(getattr(odeopt, name))


def test_the_arguments_of_minimise_are_those_promised():
    parameters = inspect.signature(odeopt.minimise).parameters
    assert list(parameters)[:4] == ["fn", "solver", "y0", "args"]
    defaults = {name: parameters[name].default for name in list(parameters)[4:]}
    assert defaults == {
        "has_aux": False,
        "stop": None,
        "max_steps": 10_000,
        "state": None,
        "history": "scalars",
        "progress": None,
        "throw": True,
    }


RESULTS = (
    "converged", "target_reached", "max_steps_reached", "max_evaluations_reached", "rounding_floor_reached",
    "step_underflow", "nonfinite_start", "nonfinite_dissipation", "unbounded_below", "interrupted",
    "time_limit_reached", "schedule_ended",
)  # fmt: skip


def test_the_results_are_those_promised():
    sentences = [str(getattr(odeopt.RESULTS, name)) for name in RESULTS]
    assert len(set(sentences)) == len(RESULTS)
    assert all(sentence.endswith(".") for sentence in sentences)


@pytest.mark.parametrize("history", ["scalars", "states"])
def test_a_solution_has_the_attributes_promised(history):
    import jax.numpy as jnp

    solution = odeopt.minimise(
        lambda y, args: jnp.sum(y**2),
        odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler()),
        jnp.ones(2),
        history=history,
        max_steps=200,
    )
    for name in ("value", "result", "stats", "history", "state"):
        assert getattr(solution, name) is not None
    for name in ("t", "step_size", "loss", "energy", "dissipation", "gradient_norm"):
        assert getattr(solution.history, name).shape == (200,)
    assert {"accepted", "rejected", "values", "gradients"} <= set(solution.stats)
