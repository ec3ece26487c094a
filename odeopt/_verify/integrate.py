# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# NumPy and JAX arrays alike are handed around here.
"""Many solves of diffrax side by side, none of which may stop the others."""

from collections.abc import Callable

import diffrax
import jax
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
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(t, y)),
        diffrax.Dopri8(),
        t0,
        # One that has failed goes nowhere: its steps would be those of all lanes of a vmap.
        jnp.where(alive, t1, t0),
        None,
        y,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=1e-6 * tolerance),
        saveat=diffrax.SaveAt(t1=True),
        adjoint=diffrax.ForwardMode(),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    end = jax.tree.map(lambda leaf: leaf[0], solution.ys)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(end)]))
    return end, alive & finite & (solution.result == diffrax.RESULTS.successful)
