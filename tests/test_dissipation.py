"""The automatic rate of change of the energy: right, and free of further evaluations of the loss."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import FLOWS

import odeopt
from odeopt._flow.dissipation import automatic_dissipation
from odeopt._objective import Tally

# The terms of the chain rule cancel by at most a factor of about 1e3 at the states drawn below: 1e3 * 2.2e-16.
RELATIVE = 1e-12
SIZE = 6


def convex(y, args):
    return jnp.sum(jnp.cosh(y)) + 0.5 * jnp.sum(y) ** 2


def nonconvex(y, args):
    return jnp.sum(jnp.sin(2 * y) * y) + jnp.prod(y[:3])


FUNCTIONS = {"convex": convex, "not convex": nonconvex}


def oracle_at(fn, position):
    return odeopt.Oracle(odeopt.Objective(fn), position, Tally())


def random_state(flow, seed):
    """A state with random memory; entries that hold a mean of squares stay positive."""
    random = np.random.default_rng(seed)
    state = flow.init(jnp.asarray(random.normal(size=SIZE)))
    memory = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), state.memory)
    if isinstance(flow, odeopt.Adam):
        memory = (memory[0], memory[1] ** 2 + 0.1)
    return odeopt.State(state.position, memory)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("source", ["automatic", "declared"])
def test_dissipation_is_the_closed_form_at_random_states(name, function, source):
    case, fn = FLOWS[name], FUNCTIONS[function]
    for seed in range(5):
        state = random_state(case.make(), seed)
        oracle = oracle_at(fn, state.position)
        flow = case.make().calibrate(state, oracle)
        rate = automatic_dissipation if source == "automatic" else type(flow).dissipation
        gradient = np.asarray(jax.grad(fn)(state.position, None))
        memory = jax.tree.map(np.asarray, state.memory)
        truth = case.rate(flow, np.asarray(state.position), memory, None, gradient)
        np.testing.assert_allclose(rate(flow, jnp.asarray(0.3), state, oracle), truth, rtol=RELATIVE)


class ClockedBall(odeopt.AbstractFlow):
    """Nesterov's ODE with friction 3/t; its energy has explicit time."""

    def init(self, params):
        return odeopt.State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        return odeopt.State(state.memory, -3 / t * state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return t**2 * oracle.value + 0.5 * jnp.sum((2 * state.position + t * state.memory) ** 2)


class GradientEnergy(odeopt.AbstractFlow):
    """Gradient flow judged by the size of its gradient, weighted with the time."""

    def init(self, params):
        return odeopt.State(params)

    def vector_field(self, t, state, oracle):
        return odeopt.State(-oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + t * jnp.sum(oracle.gradient**2)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_explicit_time_in_the_energy_is_differentiated(function):
    fn, flow, t = FUNCTIONS[function], ClockedBall(), jnp.asarray(1.7)
    state = random_state(flow, 3)
    x = np.asarray(state.position)
    # d/dt [t^2 f + |2x + t v|^2/2] = 2t f + t^2 <g,v> + <2x + t v, 3v + t v'> and 3v + t v' = -t g.
    gradient = np.asarray(jax.grad(fn)(state.position, None))
    truth = 2 * 1.7 * (float(fn(state.position, None)) - x @ gradient)
    np.testing.assert_allclose(flow.dissipation(t, state, oracle_at(fn, state.position)), truth, rtol=RELATIVE)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_energy_that_reads_the_gradient_is_differentiated_through_the_hessian(function):
    fn, flow, t = FUNCTIONS[function], GradientEnergy(), jnp.asarray(0.4)
    state = random_state(flow, 4)
    gradient = np.asarray(jax.grad(fn)(state.position, None))
    hessian = np.asarray(jax.hessian(fn)(state.position, None))
    # d/dt [f + t |g|^2] = -|g|^2 + |g|^2 - 2 t g'Hg.
    truth = -2 * 0.4 * gradient @ hessian @ gradient
    # The two squares cancel exactly in the truth and to rounding in the code, which is what the absolute part is for.
    rounding = 4 * np.finfo(float).eps * gradient @ gradient
    np.testing.assert_allclose(
        flow.dissipation(t, state, oracle_at(fn, state.position)), truth, rtol=RELATIVE, atol=rounding
    )


@pytest.mark.parametrize("name", [*FLOWS, "explicit time", "reads the gradient"])
def test_the_automatic_rate_is_the_directional_derivative_of_the_whole_energy(name):
    """The truth differentiates through the loss itself: nothing of the oracle's bookkeeping is believed."""
    special = {"explicit time": ClockedBall, "reads the gradient": GradientEnergy}
    make = special[name] if name in special else FLOWS[name].make
    state, t = random_state(make(), 5), jnp.asarray(0.9)
    oracle = oracle_at(nonconvex, state.position)
    flow = make().calibrate(state, oracle)

    def energy(t, state):
        return flow.energy(t, state, oracle_at(nonconvex, state.position))

    field = flow.vector_field(t, state, oracle)
    truth = jax.jvp(energy, (t, state), (jnp.ones_like(t), field))[1]
    np.testing.assert_allclose(automatic_dissipation(flow, t, state, oracle), truth, rtol=RELATIVE)


def marked(y, args):
    """A loss whose every evaluation, gradient and curvature product leaves traces that can be counted."""
    return jnp.sum(jax.lax.lgamma(2 + y**2))


# lgamma in every forward pass, digamma in every derivative, polygamma in every second derivative.
MARKERS = ("lgamma", "digamma", "polygamma")


def count(jaxpr) -> Counter:
    """The markers in a program and in all programs inside it."""
    found = Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name in MARKERS:
            found[equation.primitive.name] += 1
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                found += count(inner)
    return found


def passes_of(method, flow) -> Counter:
    """What a program pays that reads the value and the gradient, and then calls `method(flow, t, state, oracle)`."""

    def program(t, state):
        oracle = oracle_at(marked, state.position)
        return oracle.value, oracle.gradient, method(flow, t, state, oracle)

    state = random_state(flow, 6)
    return count(jax.make_jaxpr(program)(jnp.asarray(1.1), state).jaxpr)


def nothing(flow, t, state, oracle):
    return 0.0


def one_curvature_product(flow, t, state, oracle):
    return jax.jvp(jax.grad(lambda y: marked(y, None)), (state.position,), (state.position,))[1]


def test_the_markers_see_a_second_evaluation():
    again = passes_of(lambda flow, t, state, oracle: marked(state.position, None), odeopt.GradientFlow())
    assert again["lgamma"] == passes_of(nothing, odeopt.GradientFlow())["lgamma"] + 1


@pytest.mark.parametrize("name", [*(name for name in FLOWS if "open" not in name), "explicit time"])
def test_the_automatic_rate_evaluates_neither_the_loss_nor_its_gradient_again(name):
    flow = ClockedBall() if name == "explicit time" else FLOWS[name].make()
    assert passes_of(automatic_dissipation, flow) == passes_of(nothing, flow)


def test_an_energy_that_reads_the_gradient_pays_one_curvature_product():
    flow = GradientEnergy()
    assert passes_of(automatic_dissipation, flow) == passes_of(one_curvature_product, flow)
