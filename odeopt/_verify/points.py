# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# NumPy and JAX arrays alike are handed around here.
"""States with an objective under each: where a declaration is judged."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._flow.base import AbstractFlow, State
from .rates import Numbers, Rates, rates
from .system import System
from .terrain import AbstractTerrain, system_on


class Points(eqx.Module):
    """Many states; every array has the leading axis `(n,)`, those of the calibrated flow too.

    **Attributes:** `flow`; `t`; `state`; `index`, `shift`: of the objective of a terrain under the state.
    """

    flow: AbstractFlow
    t: Numbers
    state: State
    index: Numbers
    shift: Numbers

    def system(self, terrain: AbstractTerrain) -> System:
        """What holds at one point."""
        return system_on(self.flow, terrain.moved(self.index, self.shift), self.state)


def at(tree: PyTree, chosen) -> PyTree:
    """Some of the points, or one; likewise of whatever is along them."""
    return jax.tree.map(lambda leaf: leaf[chosen] if eqx.is_array(leaf) else leaf, tree)


def joined(first: PyTree, second: PyTree) -> PyTree:
    """Two sets of points of the same kind, one behind the other."""
    return jax.tree.map(
        lambda a, b: np.concatenate([a, b]) if eqx.is_array(a) else a,
        first,
        second,
    )


def rates_at(terrain: AbstractTerrain, points: Points) -> Rates:
    """What is found at every point, as NumPy arrays."""
    return jax.tree.map(np.asarray, _rates_at(terrain, points))


@eqx.filter_jit
def _rates_at(terrain: AbstractTerrain, points: Points) -> Rates:
    return eqx.filter_vmap(lambda point: rates(point.system(terrain), point.t, point.state))(points)
