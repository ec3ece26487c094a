"""Linear stability, the edge of stability and the stability of minima, against closed forms and linear algebra."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import odeopt
import odeopt.plot

CURVATURES = np.array([0.1, 1.0, 10.0, 100.0])
FRICTION = 0.7
RATE = 2.0  # of Adam's first moments


class ConformalEuler(odeopt.AbstractScheme):
    """Conformal symplectic Euler of a heavy ball: v+ = exp(-b h) v - h g, x+ = x + h v+."""

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def step(self, flow, t, step_size, state, oracle):
        v = jnp.exp(-flow.friction * step_size) * state.memory - step_size * oracle.gradient
        x = state.position + step_size * v
        return odeopt.Trial(odeopt.State(x, v), oracle.at(x))


class Leapfrog(odeopt.AbstractScheme):
    """Kick, drift, kick of a heavy ball without friction."""

    order: ClassVar[int] = 2
    gradients_per_step: ClassVar[int] = 1

    def step(self, flow, t, step_size, state, oracle):
        v = state.memory - 0.5 * step_size * oracle.gradient
        x = state.position + step_size * v
        there = oracle.at(x)
        return odeopt.Trial(odeopt.State(x, v - 0.5 * step_size * there.gradient), there)


def root(function):
    """The step size at which an increasing function vanishes."""
    return brentq(function, 1e-6, 1e6, xtol=1e-15, rtol=1e-14)


def heavy_ball(friction=FRICTION):
    return odeopt.HeavyBall(friction=friction)


# Flow, scheme, other arguments, and the largest stable step size on curvature L by hand.
CLOSED_FORMS = {
    "gradient descent": (odeopt.GradientFlow, odeopt.Euler, {}, lambda L: 2 / L),
    "memory first": (
        heavy_ball,
        odeopt.SemiImplicitEuler,
        {},
        lambda L: (-FRICTION + np.sqrt(FRICTION**2 + 4 * L)) / L,
    ),
    "exact friction": (
        heavy_ball,
        odeopt.ExponentialEuler,
        {},
        lambda L: root(lambda h: h * np.tanh(FRICTION * h / 2) - 2 * FRICTION / L),
    ),
    "conformal symplectic Euler": (
        heavy_ball,
        ConformalEuler,
        {},
        lambda L: root(lambda h: h**2 - 2 * (1 + np.exp(-FRICTION * h)) / L),
    ),
    "leapfrog": (lambda: heavy_ball(0.0), Leapfrog, {}, lambda L: 2 / np.sqrt(L)),
    # D = 2; in the discrete learning rate h < 2 (1 + beta1) / ((1 - beta1) L / D) with beta1 = exp(-a h).
    "Adam, frozen": (
        lambda: odeopt.Adam(momentum_rate=RATE, epsilon=1e-8),
        odeopt.ExponentialEuler,
        {"memory": (0.0, 4.0), "frozen": lambda memory: memory[1]},
        lambda L: root(lambda h: h - 2 * (1 + np.exp(-RATE * h)) / (-np.expm1(-RATE * h) * L / 2)),
    ),
}


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_the_largest_stable_step_is_that_of_the_closed_form(case):
    flow, scheme, options, closed_form = CLOSED_FORMS[case]
    found = odeopt.stability(flow(), scheme(), curvatures=CURVATURES, **options)
    expected = np.array([closed_form(L) for L in CURVATURES])
    # The bisection ends at rounding; the tolerance on the spectral radius costs 1e-10 over its slope.
    np.testing.assert_allclose(found.limits, expected, rtol=1e-8)
    assert found.exact


def test_no_step_is_stable_where_an_explicit_scheme_meets_an_oscillation_without_friction():
    for scheme in (odeopt.Euler(), odeopt.Heun()):
        assert np.all(odeopt.stability(heavy_ball(0.0), scheme).limits == 0)


def test_a_flow_whose_scheme_is_exact_has_no_largest_step():
    class Decay(odeopt.AbstractFlow):
        """x stays, m' = -m: solved exactly by the exponential scheme."""

        def init(self, params):
            return odeopt.State(params, jnp.zeros_like(params))

        def vector_field(self, t, state, oracle):
            return odeopt.State(jnp.zeros_like(state.position), -state.memory)

        def energy(self, t, state, oracle):
            return oracle.value

        def decay(self, t, state):
            return jnp.asarray(1.0)

    assert odeopt.stability(Decay(), odeopt.ExponentialEuler(), curvatures=[1.0]).limits == [np.inf]


