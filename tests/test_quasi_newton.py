"""Metrics that learn the Hessian: secant equations, definiteness, and what the run makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import odeopt
from odeopt._flow.limited_memory import empty, product, with_pair
from odeopt._flow.secant import UPDATES, Secant, updated
from odeopt._objective import Tally

SIZE = 6


def positive(random, size=SIZE):
    """A symmetric positive definite matrix."""
    factor = random.normal(size=(size, size))
    return factor @ factor.T + 0.1 * np.eye(size)


def bfgs(inverse, s, y):
    """The textbook's form (Nocedal and Wright, 6.17)."""
    rho = 1 / (s @ y)
    left = np.eye(len(s)) - rho * np.outer(s, y)
    return left @ inverse @ left.T + rho * np.outer(s, s)


def rosenbrock(y, _=None):
    return jnp.sum((1 - y[:-1]) ** 2 + 100 * (y[1:] - y[:-1] ** 2) ** 2)


def run(flow, fn=rosenbrock, start=(-1.2, 1.0), **options):
    solver = odeopt.Solver(flow) if isinstance(flow, odeopt.AbstractFlow) else flow
    return odeopt.minimise(fn, solver, jnp.asarray(start), **({"throw": False} | options))


@pytest.mark.parametrize("update", UPDATES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_an_update_solves_the_secant_equation_and_stays_positive_definite(update, seed):
    random = np.random.default_rng(seed)
    inverse, hessian, step = positive(random), positive(random), random.normal(size=SIZE)
    secant = Secant(*map(jnp.asarray, (step, hessian @ step, np.linalg.solve(inverse, step))))
    new = np.asarray(updated(jnp.asarray(inverse), secant, update))
    np.testing.assert_allclose(new, new.T, atol=1e-12 * np.abs(new).max())
    np.testing.assert_allclose(new @ hessian @ step, step, atol=1e-8 * np.linalg.norm(new))
    eigenvalues = np.linalg.eigvalsh((new + new.T) / 2)
    assert eigenvalues[0] > -1e-10 * eigenvalues[-1]


def test_without_scaling_it_is_the_textbooks_bfgs():
    random = np.random.default_rng(1)
    inverse, hessian, step = positive(random), positive(random), random.normal(size=SIZE)
    secant = Secant(*map(jnp.asarray, (step, hessian @ step, np.linalg.solve(inverse, step))))
    expected = bfgs(inverse, step, hessian @ step)
    np.testing.assert_allclose(updated(jnp.asarray(inverse), secant, "bfgs"), expected, rtol=1e-10)


@pytest.mark.parametrize("curvature", [0.01, 100.0])
def test_self_scaling_takes_curvature_away_and_adds_none(curvature):
    random = np.random.default_rng(1)
    inverse, hessian, step = positive(random), curvature * positive(random), random.normal(size=SIZE)
    image = np.linalg.solve(inverse, step)
    b = step @ image / (step @ hessian @ step)
    assert (b > 1) == (curvature < 1)
    secant = Secant(*map(jnp.asarray, (step, hessian @ step, image)))
    expected = bfgs(inverse * max(b, 1), step, hessian @ step)
    np.testing.assert_allclose(updated(jnp.asarray(inverse), secant, "self_scaled_bfgs"), expected, rtol=1e-9)


@pytest.mark.parametrize("count", [0, 2, 3, 8])
def test_the_pairs_stand_for_the_matrix_that_they_would_make(count):
    random, hessian = np.random.default_rng(2), positive(np.random.default_rng(3))
    memory, pairs = empty(jnp.zeros(SIZE), 3), []
    for _ in range(count):
        step = random.normal(size=SIZE)
        pairs.append((step, hessian @ step))
        memory = with_pair(memory, *map(jnp.asarray, pairs[-1]), jnp.asarray(True))
    covector = random.normal(size=SIZE)
    expected = np.zeros((SIZE, SIZE))
    if pairs:
        s, y = pairs[-1]
        expected = np.eye(SIZE) * (s @ y) / (y @ y)
    for pair in pairs[-3:]:
        expected = bfgs(expected, *pair)
    np.testing.assert_allclose(product(memory, jnp.asarray(covector)), expected @ covector, rtol=1e-9, atol=1e-12)


FLOWS = {
    **{update: odeopt.QuasiNewton(update=update) for update in UPDATES},
    "pairs": odeopt.QuasiNewton(pairs=5),
}


@pytest.mark.parametrize("name", FLOWS)
def test_it_finds_the_minimum_and_never_goes_uphill(name):
    solution = run(FLOWS[name], start=[-1.2, 1.0, -1.2, 1.0], stop=odeopt.Stop(gradient_norm=1e-8))
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    np.testing.assert_allclose(solution.value, np.ones(4), atol=1e-7)
    history = solution.history.trimmed()
    assert np.all(np.diff(history.loss) <= 0)
    assert np.all(np.asarray(history.step_size) <= 1)
    # Gradient flow needs thousands.
    assert int(solution.stats["cost"]) < 500


def test_bfgs_becomes_newtons_method():
    random = np.random.default_rng(4)
    hessian = jnp.asarray(positive(random))
    solution = run(FLOWS["bfgs"], lambda y, _: 0.5 * y @ hessian @ y, random.normal(size=SIZE))
    # Dennis and Moré: in the end steps of length 1 are taken, and each gains more than the one before.
    assert np.all(np.asarray(solution.history.trimmed().step_size)[-3:] == 1)
    norms = np.asarray(solution.history.trimmed().gradient_norm)[-3:]
    assert norms[2] / norms[1] < norms[1] / norms[0]


def test_a_pair_without_curvature_changes_nothing():
    flow = odeopt.QuasiNewton(first_scale=1.0)
    start = flow.init(jnp.array([1.0, 2.0]))
    concave = odeopt.Objective(lambda y, _: -jnp.sum(y**2))
    moved = odeopt.State(start.position + 0.1, start.memory)
    oracles = [odeopt.Oracle(concave, state.position, Tally()) for state in (start, moved)]
    memory = flow.jump(jnp.zeros(()), start, moved, *oracles)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), memory, start.memory))


