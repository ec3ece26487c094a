"""Steps of a scheme from given states, judged as the controller would: in float64, outside of the loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._controller.base import AbstractController
from .._flow.base import State
from .._scheme.base import AbstractScheme
from .._snapshot import split_energy
from .._tree import vdot
from .system import System

EPS = float(np.finfo(np.float64).eps)
# Units of rounding that an energy may be wrong by: one for each operand, and some ten operations between the
# parameters and the value. Sums of many terms are added up pairwise and cost a unit for each factor of two.
OPERATIONS = 16
# So many steps are evaluated by one call, and so many of them side by side: every call has the same shape, so that all
# parts of an audit share one compilation, and a large model is not copied too often.
ROWS, SIDE_BY_SIDE = 64, 16


class Attempts(eqx.Module):
    """What is known of steps from given states; each attribute is a NumPy array of shape `(n,)`.

    **Attributes:**

    - `energy`, `size`, `loss_size`: where the step begins: V; the sum of the sizes of its terms and of the changes
        that one relative unit of the parameters makes; and the size of the objective's part in it alone.
    - `start`, `trial`, `quadrature`: the dissipation where the step begins, where it ends, and over its stages (NaN
        where the scheme has no quadrature).
    - `change`: V at the end less V at the beginning; `bound`: the largest that the controller keeps.
    - `elapsed`: the flow time that the step took: its length, but for relaxation methods.
    - `rounding`: what `change` may be wrong by, `OPERATIONS` units of rounding.
    - `finite`: whether the energy at the end is a number.
    """

    energy: Array | np.ndarray
    size: Array | np.ndarray
    loss_size: Array | np.ndarray
    start: Array | np.ndarray
    trial: Array | np.ndarray
    quadrature: Array | np.ndarray
    change: Array | np.ndarray
    bound: Array | np.ndarray
    elapsed: Array | np.ndarray
    rounding: Array | np.ndarray
    finite: Array | np.ndarray

    @property
    def passes(self) -> np.ndarray:
        """Whether a step passes the controller's test, beyond doubt of rounding."""
        return np.asarray(self.finite) & (self.change - self.bound < -np.asarray(self.rounding))


def attempt_all(
    system: System,
    scheme: AbstractScheme,
    controller: AbstractController,
    times: np.ndarray,
    states: State,
    step_sizes: np.ndarray,
) -> Attempts:
    """One step from each state; to be called in double precision.

    **Arguments:** `times`, `step_sizes`: shape `(n,)`; `states`: NumPy arrays with leading axis `n`.
    """
    count = len(times)
    parts = []
    for begin in range(0, count, ROWS):
        # The last rows are filled up with copies of the last state.
        rows = np.minimum(np.arange(begin, begin + ROWS), count - 1)
        chosen = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (times, states, step_sizes))
        parts.append(jax.tree.map(np.asarray, _attempt_rows(system, scheme, controller, chosen)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


@eqx.filter_jit
def _attempt_rows(system: System, scheme: AbstractScheme, controller: AbstractController, rows: PyTree) -> Attempts:
    return jax.lax.map(lambda row: _attempt(system, scheme, controller, *row), rows, batch_size=SIDE_BY_SIDE)


def _attempt(
    system: System, scheme: AbstractScheme, controller: AbstractController, t: Array, state: State, step_size: Array
) -> Attempts:
    flow, oracle = system.flow, system.oracle(state.position)
    step = scheme.step(flow, t, step_size, state, oracle)
    elapsed = step_size if step.elapsed is None else step.elapsed
    end = t + elapsed
    energy, size, loss_size = _energy(system, t, state, oracle)
    energy_there, size_there, _ = _energy(system, end, step.state, step.oracle)
    rates = {
        "start": flow.dissipation(t, state, oracle),
        "trial": flow.dissipation(end, step.state, step.oracle),
        "quadrature": jnp.asarray(jnp.nan) if step.quadrature is None else step.quadrature(),
    }
    return Attempts(
        energy=energy,
        size=size,
        loss_size=loss_size,
        **rates,
        change=energy_there - energy,
        bound=controller.bound(controller.init(step_size), step_size, rates[controller.rate]),
        elapsed=elapsed,
        rounding=OPERATIONS * EPS * (size + size_there),
        finite=jnp.isfinite(energy_there),
    )


def _energy(system: System, t: Array, state: State, oracle) -> tuple[Array, Array, Array]:
    """The energy, the size of what it is the sum of, and of the objective's part in it."""
    energy = system.flow.energy(t, state, oracle)
    split = split_energy(system.flow, t, state, oracle, jnp.float64)
    # The parameters are rounded, and their energy with them.
    moved = vdot(jax.tree.map(jnp.abs, oracle.gradient), jax.tree.map(jnp.abs, state.position))
    loss_size = jnp.abs(split.scaled(oracle.value))
    return energy, loss_size + jnp.abs(split.rest) + jnp.abs(split.scaled(moved)), loss_size
