r"""What schemes for mechanical flows ask of them.

\[ x' = \nabla k(p), \qquad p' = -\nabla f(x) - \gamma(t)\,p. \]
"""

from jaxtyping import Array

from .._flow.base import AbstractFlow, Damping
from .base import AbstractScheme


def check_mechanical(scheme: AbstractScheme, flow: AbstractFlow) -> None:
    """**Raises:** `ValueError` if the flow does not declare that it is mechanical."""
    if not flow.declares("damping"):
        raise ValueError(_refusal(type(scheme).__name__, flow))


def damping_of(flow: AbstractFlow, t: Array, step_size: Array) -> Damping:
    """What the friction of a mechanical flow does over a step.

    **Raises:** `ValueError` if there is none.
    """
    damping = flow.damping(t, step_size)
    if damping is None:
        raise ValueError(_refusal("This scheme", flow))
    return damping


def _refusal(scheme: str, flow: AbstractFlow) -> str:
    return (
        f"{scheme} needs a mechanical flow: the memory is the momentum p, with x' = grad k(p) and p' = -grad f(x) - "
        f"gamma(t) p. {type(flow).__name__} does not say that it is one: it declares no damping(t, step_size). Define "
        "that where the flow has this form, or take a scheme for any flow, such as Heun or SemiImplicitEuler."
    )
