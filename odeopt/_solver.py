"""A solver: flow, scheme and controller."""

import diffrax
import equinox as eqx
import optax

from ._controller.base import AbstractController
from ._flow.adam import Adam
from ._flow.base import AbstractFlow
from ._scheme.base import AbstractScheme


class Solver(eqx.Module):
    """A flow with the scheme that integrates it and the controller that chooses the steps.

    **Arguments:**

    - `flow`: an `AbstractFlow`; `None` (default) is `Adam()`, which has the smallest mean cost on the problems that all
        flows are compared on.
    - `scheme`, `controller`: `None` takes what the flow recommends; a scheme whose step size means something of its own
        (a damping) comes with a controller.

    **Raises:** `TypeError` if an argument is of another kind, `ValueError` if the scheme cannot step the flow, or the
    controller asks for what the scheme does not have (a stage quadrature, an error estimate).

    !!! example

        ```python
        odeopt.Solver(odeopt.HeavyBall(friction=1.0), odeopt.Heun(), odeopt.LyapunovControl(rate="quadrature"))
        ```
    """

    flow: AbstractFlow
    scheme: AbstractScheme
    controller: AbstractController

    def __init__(
        self,
        flow: AbstractFlow | None = None,
        scheme: AbstractScheme | None = None,
        controller: AbstractController | None = None,
    ):
        flow = Adam() if flow is None else flow
        _expect("flow", flow, AbstractFlow)
        recommended_scheme, recommended_controller = flow.recommended()
        scheme = recommended_scheme if scheme is None else scheme
        _expect("scheme", scheme, AbstractScheme)
        if controller is None:
            controller = scheme.recommended_controller() or recommended_controller
        _expect("controller", controller, AbstractController)
        self.flow = flow
        self.scheme = scheme
        self.controller = controller
        scheme.check(flow)
        scheme.check_controller(controller)
        if controller.tolerance is not None and not scheme.has_error:
            raise ValueError(
                f"{type(controller).__name__} needs a scheme with an error estimate; {type(scheme).__name__} has none. "
                "Use Euler, Heun, Bosh3, Dopri5 or Tsit5, or a controller that looks at the energy alone."
            )
        if controller.rate == "quadrature" and not scheme.has_quadrature:
            raise ValueError(
                f"{type(controller).__name__}(rate='quadrature') needs the rate at the stages of a step; "
                f"{type(scheme).__name__} does not give it. Use a Runge-Kutta scheme with weights, such as Heun or "
                "Bosh3, or rate='start'."
            )


def _expect(name: str, given, kind: type):
    if not isinstance(given, kind):
        hint = f" Did you mean {given.__name__}()?" if isinstance(given, type) else ""
        if isinstance(given, AbstractScheme):
            hint = f" A scheme comes second: Solver(odeopt.GradientFlow(), odeopt.{type(given).__name__}(...))."
        if isinstance(given, AbstractController):
            hint = f" A controller is given by name: controller={type(given).__name__}(...)."
        if isinstance(given, optax.GradientTransformation):
            hint = " This is an optimizer of optax, which is no part of a solver; odeopt.equivalence compares with one."
        if isinstance(given, diffrax.AbstractSolver):
            hint = f" Write odeopt.from_diffrax(diffrax.{type(given).__name__}())."
        # A module prints all its fields.
        got = f"{type(given).__name__}(...)" if isinstance(given, eqx.Module) else repr(given)
        raise TypeError(f"Solver({name}=...): expected an odeopt.{kind.__name__}, got {got}.{hint}")
