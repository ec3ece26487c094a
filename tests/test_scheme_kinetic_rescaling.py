"""Projection onto the dissipation by scaling the kinetic energy."""

import numpy as np
import pytest
from catalogue import FLOWS, PROBLEMS
from one_step import MOMENTUM, START, as_vector, bowl_value, one_step
from test_counts import counted_run

import odeopt
from odeopt import State

FRICTION = 0.7
# Stable (the curvatures at the minima are up to 5.2: 2 / sqrt(5.2) = 0.87), and too long for the energy to fall always.
LONG = 0.3


def energy(state):
    return bowl_value(np.asarray(state.position)) + 0.5 * np.sum(np.asarray(state.memory) ** 2)


def rate(state):
    return -FRICTION * np.sum(np.asarray(state.memory) ** 2)


def targets(before, plain, h):
    """V at the start plus the dissipation of the step, by hand."""
    mean = {"start": rate(before), "trapezoid": 0.5 * (rate(before) + rate(plain))}
    return {name: energy(before) + h * value for name, value in mean.items()}


@pytest.mark.parametrize("kind", ["start", "trapezoid"])
def test_a_step_ends_on_the_dissipation_or_stays_as_it_is(kind):
    """From random states: above the target the kinetic energy is cut so that the energy meets it, to rounding."""
    flow, h = odeopt.HeavyBall(FRICTION), 0.5
    scheme, plain_scheme = odeopt.KineticRescaling(odeopt.Leapfrog(), kind), odeopt.Leapfrog()
    generator, cut, high, low = np.random.default_rng(0), 0, 0, 0
    for _ in range(40):
        before = State(*(2 * generator.standard_normal((2, 3))))
        plain = one_step(plain_scheme, flow, before, h=h)[0].state
        ours = one_step(scheme, flow, before, h=h)[0].state
        target = targets(before, plain, h)[kind]
        np.testing.assert_array_equal(ours.position, plain.position)
        if energy(plain) > target and bowl_value(np.asarray(plain.position)) <= target:
            assert abs(energy(ours) - target) <= 1e-14 * (energy(before) + energy(plain))
            direction = np.asarray(ours.memory) / np.linalg.norm(ours.memory)
            np.testing.assert_allclose(direction, plain.memory / np.linalg.norm(plain.memory), rtol=1e-13)
            cut += 1
        else:
            np.testing.assert_array_equal(ours.memory, plain.memory)
            high, low = high + (energy(plain) > target), low + (energy(plain) <= target)
    # All three cases have been met.
    assert min(cut, high, low) > 0, (cut, high, low)


@pytest.mark.parametrize(
    ("scheme", "kind", "order"),
    [
        (odeopt.Leapfrog(), "start", 1),
        (odeopt.Leapfrog(), "trapezoid", 2),
        (odeopt.Leapfrog(), "quadrature", 2),
        (odeopt.SSPRK33(), "trapezoid", 2),
        (odeopt.SSPRK33(), "quadrature", 3),
        (odeopt.ExponentialEuler(), "start", 1),
    ],
)
def test_the_order_is_that_of_the_scheme_as_far_as_the_estimate_of_the_dissipation_goes(scheme, kind, order):
    """Over a stretch in which the ball speeds up and slows down: the factor differs from 1 in part of it only."""
    projected = odeopt.KineticRescaling(scheme, kind)
    assert projected.order == order
    result = odeopt.convergence_order(odeopt.HeavyBall(0.5), projected, duration=4.0)
    assert result.passed, str(result)
    # Half way to the next order: at long steps the error of the scheme itself may still be the larger one.
    assert result.order < order + 0.5, str(result)


def rises(scheme):
    """Along a run at a constant step: where the energy rises, and where the loss alone is too high for any factor."""
    problem, solver = PROBLEMS["two"], odeopt.Solver(odeopt.HeavyBall(0.1), scheme, odeopt.ConstantStep(LONG))
    solution = odeopt.minimise(problem.fn, solver, problem.y0(), stop=odeopt.Stop(), max_steps=100, throw=False)
    history = solution.history.trimmed()
    target = history.energy[:-1] + LONG * 0.5 * (history.dissipation[:-1] + history.dissipation[1:])
    return np.diff(history.energy) > 1e-14, history.loss[1:] > target


