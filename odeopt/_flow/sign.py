r"""Sign flow, the limit of signSGD, and its smooth form.

\[ x' = -\operatorname{sign}(g), \qquad V = f(x), \qquad V' = -|g|_1, \qquad g = \nabla f(x), \]

elementwise and for any \(f\). The field jumps where an entry of the gradient changes sign, and solutions slide along
such places: they exist as those of a differential inclusion only. Its smooth form,

\[ x' = -\frac{g}{\sqrt{g^2 + d^2}}, \qquad V' = -\sum \frac{g^2}{\sqrt{g^2 + d^2}}, \]

is an ordinary differential equation that tends to it for \(d \to 0\).

(Cortés, 2006, Finite-time convergent gradient flows with applications to network consensus; Bernstein, Wang,
Azizzadenesheli, Anandkumar, 2018, signSGD: compressed optimisation for non-convex problems.)
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import size
from .base import DecayBound, State
from .metric import AbstractMetricFlow
from .open_scale import calibrated, check_positive, root_mean_square, with_open
from .p_gradient import OPEN_SMOOTHING


class Sign(AbstractMetricFlow):
    r"""Sign flow, whose explicit Euler scheme is signSGD with the step size as learning rate.

    \[ x' = -\operatorname{sign}(g), \qquad V = f, \qquad V' = -|g|_1 \]

    For steps that lower the energy and no others: the field jumps, so that orders of convergence, error estimates and
    reference solutions mean nothing. Those are verified for `SmoothSign`, which tends to this flow; here the energy and
    the map to signSGD are.

    Time has the unit of the parameters. Source: Bernstein et al. (2018), Cortés (2006).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Sign())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    continuous: ClassVar[bool] = False

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        # P = diag(1 / |g|), and zero where the gradient is.
        def leaf(g, w):
            return jnp.where(g == 0, 0, w / jnp.where(g == 0, 1, jnp.abs(g)))

        return jax.tree.map(leaf, oracle.gradient, covector)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound:
        # |g|_1 >= |g|.
        return DecayBound(lojasiewicz_exponent, constant)

    def euler_equivalent(self, step_size: Array) -> optax.GradientTransformation:
        return optax.sign_sgd(step_size)


class SmoothSign(AbstractMetricFlow):
    r"""Sign flow with a smooth sign.

    \[ x' = -\frac{g}{\sqrt{g^2 + d^2}}, \qquad V = f, \qquad V' = -\sum \frac{g^2}{\sqrt{g^2 + d^2}} \]

    Its explicit Euler scheme is RMSProp without memory: learning rate \(h\), decay 0 and \(d^2\) for the constant.

    **Arguments:**

    - `width`: \(d > 0\), in units of the gradient: entries far below it are scaled, those far above it are reduced to
        their sign. `None` (default): a thousandth of the root mean square of the first gradient.

    Time has the unit of the parameters. **Raises:** `ValueError` if the width is out of range. Source: Bernstein et al.
    (2018), Cortés (2006).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.SmoothSign())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    width: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "width", "in units of the gradient")

    def calibrate(self, state: State, oracle: Oracle) -> "SmoothSign":
        return with_open(self, "width", OPEN_SMOOTHING * root_mean_square(oracle.gradient, size(state.position)))

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        d = calibrated(self, "width")
        return jax.tree.map(lambda g, w: w / jnp.sqrt(g**2 + d**2), oracle.gradient, covector)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound:
        return DecayBound(lojasiewicz_exponent, constant)

    def euler_equivalent(self, step_size: Array) -> optax.GradientTransformation:
        return optax.rmsprop(step_size, decay=0.0, eps=calibrated(self, "width") ** 2)
