r"""Gradient flow with a bound on its speed: clipping, of the norm and of each entry.

\[ x' = -\min\Big(1, \frac{c}{|g|}\Big)\, g, \qquad V = f(x), \qquad V' = -|g| \min(|g|, c), \qquad
   g = \nabla f(x), \]

for any \(f\) and \(c > 0\), and the same with each entry of the gradient in place of its norm: the velocity is minus
the gradient of Huber's function at \(g\). (Pascanu, Mikolov, Bengio, 2013, On the difficulty of training recurrent
neural networks; Zhang, He, Sra, Jadbabaie, 2020, Why gradient clipping accelerates training: a theoretical
justification for adaptivity.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import size, vdot
from .base import DecayBound, State
from .metric import AbstractMetricFlow
from .open_scale import calibrated, check_positive, root_mean_square, with_open


class ClippedByNorm(AbstractMetricFlow):
    r"""Gradient flow whose speed never exceeds a threshold.

    \[ x' = -\min\Big(1, \frac{c}{|g|}\Big)\, g, \qquad V = f, \qquad V' = -|g| \min(|g|, c) \]

    Its explicit Euler scheme is gradient descent with the gradient clipped by its global norm, at learning rate \(h\).

    **Arguments:**

    - `threshold`: \(c > 0\), in units of the gradient. `None` (default): the norm of the first gradient, so that those
        are clipped that exceed it.

    Unit of time: \([x]^2 / [f]\), as for gradient flow. **Raises:** `ValueError` if the threshold is out of range.
    Source: Pascanu, Mikolov and Bengio (2013), Zhang et al. (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.ClippedByNorm(threshold=1.0))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    threshold: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "threshold", "in units of the gradient")

    def calibrate(self, state: State, oracle: Oracle) -> "ClippedByNorm":
        return with_open(self, "threshold", root_mean_square(oracle.gradient, 1))

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        g, c = oracle.gradient, calibrated(self, "threshold")
        # The larger of the squares, so that nothing is divided by a zero gradient.
        factor = c / jnp.sqrt(jnp.maximum(vdot(g, g), c**2))
        return jax.tree.map(lambda w: factor * w, covector)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound:
        # That of gradient flow, which this is as soon as the gradient is below the threshold.
        return DecayBound(2 * lojasiewicz_exponent, constant**2)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.chebyshev import RKC1

        return RKC1(), LyapunovControl()

    def euler_equivalent(self, step_size: Array) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(calibrated(self, "threshold")), optax.sgd(step_size))


class ClippedByCoordinate(AbstractMetricFlow):
    r"""Gradient flow of which no parameter is faster than a threshold.

    \[ x' = -\min\Big(1, \frac{c}{|g|}\Big)\, g \quad\text{elementwise}, \qquad V = f, \qquad
       V' = -\sum |g| \min(|g|, c) \]

    Its explicit Euler scheme is gradient descent with every entry of the gradient clipped, at learning rate \(h\).

    **Arguments:**

    - `threshold`: \(c > 0\), in units of the gradient. `None` (default): the root mean square of the first gradient.

    Unit of time: \([x]^2 / [f]\), as for gradient flow. **Raises:** `ValueError` if the threshold is out of range.
    Source: Pascanu, Mikolov and Bengio (2013).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.ClippedByCoordinate(threshold=1.0))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    threshold: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "threshold", "in units of the gradient")

    def calibrate(self, state: State, oracle: Oracle) -> "ClippedByCoordinate":
        return with_open(self, "threshold", root_mean_square(oracle.gradient, size(state.position)))

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        c = calibrated(self, "threshold")
        return jax.tree.map(lambda g, w: w * (c / jnp.maximum(jnp.abs(g), c)), oracle.gradient, covector)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound:
        return DecayBound(2 * lojasiewicz_exponent, constant**2)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.chebyshev import RKC1

        return RKC1(), LyapunovControl()

    def euler_equivalent(self, step_size: Array) -> optax.GradientTransformation:
        return optax.chain(optax.clip(calibrated(self, "threshold")), optax.sgd(step_size))
