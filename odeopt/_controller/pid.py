r"""Step sizes from errors: the controllers of Gustafsson and Söderlind.

\[ h^+ = h \operatorname{clip}\big( s\, e_n^{-\beta_1/k}\, e_{n-1}^{-\beta_2/k}\, e_{n-2}^{-\beta_3/k} \big), \]

\(e\) in units of the tolerance and \(O(h^k)\). In terms of the integral, proportional and derivative coefficients, in
the conventions of diffrax, \(\beta_1 = I + P + D\), \(\beta_2 = -(P + 2 D)\), \(\beta_3 = D\). (Gustafsson, 1991,
Control theoretic techniques for stepsize selection in explicit Runge-Kutta methods; Söderlind, 2003, Digital filters in
adaptive time-stepping.)
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter

# An error that is zero, or nearly, says no more than that the largest growth is allowed; its powers must stay numbers
# in float32.
SMALLEST_ERROR = 1e-10


class PID(eqx.Module):
    r"""Coefficients and bounds of a step size controller.

    **Arguments:**

    - `integral`, `proportional`, `derivative`: as `icoeff`, `pcoeff`, `dcoeff` of `diffrax.PIDController`. `(1, 0, 0)`
        is the deadbeat controller, `(0.4, 0.2, 0)` PI4.2: smooth where stability limits the step, as it does near a
        minimum.
    - `safety`: \(s\), below 1.
    - `shrink`, `grow`: the largest factors by which a step is shortened and lengthened; > 1.

    **Raises:** `ValueError` for a parameter out of range.

    !!! example

        ```python
        odeopt.AdaptiveControl(pid=odeopt.PID(integral=1.0, proportional=0.0))
        ```
    """

    integral: Array = eqx.field(converter=hyperparameter, default=0.4)
    proportional: Array = eqx.field(converter=hyperparameter, default=0.2)
    derivative: Array = eqx.field(converter=hyperparameter, default=0.0)
    # Hairer, Nørsett and Wanner, 1993, II.4, for these three: the error of the next step is known to a few per cent.
    safety: Array = eqx.field(converter=hyperparameter, default=0.9)
    shrink: Array = eqx.field(converter=hyperparameter, default=5.0)
    grow: Array = eqx.field(converter=hyperparameter, default=5.0)

    def __check_init__(self):
        ranges = {
            "integral": (lambda x: x > 0, "integral > 0"),
            "proportional": (lambda x: abs(x) < float("inf"), "a finite number"),
            "derivative": (lambda x: abs(x) < float("inf"), "a finite number"),
            "safety": (lambda x: 0 < x <= 1, "0 < safety <= 1"),
            "shrink": (lambda x: 1 < x < float("inf"), "shrink > 1"),
            "grow": (lambda x: 1 < x < float("inf"), "grow > 1"),
        }
        for name, (valid, expected) in ranges.items():
            value = getattr(self, name)
            if concrete(value) and not valid(float(value)):
                raise ValueError(f"PID({name}={float(value)}): expected {expected}.")

    def factor(self, error: Array, history: "Errors", order: float | int) -> Array:
        """By how much the step that had this error is to be lengthened.

        **Arguments:** `error`: in units of the tolerance, a scalar; `history`: of the accepted steps before; `order`:
        the power of the step size that the error is proportional to.
        """
        betas = (
            self.integral + self.proportional + self.derivative,
            -(self.proportional + 2 * self.derivative),
            self.derivative,
        )
        errors = (jnp.maximum(error, SMALLEST_ERROR), history.last, history.before_last)
        exponents = sum(beta * jnp.log(e) for beta, e in zip(betas, errors, strict=True)) / order
        return jnp.clip(self.safety * jnp.exp(-exponents), 1 / self.shrink, self.grow).astype(error.dtype)


class Errors(eqx.Module):
    """The errors of the last two accepted steps, in units of the tolerance."""

    last: Array
    before_last: Array

    @staticmethod
    def none(like: Array) -> "Errors":
        """Before the first step: as if the tolerance had been met exactly."""
        return Errors(jnp.ones_like(like), jnp.ones_like(like))

    def after(self, error: Array, accepted: Array) -> "Errors":
        """With one more step, if it was accepted: what a rejected one tells is used at once and forgotten."""
        return Errors(
            jnp.where(accepted, jnp.maximum(error, SMALLEST_ERROR), self.last),
            jnp.where(accepted, self.last, self.before_last),
        )
