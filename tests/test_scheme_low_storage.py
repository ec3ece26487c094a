"""Strong-stability-preserving and low-storage Runge-Kutta methods."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import FLOWS, PROBLEMS
from one_step import MOMENTUM, START, as_vector, bowl_gradient, one_step
from test_counts import counted_run

import odeopt
from odeopt import State

LOW_STORAGE = [odeopt.WilliamsonRK3, odeopt.CarpenterKennedyRK4]
SCHEMES = [odeopt.SSPRK33, *LOW_STORAGE]
H = 0.1


class Clocked(odeopt.AbstractFlow):
    """Explicit time in position and memory, so that the nodes of a scheme matter."""

    def init(self, params):
        return State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        return State(
            state.memory - jnp.cos(3 * t) * oracle.gradient,
            -3 / (t + 1) * state.memory - oracle.gradient + jnp.sin(2 * t) * state.position,
        )

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory**2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_order_is_kept_with_explicit_time(scheme):
    result = odeopt.convergence_order(Clocked(), scheme())
    assert result.passed, str(result)
    assert abs(result.order - scheme().order) < 0.2, str(result)


def tableau(scheme):
    """The Butcher tableau of a two-register scheme: its recurrence run on slopes that are unit vectors."""
    stages = len(scheme.increment_factors)
    carried, state, rows = np.zeros(stages), np.zeros(stages), []
    for slope, a, b in zip(np.eye(stages), scheme.memory_factors, scheme.increment_factors, strict=True):
        rows.append(state)
        carried = a * carried + slope
        state = state + b * carried
    return np.array(rows), state


@pytest.mark.parametrize("scheme", LOW_STORAGE)
def test_a_step_is_that_of_the_equivalent_tableau(scheme):
    a, b = tableau(scheme())
    equivalent = odeopt.ExplicitRK(
        diffrax.ButcherTableau(
            c=a.sum(axis=1)[1:],
            b_sol=b,
            b_error=np.zeros(len(b)),
            a_lower=tuple(row[: i + 1] for i, row in enumerate(a[1:])),
        ),
        scheme().order,
    )
    ours, *_ = one_step(scheme(), Clocked(), State(START, MOMENTUM), t=0.4, h=H)
    truth, *_ = one_step(equivalent, Clocked(), State(START, MOMENTUM), t=0.4, h=H)
    np.testing.assert_allclose(as_vector(ours.state), as_vector(truth.state), rtol=1e-14)
    np.testing.assert_allclose(ours.quadrature(), truth.quadrature(), rtol=1e-13)


@pytest.mark.parametrize("scheme", LOW_STORAGE)
def test_all_weights_are_positive(scheme):
    """So the quadrature of a dissipation is a dissipation."""
    np.testing.assert_allclose(scheme().weights, tableau(scheme())[1], rtol=1e-14)
    assert min(scheme().weights) > 0


def test_williamsons_tableau_is_the_published_one():
    a, b = tableau(odeopt.WilliamsonRK3())
    np.testing.assert_allclose(a, [[0, 0, 0], [1 / 3, 0, 0], [-3 / 16, 15 / 16, 0]], atol=1e-15)
    np.testing.assert_allclose(b, [1 / 6, 3 / 10, 8 / 15], rtol=1e-15)


def test_carpenter_and_kennedys_coefficients_fulfil_the_order_conditions():
    """Hairer, Noersett, Wanner I, table II.2.1: all trees up to order 4."""
    a, b = tableau(odeopt.CarpenterKennedyRK4())
    c = a.sum(axis=1)
    found = [b.sum(), b @ c, b @ c**2, b @ a @ c, b @ c**3, b @ (c * (a @ c)), b @ a @ c**2, b @ a @ a @ c]
    # Published to 13 digits.
    np.testing.assert_allclose(found, [1, 1 / 2, 1 / 3, 1 / 6, 1 / 4, 1 / 8, 1 / 12, 1 / 24], rtol=1e-12)
    np.testing.assert_allclose(odeopt.CarpenterKennedyRK4().nodes, c, rtol=1e-14)


def test_the_published_nodes_of_carpenter_and_kennedy_are_the_computed_ones():
    published = [
        0.0,
        1432997174477 / 9575080441755,
        2526269341429 / 6820363962896,
        2006345519317 / 3224310063776,
        2802321613138 / 2924317926251,
    ]
    np.testing.assert_allclose(odeopt.CarpenterKennedyRK4().nodes, published, rtol=1e-12)


def shu_osher(field, y, t, h):
    """The method as its authors write it: convex combinations of explicit Euler steps."""
    euler = lambda t, y: jax.tree.map(lambda y, k: y + h * k, y, field(t, y))  # noqa: E731
    mix = lambda a, y, b, z: jax.tree.map(lambda y, z: a * y + b * z, y, z)  # noqa: E731
    first = euler(t, y)
    second = mix(3 / 4, y, 1 / 4, euler(t + h, first))
    return mix(1 / 3, y, 2 / 3, euler(t + h / 2, second)), mix(1 / 2, y, 1 / 2, euler(t + h, first))


def clocked_field(t, state):
    x, v = state
    g = bowl_gradient(x)
    return v - np.cos(3 * t) * g, -3 / (t + 1) * v - g + np.sin(2 * t) * x


def test_shu_and_oshers_form_gives_the_same_step_and_the_estimate_is_its_distance_from_heun():
    third, second = shu_osher(clocked_field, (START, MOMENTUM), 0.4, H)
    trial, *_ = one_step(odeopt.SSPRK33(), Clocked(), State(START, MOMENTUM), t=0.4, h=H)
    np.testing.assert_allclose(as_vector(trial.state), as_vector(third), rtol=1e-14)
    np.testing.assert_allclose(as_vector(trial.error()), as_vector(third) - as_vector(second), atol=1e-15)


@pytest.mark.parametrize("separable", [True, False])
def test_however_many_stages_work_in_two_registers(separable):
    """The position, the carried increment, and the gradient of the stage (and whatever the objective itself needs)."""
    size = 100_000
    state = State(jnp.ones(size), jnp.ones(size))
    fn = (lambda y, _: jnp.sum(y**4)) if separable else (lambda y, _: jnp.sum(jnp.cos(jnp.roll(y, 1) * y)))

    def registers(scheme):
        compiled = jax.jit(lambda state: one_step(scheme, odeopt.HeavyBall(0.5), state, fn=fn)[0].state)
        memory = compiled.lower(state).compile().memory_analysis()
        return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / (2 * state.position.nbytes)

    three, five = (registers(scheme()) for scheme in LOW_STORAGE)
    assert abs(five - three) < 0.01
    if separable:
        # A gradient is half as large as a state.
        assert five < 2.51
    else:
        # The stages of a method that keeps their slopes add up.
        assert five < registers(odeopt.RK4()) - 1


class Wary(odeopt.GradientFlow):
    """A rate that costs another gradient, somewhere else, and an error function."""

    def dissipation(self, t, state, oracle):
        elsewhere = oracle.at(state.position + 0.1).gradient
        return super().dissipation(t, state, oracle) * (1 + jax.lax.erf(jnp.sum(elsewhere**2)))


@pytest.mark.parametrize("evaluation", ["linearised", "lazy"])
@pytest.mark.parametrize(
    ("flow", "rate"), [(FLOWS["Adam"].make, "start"), (FLOWS["Adam"].make, "quadrature"), (Wary, "quadrature")]
)
def test_the_passes_inside_the_loop_over_stages_are_counted(flow, rate, evaluation):
    controller = odeopt.LyapunovControl(rate=rate)
    stats, executed = counted_run(flow(), odeopt.CarpenterKennedyRK4(), controller, PROBLEMS["two"], evaluation, 10)
    assert (stats["values"], stats["gradients"]) == (executed["values"], executed["gradients"])


@pytest.mark.parametrize("asked", [False, True])
def test_rates_of_the_stages_are_computed_only_if_somebody_asks(asked):
    def step(position):
        trial, tally, _ = one_step(odeopt.CarpenterKennedyRK4(), Wary(), State(position))
        asked_for = trial.quadrature() if asked else None
        gradients_of.append(tally.gradients)
        return trial.state, asked_for

    gradients_of = []
    program = jax.jit(step).lower(jnp.asarray(START)).compile().as_text()
    # The error function stands for all that the rate needs. A bare "erf" is also in names of functions that called us.
    assert (" erf(" in program) == asked
    # Five slopes; and at each stage one more for the rate.
    assert gradients_of[-1] == (10 if asked else 5)


def test_a_user_can_bring_coefficients_of_their_own():
    """The explicit midpoint rule in two registers."""
    scheme = odeopt.LowStorageRK((0.0, -0.5), (0.5, 1.0), 2)
    ours, *_ = one_step(scheme, Clocked(), State(START, MOMENTUM), t=0.4, h=H)
    truth, *_ = one_step(odeopt.Midpoint(), Clocked(), State(START, MOMENTUM), t=0.4, h=H)
    np.testing.assert_allclose(as_vector(ours.state), as_vector(truth.state), rtol=1e-14)


@pytest.mark.parametrize(("a", "b"), [((0.0, 1.0), (1.0,)), ((0.5,), (1.0,)), ((), ())])
def test_coefficients_that_are_no_two_register_method_are_refused(a, b):
    with pytest.raises(ValueError, match="two tuples of one length, the first of which begins with 0"):
        odeopt.LowStorageRK(a, b, 1)
