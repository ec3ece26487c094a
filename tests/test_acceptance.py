"""Every accepted step lowers the energy by what the test asks for, recomputed outside the library.

Energies, rates, losses and gradients come from `catalogue.py`: NumPy and float64, written by hand, applied to the
states that the run has saved.
"""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import CONTROLLERS, FLOWS, PROBLEMS, SCHEMES

import odeopt

MAX_STEPS = 400
# One unit of the rounding of each operand is certain, and the polynomials of the catalogue have up to about ten
# operations between the parameters and the value.
OPERATIONS = 16


def run(flow, scheme, controller, problem, dtype=jnp.float64):
    solver = odeopt.Solver(flow, scheme, controller)
    return odeopt.minimise(problem.fn, solver, problem.y0(dtype), max_steps=MAX_STEPS, history="states", throw=False)


def states_of(solution, flow, problem, dtype):
    """The start and all accepted states, in float64."""
    history = solution.history.trimmed()
    start = flow.init(problem.y0(dtype))
    memory = jax.tree.map(
        lambda first, rest: np.concatenate([np.asarray(first)[None], rest]).astype(float), start.memory, history.memory
    )
    return history, np.concatenate([np.asarray(start.position)[None], history.position]).astype(float), memory


class Audit:
    """Energy, rate and rounding of every saved state, and what was required of every step between two of them."""

    def __init__(self, case, solution, problem, dtype):
        self.flow, self.controller = solution.state.solver.flow, solution.state.solver.controller
        self.problem, self.case, self.unit = problem, case, float(jnp.finfo(dtype).eps)
        history, positions, memories = states_of(solution, case.make(), problem, dtype)
        self.step_size = history.step_size.astype(float)
        states = [(x, jax.tree.map(lambda leaf, i=i: leaf[i], memories)) for i, x in enumerate(positions)]
        self.states = states
        self.energy, self.rate, self.size = np.array([self.at(*state) for state in states]).T

    def at(self, x, memory):
        value, gradient = float(self.problem.value(x)), self.problem.gradient(x)
        energy = self.case.energy(self.flow, x, memory, value, gradient)
        # Rounding of the energy: of its own size, and of the parameters it was computed from.
        size = abs(energy) + abs(value) + np.sum(np.abs(gradient * x))
        return energy, self.case.rate(self.flow, x, memory, value, gradient), size

    @property
    def noise(self):
        """What the two energies of a step may be wrong by."""
        return OPERATIONS * self.unit * (self.size[:-1] + self.size[1:])

    @property
    def resolution(self):
        """The band in which the library decides from gradients instead of from the difference of two losses."""
        if self.controller.rounding is None:
            return 0.0
        values = np.array([abs(float(self.problem.value(x))) for x, _ in self.states])
        return float(self.controller.rounding) * self.unit * (values[:-1] + values[1:])

    def check(self, rate):
        change = np.diff(self.energy)
        assert len(change) > 0, "no step was accepted"
        required = float(self.controller.decrease) * self.step_size * rate
        excess = change - required - self.resolution - self.noise
        assert excess.max() <= 0, (
            f"step {excess.argmax()}: changed by {change[excess.argmax()]}, required {required[excess.argmax()]}"
        )
        assert (change <= self.resolution + self.noise).all(), f"the energy rose by {change.max()}"


def sampled():
    """Every flow with every scheme that can leave its start, with controllers and problems taken in turn."""
    controllers = ["default", "memory", "dichotomy", "restart", "loss test alone"]
    pairs = [
        (flow, scheme)
        for flow, scheme in product(FLOWS, SCHEMES)
        if not (FLOWS[flow].inertial and scheme == "Euler") and "open" not in flow
    ]
    pairs += [(flow, "ExponentialEuler") for flow in FLOWS if "open" in flow]
    problems = list(PROBLEMS)
    # Neighbouring schemes of one kind behave alike: two thirds of the product are enough, all flows and schemes in it.
    return [
        (flow, scheme, controllers[i % len(controllers)], problems[i % len(problems)])
        for i, (flow, scheme) in enumerate(pairs)
        if scheme not in ("Ralston", "Midpoint") or flow == "gradient flow"
    ]