def test_where_a_factor_exists_the_energy_of_a_long_step_no_longer_rises():
    rising, hopeless = rises(odeopt.Leapfrog())
    assert np.sum(rising & ~hopeless) > 0
    projected, hopeless = rises(odeopt.KineticRescaling())
    assert np.sum(projected & ~hopeless) == 0
    assert np.sum(projected) < np.sum(rising)


@pytest.mark.parametrize("kind", ["start", "trapezoid"])
@pytest.mark.parametrize(("flow", "scheme"), [("heavy ball", odeopt.Leapfrog), ("Adam", odeopt.ExponentialStrang)])
def test_the_projection_costs_no_evaluation(flow, scheme, kind):
    """The gradient at the end is known from the step itself."""
    flow, state = FLOWS[flow].make(), State(START, MOMENTUM)
    if isinstance(flow, odeopt.Adam):
        state = State(START, (MOMENTUM, MOMENTUM**2))
    _, plain, gradients = one_step(scheme(), flow, state)
    plain_values = plain.values
    _, tally, projected = one_step(odeopt.KineticRescaling(scheme(), kind), flow, state)
    assert projected == gradients
    # The loss at the end, which the controller needs anyway.
    assert tally.values <= plain_values + 1


@pytest.mark.parametrize("flow", ["heavy ball", "Adam"])
def test_a_controlled_run_passes_its_audit(flow):
    scheme = {"heavy ball": odeopt.Leapfrog, "Adam": odeopt.ExponentialStrang}[flow]()
    audit = odeopt.audit_steps(FLOWS[flow].make(), odeopt.KineticRescaling(scheme), trials=100)
    assert audit.passed, str(audit)


def test_the_passes_of_a_run_are_those_that_ran():
    scheme = odeopt.KineticRescaling(odeopt.ExponentialEuler())
    stats, executed = counted_run(
        FLOWS["Adam"].make(), scheme, odeopt.LyapunovControl(), PROBLEMS["two"], "linearised", 20
    )
    assert (stats["values"], stats["gradients"]) == (executed["values"], executed["gradients"])


def test_at_rest_nothing_is_divided_by_zero():
    trial, *_ = one_step(
        odeopt.KineticRescaling(odeopt.Leapfrog()), odeopt.HeavyBall(FRICTION), State(START, 0 * START)
    )
    assert np.all(np.isfinite(as_vector(trial.state)))


def test_estimates_of_the_scheme_are_handed_on():
    scheme = odeopt.KineticRescaling(odeopt.Bosh3())
    assert (scheme.has_error, scheme.has_quadrature, scheme.error_order) == (True, True, 3)
    plain, *_ = one_step(odeopt.Bosh3(), odeopt.HeavyBall(FRICTION), State(START, MOMENTUM))
    trial, *_ = one_step(scheme, odeopt.HeavyBall(FRICTION), State(START, MOMENTUM))
    np.testing.assert_array_equal(as_vector(trial.error()), as_vector(plain.error()))
    assert trial.quadrature() == plain.quadrature()


class Sheared(odeopt.HeavyBall):
    """A kinetic energy that is not what the memory can be scaled to, so nothing is declared of it."""

    rescaled_memory = odeopt.AbstractFlow.rescaled_memory


@pytest.mark.parametrize(
    ("flow", "missing"),
    [
        (Sheared(FRICTION), "no rescaled_memory. Define it"),
        (odeopt.GradientFlow(), "no rescaled_memory and no kinetic_energy"),
    ],
)
def test_a_flow_whose_kinetic_energy_cannot_be_scaled_is_refused(flow, missing):
    with pytest.raises(ValueError, match=f"{type(flow).__name__} declares {missing}"):
        odeopt.Solver(flow, odeopt.KineticRescaling(odeopt.Heun()))


def test_what_the_scheme_itself_refuses_is_refused():
    with pytest.raises(ValueError, match="Leapfrog needs a mechanical flow"):
        odeopt.Solver(odeopt.Adam(), odeopt.KineticRescaling())


def test_an_unknown_rate_and_a_missing_quadrature_are_refused():
    with pytest.raises(ValueError, match="expected one of 'start', 'trapezoid', 'quadrature'"):
        odeopt.KineticRescaling(rate="end")
    with pytest.raises(ValueError, match="ExponentialEuler has no quadrature"):
        odeopt.KineticRescaling(odeopt.ExponentialEuler(), rate="quadrature")
