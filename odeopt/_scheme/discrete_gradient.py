r"""Discrete gradient methods: the energy falls by exactly what the flow dissipates, at every step size.

For a flow in port form \(y' = A(t, y)\,\nabla V(y)\) and a discrete gradient, that is a function with

\[ \langle \overline\nabla V(y, z),\, z - y \rangle = V(z) - V(y), \qquad \overline\nabla V(y, y) = \nabla V(y), \]

the step \(y^+ = y + h A\,\overline\nabla V(y, y^+)\) has \(V(y^+) - V(y) = h \langle \overline\nabla V,
A\,\overline\nabla V \rangle \le 0\), whatever \(h\) and wherever \(A\) is taken.
(Gonzalez, 1996, Time integration and discrete Hamiltonian systems; McLachlan, Quispel, Robidoux, 1999, Geometric
integration using discrete gradients.)
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .base import AbstractScheme, Trial
from .port_form import check_port_form, energy_gradient, port_form

# Newton's method doubles its digits: it has found the root after ten rounds, or not come near it.
MOST_ITERATIONS = 20

Function = Callable[[Array], Array]


class AbstractDiscreteGradient(AbstractScheme):
    """A discrete gradient method whose equation is solved by Newton's method; a subclass writes the discrete gradient.

    **Attributes:** `root_finder`, `max_iterations`: of the equation.
    """

    root_finder: eqx.AbstractVar[optx.Newton | optx.Chord | None]
    max_iterations: eqx.AbstractVar[int]
    # The one that is known, and that of a single iteration; what the others cost is seen at run time.
    gradients_per_step: ClassVar[int] = 2

    @abc.abstractmethod
    def discrete_gradient(self, energy: Function, here: Array, gradient: Function, begin: Array, end: Array) -> Array:
        r"""\(\overline\nabla V(y, z)\) for states as vectors.

        **Arguments:** `energy`: \(V\) as a function of such a vector; `here`: \(V(y)\); `gradient`: \(\nabla V\) as a
        function; `begin`, `end`: \(y\) and \(z\).
        """

    def check(self, flow: AbstractFlow) -> None:
        check_port_form(self, flow)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        flat, unravel = jax.flatten_util.ravel_pytree(state)
        # The middle of the step, for the time and for the state: everything is symmetric in both ends, and so of
        # order 2. (With A where the step begins the order is 1.)
        middle, h = t + 0.5 * step_size, step_size.astype(flat.dtype)
        energy_here = flow.energy(middle, state, oracle).astype(flat.dtype)
        rounds = Rounds(oracle)

        def residual(end: Array, _: None) -> Array:
            books = rounds.begin()

            def energy(y: Array) -> Array:
                at = unravel(y)
                return flow.energy(middle, at, books.at(at.position)).astype(flat.dtype)

            def gradient(y: Array) -> Array:
                return jax.flatten_util.ravel_pytree(energy_gradient(flow, middle, unravel(y), books))[0]

            covector = unravel(self.discrete_gradient(energy, energy_here, gradient, flat, end))
            between = unravel(0.5 * (flat + end))
            rate = port_form(self, flow, middle, between, books.at(between.position), covector)
            return end - flat - h * jax.flatten_util.ravel_pytree(rate)[0]

        finder = _with_tolerances(flat) if self.root_finder is None else self.root_finder
        found = optx.root_find(residual, finder, flat, max_steps=self.max_iterations, throw=False)
        rounds.count(_evaluations(finder, flat.size, found.stats["num_steps"]))
        end = unravel(jnp.where(found.result == optx.RESULTS.successful, found.value, jnp.nan))
        return Trial(end, oracle.at(end.position))


class Gonzalez(AbstractDiscreteGradient):
    r"""The midpoint discrete gradient method.

    \[ y^+ = y + h A(\bar y)\,\overline\nabla V, \qquad \overline\nabla V = \nabla V(\bar y)
       + \frac{V(y^+) - V(y) - \langle \nabla V(\bar y), y^+ - y \rangle}{|y^+ - y|^2}\,(y^+ - y), \qquad
       \bar y = \tfrac12 (y + y^+) \]

    for flows \(y' = A(t, y)\,\nabla V(y)\) that declare their `structure`. Order 2, and \(V(y^+) - V(y) = h \langle
    \overline\nabla V, A\,\overline\nabla V \rangle \le 0\) for every step size and every objective, to the accuracy of
    the solve. (Of an energy that depends on time this holds with the time held in the middle of the step.) On quadratic
    energies it is the implicit midpoint rule: at long steps it keeps oscillations and does not damp stiff directions.

    The equation is solved by Newton's method with a dense Jacobian: for small problems, \(n\) entries of the state in
    time \(n^3\). Each iteration counts as \(1 + n\) evaluations, of one gradient and two values. Where it does not
    converge, the trial is not finite, and controllers reject it.

    **Arguments:**

    - `root_finder`: `optimistix.Newton` or `optimistix.Chord` (one Jacobian a step) with tolerances of your own. `None`
        (default): Newton to two thirds of the digits before its last iteration, which doubles them.
    - `max_iterations`: after which the solve has failed.

    **Raises:** `TypeError` for another root finder; `ValueError`, when a `Solver` is made, for a flow without
    `structure`. Source: Gonzalez (1996), Time integration and discrete Hamiltonian systems.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.Gonzalez())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    root_finder: optx.Newton | optx.Chord | None = None
    max_iterations: int = eqx.field(static=True, default=MOST_ITERATIONS)
    order: ClassVar[int] = 2

    def __check_init__(self):
        _check_root_finder(self)

    def discrete_gradient(self, energy: Function, here: Array, gradient: Function, begin: Array, end: Array) -> Array:
        change, slope = end - begin, gradient(0.5 * (begin + end))
        square = jnp.sum(change**2)
        excess = energy(end) - here - jnp.sum(slope * change)
        # Where nothing has moved yet there is nothing to correct, and the derivative is zero, too.
        moved = square > 0
        return slope + jnp.where(moved, excess / jnp.where(moved, square, 1.0), 0.0) * change


