"""One step of a scheme outside of any run, for tests that compare it with numbers of their own."""

import jax
import jax.numpy as jnp
import numpy as np

import odeopt
from odeopt._objective import Tally

MATRIX = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
START = np.array([1.0, -2.0, 0.7])
MOMENTUM = np.array([0.4, 0.1, -0.8])


def bowl(y, args):
    """Convex, not quadratic."""
    return 0.5 * y @ MATRIX @ y + 0.1 * jnp.sum(y**4)


def bowl_value(y):
    return 0.5 * y @ MATRIX @ y + 0.1 * np.sum(y**4)


def bowl_gradient(y):
    return MATRIX @ y + 0.4 * y**3


def one_step(scheme, flow, state, t=0.0, h=0.1, fn=bowl):
    """The trial, and the gradients that it evaluated; the one where it begins is known, as in a run."""
    state = jax.tree.map(jnp.asarray, state)
    tally = Tally()
    oracle = odeopt.Oracle(odeopt.Objective(fn), state.position, tally)
    oracle.gradient  # noqa: B018
    before = tally.gradients
    trial = scheme.step(flow, jnp.asarray(t), jnp.asarray(h), state, oracle)
    return trial, tally, tally.gradients - before


def as_vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
