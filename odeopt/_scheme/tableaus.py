"""The ready-made explicit Runge-Kutta schemes."""

import diffrax
import numpy as np

from .explicit_rk import ExplicitRK


class Euler(ExplicitRK):
    """Explicit Euler, order 1, one gradient a step: gradient flow becomes gradient descent.

    A flow that starts at rest (heavy ball) raises its energy at every step size: use a semi-implicit scheme there.
    """

    def __init__(self):
        # diffrax has no one-stage tableau, so the fields are filled in directly.
        self.nodes, self.coefficients, self.weights, self.error_weights, self.order = (), (), (1.0,), (0.0,), 1


class Heun(ExplicitRK):
    """Heun's method (explicit trapezoidal rule), order 2, two stages, with an embedded Euler estimate."""

    def __init__(self):
        super().__init__(diffrax.Heun.tableau, order=2)


class Midpoint(ExplicitRK):
    """The explicit midpoint rule (modified Euler), order 2, two stages."""

    def __init__(self):
        super().__init__(diffrax.Midpoint.tableau, order=2)


class Ralston(ExplicitRK):
    """Ralston's method, order 2, two stages, smallest error bound among them."""

    def __init__(self):
        super().__init__(diffrax.Ralston.tableau, order=2)


class Bosh3(ExplicitRK):
    """Bogacki and Shampine's 3(2) method, order 3, three gradients a step (first same as last)."""

    def __init__(self):
        super().__init__(diffrax.Bosh3.tableau, order=3)


class RK4(ExplicitRK):
    """The classical Runge-Kutta method, order 4, four stages, no error estimate."""

    def __init__(self):
        super().__init__(_RK4, order=4)


class Dopri5(ExplicitRK):
    """Dormand and Prince's 5(4) method, order 5, six gradients a step (first same as last); one weight is negative."""

    def __init__(self):
        super().__init__(diffrax.Dopri5.tableau, order=5)


class Tsit5(ExplicitRK):
    """Tsitouras' 5(4) method, order 5, six gradients a step (first same as last); one weight is negative."""

    def __init__(self):
        super().__init__(diffrax.Tsit5.tableau, order=5)


_RK4 = diffrax.ButcherTableau(
    c=np.array([0.5, 0.5, 1.0]),
    b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    b_error=np.zeros(4),
    a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
)
