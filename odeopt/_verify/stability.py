r"""Linear stability of a scheme on a flow: the amplification matrix, its spectral radius, the largest stable step.

(Hairer and Wanner, 1996, Solving Ordinary Differential Equations II, IV.2; Bensaid, Poëtte and Turpault, 2023.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._flow.base import AbstractFlow
from .._scheme.base import AbstractScheme
from .linearisation import Linearisation, linearise
from .stable_range import first_unstable
from .system import in_double_precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Above one, in a spectral radius: eigenvalues of these small matrices are good to some 1e-13, and worse by the
# condition of the problem (1e-12 for an oscillation of frequency 1e4).
TOLERANCE = 1e-10
# In units of the fastest rate of the linearised flow. Heun on an oscillation, unstable at every step size, grows by
# h**4 / 8 a step: at the beginning of the search that must be more than the tolerance. At its end e**(-r h) is zero in
# double precision for every rate of the flow that is not smaller than its fastest by nine orders.
SHORTEST, LONGEST = 1e-2, 1e12
# Points of each curve of the spectral radius.
CURVE = 200


@dataclass(frozen=True)
class Stability:
    r"""How long the steps of a scheme on a flow may be on \(f = L x^2 / 2\).

    **Attributes:**

    - `flow`, `scheme`: their names.
    - `curvatures`: \(L\), shape `(n,)`.
    - `limits`: the largest stable step size for each, in the flow's unit of time: 0 where none is stable, infinity
        where all are.
    - `step_sizes`, `spectral_radius`: of the amplification matrix, shape `(n, m)`.
    - `exact`: whether the flow is linear, so that the linearisation is the flow itself.
    - `linearisation`: what the matrices are made from.
    """

    flow: str
    scheme: str
    curvatures: np.ndarray
    limits: np.ndarray
    step_sizes: np.ndarray
    spectral_radius: np.ndarray
    exact: bool
    linearisation: Linearisation

    @in_double_precision
    def matrix(self, step_size: float, curvature: float) -> np.ndarray:
        """The amplification matrix of one step: position first, then the memory."""
        return np.asarray(_matrices(self.linearisation, np.float64(step_size), np.float64(curvature)))

    def __str__(self) -> str:
        kind = "" if self.exact else " (linearised: the flow is not linear)"
        lines = [f"Stability of {self.scheme} on {self.flow}{kind}"]
        lines += [f"{'curvature L':>14}{'largest stable h':>20}{'h L':>12}"]
        for curvature, limit in zip(self.curvatures, self.limits, strict=True):
            lines.append(f"{curvature:>14.6g}{limit:>20.8g}{limit * curvature:>12.5g}")
        return "\n".join(lines)

    def plot(self, axes: "Axes | None" = None) -> "Figure":
        """The spectral radius over the step size, and the largest stable step size over the curvature."""
        from ..plot import stability as picture

        return picture(self, axes=axes)


@in_double_precision
def stability(
    flow: AbstractFlow,
    scheme: AbstractScheme,
    *,
    curvatures: Sequence[float] | np.ndarray = (0.1, 1.0, 10.0, 100.0),
    step_sizes: Sequence[float] | np.ndarray | None = None,
    memory: PyTree = None,
    frozen: Callable[[Any], Any] | None = None,
    time: float = 0.0,
) -> Stability:
    r"""How long the steps of a scheme on a flow may be before small errors grow.

    One step on \(f(x) = L x^2 / 2\), linearised at the equilibrium, multiplies an error of the state by the
    amplification matrix \(M(h, L)\). The step is stable if the spectral radius \(\rho(M)\) is at most 1; the largest
    stable step size is the end of the range of stable ones that begins at zero, found by a scan (24 points a decade)
    and bisection.

    Exact for flows that are linear in position, memory and gradient. A flow with a slowly moving preconditioner is
    linearised with that part of its memory held constant: `frozen` picks it, `memory` gives its value.

    **Arguments:**

    - `flow`: calibrated, that is with numbers for all its constants (there is no start that could set them).
    - `scheme`: one step of it is linearised.
    - `curvatures`: \(L > 0\), shape `(n,)`.
    - `step_sizes`: where the spectral radius is evaluated, shape `(m,)`, in the flow's unit of time; `None`: 200
        between a hundredth and the double of each limit.
    - `memory`: at the equilibrium, in the structure that `flow.init` gives for one scalar parameter; `None`: what
        `flow.init` gives.
    - `frozen`: `frozen(memory)` returns the part of the memory that is held constant.
    - `time`: for flows with explicit time.

    **Returns:** a `Stability`; it prints a table and plots itself.

    **Raises:** `ValueError` if a curvature or step size is not positive, if the flow does not rest at \(x = 0\) with
    this memory, is not calibrated or has no derivative there. Source: Hairer and Wanner (1996), IV.2.

    !!! example "The learning rate of Adam with its preconditioner frozen at second moments of 4"

        ```python
        adam = odeopt.Adam(epsilon=1e-8)
        limits = odeopt.stability(adam, odeopt.ExponentialEuler(), memory=(0.0, 4.0), frozen=lambda memory: memory[1])
        print(limits)
        ```
    """
    curvatures = positive("curvatures", curvatures)
    linearisation = linearise(flow, scheme, memory, frozen, time)
    limits = stability_limits(linearisation, curvatures)
    if step_sizes is None:
        # Where there is no limit to draw the curve around, the fastest rate of the flow says what is long.
        scale = np.where((limits > 0) & np.isfinite(limits), limits, 1 / fastest_rates(linearisation, curvatures))
        steps = scale[:, None] * np.geomspace(1e-2, 2.0, CURVE)
    else:
        steps = np.broadcast_to(positive("step_sizes", step_sizes), (len(curvatures), np.size(step_sizes)))
    return Stability(
        flow=type(flow).__name__,
        scheme=type(scheme).__name__,
        curvatures=curvatures,
        limits=limits,
        step_sizes=np.array(steps),
        spectral_radius=spectral_radius(linearisation, steps, curvatures),
        exact=bool(_exact(linearisation)),
        linearisation=linearisation,
    )


def stability_limits(linearisation: Linearisation, curvatures: np.ndarray) -> np.ndarray:
    """The largest stable step size for each curvature; in double precision."""
    rates = fastest_rates(linearisation, curvatures)

    def excess(step_sizes: np.ndarray) -> np.ndarray:
        return spectral_radius(linearisation, step_sizes, curvatures) - 1

    return first_unstable(excess, SHORTEST / rates, LONGEST / rates, TOLERANCE)


def spectral_radius(linearisation: Linearisation, step_sizes: np.ndarray, curvatures: np.ndarray) -> np.ndarray:
    """Of the amplification matrices: `step_sizes` of shape `(n, m)`, `curvatures` of shape `(n,)`."""
    step_sizes, spread = np.broadcast_arrays(step_sizes, curvatures[:, None])
    matrices = np.asarray(_matrices(linearisation, step_sizes, spread))
    return _largest_modulus(matrices)


def fastest_rates(linearisation: Linearisation, curvatures: np.ndarray) -> np.ndarray:
    """The largest modulus of an eigenvalue of the linearised flow, shape `(n,)`."""
    rates = _largest_modulus(np.asarray(_generators(linearisation, curvatures)))
    if not np.all(rates > 0):
        raise ValueError("the linearised flow stands still: all its rates are zero, and every step size is as good.")
    return rates


def positive(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """A vector of positive finite numbers, or an error that names it."""
    array = np.atleast_1d(np.asarray(values, np.float64))
    if array.ndim != 1 or array.size == 0 or not np.all((array > 0) & np.isfinite(array)):
        raise ValueError(f"{name} must be positive finite numbers, shape (n,); got {values!r}.")
    return array


def _largest_modulus(matrices: np.ndarray) -> np.ndarray:
    # NumPy, because JAX finds eigenvalues of unsymmetric matrices on CPUs only; and it refuses what has overflowed.
    finite = np.all(np.isfinite(matrices), axis=(-2, -1))
    eigenvalues = np.linalg.eigvals(np.where(finite[..., None, None], matrices, 0.0))
    return np.where(finite, np.max(np.abs(eigenvalues), axis=-1), np.inf)


@eqx.filter_jit
def _matrices(linearisation: Linearisation, step_sizes, curvatures):
    matrix = linearisation.matrix
    for _ in range(np.ndim(step_sizes)):
        matrix = jax.vmap(matrix)
    return matrix(jnp.asarray(step_sizes), jnp.asarray(curvatures))


@eqx.filter_jit
def _generators(linearisation: Linearisation, curvatures):
    return jax.vmap(linearisation.generator)(jnp.asarray(curvatures))


@eqx.filter_jit
def _exact(linearisation: Linearisation):
    return linearisation.exact(jnp.ones(()))