def test_a_matrix_that_rounding_has_made_indefinite_is_begun_anew():
    flow = odeopt.QuasiNewton(first_scale=1.0)
    start = flow.init(jnp.array([1.0, 2.0]))
    broken = jax.tree.map(lambda leaf: -leaf if leaf.ndim else jnp.ones_like(leaf), start.memory)
    before, after = odeopt.State(start.position, broken), odeopt.State(start.position, broken)
    oracle = odeopt.Oracle(odeopt.Objective(lambda y, _: jnp.sum(y**2)), start.position, Tally())
    memory = flow.jump(jnp.zeros(()), before, after, oracle, oracle)
    np.testing.assert_array_equal(memory.inverse, np.eye(2))
    assert memory.begun == 0


def test_a_step_to_where_there_is_a_value_but_no_gradient_is_rejected():
    def edge(y, _=None):
        # Left of -1 there is a value but no derivative: that of the root is not dropped but multiplied by 0.
        root = jnp.sqrt(y[0] + 1)
        return jnp.where(y[0] > -1, 10 * root + 1 / root**2, 0.0) + 0.1 * y[0] ** 2

    start = jnp.array([2.0])
    beyond = start - jax.grad(edge)(start)
    assert edge(beyond) < edge(start)
    assert not np.isfinite(jax.grad(edge)(beyond)[0])
    solution = run(odeopt.QuasiNewton(first_scale=1.0), edge, start, max_steps=50)
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    assert int(solution.stats["rejected"]) > 0
    # 0 = f': 5 / u - 1 / u^4 + 0.2 (u^2 - 1) for the root u.
    root = float(jnp.sqrt(solution.value[0] + 1))
    assert abs(5 / root - 1 / root**4 + 0.2 * (root**2 - 1)) < 1e-5


def test_where_no_step_leads_to_a_gradient_the_run_says_so():
    def cliff(y, _=None):
        # Below 2 there is a value but no derivative.
        return y[0] + jnp.where(y[0] >= 2, jnp.sqrt(y[0] - 2 + 1e-3), 0.0)

    control = odeopt.LyapunovControl(decrease=1e-4, initial_step_size=1.0, search="restart", max_rejections=5)
    solution = run(odeopt.Solver(odeopt.QuasiNewton(), controller=control), cliff, [2.0])
    assert solution.result == odeopt.RESULTS.nonfinite_dissipation, str(solution)
    np.testing.assert_array_equal(solution.value, [2.0])


@pytest.mark.parametrize("count", [1, 6])
def test_with_pairs_at_step_one_it_is_the_lbfgs_of_optax(count):
    quadratic = jnp.asarray(positive(np.random.default_rng(5)))

    def fn(y, _=None):
        return 0.5 * y @ quadratic @ y + 0.1 * jnp.sum(y**4)

    start = jnp.asarray(np.random.default_rng(6).normal(size=SIZE))
    # The first step of optax has length 1.
    flow = odeopt.QuasiNewton(pairs=4, first_scale=1 / jnp.linalg.norm(jax.grad(fn)(start)))
    peer = optax.lbfgs(1.0, memory_size=4, linesearch=None)
    y, state = start, peer.init(start)
    for _ in range(count):
        update, state = peer.update(jax.grad(fn)(y), state, y)
        y = optax.apply_updates(y, update)
    solver = odeopt.Solver(flow, controller=odeopt.ConstantStep(1.0))
    solution = run(solver, fn, start, max_steps=count, history="states", stop=odeopt.Stop(gradient_norm=0.0))
    np.testing.assert_allclose(solution.history.position[count - 1], y, rtol=1e-9)


