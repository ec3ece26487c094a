"""What flows share that remember averages of the gradient and of its squares, and divide by the root of the latter."""

from typing import TYPE_CHECKING, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete
from .._objective.oracle import Oracle
from .._tree import size
from .base import AbstractFlow, State
from .open_scale import calibrated, check_positive, root_mean_square, with_open

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme

_Self = TypeVar("_Self", bound="AbstractMomentFlow")


class AbstractMomentFlow(AbstractFlow):
    """Flows with the memory `(m, v)`, averages of the gradient and of its squares that start at zero.

    Subclasses have the hyper-parameters `momentum_rate`, `scaling_rate` and `epsilon`; the last may be left open.
    """

    momentum_rate: eqx.AbstractVar[Array]
    scaling_rate: eqx.AbstractVar[Array]
    epsilon: eqx.AbstractVar[Array | None]

    def __check_init__(self):
        name, a, b = type(self).__name__, self.momentum_rate, self.scaling_rate
        if concrete(a) and not 0 < float(a) < float("inf"):
            raise ValueError(f"{name}(momentum_rate={float(a)}): expected a finite rate > 0.")
        if concrete(b) and not 0 <= float(b) < float("inf"):
            raise ValueError(f"{name}(scaling_rate={float(b)}): expected a finite rate >= 0.")
        check_positive(self, "epsilon", "in units of the gradient")

    def init(self, params: PyTree) -> State:
        return State(params, (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)))

    def calibrate(self: _Self, state: State, oracle: Oracle) -> _Self:
        return with_open(self, "epsilon", OPEN_EPSILON * root_mean_square(oracle.gradient, size(state.position)))

    def decay(self, t: Array, state: State) -> PyTree:
        return (self.momentum_rate, self.scaling_rate)

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / self.momentum_rate

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler

        a, b = self.momentum_rate, self.scaling_rate
        if isinstance(scheme, ExponentialEuler):
            return self.optimizer(step_size, jnp.exp(-a * step_size), jnp.exp(-b * step_size))
        if isinstance(scheme, SemiImplicitEuler):
            return self.optimizer(step_size, 1 - a * step_size, 1 - b * step_size)
        return None

    def optimizer(self, step_size: Array, b1: Array, b2: Array) -> optax.GradientTransformation | None:
        r"""The discrete optimizer that moves the averages first, by \(\beta_1\) and \(\beta_2\), if there is one."""
        return None

    def _calibrated_epsilon(self) -> Array:
        return calibrated(self, "epsilon")


# epsilon over the root mean square of the first gradient, where none is given. Measured: benchmarks/core.py,
# table "constants".
OPEN_EPSILON = 1e-3


def check_scaling_rate(flow: AbstractMomentFlow) -> None:
    """Refuse a preconditioner that may shrink faster than the momentum follows.

    **Raises:** `ValueError` unless \\(b \\le 4a\\).
    """
    a, b = flow.momentum_rate, flow.scaling_rate
    # What is out of range by itself is refused in other words.
    if concrete(a) and concrete(b) and 0 < 4 * float(a) < float(b) < float("inf"):
        raise ValueError(
            f"{type(flow).__name__}(momentum_rate={float(a)}, scaling_rate={float(b)}): scaling_rate must be at most "
            "4 * momentum_rate, otherwise the energy can rise along the flow. (Per step: beta2 >= beta1**4.)"
        )
