"""One step of length h of a flow."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle

if TYPE_CHECKING:
    from .._controller.base import AbstractController

# Where the loss does not resolve the steps and the gradient norm has met no new low for so many trials, rounding has
# the last word. Gradients at the rounding level pass the test by chance two times out of three, so that the bound on
# consecutive rejections is never met there; an inertial flow may need some hundred trials for one oscillation.
FLOOR_TRIALS = 1000


@dataclass
class Trial:
    """What a scheme hands back. It lives in one trace only and is no pytree.

    **Attributes:**

    - `state`: the state after the step.
    - `oracle`: the objective at its position; already evaluated where the scheme needed it.
    - `error`: a function that gives the local error estimate as a `State`; `None` where the scheme has none.
    - `quadrature`: a function that gives the mean of dV/dt over the stages, with the scheme's own weights; `None`
        where the scheme has none. (Functions, because neither is computed unless somebody asks.)
    - `elapsed`: the flow time that has passed, where it is not the step size (relaxation methods).
    - `learnt`: what the scheme knows now, in the structure that `AbstractScheme.init` gave; kept whether the step is
        accepted or not.
    """

    state: State
    oracle: Oracle
    error: Callable[[], State] | None = None
    quadrature: Callable[[], Array] | None = None
    elapsed: Array | None = None
    learnt: PyTree = None


class AbstractScheme(eqx.Module):
    """A one-step method.

    **Class attributes:** `order`: of convergence on smooth flows; `gradients_per_step`: how many gradients an
    accepted step costs, the one at the current point included; `floor_trials`: after how many trials that only
    gradients could decide, without a new low of their norm, a run ends with `rounding_floor_reached`.

    !!! example

        ```python
        from typing import ClassVar


        class MyMidpoint(odeopt.AbstractScheme):  # for flows without memory
            order: ClassVar[int] = 2
            gradients_per_step: ClassVar[int] = 2

            def step(self, flow, t, step_size, state, oracle, learnt=None):
                here = flow.vector_field(t, state, oracle).position
                middle = jax.tree.map(lambda x, v: x + 0.5 * step_size * v, state.position, here)
                there = flow.vector_field(t + 0.5 * step_size, odeopt.State(middle), oracle.at(middle)).position
                end = jax.tree.map(lambda x, v: x + step_size * v, state.position, there)
                return odeopt.Trial(odeopt.State(end), oracle.at(end))


        solver = odeopt.Solver(odeopt.GradientFlow(), MyMidpoint())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    if TYPE_CHECKING:
        # Type checkers take abstract variables for fields that every constructor asks for.
        @property
        def order(self) -> int: ...
        @property
        def gradients_per_step(self) -> int: ...
    else:
        order: eqx.AbstractClassVar[int]
        gradients_per_step: eqx.AbstractClassVar[int]
    has_quadrature: ClassVar[bool] = False
    floor_trials: ClassVar[int] = FLOOR_TRIALS

    @property
    def has_error(self) -> bool:
        """Whether its trials bring an estimate of the local error."""
        return False

    @property
    def error_order(self) -> int:
        """The power of the step size that the error estimate is proportional to."""
        return self.order

    def check(self, flow: AbstractFlow) -> None:
        """Whether the scheme can step this flow; asked when a `Solver` is made.

        **Raises:** `ValueError` that says what the flow lacks.
        """
        return

    def check_controller(self, controller: "AbstractController") -> None:
        """Whether the scheme can be driven by this controller; asked when a `Solver` is made.

        **Raises:** `ValueError` that says what does not go together.
        """
        return

    def recommended_controller(self) -> "AbstractController | None":
        """The controller that a solver takes where the user names none; `None` (default): that of the flow."""
        return None

    def init(self, flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> PyTree:
        """What the scheme learns from step to step (the spectral radius, say), before the first; `None` for most."""
        return None

    @abc.abstractmethod
    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        """One step from `(t, state)`; `oracle` holds the objective at `state.position`, evaluated already.

        `learnt`: from earlier trials, or `None` for a step on its own.
        """