def test_many_parameters_are_kept_as_pairs():
    few, many = (odeopt.QuasiNewton().init(jnp.zeros(n)).memory for n in (1000, 1001))
    assert few.inverse.shape == (1000, 1000)
    assert many.steps.shape == (10, 1001)


def test_single_precision_stays_single_and_ends_with_a_reason():
    start = np.array([-1.2, 1.0], np.float32)
    solution = run(odeopt.QuasiNewton(), start=start, stop=odeopt.Stop(gradient_norm=1e-12), max_steps=500)
    assert {leaf.dtype for leaf in jax.tree.leaves(solution.state.run.snapshot.state)} == {jnp.dtype(jnp.float32)}
    assert solution.result in (odeopt.RESULTS.converged, odeopt.RESULTS.rounding_floor_reached), str(solution)
    np.testing.assert_allclose(solution.value, np.ones(2), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "newton"}, "expected one of"),
        ({"pairs": -1}, "whole number >= 0"),
        ({"first_scale": 0.0}, "finite number > 0"),
        ({"update": "self_scaled_broyden", "pairs": 3}, "needs the full matrix"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        odeopt.QuasiNewton(**options)


def test_a_pair_that_is_not_known_leaves_the_ring_as_it_is():
    random = np.random.default_rng(5)
    ring = empty(jnp.zeros(SIZE), 3)
    for known in (True, False, True):
        pair = [jnp.asarray(random.normal(size=SIZE)) for _ in range(2)]
        before, ring = ring, with_pair(ring, *pair, jnp.asarray(known))
        if not known:
            jax.tree.map(np.testing.assert_array_equal, ring, before)
    assert int(ring.newest) == 2


@pytest.mark.exact
@pytest.mark.parametrize("pairs", [3, 10])
def test_the_pairs_and_six_vectors_are_all_the_memory_that_a_run_takes(pairs):
    """Beside the start and the answer; one of the six is what the objective keeps of its forward pass."""
    size = 100_000
    curvatures = jnp.linspace(1, 10, size, dtype=jnp.float32)

    def solve(start):
        solution = run(
            odeopt.QuasiNewton(pairs=pairs), lambda y, _: 0.5 * jnp.sum(curvatures * y**2), start, history=None
        )
        return solution.value, solution.stats

    compiled = jax.jit(solve).lower(jnp.ones(size, jnp.float32)).compile()
    vectors = compiled.memory_analysis().temp_size_in_bytes / (4 * size)
    assert vectors < 2 * pairs + 6.1


@pytest.mark.parametrize("pairs", [0, 3])
@pytest.mark.parametrize("curvature", [-2.0, 0.01, 0.5])
def test_damping_keeps_a_fifth_of_the_curvature(pairs, curvature):
    """From the identity: B s = s, and a change of the gradient of any curvature along s."""
    flow = odeopt.QuasiNewton(update="bfgs", pairs=pairs, damped=True, first_scale=1.0)
    start = flow.init(jnp.zeros(3))
    gradient = jnp.array([1.0, 2.0, -1.0])
    step, beside = -0.5 * gradient, jnp.array([2.0, -1.0, 0.0])
    change = curvature * step + 0.3 * beside
    before, after = (
        odeopt.Oracle(odeopt.Objective(lambda y, _: jnp.sum(y)), point, Tally(), jnp.zeros(()), slope)
        for point, slope in ((jnp.zeros(3), gradient), (step, gradient + change))
    )
    there = odeopt.State(step, start.memory)
    memory = flow.jump(jnp.zeros(()), start, there, before, after)
    square = float(step @ step)
    mixed = change if curvature >= 0.2 else change * 0.8 / (1 - curvature) + step * (1 - 0.8 / (1 - curvature))
    kept = odeopt.State(step, memory)
    product = flow.inverse_metric(jnp.zeros(()), kept, after, mixed)
    np.testing.assert_allclose(mixed @ step, max(curvature, 0.2) * square, rtol=1e-12)
    # The secant equation of the mixed change.
    np.testing.assert_allclose(product, step, rtol=1e-12, atol=1e-14)
