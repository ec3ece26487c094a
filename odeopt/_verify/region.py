r"""The stability region of a scheme by itself: \(|R(z)| \le 1\) on Dahlquist's test equation \(y' = z y\).

(Dahlquist, 1963, A special stability problem for linear multistep methods; Hairer and Wanner, 1996, Solving Ordinary
Differential Equations II, IV.2.)
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective import Oracle, Tally
from .._scheme.base import AbstractScheme
from .linearisation import Parabola
from .stable_range import first_unstable
from .system import in_double_precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# |R| is a polynomial of at most a few dozen terms of size one.
TOLERANCE = 16 * float(np.finfo(np.float64).eps)
# On the imaginary axis |R| - 1 begins like y**(p + 1) or later: 2e-8 at this y for p = 5, well above the tolerance.
SHORTEST = 0.05
# Stabilised schemes of 100 stages reach 2 * 100**2; no explicit scheme is stable up to here.
LONGEST = 1e6


@dataclass(frozen=True)
class StabilityRegion:
    r"""Where in the complex plane a scheme does not amplify, for flows without memory.

    **Attributes:**

    - `scheme`: its name; `gradients_per_step`.
    - `real`, `imaginary`: the axes of a grid of \(z = h \lambda\), shapes `(n,)` and `(m,)`.
    - `amplification`: \(|R(z)|\), shape `(m, n)`; stable where it is at most 1.
    - `real_interval`: the largest \(x\) such that \([-x, 0]\) is stable; for gradient flow \(h L \le x\).
    - `imaginary_interval`: the largest \(y\) such that \([-iy, iy]\) is stable: of an oscillation without friction.
    """

    scheme: str
    gradients_per_step: int
    real: np.ndarray
    imaginary: np.ndarray
    amplification: np.ndarray
    real_interval: float
    imaginary_interval: float

    def __str__(self) -> str:
        y = self.imaginary_interval
        return (
            f"Stability region of {self.scheme}: [-{self.real_interval:.6g}, 0] of the real axis "
            f"({self.real_interval / self.gradients_per_step:.4g} for each gradient), "
            + (f"[-{y:.6g}i, {y:.6g}i] of the imaginary axis" if y > 0 else "nothing of the imaginary axis")
        )

    def plot(self, axes: "Axes | None" = None) -> "Figure":
        """Filled contours of \\(|R(z)|\\) inside the region."""
        from ..plot import stability_region as picture

        return picture(self, axes=axes)


@in_double_precision
def stability_region(
    scheme: AbstractScheme,
    *,
    real: tuple[float, float] = (-5.0, 2.0),
    imaginary: tuple[float, float] = (-4.0, 4.0),
    points: int = 201,
) -> StabilityRegion:
    r"""The stability region of a scheme on \(y' = z y\), and its intervals on the two axes.

    One step of length 1 multiplies \(y\) by \(R(z)\). A splitting scheme is shown as what it makes of a flow without
    memory (explicit Euler); on a flow with memory ask `odeopt.stability`.

    **Arguments:** `scheme`; `real`, `imaginary`: the window of the grid; `points`: of the grid on each axis.

    **Returns:** a `StabilityRegion`; it prints its intervals and plots itself.

    **Raises:** `ValueError` if the window is empty or has fewer than two points.
    Source: Hairer and Wanner (1996), IV.2.

    !!! example

        ```python
        print(odeopt.stability_region(odeopt.RK4()))
        ```
    """
    if not (real[0] < real[1] and imaginary[0] < imaginary[1] and points >= 2):
        raise ValueError(
            f"stability_region(real={real}, imaginary={imaginary}, points={points}): expected two intervals "
            "(lower, upper) and at least two points."
        )
    x, y = np.linspace(*real, points), np.linspace(*imaginary, points)

    def modulus(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(_amplification(scheme, a, b))

    def along(direction: tuple[float, float]) -> float:
        ends = np.array([SHORTEST]), np.array([LONGEST])
        return float(first_unstable(lambda s: modulus(direction[0] * s, direction[1] * s) - 1, *ends, TOLERANCE)[0])

    return StabilityRegion(
        scheme=type(scheme).__name__,
        gradients_per_step=scheme.gradients_per_step,
        real=x,
        imaginary=y,
        amplification=modulus(*np.broadcast_arrays(x[None, :], y[:, None])),
        real_interval=along((-1.0, 0.0)),
        imaginary_interval=along((0.0, 1.0)),
    )


class _Dahlquist(AbstractFlow):
    """\\(y' = (a + i b) y\\), in real arithmetic: the state is (real part, imaginary part)."""

    a: Array
    b: Array

    def init(self, params: PyTree) -> State:
        return State(params)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        u, v = state.position
        return State(jnp.stack([self.a * u - self.b * v, self.b * u + self.a * v]))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value


@eqx.filter_jit
def _amplification(scheme: AbstractScheme, a, b):
    def modulus(a: Array, b: Array) -> Array:
        state = State(jnp.array([1.0, 0.0]))
        oracle = Oracle(Parabola(jnp.ones(())), state.position, Tally())
        end = scheme.step(_Dahlquist(a, b), jnp.zeros(()), jnp.ones(()), state, oracle).state
        return jnp.linalg.norm(end.position)

    a, b = jnp.asarray(a), jnp.asarray(b)
    return jax.vmap(jax.vmap(modulus))(a, b)
