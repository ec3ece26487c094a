"""Any pytree is a set of parameters: plain trees, Equinox models, shared and frozen leaves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import odeopt
from odeopt._parameters import merge_parameters, split_parameters
from odeopt._tree import add_scaled, cast_floating, select, size, subtract, vdot

FLOWS = {"gradient flow": odeopt.GradientFlow, "heavy ball": odeopt.HeavyBall, "Adam": odeopt.Adam}


def minimise(fn, y0, flow=odeopt.GradientFlow, **settings):
    settings = {"max_steps": 300, "history": None, "throw": False} | settings
    return odeopt.minimise(fn, odeopt.Solver(flow()), y0, **settings)


def squares(tree):
    return sum(jnp.sum((leaf - 1.0) ** 2) for leaf in jax.tree.leaves(tree))


TREES = {
    "a Python number": 3.0,
    "a scalar array": jnp.asarray(3.0),
    "nested": {"w": [jnp.zeros((2, 3)), (jnp.ones(4), None)], "b": np.zeros(2)},
    "two precisions": (jnp.zeros(2, jnp.float32), jnp.zeros(3, jnp.float64)),
    "half precision": jnp.zeros(3, jnp.bfloat16),
    "an empty array beside a full one": (jnp.zeros(0), jnp.zeros(2)),
}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", TREES)
def test_the_value_has_the_structure_shapes_and_dtypes_of_the_start(name, flow):
    y0 = TREES[name]
    solution = minimise(lambda y, args: squares(y), y0, FLOWS[flow], max_steps=30)
    assert jax.tree.structure(solution.value) == jax.tree.structure(y0)
    described = lambda tree: [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    # A Python number comes back as an array of the default precision.
    assert described(solution.value) == described(
        jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), y0)
    )
    assert float(squares(solution.value)) < float(squares(y0))


def network_loss(model, data):
    x, target = data
    return jnp.mean((jax.vmap(model)(x) - target) ** 2)


def network_data():
    x = np.random.default_rng(0).normal(size=(16, 2))
    return jnp.asarray(x, jnp.float32), jnp.asarray(np.sin(x.sum(axis=1, keepdims=True)), jnp.float32)


@pytest.mark.parametrize("flow", FLOWS)
def test_an_equinox_network_is_trained_and_comes_back_as_itself(flow):
    model = eqx.nn.MLP(2, 1, 8, 2, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float32)
    solution = minimise(network_loss, model, FLOWS[flow], args=network_data())
    assert isinstance(solution.value, eqx.nn.MLP)
    assert solution.value.activation is model.activation
    # A tenth: no more is asked than that it is trained (all of the 300 trials reach a fiftieth or less).
    assert float(network_loss(solution.value, network_data())) < 0.1 * float(network_loss(model, network_data()))


def test_shared_leaves_are_one_parameter():
    """Both halves of the model see one array, and its gradient is the sum of both uses."""

    class Pair(eqx.Module):
        left: jax.Array
        right: jax.Array

    shared = eqx.nn.Shared(Pair(jnp.asarray(3.0), jnp.asarray(3.0)), lambda p: p.right, lambda p: p.left)

    def fn(model, args):
        pair = model()
        return (pair.left - 1) ** 2 + (pair.right - 2) ** 2

    solution = minimise(fn, shared)
    pair = solution.value()
    assert float(pair.left) == float(pair.right)
    # |g| = 4 |y - 3/2| <= 1e-6 at the common minimum of (y - 1)^2 + (y - 2)^2.
    assert abs(float(pair.left) - 1.5) < 1e-6


class Affine(eqx.Module):
    weight: jax.Array
    table: np.ndarray
    count: jax.Array
    scale: float = 2.0

    def __call__(self):
        return jnp.sum((self.scale * self.weight - self.table) ** 2) + 0 * jnp.sum(self.count)


AFFINE = Affine(jnp.zeros(3), np.array([1.0, 2.0, 3.0]), jnp.arange(3))


def test_numpy_arrays_integers_and_numbers_inside_a_module_are_not_trained():
    solution = minimise(lambda model, args: model(), AFFINE)
    np.testing.assert_array_equal(solution.value.table, [1.0, 2.0, 3.0])
    assert solution.value.scale == 2.0
    np.testing.assert_array_equal(solution.value.count, [0, 1, 2])
    np.testing.assert_allclose(solution.value.weight, [0.5, 1.0, 1.5], atol=1e-6)  # |g| = 8 |w - table/2| <= 1e-6


def test_a_numpy_array_inside_a_module_comes_back_as_one():
    """As a JAX array it would be trained by the next run that starts from the value of this one."""
    assert isinstance(minimise(lambda model, args: model(), AFFINE).value.table, np.ndarray)


def test_complex_arrays_inside_a_module_are_refused():
    with pytest.raises(TypeError, match="complex"):
        minimise(lambda model, args: jnp.sum(jnp.abs(model.weight) ** 2), Affine(jnp.ones(2) + 1j, np.ones(2), 0))


@pytest.mark.parametrize("flow", FLOWS)
def test_a_leaf_behind_stop_gradient_does_not_move(flow):
    y0 = {"trained": jnp.ones(2), "frozen": jnp.full(2, 5.0)}

    def fn(y, args):
        return jnp.sum((y["trained"] - jax.lax.stop_gradient(y["frozen"])) ** 2)

    solution = minimise(fn, y0, FLOWS[flow])
    np.testing.assert_array_equal(solution.value["frozen"], 5.0)
    assert float(fn(solution.value, None)) < 1e-6


def test_functions_and_strings_beside_the_parameters_are_left_alone():
    y0 = {"w": jnp.ones(2), "activation": jnp.tanh, "name": "layer"}
    solution = minimise(lambda y, args: jnp.sum(y["activation"](y["w"]) ** 2), y0)
    assert solution.value["activation"] is jnp.tanh
    assert solution.value["name"] == "layer"


floats = st.floats(-1e3, 1e3, allow_nan=False, width=32)
arrays = st.lists(floats, min_size=1, max_size=4).map(lambda row: jnp.asarray(row, jnp.float32))
constants = st.one_of(st.none(), st.just(jnp.tanh), st.just("name"))
modules = st.builds(
    Affine, arrays, st.lists(floats, max_size=3).map(np.asarray), st.just(jnp.arange(2)), st.floats(1.0, 2.0)
)
trees = st.recursive(
    st.one_of(arrays, floats, modules, constants),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=5,
)


def trainable(tree):
    try:
        split_parameters(tree)
    except ValueError:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(trees.filter(trainable))
def test_merging_undoes_splitting(tree):
    merged = merge_parameters(*split_parameters(tree))
    assert jax.tree.structure(merged) == jax.tree.structure(tree)
    for ours, given_leaf in zip(jax.tree.leaves(merged), jax.tree.leaves(tree), strict=True):
        same = ours is given_leaf or np.array_equal(np.asarray(ours), np.asarray(given_leaf))
        assert same, f"{ours} is not {given_leaf}"


@settings(max_examples=60, deadline=None)
@given(trees.filter(trainable))
def test_all_that_is_split_off_for_training_is_floating_point_of_strong_type(tree):
    for leaf in jax.tree.leaves(split_parameters(tree)[0]):
        assert jnp.issubdtype(leaf.dtype, jnp.floating)
        assert not leaf.weak_type


same_shape = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(floats, min_size=n, max_size=n), min_size=4, max_size=4)
)


@settings(max_examples=40, deadline=None)
@given(same_shape, floats)
def test_tree_arithmetic_is_that_of_the_leaves(rows, scale):
    a, b, c, d = (np.asarray(row) for row in rows)
    x, y = {"p": jnp.asarray(a), "q": [jnp.asarray(b)]}, {"p": jnp.asarray(c), "q": [jnp.asarray(d)]}
    total = np.sum(np.abs(a * c)) + np.sum(np.abs(b * d))
    # Sums of up to eight products, each rounded once or twice.
    np.testing.assert_allclose(vdot(x, y), a @ c + b @ d, atol=16 * 2.2e-16 * total)
    moved = add_scaled(x, jnp.asarray(scale), y)
    bound = 4 * 2.2e-16 * (np.abs(a) + np.abs(scale * c))
    assert (np.abs(np.asarray(moved["p"]) - (a + scale * c)) <= bound).all()
    np.testing.assert_array_equal(subtract(x, y)["q"][0], b - d)
    np.testing.assert_array_equal(select(jnp.asarray(True), x, y)["p"], a)
    np.testing.assert_array_equal(select(jnp.asarray(False), x, y)["p"], c)
    assert size(x) == 2 * len(a)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_a_step_keeps_the_dtype_of_the_parameters(dtype):
    moved = add_scaled(jnp.ones(2, dtype), jnp.asarray(0.1, jnp.float64), jnp.ones(2, dtype))
    assert moved.dtype == dtype


def test_the_step_size_is_not_rounded_to_the_precision_of_the_parameters():
    # bfloat16(0.1) * 9 rounds to 0.9023, 0.1 * 9 to 0.8984.
    moved = add_scaled(jnp.zeros(1, jnp.bfloat16), jnp.asarray(0.1), jnp.full(1, 9.0, jnp.bfloat16))
    np.testing.assert_array_equal(np.asarray(moved, float), 0.8984375)


def test_inner_products_of_half_precision_are_accumulated_in_single():
    # 4096 terms of 1: bfloat16 stops counting at 256.
    ones = jnp.ones(4096, jnp.bfloat16)
    assert float(vdot(ones, ones)) == 4096.0
    assert vdot(ones, ones).dtype == jnp.float32


def test_casting_leaves_integers_and_objects_alone():
    cast = cast_floating((jnp.ones(1), jnp.arange(2), "name", None), jnp.float32)
    assert (cast[0].dtype, cast[1].dtype, cast[2], cast[3]) == (jnp.float32, jnp.arange(2).dtype, "name", None)


def test_models_whose_state_changes_beside_the_parameters_are_refused():
    """Remedy 12: both ends of a step are to be judged by the same function."""
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, axis_name="batch", mode="ema")
    for model_with_state in ([eqx.nn.Linear(2, 3, key=jax.random.key(0)), model], {"state": state, "x": jnp.ones(2)}):
        with pytest.raises(TypeError, match=r"changes beside the parameters.*Use layer or group"):
            split_parameters(model_with_state)
    frozen = eqx.nn.inference_mode([eqx.nn.Linear(2, 3, key=jax.random.key(0)), model])
    assert len(jax.tree.leaves(split_parameters(frozen)[0])) == 4
