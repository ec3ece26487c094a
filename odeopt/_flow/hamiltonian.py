r"""Hamiltonian descent: a mechanical system with friction and a kinetic energy of one's choice.

\[ x' = \nabla k(p), \quad p' = -\nabla f(x) - \gamma p, \qquad V = f(x) + k(p), \qquad
   V' = -\gamma\, \langle \nabla k(p), p \rangle \le -\gamma\, k(p), \]

for any \(f\), \(\gamma \ge 0\), and \(k\) convex with the minimum \(k(0) = 0\).

(Maddison, Paulin, Teh, O'Donoghue, Doucet, 2018, Hamiltonian descent methods.)
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, Damping, State
from .damping import constant_damping
from .inertia import check_not_negative


class AbstractHamiltonianDescent(AbstractFlow):
    """Mechanical flows with constant friction, told apart by their kinetic energy."""

    @abc.abstractmethod
    def kinetic_energy(self, t: Array, state: State) -> Array:
        r"""\(k(p)\) of the memory \(p\)."""

    @abc.abstractmethod
    def velocity(self, momentum: PyTree) -> PyTree:
        r"""\(\nabla k(p)\)."""

    @abc.abstractmethod
    def constant_friction(self) -> Array:
        r"""\(\gamma\) of the calibrated flow."""

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        friction = self.constant_friction()
        force = jax.tree.map(lambda p, g: -friction * p - g, state.memory, oracle.gradient)
        return State(self.velocity(state.memory), force)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return -self.constant_friction() * vdot(self.velocity(state.memory), state.memory)

    def damping(self, t: Array, step_size: Array) -> Damping:
        return constant_damping(self.constant_friction(), step_size)

    def decay(self, t: Array, state: State) -> PyTree:
        return self.constant_friction()

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()


class HamiltonianDescent(AbstractHamiltonianDescent):
    r"""Descent with any convex kinetic energy.

    \[ x' = \nabla k(p), \quad p' = -\nabla f(x) - \gamma p, \qquad V = f(x) + k(p), \qquad
       V' = -\gamma\, \langle \nabla k(p), p \rangle \]

    Where \(f\) grows like \(|x|^b\), \(k\) like \(|p|^a\) with \(1/a + 1/b = 1\) makes its decay exponential.

    **Arguments:**

    - `kinetic`: \(k\), a function of the momentum, in the structure of the parameters, that returns a scalar;
        differentiable with JAX, convex, with the minimum \(k(0) = 0\). It cannot be checked here that it is: where it
        is not, the energy may rise, and `odeopt.audit_energy` shows where.
    - `friction`: \(\gamma \ge 0\), per unit of time.

    Unit of time: \([x]\,[p] / [f]\), as \(k\) has the unit of \(f\): it is the kinetic energy that sets all scales, and
    so there is nothing to calibrate. **Raises:** `TypeError` if `kinetic` is no function, `ValueError` if the friction
    is negative or not finite. Source: Maddison et al. (2018).

    !!! example

        ```python
        kinetic = lambda p: 0.75 * jnp.sum(jnp.abs(p) ** (4 / 3))
        solver = odeopt.Solver(odeopt.HamiltonianDescent(kinetic, friction=1.0))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4) / 4, solver, jnp.ones(2))
        ```
    """

    kinetic: Callable[[PyTree], Array] = eqx.field(static=True)
    friction: Array = eqx.field(converter=hyperparameter)

    def __check_init__(self):
        if not callable(self.kinetic):
            raise TypeError(
                f"HamiltonianDescent(kinetic={self.kinetic!r}): expected a function of the momentum, such as "
                "lambda p: 0.5 * jnp.sum(p**2)."
            )
        check_not_negative(self, "friction")

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return self.kinetic(state.memory)

    def velocity(self, momentum: PyTree) -> PyTree:
        return jax.grad(self.kinetic)(momentum)

    def constant_friction(self) -> Array:
        return self.friction
