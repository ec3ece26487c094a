r"""The port form of a flow, \(y' = A(t, y)\,\nabla V(y)\), and the gradient of its energy in all of the state."""

import jax
from jaxtyping import Array

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle, Tally
from .base import AbstractScheme


def check_port_form(scheme: AbstractScheme, flow: AbstractFlow) -> None:
    """**Raises:** `ValueError` if the flow does not declare its port form."""
    if not flow.declares("structure"):
        raise ValueError(_refusal(scheme, flow))


def port_form(
    scheme: AbstractScheme, flow: AbstractFlow, t: Array, state: State, oracle: Oracle, covector: State
) -> State:
    r"""\(A(t, y)\,w\).

    **Raises:** `ValueError` if the flow states none.
    """
    product = flow.structure(t, state, oracle, covector)
    if product is None:
        raise ValueError(_refusal(scheme, flow))
    return product


def energy_gradient(flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> State:
    r"""\(\nabla V\), in the structure of the state.

    Its passes over the objective are counted in the books of `oracle`, as those of the energy and as many backwards.
    """
    tally = Tally()

    def energy(state: State) -> Array:
        return flow.energy(t, state, oracle.fork(tally).at(state.position))

    gradient = jax.grad(energy)(state)
    passes = tally.values + tally.gradients
    oracle.count(passes, passes)
    return gradient


def _refusal(scheme: AbstractScheme, flow: AbstractFlow) -> str:
    name = type(scheme).__name__
    return (
        f"{name} needs the port form y' = A(y) grad V(y), and {type(flow).__name__} does not state it: it declares no "
        "structure(t, state, oracle, covector). Define that where the flow has this form, or take a scheme for any "
        "flow, such as Heun or LinearlyImplicitEuler."
    )
