r"""The rate of change of an energy along its flow, by automatic differentiation and without a further evaluation.

\[ \frac{dV}{dt} = \partial_t V + \langle \partial_y V, F(t, y) \rangle \]

is the derivative of \((t, y, f, g) \mapsto V\) along \((1, F, \langle g, x' \rangle, H x')\): the objective's value
and gradient enter as inputs with known tangents, so that the objective itself is not differentiated again. Only an
energy that reads the gradient pays one Hessian-vector product.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._objective.oracle import Oracle, reads
from .._tree import vdot


def automatic_dissipation(flow, t: Array, state, oracle: Oracle) -> Array:
    """dV/dt of `flow` at `(t, state)`.

    **Arguments:** `flow`: an `AbstractFlow`; `t`: the time, a scalar; `state`: the flow's `State`; `oracle`: the
    objective at `state.position`.

    **Returns:** a scalar of the energy's dtype.
    """
    field = flow.vector_field(t, state, oracle)
    field = jax.tree.map(lambda tangent, leaf: tangent.astype(leaf.dtype), field, state)
    asked = reads(flow.energy, t, state, oracle.value)
    value_rate = vdot(oracle.gradient, field.position).astype(oracle.value.dtype)
    gradient = oracle.gradient if "gradient" in asked else None
    gradient_rate = oracle.hvp(field.position) if "gradient" in asked else None

    def energy(t, state, value, gradient):
        return flow.energy(t, state, oracle.with_inputs(state.position, value, gradient))

    primals = (t, state, oracle.value, gradient)
    tangents = (jnp.ones_like(t), field, value_rate, gradient_rate)
    return jax.jvp(energy, primals, tangents)[1]
