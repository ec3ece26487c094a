"""Problems and hand-written recursions that the tests of inertial flows compare with."""

import jax
import jax.numpy as jnp
import numpy as np

import odeopt

# Of a reference solution, over a few oscillations.
ACCURATE = 1e-9
# Of two programs for one recursion, over 200 steps in the stable range.
AGREEMENT = 1e-12
CURVATURES = np.array([0.3, 1.0, 2.5])
START = np.array([1.0, -2.0, 0.5])


def bowl(x, args):
    return 0.5 * jnp.sum(CURVATURES * x**2)


BOWL = (bowl, jnp.asarray(START))


def path(flow, scheme, step_size, steps=200, fn=bowl, start=START):
    """The positions of a run at constant steps, shape `(steps, n)`."""
    solver = odeopt.Solver(flow, scheme, odeopt.ConstantStep(step_size))
    solution = odeopt.minimise(
        fn, solver, jnp.asarray(start), stop=odeopt.Stop(), max_steps=steps, history="states", throw=False
    )
    return solution.history.position


def recursion(step, memory, steps=200):
    """The positions of an optimizer written by hand: `step(k, x, memory)` returns the next of both."""
    x, rows = START.copy(), []
    for k in range(steps):
        x, memory = step(k, x, memory)
        rows.append(x)
    return np.array(rows)


def convex(x, args):
    return jnp.sum(jnp.sqrt(1 + CURVATURES * x**2)) + 0.25 * jnp.sum(x**4)


def decay_along(flow, fn, start, until, minimum=0.0, **theory):
    """The decay of the energy of a reference solution."""
    times = np.geomspace(1e-2, until, 400)
    reference = odeopt.reference_solution(flow, (fn, jnp.asarray(start)), times=times, tolerance=1e-10)
    energy = jax.jit(jax.vmap(reference.system.energy))(jnp.asarray(times), reference.states)
    return odeopt.decay_rate((times, np.asarray(energy)), minimum=minimum, flow=reference.system.flow, **theory)