def test_the_amplification_matrix_is_the_one_by_hand():
    h, L, b = 0.3, 2.0, FRICTION
    found = odeopt.stability(heavy_ball(), odeopt.SemiImplicitEuler(), curvatures=[L]).matrix(h, L)
    # v+ = (1 - b h) v - h L x, x+ = x + h v+.
    expected = [[1 - h**2 * L, h * (1 - b * h)], [-h * L, 1 - b * h]]
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-16)


def test_the_spectral_radius_is_that_of_the_matrix():
    found = odeopt.stability(heavy_ball(), odeopt.SemiImplicitEuler(), curvatures=[2.0], step_sizes=[0.1, 0.3])
    matrices = [found.matrix(h, 2.0) for h in (0.1, 0.3)]
    expected = [np.sqrt(np.linalg.det(matrix)) for matrix in matrices]  # complex pairs: |lambda|^2 = det M
    np.testing.assert_allclose(found.spectral_radius, [expected], rtol=1e-12)


@pytest.mark.parametrize("scheme", [odeopt.ExponentialEuler, odeopt.Heun, odeopt.RK4])
def test_runs_shrink_below_the_limit_and_grow_above_it(scheme):
    L = 3.0
    (limit,) = odeopt.stability(heavy_ball(), scheme(), curvatures=[L]).limits

    def size_after(h):
        solver = odeopt.Solver(heavy_ball(), scheme(), odeopt.ConstantStep(h))
        stop = odeopt.Stop(gradient_norm=0.0)
        fn = lambda y, _: 0.5 * L * y**2  # noqa: E731
        run = odeopt.minimise(fn, solver, 1.0, stop=stop, max_steps=2000, history=None, throw=False)
        return abs(float(run.state.run.snapshot.state.position))

    assert size_after(0.98 * limit) < 1e-3
    assert size_after(1.02 * limit) > 1e3


def amplification_from_tableau(solver, z):
    """R(z) = 1 + z b' (1 - z A)^-1 1, from diffrax's own numbers."""
    tableau = solver.tableau
    stages = len(tableau.b_sol)
    a = np.zeros((stages, stages))
    for row, coefficients in enumerate(tableau.a_lower, start=1):
        a[row, :row] = coefficients
    return 1 + z * np.asarray(tableau.b_sol) @ np.linalg.solve(np.eye(stages) - z * a, np.ones(stages))


@pytest.mark.parametrize("name", ["Heun", "Bosh3", "Dopri5", "Tsit5"])
def test_the_amplification_in_the_complex_plane_is_that_of_the_tableau(name):
    import diffrax

    region = odeopt.stability_region(getattr(odeopt, name)(), real=(-4.0, 1.0), imaginary=(-3.0, 2.0), points=7)
    solver = getattr(diffrax, name)
    expected = [[abs(amplification_from_tableau(solver, x + 1j * y)) for x in region.real] for y in region.imaginary]
    np.testing.assert_allclose(region.amplification, expected, rtol=1e-12)


# Hairer and Wanner (1996), IV.2; the real intervals also in the tables of diffrax's and Julia's documentation.
INTERVALS = {
    "Euler": (2.0, 0.0),
    "Heun": (2.0, 0.0),
    "Midpoint": (2.0, 0.0),
    "Ralston": (2.0, 0.0),
    "Bosh3": (2.513, np.sqrt(3)),
    "RK4": (2.785, 2 * np.sqrt(2)),
    "Dopri5": (3.307, None),
    "Tsit5": (3.507, None),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_the_stability_intervals_are_the_tabulated_ones(name):
    region = odeopt.stability_region(getattr(odeopt, name)(), points=2)
    real, imaginary = INTERVALS[name]
    assert region.real_interval == pytest.approx(real, abs=5e-4)  # tabulated to three decimals
    if imaginary is not None:
        assert region.imaginary_interval == pytest.approx(imaginary, abs=1e-6)


def test_a_memory_that_moves_has_to_be_frozen():
    adam = odeopt.Adam(epsilon=1e-8)
    with pytest.raises(ValueError, match=r"does not rest at x = 0.*frozen"):
        odeopt.stability(adam, odeopt.ExponentialEuler(), memory=(0.0, 4.0))


def test_a_linearisation_of_a_flow_that_is_not_linear_says_so():
    found = odeopt.stability(odeopt.Adam(epsilon=1e-8), odeopt.ExponentialEuler())
    assert not found.exact
    assert "linearised" in str(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"curvatures": [1.0, -1.0]}, "curvatures must be positive"),
        ({"step_sizes": [0.0]}, "step_sizes must be positive"),
        ({"memory": (0.0, 1.0)}, "structure"),
    ],
)
def test_wrong_arguments_of_stability_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        odeopt.stability(heavy_ball(), odeopt.Euler(), **options)


