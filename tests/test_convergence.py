"""Measured orders of convergence."""

from itertools import product

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import FLOWS, SCHEMES

import odeopt
from odeopt import State
from odeopt._verify.convergence import _judge
from odeopt._verify.slope import fit_slope

# Between the longest stable step of Adam's flow with its default constant, a thousandth of the gradient, and rounding
# lie only three errors of fifth order, which have not settled: they are measured with a larger constant.
UNRESOLVED = [("Adam, open epsilon", "Dopri5"), ("Adam, open epsilon", "Tsit5")]
# Each flow once and each scheme at least once; the whole product is slow.
PAIRS = [pair for pair in product(FLOWS, SCHEMES) if pair not in UNRESOLVED]
SAMPLE = [
    ("gradient flow", "Euler"),
    ("gradient flow", "Tsit5"),
    ("heavy ball", "SemiImplicitEuler"),
    ("heavy ball", "RK4"),
    ("heavy ball, open friction", "Dopri5"),
    ("Adam", "ExponentialEuler"),
    ("Adam", "Bosh3"),
    ("Adam, open epsilon", "Heun"),
    ("heavy ball", "Midpoint"),
    ("Adam", "Ralston"),
]


def check_order(flow, scheme):
    result = odeopt.convergence_order(flow, scheme)
    # Not less than the declared order; a small leading term may let more be measured.
    assert result.passed, str(result)
    assert result.order <= scheme.order + 1, str(result)


@pytest.mark.parametrize(("flow", "scheme"), SAMPLE)
def test_the_order_is_the_declared_one(flow, scheme):
    check_order(FLOWS[flow].make(), SCHEMES[scheme]())


@pytest.mark.slow
@pytest.mark.parametrize(("flow", "scheme"), [pair for pair in PAIRS if pair not in SAMPLE])
def test_the_order_is_the_declared_one_for_every_pair(flow, scheme):
    check_order(FLOWS[flow].make(), SCHEMES[scheme]())


class FadingFriction(odeopt.AbstractFlow):
    """Nesterov's friction r / (t + 1): explicit time, so that nodes which do not fit the stages are seen."""

    def init(self, params):
        return State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        return State(state.memory, -3 / (t + 1) * state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory**2)


@pytest.mark.parametrize("scheme", ["Euler", "Heun", "RK4", "Tsit5"])
def test_explicit_time_keeps_the_order(scheme):
    check_order(FadingFriction(), SCHEMES[scheme]())


def two_stages(node, weight):
    """The explicit two-stage scheme with second node `node` and second weight `weight`."""
    return diffrax.ButcherTableau(
        a_lower=(np.array([node]),),
        b_sol=np.array([1 - weight, weight]),
        b_error=np.array([weight, -weight]),
        c=np.array([node]),
    )


@pytest.mark.parametrize(
    ("name", "node", "weight"),
    [("Euler-Richardson with its second stage at the full step", 1.0, 1.0), ("b2 c2 = 1/8", 0.5, 0.25)],
)
def test_schemes_that_are_called_second_order_and_are_first_are_caught(name, node, weight):
    scheme = odeopt.ExplicitRK(two_stages(node, weight), 2)
    result = odeopt.convergence_order(odeopt.HeavyBall(0.5), scheme)
    assert not result.passed
    assert abs(result.order - 1) <= 0.2, str(result)


def test_a_right_two_stage_scheme_passes_the_same_way():
    result = odeopt.convergence_order(odeopt.HeavyBall(0.5), odeopt.ExplicitRK(two_stages(2 / 3, 0.75), 2))
    assert result.passed, str(result)


class HeunAtTheStart(odeopt.ExplicitRK):
    """Heun's scheme with both stages at the time of the first."""

    def __init__(self):
        super().__init__(diffrax.Heun.tableau, 2)
        self.nodes = (0.0,)


def test_wrong_nodes_are_seen_with_explicit_time():
    result = odeopt.convergence_order(FadingFriction(), HeunAtTheStart())
    assert not result.passed
    assert abs(result.order - 1) <= 0.2, str(result)


def test_the_order_from_a_singular_start_is_reported_apart():
    """From rest Adam's second moment behaves like a square root: schemes of higher order fall to 1.5."""
    result = odeopt.convergence_order(odeopt.Adam(epsilon=1e-8), odeopt.RK4(), declared=4)
    assert result.natural.order < 2


def test_an_energy_whose_errors_jump_about_is_not_judged():
    """The leading terms of the error of one number may cancel at some step sizes; those of a state cannot."""
    step_sizes = 0.5 ** np.arange(5)
    settled, jumping = 1e-2 * step_sizes, 1e-2 * step_sizes * np.array([1.0, 2.0, 1.0, 2.0, 1.0])
    for errors, verdict in ((settled, False), (jumping, None)):
        slope = fit_slope(step_sizes, errors, np.full(5, 1e-16))
        assert _judge("energy", slope, declared=2.0).passed is verdict
        assert _judge("position", slope, declared=2.0).passed is False
