"""A run that cannot begin because of a number that is not finite says where that number is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import RESULTS

RANDOM = np.random.default_rng(0)
X, TARGET = RANDOM.normal(size=(3000, 2)), RANDOM.normal(size=3000)
Y = jnp.asarray([0.5, -1.0])
SOLVER = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler())


def losses(y, batch):
    return (batch[0] @ y - batch[1]) ** 2


def mean(y, batch):
    return jnp.mean(losses(y, batch))


def logarithms(y, batch):
    return -jnp.log(jnp.abs(batch[0] @ y))


def with_wrong(value, row):
    """The data with one wrong number, and another behind it."""
    x = X.copy()
    x[row, 1] = value
    x[row + 7, 0] = -np.inf
    return x, TARGET


def as_arrays(data):
    return jax.tree.map(jnp.asarray, data)


RUNS = {
    "chunks": lambda data: odeopt.train(Y, odeopt.FiniteSum(losses, as_arrays(data), chunk_size=500), None, SOLVER),
    "means of chunks": lambda data: odeopt.train(Y, odeopt.FiniteSum(mean, as_arrays(data)), None, SOLVER),
    "streamed": lambda data: odeopt.train(
        Y, odeopt.FiniteSum(losses, odeopt.Streamed(data), chunk_size=700), None, SOLVER
    ),
    "plain": lambda data: odeopt.train(Y, mean, data, SOLVER),
}


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("name", RUNS)
def test_the_first_row_that_is_not_finite_is_named(name, value, kind):
    _, solution = RUNS[name](with_wrong(value, 1234))
    assert solution.result == RESULTS.nonfinite_start
    assert solution.note == f"data[0] row 1234 holds {kind}."
    assert solution.note in str(solution)


@pytest.mark.parametrize("name", ["chunks", "streamed", "plain"])
def test_of_finite_data_the_first_row_with_a_loss_that_is_not_is_named(name, monkeypatch):
    x = X.copy()
    x[2500] = 0.0
    monkeypatch.setattr("test_nonfinite.losses", logarithms)
    monkeypatch.setattr("test_nonfinite.mean", lambda y, batch: jnp.mean(logarithms(y, batch)))
    _, solution = RUNS[name]((x, TARGET))
    assert solution.note == "The loss of row 2500 is inf, though its data are finite."


def test_minimise_says_it_in_its_error():
    objective = odeopt.FiniteSum(losses, as_arrays(with_wrong(np.nan, 3)), chunk_size=500)
    with pytest.raises(RuntimeError, match=r"not a finite number at the start.* data\[0\] row 3 holds NaN\. "):
        odeopt.minimise(objective, SOLVER, Y)


def test_arguments_of_a_function_are_named():
    args = {"target": jnp.asarray([1.0, np.inf]), "scale": 2.0}
    with pytest.raises(RuntimeError, match=r"args\['target'\] row 1 holds infinity\."):
        odeopt.minimise(lambda y, args: jnp.sum((y - args["target"]) ** 2), SOLVER, Y, args)


def test_parameters_come_first():
    data = as_arrays(with_wrong(np.nan, 3))
    solution = odeopt.minimise(odeopt.FiniteSum(losses, data), SOLVER, {"y": Y * jnp.nan}["y"], throw=False)
    assert solution.note == "The parameters y0 hold NaN."


def test_a_gradient_that_is_not_finite_is_told_from_the_data_too():
    def masked(y, batch):
        # The derivative of what is not chosen is NaN all the same.
        return jnp.where(jnp.isnan(batch[0][:, 1]), 0.0, jnp.sqrt(jnp.sum((batch[0] * y) ** 2, axis=1)))

    data = as_arrays(with_wrong(np.nan, 5))
    data = (data[0].at[12].set(0.5), data[1])
    solution = odeopt.minimise(odeopt.FiniteSum(masked, data, chunk_size=500), SOLVER, Y, throw=False)
    assert solution.result == RESULTS.nonfinite_dissipation
    assert solution.note == "data[0] row 5 holds NaN."


def test_where_nothing_is_found_nothing_is_said():
    solution = odeopt.minimise(lambda y, _: jnp.sum(y) * jnp.nan, SOLVER, Y, throw=False)
    assert solution.result == RESULTS.nonfinite_start
    assert solution.note is None
    assert "None" not in str(solution)


def test_data_that_no_loss_reads_are_not_looked_at(monkeypatch):
    def looked(*arguments):
        raise AssertionError("a run that went well looked for numbers that are not finite")

    monkeypatch.setattr("odeopt._minimise.first_nonfinite", looked)
    objective = odeopt.FiniteSum(lambda y, batch: (batch[1] - y[0]) ** 2, as_arrays(with_wrong(np.nan, 3)))
    assert odeopt.minimise(objective, SOLVER, Y, max_steps=2, throw=False).note is None
