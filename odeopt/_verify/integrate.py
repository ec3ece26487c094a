# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# NumPy and JAX arrays alike are handed around here.
"""Many solves of diffrax side by side, none of which may stop the others.

The steps and their control are those of diffrax; the loop around them is not `diffrax.diffeqsolve`, of which nothing
but the end is wanted here: without its dense output, events and saving an audit compiles in half the time (measured:
7.2 s and 3.9 s of processor time for a heavy ball).
"""

from collections.abc import Callable

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def integrate(
    field: Callable[[Array, PyTree], PyTree],
    t0: Array,
    t1: Array,
    y: PyTree,
    alive: Array,
    tolerance: float,
    max_steps: int,
) -> tuple[PyTree, Array]:
    r"""The solution of \(y' = F(t, y)\) at `t1`, and whether it was reached; one that is not `alive` stays at `y`.

    The tolerance is relative to each entry, and a millionth of it is absolute: the blocks of a state, and second
    moments above all, differ by orders of magnitude.
    """
    # One that has failed goes nowhere: its steps would be those of all lanes of a vmap.
    t1 = jnp.where(alive, t1, t0)
    # As one vector: the arithmetic of a step is then compiled once, and not for each array of the state.
    vector, unravel = jax.flatten_util.ravel_pytree(y)
    solver = diffrax.Dopri8()
    term = diffrax.ODETerm(lambda t, y, args: jax.flatten_util.ravel_pytree(field(t, unravel(y)))[0])
    controller = diffrax.PIDController(rtol=tolerance, atol=1e-6 * tolerance)
    order = solver.error_order(term)

    def step(carry):
        t, end, y, control, steps = carry
        # Begun anew at every step: the first of 13 stages that a step could take over is not worth its bookkeeping.
        trial, error, _, _, _ = solver.step(term, t, end, y, None, solver.init(term, t, end, y, None), made_jump=False)
        # A step to where the field is no number has failed.
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        accepted, t, end, _, control, _ = controller.adapt_step_size(t, end, y, trial, None, error, order, control)
        return t, jnp.minimum(end, t1), jnp.where(accepted, trial, y), control, steps + 1

    def unfinished(carry):
        t, end, _, _, steps = carry
        return (t < t1) & (end > t) & (steps < max_steps)

    # The whole way at first: the control finds its step size in two or three rejections.
    end, control = controller.init(term, t0, t1, vector, t1 - t0, None, solver.func, order)
    t, _, vector, _, _ = jax.lax.while_loop(unfinished, step, (t0, end, vector, control, 0))
    return unravel(vector), alive & jnp.all(jnp.isfinite(vector)) & (t >= t1)
