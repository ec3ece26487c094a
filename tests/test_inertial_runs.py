"""Inertial flows at work: runs of `minimise` with the recommended solver and the scales left open."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import alternating
from flow_catalogue import kinetic_energy
from test_flows_inertial import OPEN

import odeopt

MADE = {**OPEN, "Hamiltonian": lambda: odeopt.HamiltonianDescent(kinetic_energy, friction=0.5)}


def valley(y, scale):
    """Not convex, not separable; its minimum is 1/4, at (1, 1, 0): at zero the energy friction would vanish."""
    return scale * (0.25 + (1 - y[0]) ** 2 + 5 * (y[1] - y[0] ** 2) ** 2 + y[2] ** 2 * (1 + y[0] ** 2))


def run(flow, scale=1.0):
    stop = odeopt.Stop(relative_gradient_norm=1e-6)
    start = jnp.array([-1.2, 1.0, 0.8])
    return odeopt.minimise(valley, odeopt.Solver(flow), start, jnp.asarray(scale), stop=stop, throw=False)


def assert_falls(history, unit):
    """Up to what the controller leaves to the gradients: ten units of rounding of the loss at both ends."""
    trimmed = history.trimmed()
    energy, loss = np.asarray(trimmed.energy, float), np.abs(np.asarray(trimmed.loss, float))
    assert len(energy) > 10
    assert (np.diff(energy) <= 32 * unit * (loss[1:] + loss[:-1])).all()


@pytest.mark.parametrize("name", alternating(MADE))
def test_a_run_lowers_the_energy_at_every_step_and_ends_in_the_minimum(name):
    solution = run(MADE[name]())
    assert bool(solution.result == odeopt.RESULTS.converged), str(solution.result)
    assert_falls(solution.history, np.finfo(float).eps)
    np.testing.assert_allclose(solution.value, [1, 1, 0], atol=1e-4)


@pytest.mark.parametrize("name", OPEN)
def test_scaling_the_loss_changes_nothing(name):
    """By a power of two whose roots are powers of two, nothing is rounded: the same trials to the last."""
    first, scaled = run(OPEN[name]()), run(OPEN[name](), scale=2.0**40)
    assert [int(first.stats[key]) for key in ("accepted", "rejected")] == [
        int(scaled.stats[key]) for key in ("accepted", "rejected")
    ]
    np.testing.assert_allclose(scaled.value, first.value, rtol=1e-12)


def factors(tree, target):
    """The distance of a product of two matrices, shifted by a vector, from a matrix; not convex."""
    return jnp.mean((tree["left"] @ tree["right"] + tree["shift"] - target) ** 2)


@pytest.mark.parametrize("name", alternating(MADE, 1))
def test_a_run_in_single_precision_on_a_tree_of_matrices_reaches_the_minimum(name):
    random = np.random.default_rng(3)
    shapes = {"left": (3, 2), "right": (2, 3), "shift": (3,)}
    tree = {key: jnp.asarray(random.normal(size=shape), jnp.float32) for key, shape in shapes.items()}
    target = jnp.asarray(random.normal(size=(3, 2)) @ random.normal(size=(2, 3)), jnp.float32)
    stop = odeopt.Stop(target_loss=1e-4)
    solution = odeopt.minimise(factors, odeopt.Solver(MADE[name]()), tree, target, stop=stop, throw=False)
    assert bool(solution.result == odeopt.RESULTS.target_reached), str(solution.result)
    assert_falls(solution.history, np.finfo(np.float32).eps)
    assert {leaf.dtype for leaf in jax.tree.leaves(solution.value)} == {jnp.dtype(jnp.float32)}
