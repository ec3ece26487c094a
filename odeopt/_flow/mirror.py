r"""Mirror flow: gradient flow of the dual variables of a convex potential.

\[ \frac{d}{dt} \nabla\phi(x) = -g, \quad\text{that is}\quad x' = -\big(\nabla^2\phi(x)\big)^{-1} g, \qquad
   V = f(x), \qquad V' = -\langle g, (\nabla^2\phi(x))^{-1} g \rangle, \qquad g = \nabla f(x), \]

for any \(f\) and strictly convex \(\phi\). (Nemirovski and Yudin, 1983, Problem complexity and method efficiency in
optimization; Alvarez, Bolte, Brahic, 2004, Hessian Riemannian gradient flows in convex programming.)
"""

import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .base import State
from .metric import AbstractMetricFlow
from .potentials import AbstractPotential


class MirrorFlow(AbstractMetricFlow):
    r"""Gradient flow in the metric of a potential; with the scheme `MirrorEuler` it is mirror descent.

    \[ x' = -\big(\nabla^2\phi(x)\big)^{-1} g, \qquad V = f, \qquad V' = -\langle g, (\nabla^2\phi(x))^{-1} g \rangle \]

    The state is the position alone; its dual variables are \(\nabla\phi(x)\). The flow never leaves the domain of the
    potential, and neither does `MirrorEuler`. For steps of other schemes that do, the energy is infinite there: step
    control rejects them. A solution may lie on the boundary, where the gradient does not vanish: `stationarity` is the
    norm of the velocity \(x'\).

    **Arguments:**

    - `potential`: an `AbstractPotential`: `Entropy()` (positive parameters), `SimplexEntropy()` (probabilities),
        `HyperbolicEntropy(scale)`, `PNorm(power)`, or one of your own.

    Unit of time: \([\phi] / [f]\). **Raises:** `TypeError` if `potential` is none. Source: Nemirovski and Yudin (1983),
    Alvarez, Bolte and Brahic (2004).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.Entropy()))
        solution = odeopt.minimise(lambda x, _: jnp.sum((x - 2) ** 2), solver, jnp.ones(2))
        ```
    """

    potential: AbstractPotential

    def __check_init__(self):
        if not isinstance(self.potential, AbstractPotential):
            given = self.potential
            hint = f" Did you mean {given.__name__}()?" if isinstance(given, type) else ""
            raise TypeError(f"MirrorFlow(potential=...): expected an odeopt.AbstractPotential, got {given!r}.{hint}")

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        return self.potential.inverse_hessian_product(state.position, covector)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + jnp.where(self.potential.contains(state.position), 0.0, jnp.inf)

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        return norm(self.vector_field(t, state, oracle).position)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.mirror import MirrorEuler

        return MirrorEuler(), LyapunovControl()
