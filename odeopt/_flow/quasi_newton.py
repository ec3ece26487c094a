r"""Quasi-Newton flow: a metric that learns the Hessian from the steps.

\[ x' = -H g, \qquad V = f(x), \qquad V' = -\langle g, H g \rangle, \qquad H \succ 0 \text{ constant between jumps}. \]
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import subtract, vdot
from .base import State
from .curvature import newton_steps
from .limited_memory import Pairs, empty, product, with_pair
from .metric import AbstractMetricFlow
from .open_scale import calibrated, with_open
from .secant import UPDATES, Secant, updated

# A matrix of 1000 by 1000 numbers takes 8 MB, and a product with it as long as that with 500 pairs.
DENSE = 1000
# As in most limited-memory codes: more cost more than they save (Liu and Nocedal, 1989: 3 to 7).
PAIRS = 10
# Powell's number: of the curvature along a step that the matrix had.
DAMPED = 0.2
# Curvature along the step, in units of rounding of the two gradients, below which it is noise.
NOISE = 10


class QuasiNewton(AbstractMetricFlow):
    r"""Gradient flow in a metric that becomes the Hessian: BFGS, its self-scaled forms and L-BFGS, in continuous time.

    \[ x' = -H g, \qquad V = f, \qquad V' = -\langle g, H g \rangle \]

    Between steps \(H\) is constant. After an accepted step it jumps to the solution of \(H^+ y = s\) that changes it
    least, \(s\) the change of the parameters and \(y\) that of the gradient; where \(s^\top y\) is not positive, or is
    lost in rounding, it stays. A jump leaves \(V\) as it is. Time has no unit: near a minimum the step of length 1 is
    Newton's, so 1 is what every step is tried with, and none is longer. With `Euler` at constant step 1 it is the
    iteration of BFGS without a line search.

    **Arguments:**

    - `update`: of a full matrix: `"self_scaled_bfgs"` (default), `"self_scaled_broyden"` or `"bfgs"`. Self-scaling
        shortens what the matrix has of too large curvature before each update.
    - `pairs`: how many pairs \((s, y)\) are kept in place of a full matrix (L-BFGS, always `"bfgs"`); 0: the full
        matrix; `None` (default): the full matrix for up to 1000 parameters, and 10 pairs for more.
    - `damped`: what becomes of a pair whose curvature \(s^\top y\) is less than a fifth of \(s^\top B s\), or negative.
        `False` (default): it is used while the curvature is positive, and left out otherwise. `True`: \(y\) is mixed
        with \(B s\) so that it is a fifth (Powell).
    - `first_scale`: \(H = \gamma I\) at the start, \(\gamma > 0\). `None` (default): so that the first step is the
        gradient, or as long as the parameters where that is shorter.

    Unit of time: none. Memory: \(N^2\) numbers, or `2 * pairs` times that of the parameters. **Raises:** `ValueError`
    for an argument out of range. Source: Broyden (1970), Fletcher (1970), Goldfarb (1970), Shanno (1970); Oren and
    Luenberger (1974), Self-scaling variable metric (SSVM) algorithms; Liu and Nocedal (1989), On the limited memory
    BFGS method for large scale optimization; Powell (1978), Algorithms for nonlinear constraints that use Lagrangian
    functions.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.QuasiNewton())
        rosenbrock = lambda x, _: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        solution = odeopt.minimise(rosenbrock, solver, jnp.array([-1.2, 1.0]))
        ```
    """

    jumps_in_place: ClassVar[bool] = True
    update: str = eqx.field(static=True, default="self_scaled_bfgs")
    pairs: int | None = eqx.field(static=True, default=None)
    damped: bool = eqx.field(static=True, default=False)
    first_scale: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        if self.update not in UPDATES:
            raise ValueError(
                f"QuasiNewton(update={self.update!r}): expected one of {UPDATES}. L-BFGS is QuasiNewton(pairs=10)."
            )
        if self.pairs is not None and not (isinstance(self.pairs, int) and self.pairs >= 0):
            raise ValueError(f"QuasiNewton(pairs={self.pairs!r}): expected a whole number >= 0, or None.")
        if concrete(self.first_scale) and not 0 < float(self.first_scale) < float("inf"):
            raise ValueError(f"QuasiNewton(first_scale={float(self.first_scale)}): expected a finite number > 0.")
        if self.pairs and self.update == "self_scaled_broyden":
            raise ValueError("QuasiNewton(update='self_scaled_broyden', pairs=...): needs the full matrix; pairs=0.")

    def init(self, params: PyTree) -> State:
        flat, _ = jax.flatten_util.ravel_pytree(params)
        pairs = self._pairs(flat.size)
        memory = empty(flat, pairs) if pairs else Matrix(jnp.eye(flat.size, dtype=flat.dtype), jnp.zeros_like(flat[0]))
        return State(params, memory)

    def calibrate(self, state: State, oracle: Oracle) -> "QuasiNewton":
        length, slope = (jnp.sqrt(vdot(tree, tree)) for tree in (state.position, oracle.gradient))
        scale = jnp.maximum(length, 1.0) / jnp.where(slope > 0, slope, 1.0)
        return with_open(self, "first_scale", jnp.minimum(scale, 1.0))

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        flat, unravel = jax.flatten_util.ravel_pytree(covector)
        return unravel(self._product(state.memory, flat))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        _, unravel = jax.flatten_util.ravel_pytree(oracle.gradient)
        return State(unravel(-self._velocity(state.memory, oracle)), jax.tree.map(jnp.zeros_like, state.memory))

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        gradient, _ = jax.flatten_util.ravel_pytree(oracle.gradient)
        return -jnp.vdot(gradient, self._velocity(state.memory, oracle))

    def recommended(self):
        return newton_steps()

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        still = jax.tree.map(jnp.zeros_like, state.memory)
        return State(super().structure(t, state, oracle, covector).position, still)

    def jump(self, t: Array, before: State, after: State, oracle_before: Oracle, oracle_after: Oracle) -> PyTree:
        step = subtract(after.position, before.position)
        old, new, step = (
            jax.flatten_util.ravel_pytree(tree)[0] for tree in (oracle_before.gradient, oracle_after.gradient, step)
        )
        change = new - old
        memory = before.memory
        image = _image(step, old, self._velocity(memory, oracle_before))
        if self.damped:
            change = _damped(step, change, image)
        noise = NOISE * jnp.finfo(step.dtype).eps * jnp.linalg.norm(step) * jnp.linalg.norm(old)
        curved = jnp.vdot(step, change) > noise
        if isinstance(memory, Pairs):
            return with_pair(memory, step, change, curved)

        secant = Secant(step, change, image)
        memory = jax.lax.cond(curved, lambda: self._renewed(memory, secant), lambda: memory)
        return self._sound(memory, new)

    def _pairs(self, size: int) -> int:
        if self.pairs is not None:
            return self.pairs
        return 0 if size <= DENSE else PAIRS

    def _product(self, memory: "Pairs | Matrix", covector: Array) -> Array:
        """H times a covector, both (N,)."""
        if isinstance(memory, Pairs):
            begun, learnt = memory.scale > 0, product(memory, covector)
        else:
            begun, learnt = memory.begun > 0, memory.inverse @ covector
        return jnp.where(begun, learnt, calibrated(self, "first_scale").astype(covector.dtype) * covector)

    def _velocity(self, memory: "Pairs | Matrix", oracle: Oracle) -> Array:
        """H g, shape (N,)."""
        gradient, _ = jax.flatten_util.ravel_pytree(oracle.gradient)
        if isinstance(memory, Pairs):
            # One more vector would cost more than the recursion, where there are so many parameters.
            return self._product(memory, gradient)
        return oracle.kept(lambda: self._product(memory, gradient))

    def _renewed(self, memory: "Matrix", secant: Secant) -> "Matrix":
        # The first pair says how large the matrix should have been before it (Nocedal and Wright, 6.20).
        scale = jnp.vdot(secant.step, secant.change) / jnp.vdot(secant.change, secant.change)
        first = memory.begun == 0
        inverse = jnp.where(first, scale * memory.inverse, memory.inverse)
        image = jnp.where(first, secant.step / scale, secant.image)
        inverse = updated(inverse, Secant(secant.step, secant.change, image), self.update)
        return Matrix(inverse, jnp.ones_like(memory.begun))

    def _sound(self, memory: "Matrix", gradient: Array) -> "Matrix":
        """The matrix, or the first one again where rounding has made it indefinite."""
        velocity = self._product(memory, gradient)
        unit = jnp.finfo(gradient.dtype).eps
        descends = jnp.vdot(gradient, velocity) > unit * jnp.linalg.norm(gradient) * jnp.linalg.norm(velocity)
        identity = jnp.eye(gradient.size, dtype=gradient.dtype)
        return jax.lax.cond(descends, lambda: memory, lambda: Matrix(identity, jnp.zeros_like(memory.begun)))


def _image(step: Array, gradient: Array, velocity: Array) -> Array:
    """B s, known without B: the step is a multiple of H g, and so is this of g."""
    return jnp.vdot(step, velocity) / jnp.vdot(velocity, velocity) * gradient


def _damped(step: Array, change: Array, image: Array) -> Array:
    """The change of the gradient with a curvature of at least a fifth of what the matrix has along the step."""
    curvature, expected = jnp.vdot(step, change), jnp.vdot(step, image)
    short = curvature < DAMPED * expected
    kept = jnp.where(short, (1 - DAMPED) * expected / jnp.where(short, expected - curvature, 1.0), 1.0)
    return kept * change + (1 - kept) * image


class Matrix(eqx.Module):
    """The full inverse Hessian, (N, N), and whether it has begun to learn: 0 or 1, a scalar of floating point."""

    inverse: Array
    begun: Array