def test_a_flow_that_is_not_calibrated_is_refused():
    with pytest.raises(ValueError, match="has not been calibrated"):
        odeopt.stability(odeopt.HeavyBall(), odeopt.Euler())


def test_double_precision_is_left_as_it_was():
    with jax.enable_x64(False):
        found = odeopt.stability(odeopt.GradientFlow(), odeopt.Euler(), curvatures=[3.0])
        assert not jax.config.jax_enable_x64
    np.testing.assert_allclose(found.limits, 2 / 3, rtol=1e-9)


# A network of 81 parameters, more than are treated with dense algebra; weights without a random generator of JAX.
_draw = np.random.default_rng(0).standard_normal
INPUTS = jnp.asarray(_draw((20, 3)))
TARGETS = jnp.sin(2 * INPUTS[:, 0]) * INPUTS[:, 1]
WEIGHTS = {"in": jnp.asarray(0.5 * _draw((16, 3))), "bias": jnp.zeros(16), "out": jnp.asarray(0.3 * _draw(16))}


def network_loss(weights, data):
    inputs, targets = data
    hidden = jnp.tanh(inputs @ weights["in"].T + weights["bias"])
    return jnp.mean((hidden @ weights["out"] - targets) ** 2)


def end_of(solver, steps):
    """The run that `edge_of_stability` makes, once more."""
    run = odeopt.minimise(network_loss, solver, WEIGHTS, (INPUTS, TARGETS), max_steps=steps, throw=False)
    return run.state.run.snapshot.state, run.state.solver.flow


def dense_hessian(weights):
    flat, unravel = jax.flatten_util.ravel_pytree(weights)
    return np.asarray(jax.hessian(lambda y: network_loss(unravel(y), (INPUTS, TARGETS)))(flat))


def test_the_eigenvalues_along_a_run_are_those_of_the_dense_hessian():
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(0.1))
    edge = odeopt.edge_of_stability(network_loss, solver, WEIGHTS, (INPUTS, TARGETS), points=2, steps_between=15)
    for row, steps in enumerate((15, 30)):
        state, _ = end_of(solver, steps)
        expected = np.linalg.eigvalsh(dense_hessian(state.position))[::-1][:3]
        np.testing.assert_allclose(edge.eigenvalues[row], expected, rtol=1e-7)
    np.testing.assert_allclose(edge.limits, 2 / edge.eigenvalues[:, 0], rtol=1e-8)
    np.testing.assert_array_equal(edge.steps, [15, 30])
    np.testing.assert_array_equal(edge.chosen, [0.1, 0.1])


def test_the_limit_of_adam_is_that_of_its_preconditioned_hessian():
    solver = odeopt.Solver(odeopt.Adam(momentum_rate=RATE, epsilon=0.01), controller=odeopt.LyapunovControl())
    frozen = lambda memory: memory[1]  # noqa: E731
    data = (INPUTS, TARGETS)
    edge = odeopt.edge_of_stability(network_loss, solver, WEIGHTS, data, points=1, steps_between=30, frozen=frozen)
    state, _ = end_of(solver, 30)
    d = np.sqrt(np.asarray(jax.flatten_util.ravel_pytree(state.memory[1])[0]) + 0.01**2)
    curvature = np.linalg.eigvalsh(dense_hessian(state.position) / np.sqrt(np.outer(d, d)))[-1]
    expected = root(lambda h: h - 2 * (1 + np.exp(-RATE * h)) / (-np.expm1(-RATE * h) * curvature))
    np.testing.assert_allclose(edge.limits, expected, rtol=1e-7)