@pytest.mark.parametrize(("flow", "scheme", "controller", "problem"), sampled())
def test_every_accepted_step_lowers_the_energy_by_the_required_fraction(flow, scheme, controller, problem):
    case = FLOWS[flow]
    solution = run(case.make(), SCHEMES[scheme](), CONTROLLERS[controller](), PROBLEMS[problem])
    audit = Audit(case, solution, PROBLEMS[problem], jnp.float64)
    audit.check(audit.rate[:-1])


@pytest.mark.parametrize(
    ("flow", "problem"),
    [("gradient flow", "quadratic with residual"), ("heavy ball", "two"), ("Adam, open epsilon", "Rosenbrock")],
)
def test_every_accepted_step_lowers_the_energy_in_single_precision(flow, problem):
    case = FLOWS[flow]
    solution = run(case.make(), None, None, PROBLEMS[problem], jnp.float32)
    assert solution.value.dtype == jnp.float32
    audit = Audit(case, solution, PROBLEMS[problem], jnp.float32)
    audit.check(audit.rate[:-1])


@pytest.mark.parametrize("flow", ["heavy ball", "Adam"])
def test_the_rate_at_the_trial_is_what_the_step_is_judged_by(flow):
    case, problem = FLOWS[flow], PROBLEMS["two"]
    # Half of the rate of the trial: with this fraction runs judged by the start fail this test.
    controller = odeopt.LyapunovControl(rate="trial", decrease=0.5)
    audit = Audit(case, run(case.make(), None, controller, problem), problem, jnp.float64)
    audit.check(audit.rate[1:])


@pytest.mark.parametrize("flow", ["heavy ball", "Adam"])
def test_the_stage_quadrature_is_what_the_step_is_judged_by(flow):
    case, problem = FLOWS[flow], PROBLEMS["two"]
    controller = odeopt.LyapunovControl(rate="quadrature", decrease=0.5)
    solution = run(case.make(), odeopt.Heun(), controller, problem)
    audit = Audit(case, solution, problem, jnp.float64)
    means = []
    for (x, memory), h, rate in zip(audit.states[:-1], audit.step_size, audit.rate[:-1], strict=True):
        # Heun's second stage is the explicit Euler point; its weights are a half each.
        g = problem.gradient(x)
        x_rate, memory_rate = hand_field(audit.flow, memory, g)
        stage = jax.tree.map(lambda y, k, h=h: y + h * k, memory, memory_rate)
        means.append(0.5 * (rate + audit.at(x + h * x_rate, stage)[1]))
    audit.check(np.array(means))


def hand_field(flow, memory, g):
    """The vector fields of heavy ball and Adam, by hand."""
    if isinstance(flow, odeopt.HeavyBall):
        return memory, -float(flow.friction) * memory - g
    (m, v), a, b = memory, float(flow.momentum_rate), float(flow.scaling_rate)
    return -m / np.sqrt(v + float(flow.epsilon) ** 2), (a * (g - m), b * (g * g - v))


@pytest.mark.parametrize("flow", ["gradient flow", "heavy ball", "Adam"])
def test_the_history_holds_the_energy_and_the_rate_of_the_saved_states(flow):
    case, problem = FLOWS[flow], PROBLEMS["Rosenbrock"]
    solution = run(case.make(), None, None, problem)
    audit, history = Audit(case, solution, problem, jnp.float64), solution.history.trimmed()
    noise = OPERATIONS * audit.unit * audit.size[1:]
    assert (np.abs(history.energy - audit.energy[1:]) <= noise).all()
    # The gradient is rounded relative to its terms: up to the largest second derivative here, 1200. A rate is
    # quadratic, and the gradient enters it once more as a factor.
    gradient_noise = OPERATIONS * audit.unit * 1200
    error = np.abs(history.dissipation - audit.rate[1:])
    assert (error <= 1e-12 * np.abs(audit.rate[1:]) + 2 * gradient_noise * history.gradient_norm).all()
