"""Losses in bfloat16: what is rounded, what is not, and how much of a value is rounding."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt._objective.noise import relative_noise

COUNT = 400
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(COUNT, 3)), jnp.float32)
DATA = (INPUTS, jnp.sin(INPUTS @ jnp.array([1.0, -2.0, 0.5], jnp.float32)))


def losses(model, batch):
    x, y = batch
    return (jax.vmap(model)(x) - y) ** 2


def made_model():
    model = eqx.nn.MLP(3, "scalar", 16, 2, activation=jnp.tanh, key=jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_array(leaf) else leaf, model)


def test_the_noise_of_a_function_is_found():
    # A smooth function and errors of known size, which follow the bits of the point.
    size = 1e-4

    def rough(x):
        bits = jax.lax.bitcast_convert_type(x[0], jnp.uint64)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), bits >> 32), bits & 0xFFFFFFFF)
        return 3 + jnp.sum(jnp.sin(x)) + size * jax.random.normal(key, dtype=x.dtype)

    x = jnp.array([0.7, -1.3])
    found = float(relative_noise(rough, x, 1e-3)) * (3 + float(jnp.sum(jnp.sin(x))))
    # Of nine points the estimate has a spread of about a third.
    assert 0.3 * size < found < 3 * size
    assert float(relative_noise(lambda x: 3 + jnp.sum(jnp.sin(x)), x, 1e-3)) < 1e-11


def test_the_loss_is_computed_in_the_narrow_type_and_added_up_in_a_wide_one():
    seen = []

    def watched(model, batch):
        seen.append((model.layers[0].weight.dtype, batch[0].dtype))
        return losses(model, batch)

    objective = odeopt.FiniteSum(watched, DATA, chunk_size=100, compute_dtype=jnp.bfloat16)
    value = objective.value(made_model())
    assert set(seen) == {(jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.bfloat16))}
    assert value.dtype == jnp.float32
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, made_model())
    narrow = losses(model, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), DATA))
    # Where operations are fused XLA may round single losses otherwise: half of 2^-8, averaged over 400 examples.
    np.testing.assert_allclose(value, np.mean(np.asarray(narrow, np.float64)), rtol=2**-9 / 20)


def test_gradients_keep_the_type_of_the_parameters_and_are_near_those_of_single_precision():
    model = made_model()
    whole = eqx.filter_grad(odeopt.FiniteSum(losses, DATA, chunk_size=100).value)(model)
    mixed = eqx.filter_grad(odeopt.FiniteSum(losses, DATA, chunk_size=100, compute_dtype=jnp.bfloat16).value)(model)
    for a, b in zip(jax.tree.leaves(eqx.filter(whole, eqx.is_array)), jax.tree.leaves(mixed), strict=True):
        assert b.dtype == jnp.float32
        # bfloat16 has eight bits: 1/256 for each of a few operations in a row.
        assert np.max(np.abs(a - b)) <= 0.05 * np.max(np.abs(a)) + 1e-3


def test_the_level_of_rounding_is_that_of_the_narrow_type():
    model = made_model()
    mixed = odeopt.FiniteSum(losses, DATA, compute_dtype=jnp.bfloat16).fitted(model)
    single = odeopt.FiniteSum(losses, DATA).fitted(model)
    assert single.rounding is None
    # Errors of 400 examples average out, those of the parameters do not: between 2^-8 / sqrt(400) / 10 and 10 * 2^-8.
    assert 2e-5 < float(mixed.rounding) < 4e-2


def test_a_run_in_mixed_precision_goes_on_where_the_loss_no_longer_resolves_its_steps():
    model, stop = made_model(), odeopt.Stop(gradient_norm=1e-9)
    objective = odeopt.FiniteSum(losses, DATA, compute_dtype=jnp.bfloat16)
    solution = odeopt.minimise(objective, odeopt.Solver(), model, stop=stop, max_steps=300, throw=False)
    single = odeopt.minimise(
        odeopt.FiniteSum(losses, DATA), odeopt.Solver(), model, stop=stop, max_steps=300, throw=False
    )
    assert solution.value.layers[0].weight.dtype == jnp.float32
    assert int(solution.stats["accepted"]) > 100
    start, reached = float(objective.value(model)), float(odeopt.FiniteSum(losses, DATA).value(solution.value))
    # Most of what single precision gains, measured in single precision.
    assert start - reached > 0.9 * (start - float(single.loss))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: odeopt.FiniteSum(losses, DATA, compute_dtype=jnp.int8), "compute_dtype"),
        (
            lambda: odeopt.minimise(
                odeopt.FiniteSum(lambda m, b: jnp.mean(losses(m, b)), DATA, compute_dtype=jnp.bfloat16),
                odeopt.Solver(),
                made_model(),
            ),
            "lost digits already",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, words, as_installed):
    with pytest.raises(ValueError, match=words):
        make()