def test_a_controlled_run_and_an_equinox_model_can_be_looked_at():
    model = eqx.nn.MLP(3, "scalar", 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    loss = lambda m, data: jnp.mean((jax.vmap(m)(data[0]) - data[1]) ** 2)  # noqa: E731
    edge = odeopt.edge_of_stability(
        loss, odeopt.Solver(heavy_ball()), model, (INPUTS, TARGETS), points=2, steps_between=10
    )
    b, (L, *_) = FRICTION, edge.eigenvalues[-1]
    limit = root(lambda h: h * np.tanh(b * h / 2) - 2 * b / L)
    assert edge.limits[-1] == pytest.approx(limit, rel=1e-8)
    assert edge.loss[-1] < edge.loss[0]
    assert "still on its way" in str(edge)


def test_the_edge_of_a_flow_that_is_not_linear_is_refused_with_advice():
    with pytest.raises(ValueError, match=r"Adam is not linear.*frozen=lambda memory: memory\[1\]"):
        odeopt.edge_of_stability(network_loss, odeopt.Solver(odeopt.Adam()), WEIGHTS, (INPUTS, TARGETS), points=1)


# Polynomials of the scalar network w x + b on x = 0, 1, and a minimum (w, b) of each.
def two(y, _):
    return 0.25 * ((y[1] ** 2 - 1) ** 2 + ((y[0] + y[1]) ** 2 - 1) ** 2)


def five(y, _):
    def g(z):
        return (z + 1) ** 2 * (z - 3) * (z**2 - 3 * z + 4)

    return 0.25 * (g(y[1]) ** 2 + g(y[0] + y[1]) ** 2)


MINIMA = {"two": (two, (0.0, 1.0)), "five": (five, (0.0, 3.0))}
RADII = [1e-3, 1e-2]  # so small that cubic terms matter little


def largest_curvature(problem):
    fn, minimum = MINIMA[problem]
    return float(np.linalg.eigvalsh(jax.hessian(lambda y: fn(y, None))(jnp.array(minimum)))[-1])


@pytest.mark.parametrize("problem", MINIMA)
def test_gradient_descent_leaves_a_minimum_just_beyond_its_limit_and_converges_just_below(problem):
    fn, minimum = MINIMA[problem]
    limit = 2 / largest_curvature(problem)
    solvers = {
        name: odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(factor * limit))
        for name, factor in (("below", 0.95), ("beyond", 1.1))
    }
    found = odeopt.stability_of_minimum(solvers, fn, jnp.array(minimum), radii=RADII, samples=32)
    np.testing.assert_array_equal(found.stays, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(found.converges, [[1, 1], [0, 0]])


@pytest.mark.parametrize("problem", MINIMA)
def test_controlled_flows_stay_and_converge_from_any_first_step(problem):
    fn, minimum = MINIMA[problem]
    # A hundred times the limit of gradient descent; the friction is that of critical damping.
    L = largest_curvature(problem)
    control = odeopt.LyapunovControl(initial_step_size=100 * 2 / L)
    solvers = {
        "gradient flow": odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), control),
        "heavy ball": odeopt.Solver(heavy_ball(np.sqrt(L)), controller=control),
    }
    found = odeopt.stability_of_minimum(solvers, fn, jnp.array(minimum), radii=RADII, samples=32)
    assert np.all(found.stays == 1), str(found)
    assert np.all(found.converges == 1), str(found)


def test_a_run_that_breaks_off_inside_the_ball_has_not_stayed():
    barrier = lambda y, _: -jnp.log(1 - jnp.sum(y**2))  # noqa: E731
    # x+ = (1 - 2 h) x doubles up to the barrier, and the step from there leads to where the loss is not a number.
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(2.0))
    found = odeopt.stability_of_minimum(solver, barrier, jnp.zeros(2), radii=[0.1], ball=1.5, samples=8)
    assert found.farthest[0, 0] < 1.5
    assert found.stays[0, 0] == 0


def test_starts_lie_on_the_spheres():
    rest = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(1e-9))
    fn = lambda y, _: sum(jnp.sum(leaf**2) for leaf in y.values())  # noqa: E731
    minimum = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    found = odeopt.stability_of_minimum(rest, fn, minimum, radii=[0.1, 2.0], samples=16, max_steps=1)
    np.testing.assert_allclose(found.farthest, [[0.1, 2.0]], rtol=1e-12)


def test_a_point_that_is_no_minimum_is_refused():
    with pytest.raises(ValueError, match="no stationary point"):
        odeopt.stability_of_minimum(
            odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler()), two, jnp.array([0.1, 1.0]), radii=[0.01]
        )


def test_a_ball_inside_of_the_spheres_is_refused():
    with pytest.raises(ValueError, match="larger than all of radii"):
        odeopt.stability_of_minimum(
            odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler()), two, jnp.array([0.0, 1.0]), radii=[0.1], ball=0.05
        )


def pictures():
    gradient_descent = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(0.1))
    bowl = lambda y, _: jnp.sum(y**2)  # noqa: E731
    yield odeopt.stability(odeopt.GradientFlow(), odeopt.Euler())
    yield odeopt.stability(heavy_ball(0.0), odeopt.Euler())  # without any limit
    yield odeopt.stability_region(odeopt.Euler(), points=11)
    yield odeopt.edge_of_stability(bowl, gradient_descent, jnp.ones(2), points=2, steps_between=3)
    yield odeopt.stability_of_minimum(gradient_descent, bowl, jnp.zeros(2), radii=[0.1, 1.0], samples=4)


def test_every_result_prints_and_draws_itself_on_axes_of_its_own_and_on_given_ones():
    from matplotlib.figure import Figure

    for result in pictures():
        assert len(str(result)) > 20
        figure = result.plot()
        figure.canvas.draw()
        given = Figure().subplots()
        assert result.plot(axes=given) is given.get_figure()
        assert given.get_title(loc="left")
