r"""The flow of Lion: sign of momentum, with a constraint on the largest entry.

\[ m' = -a\,(g + m), \qquad x' = \operatorname{sign}\big( (1 - \beta)\,m - \beta g \big) - \lambda x, \]

`LionK` with \(K = |m|_1\) or its smooth form \(K = \sum \sqrt{m^2 + d^2} - d\). It minimises \(f\) on
\(|x|_\infty \le 1/\lambda\). (Chen, Liang, Huang, Real, Wang et al., 2023, Symbolic discovery of optimization
algorithms; Chen, Liu, Liang and Liu, 2024, Lion secretly solves constrained optimization: as Lyapunov predicts.)
"""

from typing import TYPE_CHECKING

import optax
from jaxtyping import Array, ArrayLike

from .._hyperparameter import hyperparameter
from .lion_k import LionK
from .norms import L1Norm, SmoothL1Norm

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class Lion(LionK):
    r"""Lion in continuous time, with the sign or a smooth one.

    \[ m' = -a\,(g + m), \quad \tilde m = (1 - \beta)\,m - \beta g, \quad
       x' = \frac{\tilde m}{\sqrt{\tilde m^2 + d^2}} - \lambda x \]

    With the exact sign (\(d = 0\)) and `Euler` at constant step \(h\) it is Lion at learning rate \(h\),
    \(\beta_1 = 1 - \beta\), \(\beta_2 = 1 - a h\), weight decay \(\lambda\). It minimises \(f\) with all entries at
    most \(1/\lambda\) in size; what is said of the energy and of starts outside of that bound stands at `LionK`.

    **Arguments:**

    - `momentum_rate`: \(a > 0\) per unit of time.
    - `gradient_weight`: \(\beta = 1 - \beta_1\), from 0 to 1.
    - `weight_decay`: \(\lambda \ge 0\) per unit of time, or `None`: none.
    - `smoothing`: \(d > 0\), in units of the gradient. `None` (default): 0.03 of the root mean square of the first
        gradient. `0`: the exact sign, at whose jumps the flow is no smooth equation: for the discrete method
        itself, and for controllers that look at the energy alone. With
        weight decay a smooth sign moves the minimum, by as much as the penalty \(\tfrac1\lambda K^*(\lambda x)\) is
        worth: about \(d\) in the gradient.

    Unit of time: every parameter moves by at most 1 per unit of time, whatever the scale of the objective.
    **Raises:** `ValueError` if an argument is out of range. Source: Chen et al. (2023), Chen, Liu, Liang and Liu
    (2024).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Lion(weight_decay=0.5))
        solution = odeopt.minimise(lambda x, _: jnp.sum((x - 1) ** 4), solver, jnp.zeros(2))
        ```
    """

    def __init__(
        self,
        momentum_rate: ArrayLike = 1.0,
        gradient_weight: ArrayLike = 0.1,
        weight_decay: ArrayLike | None = None,
        smoothing: ArrayLike | None = None,
    ):
        exact = isinstance(smoothing, int | float) and smoothing == 0
        self.function = L1Norm() if exact else SmoothL1Norm(smoothing)
        self.momentum_rate = hyperparameter(momentum_rate)
        self.gradient_weight = hyperparameter(gradient_weight)
        self.weight_decay = hyperparameter(weight_decay)

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.tableaus import Euler

        if not (isinstance(scheme, Euler) and isinstance(self.function, L1Norm)):
            return super().discrete_equivalent(scheme, step_size)
        decay = 0.0 if self.weight_decay is None else self.weight_decay
        b1, b2 = 1 - self.gradient_weight, 1 - self.momentum_rate * step_size
        return optax.lion(step_size, b1, b2, weight_decay=decay)
