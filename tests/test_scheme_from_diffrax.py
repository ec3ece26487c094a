"""Solvers of diffrax as schemes."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from catalogue import FLOWS, PROBLEMS
from one_step import MATRIX, MOMENTUM, START, as_vector, bowl, bowl_gradient, one_step
from test_counts import counted_run

import odeopt
from odeopt import State
from odeopt._objective import Tally

KVAERNO = diffrax.Kvaerno3(root_finder=optimistix.Newton(rtol=1e-10, atol=1e-10))
OWN = {
    "Euler": odeopt.Euler,
    "Heun": odeopt.Heun,
    "Midpoint": odeopt.Midpoint,
    "Bosh3": odeopt.Bosh3,
    "Tsit5": odeopt.Tsit5,
}


def clocked():
    """Explicit time, so that the nodes matter."""

    class Clocked(odeopt.AbstractFlow):
        def init(self, params):
            return State(params, jnp.zeros_like(params))

        def vector_field(self, t, state, oracle):
            force = -3 / (t + 1) * state.memory - oracle.gradient
            return State(state.memory - jnp.cos(3 * t) * oracle.gradient, force)

        def energy(self, t, state, oracle):
            return oracle.value

    return Clocked()


@pytest.mark.parametrize("name", OWN)
def test_a_step_is_that_of_the_scheme_with_the_same_tableau(name):
    scheme, own = odeopt.from_diffrax(getattr(diffrax, name)()), OWN[name]()
    assert (scheme.order, scheme.error_order) == (own.order, 1 if name == "Euler" else own.error_order)
    ours, *_ = one_step(own, clocked(), State(START, MOMENTUM), t=0.4)
    trial, *_ = one_step(scheme, clocked(), State(START, MOMENTUM), t=0.4)
    np.testing.assert_allclose(as_vector(trial.state), as_vector(ours.state), rtol=1e-14)
    assert scheme.has_error == (trial.error is not None) == (name != "Euler")
    if trial.error is not None:
        # A difference of slopes of size 3, times h.
        np.testing.assert_allclose(as_vector(trial.error()), as_vector(ours.error()), atol=1e-15)


def test_an_implicit_step_is_the_one_that_diffrax_takes_by_itself():
    trial, *_ = one_step(odeopt.from_diffrax(KVAERNO), clocked(), State(START, MOMENTUM), t=0.4)

    def field(t, y, args):
        x, v = y
        g = jax.grad(bowl)(x, None)
        return v - jnp.cos(3 * t) * g, -3 / (t + 1) * v - g

    truth = diffrax.diffeqsolve(diffrax.ODETerm(field), KVAERNO, 0.4, 0.5, 0.1, (START, MOMENTUM))
    # The root finder stops at 1e-10 of the state, and the last of its steps is quadratically better.
    np.testing.assert_allclose(as_vector(trial.state), as_vector(truth.ys), rtol=1e-11)


def test_an_implicit_step_does_not_blow_up_where_an_explicit_one_does():
    """Gradient flow in a bowl at a thousand times the largest stable step of Euler."""
    fn = lambda y, _: 0.5 * y @ MATRIX @ y  # noqa: E731
    trial, *_ = one_step(odeopt.from_diffrax(KVAERNO), odeopt.GradientFlow(), State(START), h=1e3, fn=fn)
    assert np.linalg.norm(trial.state.position) < 0.1 * np.linalg.norm(START)


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), KVAERNO])
def test_the_order_is_that_of_the_solver(solver):
    result = odeopt.convergence_order(odeopt.HeavyBall(0.5), odeopt.from_diffrax(solver))
    assert result.declared == solver.order(None)
    assert result.passed, str(result)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (diffrax.Euler(), 1),
        (diffrax.Heun(), 3),  # its two stages, and the gradient that the loop knows already
        (diffrax.Bosh3(), 4),  # the last stage and the next first one
        (diffrax.ReversibleHeun(), 2),
        (diffrax.HalfSolver(diffrax.Heun()), 7),
        (diffrax.HalfSolver(diffrax.Euler()), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_passes_of_an_explicit_solver_are_those_that_ran(solver, expected):
    scheme = odeopt.from_diffrax(solver)
    assert scheme.gradients_per_step == expected
    stats, executed = counted_run(
        odeopt.GradientFlow(), scheme, odeopt.LyapunovControl(), PROBLEMS["two"], "linearised", 10
    )
    assert (stats["values"], stats["gradients"]) == (executed["values"], executed["gradients"])


def test_a_step_size_that_the_time_does_not_resolve_is_taken_all_the_same():
    """In single precision 1e4 + 1e-4 is 1e4."""
    t, h, x = jnp.float32(1e4), jnp.float32(1e-4), jnp.asarray(START, jnp.float32)
    oracle = odeopt.Oracle(odeopt.Objective(bowl), x, Tally())
    trial = odeopt.from_diffrax(diffrax.Heun()).step(odeopt.GradientFlow(), t, h, State(x), oracle)
    assert trial.state.position.dtype == jnp.float32
    # The displacement is 3e-4 of positions of size one, which are rounded to 6e-8.
    np.testing.assert_allclose(trial.state.position - x, -h * bowl_gradient(START), rtol=1e-2)


def test_where_the_root_finder_fails_the_step_is_rejected():
    """One iteration where two at least are needed."""
    solver = diffrax.Kvaerno3(root_finder=KVAERNO.root_finder, root_find_max_steps=1)
    trial, *_ = one_step(odeopt.from_diffrax(solver), odeopt.GradientFlow(), State(START))
    assert np.all(np.isnan(trial.state.position))


@pytest.mark.parametrize("solver", [diffrax.Bosh3(), KVAERNO], ids=["explicit", "implicit"])
def test_a_controlled_run_reaches_the_minimum_compiled_and_in_lanes(solver):
    problem = PROBLEMS["quadratic with residual"]
    whole = odeopt.Solver(FLOWS["heavy ball"].make(), odeopt.from_diffrax(solver))

    @jax.jit
    @jax.vmap
    def run(start):
        solution = odeopt.minimise(problem.fn, whole, start, stop=odeopt.Stop(gradient_norm=1e-5), throw=False)
        return solution.value, solution.stats["rejected"]

    starts = problem.y0() * jnp.array([[1.0], [0.3]])
    values, rejected = run(starts)
    np.testing.assert_allclose(values, 0, atol=1e-4)
    # Rejected trials have left nothing behind that would matter.
    assert np.all(rejected > 0)
    alone = odeopt.minimise(problem.fn, whole, starts[1], stop=odeopt.Stop(gradient_norm=1e-5))
    np.testing.assert_allclose(alone.value, values[1], atol=1e-5)


def test_what_is_no_solver_is_refused(as_installed):
    with pytest.raises(TypeError, match=r"got <class '.*Tsit5'>. Did you mean Tsit5\(\)"):
        odeopt.from_diffrax(diffrax.Tsit5)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (diffrax.SemiImplicitEuler(), "splits the equation into several terms"),
        (diffrax.KenCarp3(), "splits the equation into several terms"),
        (diffrax.ItoMilstein(), "for stochastic ones"),
        (diffrax.LeapfrogMidpoint(), "two-step method"),
        (diffrax.Kvaerno5(), r"no tolerances of its own.*diffrax.Kvaerno5\(root_finder="),
        (diffrax.HalfSolver(diffrax.ImplicitEuler()), "no tolerances of its own"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_solvers_that_cannot_step_a_flow_are_refused(solver, message):
    with pytest.raises(ValueError, match=message):
        odeopt.from_diffrax(solver)
