r"""Rescaled gradient flows: the path of gradient flow, run through at another speed.

\[ x' = -\frac{g}{|g|^{(p-2)/(p-1)}}, \qquad V = f(x), \qquad V' = -|g|^{p/(p-1)}, \qquad g = \nabla f(x), \]

for any \(f\) and \(p > 1\): \(p = 2\) is gradient flow, \(p \to \infty\) normalized gradient flow. Where
\(|g| \ge c\,(f - \inf f)^\theta\) with \(\theta < 1 - 1/p\) the minimum is reached in finite time. There the field is
not Lipschitz for \(p > 2\), so that \(|g|\) is written as \(\sqrt{|g|^2 + e^2}\).

(Wibisono, Wilson, Jordan, 2016, A variational perspective on accelerated methods in optimization; Romero and Benosman,
2020, Finite-time convergence in continuous-time optimization; Cortés, 2006, Finite-time convergent gradient flows with
applications to network consensus.)
"""

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import DecayBound, State
from .metric import AbstractMetricFlow
from .open_scale import calibrated, check_positive, root_mean_square, with_open


class PGradient(AbstractMetricFlow):
    r"""The p-gradient flow, or rescaled gradient flow.

    \[ x' = -(|g|^2 + e^2)^{-\frac{p-2}{2(p-1)}}\, g, \qquad V = f, \qquad
       V' = -|g|^2\, (|g|^2 + e^2)^{-\frac{p-2}{2(p-1)}} \]

    **Arguments:**

    - `power`: \(p > 1\). Above 2 the flow is faster than gradient flow where the gradient is small, below 2 slower.
    - `smoothing`: \(e > 0\), in units of the gradient; where \(|g| \ll e\) the flow is gradient flow at a constant
        speed-up. `None` (default): a thousandth of the norm of the first gradient.

    Unit of time: \([x]\,[g]^{-1/(p-1)}\), with \([g] = [f]/[x]\). The finite time that `predicted_decay` promises holds
    down to gradients of size \(e\). **Raises:** `ValueError` if a constant is out of range. Source: Wibisono, Wilson
    and Jordan (2016), Romero and Benosman (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.PGradient(power=4))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    power: Array = eqx.field(converter=hyperparameter)
    smoothing: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        if concrete(self.power) and not 1 < float(self.power) < float("inf"):
            raise ValueError(
                f"PGradient(power={float(self.power)}): expected a finite power > 1. The limit of large powers is "
                "Normalized()."
            )
        check_positive(self, "smoothing", "in units of the gradient")

    def calibrate(self, state: State, oracle: Oracle) -> "PGradient":
        return with_open(self, "smoothing", OPEN_SMOOTHING * root_mean_square(oracle.gradient, 1))

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        g, p, e = oracle.gradient, self.power, calibrated(self, "smoothing")
        factor = (vdot(g, g) + e**2) ** (-(p - 2) / (2 * (p - 1)))
        return jax.tree.map(lambda w: factor * w, covector)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound:
        # V' = -|g|^s <= -c^s (f - inf f)^(s theta) with s = p / (p - 1).
        power = float(self.power) / (float(self.power) - 1)
        return DecayBound(power * lojasiewicz_exponent, constant**power)


class Normalized(AbstractMetricFlow):
    r"""Normalized gradient flow: the path of gradient flow at speed one.

    \[ x' = -\frac{g}{\sqrt{|g|^2 + e^2}}, \qquad V = f, \qquad V' = -\frac{|g|^2}{\sqrt{|g|^2 + e^2}} \]

    **Arguments:**

    - `smoothing`: \(e > 0\), in units of the gradient. `None` (default): a thousandth of the norm of the first
        gradient.

    Time has the unit of the parameters: it is the length of the path. A \(\mu\)-strongly convex minimum is reached
    within \(\sqrt{2 (f_0 - f^*) / \mu}\) units of it, to gradients of size \(e\). **Raises:** `ValueError` if
    `smoothing` is out of range. Source: Cortés (2006).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Normalized())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    smoothing: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "smoothing", "in units of the gradient")

    def calibrate(self, state: State, oracle: Oracle) -> "Normalized":
        return with_open(self, "smoothing", OPEN_SMOOTHING * root_mean_square(oracle.gradient, 1))

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        g, e = oracle.gradient, calibrated(self, "smoothing")
        factor = (vdot(g, g) + e**2) ** -0.5
        return jax.tree.map(lambda w: factor * w, covector)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound:
        return DecayBound(lojasiewicz_exponent, constant)


# The constant under a norm or a root over the first gradient, where none is given. The rescaled law then holds over six
# decades of a quadratic objective. Measured on Rosenbrock's function, a quadratic of condition 100 and a logistic
# regression: between 1e-2 and 1e-5 it changes the cost of a run by less than 1.5 times (smooth signs: by 2.3).
OPEN_SMOOTHING = 1e-3
