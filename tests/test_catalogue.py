"""Every flow with every scheme that can step it, and every controller on three flows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import CONTROLLERS, PROBLEMS, RUN_TIME_SCHEMES, SCHEMES, SPECIAL_SCHEMES, named
from flow_catalogue import CATALOGUE

import odeopt
from odeopt._objective import Tally

PROBLEM = PROBLEMS["two"]
EVERY_SCHEME = SCHEMES | {name: scheme for name, (scheme, _) in (SPECIAL_SCHEMES | RUN_TIME_SCHEMES).items()}
# For flows that need residuals; the start is the same.
SQUARES = odeopt.LeastSquares(lambda y, _: jnp.stack([1 - y[0], 3 * (y[1] - y[0] ** 2), jnp.sin(y[0] * y[1])]))
# Few enough for the product to be run, and enough to meet rejections, growth and a bend of the valley.
STEPS = 40
# As in test_acceptance: roundings between the parameters and the energy.
OPERATIONS = 16
EPS = float(np.finfo(np.float64).eps)


def solver_of(flow, scheme, controller=None):
    """The solver, or the reason why there is none."""
    try:
        return odeopt.Solver(flow, scheme, controller)
    except ValueError as error:
        return str(error)


def fitting(flow, schemes=EVERY_SCHEME):
    """The names of the schemes that can step a flow."""
    return [name for name in schemes if isinstance(solver_of(CATALOGUE[flow](), schemes[name]()), odeopt.Solver)]


PAIRS = [(flow, scheme) for flow in CATALOGUE for scheme in fitting(flow)]


def objective_of(flow):
    return SQUARES if flow.needs_residuals else odeopt.Objective(PROBLEM.fn)


def run(solver, **options):
    options = {"max_steps": STEPS, "history": "states", "throw": False} | options
    return odeopt.minimise(objective_of(solver.flow), solver, PROBLEM.y0(), **options)


@eqx.filter_jit
def judged(flow, times, states):
    """Energy, its rate and the size of what it is the sum of, at saved states; outside of the run."""

    def at(t, state):
        oracle = odeopt.Oracle(objective_of(flow), state.position, Tally())
        energy = flow.energy(t, state, oracle)
        moved = jnp.sum(jnp.abs(oracle.gradient * state.position))
        return energy, flow.dissipation(t, state, oracle), jnp.abs(energy) + jnp.abs(oracle.value) + moved

    return jax.lax.map(lambda row: at(*row), (times, states))


def audited(solution):
    """Step sizes, changes of the energy, rates at their beginnings, and what rounding may do to the changes."""
    history, solver = solution.history.trimmed(), solution.state.solver
    start = solver.flow.init(PROBLEM.y0())
    saved = odeopt.State(history.position, history.memory)
    states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, saved)
    times = jnp.concatenate([jnp.zeros(1), jnp.asarray(history.t)])
    energy, rate, size = map(np.asarray, judged(solver.flow, times, states))
    return np.asarray(history.step_size), np.diff(energy), rate[:-1], OPERATIONS * EPS * (size[:-1] + size[1:])


def check_steps(solution):
    """Every accepted step changes the energy by what the controller asks for, as recomputed from the saved states."""
    controller = solution.state.solver.controller
    fraction = float((controller if isinstance(controller, odeopt.LyapunovControl) else controller.search).decrease)
    step_size, change, rate, noise = audited(solution)
    # The rate is negative but for balance laws.
    assert np.all(change <= step_size * (rate + (1 - fraction) * np.abs(rate)) + noise), str(solution)
    if solution.state.solver.flow.certificate == "lyapunov":
        assert np.all(change <= noise)
    return len(change)


# One of each kind: without and with memory, with friction of its own, with arrays of other shapes, with explicit time.
KINDS = {"gradient flow", "mirror flow", "AEGD", "heavy ball", "Nesterov", "HNAG", "Adam", "Shampoo", "Muon"}


@pytest.mark.parametrize("flow", named(CATALOGUE, set(CATALOGUE) - KINDS))
def test_a_scheme_either_steps_a_flow_or_says_why_not(flow):
    """Traced only: a step keeps the structure, the shapes and the types of a state."""
    made = CATALOGUE[flow]()
    for name, scheme in EVERY_SCHEME.items():
        solver = solver_of(made, scheme())
        if isinstance(solver, str):
            assert type(made).__name__ in solver, f"{name} is refused without naming the flow: {solver}"
            continue

        def step(position, scheme=solver.scheme):
            start = made.init(position)
            oracle = odeopt.Oracle(objective_of(made), position, Tally())
            calibrated, t = made.calibrate(start, oracle), jnp.zeros(())
            return start, scheme.step(calibrated, t, jnp.asarray(0.01), start, oracle).state

        before, after = jax.eval_shape(step, PROBLEM.y0())
        assert before == after, name


@pytest.mark.parametrize("flow", named(CATALOGUE, set(CATALOGUE) - KINDS))
def test_what_a_flow_recommends_lowers_its_energy_at_every_step(flow):
    solution = run(odeopt.Solver(CATALOGUE[flow]()))
    assert check_steps(solution) > 0, str(solution)
    assert solution.loss < objective_of(solution.state.solver.flow).value(PROBLEM.y0())


@pytest.mark.slow
@pytest.mark.parametrize("flow", [*CATALOGUE, "sign"])
def test_every_flow_is_verified_with_what_it_recommends(flow):
    report = odeopt.verify(odeopt.Sign() if flow == "sign" else CATALOGUE[flow]())
    assert report.passed, str(report)


# Explicit schemes of first order cannot leave rest: where the memory is zero their first step changes the memory only.
# Nor can a scheme leave it that dissipates exactly at the rate at the start, which is none.
STUCK = {"Euler", "RKC1", "RKL1", "ExactDissipationEuler"}


@pytest.mark.slow
@pytest.mark.parametrize(("flow", "scheme"), PAIRS)
def test_every_scheme_lowers_the_energy_of_every_flow_at_every_step(flow, scheme):
    made = CATALOGUE[flow]()
    # Of a balance law the energy may have to rise at the start.
    controller = odeopt.BalanceControl() if made.certificate == "balance_law" else odeopt.LyapunovControl()
    solution = run(odeopt.Solver(made, EVERY_SCHEME[scheme](), controller))
    if len(solution.history.trimmed().t):
        check_steps(solution)
    else:
        assert scheme in STUCK, str(solution)
        assert int(solution.stats["rejected"]) == STEPS


# Every controller on each of three flows; in the quick set on one of them, in turn.
DRIVEN = [
    pytest.param(controller, flow, marks=pytest.mark.slow if (i + j) % 3 else ())
    for i, controller in enumerate(CONTROLLERS)
    for j, flow in enumerate(("gradient flow", "heavy ball", "Adam"))
]


@pytest.mark.parametrize(("controller", "flow"), DRIVEN)
def test_every_controller_drives_a_flow_downhill(controller, flow):
    chosen = CONTROLLERS[controller]()
    solver = next(
        made
        for scheme in (None, odeopt.Heun())
        if isinstance(made := solver_of(CATALOGUE[flow](), scheme, chosen), odeopt.Solver)
    )
    solution = run(solver, max_steps=200)
    start = PROBLEM.value(PROBLEM.y0())
    assert solution.loss < start
    assert np.all(np.isfinite(solution.value))
    if chosen.monotone:
        _, change, _, noise = audited(solution)
        assert len(change) > 0
        assert np.all(change <= noise)
