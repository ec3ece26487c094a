"""A state at which a declaration is wrong, in as few digits as show it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._flow.base import State
from .points import Points
from .rates import Rates, part_names, rates
from .terrain import AbstractTerrain, system_on

# A state of more numbers is shown as it was found: nobody reads it, and rounding each would take long.
READABLE = 64
# How much of the violation must be left when numbers are rounded.
KEPT = 0.5
# Digits are tried in this order; float64 has no more.
DIGITS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class CounterExample:
    """A state at which a declaration is wrong.

    **Attributes:** `t`; `state`: NumPy arrays; `value`, `gradient`: of the objective there; `rate`: dV/dt; `declared`:
    what the flow says dV/dt is; `contributions`: to dV/dt, by name; `expected`: what should hold; `objective`: any, or
    the one on which the state was found.
    """

    t: float
    state: State
    value: float
    gradient: PyTree
    rate: float
    declared: float
    contributions: dict[str, float]
    expected: str
    objective: str

    def __str__(self) -> str:
        rows = {
            "t": f"{self.t:.16g}",
            "position": _shown(self.state.position),
            "memory": _shown(self.state.memory),
            "objective": self.objective,
            "f(x)": f"{self.value:.6g}",
            "grad f(x)": _shown(self.gradient),
            "expected": self.expected,
            "dV/dt": f"{self.rate:.6g}",
            **({} if self.rate == self.declared else {"declared": f"{self.declared:.6g}"}),
            **{f"  from {name}": f"{part:.6g}" for name, part in self.contributions.items() if part != 0},
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {row}" for name, row in rows.items())


class _OnPlane(eqx.Module):
    """A state on an objective of which only the value and the gradient are known."""

    t: Any
    state: State
    value: Any
    gradient: PyTree
    terrain: AbstractTerrain

    def rates(self, flow) -> Rates:
        plane = self.terrain.plane(self.state.position, self.value, self.gradient)
        return rates(system_on(flow, plane, self.state), self.t, self.state)


class _OnTerrain(eqx.Module):
    """A state on an objective that curves."""

    t: Any
    state: State
    shift: Any
    terrain: AbstractTerrain
    index: Any

    def rates(self, flow) -> Rates:
        return rates(system_on(flow, self.terrain.moved(self.index, self.shift), self.state), self.t, self.state)


@eqx.filter_jit
def _rates_of(flow, example) -> Rates:
    return example.rates(flow)


@eqx.filter_jit
def _gradient(terrain: AbstractTerrain, point: Points) -> tuple[PyTree, jax.Array]:
    oracle = point.system(terrain).oracle(point.state.position)
    return oracle.gradient, oracle.value


def counterexample(
    terrain: AbstractTerrain, point: Points, found: Rates, violation: Callable[[Rates], Any], expected: str
) -> CounterExample:
    """A state at which a declaration is wrong, with its numbers rounded for as long as it stays one.

    **Arguments:** `point`, `found`: the state, and what was found there; `violation`: how wrong the declaration is,
    relative; `expected`: what should have held.
    """
    gradient, value = _gradient(terrain, point)
    example: _OnPlane | _OnTerrain = _OnPlane(point.t, point.state, value, gradient, terrain)
    objective = "any with this value and gradient at x"
    threshold = KEPT * float(violation(found))
    if not float(violation(_rates_of(point.flow, example))) >= threshold:
        example = _OnTerrain(point.t, point.state, point.shift, terrain, point.index)
        objective = terrain.names[int(point.index)]
    example = _rounded(example, lambda trial: float(violation(_rates_of(point.flow, trial))) >= threshold)
    found = jax.tree.map(np.asarray, _rates_of(point.flow, example))
    if isinstance(example, _OnTerrain):
        moved = eqx.tree_at(lambda p: (p.t, p.state, p.shift), point, (example.t, example.state, example.shift))
        gradient, value = _gradient(terrain, moved)
    else:
        gradient, value = example.gradient, example.value
    return CounterExample(
        t=float(example.t),
        state=jax.tree.map(np.asarray, example.state),
        value=float(value),
        gradient=jax.tree.map(np.asarray, gradient),
        rate=float(found.rate),
        declared=float(found.declared),
        contributions=dict(zip(part_names(example.state), map(float, found.parts), strict=True)),
        expected=expected,
        objective=objective,
    )


def _rounded(example, still_wrong: Callable[[Any], bool]):
    """The numbers of an example one after the other: zero or one if that will do, otherwise with the fewest digits."""
    is_number = lambda leaf: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    numbers, rest = eqx.partition(example, is_number)
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda leaf: np.array(leaf, float), numbers))
    if sum(leaf.size for leaf in leaves) > READABLE:
        return example

    def trial():
        return eqx.combine(jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves]), rest)

    # Twice: what one number can be depends on those behind it.
    for leaf in 2 * leaves:
        for place in np.ndindex(leaf.shape):
            exact = float(leaf[place])
            for candidate in (0.0, np.sign(exact), *(float(f"{exact:.{digits - 1}e}") for digits in DIGITS), exact):
                leaf[place] = candidate
                if still_wrong(trial()):
                    break
    return trial()


def _shown(tree: PyTree) -> str:
    """A state as one would write it down, or its structure where it is long."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return "none"
    if sum(np.size(leaf) for leaf in leaves) > READABLE:
        return (
            f"{sum(np.size(leaf) for leaf in leaves)} numbers, the largest {max(np.max(np.abs(x)) for x in leaves):.3g}"
        )
    return "; ".join(np.array2string(np.asarray(leaf), precision=6, separator=", ") for leaf in leaves)