class AveragedField(AbstractDiscreteGradient):
    r"""The mean value discrete gradient method, or averaged vector field method (AVF).

    \[ y^+ = y + h A(\bar y) \int_0^1 \nabla V\big(y + s\,(y^+ - y)\big)\, ds, \qquad \bar y = \tfrac12 (y + y^+) \]

    for flows \(y' = A(t, y)\,\nabla V(y)\) that declare their `structure`. Order 2. The integral is taken by Gauss'
    rule with 5 points: exact, and with it \(V(y^+) - V(y) \le 0\) for every step size, where the energy is a polynomial
    of degree 10 or less along the step; otherwise up to terms of \(|y^+ - y|^{11}\), which are lost at long steps.
    Nothing is divided by, so that in float32 less is lost than with `Gonzalez`.

    Each of Newton's iterations counts as \(1 + n\) evaluations, of five gradients. Else, and in its arguments and what
    it raises, it is as `Gonzalez`.

    **Raises:** as `Gonzalez`. Source: Quispel and McLaren (2008), A new class of energy-preserving numerical
    integration methods.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.AveragedField())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    root_finder: optx.Newton | optx.Chord | None = None
    max_iterations: int = eqx.field(static=True, default=MOST_ITERATIONS)
    order: ClassVar[int] = 2

    def __check_init__(self):
        _check_root_finder(self)

    def discrete_gradient(self, energy: Function, here: Array, gradient: Function, begin: Array, end: Array) -> Array:
        places, weights = np.polynomial.legendre.leggauss(5)
        # On [0, 1] instead of [-1, 1].
        points = [begin + 0.5 * (1 + place) * (end - begin) for place in places]
        terms = [0.5 * weight * gradient(point) for weight, point in zip(weights, points, strict=True)]
        return jnp.sum(jnp.stack(terms), axis=0)


def _with_tolerances(flat: Array) -> optx.Newton:
    """Newton's method to two thirds of the digits of the largest entry."""
    tolerance = float(jnp.finfo(flat.dtype).eps) ** (2 / 3)
    size = jnp.max(jnp.abs(flat))
    return optx.Newton(rtol=tolerance, atol=tolerance * jnp.where(size > 0, size, 1.0))


def _evaluations(finder: optx.Newton | optx.Chord, size: int, iterations: Array) -> Array:
    """How often the equation and products with its derivative have been evaluated."""
    if isinstance(finder, optx.Chord):
        # One Jacobian, with the equation where it is taken.
        return 1 + size + iterations
    return iterations * (1 + size)


def _check_root_finder(scheme: Gonzalez | AveragedField) -> None:
    name = type(scheme).__name__
    if not (scheme.root_finder is None or isinstance(scheme.root_finder, optx.Newton | optx.Chord)):
        raise TypeError(
            f"{name}(root_finder={scheme.root_finder!r}): expected optimistix.Newton(rtol, atol) or "
            "optimistix.Chord(rtol, atol), or None."
        )
    if not isinstance(scheme.max_iterations, int) or scheme.max_iterations < 1:
        raise ValueError(f"{name}(max_iterations={scheme.max_iterations!r}): expected a whole number >= 1.")
