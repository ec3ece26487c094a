r"""The flow of Muon: polar factor of momentum, with a constraint on the largest singular value.

\[ M' = -a\,(G + M), \qquad X' = \operatorname{polar}\big( (1 - \beta)\,M - \beta G \big) - \lambda X, \]

`LionK` with the nuclear norm, or its smooth form \(\sum \sqrt{\sigma^2 + d^2} - d\) whose gradient is
\(M (M^\top M + d^2 I)^{-1/2}\). It minimises \(f\) where no singular value is above \(1/\lambda\). (Jordan et al.,
2024, Muon: an optimizer for hidden layers in neural networks; Chen, Li and Liu, 2025, Muon optimizes under spectral
norm constraints.)
"""

from jaxtyping import ArrayLike

from .._hyperparameter import hyperparameter
from .lion_k import LionK
from .nuclear_norm import NuclearNorm, SmoothNuclearNorm


class Muon(LionK):
    r"""Muon in continuous time, with the polar factor or a smooth one.

    \[ M' = -a\,(G + M), \quad \tilde M = (1 - \beta)\,M - \beta G, \quad
       X' = \tilde M (\tilde M^\top \tilde M + d^2 I)^{-1/2} - \lambda X \]

    Every array of parameters is one matrix: arrays of more than two axes, such as kernels of convolutions, are folded
    to their first axis against all others; vectors are matrices of one column, for which it is normalized momentum; for
    scalars it is `Lion`. (Usual implementations leave all but matrices to Adam.)

    With the exact polar factor (\(d = 0\)) at constant step \(h\) the momentum is \(\mu M - (1 - \mu) G\) and the step
    \(h \operatorname{polar}(\tilde M) - h \lambda X\): under `ExponentialEuler` \(\mu = e^{-a h}\) and \(\tilde M\) has
    the new momentum, so that \(\beta = 1 - \mu\) is Muon with Nesterov's momentum and \(\beta = 0\) without; under
    `Euler` \(\mu = 1 - a h\) and \(\tilde M\) has the old one. The published iteration of degree five, whose singular
    values end anywhere in about 0.7 to 1.2, is the gradient of no convex function, and has no such energy.

    **Arguments:**

    - `momentum_rate`: \(a > 0\) per unit of time.
    - `gradient_weight`: \(\beta\), from 0 to 1.
    - `weight_decay`: \(\lambda \ge 0\) per unit of time, or `None`: none.
    - `smoothing`: \(d > 0\), in units of the gradient. `None` (default): a thousandth of the root mean square of all
        singular values of the first gradient. `0`: the exact polar factor, at whose jumps the flow is no smooth
        equation: for the discrete method itself, and for controllers that look at the energy alone.
    - `newton_schulz`: `None` (default): singular value decompositions. Otherwise the number of Newton-Schulz iterations
        that stand for them; how many are enough stands at `SmoothNuclearNorm`.

    Unit of time: every singular value moves by at most 1 per unit of time, whatever the scale of the objective; what is
    said of the energy and of starts outside of the constraint stands at `LionK`.
    **Raises:** `ValueError` if an argument is out of range. Source: Jordan et al. (2024), Chen, Li and Liu (2025).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Muon())
        solution = odeopt.minimise(lambda X, _: jnp.sum((X @ X.T - jnp.eye(2)) ** 2), solver, jnp.ones((2, 3)))
        ```
    """

    def __init__(
        self,
        momentum_rate: ArrayLike = 1.0,
        # The published momentum of 0.95.
        gradient_weight: ArrayLike = 0.05,
        weight_decay: ArrayLike | None = None,
        smoothing: ArrayLike | None = None,
        newton_schulz: int | None = None,
    ):
        exact = isinstance(smoothing, int | float) and smoothing == 0
        if exact and newton_schulz is not None:
            raise ValueError(
                "Muon(smoothing=0, newton_schulz=...): the iteration converges at a known rate for smoothing > 0 only. "
                "Give a smoothing, or leave newton_schulz out."
            )
        self.function = NuclearNorm() if exact else SmoothNuclearNorm(smoothing, newton_schulz)
        self.momentum_rate = hyperparameter(momentum_rate)
        self.gradient_weight = hyperparameter(gradient_weight)
        self.weight_decay = hyperparameter(weight_decay)
