"""The ready-made explicit Runge-Kutta schemes."""

import diffrax
import jax
import numpy as np
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .base import Trial
from .explicit_rk import ExplicitRK


class Euler(ExplicitRK):
    r"""Explicit Euler, order 1, one gradient a step: gradient flow becomes gradient descent.

    A flow that starts at rest (heavy ball) raises its energy at every step size: use a semi-implicit scheme there.
    The error estimate \(\tfrac h2 (F(t + h, y^+) - F(t, y))\) reads the gradient at the end of the step, which the next
    step needs anyway: it is free where the step is accepted.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        # diffrax has no one-stage tableau, so the fields are filled in directly.
        self.nodes, self.coefficients, self.weights, self.error_weights, self.order = (), (), (1.0,), (0.0,), 1

    @property
    def has_error(self) -> bool:
        return True

    @property
    def error_order(self) -> int:
        return 2

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        trial = super().step(flow, t, step_size, state, oracle)

        def error() -> State:
            before = flow.vector_field(t, state, oracle)
            after = flow.vector_field(t + step_size, trial.state, trial.oracle)
            return jax.tree.map(lambda new, old: 0.5 * step_size * (new - old), after, before)

        return Trial(trial.state, trial.oracle, error, trial.quadrature)


class Heun(ExplicitRK):
    """Heun's method (explicit trapezoidal rule), order 2, two stages, with an embedded Euler estimate.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Heun())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(diffrax.Heun.tableau, order=2)


class Midpoint(ExplicitRK):
    """The explicit midpoint rule (modified Euler), order 2, two stages.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Midpoint())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(diffrax.Midpoint.tableau, order=2)


class Ralston(ExplicitRK):
    """Ralston's method, order 2, two stages, smallest error bound among them.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Ralston())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(diffrax.Ralston.tableau, order=2)


class Bosh3(ExplicitRK):
    """Bogacki and Shampine's 3(2) method, order 3, three gradients a step (first same as last).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Bosh3())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(diffrax.Bosh3.tableau, order=3)


class SSPRK33(ExplicitRK):
    """Shu and Osher's strong-stability-preserving method, order 3, three stages, with an embedded Heun estimate.

    A convex combination of explicit Euler steps of the same length: whatever convex function of the state those do not
    raise, the whole step does not raise either. (Shu and Osher, 1988, Efficient implementation of essentially
    non-oscillatory shock-capturing schemes; Gottlieb, Shu, Tadmor, 2001, Strong stability-preserving high-order time
    discretization methods.)

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.SSPRK33())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(_SSPRK33, order=3)


class RK4(ExplicitRK):
    """The classical Runge-Kutta method, order 4, four stages, no error estimate.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.RK4())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(_RK4, order=4)


class Dopri5(ExplicitRK):
    """Dormand and Prince's 5(4) method, order 5, six gradients a step (first same as last); one weight is negative.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Dopri5())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(diffrax.Dopri5.tableau, order=5)


class Tsit5(ExplicitRK):
    """Tsitouras' 5(4) method, order 5, six gradients a step (first same as last); one weight is negative.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Tsit5())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(diffrax.Tsit5.tableau, order=5)


_RK4 = diffrax.ButcherTableau(
    c=np.array([0.5, 0.5, 1.0]),
    b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    b_error=np.zeros(4),
    a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
)

# The first two stages are those of Heun's method, whose weights are a half each.
_SSPRK33 = diffrax.ButcherTableau(
    c=np.array([1.0, 0.5]),
    b_sol=np.array([1 / 6, 1 / 6, 2 / 3]),
    b_error=np.array([1 / 6 - 1 / 2, 1 / 6 - 1 / 2, 2 / 3]),
    a_lower=(np.array([1.0]), np.array([0.25, 0.25])),
)
