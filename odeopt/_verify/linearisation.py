r"""One step of a scheme on \(f(x) = L x^2 / 2\), linearised at the equilibrium: the amplification matrix.

\[ M(h, L) = \frac{\partial (x^+, m^+)}{\partial (x, m)} \Big|_{x = 0}, \qquad y_{k+1} - y^* \approx M (y_k - y^*), \]

exact where the flow is linear in position, memory and gradient. On \(f = \tfrac12 x^\top H x\) such a flow falls apart
into these scalar problems, one for each eigenvalue of \(H\), as long as it treats all parameters alike.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._check import restated
from .._flow.base import AbstractFlow, State
from .._objective import AbstractObjective, Oracle, Tally
from .._scheme.base import AbstractScheme
from .._tree import cast_floating

# Rates at the equilibrium that are zero but for rounding, relative to the memory.
AT_REST = 1e-12
# Derivatives of a linear flow at two places differ by rounding only.
LINEAR = 1e-9


class Parabola(AbstractObjective):
    r"""\(L |x|^2 / 2\)."""

    curvature: Array

    @property
    def evaluation(self) -> str:
        return "linearised"

    def value(self, parameters: PyTree) -> Array:
        return 0.5 * self.curvature * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(parameters))

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return None


class Held(AbstractFlow):
    """A flow part of whose memory is held constant, and is no part of the state any more.

    **Attributes:** `flow`; `held`: the memory with `None` for what still moves.
    """

    flow: AbstractFlow
    held: PyTree

    def init(self, params: PyTree) -> State:
        full = self.flow.init(params)
        return State(full.position, self._moving(full.memory))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        rates = self.flow.vector_field(t, self._full(state), oracle)
        return State(rates.position, self._moving(rates.memory))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return self.flow.energy(t, self._full(state), oracle)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return self.flow.dissipation(t, self._full(state), oracle)

    def decay(self, t: Array, state: State) -> PyTree:
        full = self._full(state)
        rates = self.flow.decay(t, full)
        if rates is None:
            return None
        spread = jax.tree.map(
            lambda rate, memory: jax.tree.map(lambda _: rate, memory), rates, full.memory, is_leaf=lambda x: x is None
        )
        return self._moving(spread)

    def _full(self, state: State) -> State:
        return State(state.position, eqx.combine(state.memory, self.held))

    def _moving(self, memory: PyTree) -> PyTree:
        return jax.tree.map(
            lambda held, leaf: leaf if held is None else None, self.held, memory, is_leaf=lambda leaf: leaf is None
        )


class Linearisation(eqx.Module):
    r"""What is needed to write down the amplification matrix for any step size and curvature.

    **Attributes:** `flow` (its frozen memory held), `scheme`, `time`, and `memory` and position (`origin`, zero) at the
    equilibrium.
    """

    flow: AbstractFlow
    scheme: AbstractScheme
    time: Array
    memory: PyTree
    origin: Array

    def matrix(self, step_size: Array, curvature: Array) -> Array:
        """The amplification matrix, position first; shape `(k, k)` with `k - 1` numbers in the memory."""

        def step(state: State, oracle: Oracle) -> State:
            return self.scheme.step(self.flow, self.time, step_size, state, oracle).state

        return self._jacobian(step, curvature)

    def generator(self, curvature: Array) -> Array:
        """The matrix of the linearised flow itself."""
        return self._jacobian(lambda state, oracle: self.flow.vector_field(self.time, state, oracle), curvature)

    def exact(self, curvature: Array) -> Array:
        """Whether the flow is linear: its derivative is the same somewhere else."""
        moved = eqx.tree_at(
            lambda self: (self.origin, self.memory),
            self,
            (self.origin + 1, jax.tree.map(lambda leaf: leaf + 1, self.memory)),
        )
        here, there = self.generator(curvature), moved.generator(curvature)
        return jnp.all(jnp.abs(there - here) <= LINEAR * jnp.max(jnp.abs(here)))

    def rates(self) -> PyTree:
        """How fast the memory moves at the equilibrium; zero if it is one."""
        state = State(self.origin, self.memory)
        oracle = Oracle(Parabola(jnp.ones(())), state.position, Tally())
        return self.flow.vector_field(self.time, state, oracle).memory

    def _jacobian(self, function: Callable[[State, Oracle], State], curvature: Array) -> Array:
        flat, unravel = jax.flatten_util.ravel_pytree(State(self.origin, self.memory))

        def raveled(y: Array) -> Array:
            state = unravel(y)
            moved = function(state, Oracle(Parabola(curvature), state.position, Tally()))
            return jax.flatten_util.ravel_pytree(moved)[0]

        return jax.jacfwd(raveled)(flat)


def linearise(
    flow: AbstractFlow,
    scheme: AbstractScheme,
    memory: PyTree = None,
    frozen: Callable[[Any], Any] | None = None,
    time: float = 0.0,
) -> Linearisation:
    r"""The linearisation of a scheme on a flow at the equilibrium \(x = 0\); to be called in double precision.

    **Arguments:** as of `odeopt.stability`.

    **Raises:** `ValueError` if the flow does not rest there, is not calibrated, or has no derivative there.
    """
    flow = cast_floating(flow, jnp.float64)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), flow.init(jnp.zeros(())).memory)
    if memory is None:
        memory = start
    elif jax.tree.structure(memory) != jax.tree.structure(start):
        raise ValueError(
            f"memory has the structure {jax.tree.structure(memory)}; expected that of the memory of one scalar "
            f"parameter, {jax.tree.structure(start)}."
        )
    memory = jax.tree.map(lambda leaf, like: jnp.broadcast_to(jnp.asarray(leaf, like.dtype), like.shape), memory, start)
    if frozen is not None:
        flow, memory = hold(flow, memory, frozen)
    linearisation = Linearisation(flow, scheme, jnp.asarray(time, jnp.float64), memory, jnp.zeros(()))
    _check_rest(type(flow.flow if isinstance(flow, Held) else flow).__name__, linearisation)
    return linearisation


def hold(flow: AbstractFlow, memory: PyTree, frozen: Callable[[Any], Any]) -> tuple[Held, PyTree]:
    """The flow with the part of its memory held that `frozen` picks, and the memory that is left."""
    picked = frozen(memory)
    if not jax.tree.leaves(picked):
        raise ValueError("frozen(memory) picked no array: it gets the memory of the flow and returns a part of it.")
    # Marked by identity, as Equinox does in tree_at: equal arrays may stand in both parts.
    marks = {id(leaf) for leaf in jax.tree.leaves(picked)}
    held = jax.tree.map(lambda leaf: leaf if id(leaf) in marks else None, memory)
    moving = jax.tree.map(lambda leaf: None if id(leaf) in marks else leaf, memory)
    return Held(flow, held), moving


def _check_rest(name: str, linearisation: Linearisation) -> None:
    rates = np.concatenate([[0.0], *(np.ravel(leaf) for leaf in jax.tree.leaves(linearisation.rates()))])
    scale = max([1.0, *(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(linearisation.memory))])
    if np.max(np.abs(rates)) > AT_REST * scale:
        raise ValueError(
            f"{name} does not rest at x = 0 with this memory: the memory moves there at a rate of "
            f"{np.max(np.abs(rates)):.3g}. Give the memory of an equilibrium, or say which part of it is held "
            "constant (frozen=lambda memory: memory[1] for Adam's second moments, say)."
        )
    try:
        matrix = np.asarray(linearisation.generator(jnp.ones(())))
    except Exception as error:
        raise restated(error, f"{name} has no linearisation at x = 0") from error
    if not np.all(np.isfinite(matrix)):
        raise ValueError(
            f"{name} has no linearisation at x = 0: the derivative of its vector field is not finite there (a norm or "
            "a root at zero is the usual cause). Smooth it, as sqrt(v + e**2) smooths sqrt(v)."
        )
