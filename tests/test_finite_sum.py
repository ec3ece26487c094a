"""The mean of a loss over a data set, in chunks, against sums by hand in double precision."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import odeopt
from odeopt._objective.accurate_sum import accurate_sum, nothing_yet

RANDOM = np.random.default_rng(0)
COUNT = 23
X, TARGET, WEIGHTS = RANDOM.normal(size=(COUNT, 3)), RANDOM.normal(size=COUNT), RANDOM.uniform(size=COUNT)
DATA = (jnp.asarray(X), jnp.asarray(TARGET))
Y = np.array([0.3, -1.2, 0.7])


def of_batch(y, batch):
    x, target = batch
    return (x @ y - target) ** 2


def mean_of_batch(y, batch):
    return jnp.mean(of_batch(y, batch))


def of_example(y, example):
    x, target = example
    return (jnp.vdot(x, y) - target) ** 2


FORMS = {
    "batch": lambda **options: odeopt.FiniteSum(of_batch, DATA, **options),
    "mean of a batch": lambda **options: odeopt.FiniteSum(mean_of_batch, DATA, **options),
    "example": lambda **options: odeopt.FiniteSum(of_example, DATA, per_example=True, **options),
}
# The whole in one chunk, more than the whole, an even division, a last chunk of 2, and one example at a time.
CHUNKS = [None, 23, 100, 7, 1]


EQUAL = np.ones(COUNT)


def by_hand(weights=EQUAL):
    residual = X @ Y - TARGET
    return weights @ residual**2 / weights.sum(), 2 * (weights * residual) @ X / weights.sum()


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradient_are_those_of_the_mean(form, chunk_size):
    objective = FORMS[form](chunk_size=chunk_size)
    value, gradient = jax.jit(jax.value_and_grad(objective.value))(jnp.asarray(Y))
    expected, slope = by_hand()
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(objective.value(jnp.asarray(Y)), expected, rtol=1e-14)
    np.testing.assert_allclose(gradient, slope, rtol=1e-13)


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("form", ["batch", "example"])
def test_examples_count_by_their_weights(form, chunk_size):
    objective = FORMS[form](chunk_size=chunk_size, weights=jnp.asarray(WEIGHTS))
    value, gradient = jax.value_and_grad(objective.value)(jnp.asarray(Y))
    expected, slope = by_hand(WEIGHTS)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(gradient, slope, rtol=1e-13)


def test_products_with_the_hessian_are_those_of_the_mean():
    objective = FORMS["batch"](chunk_size=7)
    _, product = jax.jvp(jax.grad(objective.value), (jnp.asarray(Y),), (jnp.asarray(TARGET[:3]),))
    np.testing.assert_allclose(product, 2 * X.T @ (X @ TARGET[:3]) / COUNT, rtol=1e-13)


@pytest.mark.parametrize("weights", [None, jnp.asarray(WEIGHTS)], ids=["plain", "weighted"])
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_what_a_loss_returns_beside_is_averaged_too(chunk_size, weights):
    def with_aux(y, batch):
        losses = of_batch(y, batch)
        return losses, {"large": losses > 1, "residual": (batch[0] @ y - batch[1])[:, None]}

    objective = odeopt.FiniteSum(with_aux, DATA, weights, chunk_size=chunk_size, has_aux=True)
    solution = odeopt.minimise(
        objective, odeopt.Solver(odeopt.GradientFlow()), jnp.asarray(Y), max_steps=3, throw=False
    )
    counted = EQUAL if weights is None else WEIGHTS
    residual = X @ np.asarray(solution.value) - TARGET
    np.testing.assert_allclose(solution.aux["large"], counted @ (residual**2 > 1) / counted.sum(), rtol=1e-13)
    np.testing.assert_allclose(solution.aux["residual"], [counted @ residual / counted.sum()], rtol=1e-12)


def test_means_of_batches_are_averaged_by_their_lengths():
    def with_aux(y, batch):
        losses = of_batch(y, batch)
        return jnp.mean(losses), jnp.mean(losses)

    objective = odeopt.FiniteSum(with_aux, DATA, chunk_size=7, has_aux=True)
    np.testing.assert_allclose(objective.auxiliary(jnp.asarray(Y)), by_hand()[0], rtol=1e-14)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**32 - 1))
def test_a_mean_does_not_depend_on_its_chunks(count, chunk_size, seed):
    data = jnp.asarray(np.random.default_rng(seed).normal(size=count))
    objective = odeopt.FiniteSum(lambda y, x: (y - x) ** 2, data, chunk_size=chunk_size)
    value, slope = jax.value_and_grad(objective.value)(jnp.asarray(0.5))
    np.testing.assert_allclose(value, np.mean((0.5 - np.asarray(data)) ** 2), rtol=1e-13)
    np.testing.assert_allclose(slope, 2 * np.mean(0.5 - np.asarray(data)), rtol=1e-12, atol=1e-14)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=70))
def test_a_sum_in_single_precision_is_rounded_once(terms):
    found = float(accurate_sum(jnp.asarray(terms, jnp.float32)))
    # What the carried roundings lose themselves is of second order in the rounding unit, 6e-8.
    # (Numbers below the normal ones, 1e-38, count as 0.)
    allowed = 6e-8 * abs(math.fsum(terms)) + (6e-8 * 70) ** 2 * math.fsum(map(abs, terms)) + 70 * 1.2e-38
    assert abs(found - math.fsum(terms)) <= allowed


def test_a_million_examples_lose_nothing_in_single_precision():
    data = jnp.full(10**6, 0.1, jnp.float32)
    objective = odeopt.FiniteSum(lambda y, x: y * x, data, chunk_size=100)
    value, slope = jax.jit(jax.value_and_grad(objective.value))(jnp.ones((), jnp.float32))
    # Added one after the other the chunks lose five digits.
    np.testing.assert_allclose([value, slope], np.float32(0.1), rtol=1.2e-7)


def test_trees_are_summed_leaf_by_leaf():
    terms = [{"a": jnp.float32(1e8), "b": jnp.ones(2)}, {"a": jnp.float32(1.0), "b": jnp.ones(2)}] * 4
    found = nothing_yet(terms[0])
    for term in [*terms, {"a": jnp.float32(-4e8), "b": jnp.ones(2)}]:
        found = found.add(term)
    assert float(found.rounded()["a"]) == 4.0
    np.testing.assert_allclose(found.rounded()["b"], 9.0)


WIDE = eqx.nn.MLP(3, "scalar", 200, 2, activation=jnp.tanh, key=jax.random.key(0))


def of_model(model, batch):
    x, target = batch
    return (jax.vmap(model)(x) - target) ** 2


def temporary(count, **options):
    """What the gradient takes beside its arguments and its answer, in bytes."""
    data = (jnp.ones((count, 3)), jnp.ones(count))

    def gradient(model, data):
        return eqx.filter_value_and_grad(lambda model: odeopt.FiniteSum(of_model, data, **options).value(model))(model)

    arrays, rest = eqx.partition(WIDE, eqx.is_array)
    compiled = jax.jit(lambda arrays, data: gradient(eqx.combine(arrays, rest), data)[0]).lower(arrays, data).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.exact
def test_memory_does_not_grow_with_the_number_of_examples():
    # The parameters are 0.3 MB; the activations of all examples at once would be 100 MB.
    assert abs(temporary(32_000, chunk_size=100) - temporary(1000, chunk_size=100)) < 100_000


@pytest.mark.exact
@pytest.mark.parametrize("memory", [2**20, 2**23])
def test_the_chunk_is_as_large_as_memory_allows(memory):
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(WIDE, eqx.is_array)))
    # Gradients in the making and what they lose take twice the parameters or so each.
    assert temporary(20_000, memory=memory) < 3 * memory + 6 * parameters
    fitted = odeopt.FiniteSum(of_model, (jnp.ones((20_000, 3)), jnp.ones(20_000)), memory=memory).fitted(WIDE)
    assert fitted.chunk_size is not None
    assert 20_000 % fitted.chunk_size == 0
    # Two activations of 200 numbers, at least, are kept of every example.
    assert memory / 10 < fitted.chunk_size * 2 * 200 * 8 <= memory


def test_a_model_is_trained_in_chunks_as_it_is_at_once():
    data = (jnp.asarray(RANDOM.normal(size=(40, 3))), jnp.asarray(RANDOM.normal(size=40)))
    small = eqx.nn.MLP(3, "scalar", 5, 1, activation=jnp.tanh, key=jax.random.key(1))
    whole, _ = odeopt.train(small, lambda m, b: jnp.mean(of_model(m, b)), data, max_steps=20, progress=False)
    chunks, solution = odeopt.train(
        small, odeopt.FiniteSum(of_model, data, chunk_size=9), None, max_steps=20, progress=False
    )
    np.testing.assert_allclose(chunks(data[0][0]), whole(data[0][0]), rtol=1e-9)
    # In chunks nothing is kept of a trial: its forward pass is made again for the gradient.
    assert solution.stats["values"] > solution.stats["gradients"]


def counted_run(flow, controller, nonnegative, steps=60, scheme=None):
    """A run in chunks that says how many of them were evaluated."""
    evaluated = []
    data = (jnp.asarray(RANDOM_X), jnp.asarray(RANDOM_X[:, 0] ** 2))

    def loss(model, batch):
        jax.debug.callback(lambda: evaluated.append(1))
        return of_model(model, batch)

    objective = odeopt.FiniteSum(loss, data, chunk_size=20, nonnegative=nonnegative)
    small = eqx.nn.MLP(3, "scalar", 5, 1, activation=jnp.tanh, key=jax.random.key(1))
    solver = odeopt.Solver(flow, scheme, controller)
    solution = odeopt.minimise(objective, solver, small, max_steps=steps, throw=False)
    jax.effects_barrier()
    return solution, len(evaluated)


RANDOM_X = np.random.default_rng(1).normal(size=(200, 3))
# Every other trial is rejected.
BOLD = odeopt.LyapunovControl(decrease=0.5, grow=1e3, hold_growth=False, initial_step_size=1.0)


@pytest.mark.exact
@pytest.mark.parametrize(
    ("flow", "scheme"),
    [
        (odeopt.GradientFlow(), odeopt.Euler()),
        (odeopt.HeavyBall(), None),
        (odeopt.Adam(), odeopt.Heun()),
        (odeopt.AdamW(), None),
    ],
    ids=["gradient", "heavy ball", "Adam", "AdamW"],
)
def test_early_rejection_saves_chunks_and_changes_nothing(flow, scheme):
    whole, all_of_them = counted_run(flow, BOLD, nonnegative=False, scheme=scheme)
    early, fewer = counted_run(flow, BOLD, nonnegative=True, scheme=scheme)
    assert int(whole.stats["rejected"]) > 20
    assert {key: int(n) for key, n in early.stats.items()} == {key: int(n) for key, n in whole.stats.items()}
    for name in ("step_size", "loss", "energy"):
        np.testing.assert_array_equal(getattr(early.history, name), getattr(whole.history, name))
    # Each rejected trial takes one chunk of ten or a few, and the gradients of kept steps as many as before.
    assert fewer < 0.8 * all_of_them


@pytest.mark.parametrize(
    "controller",
    [
        odeopt.LyapunovControl(rate="trial"),
        odeopt.LyapunovControl(interpolate=True),
        odeopt.AdaptiveControl(),
        odeopt.ConstantStep(0.1),
    ],
    ids=["rate at the trial", "interpolation", "error", "constant"],
)
def test_controllers_that_need_the_whole_energy_get_it(controller):
    flow = odeopt.GradientFlow()
    whole, early = (counted_run(flow, controller, nonnegative, steps=15) for nonnegative in (False, True))
    assert early[1] == whole[1]


class Uphill(odeopt.GradientFlow):
    """An energy that falls as the loss rises: no lower bound of the loss is one of the energy."""

    def vector_field(self, t, state, oracle):
        return odeopt.State(oracle.gradient)

    def energy(self, t, state, oracle):
        return -oracle.value


def test_an_energy_that_falls_with_a_rising_loss_is_evaluated_to_the_end():
    control = odeopt.LyapunovControl(initial_step_size=1e-3)
    whole, early = (
        counted_run(Uphill(), control, nonnegative, steps=10, scheme=odeopt.Euler()) for nonnegative in (False, True)
    )
    assert int(whole[0].stats["accepted"]) > 0
    assert int(early[0].stats["accepted"]) == int(whole[0].stats["accepted"])
    assert early[1] == whole[1]


def test_losses_that_are_negative_all_the_same_are_added_up_to_the_end():
    data = jnp.asarray([-1.0, 30.0, 1.0, -25.0])
    objective = odeopt.FiniteSum(lambda y, x: y * x, data, chunk_size=1, nonnegative=True)
    found = objective.value_until(jnp.asarray(1.0), lambda bound: bound > 2.0)
    np.testing.assert_allclose(found, 1.25)
    honest = odeopt.FiniteSum(lambda y, x: y * x, jnp.abs(data), chunk_size=1, nonnegative=True)
    np.testing.assert_allclose(honest.value_until(jnp.asarray(1.0), lambda bound: bound > 2.0), 31 / 4)


def test_a_pass_that_ends_early_leaves_the_last_chunk_out_too():
    evaluated = []

    def loss(y, x):
        jax.debug.callback(lambda: evaluated.append(1))
        return y * x

    data = jnp.asarray([30.0, 1.0, 1.0, 1.0, 1.0])
    objective = odeopt.FiniteSum(loss, data, chunk_size=2, nonnegative=True)
    bound = jax.jit(lambda y: objective.value_until(y, lambda bound: bound > 2.0))(jnp.asarray(1.0))
    jax.effects_barrier()
    np.testing.assert_allclose(bound, 31 / 5)
    assert len(evaluated) == 1


def test_half_precision_is_added_in_single():
    def half(y, batch):
        y, *batch = (jnp.asarray(leaf, jnp.bfloat16) for leaf in (y, *batch))
        return of_batch(y, batch)

    objective = odeopt.FiniteSum(half, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), DATA), chunk_size=5)
    value = objective.value(jnp.asarray(Y, jnp.float32))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, by_hand()[0], rtol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: odeopt.FiniteSum("mse", DATA), "expected a function"),
        (lambda: odeopt.FiniteSum(of_batch, (jnp.ones((3, 2)), jnp.ones(4))), r"got shapes \[\(3, 2\), \(4,\)\]"),
        (lambda: odeopt.FiniteSum(of_batch, None), "must be arrays with the samples"),
        (
            lambda: odeopt.FiniteSum(of_batch, (jnp.ones((0, 2)), jnp.ones(0))),
            r"length >= 1; got shapes \[\(0, 2\), \(0,\)\]",
        ),
        (
            lambda: odeopt.FiniteSum(of_batch, (X, np.array([None] * COUNT))),
            r"data\[1\] has dtype object; expected numbers",
        ),
        (
            lambda: odeopt.FiniteSum(of_batch, (X, np.array(["a"] * COUNT))),
            r"data\[1\] has dtype <U1; expected numbers",
        ),
        (lambda: odeopt.FiniteSum(of_batch, DATA, jnp.ones(4)), r"shape \(23,\); got \(4,\)"),
        (lambda: odeopt.FiniteSum(of_batch, DATA, jnp.zeros(COUNT)), "not all 0"),
        (lambda: odeopt.FiniteSum(of_batch, DATA, -jnp.ones(COUNT)), "weights >= 0"),
        (lambda: odeopt.FiniteSum(of_batch, DATA, chunk_size=0), r"chunk_size=0\): expected a whole number"),
        (lambda: odeopt.FiniteSum(of_batch, DATA, memory=0.5), r"memory=0.5\): expected a whole number"),
    ],
)
def test_what_cannot_be_a_mean_is_refused(make, message, as_installed):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            odeopt.FiniteSum(lambda y, batch: batch[0] * y, DATA),
            r"shape \(n,\); for n = 2 it returned the shape \(2, 3\)",
        ),
        (odeopt.FiniteSum(lambda y, example: example[0] * y, DATA, per_example=True), r"returned the shape \(3,\)"),
        (odeopt.FiniteSum(mean_of_batch, DATA, jnp.ones(COUNT)), "the mean of a batch"),
        (odeopt.FiniteSum(lambda y, batch: batch[1] > 0, DATA), "must be floating point"),
    ],
    ids=["features", "vector", "weighted mean", "integers"],
)
def test_a_loss_that_is_none_is_refused_when_the_run_begins(objective, message):
    with pytest.raises((TypeError, ValueError), match=message):
        odeopt.minimise(objective, odeopt.Solver(odeopt.GradientFlow()), jnp.asarray(Y))
